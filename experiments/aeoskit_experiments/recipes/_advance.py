"""E7 to E9: Adam keeps advancing at the edge, the frozen branch and momentum are blocked."""

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
from aeoskit_experiments.recipes._settings import Dataset


@recipe
def advance(
    *,
    lr: float = 3e-5,
    momentum_lr: float = 1.0,
    steps: int = 3000,
    every: int = 5,
    dataset: Dataset = "digits",
    examples: int = 1700,
    width: int = 100,
    depth: int = 5,
    stop_loss: float = 0.1,
    seed: int = 0,
) -> Pipeline:
    """Adam advances into sharp regions at its threshold; frozen and momentum are blocked (E7-E9).

    Args:
        lr: Adam's learning rate.
        momentum_lr: Learning rate of the branch with (EMA) momentum, from the start.
        steps: Steps of full-batch training, if the loss does not end it.
        every: Steps between two measurements.
        dataset: The images.
        examples: Number of images, all with random labels.
        width: Width of the hidden layers.
        depth: Number of hidden layers.
        stop_loss: Loss that ends a run: cross-entropy's curvature collapses once it is fitted.
        seed: Seed of data and initial parameters.
    """
    return pipe(
        data(dataset, examples=examples, label_noise=1.0, seed=seed),
        model("mlp", width=width, depth=depth, activation="tanh", seed=seed),
        loss("cross_entropy"),
        optimizer("adam", lr=lr, beta1=0.9, beta2=0.99, eps=1e-7),
        track("preconditioned_sharpness", every=every),
        track("sharpness", every=every),
        train(steps, stop_loss=stop_loss),
        branch("freeze", at="threshold", name="frozen"),
        branch("switch", optimizer="momentum", form="ema", lr=momentum_lr, at="start"),
        plot("advance"),
    )
