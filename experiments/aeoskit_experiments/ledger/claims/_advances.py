"""E7 to E9: Adam advances into sharp regions; momentum and a held P are blocked."""

from aeoskit_experiments.ledger._claim import Measured, OutOfReach, RunSpec, claim
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
# Momentum has its own learning rate, and is compared with Adam.
_MOMENTUM = tuple(
    RunSpec(
        "e08-blocked",
        setting=setting,
        options={name: value for name, value in options.items() if name != "lr"},
    )
    for setting, options in SETTINGS.items()
    if not setting.startswith("lr")
)
MOMENTUM = tuple(
    spec
    for momentum in _MOMENTUM
    for spec in (momentum, *(adam for adam in ADAM if adam.setting == momentum.setting))
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
    says="Adam's raw sharpness keeps growing at the threshold: its peak over its value when the "
    "ratio had risen to .9",
    alternative="the growth of the preconditioned sharpness, which is that of H if P stood still",
    unit="×",
    needs=ADAM,
)
def growth(run: Evidence) -> Measured:
    """Peak of the raw sharpness after the rise over its value there; the minimum of a sweep."""
    rates = _rates(run)
    raw, other = (
        [_growth(run, name, lr) for lr in rates]
        for name in ("sharpness", "preconditioned_sharpness")
    )
    try:
        zeta = max(_median(run, "realized_edge", lr) for lr in rates)
        note = f"the median ζ there is {zeta:.2g}"
    except OutOfReach:
        note = ""
    return Measured(min(raw), max(other), note)


@claim(
    "E7",
    "ratio",
    says="Adam's preconditioned sharpness stays at its threshold: median ratio from its rise to .9 "
    "on",
    alternative="the ratio over the first fifty steps, where the run came from",
    ratio=True,
    needs=ADAM,
)
def ratio(run: Evidence) -> Measured:
    """The median ratio at the threshold; for a sweep the one farthest from 1."""
    found = [Measured(_median(run, "ratio", lr), run.origin(lr=lr)) for lr in _rates(run)]
    return max(found, key=lambda item: abs(item.value - 1))


@claim(
    "E7",
    "compensates",
    says="the preconditioner adapts to compensate: growth of vᵀPv over that of λ₁(H), from the "
    "rise of the ratio to the peak of λ₁(H); v is the top direction of P⁻¹H, of unit length",
    alternative="the same with a P that stood still",
    needs=ADAM,
)
def compensates(run: Evidence) -> Measured:
    """Growth of P along the top direction over that of H; for a sweep the farthest from 1."""
    found = []
    for lr in _rates(run):
        risen = run.risen(lr=lr)
        steps, raw = run.curve("sharpness", lr=lr)
        peak = run.peak("sharpness", first=risen, lr=lr)
        top = float(steps[(steps >= risen) & (raw == peak)][0])
        of_h, of_p = (
            run.value_at(name, top, lr=lr) / run.value_at(name, risen, lr=lr)
            for name in ("sharpness", "metric_at_top")
        )
        found.append(Measured(of_p / of_h, 1 / of_h))
    return max(found, key=lambda item: abs(item.value - 1))


@claim(
    "E8",
    "peak",
    says="momentum's raw sharpness is blocked at its threshold: the peak of its running median "
    "over 50 steps, over the threshold",
    alternative="Adam's peak on the same data, over that threshold",
    ratio=True,
    needs=MOMENTUM,
)
def momentum_peak(run: Evidence, adam: Evidence) -> Measured:
    """Momentum's peak over its threshold, and its highest single value in the note."""
    from aeoskit_experiments.execution import measured

    threshold = run.at_edge()["threshold"]
    steps, values = measured(run.metrics(), "sharpness")
    single = values[steps <= run.fitted_step()].max() / threshold
    other = max(adam.peak("sharpness", lr=lr) for lr in _rates(adam)) / threshold
    note = f"single values go up to {single:.3g}"
    return Measured(run.peak("sharpness") / threshold, other, note)


@claim(
    "E8",
    "blocked",
    says="momentum hovers at its threshold, where its steps gain nothing: median over threshold "
    "while it is at the edge by ζ",
    alternative="Adam's raw sharpness at its threshold on the same data, over that of momentum",
    ratio=True,
    needs=MOMENTUM,
)
def blocked(run: Evidence, adam: Evidence) -> Measured:
    """The median of the raw sharpness at the edge, over the threshold."""
    row = run.at_edge()
    others = []
    for lr in _rates(adam):
        others.append(_median(adam, "sharpness", lr))
    note = f"ζ is {row['zeta']:.3g}"
    return Measured(run.ratio(), min(others) / row["threshold"], note)


@claim(
    "E9",
    "continued",
    says="the branch that continues Adam keeps advancing: its peak over its value at the "
    "branch point",
    alternative="the same of the branch with P frozen",
    unit="×",
    needs=BRANCHES,
)
def continued(run: Evidence) -> Measured:
    """The continued branch's peak over its value where the others begin."""
    return Measured(_continued(run), _frozen(run))


@claim(
    "E9",
    "frozen-growth",
    says="with P frozen, raw sharpness stops growing: its peak over its value at the freeze",
    alternative="the same of the branch that continues Adam",
    unit="×",
    needs=BRANCHES,
)
def frozen_growth(run: Evidence) -> Measured:
    """The frozen branch's peak over its value at the freeze."""
    return Measured(_frozen(run), _continued(run))


@claim(
    "E9",
    "momentum-peak",
    says="switched to momentum at .95 of its threshold, raw sharpness is blocked there: the peak "
    "of its running median over 50 steps, over the threshold",
    alternative="the peak of the branch that continues Adam, over that threshold",
    ratio=True,
    needs=BRANCHES,
)
def switched_peak(run: Evidence) -> Measured:
    """The switched branch's peak over its threshold."""
    threshold = run.row("momentum")["threshold"]
    adam = run.peak("sharpness", first=_start(run, "momentum"))
    return Measured(run.peak("sharpness", "momentum") / threshold, adam / threshold)


def _rates(run: Evidence) -> list[float | int]:
    """The learning rates: one at the small size, four side by side at the paper's."""
    return [row["lr"] for row in run.rows()]


def _growth(run: Evidence, name: str, lr: float | int) -> float:
    risen = run.risen(lr=lr)
    return run.peak(name, first=risen, lr=lr) / run.value_at(name, risen, lr=lr)


def _median(run: Evidence, name: str, lr: float | int) -> float:
    """The median from the rise of the ratio until the data are fitted."""
    return run.median(name, first=run.risen(lr=lr), last=run.fitted_step(lr=lr), lr=lr)


def _continued(run: Evidence) -> float:
    start = _start(run, "frozen")
    return run.peak("sharpness", first=start) / run.value_at("sharpness", start)


def _frozen(run: Evidence) -> float:
    start = _start(run, "frozen")
    return run.peak("sharpness", "frozen") / run.value_at("sharpness", start, "frozen")


def _start(run: Evidence, branch: str) -> float:
    """The first step of a branch."""
    steps, _ = run.curve("sharpness", branch)
    return float(steps[0])
