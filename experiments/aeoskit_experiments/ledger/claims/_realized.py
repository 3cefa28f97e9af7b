"""E16: at the edge by what the steps do, whatever β₂ and whatever the ratio."""

import functools
import itertools

from aeoskit_experiments.ledger._claim import Measured, OutOfReach, Refuted, RunSpec, claim
from aeoskit_experiments.ledger._evidence import Evidence, finite

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
SPECS = {name: RunSpec("e16-realized", name) for name in CASES}
SMALL_BETA2 = 0.5
"""Adam at a β₂ up to this has bounds of its own."""


def _is_small(row: dict) -> bool:
    return row.get("beta2") is not None and row["beta2"] <= SMALL_BETA2


def _lanes(run: Evidence) -> list[dict]:
    """The summaries of all runs of one optimizer, which were at the edge."""
    for row in run.rows():
        values = {"beta2": row["beta2"]} if row.get("beta2") is not None else {}
        run.trained(**values)
        try:
            run.at_edge(**values)
        except OutOfReach as reason:
            words = f"at β₂ = {row['beta2']:g} " if values else ""
            raise OutOfReach(f"{words}{reason}") from None
    return run.rows()


def _realized(run: Evidence, small: bool | None = None) -> Measured:
    """The ζ that is farthest from 1; and the highest one before arrival."""
    rows = [row for row in _lanes(run) if small is None or _is_small(row) == small]
    zetas = [finite(row.get("zeta"), "ζ is not known") for row in rows]
    before = [row["zeta_before"] for row in rows if row.get("zeta_before") is not None]
    return Measured(max(zetas, key=lambda zeta: abs(zeta - 1)), max(before, default=None))


BEFORE = "the median ζ before the runs arrived, the highest one"

for _name, _words in CASES.items():
    _parts = {"": None} if _name != "adam" else {"": False, "-small-beta2": True}
    for _suffix, _small in _parts.items():
        _which = "" if _small is None else " and β₂ ≤ .5" if _small else " and β₂ ≥ .8"
        claim(
            "E16",
            f"realized-{_name}{_suffix}",
            says=f"with {_words}{_which} at the edge, steps gain nothing: the median ζ farthest "
            f"from 1, of all β₂",
            alternative=BEFORE,
            needs=SPECS[_name],
        )(functools.partial(_realized, small=_small))


@claim(
    "E16",
    "below",
    says="before the edge, steps gain what the gradient promises: the highest median ζ of all "
    "optimizers and β₂ before they arrive",
    alternative="the lowest median ζ at the edge",
    needs=tuple(SPECS.values()),
)
def below(*runs: Evidence) -> Measured:
    """The highest ζ before arrival, of the runs that arrived; and the lowest one after."""
    rows = [row for run in runs for row in run.rows() if row.get("arrived") is not None]
    known = [row for row in rows if row.get("zeta_before") is not None]
    if not known:
        raise OutOfReach("no run arrived at the edge")
    note = f"of {len(known)} runs that arrived, out of {sum(len(run.rows()) for run in runs)}"
    before = max(row["zeta_before"] for row in known)
    return Measured(before, min(row["zeta"] for row in known), note)


@claim(
    "E16",
    "offset",
    says="the ratio at the edge depends on β₂, since P moves within the step: RMSProp's at β₂ = .1 "
    "over that at .99; it falls all the way",
    alternative="the same quotient of ζ, which does not depend on β₂",
    unit="×",
    needs=SPECS["rmsprop"],
)
def offset(run: Evidence) -> Measured:
    """The ratio at the smallest β₂ over that at .99, if it falls from each to the next."""
    rows = sorted(_lanes(run), key=lambda row: row["beta2"])
    ratios = [finite(row.get("ratio"), "no ratio was measured") for row in rows]
    if any(later > earlier for earlier, later in itertools.pairwise(ratios)):
        words = ", ".join(f"{ratio:.3g}" for ratio in ratios)
        raise Refuted(f"the ratio does not fall from each β₂ to the next: {words}")
    small, large = rows[0], run.row(beta2=0.99)
    return Measured(small["ratio"] / large["ratio"], small["zeta"] / large["zeta"])
