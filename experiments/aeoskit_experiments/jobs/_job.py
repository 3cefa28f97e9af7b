"""The argument and the result of a job: plain data, so that any executor can carry them."""

from typing import Any

import msgspec

from aeoskit_experiments.parts import trust
from aeoskit_experiments.pipelines import Pipeline


class PipelineJob(msgspec.Struct, frozen=True, kw_only=True):
    """A pipeline for another process.

    Anything else that the process needs to rebuild the pipeline is a field here.

    Args:
        pipeline: The value of `Pipeline.to_dict`.

    Example:
        >>> PipelineJob(pipeline={"stages": []}).load().stages
        ()
    """

    pipeline: dict[str, Any]

    def load(self) -> Pipeline:
        """The pipeline; users' own parts in it may run, since the parent process trusts them.

        Raises:
            UserError: If it is not a pipeline.
        """
        for reference, code in Pipeline.from_dict(self.pipeline).code().items():
            trust(reference, code)
        return Pipeline.from_dict(self.pipeline)


class RunJob(PipelineJob, frozen=True, kw_only=True):
    """A run of a pipeline.

    Args:
        pipeline: The value of `Pipeline.to_dict`.
        folder: The folder of the run's record, absolute.

    Example:
        >>> RunJob(pipeline={"stages": []}, folder="/runs/mine").folder
        '/runs/mine'
    """

    folder: str


class JobResult(msgspec.Struct, frozen=True, kw_only=True):
    """The result of a run.

    Args:
        status: "finished", "diverged", "interrupted", "refused" (bad input) or "failed".
        error: One line; empty if there was none.
        runs: The numbers of the main run and its branches, as in the run's summary.

    Example:
        >>> JobResult(status="finished").error
        ''
    """

    status: str
    error: str = ""
    runs: list[dict[str, Any]] = []


def one_line(error: BaseException) -> str:
    r"""An exception in one line.

    >>> one_line(ValueError("no\nmore"))
    'ValueError: no'
    """
    lines = [line for line in str(error).splitlines() if line.strip()]
    name = type(error).__name__
    return f"{name}: {lines[0].strip()}" if lines else name
