"""E1 to E6: the ratio to the threshold is 1 for all settings, networks and optimizers."""

import functools
import itertools
import math
from typing import Any

import numpy as np

from aeoskit_experiments.ledger._claim import Measured, OutOfReach, RunSpec, claim
from aeoskit_experiments.ledger._evidence import Evidence, finite

# The other data sets of the grid.
OTHER = {"dataset": "mnist5k", "examples": 1000}
FASHION = {"dataset": "fashion_mnist", "examples": 5000}

CAME_FROM = "the ratio over the first fifty steps, where the run came from"
ELSEWHERE = "the plateau of another run of the sweep over this threshold, the nearest to 1"


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


def _near(values: list[float]) -> float | None:
    """The value nearest to 1, by its logarithm."""
    return min(values, key=lambda value: abs(math.log(value))) if values else None


def ratio_among_others(run: Evidence, **values: Any) -> Measured:
    """The ratio of one run of a sweep; and what it would be at the plateau of another one."""
    own = run.at_edge(**values)
    others = [
        row["ratio"] * row["threshold"] / own["threshold"]
        for row in run.rows()
        if row["threshold"] != own["threshold"]
        and row.get("arrived") is not None
        and row.get("ratio") is not None
    ]
    return Measured(run.ratio(**values), _near(others))


# E1

RATES = {"small": ("1e-3", "3e-3", "1e-2"), "paper": ("3e-5", "1e-4", "3.2e-4", "1e-3")}


def _ratio_at_rate(run: Evidence, rate: str) -> Measured:
    return ratio_among_others(run, lr=float(rate))


for _rate, _sizes in _by_value(RATES).items():
    claim(
        "E1",
        f"lr-{_rate}",
        says=f"Adam at η = {_rate} hovers at its own threshold, 38/η",
        alternative=ELSEWHERE,
        ratio=True,
        needs=_with_others("e01-learning-rate"),
        sizes=_sizes,
    )(functools.partial(_ratio_at_rate, rate=_rate))


@claim(
    "E1",
    "rise",
    says="the ratio rises to its threshold from below: its least running median before the run "
    "arrives, highest of all rates",
    alternative="the least one after the run arrived",
    needs=_with_others("e01-learning-rate"),
)
def rise(run: Evidence) -> Measured:
    """The least ratio before arrival; and the least one at the edge."""
    before, after = [], []
    for row in run.rows():
        lr = row["lr"]
        first, last = run.at_edge(lr=lr)["window"]
        steps, ratio = run.curve("ratio", lr=lr)
        if not (steps < first).any():
            raise OutOfReach(f"at η = {lr:g} nothing was measured before the run arrived")
        before.append(float(ratio[steps < first].min()))
        after.append(float(ratio[(steps >= first) & (steps <= last)].min()))
    return Measured(max(before), min(after))


# E2

MOMENTA = ("0.64", "0.814", "0.903", "0.95")


def _ratio_at_momentum(run: Evidence, beta1: str) -> Measured:
    return ratio_among_others(run, beta1=float(beta1))


for _beta1 in MOMENTA:
    claim(
        "E2",
        f"beta1-{_beta1}",
        says=f"Adam at β₁ = {_beta1} hovers at its own threshold, (2 + 2β₁)/((1 - β₁)η)",
        alternative=ELSEWHERE,
        ratio=True,
        needs=_with_others("e02-momentum"),
    )(functools.partial(_ratio_at_momentum, beta1=_beta1))

# E3

FREEZES = {"small": (60, 80), "paper": (250, 500, 1000)}
FROZEN = (
    RunSpec("e03-frozen"),
    RunSpec("e03-frozen", setting="mnist5k", options=OTHER),
)


BELOW = 0.9
"""A branch frozen at a ratio from here on is at its threshold already."""


def _ratio_frozen(run: Evidence, step: int) -> Measured:
    branch = f"frozen-{step}"
    before = run.value_at("ratio", step, branch)
    if before >= BELOW:
        raise OutOfReach(f"the ratio was {before:.3g} when P was frozen: it could not rise")
    return Measured(run.ratio(branch), before)


for _step, _sizes in _by_value(FREEZES).items():
    claim(
        "E3",
        f"frozen-{_step}",
        says=f"with P frozen at step {_step}, λ₁(P⁻¹H) rises to the threshold and stays there",
        alternative="the ratio when P was frozen",
        ratio=True,
        needs=FROZEN,
        sizes=_sizes,
    )(functools.partial(_ratio_frozen, step=_step))

# E4

ARCHITECTURES = {
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


def ratio_and_origin(run: Evidence) -> Measured:
    """The ratio at the edge; and where the run came from."""
    return Measured(run.ratio(), run.origin())


for _name, _words in ARCHITECTURES.items():
    claim(
        "E4",
        _name,
        says=f"Adam on {_words} hovers at 38/η",
        alternative=CAME_FROM,
        ratio=True,
        needs=RunSpec("e04-architectures", _name),
    )(ratio_and_origin)

# E5

OPTIMIZERS = {
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
        alternative=CAME_FROM,
        ratio=True,
        needs=_with_others("e05-optimizers", _name),
    )(ratio_and_origin)

UNREACHED = 0.5
"""The realized edge under which an optimizer whose P can only grow is not at the edge."""


def realized(run: Evidence, **values: Any) -> Measured:
    """The median ζ over the last fifth of a run; and that before the run arrived."""
    row = run.trained(**values)
    zeta = run.end("realized_edge", **values)
    if zeta < UNREACHED:
        raise OutOfReach(f"ζ is {zeta:.2g} after {row['steps']} steps: the run is below its edge")
    return Measured(zeta, row.get("zeta_before"))


for _name, _words in {"adagrad": "Adagrad", "amsgrad": "AMSGrad as published"}.items():
    claim(
        "E5",
        _name,
        says=f"{_words}, whose P can only grow, gains nothing by its steps: median ζ over the last "
        f"fifth, whatever the ratio",
        alternative="the median ζ before the run arrived",
        needs=_with_others("e05-optimizers", _name),
    )(realized)


@claim(
    "E5",
    "adamw-decay",
    says="decoupled decay lowers the plateau as it does the threshold, by half of η·wd: shift of "
    "the plateau over shift of the threshold",
    alternative="the shift from the third quarter to the last without decay, over that",
    unit="×",
    needs=(RunSpec("e05-optimizers", "adamw-decay"), RunSpec("e05-optimizers", "adam")),
    sizes=("small",),
)
def adamw_decay(decayed: Evidence, adam: Evidence) -> Measured:
    """The relative fall of the plateau with decay over that of the threshold."""
    (top, threshold), (plain, original) = (
        (run.ratio() * run.row()["threshold"], run.row()["threshold"]) for run in (decayed, adam)
    )
    expected = 1 - threshold / original
    steps = adam.row()["steps"]
    early, late = (
        adam.median("ratio", first=first * steps, last=last * steps)
        for first, last in ((0.5, 0.75), (0.75, 1.0))
    )
    return Measured((1 - top / plain) / expected, (1 - late / early) / expected)


# E6

BATCHES = _with_others("e06-batch-size")
BATCHES_WITH_REPLACEMENT = (
    *BATCHES,
    RunSpec("e06-batch-size", setting="with replacement", options={"sampling": "replacement"}),
)


def _sizes_of(run: Evidence) -> list[int]:
    return sorted(row["batch"] for row in run.rows())


@claim(
    "E6",
    "monotone",
    says="the ratio rises with the batch size: the smallest rise from one size to the next",
    alternative="the same of the full batch alone, from a quarter of its last half to the next: "
    "the largest change",
    needs=BATCHES_WITH_REPLACEMENT,
)
def monotone(run: Evidence) -> Measured:
    """The smallest increase of the ratio from one batch size to the next; that over time."""
    sizes = _sizes_of(run)
    ratios = [run.end("ratio", batch=size) for size in sizes]
    last = run.row(batch=sizes[-1])["steps"]
    ends = np.linspace(last / 2, last, 5)
    quarters = [
        run.median("ratio", batch=sizes[-1], first=first, last=end)
        for first, end in itertools.pairwise(ends.tolist())
    ]
    return Measured(float(np.diff(ratios).min()), float(np.abs(np.diff(quarters)).max()))


@claim(
    "E6",
    "noise",
    says="the smaller the batch, the noisier the loss: scatter of its logarithm from step to step "
    "before the edge, smallest batch over half of the examples",
    alternative="the same of one of the two alone, the noisier half of the steps over the other",
    unit="×",
    needs=BATCHES_WITH_REPLACEMENT,
)
def noise(run: Evidence) -> Measured:
    """Standard deviation of the steps of the log loss, smallest batch over the largest minibatch.

    It is that of the training loss, before the edge, where the loss of a large batch oscillates.
    The full batch has no noise: its scatter is the trend's.
    """
    small, *_, half, full = _sizes_of(run)
    first, last = EARLY
    arrived = [run.row(batch=batch).get("arrived") for batch in (half, full)]
    last = min([last, *(step for step in arrived if step is not None)])
    if last - first < FEWEST_STEPS:
        raise OutOfReach(f"a large batch was at the edge at step {last} already")
    middle = (first + last) // 2
    noisy, quiet = (_scatter(run, batch, first, last) for batch in (small, half))
    changes = [
        math.log(_scatter(run, batch, first, middle) / _scatter(run, batch, middle, last))
        for batch in (small, half)
    ]
    return Measured(noisy / quiet, math.exp(max(abs(change) for change in changes)))


def _scatter(run: Evidence, batch: int, first: int, last: int) -> float:
    from aeoskit_experiments.execution import measured

    run.trained(batch=batch)  # raises if it diverged
    at, loss = measured(run.metrics(batch=batch), "loss")
    scatter = float(np.std(np.diff(np.log(loss[(at >= first) & (at <= last)]))))
    return finite(scatter or None, "the loss is constant, or not positive")


EARLY = (20, 100)
"""The first and the last step of a window before the edge, which the edge may cut short."""

FEWEST_STEPS = 20
"""The shortest such window."""

MOVED = 1.3
"""The factor by which raw sharpness has to move for the ratio to have a chance to drift."""


@claim(
    "E6",
    "equilibrates",
    says="with half of the examples in a batch the ratio settles while raw sharpness moves: drift "
    "of the log ratio",
    alternative="the drift of the log of raw sharpness: that of the ratio if P stood still",
    needs=BATCHES,
)
def equilibrates(run: Evidence) -> Measured:
    """The drift of the log ratio over the last two thirds of the run at the largest minibatch."""
    *_, half, _ = _sizes_of(run)
    steps = run.trained(batch=half)["steps"]
    ratio, raw = (_drift(run, name, half, steps) for name in ("ratio", "sharpness"))
    if abs(raw) < math.log(MOVED):
        raise OutOfReach(f"raw sharpness moved by {math.exp(abs(raw)):.2f}, less than {MOVED}")
    note = f"raw sharpness moved by a factor of {math.exp(raw):.2f}"
    return Measured(abs(ratio), abs(raw), note)


def _drift(run: Evidence, name: str, batch: int, steps: int) -> float:
    """The change of a quantity's logarithm over two thirds of a run, between quarters of these."""
    begin, end = (
        run.median(name, batch=batch, first=first * steps, last=last * steps)
        for first, last in ((1 / 3, 1 / 2), (5 / 6, 1.0))
    )
    return math.log(end / begin)
