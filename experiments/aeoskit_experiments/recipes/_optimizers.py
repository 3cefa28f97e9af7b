"""E5: every adaptive optimizer at its own threshold."""

from collections.abc import Sequence
from typing import Any

from aeoskit_experiments._errors import unknown
from aeoskit_experiments.pipelines import Pipeline, optimizer, pipe, plot, track, train
from aeoskit_experiments.recipes._registry import recipe
from aeoskit_experiments.recipes._settings import (
    EPS,
    PAPER_STEPS,
    Dataset,
    Size,
    by_size,
    fully_connected,
    images,
    loss_of,
)

# Learning rates at which each reaches its edge within the steps: on small data, and a guess for
# CIFAR-10, since the paper's are not known. β₂ = .99 wherever there is one.
_CASES: dict[str, tuple[str, dict[str, Any], float, float]] = {
    "adam": ("adam", {"beta2": 0.99}, 3e-3, 1e-4),
    "adamw": ("adamw", {"beta2": 0.99, "weight_decay": 1e-2}, 3e-3, 1e-4),
    # Strong enough to move the threshold by a per cent: the learning rate times it is 0.02.
    "adamw-decay": ("adamw", {"beta2": 0.99, "weight_decay": 0.02 / 3e-3}, 3e-3, 1e-4),
    "nadam": ("nadam", {"beta2": 0.99}, 3e-3, 1e-4),
    "rmsprop": ("rmsprop", {"beta2": 0.99}, 1.5e-4, 1e-5),
    "adabelief": ("adabelief", {"beta2": 0.99}, 3e-3, 1e-4),
    "padam": ("padam", {"beta2": 0.99}, 0.3, 1e-2),
    # Matrices with at least this many rows and columns are factored: here all hidden layers.
    "adafactor": ("adafactor", {"beta1": 0.9, "min_dim_size_to_factor": 16}, 0.03, 1e-3),
    "adagrad": ("adagrad", {}, 0.05, 1e-3),
    # The running maximum as published, and the maximum of the last two ν as in the authors' code.
    "amsgrad": ("amsgrad", {"beta2": 0.99}, 3e-3, 1e-4),
    "amsgrad-previous": (
        "amsgrad",
        {"beta2": 0.99, "maximum": "previous", "correction": "none"},
        3e-3,
        1e-4,
    ),
}
# Where ε is not small beside √ν: each keeps its own default.
_OWN_EPS = ("adabelief", "adafactor", "adagrad")


@recipe
def e05_optimizers(
    *,
    size: Size = "small",
    optimizers: str | Sequence[str] = tuple(_CASES),
    lr: float | None = None,
    steps: int | None = None,
    every: int = 10,
    dataset: Dataset | None = None,
    examples: int | None = None,
    seed: int = 0,
) -> dict[str, Pipeline]:
    """Adaptive optimizers, each at its own threshold, or below it where P can only grow (E5).

    Args:
        size: Small (digits, minutes on two cores) or the paper's, on CIFAR-10.
        optimizers: Optimizers, one after the other; amsgrad-previous is that of the authors' code.
        lr: Learning rate of all of them; none for each one's own, at which it reaches the edge.
        steps: Steps of full-batch training.
        every: Steps between two measurements.
        dataset: The images; digits or cifar10 by the size.
        examples: Number of images.
        seed: Seed of data and initial parameters.
    """
    names = (optimizers,) if isinstance(optimizers, str) else tuple(optimizers)
    suite = {}
    for name in names:
        if name not in _CASES:
            raise unknown("optimizer", name, _CASES)
        variant, settings, small, paper = _CASES[name]
        if size == "paper" and name not in _OWN_EPS:
            settings = {"eps": EPS["paper"], **settings}
        suite[name] = pipe(
            images(size, seed, dataset=dataset, examples=examples),
            fully_connected(size, seed),
            loss_of(size),
            optimizer(variant, lr=by_size(size, lr, small=small, paper=paper), **settings),
            track("preconditioned_sharpness", every=every),
            train(by_size(size, steps, small=1500, paper=PAPER_STEPS)),
            plot("edge"),
        )
    return suite
