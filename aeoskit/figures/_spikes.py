"""Spikes of the loss: found, and drawn over the ratio to the threshold."""

from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from ._curves import Lane, curve, lanes_of, running_median
from ._edge import step_range
from ._panels import ratio_of
from ._style import INK, PALETTE, legend_above, log_axis, step_axis, styled

FACTOR = 1.5
WINDOW = 100
GAP = 10
_COLUMNS = 4
_LOSS, _SPIKE, _RATIO = PALETTE[0], PALETTE[1], PALETTE[2]


@dataclass(frozen=True)
class Spike:
    """Steps at which the loss stands out of its own past.

    Args:
        onset: the first of them.
        peak: that of the largest loss.
        height: the loss there over its running median.

    Example:
        >>> Spike(onset=200, peak=201, height=4.0).height
        4.0
    """

    onset: int
    peak: int
    height: float


def find_spikes(
    steps: Any,
    loss: Any,
    *,
    factor: float | int = FACTOR,
    width: float | int = WINDOW,
    gap: float | int = GAP,
) -> list[Spike]:
    """Finds where the loss exceeds a multiple of its median over the last steps.

    Args:
        steps: increasing, `(n,)`.
        loss: `(n,)`; what is not finite counts as not measured.
        factor: how many times the median.
        width: steps that the median is over, ending at each step. Before there are so many, there
            are no spikes.
        gap: steps between two such losses up to which both belong to one spike.

    Returns:
        The spikes in order. Where the median is 0, nothing is a multiple of it, nor a spike.

    Example:
        >>> loss = np.ones(300)
        >>> loss[200:203] = 2.0, 4.0, 2.0
        >>> find_spikes(np.arange(300), loss)
        [Spike(onset=200, peak=201, height=4.0)]
    """
    steps, loss = np.asarray(steps), np.asarray(loss, float)
    keep = np.isfinite(loss)
    steps, loss = steps[keep], loss[keep]
    if not steps.size:
        return []
    median = running_median(steps, loss, width)
    height = np.divide(loss, median, out=np.zeros_like(loss), where=median > 0)
    high = np.flatnonzero((height > factor) & (steps >= steps[0] + width))
    if not high.size:
        return []
    groups = np.split(high, np.flatnonzero(np.diff(steps[high]) > gap) + 1)
    peaks = [group[np.argmax(loss[group])] for group in groups]
    return [
        Spike(int(steps[group[0]]), int(steps[peak]), float(height[peak]))
        for group, peak in zip(groups, peaks, strict=True)
    ]


def spikes_figure(
    dataset: xr.Dataset,
    title: str | None = None,
    *,
    factor: float | int = FACTOR,
    width: float | int = WINDOW,
) -> Figure:
    """Draws, for each run, the loss with its spikes over the ratio with the stretches above 1.

    Args:
        dataset: the metrics of a run, with `loss`, and `ratio` or what it is made from.
        title: what stands above the figure; None for nothing.
        factor: as in `find_spikes`.
        width: as in `find_spikes`.

    Returns:
        a figure with two panels a run, one above the other, on one scale for all runs. Onsets of
        spikes are fine lines through both. The ratio's scale is about 1: its rise may leave it.

    Raises:
        ValueError: if the loss or the ratio was not measured.

    Example:
        >>> metrics = xr.Dataset(
        ...     {
        ...         "loss": (("branch", "step"), [[1.0, 0.5]]),
        ...         "ratio": (("branch", "step"), [[0.5, 1.1]]),
        ...     },
        ...     {"branch": ["main"], "step": [0, 10]},
        ... )
        >>> len(spikes_figure(metrics).axes)
        2
    """
    lanes = lanes_of(dataset)
    losses = [curve(dataset, lane, "loss") for lane in lanes]
    ratios = [ratio_of(dataset, lane) for lane in lanes]
    for name, curves in (("loss", losses), ("ratio", ratios)):
        if not any(values.size for _, values in curves):
            raise ValueError(
                f"the dataset holds {sorted(map(str, dataset.data_vars))}, but a figure of spikes "
                f"needs '{name}': track preconditioned_sharpness."
            )
    columns = min(_COLUMNS, len(lanes))
    rows = -(-len(lanes) // columns)
    with styled():
        size = (max(2.8, 7.4 / columns) * columns, 3.0 * rows + 0.35)
        figure = Figure(figsize=size, layout="constrained")
        outer = figure.add_gridspec(rows, columns)
        first = None
        for place, lane in enumerate(lanes):
            inner = outer[divmod(place, columns)].subgridspec(2, 1, height_ratios=(1.15, 1))
            top = figure.add_subplot(inner[0], sharey=first and first[0])
            bottom = figure.add_subplot(inner[1], sharex=top, sharey=first and first[1])
            first = first or (top, bottom)
            spikes = find_spikes(*losses[place], factor=factor, width=width)
            _draw_loss(top, losses[place], spikes)
            _draw_ratio(bottom, ratios[place])
            for axes in (top, bottom):
                step_axis(axes, *step_range(dataset))
                for spike in spikes:
                    axes.axvline(
                        spike.onset, color=_SPIKE, lw=0.5, alpha=0.5, zorder=1, label="_onset"
                    )
            top.set_title(_title(lane, spikes))
            top.set_xlabel("")
            top.tick_params(labelbottom=False)
            if place % columns:
                for axes in (top, bottom):
                    axes.tick_params(labelleft=False, which="both")
            else:
                top.set_ylabel("training loss")
                bottom.set_ylabel("λ₁(P⁻¹H) / threshold")
        assert first is not None
        _set_bounds(*first, losses, ratios)
        legend_above(figure, _handles(factor, width), title)
    return figure


def _title(lane: Lane, spikes: list[Spike]) -> str:
    text = f"{lane.label}: {len(spikes)} spike{'s' * (len(spikes) != 1)}"
    return text if lane.diverged_at < 0 else f"{text}, diverged at {lane.diverged_at}"


def _draw_loss(axes: Axes, points: tuple[Any, Any], spikes: list[Spike]) -> None:
    steps, values = points
    axes.plot(steps, values, color=_LOSS, lw=0.9, label="loss")
    at = np.searchsorted(steps, [spike.peak for spike in spikes])
    axes.plot(steps[at], values[at], "v", color=_SPIKE, ms=3.6, mew=0, label="_spikes")


def _draw_ratio(axes: Axes, points: tuple[Any, Any]) -> None:
    steps, values = points
    axes.axhline(1, color=INK, ls="--", lw=1, zorder=3, label="_threshold")
    axes.plot(steps, values, color=_RATIO, lw=0.8, label="ratio")
    axes.fill_between(
        steps,
        1,
        values,
        where=values > 1,
        interpolate=True,
        color=_RATIO,
        alpha=0.5,
        lw=0,
        label="_above",
    )


def _set_bounds(loss: Axes, ratio: Axes, losses: list[Any], ratios: list[Any]) -> None:
    """One scale for all runs."""
    positive = np.concatenate([values[values > 0] for _, values in losses])
    if positive.size:
        log_axis(loss)
        loss.set_ylim(positive.min() / 1.3, positive.max() * 1.6)
    late = np.concatenate([values[len(values) // 5 :] for _, values in ratios])
    below, above = (float(q) for q in np.quantile(late, (0.02, 0.995)))
    # What matters is how far above 1: the rise to it, and a run that stays below, may leave.
    ratio.set_ylim(max(min(below, 0.9) - 0.05, 0.7), min(max(above, 1.1) + 0.05, 3))


def _handles(factor: float | int, width: float | int) -> list[Any]:
    spikes = f"above {factor:g} × median of {width:g} steps"
    return [
        Line2D([], [], ls="", marker="v", ms=5, color=_SPIKE, label=spikes),
        Line2D([], [], color=INK, ls="--", lw=1, label="the edge"),
        Patch(color=_RATIO, alpha=0.5, lw=0, label="above the edge"),
    ]
