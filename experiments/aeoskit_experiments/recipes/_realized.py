"""E16: the realized edge, and the ratio of λ₁(P⁻¹H) to its threshold, at each β₂."""

from collections.abc import Sequence
from typing import Any

from aeoskit_experiments._errors import unknown
from aeoskit_experiments.pipelines import Pipeline, optimizer, pipe, plot, track, train
from aeoskit_experiments.recipes._registry import recipe
from aeoskit_experiments.recipes._settings import (
    EPS,
    PAPER_STEPS,
    Dataset,
    Floats,
    Size,
    by_size,
    fully_connected,
    images,
    loss_of,
)

_BETA2 = (0.1, 0.5, 0.8, 0.95, 0.99, 0.999)

# Learning rates at which each arrives at the edge within the steps, whatever its β₂: on small data,
# and a guess for CIFAR-10.
_WITH_BETA2: dict[str, tuple[dict[str, Any], float, float]] = {
    "adam": ({}, 0.022, 1e-4),
    "adamw": ({"weight_decay": 1e-2}, 0.022, 1e-4),
    "nadam": ({}, 0.012, 1e-4),
    "rmsprop": ({}, 2.5e-3, 1e-5),
    "adabelief": ({}, 0.03, 1e-4),
    "padam": ({}, 2.5, 1e-2),
    # Its running maximum cannot follow a falling ν: only a large rate takes it to the edge.
    "amsgrad": ({}, 0.3, 1e-3),
}
_WITHOUT: dict[str, tuple[dict[str, Any], float, float]] = {
    "adafactor": ({"min_dim_size_to_factor": 16}, 0.05, 1e-3),
    "adagrad": ({}, 0.2, 1e-3),
    "shampoo": ({}, 0.4, 1e-3),
    "momentum": ({}, 5.0, 0.5),
    "gradient_descent": ({}, 0.4, 0.02),
}
_CASES = _WITH_BETA2 | _WITHOUT
_EUCLIDEAN = ("momentum", "gradient_descent")
# Where ε is not small beside √ν, or is no such ε: each keeps its own default.
_OWN_EPS = ("adabelief", "adafactor", "adagrad", "shampoo", *_EUCLIDEAN)


@recipe
def e16_realized(
    *,
    size: Size = "small",
    optimizers: str | Sequence[str] = tuple(_CASES),
    beta2: Floats = _BETA2,
    lr: float | None = None,
    steps: int | None = None,
    every: int = 20,
    dataset: Dataset | None = None,
    examples: int | None = None,
    seed: int = 0,
) -> dict[str, Pipeline]:
    """At the edge ζ is 1 whatever beta2, and the ratio is not, since P moves in a step (E16).

    The learning rate rises over the first half of the steps, so that each run begins below its
    edge.

    Args:
        size: Small (digits, a narrow network) or the paper's, on CIFAR-10.
        optimizers: Optimizers, one after the other.
        beta2: Decays of the second moments, side by side, of the optimizers that have one.
        lr: Learning rate of all of them; none for each one's own, at which it reaches the edge.
        steps: Steps of full-batch training.
        every: Steps between two measurements of the eigenvalue; ζ is of each step.
        dataset: The images; digits or cifar10 by the size.
        examples: Number of images.
        seed: Seed of data and initial parameters.
    """
    names = (optimizers,) if isinstance(optimizers, str) else tuple(optimizers)
    length = by_size(size, steps, small=1200, paper=PAPER_STEPS)
    suite = {}
    for name in names:
        if name not in _CASES:
            raise unknown("optimizer", name, _CASES)
        settings, small, paper = _CASES[name]
        if name in _WITH_BETA2:
            settings = {"beta2": beta2, **settings}
        if size == "paper" and name not in _OWN_EPS:
            settings = {"eps": EPS["paper"], **settings}
        rate = by_size(size, lr, small=small, paper=paper)
        suite[name] = pipe(
            images(size, seed, dataset=dataset, examples=examples),
            fully_connected(size, seed, width=32 if size == "small" else None),
            loss_of(size),
            optimizer(name, lr=rate, warmup=length // 2, **settings),
            track("sharpness" if name in _EUCLIDEAN else "preconditioned_sharpness", every=every),
            train(length),
            plot("beta2" if name in _WITH_BETA2 else "edge"),
        )
    return suite
