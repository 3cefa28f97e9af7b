"""E7 to E9: Adam advances into sharp regions; momentum and a held P are blocked."""

import numpy as np

from aeoskit_experiments.ledger._claim import OutOfReach, RunSpec, claim
from aeoskit_experiments.ledger._evidence import Evidence

# The grid of all three: learning rates, other data sets, a second architecture.
SETTINGS = {
    "reference": {},
    "lr 5e-5": {"lr": 5e-5},
    "lr 1e-4": {"lr": 1e-4, "examples": 1500},
    "mnist5k": {"dataset": "mnist5k"},
    "fashion_mnist": {"dataset": "fashion_mnist"},
    "cnn": {"architecture": "cnn"},
}

ADAM = tuple(
    RunSpec("e07-advance", setting=setting, options=options)
    for setting, options in SETTINGS.items()
)
# Momentum has its own learning rate.
MOMENTUM = tuple(
    RunSpec(
        "e08-blocked",
        setting=setting,
        options={name: value for name, value in options.items() if name != "lr"},
    )
    for setting, options in SETTINGS.items()
    if not setting.startswith("lr")
)
BRANCHES = tuple(
    RunSpec("e09-branches", setting=work.setting, rewinds=work) for work in ADAM
) + tuple(
    # Later freezes than at the edge.
    RunSpec("e09-branches", setting=f"at {step}", options={"at": step}, rewinds=ADAM[0])
    for step in (1600, 2000)
)


@claim(
    "E7",
    "growth",
    says="Adam's raw sharpness keeps growing at the edge: its peak over its value on arrival",
    unit="×",
    needs=ADAM,
)
def growth(run: Evidence) -> float:
    """Peak of the raw sharpness after the edge over its value there; the minimum of a sweep."""
    return min(_growth(run, lr) for lr in _rates(run))


@claim(
    "E7",
    "ratio",
    says="Adam's preconditioned sharpness stays at its threshold",
    ratio=True,
    needs=ADAM,
)
def ratio(run: Evidence) -> float:
    """The median ratio from the edge on; for a sweep the one farthest from 1."""
    found = [run.ratio_at_the_edge(lr=lr) for lr in _rates(run)]
    return max(found, key=lambda value: abs(value - 1))


@claim(
    "E8",
    "peak",
    says="momentum's raw sharpness never exceeds its threshold: peak over threshold",
    ratio=True,
    needs=MOMENTUM,
)
def momentum_peak(run: Evidence) -> float:
    """Momentum's peak over its threshold."""
    return run.peak("sharpness") / run.row()["threshold"]


@claim(
    "E8",
    "plateau",
    says="once there, momentum's raw sharpness stays at its threshold: median over threshold",
    ratio=True,
    needs=MOMENTUM,
)
def momentum_plateau(run: Evidence) -> float:
    """The median of the raw sharpness from the edge on, over the threshold."""
    median = run.median("sharpness", first=run.edge_step(), last=run.fitted_step())
    return median / run.row()["threshold"]


@claim(
    "E9",
    "continued",
    says="the branch that continues Adam keeps advancing: its peak over its value at the "
    "branch point",
    unit="×",
    needs=BRANCHES,
)
def continued(run: Evidence) -> float:
    """The continued branch's peak over its value where the others begin."""
    start = _start(run, "frozen")
    return run.peak("sharpness", first=start) / _at(run, "main", start)


@claim(
    "E9",
    "frozen-growth",
    says="with P frozen, raw sharpness stops growing: its peak over its value at the freeze",
    unit="×",
    needs=BRANCHES,
)
def frozen_growth(run: Evidence) -> float:
    """The frozen branch's peak over its value at the freeze."""
    return run.peak("sharpness", "frozen") / _at(run, "frozen", _start(run, "frozen"))


@claim(
    "E9",
    "frozen-to-peak",
    says="with P frozen, raw sharpness stays far below Adam's: its peak over Adam's peak",
    needs=BRANCHES,
)
def frozen_to_peak(run: Evidence) -> float:
    """The frozen branch's peak over Adam's."""
    return run.peak("sharpness", "frozen") / run.peak("sharpness")


@claim(
    "E9",
    "momentum-peak",
    says="switched to momentum at .95 of its threshold, raw sharpness never exceeds it: peak "
    "over threshold",
    ratio=True,
    needs=BRANCHES,
)
def switched_peak(run: Evidence) -> float:
    """The switched branch's peak over its threshold."""
    return run.peak("sharpness", "momentum") / run.row("momentum")["threshold"]


def _rates(run: Evidence) -> list[float | int]:
    """The learning rates: one at the small size, four side by side at the paper's."""
    return [row["lr"] for row in run.rows()]


def _growth(run: Evidence, lr: float | int) -> float:
    edge = run.edge_step(lr=lr)
    return run.peak("sharpness", first=edge, lr=lr) / _at(run, "main", edge, lr=lr)


def _start(run: Evidence, branch: str) -> float:
    """The first step of a branch."""
    return float(_curve(run, branch)[0][0])


def _at(run: Evidence, branch: str, step: float | int, **values: float | int) -> float:
    """The running median of the raw sharpness at the first measurement from a step on."""
    steps, curve = _curve(run, branch, **values)
    later = curve[steps >= step]
    if not later.size:
        raise OutOfReach(f"no sharpness was measured on branch {branch} from step {step:g} on")
    return float(later[0])


def _curve(run: Evidence, branch: str, **values: float | int) -> tuple[np.ndarray, np.ndarray]:
    from aeoskit.figures import running_median
    from aeoskit_experiments.execution import measured

    steps, found = measured(run.metrics(branch, **values), "sharpness")
    if not steps.size:
        raise OutOfReach(f"no sharpness was measured on branch {branch}")
    return steps, running_median(steps, found)
