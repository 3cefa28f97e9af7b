"""E11: warmup."""

from aeoskit_experiments.pipelines import Pipeline, optimizer, pipe, plot, track, train
from aeoskit_experiments.recipes._registry import recipe
from aeoskit_experiments.recipes._settings import (
    EPS,
    PAPER_STEPS,
    Dataset,
    Ints,
    Size,
    by_size,
    fully_connected,
    images,
    loss_of,
)


@recipe
def e11_warmup(
    *,
    size: Size = "small",
    warmup: Ints | None = None,
    lr: float | None = None,
    steps: int | None = None,
    every: int = 5,
    dataset: Dataset | None = None,
    examples: int | None = None,
    seed: int = 0,
) -> Pipeline:
    """Adam with and without learning-rate warmup, against the threshold of each step's lr (E11).

    Args:
        size: Small (digits, minutes on two cores) or the paper's, on CIFAR-10.
        warmup: Steps over which the learning rate grows from 0, one after the other; 0 is none.
        lr: Learning rate after the warmup.
        steps: Steps of full-batch training.
        every: Steps between two measurements.
        dataset: The images; digits or cifar10 by the size.
        examples: Number of images.
        seed: Seed of data and initial parameters.
    """
    return pipe(
        images(size, seed, dataset=dataset, examples=examples),
        fully_connected(size, seed),
        loss_of(size),
        optimizer(
            "adam",
            lr=by_size(size, lr, small=3e-2, paper=1e-3),
            warmup=by_size(size, warmup, small=(0, 500), paper=(0, 1000)),
            beta2=0.99,
            eps=EPS[size],
        ),
        track("preconditioned_sharpness", every=every),
        track("sharpness", every=every),
        train(by_size(size, steps, small=1500, paper=PAPER_STEPS)),
        plot("warmup"),
    )
