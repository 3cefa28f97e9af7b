"""Worker processes of this machine, each with its share of cores and GPUs."""

import contextlib
import faulthandler
import glob
import importlib.util
import multiprocessing
import os
import queue
import signal
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import Executor, Future, ProcessPoolExecutor, ThreadPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any, TypeVar

T = TypeVar("T")

# XLA sizes its pool by NPROC; the others are for NumPy and SciPy.
_THREADS = ("NPROC", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_MEMORY = 0.75
"""The part of a GPU's memory that JAX takes at its start."""


class WorkerDied(BrokenProcessPool):
    """A worker process ended in the middle of a job."""


class Processes(Executor):
    """An executor of worker processes of which one may die without harm to the others.

    A `ProcessPoolExecutor` gives all of its jobs up when one worker dies, and does not say whose
    it was. Here each worker is a pool of its own: only its job fails, with `WorkerDied`, and the
    next one finds a fresh process. Processes are spawned, as JAX and `fork` do not mix.

    Args:
        workers: How many.
        logs: Where what they print goes, a file `worker-N.log` for each; with ours if None.

    >>> with Processes(1) as executor:
    ...     executor.submit(abs, -3).result()
    3
    """

    def __init__(self, workers: int, *, logs: Path | None = None):
        self._context = multiprocessing.get_context("spawn")
        self._workers = workers
        self._logs = logs
        self._free: queue.SimpleQueue[int] = queue.SimpleQueue()
        for slot in range(workers):
            self._free.put(slot)
        self._pools: dict[int, ProcessPoolExecutor] = {}
        self._threads = ThreadPoolExecutor(workers, thread_name_prefix="sweep")
        # Workers end when this pipe's other end is closed: by `end`, or with our death.
        self._watched, self._held = self._context.Pipe(duplex=False)

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        """Run a function, which can be pickled by name, in a worker."""
        return self._threads.submit(self._run, fn, args, kwargs)

    def end(self) -> None:
        """End the workers at once, whatever they do; nothing can be submitted any more."""
        self._held.close()
        self._threads.shutdown(wait=True, cancel_futures=True)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """As `Executor.shutdown` has it."""
        self._threads.shutdown(wait=wait, cancel_futures=cancel_futures)
        if wait:
            for pool in self._pools.values():
                pool.shutdown(wait=True)
            self._held.close()
            self._watched.close()

    def _run(self, fn: Callable[..., T], args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> T:
        slot = self._free.get()
        try:
            return self._begin(slot, fn, args, kwargs).result()
        except BrokenProcessPool:
            self._drop(slot)
            log = self._log(slot)
            raise WorkerDied(
                "its worker process died (killed, out of memory, or crashed)"
                + (f": what that printed last is in {log}" if log else "")
            ) from None
        finally:
            self._free.put(slot)

    def _begin(
        self, slot: int, fn: Callable[..., T], args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> "Future[T]":
        try:
            return self._pool(slot).submit(fn, *args, **kwargs)
        except BrokenProcessPool:  # The worker died while it had nothing to do.
            self._drop(slot)
            return self._pool(slot).submit(fn, *args, **kwargs)

    def _pool(self, slot: int) -> ProcessPoolExecutor:
        if slot not in self._pools:
            share = worker_environment(slot, self._workers, visible_cores(), visible_gpus())
            self._pools[slot] = ProcessPoolExecutor(
                1,
                mp_context=self._context,
                initializer=_prepare,
                initargs=(share, self._log(slot), self._watched),
            )
        return self._pools[slot]

    def _log(self, slot: int) -> str | None:
        return None if self._logs is None else str(self._logs / f"worker-{slot + 1}.log")

    def _drop(self, slot: int) -> None:
        if slot in self._pools:
            self._pools.pop(slot).shutdown(wait=True)


def visible_cores() -> int:
    """How many cores this process may use."""
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


def _prepare(share: Mapping[str, str], log: str | None, watched: Connection) -> None:
    """The first thing that a worker does, before it imports JAX."""
    os.environ.update(share)
    # A Ctrl-C at the terminal reaches us as well; a run at hand sees to it itself.
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    if log is not None:
        # At the level of the system, so that what XLA prints before it aborts is kept too.
        with open(log, "ab") as file:
            os.dup2(file.fileno(), sys.stdout.fileno())
            os.dup2(file.fileno(), sys.stderr.fileno())
        faulthandler.enable()
    threading.Thread(target=_watch, args=(watched,), daemon=True).start()


def _watch(watched: Connection) -> None:
    with contextlib.suppress(EOFError, OSError):
        watched.recv()
    os._exit(1)
