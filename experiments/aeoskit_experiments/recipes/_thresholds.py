"""E15: every optimizer's threshold, tested on a quadratic."""

from collections.abc import Sequence

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.pipelines import (
    Pipeline,
    branch,
    data,
    loss,
    model,
    optimizer,
    pipe,
    plot,
    track,
    train,
)
from aeoskit_experiments.recipes._registry import recipe

ALL = (
    "gradient_descent",
    "momentum",
    "nesterov",
    "rmsprop",
    "scalar_rmsprop",
    "adam",
    "adamw",
    "nadam",
    "nadamw",
    "gi_adam",
    "amsgrad",
    "padam",
    "adabelief",
    "adagrad",
    "adafactor",
    "shampoo",
    "soap",
    "muon",
)


@recipe
def threshold_table(
    *,
    optimizers: str | Sequence[str] = ALL,
    lr: float = 0.5,
    margin: float = 0.01,
    steps: int = 2000,
    freeze_at: int = 300,
    every: int = 5,
    dimension: int = 10,
    condition: float = 100.0,
    seed: int = 0,
) -> Pipeline:
    """On a quadratic, every threshold: P frozen just below and just above it, and P live (E15).

    Args:
        optimizers: aeoskit's optimizers, one after the other.
        lr: Learning rate of all of them with P live.
        margin: Relative distance from the threshold at which P is frozen.
        steps: Steps of each run.
        freeze_at: The step at which P is frozen, and its learning rate set.
        every: Steps between two measurements.
        dimension: Eigenvalues of the quadratic, each repeated once per output (4).
        condition: Its largest eigenvalue (1) over its smallest.
        seed: Seed of the quadratic and the start.
    """
    if not 0 < margin < 1:
        raise UserError(f"margin is {margin:g}: give a fraction of the threshold, between 0 and 1")
    return pipe(
        data("quadratic", dimension=dimension, condition=condition, seed=seed),
        model("linear", seed=seed),
        loss("mse"),
        optimizer(optimizers, lr=lr),
        track("preconditioned_sharpness", every=every, solver="dense"),
        train(steps),
        branch("freeze", at=freeze_at, name="below", ratio=1 - margin),
        branch("freeze", at=freeze_at, name="above", ratio=1 + margin),
        plot("thresholds"),
    )
