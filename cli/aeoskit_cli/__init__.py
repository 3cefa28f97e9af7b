"""The command line: it parses, calls one function, prints; it decides nothing."""

import gc
import sys
from collections.abc import Sequence

# Imports and tracing make hundreds of thousands of objects that stay: to look for garbage among
# them every few hundred, and once more at the end, took a tenth of a short run.
_COLLECTED_EVERY = 200_000


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line.

    Args:
        arguments: What stands after `aeoskit`; those of the process if None.

    Returns:
        The exit code: 0; 1 if everything diverged, a job of a sweep or a claim failed, or a rerun's
        numbers differ; 2 for bad input, said in one line on stderr, data that are not what they
        should be, or where `aeoskit[experiments]` is not installed; 130 after Ctrl-C. An exception
        that nobody foresaw is raised.
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
        if alone:  # the process ends, and frees all there is
            gc.freeze()
