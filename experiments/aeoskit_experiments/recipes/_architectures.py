"""E4: the same plateau under every architecture."""

from collections.abc import Sequence
from typing import Any

from aeoskit_experiments._errors import unknown
from aeoskit_experiments.pipelines import (
    Pipeline,
    data,
    loss,
    model,
    optimizer,
    pipe,
    plot,
    track,
    train,
)
from aeoskit_experiments.pipelines._stage import Stage
from aeoskit_experiments.recipes._registry import recipe
from aeoskit_experiments.recipes._settings import EPS, Size, images

# Model settings, the data if they are no images, learning rate, steps: on small data.
_SMALL: dict[str, tuple[dict[str, Any], tuple[str, dict[str, Any]] | None, float, int]] = {
    "mlp": ({"width": 64, "depth": 2}, None, 3e-3, 1000),
    "cnn": ({"channels": 16, "depth": 2}, None, 3e-3, 1000),
    "vgg": ({}, None, 2e-3, 600),
    "resnet": ({}, None, 2e-3, 600),
    "wide_resnet": ({}, None, 2e-3, 600),
    "vit": ({}, None, 2e-3, 600),
    "lstm": ({"width": 32}, None, 3e-3, 600),
    "transformer": (
        {"size": "tiny"},
        ("markov", {"examples": 64, "length": 32}),
        3e-3,
        400,
    ),
    "encoder_decoder": (
        {"size": "tiny"},
        ("sorting", {"pairs": True, "examples": 64}),
        3e-3,
        400,
    ),
}

_PAPER = _SMALL


@recipe
def e04_architectures(
    *,
    size: Size = "small",
    architecture: str | Sequence[str] = tuple(_SMALL),
    lr: float | None = None,
    steps: int | None = None,
    every: int = 10,
    examples: int | None = None,
    seed: int = 0,
) -> dict[str, Pipeline]:
    """Adam under many architectures: the same plateau at 38/lr (E4).

    Args:
        size: Small (digits and procedural sequences) or the paper's, on CIFAR-10 and WikiText.
        architecture: Which, one after the other.
        lr: Learning rate of all of them; none gives each its own, at which it gets to the edge.
        steps: Steps of full-batch training; none gives each its own.
        every: Steps between two measurements.
        examples: How many images or sequences.
        seed: Seed of data and initial parameters.
    """
    names = (architecture,) if isinstance(architecture, str) else tuple(architecture)
    cases = _SMALL if size == "small" else _PAPER
    suite = {}
    for name in names:
        if name not in cases:
            raise unknown("architecture", name, cases)
        settings, sequences, rate, length = cases[name]
        suite[name] = pipe(
            _data(size, sequences, examples, seed),
            model(name, seed=seed, **settings),
            loss("mse" if size == "small" and sequences is None else "cross_entropy"),
            optimizer("adam", lr=rate if lr is None else lr, beta2=0.99, eps=EPS[size]),
            track("preconditioned_sharpness", every=every),
            train(length if steps is None else steps),
            plot("edge"),
        )
    return suite


def _data(
    size: str, sequences: tuple[str, dict[str, Any]] | None, examples: int | None, seed: int
) -> Stage:
    if sequences is None:
        return images(size, seed, examples=examples, small_examples=300)
    name, settings = sequences
    taken = {} if examples is None else {"examples": examples}
    return data(name, **{**settings, **taken}, seed=seed)
