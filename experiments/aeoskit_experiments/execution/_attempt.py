"""A run whose errors are part of its result."""

import functools
import sys
import traceback
from collections.abc import Callable
from types import SimpleNamespace
from typing import Any, TextIO

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.execution._listener import Listener
from aeoskit_experiments.jobs import JobResult, RunJob, one_line


def attempt(job: RunJob, listener: Listener, *, log: TextIO | None = None) -> JobResult:
    """Run a job and report how it ended; only exceptions that end the process are not caught.

    Args:
        job: the pipeline, and the folder of its record, which must not exist yet.
        listener: receives progress.
        log: receives the traceback of an error; standard error if None.

    Returns:
        The status, the error in one line, and the numbers of the runs.
    """
    # Here, since they import jax: a worker gets its share of the machine before that.
    from aeoskit.record import to_json_safe
    from aeoskit_experiments.execution._execute import execute
    from aeoskit_experiments.execution._room import limit_memory_maps

    limit_memory_maps()  # Earlier jobs in the same process have left their programs.
    try:
        outcome = execute(job.load(), folder=job.folder, listener=listener)
    except KeyboardInterrupt:
        return JobResult(status="interrupted")
    except UserError as error:
        return JobResult(status="refused", error=str(error))
    except Exception as error:
        traceback.print_exc(file=log)
        return JobResult(status="failed", error=one_line(error))
    return JobResult(status=outcome.status, runs=to_json_safe(outcome.summary)["runs"])


def attempt_in_worker(job: RunJob, report: Callable[..., None]) -> JobResult:
    """`attempt` in a worker process.

    Args:
        job: as for `attempt`.
        report: receives the calls of a listener: the name of the method, and the arguments.

    Returns:
        As for `attempt`.
    """
    print(f"== {job.folder}", file=sys.stderr)
    events = ("started", "advanced", "finished", "noted")
    listener: Any = SimpleNamespace(**{name: functools.partial(report, name) for name in events})
    return attempt(job, listener)
