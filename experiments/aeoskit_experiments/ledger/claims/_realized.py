"""E16: at the edge by what the steps do, whatever β₂ and whatever the ratio."""

import functools
import itertools

from aeoskit_experiments.ledger._claim import Measured, OutOfReach, Refuted, RunSpec, claim
from aeoskit_experiments.ledger._evidence import Evidence
from aeoskit_experiments.ledger.claims._edges import realized

CASES = {
    "adam": "Adam",
    "adamw": "AdamW",
    "nadam": "NAdam",
    "rmsprop": "RMSProp",
    "adabelief": "AdaBelief",
    "adafactor": "Adafactor",
    "padam": "Padam",
    "amsgrad": "AMSGrad",
    "gradient_descent": "gradient descent",
    "momentum": "momentum",
    "adagrad": "Adagrad",
    "shampoo": "Shampoo",
}
WITHOUT = ("adafactor", "gradient_descent", "momentum", "adagrad", "shampoo")
"""Those without a β₂ to sweep."""

SPECS = {name: RunSpec("e16-realized", name) for name in CASES}


def _values_of(row: dict) -> dict:
    """The values that select a run of an optimizer: its β₂, if that is swept."""
    return {} if row.get("beta2") is None else {"beta2": row["beta2"]}


def _realized(run: Evidence, first: float = 0.0, last: float = 1.0) -> Measured:
    """The ζ that is farthest from 1, of the β₂ between two; and the highest one before arrival."""
    found = []
    for row in run.rows():
        values = _values_of(row)
        if first <= values.get("beta2", first) <= last:
            try:
                found.append(realized(run, **values))
            except OutOfReach as reason:
                words = f"at β₂ = {row['beta2']:g} " if values else ""
                raise OutOfReach(f"{words}{reason}") from None
    before = [item.alternative for item in found if item.alternative is not None]
    zeta = max((item.value for item in found), key=lambda value: abs(value - 1))
    return Measured(zeta, max(before, default=None))


BEFORE = "the median ζ before the runs arrived, the highest one"

SMALL_BETA2 = 0.5
"""Adam at a β₂ up to this has bounds of its own."""

for _name, _words in CASES.items():
    _parts = {"": (0.0, 1.0)}
    if _name == "adam":
        _parts = {"": (0.8, 1.0), "-small-beta2": (0.0, SMALL_BETA2)}
    for _suffix, (_first, _last) in _parts.items():
        _which = "" if _name in WITHOUT else ", the farthest from 1 of all β₂"
        if _name == "adam":
            _which += f" (from {max(_first, 0.1):g} to {min(_last, 0.999):g})"
        claim(
            "E16",
            f"realized-{_name}{_suffix}",
            says=f"with {_words} at the edge, steps gain nothing: median ζ over the last fifth"
            f"{_which}",
            alternative=BEFORE,
            needs=SPECS[_name],
            sizes=("small",),
        )(functools.partial(_realized, first=_first, last=_last))

LARGE_BETA2 = 0.95
"""Below it P forgets sooner than the momentum, and ζ rises from the first steps on."""


@claim(
    "E16",
    "below",
    says="before the edge, steps gain what the gradient promises: the least running median of ζ "
    "before arrival, the highest of all optimizers at each β₂ of .95 or more",
    alternative="the least running median of ζ over the last fifth, the lowest of all",
    needs=tuple(SPECS.values()),
    sizes=("small",),
)
def below(*runs: Evidence) -> Measured:
    """The least ζ before arrival, the highest of all runs; and the least one in the end."""
    before, after = [], []
    for run in runs:
        for row in run.rows():
            values = _values_of(row)
            if values.get("beta2", 1.0) >= LARGE_BETA2:
                run.trained(**values)
                steps, zeta = run.curve("realized_edge", **values)
                early = zeta[steps < run.arrived(**values)]
                if not early.size:
                    raise OutOfReach(f"{row['optimizer']} was at the edge at once")
                before.append(float(early.min()))
                after.append(float(zeta[steps >= 0.8 * row["steps"]].min()))
    return Measured(max(before), min(after), f"of {len(before)} runs")


@claim(
    "E16",
    "offset",
    says="the ratio at the edge depends on β₂, since P moves within the step: RMSProp's at β₂ = .1 "
    "over that at .99; it falls from each β₂ to the next up to there",
    alternative="its ratio at β₂ = .99 over that at .999, where P hardly moves",
    unit="×",
    needs=SPECS["rmsprop"],
    sizes=("small",),
)
def offset(run: Evidence) -> Measured:
    """The ratio at the smallest β₂ over that at .99, if it falls from each to the next."""
    rows = sorted(run.rows(), key=lambda row: row["beta2"])
    ratios = {row["beta2"]: run.ratio(beta2=row["beta2"]) for row in rows}
    *falling, _ = ratios.values()
    if any(later > earlier for earlier, later in itertools.pairwise(falling)):
        words = ", ".join(f"{ratio:.3g}" for ratio in ratios.values())
        raise Refuted(f"the ratio does not fall from each β₂ to the next: {words}")
    first, *_, large, largest = ratios.values()
    return Measured(first / large, large / largest)
