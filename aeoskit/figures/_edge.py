"""The picture of the edge of stability: the loss, and the sharpness at its own threshold."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ._curves import Lane, curve, lanes_of, running_median
from ._legend import run_handles
from ._panels import WINDOW, Curve, draw_threshold, mark_ends, vertical_bounds
from ._style import INK, legend_of_groups, log_axis, new_figure, step_axis, styled

AXIS_NAMES = {
    "loss": "training loss",
    "gradient_norm": "gradient norm  ‖∇L‖",
    "sharpness": "sharpness  λ₁(H)",
    "preconditioned_sharpness": "preconditioned sharpness  λ₁(P⁻¹H)",
}
_LINEAR_NAMES = {"ratio": "λ₁(P⁻¹H) / threshold"}
_NOT_DRAWN = (
    "realized_edge_error",
    "predicted_change",
    "step_norm",
    "edge_state",
    "metric_at_top",
)
# The codes of the states that the bands show, with their opacity.
_BANDS = {1: 0.3, 2: 1.0}
_MOST_BANDS = 8
_SECONDARY = (
    "_residual",
    "_matvecs",
    "_converged",
    "_criterion",
    "_period",
    "_value_rtol",
    "_overhead",
)


def edge_figure(dataset: xr.Dataset, title: str | None = None) -> Figure:
    """Draws the training loss beside the sharpness and each run's own threshold.

    Args:
        dataset: the metrics of a run (dimensions `branch`, the sweep's, `step` and `index`), with
            `preconditioned_sharpness`, or else `sharpness`, and `threshold`; what was not measured
            is left out.
        title: what stands above the figure; None for nothing.

    Returns:
        a figure with logarithmic axes, a color per run, thresholds dashed in the run's color, but
        darker; one that several runs share is drawn once. Of two swept dimensions, or of a sweep
        with branches, one has hues and the other tones, from pale to dark. A run that diverged ends
        with a cross, and the legend has the step. The first fiftieth of the preconditioned
        sharpness, when P is still tiny, may leave the panel. Where the realized edge was measured
        there is a panel of its running median, and each run has a band along the axis, pale while
        it arrives and full while it is at the edge.

    Raises:
        ValueError: if neither a loss nor a sharpness was measured.

    Example:
        >>> metrics = xr.Dataset(
        ...     {"loss": (("branch", "lr", "step"), [[[1.0, 0.1], [1.0, 0.5]]])},
        ...     {"branch": ["main"], "lr": [1e-3, 3e-3], "step": [0, 10]},
        ... )
        >>> [line.get_label() for line in edge_figure(metrics).axes[0].lines]
        ['η = 1e-3', 'η = 3e-3']
    """
    sharpness = next(
        (name for name in ("preconditioned_sharpness", "sharpness") if _has(dataset, name)), None
    )
    names = [name for name in ("loss", sharpness) if name and _has(dataset, name)]
    if names and _has(dataset, "realized_edge"):
        names.append("realized_edge")
    if not names:
        raise ValueError(
            f"the dataset holds {sorted(map(str, dataset.data_vars))}, but an edge figure needs "
            "'loss', 'sharpness' or 'preconditioned_sharpness': track one, or draw a "
            "`summary_figure`."
        )
    return _panels(dataset, names, title)


def summary_figure(dataset: xr.Dataset, title: str | None = None) -> Figure:
    """Draws everything that was measured, one panel a measurement.

    Args:
        dataset: the metrics of a run.
        title: what stands above the figure; None for nothing.

    Returns:
        a figure; residuals, counts and the threshold by itself are left out.

    Raises:
        ValueError: if nothing was measured.

    Example:
        >>> metrics = xr.Dataset(
        ...     {"accuracy": (("branch", "step"), [[0.1, 0.9]])},
        ...     {"branch": ["main"], "step": [0, 10]},
        ... )
        >>> summary_figure(metrics).axes[0].get_ylabel()
        'accuracy'
    """
    known = [name for name in AXIS_NAMES if _has(dataset, name)]
    secondary = {*known, *_NOT_DRAWN, "threshold", "diverged_at"}
    others = [
        str(name)
        for name in dataset.data_vars
        if name not in secondary and not str(name).endswith(_SECONDARY) and _has(dataset, str(name))
    ]
    if not known and not others:
        raise ValueError("nothing was measured in this run, so that there is nothing to draw.")
    return _panels(dataset, known + others, title)


def _has(dataset: xr.Dataset, name: str) -> bool:
    return (
        name in dataset
        and "step" in dataset[name].dims
        and bool(np.isfinite(dataset[name].values.astype(float)).any())
    )


def _panels(dataset: xr.Dataset, names: list[str], title: str | None) -> Figure:
    lanes = lanes_of(dataset)
    with styled():
        figure, panels = new_figure(len(names))
        dashed = False
        # In one panel, that of the sharpness if there is one.
        banded = next((name for name in reversed(names) if name.endswith("sharpness")), names[-1])
        for axes, name in zip(panels, names, strict=True):
            if name == "realized_edge":
                _draw_realized(axes, dataset, lanes)
            else:
                dashed |= draw_panel(axes, dataset, lanes, name)
            if name == banded:
                _draw_bands(axes, dataset, lanes)
        groups = run_handles(dataset, lanes)
        if dashed:
            groups[-1].append(Line2D([], [], color=INK, ls="--", lw=1, label="own threshold"))
        legend_of_groups(figure, groups, title)
    return figure


def draw_panel(axes: Axes, dataset: xr.Dataset, lanes: list[Lane], name: str) -> bool:
    """Draws one measurement of all lanes; returns whether thresholds were drawn with it."""
    curves = [curve(dataset, lane, name) for lane in lanes]
    positive = _wants_log(name, curves)
    drawn: list[Curve] = []
    # Many runs, or noisy ones, hide each other under thick lines.
    width = 1.3 if len(lanes) <= 2 else 1.1 if len(lanes) <= 6 else 0.8
    for lane, (steps, values) in zip(lanes, curves, strict=True):
        if not values.size:
            continue
        drawn.append((lane, steps, values))
        for further in range(1, dataset[name].sizes.get("index", 1)):
            also = curve(dataset, lane, name, further)
            axes.plot(*also, color=lane.color, lw=0.7, alpha=0.35, label="_next")
        axes.plot(steps, values, color=lane.color, lw=width, label=lane.label)
    heights = []
    if has_threshold(dataset, name):
        heights = draw_thresholds(axes, dataset, [lane for lane, _, _ in drawn])
    if positive:
        log_axis(axes)
    if name == "preconditioned_sharpness":
        curves = [_after_start(dataset, *points) for points in curves]
    axes.set_ylim(vertical_bounds(lanes, curves, heights, log=positive))
    mark_ends(axes, drawn)
    step_axis(axes, *step_range(dataset))
    axes.set_ylabel((AXIS_NAMES | _LINEAR_NAMES).get(name, name.replace("_", " ")))
    return bool(heights)


def _draw_realized(axes: Axes, dataset: xr.Dataset, lanes: list[Lane]) -> None:
    """Draws running medians of ζ over the steps that go downhill, with the edge dashed at 1."""
    downhill = dataset
    if "predicted_change" in dataset:
        there = dataset["realized_edge"].where(dataset["predicted_change"] < 0)
        downhill = dataset.assign(realized_edge=there)
    width = 1.3 if len(lanes) <= 2 else 1.1 if len(lanes) <= 6 else 0.8
    for lane in lanes:
        steps, values = curve(downhill, lane, "realized_edge")
        if values.size:
            median = running_median(steps, values, WINDOW, centered=True)
            axes.plot(steps, median, color=lane.color, lw=width, label=lane.label)
    axes.axhline(1, color=INK, ls="--", lw=1, zorder=3, label="_edge")
    axes.set_ylim(-0.05, 1.35)
    step_axis(axes, *step_range(dataset))
    axes.set_ylabel(f"realized edge  ζ, median of {WINDOW} steps")


def _draw_bands(axes: Axes, dataset: xr.Dataset, lanes: list[Lane]) -> None:
    """Draws a band along the axis for each run: pale while it arrives, full while at the edge."""
    if not _has(dataset, "edge_state") or len(lanes) > _MOST_BANDS:
        return
    for place, lane in enumerate(lanes):
        steps, codes = curve(dataset, lane, "edge_state")
        for code, alpha in _BANDS.items():
            height = np.where(codes == code, 0.015 + 0.022 * place, np.nan)
            axes.plot(
                steps,
                height,
                color=lane.color,
                alpha=alpha,
                lw=2.4,
                solid_capstyle="butt",
                transform=axes.get_xaxis_transform(),
                label="_state",
            )


def _after_start(dataset: xr.Dataset, steps: Any, values: Any) -> Any:
    # P starts near zero, so that the first values may be thirty thresholds high: they may leave
    # the panel rather than squeeze the rest.
    first, last = step_range(dataset)
    late = steps >= first + 0.02 * (last - first)
    return steps, np.minimum(values, values[late].max()) if late.any() else values


def _wants_log(name: str, curves: list[Any]) -> bool:
    values = np.concatenate([np.empty(0), *(values for _, values in curves)])
    if not values.size or (values > 0).mean() <= 0.5 or name in _LINEAR_NAMES:
        return False
    # An accuracy is read on a linear axis; what spans decades is not.
    return name in AXIS_NAMES or bool(0 < 30 * values.min() < values.max())


def has_threshold(dataset: xr.Dataset, name: str) -> bool:
    """The threshold belongs to the preconditioned sharpness; to the raw one if it is alone."""
    if not _has(dataset, "threshold"):
        return False
    alone = not _has(dataset, "preconditioned_sharpness")
    return name == "preconditioned_sharpness" or (name == "sharpness" and alone)


def draw_thresholds(axes: Axes, dataset: xr.Dataset, lanes: list[Lane]) -> list[float]:
    """Draws each lane's threshold dashed over the curves; returns their lowest and highest values.

    A constant one that several lanes share is drawn once, in their common hue if they have one.
    """
    shared: dict[str, list[tuple[Lane, float]]] = {}
    heights = []
    for lane in lanes:
        steps, values = curve(dataset, lane, "threshold")
        if not values.size:
            continue
        if np.ptp(values) <= 1e-6 * np.abs(values).max():
            heights.append(float(values[-1]))
            shared.setdefault(f"{heights[-1]:.5g}", []).append((lane, heights[-1]))
        else:
            draw_threshold(axes, steps, values, lane.color)
            heights += [float(q) for q in np.quantile(values, (0.0, 0.9))]
    for lanes_sharing in shared.values():
        lane, height = lanes_sharing[0]
        color = lane.color if len(lanes_sharing) == 1 else lane.hue
        if any(other.hue != lane.hue for other, _ in lanes_sharing):
            color = INK
        # Across the panel, so that it can be compared from the first step to the last.
        draw_threshold(axes, np.array(step_range(dataset)), np.full(2, height), color)
    return heights


def step_range(dataset: xr.Dataset) -> tuple[float, float]:
    """The first and last step of a dataset."""
    steps = dataset["step"].values
    return float(steps.min()), float(steps.max())
