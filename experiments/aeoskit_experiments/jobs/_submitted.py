"""An executor of submitit with the interface of `concurrent.futures`."""

import contextlib
import threading
from collections.abc import Callable
from concurrent.futures import Executor, Future
from typing import Any, Protocol, TypeVar, runtime_checkable

T = TypeVar("T")


@runtime_checkable
class _SubmititExecutor(Protocol):
    def submit(self, fn: Any, *args: Any, **kwargs: Any) -> Any: ...

    def batch(self) -> Any: ...


class Submitted(Executor):
    """An executor around one of submitit, whose jobs are not futures.

    A thread polls the jobs. The jobs submitted since its last poll become one job array, so that a
    sweep is one call of `sbatch`. A future can be cancelled until its job is done.

    Args:
        inner: An executor of submitit.
        period: Seconds between two polls; submitit queries SLURM itself less often.
    """

    def __init__(self, inner: _SubmititExecutor, *, period: float = 1.0):
        self._inner = inner
        self._period = period
        self._wake = threading.Event()
        self._lock = threading.Lock()
        self._new: list[tuple[Future[Any], Callable[..., Any], tuple[Any, ...], dict]] = []
        self._jobs: list[tuple[Future[Any], Any]] = []
        self._closing = False
        self._thread: threading.Thread | None = None

    def submit(self, fn: Callable[..., T], /, *args: Any, **kwargs: Any) -> "Future[T]":
        """Run a function as a job."""
        future: Future[T] = Future()
        with self._lock:
            if self._closing:
                raise RuntimeError("cannot schedule new futures after shutdown")
            self._new.append((future, fn, args, kwargs))
            if self._thread is None:
                self._thread = threading.Thread(target=self._watch, daemon=True)
                self._thread.start()
        return future

    def end(self) -> None:
        """Cancel every job, including running ones."""
        self.shutdown(cancel_futures=True)

    def shutdown(self, wait: bool = True, *, cancel_futures: bool = False) -> None:
        """Shut down, as `Executor.shutdown`."""
        with self._lock:
            self._closing = True
            futures = [item[0] for item in [*self._new, *self._jobs]]
        if cancel_futures:
            for future in futures:
                future.cancel()
        self._wake.set()
        if wait and self._thread is not None:
            self._thread.join()

    def _watch(self) -> None:
        while True:
            self._wake.wait(self._period)
            self._wake.clear()
            with self._lock:
                new, self._new = self._new, []
                if not new and not self._jobs and self._closing:
                    return
            self._submit_new([item for item in new if not _was_cancelled(item[0])])
            self._jobs = [item for item in self._jobs if not self._settle(*item)]

    def _submit_new(self, new: list[tuple[Future[Any], Any, Any, Any]]) -> None:
        if not new:
            return
        try:
            with self._inner.batch():
                jobs = [self._inner.submit(fn, *args, **kwargs) for _, fn, args, kwargs in new]
        except Exception as error:  # Any error of sbatch belongs to these jobs.
            for future, *_ in new:
                if future.set_running_or_notify_cancel():
                    future.set_exception(error)
            return
        self._jobs += [(item[0], job) for item, job in zip(new, jobs, strict=True)]

    def _settle(self, future: Future[Any], job: Any) -> bool:
        """Set the future's result if the job has ended; return True if it has."""
        # Any exception of submitit belongs to this job; the thread continues with the others.
        if _was_cancelled(future):
            with contextlib.suppress(Exception):
                job.cancel(check=False)
            return True
        try:
            if not job.done():
                return False
            error = job.exception()
            result = job.result() if error is None else None
        except Exception as raised:
            error, result = raised, None
        if future.set_running_or_notify_cancel():
            if error is None:
                future.set_result(result)
            else:
                future.set_exception(error)
        return True


def _was_cancelled(future: Future[Any]) -> bool:
    """True if a future was cancelled; then its waiters are notified."""
    return future.cancelled() and not future.set_running_or_notify_cancel()
