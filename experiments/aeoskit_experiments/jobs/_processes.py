"""Worker processes of this machine, each with its share of cores and GPUs."""

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
"""The part of a GPU's memory that JAX takes at its start."""


class Processes(Executor):
    """An executor of worker processes of which one may die without harm to the others.

    A `ProcessPoolExecutor` gives all of its jobs up when one worker dies, and does not say whose
    it was. Here only its own job fails, with `WorkerDied`, and the next one finds a fresh process.

    Args:
        workers: How many.
        logs: The folder for what they print, a file `worker-N.log` for each; with ours if None.

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
        """Runs a function, which pickle finds by its name, in a worker."""
        return self._threads.submit(self._run, functools.partial(fn, *args, **kwargs))

    def end(self) -> None:
        """Ends the workers at once, whatever they do; nothing can be submitted any more."""
        for worker in self._workers:
            worker.kill()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As `Executor.shutdown` has it."""
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
    """The NVIDIA GPUs that JAX would use, found without starting JAX (which would take them)."""
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
        slot: Which worker, from 0.
        workers: How many there are.
        cores: The machine's.
        gpus: Their names for `CUDA_VISIBLE_DEVICES`; workers take turns.

    Returns:
        Threads, and if there are GPUs, which one and how much of its memory. What the user has
        set already for threads and memory stays.

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
