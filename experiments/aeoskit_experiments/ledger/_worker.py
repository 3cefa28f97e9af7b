"""The process that runs the works, one after the other: told on stdin, telling on stdout.

Both are lines of JSON. What libraries print goes to stderr.
"""

import os
import signal
import sys
import traceback
from collections.abc import Mapping
from types import FrameType
from typing import Any, TextIO

import msgspec

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.pipelines import Pipeline


class Teller:
    """A listener that writes what it hears as lines of JSON.

    Args:
        out: Where to; who reads it may be another process.
    """

    def __init__(self, out: TextIO):
        self._out = out
        self._wished = False

    def wish(self, number: int, frame: FrameType | None) -> None:
        """Handle Ctrl-C outside of a run, which has a handler of its own: the next one ends."""
        del number, frame
        self._wished = True

    def started(self, what: str, steps: int) -> None:
        """A run begins."""
        if self._wished:
            raise KeyboardInterrupt
        self.tell("started", what, steps)

    def advanced(self, what: str, done: int, shown: Mapping[str, float]) -> None:
        """A chunk is done."""
        self.tell("advanced", what, done, dict(shown))

    def finished(self, what: str) -> None:
        """The run has ended."""
        self.tell("finished", what)

    def noted(self, message: str) -> None:
        """Something that the user should see."""
        self.tell("noted", message)

    def tell(self, *event: Any) -> None:
        """Write one event."""
        print(msgspec.json.encode(event).decode(), file=self._out, flush=True)


def carry_out(pipeline: Pipeline, folder: str, listener: Any) -> dict[str, Any]:
    """Run one work and say how it ended.

    Args:
        pipeline: What.
        folder: Its record, which must not exist yet.
        listener: Hears of the progress.

    Returns:
        `status` ("finished", "diverged", "interrupted", "refused" or "failed") and `error`, a
        sentence or empty.
    """
    # Here, since they import jax.
    from aeoskit_experiments.execution import execute
    from aeoskit_experiments.execution._room import make_room

    make_room()  # The works before have left their programs.
    try:
        outcome = execute(pipeline, folder=folder, listener=listener)
    except KeyboardInterrupt:
        return {"status": "interrupted", "error": ""}
    except UserError as error:
        return {"status": "refused", "error": str(error)}
    except Exception as error:
        traceback.print_exc()
        lines = [line.strip() for line in str(error).splitlines() if line.strip()]
        said = f": {lines[0]}" if lines else ""
        return {"status": "failed", "error": f"{type(error).__name__}{said}"}
    return {"status": outcome.status, "error": ""}


def main() -> None:
    """Run works until there is nothing more to be read."""
    own = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    teller = Teller(own)
    signal.signal(signal.SIGINT, teller.wish)
    for line in sys.stdin:
        task = msgspec.json.decode(line)
        pipeline = Pipeline.from_dict(task["pipeline"])
        print(f"== {task['folder']}", file=sys.stderr, flush=True)
        teller.tell("ended", carry_out(pipeline, task["folder"], teller))
