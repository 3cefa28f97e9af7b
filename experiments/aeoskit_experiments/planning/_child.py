"""Plans of devices that need another environment than this process has: made in a child."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.jobs import PipelineJob, Worker, WorkerDied

# Without these libtpu looks for the chips of this machine, and waits for a metadata server.
TPU_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    # Two plans at a time are two processes with the library loaded.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def cpu_environment(devices: int) -> dict[str, str]:
    """So many of the CPU's devices, and no other backend."""
    return {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}


def enough_cpu_devices(wanted: int) -> bool:
    """Returns whether this process has so many CPU devices already; starts jax."""
    import jax

    return len(jax.devices("cpu")) >= wanted


def call_in_child(
    function: Callable[..., Any],
    request: PipelineJob,
    environment: dict[str, str],
    progress: Callable[[str], None] | None = None,
) -> Any:
    """Calls a function of a request in a child process.

    Args:
        function: Takes the request and a function that reports progress.
        request: Its argument.
        environment: Variables that are set before jax is imported.
        progress: Gets what the child reports.

    Returns:
        What the function returns.

    Raises:
        UserError: If the function raises it, or the process ended without an answer.
    """
    with tempfile.TemporaryDirectory(prefix="aeoskit-") as folder:
        worker = Worker(log=Path(folder) / "log", environment=environment)
        try:
            return worker.call(function, request, on_event=progress or (lambda what: None))
        except WorkerDied as error:
            printed = (Path(folder) / "log").read_text(errors="replace").strip().splitlines()
            last = f": {printed[-1][:300]}" if printed else ""
            raise UserError(f"plan: the compiler's process ended ({error.how}){last}") from None
        finally:
            worker.close(at_once=True)
