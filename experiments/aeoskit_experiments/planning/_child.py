"""Plans for devices that need another environment than this process's: made in a child."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.jobs import PipelineJob, Worker, WorkerDied

# Without these libtpu searches for chips on this machine, and waits for a metadata server.
TPU_ENVIRONMENT = {
    "JAX_PLATFORMS": "cpu",
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "TPU_MIN_LOG_LEVEL": "3",
    "TPU_STDERR_LOG_LEVEL": "3",
    # Allows two plans at a time, in two processes with the library loaded.
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}


def cpu_environment(devices: int) -> dict[str, str]:
    """The environment with this number of CPU devices, and no other backend."""
    return {"JAX_PLATFORMS": "cpu", "JAX_NUM_CPU_DEVICES": str(devices)}


def enough_cpu_devices(wanted: int) -> bool:
    """True if this process has at least this number of CPU devices; starts jax."""
    import jax

    return len(jax.devices("cpu")) >= wanted


def call_in_child(
    function: Callable[..., Any],
    request: PipelineJob,
    environment: dict[str, str],
    progress: Callable[[str], None] | None = None,
) -> Any:
    """Call a function of a request in a child process.

    Args:
        function: Takes the request and a function that reports progress.
        request: Its argument.
        environment: Variables that are set before jax is imported.
        progress: Receives the child's reports.

    Returns:
        The function's value.

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
