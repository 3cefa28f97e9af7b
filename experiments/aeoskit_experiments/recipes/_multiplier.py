"""The edge of optax's optimizers, by a multiplier that needs no knowledge of them."""

from collections.abc import Sequence

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
from aeoskit_experiments.recipes._registry import recipe
from aeoskit_experiments.recipes._settings import Dataset

ALL = (
    "sgd",
    "heavy_ball",
    "nesterov",
    "rmsprop",
    "adam",
    "adamw",
    "nadam",
    "amsgrad",
    "adabelief",
    "adagrad",
    "adafactor",
    "shampoo",
)


@recipe
def multiplier_edge(
    *,
    transform: str | Sequence[str] = ALL,
    lr: float | None = None,
    steps: int = 1500,
    every: int = 25,
    dataset: Dataset = "digits",
    examples: int = 200,
    label_noise: float = 0.4,
    width: int = 32,
    seed: int = 0,
) -> Pipeline:
    """Stock optax optimizers at the edge, by the flip multiplier of their whole step.

    Args:
        transform: Optimizers of optax, trained one after the other.
        lr: Learning rate of all of them; none for each one's own, at which it reaches the edge.
        steps: Steps of full-batch training.
        every: Steps between two measurements: odd, since at the edge the steps alternate.
        dataset: The images.
        examples: Number of images.
        label_noise: Fraction of the labels that are random; the edge comes sooner.
        width: Width of the two hidden layers.
        seed: Seed of data and initial parameters.
    """
    return pipe(
        data(dataset, examples=examples, label_noise=label_noise, seed=seed),
        model("mlp", width=width, depth=2, activation="tanh", seed=seed),
        loss("mse"),
        optimizer("optax", transform=transform, lr=lr),
        track("preconditioned_sharpness", every=every),
        track("flip_multiplier", every=every),
        train(steps),
        plot("multiplier"),
    )
