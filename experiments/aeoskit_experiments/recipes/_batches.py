"""E6: minibatches."""

from typing import Literal

from aeoskit_experiments.pipelines import Pipeline, optimizer, pipe, plot, track, train
from aeoskit_experiments.recipes._registry import recipe
from aeoskit_experiments.recipes._settings import (
    EPS,
    PAPER_STEPS,
    Dataset,
    Ints,
    Size,
    by_size,
    examples_of,
    fully_connected,
    images,
    loss_of,
)


@recipe
def e06_batch_size(
    *,
    size: Size = "small",
    batch: Ints | None = None,
    sampling: Literal["shuffle", "replacement"] = "shuffle",
    lr: float | None = None,
    steps: int | None = None,
    every: int = 10,
    dataset: Dataset | None = None,
    examples: int | None = None,
    seed: int = 0,
) -> Pipeline:
    """Adam on minibatches: the larger the batch, the closer to the threshold, from below (E6).

    Both sharpnesses are those of the loss on all examples.

    Args:
        size: Small (digits, minutes on two cores) or the paper's, on CIFAR-10.
        batch: Batch sizes; none for several, the last two half of the examples and all of them.
        sampling: Batches without replacement within an epoch, or with replacement.
        lr: Learning rate.
        steps: Steps of training, at every batch size.
        every: Steps between two measurements.
        dataset: The images; digits or cifar10 by the size.
        examples: Number of images.
        seed: Seed of data, initial parameters and batches.
    """
    whole = examples_of(size, dataset, examples)
    parts = by_size(size, None, small=(16, 64, 256), paper=(256, 1024, 4096))
    half = whole // 2
    sizes = (*(part for part in parts if part < half), half, whole) if batch is None else batch
    return pipe(
        # With random labels throughout and a large learning rate, half of the examples reach the
        # edge early, and raw sharpness falls there for the rest of the run.
        images(size, seed, dataset=dataset, examples=examples, small_noise=1.0),
        fully_connected(size, seed),
        loss_of(size),
        optimizer(
            "adam",
            lr=by_size(size, lr, small=1e-2, paper=1e-4),
            beta2=0.999 if size == "paper" else 0.99,
            eps=EPS[size],
        ),
        track("preconditioned_sharpness", every=every),
        track("sharpness", every=every),
        train(
            by_size(size, steps, small=2500, paper=PAPER_STEPS),
            batch=sizes,
            sampling=sampling,
            seed=seed,
        ),
        plot("edge"),
    )
