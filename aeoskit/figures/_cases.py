"""Pictures of suites: a small panel a case, each at its own threshold."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from ._curves import Lane, lanes_of, running_median
from ._panels import WINDOW, ratio_of
from ._style import FAINT, INK, PALETTE, legend_above, step_axis, styled

_RANGE = (0.0, 1.6)


def cases_figure(
    cases: Mapping[str, xr.Dataset], title: str | None = None, *, columns: int = 5
) -> Figure:
    """Draws the ratio of several runs, each to its own threshold, a panel a case.

    Args:
        cases: the name of a case (an optimizer, an architecture) to the metrics of its run, with
            `ratio`, or `preconditioned_sharpness` and `threshold`; `sharpness` and `threshold`
            alone are those of an optimizer without preconditioner. A sweep has a color a run; of
            branches, the main one is drawn.
        title: what stands above the figure; None for nothing.
        columns: panels in a row, at most.

    Returns:
        a figure whose panels have one scale from 0 to 1.6, which the first steps may leave, and
        each its own number of steps. What was measured is faint, its running median over 50 steps
        bold.

    Raises:
        ValueError: if there are no cases.

    Example:
        >>> metrics = xr.Dataset(
        ...     {"ratio": (("branch", "step"), [[0.2, 0.9]])}, {"branch": ["main"], "step": [0, 25]}
        ... )
        >>> cases_figure({"Adam": metrics}).axes[0].get_title(loc="left")
        'Adam'
    """
    with styled():
        figure, panels = _panels(list(cases), columns)
        for axes, (name, dataset) in zip(panels, cases.items(), strict=True):
            lanes = lanes_of(_main(dataset))
            curves = [ratio_of(_main(dataset), lane) for lane in lanes]
            for lane, (steps, values) in zip(lanes, curves, strict=True):
                _draw_with_median(axes, lane, steps, values)
            _set_title(axes, name, lanes)
            _bound_steps(axes, [steps for steps, _ in curves])
            if len(lanes) > 1:
                _legend_within(axes, lanes, curves)
        measured = Line2D([], [], color=FAINT, lw=0.8, alpha=0.7, label="measured")
        bold = Line2D([], [], color=PALETTE[0], lw=1.8, label=f"running median, {WINDOW} steps")
        legend_above(figure, [measured, bold, _edge()], title)
    return figure


def spread_figure(
    cases: Mapping[str, Sequence[xr.Dataset]], title: str | None = None, *, columns: int = 5
) -> Figure:
    """Draws the ratio of several runs over seeds, each to its own threshold, a panel a case.

    Args:
        cases: the name of a case to the metrics of its runs, one a seed, as in `cases_figure`; a
            run that is a sweep counts as several.
        title: what stands above the figure; None for nothing.
        columns: panels in a row, at most.

    Returns:
        a figure as `cases_figure`'s. The bold line is the median over the seeds of each one's
        running median over 50 steps, the shade their range, at the steps at which all that go on
        were measured, or are between two measurements.

    Raises:
        ValueError: if there are no cases.

    Example:
        >>> metrics = xr.Dataset(
        ...     {"ratio": (("branch", "step"), [[0.2, 0.9]])}, {"branch": ["main"], "step": [0, 25]}
        ... )
        >>> spread_figure({"Adam": [metrics, metrics + 0.1]}).axes[0].get_title(loc="left")
        'Adam'
    """
    with styled():
        figure, panels = _panels(list(cases), columns)
        for axes, (name, datasets) in zip(panels, cases.items(), strict=True):
            mains = [_main(dataset) for dataset in datasets]
            lanes = [(main, lane) for main in mains for lane in lanes_of(main)]
            curves = [ratio_of(main, lane) for main, lane in lanes]
            curves = [points for points in curves if points[1].size]
            _band(axes, curves)
            _set_title(axes, name, [lane for _, lane in lanes])
            _bound_steps(axes, [steps for steps, _ in curves])
        bold = Line2D([], [], color=PALETTE[0], lw=1.8, label="median over the seeds")
        shade = Patch(color=PALETTE[0], alpha=0.25, lw=0, label="their range")
        legend_above(figure, [bold, shade, _edge()], title)
    return figure


def _main(dataset: xr.Dataset) -> xr.Dataset:
    branches = dataset["branch"].values.tolist()
    return dataset.sel(branch=["main"] if "main" in branches else branches[:1])


def _panels(names: list[str], columns: int) -> tuple[Figure, list[Axes]]:
    if not names:
        raise ValueError("there are no cases, so that there is nothing to draw.")
    rows = -(-len(names) // columns)
    columns = -(-len(names) // rows)
    figure = Figure(figsize=(max(2.1 * columns, 4.2), 1.6 * rows + 0.6), layout="constrained")
    panels = figure.subplots(rows, columns, squeeze=False, sharey=True).ravel().tolist()
    for spare in panels[len(names) :]:
        spare.remove()
    panels[0].set_ylim(*_RANGE)
    panels[0].set_yticks(np.arange(0, 1.6, 0.5))
    for axes in panels[: len(names)]:
        axes.axhline(1, color=INK, ls="--", lw=0.9, zorder=3, label="_threshold")
    figure.supylabel("λ₁(P⁻¹H) / threshold", fontsize=8.5, color=INK)
    figure.supxlabel("step", fontsize=8.5, color=INK)
    return figure, panels[: len(names)]


def _draw_with_median(axes: Axes, lane: Lane, steps: Any, values: Any) -> None:
    axes.plot(steps, values, color=lane.color, lw=0.6, alpha=0.4, label="_measured")
    median = running_median(steps, values, WINDOW, centered=True)
    axes.plot(steps, median, color=lane.color, lw=1.6, label=lane.label)


def _band(axes: Axes, curves: list[tuple[Any, Any]]) -> None:
    if not curves:
        return
    steps = np.unique(np.concatenate([at for at, _ in curves]))
    medians = [
        np.interp(
            steps,
            at,
            running_median(at, values, WINDOW, centered=True),
            left=np.nan,
            right=np.nan,
        )
        for at, values in curves
    ]
    whole = np.stack(medians)
    # At every one of these steps at least one run was measured.
    low, middle, high = np.nanmin(whole, 0), np.nanmedian(whole, 0), np.nanmax(whole, 0)
    axes.fill_between(steps, low, high, color=PALETTE[0], alpha=0.25, lw=0, label="_range")
    axes.plot(steps, middle, color=PALETTE[0], lw=1.6, label="median")


def _set_title(axes: Axes, name: str, lanes: list[Lane]) -> None:
    diverged = [lane.diverged_at for lane in lanes if lane.diverged_at >= 0]
    if diverged and len(lanes) == 1:
        name = f"{name}, diverged at {diverged[0]}"
    elif diverged:
        name = f"{name}, {len(diverged)} of {len(lanes)} diverged"
    axes.set_title(name)


def _bound_steps(axes: Axes, steps: list[Any]) -> None:
    known = np.concatenate([np.empty(0), *steps])
    if known.size:
        step_axis(axes, float(known.min()), float(known.max()))
        axes.xaxis.set_major_locator(MaxNLocator(3, integer=True, steps=[1, 2, 5, 10]))
    else:
        axes.set_xticks([])
        axes.text(0.5, 0.3, "not measured", transform=axes.transAxes, ha="center", color=FAINT)
    axes.set_xlabel("")


def _legend_within(axes: Axes, lanes: list[Lane], curves: list[tuple[Any, Any]]) -> None:
    """Names the runs of a sweep in their panel: above the edge, if one of them stays far below."""
    handles = [Line2D([], [], color=lane.color, lw=1.6, label=lane.label) for lane in lanes]
    ends = [np.median(values[-len(values) // 2 :]) for _, values in curves if values.size]
    where = "upper right" if min(ends, default=1) < 0.6 else "lower right"
    axes.legend(
        handles=handles,
        loc=where,
        ncols=1 if len(lanes) < 4 else 2,
        fontsize=6,
        handlelength=1,
        labelspacing=0.2,
        columnspacing=0.8,
    )


def _edge() -> Line2D:
    return Line2D([], [], color=INK, ls="--", lw=1, label="the edge")
