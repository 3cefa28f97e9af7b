"""Stages that continue from another run's checkpoint."""

from typing import Any

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.pipelines import Stage, rewind, train


def rewound(
    run: str, at: int | str, steps: int | None, stop_loss: float | None = None, **refused: Any
) -> list[Stage]:
    """The stage `rewind`, and `train` if its settings change.

    Args:
        run: The run's folder.
        at: The step to start from, or edge.
        steps: Total number of steps, including earlier ones; None for that of the run.
        stop_loss: Loss that ends it; None for that of the run.
        refused: Options that the other run has fixed.

    Raises:
        UserError: if one of these was given.
    """
    for name, value in refused.items():
        if value is not None:
            raise UserError(
                f"{name} is {value}, but the run {run} is rewound, whose own {name} it is: leave "
                f"{name} out, or run"
            )
    given = {"steps": steps, "stop_loss": stop_loss}
    options = {name: value for name, value in given.items() if value is not None}
    return [rewind(run=run, at=at), *([train(**options)] if options else [])]
