"""A child process for the works: one that dies costs its own work, not the ledger."""

import contextlib
import os
import queue
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import msgspec

from aeoskit_experiments.execution import Listener
from aeoskit_experiments.execution._interrupt import Interrupt
from aeoskit_experiments.ledger._worker import carry_out
from aeoskit_experiments.pipelines import Pipeline

_START = "from aeoskit_experiments.ledger._worker import main; main()"
_GRACE = 10
"""Seconds that a child has to end once it is not needed any more."""


@runtime_checkable
class Runner(Protocol):
    """Who carries works out."""

    def run(
        self, pipeline: Pipeline, folder: Path, listener: Listener, interrupt: Interrupt
    ) -> dict[str, Any]:
        """Run one work; `status` and `error` of how it ended."""
        ...

    def close(self, *, at_once: bool = False) -> None:
        """Nothing will be run any more; what runs now need not end first if `at_once`."""
        ...


class Here:
    """Runs works in this very process, for tests and debuggers."""

    def run(
        self, pipeline: Pipeline, folder: Path, listener: Listener, interrupt: Interrupt
    ) -> dict[str, Any]:
        """Run one work."""
        del interrupt  # The run has its own.
        return carry_out(pipeline, str(folder), listener)

    def close(self, *, at_once: bool = False) -> None:
        """Nothing is to be done."""


class Child:
    """Runs works in a child process, the same one as long as it lives.

    So a start costs its seconds once, and what was compiled stays; a work that crashes the process
    (out of memory, a fault in a compiler) is reported, and the next one finds a fresh one.

    Args:
        log: Where what the child prints goes.
    """

    def __init__(self, log: Path):
        self._log = log
        self._process: subprocess.Popen[str] | None = None
        self._events: queue.Queue[str] = queue.Queue()

    def run(
        self, pipeline: Pipeline, folder: Path, listener: Listener, interrupt: Interrupt
    ) -> dict[str, Any]:
        """Run one work."""
        process = self._started()
        task = {"pipeline": pipeline.to_dict(), "folder": str(folder.absolute())}
        assert process.stdin is not None
        with contextlib.suppress(BrokenPipeError):  # then it is found dead below
            process.stdin.write(msgspec.json.encode(task).decode() + "\n")
            process.stdin.flush()
        told = False
        while True:
            # A signal's handler only runs where Python runs: no wait is endless.
            try:
                line = self._events.get(timeout=0.2)
            except queue.Empty:
                line = None
            if interrupt.wished and not told:
                # Ctrl-C did not reach it, as it is in a group of its own.
                process.send_signal(signal.SIGINT)
                told = True
            if line is None:
                continue
            if not line:
                return self._died(process, told)
            kind, *rest = msgspec.json.decode(line)
            if kind == "ended":
                return rest[0]
            getattr(listener, kind)(*rest)

    def close(self, *, at_once: bool = False) -> None:
        """End the child."""
        process, self._process = self._process, None
        if process is None:
            return
        if at_once:
            process.kill()
        _close_stdin(process)  # its loop ends with it
        try:
            process.wait(_GRACE)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()

    def _started(self) -> "subprocess.Popen[str]":
        if self._process is not None:
            if self._process.poll() is None:
                return self._process
            _close_stdin(self._process)
        paths = os.pathsep.join(path for path in sys.path if path)
        self._events = queue.Queue()
        with open(self._log, "ab") as log:
            process = subprocess.Popen(
                [sys.executable, "-c", _START],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                # A name given by a path (tests, a checkout) is found by the child too.
                env={**os.environ, "PYTHONPATH": paths},
                process_group=0,
            )
        threading.Thread(target=_read, args=(process, self._events), daemon=True).start()
        self._process = process
        return process

    def _died(self, process: "subprocess.Popen[str]", told: bool) -> dict[str, Any]:
        code = process.wait()
        _close_stdin(process)
        self._process = None
        if told:
            return {"status": "interrupted", "error": ""}
        how = f"code {code}"
        if code < 0:
            with contextlib.suppress(ValueError):
                how = signal.Signals(-code).name
        memory = "; the system ends processes so that want too much memory"
        said = f"its process ended ({how}{memory if code == -signal.SIGKILL else ''})"
        return {"status": "failed", "error": f"{said}: {self._log.name} has what it said last"}


def _close_stdin(process: "subprocess.Popen[str]") -> None:
    assert process.stdin is not None
    with contextlib.suppress(BrokenPipeError):
        process.stdin.close()


def _read(process: "subprocess.Popen[str]", events: "queue.Queue[str]") -> None:
    """Hands on what the child says, line by line; an empty line when it is gone."""
    assert process.stdout is not None
    for line in process.stdout:
        events.put(line)
    process.stdout.close()
    events.put("")
