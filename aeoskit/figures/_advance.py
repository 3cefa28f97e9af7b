"""The paper's distinctive picture: adaptive methods keep advancing, the others are blocked."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ._curves import Lane, curve, running_median, sweep_dims
from ._edge import step_range
from ._style import FAINT, INK, colors, legend_above, log_axis, new_figure, step_axis, styled

_LABELS = {"main": "Adam", "frozen": "P frozen", "momentum": "momentum GD"}
WINDOW = 50


def advance_figure(
    dataset: xr.Dataset, title: str | None = None, *, labels: dict[str, str] | None = None
) -> Figure:
    """Draws Adam, its branch with P frozen, and momentum GD: ratio, raw sharpness and loss.

    Args:
        dataset: the metrics of a run without a sweep, with `ratio` (or `preconditioned_sharpness`
            and `threshold`), `sharpness` and `loss`. Its branches are all drawn: `main` is the
            adaptive run, `frozen` its branch with P held, `momentum` has no preconditioner.
        title: what stands above the figure; None for nothing.
        labels: what the legend calls a branch, where not "Adam", "P frozen" and "momentum GD"; any
            further branch goes by its own name.

    Returns:
        a figure with three panels: `λ₁(P⁻¹H)` over its threshold with the line at 1; `λ₁(H)` on a
        logarithmic axis with momentum's threshold dashed; the loss. The faint line is what was
        measured, the bold one `running_median` over the last 50 steps.

    Raises:
        ValueError: if the dataset has a sweep.

    Source:
        After Figure 8 of Cohen et al., arXiv 2207.14484; the frozen branch beside it is ours.

    Example:
        >>> metrics = xr.Dataset(
        ...     {"ratio": (("branch", "step"), [[0.5, 1.0]])}, {"branch": ["main"], "step": [0, 10]}
        ... )
        >>> len(advance_figure(metrics).axes)
        3
    """
    swept = [dim for dim in sweep_dims(dataset) if dataset.sizes[dim] > 1]
    if swept:
        raise ValueError(
            f"the dataset sweeps {swept}, but an advance figure draws one run: choose one with "
            f"`dataset.isel({swept[0]}=0)`."
        )
    dataset = dataset.squeeze(sweep_dims(dataset))
    there = [str(branch) for branch in dataset["branch"].values]
    # The three known branches have the same colors in every figure, whichever are there.
    order = [*_LABELS, *(branch for branch in there if branch not in _LABELS)]
    freeze = _freeze_step(dataset) if "frozen" in there else None
    lanes = [
        _lane(dataset, branch, color, labels or {}, freeze)
        for branch, color in zip(order, colors(len(order)), strict=True)
        if branch in there
    ]
    with styled():
        figure, (left, middle, right) = new_figure(3, width=3.4, height=2.8)
        _ratio_panel(left, dataset, lanes)
        blocked = _sharpness_panel(middle, dataset, lanes, (labels or {}).get("momentum"))
        _loss_panel(right, dataset, lanes)
        for axes in (left, middle, right):
            step_axis(axes, *step_range(dataset))
            if freeze is not None:
                _mark_freeze(axes, freeze)
        handles = [Line2D([], [], color=x.color, lw=2, label=x.label) for x in lanes]
        legend_above(figure, [*handles, *blocked], title)
    return figure


def _lane(
    dataset: xr.Dataset, branch: str, color: Any, labels: dict[str, str], freeze: float | None
) -> Lane:
    label = labels.get(branch, _LABELS.get(branch, branch))
    diverged = int(dataset["diverged_at"].sel(branch=branch)) if "diverged_at" in dataset else -1
    if branch == "frozen" and freeze is not None:
        label += f" at step {freeze:g}"
    if diverged >= 0:
        label += f", diverged at step {diverged}"
    return Lane({"branch": branch}, label, color, diverged)


def _freeze_step(dataset: xr.Dataset) -> float | None:
    measured = [
        curve(dataset, Lane({"branch": "frozen"}, "", "", -1), name)[0]
        for name in ("loss", "sharpness", "ratio", "preconditioned_sharpness")
    ]
    return min((float(steps[0]) for steps in measured if steps.size), default=None)


def _ratio(dataset: xr.Dataset, lane: Lane) -> tuple[Any, Any]:
    steps, values = curve(dataset, lane, "ratio")
    if values.size or "threshold" not in dataset:
        return steps, values
    for name in ("preconditioned_sharpness", "sharpness"):
        # Only momentum's threshold is one for the raw sharpness.
        if name in dataset and (name != "sharpness" or lane.selection["branch"] == "momentum"):
            ratio = dataset[name].isel(index=0) if "index" in dataset[name].dims else dataset[name]
            steps, values = curve(
                dataset.assign(_ratio=ratio / dataset["threshold"]), lane, "_ratio"
            )
            if values.size:
                break
    return steps, values


def _draw(axes: Axes, lane: Lane, steps: Any, values: Any) -> np.ndarray:
    if not values.size:
        return np.empty(0)
    median = running_median(steps, values, WINDOW)
    axes.plot(steps, values, color=lane.color, lw=0.6, alpha=0.3, label="_measured")
    axes.plot(steps, median, color=lane.color, lw=1.8, label=lane.label)
    if lane.diverged_at >= 0:
        axes.plot(
            steps[-1:],
            median[-1:],
            "x",
            color=lane.color,
            ms=6,
            mew=1.6,
            clip_on=False,
            label="_diverged",
        )
    return median


def _ratio_panel(axes: Axes, dataset: xr.Dataset, lanes: list[Lane]) -> None:
    medians = [_draw(axes, lane, *_ratio(dataset, lane)) for lane in lanes]
    axes.axhline(1, color=INK, ls="--", lw=1, zorder=3, label="_threshold")
    late = np.concatenate([np.empty(0), *(m[len(m) // 20 :] for m in medians)])
    # The first steps, when P is tiny, may be at thirty times the threshold: they leave the panel.
    top = 1.25 * float(np.quantile(late, 0.99)) if late.size else 1.5
    axes.set_ylim(0, min(max(top, 1.4), 3))
    axes.set_ylabel("λ₁(P⁻¹H) / threshold")


def _sharpness_panel(
    axes: Axes, dataset: xr.Dataset, lanes: list[Lane], momentum: str | None
) -> list[Line2D]:
    medians = [_draw(axes, lane, *curve(dataset, lane, "sharpness")) for lane in lanes]
    handles, heights = [], []
    for lane in lanes:
        _, values = curve(dataset, lane, "threshold")
        if lane.selection["branch"] == "momentum" and values.size:
            height = float(values[-1])
            axes.plot(
                step_range(dataset),
                [height, height],
                "--",
                color=lane.color,
                lw=1,
                label="_threshold",
            )
            label = f"{momentum or 'momentum'}'s threshold"
            handles.append(Line2D([], [], color=lane.color, ls="--", lw=1, label=label))
            heights.append(height)
    _bound_log(axes, [*medians, np.array(heights)])
    axes.set_ylabel("sharpness  λ₁(H)")
    return handles


def _loss_panel(axes: Axes, dataset: xr.Dataset, lanes: list[Lane]) -> None:
    _bound_log(axes, [_draw(axes, lane, *curve(dataset, lane, "loss")) for lane in lanes])
    axes.set_ylabel("training loss")


def _bound_log(axes: Axes, medians: list[np.ndarray]) -> None:
    data = np.concatenate([np.empty(0), *medians])
    data = data[data > 0]
    if data.size:
        log_axis(axes)
        axes.set_ylim(data.min() / 1.25, data.max() * 1.4)


def _mark_freeze(axes: Axes, step: float) -> None:
    axes.axvline(step, color=FAINT, ls=":", lw=1.1, zorder=1.2, label="_freeze")
    axes.annotate(
        "P frozen",
        (step, 1),
        xycoords=("data", "axes fraction"),
        xytext=(0, 2),
        textcoords="offset points",
        ha="center",
        va="bottom",
        fontsize=7,
        color=FAINT,
    )
