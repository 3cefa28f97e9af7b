"""E10 to E14: the effect of Adam's other settings on the curvature."""

import numpy as np

from aeoskit_experiments.ledger._claim import OutOfReach, RunSpec, claim
from aeoskit_experiments.ledger._evidence import Evidence

GRID = RunSpec("e10-grid")
REPORT = RunSpec("e12-generalization")
WARMUP = RunSpec("e11-warmup")
SPIKES = RunSpec("e14-spikes")

# E10


def _values(run: Evidence, name: str) -> list[float | int]:
    """The values of a swept option, the smallest first."""
    return sorted({row[name] for row in run.rows()})


@claim(
    "E10",
    "smaller-is-sharper",
    says="a smaller η ends in sharper regions: raw sharpness at the smallest over the largest η, "
    "minimum over β₂",
    unit="×",
    needs=GRID,
)
def smaller_is_sharper(run: Evidence) -> float:
    """Final raw sharpness at the smallest over that at the largest rate, minimum over β₂."""
    rates = _values(run, "lr")
    return min(
        run.end("sharpness", lr=rates[0], beta2=beta2)
        / run.end("sharpness", lr=rates[-1], beta2=beta2)
        for beta2 in _values(run, "beta2")
    )


@claim(
    "E10",
    "large-beta2-moves-h",
    says="as λ₁(P⁻¹H) falls, H changes more at a large β₂, P at a small one: difference of H's "
    "shares",
    needs=GRID,
)
def large_beta2_moves_h(run: Evidence) -> float:
    """The share of H in the falls, at the largest β₂ minus that at the smallest.

    It is measured at the largest learning rate, where the falls are largest.
    """
    betas, rate = _values(run, "beta2"), _values(run, "lr")[-1]
    return _part_of_h(run, rate, betas[-1]) - _part_of_h(run, rate, betas[0])


def _part_of_h(run: Evidence, lr: float, beta2: float) -> float:
    """The fraction of all falls of log λ₁(P⁻¹H) from the edge on by which log λ₁(H) fell."""
    from aeoskit_experiments.execution import measured

    edge = run.edge_step(lr=lr, beta2=beta2)
    dataset = run.metrics(lr=lr, beta2=beta2)
    steps, ratio = measured(dataset, "ratio")
    at, sharpness = measured(dataset, "sharpness")
    if not np.array_equal(steps, at):
        raise OutOfReach("both sharpnesses must be measured at the same steps")
    later = steps >= edge
    falls = np.diff(np.log(ratio[later]))
    of_h = np.diff(np.log(sharpness[later]))
    down = falls < 0
    if not down.any():
        raise OutOfReach("the ratio never fell after the edge")
    return float(of_h[down].sum() / falls[down].sum())


@claim(
    "E10",
    "ratio",
    says="the ratio is near 1 everywhere on the grid: the value farthest from 1",
    ratio=True,
    needs=GRID,
)
def grid_ratio(run: Evidence) -> float:
    """The ratio that is farthest from 1."""
    ratios = [run.ratio(lr=row["lr"], beta2=row["beta2"]) for row in run.rows()]
    return max(ratios, key=lambda value: abs(value - 1))


# E11


@claim(
    "E11",
    "below",
    says="in the first fifth of the warmup, the ratio to each step's threshold is below 1",
    ratio=True,
    needs=WARMUP,
)
def below(run: Evidence) -> float:
    """The median ratio over the first fifth of the longest warmup."""
    warmup = _values(run, "warmup")[-1]
    return run.median("ratio", warmup=warmup, first=1, last=warmup / 5)


@claim(
    "E11",
    "curvature",
    says="warmup lowers the curvature in mid-training: with warmup over without",
    needs=WARMUP,
)
def curvature(run: Evidence) -> float:
    """The median raw sharpness over the middle third, with the longest warmup over without."""
    none, *_, warmup = _values(run, "warmup")
    steps = run.row(warmup=warmup)["steps"]
    window = {"first": steps / 3, "last": 2 * steps / 3}
    with_warmup = run.median("sharpness", warmup=warmup, **window)
    return with_warmup / run.median("sharpness", warmup=none, **window)


# E12


@claim(
    "E12",
    "report",
    says="a report, not a claim: share of the grid with both a sharpness and a test error",
    needs=REPORT,
)
def report(run: Evidence) -> float:
    """The fraction of the report that is complete."""
    rows = run.rows()
    whole = [
        row
        for row in rows
        if row.get("diverged_at") is None
        and all(row.get(name) is not None for name in ("sharpness", "test_error"))
    ]
    return len(whole) / len(rows)


# E13


@claim(
    "E13",
    "heavy-ball",
    says="with ε ≫ √ν, Adam is momentum with learning rate η/ε: raw sharpness stops at 38ε/η",
    ratio=True,
    needs=RunSpec("e13-epsilon", "eps-1"),
)
def heavy_ball(run: Evidence) -> float:
    """The raw sharpness over 38ε/η at the largest ε."""
    return run.end("sharpness") / (run.row()["threshold"] * 1.0)


@claim(
    "E13",
    "adam",
    says="with a small ε, the ratio is that of Adam",
    ratio=True,
    needs=RunSpec("e13-epsilon", "eps-1e-07"),
)
def adam(run: Evidence) -> float:
    """The ratio at the smallest ε."""
    return run.ratio()


@claim(
    "E13",
    "beyond",
    says="with a small ε, raw sharpness rises far above 38ε/η, which is no limit then",
    unit="×",
    needs=RunSpec("e13-epsilon", "eps-1e-07"),
)
def beyond(run: Evidence) -> float:
    """The raw sharpness over 38ε/η at the smallest ε."""
    return run.end("sharpness") / (run.row()["threshold"] * 1e-7)


# E14

FEWEST = 3
"""The smallest number of spikes that is judged."""

BEFORE = 15
"""Steps before a spike's peak in which an overshoot counts."""


@claim(
    "E14",
    "overshoot",
    says="at a large β₂, loss spikes follow overshoots of λ₁(P⁻¹H): share of spikes",
    needs=SPIKES,
)
def overshoot(run: Evidence) -> float:
    """The fraction of the spikes before which the ratio was above 1."""
    beta2 = _values(run, "beta2")[-1]
    return float(np.mean(_highest_before(run, beta2, _peaks(run, beta2)) > 1))


@claim(
    "E14",
    "no-coincidence",
    says="spikes follow overshoots more often than by chance: share of spikes minus that of all "
    "steps at the edge",
    needs=SPIKES,
)
def no_coincidence(run: Evidence) -> float:
    """The fraction of spikes after an overshoot, minus that of all windows."""
    beta2 = _values(run, "beta2")[-1]
    steps = run.row(beta2=beta2)["steps"]
    anywhere = np.arange(run.edge_step(beta2=beta2) + BEFORE, steps)
    after = _highest_before(run, beta2, _peaks(run, beta2)) > 1
    return float(np.mean(after)) - float(np.mean(_highest_before(run, beta2, anywhere) > 1))


@claim(
    "E14",
    "height",
    says="spikes are higher at a large β₂ than at a small one: ratio of the median heights",
    needs=SPIKES,
)
def height(run: Evidence) -> float:
    """The median height of the spikes at the largest β₂ over that at the smallest."""
    betas = _values(run, "beta2")
    large, small = (
        np.median([spike.height for spike in _spikes(run, beta2)])
        for beta2 in (betas[-1], betas[0])
    )
    return float(large / small)


def _spikes(run: Evidence, beta2: float) -> list:
    from aeoskit.figures import find_spikes
    from aeoskit_experiments.execution import measured

    edge = run.edge_step(beta2=beta2)
    found = [
        spike
        for spike in find_spikes(*measured(run.metrics(beta2=beta2), "loss"))
        if spike.onset >= edge
    ]
    if len(found) < FEWEST:
        raise OutOfReach(
            f"at β₂ = {beta2:g} there were {len(found)} spikes after the edge, and at least "
            f"{FEWEST} are needed"
        )
    return found


def _peaks(run: Evidence, beta2: float) -> np.ndarray:
    return np.array([spike.peak for spike in _spikes(run, beta2)])


def _highest_before(run: Evidence, beta2: float, steps: np.ndarray) -> np.ndarray:
    """The highest ratio within the window before each of these steps."""
    from aeoskit_experiments.execution import measured

    at, ratio = measured(run.metrics(beta2=beta2), "ratio")
    return np.array([ratio[(at > step - BEFORE) & (at <= step)].max() for step in steps])
