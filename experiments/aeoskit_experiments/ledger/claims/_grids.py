"""E10 to E14: the effect of Adam's other settings on the curvature."""

import itertools
import math

import numpy as np

from aeoskit_experiments.ledger._claim import Measured, OutOfReach, Refuted, RunSpec, claim
from aeoskit_experiments.ledger._evidence import Evidence
from aeoskit_experiments.ledger.claims._edges import ratio_among_others

GRID = RunSpec("e10-grid")
REPORT = RunSpec("e12-generalization")
WARMUP = RunSpec("e11-warmup")
SPIKES = RunSpec("e14-spikes")
EPSILON = (RunSpec("e13-epsilon", "eps-1"), RunSpec("e13-epsilon", "eps-1e-07"))


def _values(run: Evidence, name: str) -> list[float | int]:
    """The values of a swept option, the smallest first."""
    return sorted({row[name] for row in run.rows()})


# E10


@claim(
    "E10",
    "smaller-is-sharper",
    says="a smaller η ends in sharper regions: raw sharpness at the smallest over the largest η, "
    "minimum over β₂",
    alternative="raw sharpness at the same η: last fifth over the fifth before, maximum over all",
    unit="×",
    needs=GRID,
)
def smaller_is_sharper(run: Evidence) -> Measured:
    """Final raw sharpness at the smallest over that at the largest rate, minimum over β₂."""
    rates = _values(run, "lr")
    found = [
        run.end("sharpness", lr=rates[0], beta2=beta2)
        / run.end("sharpness", lr=rates[-1], beta2=beta2)
        for beta2 in _values(run, "beta2")
    ]
    return Measured(min(found), max(_late_growth(run, row) for row in run.rows()))


def _late_growth(run: Evidence, row: dict) -> float:
    at = {"lr": row["lr"], "beta2": row["beta2"]}
    window = {"first": 0.6 * row["steps"], "last": 0.8 * row["steps"]}
    return run.end("sharpness", **at) / run.median("sharpness", **window, **at)


SMALL_BETA2 = 0.97
"""Below it P moves so much within a step that the ratio need not be 1 at the edge."""

SMOOTHED = 10
"""Steps over which the curves are averaged whose falls are compared: single steps only jitter."""


@claim(
    "E10",
    "large-beta2-moves-h",
    says="as λ₁(P⁻¹H) falls, H changes more at a large β₂, P at a small one: difference of H's "
    "shares in the falls of curves averaged over ten steps",
    alternative="the difference between the two halves of a run at one β₂, the larger one",
    needs=GRID,
)
def large_beta2_moves_h(run: Evidence) -> Measured:
    """The share of H in the falls, at the largest β₂ minus that at the smallest.

    It is measured at the largest learning rate, where the falls are largest.
    """
    (small, *_, large), rate = _values(run, "beta2"), _values(run, "lr")[-1]
    whole = _part_of_h(run, rate, large) - _part_of_h(run, rate, small)
    halves = [
        _part_of_h(run, rate, beta2, first, last)
        for beta2 in (small, large)
        for first, last in ((0.0, 0.5), (0.5, 1.0))
    ]
    return Measured(whole, max(abs(halves[0] - halves[1]), abs(halves[2] - halves[3])))


def _part_of_h(
    run: Evidence, lr: float, beta2: float, first: float = 0.0, last: float = 1.0
) -> float:
    """The fraction of all falls of log λ₁(P⁻¹H) at the edge by which log λ₁(H) fell.

    Args:
        run: The grid.
        lr: The learning rate.
        beta2: The decay.
        first: Where to begin, as a fraction of the steps from the arrival to the end.
        last: Where to end.
    """
    from aeoskit_experiments.execution import measured

    row = run.at_edge(lr=lr, beta2=beta2)
    span = row["steps"] - row["arrived"]
    dataset = run.metrics(lr=lr, beta2=beta2)
    steps, ratio = measured(dataset, "ratio")
    at, sharpness = measured(dataset, "sharpness")
    if not np.array_equal(steps, at):
        raise OutOfReach("both sharpnesses must be measured at the same steps")
    within = (steps >= row["arrived"] + first * span) & (steps <= row["arrived"] + last * span)
    width = max(1, round(SMOOTHED / np.diff(steps).min()))
    falls, of_h = (
        np.diff(np.convolve(np.log(curve[within]), np.full(width, 1 / width), mode="valid"))
        for curve in (ratio, sharpness)
    )
    down = falls < 0
    if not down.any():
        raise OutOfReach("the ratio never fell after the edge")
    return float(of_h[down].sum() / falls[down].sum())


@claim(
    "E10",
    "ratio",
    says="the ratio is near 1 at each η and each β₂ of .97 or more: the value farthest from 1",
    alternative="the same at the threshold of another η, nearest to 1",
    ratio=True,
    needs=GRID,
)
def grid_ratio(run: Evidence) -> Measured:
    """The ratio that is farthest from 1; and the nearest to 1 at another rate's threshold."""
    found = [
        ratio_among_others(run, lr=row["lr"], beta2=row["beta2"])
        for row in run.rows()
        if row["beta2"] >= SMALL_BETA2
    ]
    farthest = max((item.value for item in found), key=lambda value: abs(value - 1))
    others = [item.alternative for item in found if item.alternative is not None]
    return Measured(farthest, min(others, key=lambda value: abs(math.log(value)), default=None))


# E11


@claim(
    "E11",
    "curvature",
    says="warmup lowers the curvature in mid-training: with warmup over without",
    alternative="without warmup, the later half of mid-training over the earlier",
    needs=WARMUP,
)
def curvature(run: Evidence) -> Measured:
    """The median raw sharpness over the middle third, with the longest warmup over without."""
    none, *_, warmup = _values(run, "warmup")
    steps = run.row(warmup=warmup)["steps"]
    first, middle, last = steps / 3, steps / 2, 2 * steps / 3

    def median(warmup: float | int, first: float, last: float) -> float:
        return run.median("sharpness", warmup=warmup, first=first, last=last)

    return Measured(
        median(warmup, first, last) / median(none, first, last),
        median(none, middle, last) / median(none, first, middle),
    )


# E12

WIDEST = 1.0
"""The width of an interval from which on it says nothing."""


@claim(
    "E12",
    "correlation",
    says="sharpness and test error go together over the grid: size of their rank correlation",
    alternative="the size that 95 % of random pairings stay under",
    needs=REPORT,
)
def correlation(run: Evidence) -> Measured:
    """The size of the rank correlation over the grid; its sign and interval are in the note."""
    pairs = [
        (row["sharpness"], row["test_error"])
        for row in run.rows()
        if row.get("diverged_at") is None
        and row.get("sharpness") is not None
        and row.get("test_error") is not None
    ]
    if len(pairs) < 4:
        raise OutOfReach(f"{len(pairs)} runs have both, and at least 4 are needed")
    sharpness, errors = np.array(pairs).T
    rho, low, high = rank_correlation(sharpness, errors)
    words = f"{rho:.2f} ({low:.2f} to {high:.2f}) over {len(pairs)} runs"
    if high - low > WIDEST:
        raise Refuted(f"the correlation is {words}: its interval is wider than {WIDEST:g}")
    generator = np.random.default_rng(0)
    shuffled = [
        abs(rank_correlation(sharpness, generator.permutation(errors))[0]) for _ in range(400)
    ]
    return Measured(abs(rho), float(np.quantile(shuffled, 0.95)), f"it is {words}")


def rank_correlation(one: np.ndarray, other: np.ndarray) -> tuple[float, float, float]:
    """Spearman's rank correlation and its 95 % interval (Bonett and Wright 2000).

    Args:
        one: Values, (n,).
        other: Values, (n,).

    Returns:
        The correlation and both ends of the interval.

    >>> rho, low, high = rank_correlation(np.arange(20.0), np.arange(20.0) ** 2)
    >>> round(rho, 3), low > 0.99
    (1.0, True)
    """
    if np.ptp(one) == 0 or np.ptp(other) == 0:
        raise OutOfReach("all runs have the same sharpness, or the same test error")
    # Ranks, equal ones in the middle of their places.
    ranks = [
        (values[:, None] > values).sum(1) + (values[:, None] == values).sum(1) / 2
        for values in (one, other)
    ]
    rho = float(np.corrcoef(*ranks)[0, 1])
    error = 1.96 * math.sqrt((1 + rho**2 / 2) / (len(one) - 3))
    center = math.atanh(min(max(rho, -1 + 1e-9), 1 - 1e-9))
    return rho, math.tanh(center - error), math.tanh(center + error)


# E13


@claim(
    "E13",
    "heavy-ball",
    says="with ε ≫ √ν, Adam is momentum with learning rate η/ε: raw sharpness is blocked at "
    "38ε/η, where its steps gain nothing",
    alternative="raw sharpness over 38ε/η at a small ε, which is no limit then",
    ratio=True,
    needs=EPSILON,
)
def heavy_ball(run: Evidence, adam: Evidence) -> Measured:
    """The raw sharpness over 38ε/η at the edge, at the largest ε; and at the smallest."""
    row = run.at_edge()
    run.trained()
    first, last = row["window"]
    value = run.median("sharpness", first=first, last=last) / row["threshold"]
    other = adam.end("sharpness") / (adam.row()["threshold"] * 1e-7)
    return Measured(value, other, f"ζ is {row['zeta']:.3g}")


# E14

FEWEST = 3
"""The smallest number of spikes that is judged."""

BEFORE = 15
"""Steps up to a spike's onset in which an overshoot counts."""


@claim(
    "E14",
    "auc",
    says="at a large β₂, loss spikes follow overshoots of λ₁(P⁻¹H): chance that the highest ratio "
    "in the 15 steps before a spike is above that of another window",
    alternative="the same for spikes at shifted times: what 95 % of 100 shifts stay under",
    needs=SPIKES,
)
def auc(run: Evidence) -> Measured:
    """The area under the curve of the highest ratio as a predictor of a spike."""
    beta2 = _values(run, "beta2")[-1]
    first, last = run.arrived(beta2=beta2) + BEFORE, run.row(beta2=beta2)["steps"]
    onsets = np.array([spike.onset for spike in _spikes(run, beta2)])
    anywhere = np.arange(first, last)
    highest = _highest_before(run, beta2, anywhere)
    shifts = np.random.default_rng(0).integers(1, last - first, 100)
    shifted = [first + (onsets - first + shift) % (last - first) for shift in shifts]
    found = [_auc(anywhere, highest, np.sort(times)) for times in (onsets, *shifted)]
    return Measured(found[0], float(np.quantile(found[1:], 0.95)), f"{len(onsets)} spikes")


def _auc(steps: np.ndarray, highest: np.ndarray, onsets: np.ndarray) -> float:
    """The chance that the value at an onset is above that at a step away from all of them."""
    nearest = np.abs(steps[:, None] - onsets[None, :]).min(1)
    at, away = highest[np.isin(steps, onsets)], highest[nearest > BEFORE]
    if not at.size or not away.size:
        raise OutOfReach("spikes are everywhere: there is no other window")
    return _chance(at, away)


WINDOWS = 10
"""Parts of the time at the edge: spikes grow over a run, and are compared within each part."""


@claim(
    "E14",
    "height",
    says="spikes are higher at a large β₂: chance that one there is higher than one at a small β₂ "
    "in the same tenth of the time at the edge",
    alternative="the same with both β₂ exchanged in some tenths, as wholes, since spikes of one "
    "tenth resemble each other: what 95 % of 4,000 exchanges stay under",
    needs=SPIKES,
)
def height(run: Evidence) -> Measured:
    """The chance that a spike at the largest β₂ is higher than one at the smallest."""
    both = [_values(run, "beta2")[place] for place in (0, -1)]
    small, large = (
        np.array([(spike.onset, spike.height) for spike in _spikes(run, beta2)]) for beta2 in both
    )
    first = max(run.arrived(beta2=beta2) for beta2 in both)
    last = min(run.row(beta2=beta2)["steps"] for beta2 in both)
    chances, pairs = [], []
    for begin, end in itertools.pairwise(np.linspace(first, last, WINDOWS + 1)):
        one, other = (x[(x[:, 0] >= begin) & (x[:, 0] < end), 1] for x in (large, small))
        if one.size and other.size:
            chances.append(_chance(one, other))
            pairs.append(one.size * other.size)
    if not pairs:
        raise OutOfReach("no tenth of the time at the edge has spikes at both β₂")
    exchanged = np.random.default_rng(0).integers(0, 2, (4000, len(pairs))) == 1
    null = np.where(exchanged, 1 - np.array(chances), chances) @ pairs / sum(pairs)
    note = f"{sum(pairs)} pairs in {len(pairs)} tenths"
    return Measured(float(np.average(chances, weights=pairs)), float(np.quantile(null, 0.95)), note)


def _chance(one: np.ndarray, other: np.ndarray) -> float:
    """The chance that a value of one is above a value of the other; equal ones count half."""
    return float((1 + np.sign(one[:, None] - other).mean()) / 2)


def _spikes(run: Evidence, beta2: float) -> list:
    from aeoskit.figures import find_spikes
    from aeoskit_experiments.execution import measured

    edge = run.arrived(beta2=beta2)
    found = [
        spike
        for spike in find_spikes(*measured(run.metrics(beta2=beta2), "loss"))
        if spike.onset >= edge + BEFORE
    ]
    if len(found) < FEWEST:
        raise OutOfReach(
            f"at β₂ = {beta2:g} there were {len(found)} spikes after the edge, and at least "
            f"{FEWEST} are needed"
        )
    return found


def _highest_before(run: Evidence, beta2: float, steps: np.ndarray) -> np.ndarray:
    """The highest ratio within the window before each of these steps."""
    from aeoskit_experiments.execution import measured

    at, ratio = measured(run.metrics(beta2=beta2), "ratio")
    return np.array([ratio[(at > step - BEFORE) & (at <= step)].max() for step in steps])
