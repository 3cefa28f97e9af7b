"""E10, E12, E13 and E14: Adam's other settings, and their effect on the curvature."""

from collections.abc import Sequence

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


@recipe
def e10_grid(
    *,
    size: Size = "small",
    lr: Floats | None = None,
    beta2: Floats = (0.9, 0.99, 0.999),
    steps: int | None = None,
    every: int = 5,
    dataset: Dataset | None = None,
    examples: int | None = None,
    seed: int = 0,
) -> Pipeline:
    """Learning rates times beta2: smaller lr ends sharper; beta2 decides what yields, H or P (E10).

    Args:
        size: Small (digits, minutes on two cores) or the paper's, on CIFAR-10.
        lr: Learning rates.
        beta2: Decays of the second moments.
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
            lr=by_size(size, lr, small=(1e-3, 3e-3, 1e-2), paper=(1e-4, 3.2e-4, 1e-3)),
            beta2=beta2,
            eps=EPS[size],
        ),
        track("preconditioned_sharpness", every=every),
        track("sharpness", every=every),
        # The smallest rate at the largest beta2 arrives at step 1,400 to 2,600.
        train(by_size(size, steps, small=3000, paper=PAPER_STEPS)),
        plot("grid"),
    )


@recipe
def e12_generalization(
    *,
    size: Size = "small",
    lr: Floats | None = None,
    beta2: Floats = (0.9, 0.97, 0.99, 0.999),
    steps: int | None = None,
    every: int = 50,
    dataset: Dataset | None = None,
    examples: int | None = None,
    test: int | None = None,
    seed: int = 0,
) -> Pipeline:
    """Learning rates times beta2: sharpness and test error side by side; a report, no claim (E12).

    Args:
        size: Small (digits, minutes on two cores) or the paper's, on CIFAR-10.
        lr: Learning rates.
        beta2: Decays of the second moments.
        steps: Steps of full-batch training.
        every: Steps between two measurements.
        dataset: The images; digits or cifar10 by the size.
        examples: Number of training examples.
        test: Number of test examples.
        seed: Seed of data and initial parameters.
    """
    held = by_size(size, test, small=1000, paper=10_000)
    return pipe(
        # Correct labels: the test error after training on random ones is not informative.
        images(size, seed, dataset=dataset, examples=examples, test=held, small_noise=0.0),
        fully_connected(size, seed),
        loss_of(size),
        optimizer(
            "adam",
            lr=by_size(
                size,
                lr,
                small=(1e-3, 1.8e-3, 3.2e-3, 5.6e-3, 1e-2),
                paper=(1e-4, 1.8e-4, 3.2e-4, 5.6e-4, 1e-3),
            ),
            beta2=beta2,
            eps=EPS[size],
        ),
        track("preconditioned_sharpness", every=every),
        track("sharpness", every=every),
        track("test_error", every=every),
        train(by_size(size, steps, small=1500, paper=PAPER_STEPS)),
        plot("grid"),
    )


@recipe
def e13_epsilon(
    *,
    size: Size = "small",
    eps: Floats | None = None,
    lr: float | None = None,
    steps: int | None = None,
    every: int = 10,
    dataset: Dataset | None = None,
    examples: int | None = None,
    seed: int = 0,
) -> dict[str, Pipeline]:
    """A sweep of eps: large, it makes Adam a heavy ball, whose λ₁(H) stops at 38 eps/lr (E13).

    Args:
        size: Small (digits, minutes on two cores) or the paper's, on CIFAR-10.
        eps: Values added to the preconditioner, one after the other.
        lr: Learning rate of all of them; none for eps where that is larger than 3e-3 (1e-4 at the
            paper's size): momentum with a threshold of 38.
        steps: Steps of full-batch training.
        every: Steps between two measurements.
        dataset: The images; digits or cifar10 by the size.
        examples: Number of images.
        seed: Seed of data and initial parameters.
    """
    values = by_size(size, eps, small=(1e-7, 1e-3, 0.1, 1.0), paper=(1e-7, 1e-4, 1e-2, 1.0))
    values = values if isinstance(values, Sequence) else (values,)
    return {
        f"eps-{value:g}": pipe(
            # With random labels throughout, momentum oscillates at its threshold until the end;
            # with fewer it fits and may stay there without oscillating.
            images(size, seed, dataset=dataset, examples=examples, small_noise=1.0),
            fully_connected(size, seed),
            loss_of(size),
            optimizer(
                "adam",
                lr=max(by_size(size, None, small=3e-3, paper=1e-4), value) if lr is None else lr,
                beta2=0.99,
                eps=value,
                # The bias-corrected first step would equal ten steps of the heavy ball.
                correction="none",
            ),
            track("preconditioned_sharpness", every=every),
            track("sharpness", every=every),
            train(by_size(size, steps, small=1500, paper=PAPER_STEPS)),
            plot("edge"),
        )
        for value in values
    }


@recipe
def e14_spikes(
    *,
    size: Size = "small",
    beta2: Floats = (0.9, 0.999),
    lr: float | None = None,
    steps: int | None = None,
    every: int = 2,
    dataset: Dataset | None = None,
    examples: int | None = None,
    seed: int = 0,
) -> Pipeline:
    """Loss spikes at large beta2 come where λ₁(P⁻¹H) overshoots its threshold (E14).

    Args:
        size: Small (digits, minutes on two cores) or the paper's, on CIFAR-10.
        beta2: Decays of the second moments.
        lr: Learning rate.
        steps: Steps of full-batch training.
        every: Steps between two measurements: a spike is a few steps long.
        dataset: The images; digits or cifar10 by the size.
        examples: Number of images.
        seed: Seed of data and initial parameters.
    """
    return pipe(
        images(size, seed, dataset=dataset, examples=examples),
        fully_connected(size, seed),
        loss_of(size),
        optimizer(
            "adam", lr=by_size(size, lr, small=1e-2, paper=3.2e-4), beta2=beta2, eps=EPS[size]
        ),
        track("preconditioned_sharpness", every=every),
        train(by_size(size, steps, small=1500, paper=PAPER_STEPS)),
        plot("spikes"),
    )
