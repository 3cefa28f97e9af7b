"""The record as the processes see it that do not write it."""

from pathlib import Path
from typing import Any

from aeoskit.record import RunWriter


class Onlooker:
    """Stands in for the `RunWriter` in all processes but the first: it writes checkpoints only.

    A checkpoint is written by all processes together, each its own part of the arrays.

    Args:
        path: The run's folder, which the first process has made.

    Example:
        >>> Onlooker(Path("runs/one")).figure_path("edge")
        PosixPath('runs/one/edge')
    """

    def __init__(self, path: Path):
        self.path = path
        self.begun = False

    def append(self, *arguments: Any, **options: Any) -> None:
        """Nothing: the first process has the same numbers."""
        self.begun = True

    def mark_diverged(self, *arguments: Any) -> None:
        """Nothing."""

    def checkpoint(self, branch: str, step: int, carry: Any) -> Path:
        """The part of a checkpoint that this process has."""
        from aeoskit.record import save_checkpoint

        return save_checkpoint(self.path, branch, step, carry)

    def figure_path(self, name: str) -> Path:
        """Where a figure would be."""
        return self.path / name

    def close(self, summary: Any, status: str = "finished") -> Path:
        """The run's folder."""
        del summary, status
        return self.path

    def discard(self) -> None:
        """Nothing."""


AnyWriter = RunWriter | Onlooker
