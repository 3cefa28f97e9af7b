"""E1 and its control: every learning rate reaches its own threshold and hovers there."""

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
from aeoskit_experiments.recipes._settings import Dataset, Floats, Ints


@recipe
def adam_edge(
    *,
    lr: Floats = (1e-3, 3e-3, 1e-2),
    beta1: Floats = 0.9,
    beta2: Floats = 0.99,
    steps: int = 1500,
    every: int = 10,
    dataset: Dataset = "digits",
    examples: Ints = 500,
    label_noise: Floats = 0.4,
    width: Ints = 64,
    seed: int = 0,
) -> Pipeline:
    """Full-batch Adam: the preconditioned sharpness rises to 38/lr and hovers (E1).

    Args:
        lr: Learning rates, trained side by side.
        beta1: Momentum; the threshold is (2 + 2 beta1)/((1 - beta1) lr).
        beta2: Decay of the second moments.
        steps: Steps of full-batch training.
        every: Steps between two measurements.
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
        optimizer("adam", lr=lr, beta1=beta1, beta2=beta2),
        track("preconditioned_sharpness", every=every),
        train(steps),
        plot("edge"),
    )


@recipe
def gd_edge(
    *,
    lr: Floats = (0.05, 0.07, 0.1),
    steps: int = 2000,
    every: int = 10,
    dataset: Dataset = "digits",
    examples: Ints = 500,
    label_noise: Floats = 0.4,
    width: Ints = 64,
    seed: int = 0,
) -> Pipeline:
    """Full-batch gradient descent: the sharpness settles at 2/lr and hovers (the control of E1).

    Args:
        lr: Learning rates, trained side by side.
        steps: Steps of full-batch training.
        every: Steps between two measurements.
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
        optimizer("gradient_descent", lr=lr),
        track("sharpness", every=every),
        train(steps),
        plot("edge"),
    )
