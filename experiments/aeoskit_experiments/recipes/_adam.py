"""E1, E2 and E3: full-batch Adam reaches its own threshold, whatever its settings."""

from collections.abc import Sequence

from aeoskit_experiments.pipelines import (
    Pipeline,
    branch,
    optimizer,
    pipe,
    plot,
    track,
    train,
)
from aeoskit_experiments.recipes._registry import recipe
from aeoskit_experiments.recipes._rewound import rewound
from aeoskit_experiments.recipes._settings import (
    EPS,
    PAPER_STEPS,
    Dataset,
    Floats,
    Ints,
    Size,
    by_size,
    fully_connected,
    images,
    loss_of,
)


@recipe
def e01_learning_rate(
    *,
    size: Size = "small",
    lr: Floats | None = None,
    steps: int | None = None,
    every: int = 10,
    dataset: Dataset | None = None,
    examples: int | None = None,
    seed: int = 0,
) -> Pipeline:
    """Full-batch Adam, several learning rates: each reaches its own 38/lr and hovers (E1).

    Args:
        size: Small (digits, minutes on two cores) or the paper's, on CIFAR-10.
        lr: Learning rates, trained side by side.
        steps: Steps of full-batch training.
        every: Steps between two measurements.
        dataset: The images; digits or cifar10 by the size.
        examples: Number of images.
        seed: Seed of data and initial parameters.
    """
    rates = by_size(size, lr, small=(1e-3, 3e-3, 1e-2), paper=(3e-5, 1e-4, 3.2e-4, 1e-3))
    beta2 = 0.999 if size == "paper" else 0.99
    return pipe(
        images(size, seed, dataset=dataset, examples=examples),
        fully_connected(size, seed),
        loss_of(size),
        optimizer("adam", lr=rates, beta1=0.9, beta2=beta2, eps=EPS[size]),
        track("preconditioned_sharpness", every=every),
        train(by_size(size, steps, small=1500, paper=PAPER_STEPS)),
        plot("edge"),
    )


@recipe
def e02_momentum(
    *,
    size: Size = "small",
    beta1: Floats | None = None,
    lr: float | None = None,
    steps: int | None = None,
    every: int = 10,
    dataset: Dataset | None = None,
    examples: int | None = None,
    seed: int = 0,
) -> Pipeline:
    """Full-batch Adam, several momenta: the plateau follows (2 + 2 beta1)/((1 - beta1) lr) (E2).

    Args:
        size: Small (digits, minutes on two cores) or the paper's, on CIFAR-10.
        beta1: Momenta, trained side by side; each doubles the threshold, or nearly so.
        lr: Learning rate.
        steps: Steps of full-batch training.
        every: Steps between two measurements.
        dataset: The images; digits or cifar10 by the size.
        examples: Number of images.
        seed: Seed of data and initial parameters.
    """
    momenta = by_size(
        size, beta1, small=(0.64, 0.814, 0.903, 0.95), paper=(0.64, 0.814, 0.903, 0.95)
    )
    beta2 = 0.999 if size == "paper" else 0.99
    rate = by_size(size, lr, small=3e-3, paper=1e-4)
    return pipe(
        images(size, seed, dataset=dataset, examples=examples),
        fully_connected(size, seed),
        loss_of(size),
        optimizer("adam", lr=rate, beta1=momenta, beta2=beta2, eps=EPS[size]),
        track("preconditioned_sharpness", every=every),
        train(by_size(size, steps, small=1500, paper=PAPER_STEPS)),
        plot("edge"),
    )


@recipe
def e03_frozen(
    *,
    size: Size = "small",
    run: str | None = None,
    freeze_at: Ints | None = None,
    lr: float | None = None,
    steps: int | None = None,
    every: int | None = None,
    dataset: Dataset | None = None,
    examples: int | None = None,
    seed: int | None = None,
) -> Pipeline:
    """Adam with its preconditioner frozen: λ₁(P⁻¹H) rises to the same threshold and stays (E3).

    Args:
        size: Small (digits, minutes on two cores) or the paper's, on CIFAR-10.
        run: A run to rewind, whose stages are used; none trains one here.
        freeze_at: Steps at which P is frozen, each in a branch of its own.
        lr: Learning rate; not for a rewound run.
        steps: Steps of full-batch training.
        every: Steps between two measurements, 10 if not given; not for a rewound run.
        dataset: The images, digits or cifar10 by the size; not for a rewound run.
        examples: Number of images; not for a rewound run.
        seed: Seed of data and initial parameters, 0 if not given; not for a rewound run.
    """
    given = by_size(size, freeze_at, small=(60, 80), paper=(250, 500, 1000))
    freezes = sorted(given) if isinstance(given, Sequence) else [given]
    if run is not None:
        first, *_ = freezes
        return pipe(
            *rewound(
                run, first, steps, lr=lr, every=every, dataset=dataset, examples=examples, seed=seed
            ),
            *(
                branch("freeze", at="start" if at == first else at, name=f"frozen-{at}")
                for at in freezes
            ),
            plot("edge"),
        )
    seed = 0 if seed is None else seed
    return pipe(
        # Random labels, and time: frozen well before the edge, a branch still comes to it.
        images(size, seed, dataset=dataset, examples=examples, small_noise=1.0),
        fully_connected(size, seed),
        loss_of(size),
        optimizer(
            "adam",
            lr=by_size(size, lr, small=1e-2, paper=1e-4),
            beta1=0.9,
            beta2=0.999 if size == "paper" else 0.99,
            eps=EPS[size],
        ),
        track("preconditioned_sharpness", every=10 if every is None else every),
        train(by_size(size, steps, small=4000, paper=PAPER_STEPS)),
        *(branch("freeze", at=at, name=f"frozen-{at}") for at in freezes),
        plot("edge"),
    )
