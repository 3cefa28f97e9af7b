"""Stages that go on from another run's checkpoint."""

from typing import Any

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.pipelines import Stage, rewind, train


def rewound(
    run: str, at: int | str, steps: int | None, stop_loss: float | None = None, **refused: Any
) -> list[Stage]:
    """The stage `rewind`, and `train` if the run shall be longer.

    Args:
        run: The run's folder.
        at: The step at which to go on, or edge.
        steps: Steps in all, those before included; None as many as the run had.
        stop_loss: Loss that ends it; None is that of the run.
        refused: Options that the other run has decided already.

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
    said = {name: value for name, value in given.items() if value is not None}
    return [rewind(run=run, at=at), *([train(**said)] if said else [])]
