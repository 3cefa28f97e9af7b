"""The picture of ε: from Adam at its edge to a heavy ball at its own."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ._curves import Lane, curve, lanes_of
from ._edge import step_range
from ._legend import run_handles
from ._panels import draw_threshold, log_panel, ratio_of, ratio_panel
from ._style import INK, legend_of_groups, new_figure, step_axis, styled


def epsilon_figure(dataset: xr.Dataset, title: str | None = None) -> Figure:
    """Draws a sweep of ε: the ratio, the raw sharpness beside `threshold · ε`, and the loss.

    Once `ε ≫ √ν`, P is `ε` times the identity, and Adam is an EMA heavy ball with the step `η/ε`:
    not only the ratio comes to 1, but the raw sharpness comes to `threshold · ε`, which is `38ε/η`
    at `β₁ = 0.9`. Where ε is small, the raw sharpness has no such level.

    Args:
        dataset: the metrics of a run with `eps` among its coordinates, `ratio` (or
            `preconditioned_sharpness`), `threshold`, `sharpness` and `loss`.
        title: what stands above the figure; None for nothing.

    Returns:
        a figure with three panels. `threshold · ε` is dashed in the run's color; one far below
        every sharpness is left out. The bold lines are running medians over 50 steps.

    Raises:
        ValueError: if the dataset has no coordinate `eps`.

    Example:
        >>> metrics = xr.Dataset(
        ...     {"ratio": (("branch", "eps", "step"), [[[0.5, 1.0], [0.1, 0.2]]])},
        ...     {"branch": ["main"], "eps": [1e-7, 1e-2], "step": [0, 10]},
        ... )
        >>> len(epsilon_figure(metrics).axes)
        3
    """
    if "eps" not in dataset.coords:
        raise ValueError(
            f"the dataset's coordinates are {sorted(map(str, dataset.coords))}, but a figure of ε "
            "needs 'eps': sweep it."
        )
    lanes = lanes_of(dataset)
    with styled():
        figure, (left, middle, right) = new_figure(3, width=3.4, height=2.8)
        ratio_panel(left, [(lane, *ratio_of(dataset, lane)) for lane in lanes])
        dashed = _sharpness_panel(middle, dataset, lanes)
        log_panel(right, [(x, *curve(dataset, x, "loss")) for x in lanes], "training loss")
        for axes in (left, middle, right):
            step_axis(axes, *step_range(dataset))
        groups = run_handles(dataset, lanes)
        if dashed:
            label = "threshold · ε"
            groups[-1].append(Line2D([], [], color=INK, ls="--", lw=1, label=label))
        legend_of_groups(figure, groups, title)
    return figure


def _sharpness_panel(axes: Axes, dataset: xr.Dataset, lanes: list[Lane]) -> bool:
    curves = [(lane, *curve(dataset, lane, "sharpness")) for lane in lanes]
    data = np.concatenate([np.empty(0), *(values for _, _, values in curves)])
    data = data[data > 0]
    low, high = (data.min() / 3, data.max() * 3) if data.size else (0.0, np.inf)
    heights = []
    for lane in lanes:
        _, thresholds = curve(dataset, lane, "threshold")
        if not thresholds.size:
            continue
        height = float(thresholds[-1]) * _epsilon(dataset, lane)
        if low <= height <= high:
            heights.append(height)
            draw_threshold(axes, step_range(dataset), [height, height], lane.color)
    log_panel(axes, curves, "sharpness  λ₁(H)", heights)
    return bool(heights)


def _epsilon(dataset: xr.Dataset, lane: Lane) -> float:
    epsilon: Any = dataset["eps"]
    return float(epsilon.isel({dim: lane.selection[str(dim)] for dim in epsilon.dims}))
