"""The states of a run, by its realized edge, and what a window of steps shows."""

from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from aeoskit._median import running_median

STATES = ("below", "arriving", "at the edge", "left")
"""The states of a run, in the order of their codes."""

WINDOW = 50
"""The steps of the window whose median decides on a state; only whole windows do."""

AT_THE_EDGE = 0.8
"""The median ζ from which a run is at the edge."""

BELOW = 0.3
"""The median ζ under which a run is below the edge, or has left it."""

NEAR = 0.9
"""The ratio to the threshold from which a run that does not oscillate is parked at it."""

KNOWN = 0.25
"""The least share of a window's rows in which ζ is known and the step goes downhill."""


class EdgeStates(NamedTuple):
    """The states of a run.

    Attributes:
        steps: at which ζ was measured, (n,).
        zeta: the median ζ of the window that ends there, (n,); NaN where no state follows.
        codes: the place of the state in `STATES`, (n,); NaN where none follows.
        arrived: the step at which the longest stay at the edge began; None if there was none.
        left: the step at which the median had fallen under 0.3 after it; None if it never did.
        parked: whether at the end the median ratio is at least 0.9 while that of ζ is under 0.3.
        never_below: whether the ratio was measured and never under 0.9.

    Example:
        >>> states = edge_states(np.arange(300), np.where(np.arange(300) < 100, 0.1, 1.0))
        >>> states.arrived, states.state
        (125, 'at the edge')
    """

    steps: np.ndarray
    zeta: Float[np.ndarray, " n"]
    codes: Float[np.ndarray, " n"]
    arrived: int | None
    left: int | None
    parked: bool
    never_below: bool

    @property
    def state(self) -> str | None:
        """The last state; None if none is known."""
        known = self.codes[np.isfinite(self.codes)]
        return STATES[int(known[-1])] if known.size else None


class RecentSteps(NamedTuple):
    """The part of the steps so far that the states of the next ones need.

    Attributes:
        first: the first step of all; None before it.
        period: the smallest distance of two steps, at most the window's length.
        been: whether the run has been at the edge.
        steps: those of the last window, (n,).
        zeta: the realized edge at each, (n,).

    Example:
        >>> RecentSteps().been
        False
    """

    first: int | None = None
    period: int | None = None
    been: bool = False
    steps: np.ndarray = np.zeros(0, int)
    zeta: np.ndarray = np.zeros(0)


class NextStates(NamedTuple):
    """The states at the next steps of a run.

    Attributes:
        zeta: the median ζ of the window that ends at each step, (n,); NaN where no state follows.
        codes: the place of the state in `STATES`, (n,); NaN where none follows.
        recent: the first argument of the next call.

    Example:
        >>> next_states(RecentSteps(), [0], [1.0]).codes.tolist()  # not yet a window
        [nan]
    """

    zeta: Float[np.ndarray, " n"]
    codes: Float[np.ndarray, " n"]
    recent: RecentSteps


def next_states(recent: RecentSteps, steps: Any, zeta: Any, *, window: int = WINDOW) -> NextStates:
    """The states at the next steps of a run that goes on: chunk by chunk those of `edge_states`.

    Args:
        recent: what was returned for the steps before; `RecentSteps()` at first.
        steps: increasing, later than those before, (n,).
        zeta: the realized edge at each, (n,); NaN where it is not known or the step goes uphill.
        window: its length in steps, always the same.

    Returns:
        A `NextStates`.

    Example:
        >>> _, codes, recent = next_states(RecentSteps(), np.arange(60), np.ones(60))
        >>> _, codes, recent = next_states(recent, np.arange(60, 120), np.zeros(60))
        >>> STATES[int(codes[-1])]
        'left'
    """
    new = np.asarray(steps)
    if not new.size:
        return NextStates(np.zeros(0), np.zeros(0), recent)
    steps = np.concatenate([recent.steps, new]).astype(new.dtype)
    values = np.concatenate([recent.zeta, np.asarray(zeta, float)])
    first = int(steps[0]) if recent.first is None else recent.first
    periods = np.minimum.accumulate(
        np.concatenate([[window if recent.period is None else recent.period], np.diff(steps)])
    )
    begins = np.searchsorted(steps, steps - window, side="right")
    counts = np.concatenate([[0], np.cumsum(np.isfinite(values))])
    ends = np.arange(steps.size) + 1
    enough = counts[ends] - counts[begins] >= KNOWN * (ends - begins)
    # Of a window of every single step the first whole one ends one step before its length; how far
    # apart steps are, the first one does not show.
    whole = (steps - first >= window - periods) & ((steps > first) | (window == 1))
    medians = np.where(whole & enough, running_median(steps, values, window), np.nan)[-new.size :]
    codes = np.select(
        [medians >= AT_THE_EDGE, medians >= BELOW, medians < BELOW], [2.0, 1.0, 0.0], np.nan
    )
    been = np.maximum.accumulate(codes == 2) | recent.been
    codes[been & (codes == 0)] = 3
    kept = steps > steps[-1] - window
    return NextStates(
        medians,
        codes,
        RecentSteps(first, int(periods[-1]), bool(been[-1]), steps[kept], values[kept]),
    )


def edge_states(
    steps: Any,
    zeta: Any,
    predicted_change: Any = None,
    *,
    ratio_steps: Any = (),
    ratio: Any = (),
    window: int = WINDOW,
) -> EdgeStates:
    """The states of a run: *below* the edge, *arriving*, *at the edge*, or having *left* it.

    The median realized edge ζ of the window of steps that ends at a measurement decides: under 0.3
    a run is below, or has left if it was at the edge before; from 0.8 on it is at the edge; between
    them it is arriving. The ratio `χ = λ₁(P⁻¹H) / threshold` decides nothing: at `β₂ = .1` Adam is
    at the edge at χ = .1, RMSProp at χ = 4; momentum may be parked at χ = 1 and not oscillate.

    Args:
        steps: increasing, (n,).
        zeta: the realized edge at each, (n,); NaN where it is not known.
        predicted_change: `⟨g, Δw⟩` at each, (n,); steps at which it is not negative go uphill and
            do not count.
        ratio_steps: at which the ratio was measured, (m,).
        ratio: `λ₁(P⁻¹H)` over the threshold, (m,), for the two flags.
        window: its length in steps.

    Returns:
        An `EdgeStates`. A stay at the edge begins at a median of 0.8 and ends at one under 0.3;
        `arrived` and `left` are those of the longest stay.

    Raises:
        ValueError: curves of different lengths, steps that do not increase, a window of no steps.

    Example:
        >>> zeta = np.repeat([0.1, 1.0, 0.1], 200)
        >>> states = edge_states(np.arange(600), zeta)
        >>> states.arrived, states.left, states.state
        (225, 425, 'left')
        >>> [STATES[int(code)] for code in states.codes[[100, 300, 500]]]
        ['below', 'at the edge', 'left']
    """
    steps, zeta = np.asarray(steps), np.asarray(zeta, float)
    ratio_steps, ratio = np.asarray(ratio_steps), np.asarray(ratio, float)
    for name, at, values in (
        ("zeta", steps, zeta),
        ("predicted_change", steps, predicted_change),
        ("ratio", ratio_steps, ratio),
    ):
        if values is not None and np.shape(values) != at.shape:
            raise ValueError(
                f"{name} has shape {np.shape(values)}, but {at.size} steps: pass a value for each."
            )
    for name, at in (("steps", steps), ("ratio_steps", ratio_steps)):
        if np.any(np.diff(at) <= 0):
            raise ValueError(f"{name} does not increase: sort the rows by step, one for each.")
    if window < 1:
        raise ValueError(
            f"window is {window}, but it is a number of steps: pass 50, or at least 1."
        )
    if predicted_change is not None:
        zeta = np.where(np.asarray(predicted_change, float) < 0, zeta, np.nan)
    medians, codes, _ = next_states(RecentSteps(), steps, zeta, window=window)
    arrived, left = _longest_stay(steps, codes)
    near, _, _ = next_states(RecentSteps(), ratio_steps, ratio, window=window)
    near, known = near[np.isfinite(near)], medians[np.isfinite(medians)]
    measured = ratio[np.isfinite(ratio)]
    return EdgeStates(
        steps=steps,
        zeta=medians,
        codes=codes,
        arrived=arrived,
        left=left,
        parked=bool(near.size and known.size and near[-1] >= NEAR and known[-1] < BELOW),
        never_below=bool(measured.size and measured.min() >= NEAR),
    )


def _longest_stay(steps: np.ndarray, codes: np.ndarray) -> tuple[int | None, int | None]:
    begins, ends, here = [], [], False
    for step, code in zip(steps.tolist(), codes.tolist(), strict=True):
        if not here and code == 2:
            begins.append(step)
            here = True
        elif here and code == 3:
            ends.append(step)
            here = False
    if not begins:
        return None, None
    stays = [*zip(begins, [*ends, None], strict=False)]
    return max(stays, key=lambda stay: (steps[-1] + 1 if stay[1] is None else stay[1]) - stay[0])


class EdgeOfWindow(NamedTuple):
    """The numbers of a window of steps with respect to the edge.

    Attributes:
        median: the median ζ over the steps that go downhill; NaN if there are none.
        uphill: the share of steps with `⟨g, Δw⟩ ≥ 0`, of those in which it is known.
        of_sums: `1 - ΣΔL / Σ⟨g, Δw⟩` over the steps in which ζ is known: the mean for an
            instability that turns by an angle, of which ζ is 1 on average only.

    Example:
        >>> edge_of_window([0.5, 1.5], [-1.0, -3.0]).of_sums
        1.25
    """

    median: float
    uphill: float
    of_sums: float


def edge_of_window(zeta: Any, predicted_change: Any) -> EdgeOfWindow:
    """The median of ζ, the share of uphill steps and the ratio of sums over some steps.

    Args:
        zeta: the realized edge of each step, (n,); NaN where it is not known.
        predicted_change: `⟨g, Δw⟩` of each, (n,).

    Returns:
        An `EdgeOfWindow`.

    Example:
        >>> edge = edge_of_window([1.0, 0.8, 3.0], [-1.0, -1.0, 0.5])
        >>> edge.median, round(edge.uphill, 2)
        (0.9, 0.33)
    """
    zeta, promised = np.asarray(zeta, float), np.asarray(predicted_change, float)
    known = np.isfinite(zeta) & np.isfinite(promised)
    downhill = zeta[known & (promised < 0)]
    measured = promised[np.isfinite(promised)]
    change = ((1 - zeta) * promised)[known].sum()
    total = promised[known].sum()
    return EdgeOfWindow(
        median=float(np.median(downhill)) if downhill.size else float("nan"),
        uphill=float((measured >= 0).mean()) if measured.size else float("nan"),
        of_sums=float(1 - change / total) if total else float("nan"),
    )
