"""Worker processes on this machine, each with its share of cores and GPUs."""

import functools
import glob
import importlib.util
import os
import queue
from collections.abc import Callable, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

from aeoskit_experiments.jobs._worker import Worker

T = TypeVar("T")

# XLA sizes its pool by NPROC; the others are for NumPy and SciPy.
_THREADS = ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_MEMORY = 0.75
"""The fraction of a GPU's memory that JAX allocates at its start."""


class Processes(Executor):
    """An executor of worker processes, in which a worker's death does not affect the others.

    A `ProcessPoolExecutor` abandons all of its jobs when one worker dies, and does not report which
    job killed it. Here only that job fails, with `WorkerDied`, and the next one gets a fresh
    process.

    Args:
        workers: Number of workers.
        logs: The folder for their output, a file `worker-N.log` for each; if None, they print where
            this process does.

    Example:
        >>> with Processes(1) as executor:
        ...     executor.submit(abs, -3).result()
        3
    """

    def __init__(self, workers: int, *, logs: Path | None = None):
        cores, gpus = visible_cores(), visible_gpus()
        self._workers = [
            Worker(
                log=None if logs is None else logs / f"worker-{slot + 1}.log",
                environment=worker_environment(slot, workers, cores, gpus),
            )
            for slot in range(workers)
        ]
        self._idle: queue.SimpleQueue[Worker] = queue.SimpleQueue()
        for worker in self._workers:
            self._idle.put(worker)
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="jobs")

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        """Run a function, which pickle finds by its name, in a worker."""
        return self._threads.submit(self._run, functools.partial(fn, *args, **kwargs))

    def end(self) -> None:
        """End the workers at once; nothing can be submitted afterwards."""
        for worker in self._workers:
            worker.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shut down, as `Executor.shutdown`."""
        self._threads.shutdown(wait=wait, cancel_futures=cancel_futures)
        if wait:
            for worker in self._workers:
                worker.close()

    def _run(self, call: Callable[[], T]) -> T:
        worker = self._idle.get()
        try:
            return worker.call(call)
        finally:
            self._idle.put(worker)


def visible_cores() -> int:
    """The number of cores that this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def visible_gpus() -> list[str]:
    """The NVIDIA GPUs that JAX would use, found without starting JAX (which would reserve them)."""
    platforms = os.environ.get("JAX_PLATFORMS", "")
    plugins = ("jax_cuda12_plugin", "jax_cuda13_plugin")
    if (platforms and not {"cuda", "gpu"} & set(platforms.split(","))) or not any(
        importlib.util.find_spec(name) for name in plugins
    ):
        return []
    listed = os.environ.get("CUDA_VISIBLE_DEVICES")
    if listed is not None:
        return [name for name in listed.split(",") if name]
    return [str(number) for number in range(len(glob.glob("/dev/nvidia[0-9]*")))]


def worker_environment(slot: int, workers: int, cores: int, gpus: Sequence[str]) -> dict[str, str]:
    """The environment variables that give a worker its share of the machine.

    Args:
        slot: Index of the worker, from 0.
        workers: Number of workers.
        cores: Number of the machine's cores.
        gpus: Their names for `CUDA_VISIBLE_DEVICES`, assigned to workers in turn.

    Returns:
        Threads, and if there are GPUs, the worker's GPU and its fraction of the memory. The user's
        own settings of threads and memory stay.

    >>> worker_environment(2, 4, 8, ["0", "1"])["CUDA_VISIBLE_DEVICES"]
    '0'
    """
    threads = str(max(1, cores // workers))
    share = {name: threads for name in _THREADS if name not in os.environ}
    if gpus:
        share["CUDA_VISIBLE_DEVICES"] = gpus[slot % len(gpus)]
        together = len(range(slot % len(gpus), workers, len(gpus)))
        if together > 1 and "XLA_PYTHON_CLIENT_MEM_FRACTION" not in os.environ:
            share["XLA_PYTHON_CLIENT_MEM_FRACTION"] = f"{_MEMORY / together:.3f}"
    return share
