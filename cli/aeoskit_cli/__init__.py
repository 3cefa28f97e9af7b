"""The command line: it parses, calls one function, and prints."""

import gc
import sys
from collections.abc import Sequence

# Imports and tracing make hundreds of thousands of long-lived objects: garbage collection every few
# hundred of them, and at the end, took a tenth of a short run.
_COLLECTED_EVERY = 200_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: The arguments of `aeoskit`; those of the process if None.

    Returns:
        The exit code: 0; 1 if everything diverged, a job of a sweep or a claim failed, or a rerun's
        numbers differ; 2 for bad input, reported in one line on stderr, wrong data files, or if
        `aeoskit[experiments]` is not installed; 130 after Ctrl-C. An unexpected exception is
        raised.
    """
    alone = arguments is None
    if alone:
        gc.set_threshold(_COLLECTED_EVERY)
    try:
        from aeoskit_cli._main import run
    except ImportError as error:
        if error.name != "aeoskit_experiments":
            raise
        print(f"error: {error}", file=sys.stderr)
        return 2
    try:
        return run(arguments)
    finally:
        if alone:  # the process ends, which frees all memory
            gc.freeze()
