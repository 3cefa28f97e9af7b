"""The picture of warmup: how the curvature meets a threshold that comes down to it."""

import xarray as xr
from matplotlib.figure import Figure

from ._curves import curve, lanes_of
from ._edge import step_range
from ._legend import run_handles
from ._names import number
from ._panels import log_panel, ratio_of, ratio_panel
from ._style import legend_of_groups, new_figure, step_axis, styled


def warmup_figure(dataset: xr.Dataset, title: str | None = None) -> Figure:
    """Draws runs of different warmup: ratio to each step's threshold, raw sharpness, learning rate.

    Args:
        dataset: the metrics of a run, swept over the length of the warmup or not, with `ratio` (or
            `preconditioned_sharpness` and `threshold`), `sharpness` and `learning_rate`.
        title: what stands above the figure; None for nothing.

    Returns:
        a figure with three panels. The threshold is that of the step's own learning rate `ηₜ`, so
        that a ratio of 1 is the edge during the warmup too. Bold lines are running medians over 50
        steps.

    Raises:
        ValueError: if the learning rate was not recorded.

    Source:
        Kalra and Barkeshli, arXiv 2406.09405: a warmup's early thresholds are high, and come down.

    Example:
        >>> metrics = xr.Dataset(
        ...     {"learning_rate": (("branch", "warmup", "step"), [[[1e-3, 1e-3], [0.0, 1e-3]]])},
        ...     {"branch": ["main"], "warmup": [0, 10], "step": [0, 10]},
        ... )
        >>> [axes.get_ylabel() for axes in warmup_figure(metrics).axes][2]
        'learning rate  ηₜ'
    """
    lanes = lanes_of(dataset)
    rates = [curve(dataset, lane, "learning_rate") for lane in lanes]
    if not any(values.size for _, values in rates):
        raise ValueError(
            f"the dataset holds {sorted(map(str, dataset.data_vars))}, but a figure of warmup "
            "needs 'learning_rate'."
        )
    with styled():
        figure, (left, middle, right) = new_figure(3, width=3.4, height=2.8)
        curves = [(lane, *ratio_of(dataset, lane)) for lane in lanes]
        ratio_panel(left, curves, "λ₁(P⁻¹H) / threshold at ηₜ")
        log_panel(middle, [(x, *curve(dataset, x, "sharpness")) for x in lanes], "sharpness  λ₁(H)")
        for lane, (steps, values) in zip(lanes, rates, strict=True):
            right.plot(steps, values, color=lane.color, lw=1.8, label=lane.label)
        right.set_ylim(bottom=0)
        right.yaxis.set_major_formatter(lambda value, _: number(value))
        right.set_ylabel("learning rate  ηₜ")
        for axes in (left, middle, right):
            step_axis(axes, *step_range(dataset))
        legend_of_groups(figure, run_handles(dataset, lanes), title)
    return figure
