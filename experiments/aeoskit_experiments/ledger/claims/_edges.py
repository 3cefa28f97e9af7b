"""E1 to E6: the ratio to the threshold is 1 for all settings, networks and optimizers."""

import functools
from typing import Any

import numpy as np

from aeoskit_experiments.ledger._claim import RunSpec, claim
from aeoskit_experiments.ledger._evidence import Evidence, finite

# The other data sets of the grid.
OTHER = {"dataset": "mnist5k", "examples": 1000}
FASHION = {"dataset": "fashion_mnist", "examples": 5000}


def _with_others(recipe: str, case: str = "main", **options: object) -> tuple[RunSpec, ...]:
    """A run in the reference setting, on MNIST and on Fashion-MNIST."""
    return (
        RunSpec(recipe, case, options=options),
        RunSpec(recipe, case, setting="mnist5k", options={**options, **OTHER}),
        RunSpec(recipe, case, setting="fashion_mnist", options={**options, **FASHION}),
    )


def _by_value(values: dict[str, tuple[Any, ...]]) -> dict[Any, tuple[str, ...]]:
    """The sizes at which the recipe has each value."""
    every = dict.fromkeys(value for some in values.values() for value in some)
    return {value: tuple(size for size in values if value in values[size]) for value in every}


# E1

RATES = {"small": ("1e-3", "3e-3", "1e-2"), "paper": ("3e-5", "1e-4", "3.2e-4", "1e-3")}


def _ratio_at_rate(run: Evidence, rate: str) -> float:
    return run.ratio(lr=float(rate))


for _rate, _sizes in _by_value(RATES).items():
    claim(
        "E1",
        f"lr-{_rate}",
        says=f"Adam at η = {_rate} hovers at its own threshold, 38/η",
        ratio=True,
        needs=_with_others("e01-learning-rate"),
        sizes=_sizes,
    )(functools.partial(_ratio_at_rate, rate=_rate))

# E2

MOMENTA = ("0.64", "0.814", "0.903", "0.95")


def _ratio_at_momentum(run: Evidence, beta1: str) -> float:
    return run.ratio(beta1=float(beta1))


for _beta1 in MOMENTA:
    claim(
        "E2",
        f"beta1-{_beta1}",
        says=f"Adam at β₁ = {_beta1} hovers at its own threshold, (2 + 2β₁)/((1 - β₁)η)",
        ratio=True,
        needs=_with_others("e02-momentum"),
    )(functools.partial(_ratio_at_momentum, beta1=_beta1))


@claim(
    "E2",
    "plateau",
    says="the plateaus at β₁ = 0.95 and 0.64 differ as their thresholds do, by 8.56: plateau over "
    "plateau",
    unit="×",
    needs=_with_others("e02-momentum"),
)
def plateau(run: Evidence) -> float:
    """The final ratio of preconditioned sharpness, largest momentum to smallest."""
    high, low = (
        run.end("preconditioned_sharpness", beta1=float(beta1))
        for beta1 in (MOMENTA[-1], MOMENTA[0])
    )
    return high / low


# E3

FREEZES = {"small": (100, 200, 400), "paper": (250, 500, 1000)}
FROZEN = (
    RunSpec("e03-frozen"),
    # On MNIST the ratio with P held from step 100 on reached .9 only at step 3,220.
    RunSpec("e03-frozen", setting="mnist5k", options={**OTHER, "steps": 4000}),
)


def _ratio_frozen(run: Evidence, step: int) -> float:
    return run.ratio(f"frozen-{step}")


for _step, _sizes in _by_value(FREEZES).items():
    claim(
        "E3",
        f"frozen-{_step}",
        says=f"with P frozen at step {_step}, λ₁(P⁻¹H) rises to the threshold and stays there",
        ratio=True,
        needs=FROZEN,
        sizes=_sizes,
    )(functools.partial(_ratio_frozen, step=_step))

# E4

ARCHITECTURES = {
    "mlp": "a fully connected network",
    "cnn": "a convolutional network",
    "vgg": "a VGG",
    "resnet": "a ResNet with group norm",
    "resnet-batch": "a ResNet with batch norm",
    "wide_resnet": "a wide ResNet",
    "vit": "a vision transformer",
    "lstm": "an LSTM on rows of pixels",
    "lstm-tokens": "an LSTM on a Markov chain",
    "transformer": "a transformer on a Markov chain",
    "transformer-text": "a transformer on text",
    "encoder_decoder": "an encoder-decoder on pairs of sequences",
}


def _ratio(run: Evidence) -> float:
    return run.ratio()


for _name, _words in ARCHITECTURES.items():
    claim(
        "E4",
        _name,
        says=f"Adam on {_words} hovers at 38/η",
        ratio=True,
        needs=RunSpec("e04-architectures", _name),
    )(_ratio)

# E5

OPTIMIZERS = {
    "adam": "Adam",
    "adamw": "AdamW",
    "nadam": "NAdam",
    "rmsprop": "RMSProp",
    "adabelief": "AdaBelief",
    "padam": "Padam",
    "adafactor": "Adafactor with momentum",
    "amsgrad-previous": "AMSGrad as in the authors' code",
}

for _name, _words in OPTIMIZERS.items():
    claim(
        "E5",
        _name,
        says=f"{_words} hovers at its own threshold",
        ratio=True,
        needs=_with_others("e05-optimizers", _name),
    )(_ratio)

claim(
    "E5",
    "adagrad",
    says="Adagrad rises to its own threshold or stays below, since its P can only grow",
    ratio=True,
    needs=_with_others("e05-optimizers", "adagrad"),
)(_ratio)

claim(
    "E5",
    "amsgrad",
    says="AMSGrad as published stays below its threshold, since its P can only grow",
    ratio=True,
    needs=_with_others("e05-optimizers", "amsgrad"),
)(_ratio)

# E6

BATCHES = _with_others("e06-batch-size")
BATCHES_WITH_REPLACEMENT = (
    *BATCHES,
    RunSpec("e06-batch-size", setting="with replacement", options={"sampling": "replacement"}),
)


def _ratios(run: Evidence) -> list[float]:
    """The ratios by batch size, the smallest first."""
    sizes = sorted(row["batch"] for row in run.rows())
    return [run.ratio(batch=size) for size in sizes]


@claim(
    "E6",
    "full",
    says="with all examples in the batch, the ratio is that of full-batch training",
    ratio=True,
    needs=BATCHES,
)
def full(run: Evidence) -> float:
    """The ratio at the largest batch."""
    return _ratios(run)[-1]


@claim(
    "E6",
    "smallest",
    says="with the smallest batch, the ratio stays well below 1",
    ratio=True,
    needs=BATCHES_WITH_REPLACEMENT,
)
def smallest(run: Evidence) -> float:
    """The ratio at the smallest batch."""
    return _ratios(run)[0]


@claim(
    "E6",
    "monotone",
    says="the ratio rises with the batch size: the smallest rise from one size to the next",
    needs=BATCHES_WITH_REPLACEMENT,
)
def monotone(run: Evidence) -> float:
    """The smallest increase of the ratio from one batch size to the next."""
    return float(np.diff(_ratios(run)).min())


@claim(
    "E6",
    "noise",
    says="minibatch losses are noisier: scatter of the log loss from step to step, "
    "smallest batch over full",
    unit="×",
    needs=BATCHES_WITH_REPLACEMENT,
)
def noise(run: Evidence) -> float:
    """Standard deviation of the steps of the log loss, smallest batch over the full one.

    It is that of the training loss, over the second half of the run. The eigenvalue itself is not
    noisier below the edge than at it, where it oscillates.
    """
    sizes = sorted(row["batch"] for row in run.rows())
    small, whole = (_scatter(run, size) for size in (sizes[0], sizes[-1]))
    return finite(small / whole if whole > 0 else None, "the full batch's loss is constant")


def _scatter(run: Evidence, batch: int) -> float:
    from aeoskit_experiments.execution import measured

    run.ratio(batch=batch)  # raises if the run diverged
    steps, loss = measured(run.metrics(batch=batch), "loss")
    return float(np.std(np.diff(np.log(loss[steps >= steps[-1] / 2]))))
