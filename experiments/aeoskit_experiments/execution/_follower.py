"""The record in the processes that do not write it."""

from pathlib import Path
from typing import Any

from aeoskit.record import RunWriter


class FollowerWriter:
    """A substitute for `RunWriter` in all processes but the first, which writes only checkpoints.

    All processes write a checkpoint together, each its own part of the arrays.

    Args:
        path: The run's folder, created by the first process.

    Example:
        >>> FollowerWriter(Path("runs/one")).figure_path("edge")
        PosixPath('runs/one/edge')
    """

    def __init__(self, path: Path):
        self.path = path
        self.begun = False

    def append(self, *arguments: Any, **options: Any) -> None:
        """Do nothing: the first process writes the same numbers."""
        self.begun = True

    def describe(self, *arguments: Any, **options: Any) -> None:
        """Nothing."""

    def mark_diverged(self, *arguments: Any) -> None:
        """Nothing."""

    def checkpoint(self, branch: str, step: int, carry: Any) -> Path:
        """Write this process's part of a checkpoint."""
        from aeoskit.record import save_checkpoint

        return save_checkpoint(self.path, branch, step, carry)

    def figure_path(self, name: str) -> Path:
        """The path of a figure."""
        return self.path / name

    def close(self, summary: Any, status: str = "finished") -> Path:
        """The run's folder."""
        del summary, status
        return self.path

    def discard(self) -> None:
        """Nothing."""


AnyWriter = RunWriter | FollowerWriter
