"""E7, E8 and E9, which read the same run: Adam advances, momentum and a held P are blocked."""

from aeoskit_experiments.ledger._claim import Work, claim
from aeoskit_experiments.ledger._evidence import NOT_AT_THE_EDGE, Evidence

ADVANCE = (
    Work("advance"),
    Work("advance", setting="lr 1e-4", options={"lr": 1e-4, "examples": 1500}),
)


def _of_adam(run: Evidence, name: str) -> float:
    """A number of the main run from the edge on, or why there is none."""
    return run.number(name, NOT_AT_THE_EDGE.format(steps=run.rows()[0].get("steps")))


def _of_the_branch(run: Evidence, name: str, branch: str) -> float:
    """A number of a branch, or why there is none."""
    run.row(branch)
    return run.number(name, f"nothing was measured on branch {branch}")


@claim(
    "E7",
    "growth",
    says="Adam's raw sharpness keeps growing at the edge: its peak over its value on arrival",
    unit="×",
    needs=ADVANCE,
)
def growth(run: Evidence) -> float:
    """Peak of the raw sharpness after the edge over its value there."""
    return _of_adam(run, "growth")


@claim(
    "E7",
    "ratio",
    says="meanwhile Adam's preconditioned sharpness stays at its threshold",
    needs=ADVANCE,
)
def ratio(run: Evidence) -> float:
    """The median ratio from the edge on."""
    return _of_adam(run, "ratio")


@claim(
    "E8",
    "momentum-peak",
    says="momentum's raw sharpness never passes its threshold: its peak over that",
    needs=ADVANCE,
)
def momentum_peak(run: Evidence) -> float:
    """Momentum's peak over its threshold."""
    return _of_the_branch(run, "momentum_peak", "momentum")


@claim(
    "E9",
    "frozen-growth",
    says="with P held, the raw sharpness stops growing: its peak over its value at the freeze",
    unit="×",
    needs=ADVANCE,
)
def frozen_growth(run: Evidence) -> float:
    """The frozen branch's peak over its value at the freeze."""
    return _of_the_branch(run, "frozen_growth", "frozen")


@claim(
    "E9",
    "frozen-to-peak",
    says="with P held, the raw sharpness stays far below where Adam takes it: peak over peak",
    needs=ADVANCE,
)
def frozen_to_peak(run: Evidence) -> float:
    """The frozen branch's peak over Adam's."""
    return _of_the_branch(run, "frozen_to_peak", "frozen")
