"""Panels that several figures share: the ratio to the threshold, the raw sharpness, the loss."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes

from ._curves import Lane, curve, running_median
from ._factors import darker
from ._style import INK, log_axis

Curve = tuple[Lane, Any, Any]
"""A lane, its steps and values."""

WINDOW = 50
"""Steps over which the bold lines are medians."""


def ratio_of(dataset: xr.Dataset, lane: Lane, *, raw: bool = True) -> tuple[Any, Any]:
    """The ratio to the lane's own threshold, made from its parts where it was not measured.

    Args:
        dataset: the metrics of a run.
        lane: one of its lanes.
        raw: whether a sharpness that was measured alone may be that of an optimizer without
            preconditioner, whose threshold is one for it.
    """
    steps, values = curve(dataset, lane, "ratio")
    if values.size or "threshold" not in dataset:
        return steps, values
    for name in ("preconditioned_sharpness", "sharpness"):
        if name in dataset and (name != "sharpness" or raw):
            whole = dataset[name].isel(index=0) if "index" in dataset[name].dims else dataset[name]
            made = dataset.assign(_ratio=whole / dataset["threshold"])
            steps, values = curve(made, lane, "_ratio")
            if values.size:
                break
    return steps, values


def ratio_panel(axes: Axes, curves: list[Curve], name: str = "λ₁(P⁻¹H) / threshold") -> None:
    """Draws ratios to the threshold, with the edge dashed at 1."""
    medians = _draw_medians(axes, curves)
    axes.axhline(1, color=INK, ls="--", lw=1, zorder=3, label="_threshold")
    late = np.concatenate([np.empty(0), *(m[len(m) // 20 :] for _, _, m in medians)])
    # The first steps, when P is tiny, may be at thirty times the threshold: they leave the panel.
    top = 1.25 * float(np.quantile(late, 0.99)) if late.size else 1.5
    axes.set_ylim(0, min(max(top, 1.4), 3))
    mark_ends(axes, medians)
    axes.set_ylabel(name)


def log_panel(axes: Axes, curves: list[Curve], name: str, heights: Sequence[float] = ()) -> None:
    """Draws losses or sharpnesses on a logarithmic axis, which shows the heights too."""
    medians = _draw_medians(axes, curves)
    if any((median > 0).any() for _, _, median in medians):
        log_axis(axes)
        lanes = [lane for lane, _, _ in medians]
        points = [(steps, median) for _, steps, median in medians]
        axes.set_ylim(vertical_bounds(lanes, points, list(heights), log=True))
    mark_ends(axes, medians)
    axes.set_ylabel(name)


def _draw_medians(axes: Axes, curves: list[Curve]) -> list[Curve]:
    """Draws what was measured, faint, and its running median, bold; returns the latter."""
    medians = []
    for lane, steps, values in curves:
        if values.size:
            median = running_median(steps, values, WINDOW, centered=True)
            axes.plot(steps, values, color=lane.color, lw=0.6, alpha=0.3, label="_measured")
            axes.plot(steps, median, color=lane.color, lw=1.8, label=lane.label)
            medians.append((lane, steps, median))
    return medians


def draw_threshold(axes: Axes, steps: Any, values: Any, color: Any) -> None:
    """Draws a threshold dashed; over the curves and darker, so that one there does not hide it."""
    axes.plot(steps, values, "--", color=darker(color), lw=1.1, zorder=3, label="_threshold")


def mark_ends(axes: Axes, curves: list[Curve]) -> None:
    """A cross where a run diverged, or where it leaves the panel for good."""
    bottom, top = axes.get_ylim()
    for lane, steps, values in curves:
        if lane.diverged_at < 0:
            continue
        step, at = _ending(steps, values, top)
        axes.plot(
            [step],
            [max(at, bottom)],
            "x",
            color=lane.color,
            ms=6,
            mew=1.6,
            clip_on=False,
            zorder=5,
            label="_diverged",
        )


def _ending(steps: Any, values: Any, top: float) -> tuple[float, float]:
    """The last point of a diverged curve, or that at which it leaves the panel for good."""
    inside = np.flatnonzero(values <= top)
    if not inside.size or inside[-1] == len(values) - 1:
        return float(steps[-1]), min(float(values[-1]), top)
    return float(steps[inside[-1] + 1]), top


def vertical_bounds(
    lanes: list[Lane], curves: list[Any], heights: list[float], *, log: bool
) -> tuple[float, float]:
    """Bounds that show all runs whole, but do not let one that diverged squeeze the others."""
    whole = [v for lane, (_, v) in zip(lanes, curves, strict=True) if lane.diverged_at < 0]
    diverged = [v for lane, (_, v) in zip(lanes, curves, strict=True) if lane.diverged_at >= 0]
    data = np.concatenate([np.empty(0), *whole, heights])
    limit = data.max() if data.size else min((3 * v[0] for v in diverged if v.size), default=np.inf)
    for values in diverged:
        near = values[values <= (10 * limit if log else 2 * limit)]
        data = np.concatenate([data, near])
    if log:
        data = data[data > 0]
    if not data.size:
        return (0.1, 1.0) if log else (0.0, 1.0)
    low, high = float(data.min()), float(data.max())
    if log:
        pad = max((high / low) ** 0.05, 1.1)
        return low / pad, high * pad
    pad = 0.05 * (high - low) or 0.5
    return low - pad, high + pad
