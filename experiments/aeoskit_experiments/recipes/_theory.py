"""E15: the thresholds themselves."""

from collections.abc import Sequence

from aeoskit_experiments.pipelines import Pipeline
from aeoskit_experiments.recipes._registry import recipe
from aeoskit_experiments.recipes._settings import Size, by_size
from aeoskit_experiments.recipes._thresholds import ALL, threshold_table

# Optimizers whose P forgets within 2000 steps at the default settings: with P live their ratio
# settles near 1. The others are included for their thresholds.
FORGET = ("rmsprop", "scalar_rmsprop", "adam", "adamw", "nadam", "nadamw", "adabelief", "adafactor")


@recipe
def e15_theory(
    *,
    size: Size = "small",
    optimizers: str | Sequence[str] | None = None,
    lr: float = 0.5,
    margin: float = 0.01,
    steps: int = 2000,
    seed: int = 0,
) -> Pipeline:
    """On a quadratic, P frozen just below and just above each threshold, and P live (E15).

    Args:
        size: Small takes ten eigenvalues, paper fifty; the paper's own has no setting.
        optimizers: Aeoskit's optimizers, one after the other; none for all of threshold-table.
        lr: Learning rate of all of them with P live.
        margin: Relative distance from the threshold at which P is frozen.
        steps: Steps of each run.
        seed: Seed of the quadratic and the start.
    """
    return threshold_table(
        optimizers=ALL if optimizers is None else optimizers,
        lr=lr,
        margin=margin,
        steps=steps,
        dimension=by_size(size, None, small=10, paper=50),
        seed=seed,
    )
