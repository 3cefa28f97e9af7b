"""A child process that calls functions, one after the other."""

import contextlib
import faulthandler
import multiprocessing
import pickle
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from multiprocessing.connection import Connection
from pathlib import Path
from types import FrameType
from typing import Any

from aeoskit_experiments.jobs._child import start_python, watch_parent
from aeoskit_experiments.jobs._job import one_line

GRACE = 10
"""Seconds that a worker has to end once it is no longer needed."""

_PERIOD = 0.2
"""Seconds between two calls of `interrupted`."""


class WorkerDied(RuntimeError):
    """A worker process that ended in the middle of a call.

    Args:
        code: Its exit code; the negative number of a signal that ended it.
        log: The file with its output.

    Example:
        >>> str(WorkerDied(3, Path("runs/worker.log")))
        'its process ended (code 3): worker.log has its last output'
    """

    def __init__(self, code: int, log: Path | None = None):
        self.how = f"code {code}"
        if code < 0:
            with contextlib.suppress(ValueError):
                self.how = signal.Signals(-code).name
        if code == -signal.SIGKILL:
            self.how += "; the system kills processes that use too much memory"
        where = "" if log is None else f": {log.name} has its last output"
        super().__init__(f"its process ended ({self.how}){where}")


class Worker:
    """A child process that calls functions, reused for every call.

    It starts at the first call, and keeps its compiled programs. A call that crashes it loses only
    that call: the next one gets a fresh process. Ctrl-C at the terminal does not reach it.

    Args:
        log: The file to which it appends its output; if None, it prints where this process does.
        environment: Variables that are set in it before anything is imported.

    Example:
        >>> worker = Worker()
        >>> worker.call(abs, -3)
        3
        >>> worker.close()
    """

    def __init__(self, *, log: Path | None = None, environment: Mapping[str, str] | None = None):
        self._log = log
        self._environment = environment
        self._lock = threading.Lock()
        self._killed = False
        self._process: subprocess.Popen[Any] | None = None
        self._channel: Any = None

    def call(
        self,
        function: Callable[..., Any],
        *arguments: Any,
        on_event: Callable[..., Any] | None = None,
        interrupted: Callable[[], bool] = lambda: False,
    ) -> Any:
        """Call a function in the child.

        Args:
            function: One that pickle finds by its name.
            *arguments: Its arguments, which pickle can carry.
            on_event: If given, the function gets one more argument, `report`; each call of `report`
                in the child calls this function here with the same arguments.
            interrupted: Called repeatedly; once it returns True, the child gets SIGINT, and its
                next `report` raises `KeyboardInterrupt`.

        Returns:
            The function's value.

        Raises:
            WorkerDied: If the child ended meanwhile.
            BaseException: The function's exception, with the child's traceback as a note.
            ValueError: If the function is defined in the main program, which a child does not
                import.
        """
        named: Any = getattr(function, "func", function)  # of a partial
        if getattr(named, "__module__", None) == "__main__":
            raise ValueError(
                f"{named.__qualname__} is defined in the main program, which a worker does not "
                "import: put it into a module"
            )
        try:
            messages = self._send(
                pickle.dumps((function, arguments, on_event is not None)), interrupted
            )
            while (message := next(messages))[0] == "event":
                assert on_event is not None
                on_event(*message[1])
        except BaseException:
            self.close(at_once=True)  # Its next message belongs to no call.
            raise
        kind, found = message
        if kind == "raised":
            raise found
        return found

    def kill(self) -> None:
        """End the child at once, and refuse later calls; any thread may call this."""
        with self._lock:
            self._killed, process = True, self._process
        if process is not None:
            process.kill()

    def close(self, *, at_once: bool = False) -> None:
        """End the child; a later call starts another one.

        Args:
            at_once: End it immediately; otherwise it may finish the present call.
        """
        process, self._process = self._process, None
        if process is None:
            return
        if at_once:
            process.kill()
        self._channel.close()  # Its loop ends with it.
        try:
            process.wait(GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _send(self, call: bytes, interrupted: Callable[[], bool]) -> Iterator[tuple[str, Any]]:
        """The child's messages about a call, once it has received the call."""
        while True:
            reused = self._process is not None and self._process.poll() is None
            if not reused:
                self.close()
                with self._lock:
                    if self._killed:
                        raise WorkerDied(-signal.SIGKILL, self._log)
                    self._start()
            with contextlib.suppress(ConnectionError):  # Then it has died, which is detected below.
                self._channel.send_bytes(call)
            messages = self._messages(interrupted)
            try:
                next(messages)
            except WorkerDied:
                if not reused:
                    raise
                self.close()  # A child that died while idle costs no call.
            else:
                return messages

    def _start(self) -> None:
        self._channel, child_end = multiprocessing.Pipe()
        with contextlib.ExitStack() as stack:
            stack.callback(child_end.close)
            log = None if self._log is None else stack.enter_context(open(self._log, "ab"))
            self._process = start_python(
                ["-c", f"import {__name__} as w; w.serve({child_end.fileno()})"],
                environment=self._environment,
                descriptors=[child_end.fileno()],
                stdin=subprocess.DEVNULL,
                # By file descriptors, so that XLA's output before an abort is kept too.
                stdout=log,
                stderr=log,
                process_group=0,
            )

    def _messages(self, interrupted: Callable[[], bool]) -> Iterator[tuple[str, Any]]:
        """The child's messages; every wait has a timeout, so that signal handlers run."""
        process, signaled = self._process, False
        assert process is not None
        while True:
            if not signaled and interrupted():
                process.send_signal(signal.SIGINT)
                signaled = True
            try:
                if self._channel.poll(_PERIOD):
                    yield self._channel.recv()
                elif process.poll() is not None and not self._channel.poll():
                    raise EOFError  # Its own children may hold its end of the channel.
            except (EOFError, ConnectionError):
                raise WorkerDied(process.wait(), self._log) from None


def serve(descriptor: int) -> None:
    """Call functions in the child until the parent closes the channel."""
    watch_parent()
    faulthandler.enable()
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(line_buffering=True)  # pyright: ignore[reportAttributeAccessIssue]
    channel, stopping = Connection(descriptor), False

    def stop(number: int, frame: FrameType | None) -> None:
        # A run has its own handler.
        nonlocal stopping
        stopping = True

    def report(*event: Any) -> None:
        if stopping:
            raise KeyboardInterrupt
        channel.send(("event", event))

    signal.signal(signal.SIGINT, stop)
    while True:
        try:
            call = channel.recv_bytes()
        except EOFError:
            return
        channel.send(("received",))
        try:
            function, arguments, reports = pickle.loads(call)
            found = function(*arguments, report) if reports else function(*arguments)
            answer = pickle.dumps(("returned", found))
        except BaseException as error:
            answer = pickle.dumps(("raised", _portable(error)))
        channel.send_bytes(answer)


def _portable(error: BaseException) -> BaseException:
    """An exception that can be pickled, with its traceback as a note."""
    note = "".join(traceback.format_exception(error)).rstrip()
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        error = RuntimeError(one_line(error))
    error.add_note(f"in the worker process:\n{note}")
    return error
