"""The figure of the flip multiplier: the ratio to the edge by it, and by `λ₁(P⁻¹H)`."""

from collections.abc import Sequence

import numpy as np
import xarray as xr
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ._curves import curve, lanes_of
from ._style import INK, PALETTE, legend_above, step_axis, styled

_COLUMNS = 4
_BY_EIGENVALUE, _BY_MULTIPLIER, _OSCILLATION = PALETTE[0], PALETTE[1], PALETTE[2]
_RANGE = (0.0, 1.6)


def multiplier_figure(
    dataset: xr.Dataset, labels: Sequence[str] | None = None, title: str | None = None
) -> Figure:
    """Draws, for each run, both ratios to the edge: by `λ₁(P⁻¹H)` and by the flip multiplier.

    Args:
        dataset: the metrics of a run, with `equivalent_ratio`, and perhaps `ratio` and
            `oscillation_modulus`, whose edge is 1 too.
        labels: a name for each run, in the dataset's order; None for the values that differ.
        title: what stands above the figure; None for nothing.

    Returns:
        a figure with a panel a run, on one scale from 0 to 1.6, which the first steps may leave.

    Raises:
        ValueError: if no equivalent ratio was measured, or there is not one label a run.

    Example:
        >>> metrics = xr.Dataset(
        ...     {"equivalent_ratio": (("branch", "step"), [[0.2, 0.9]])},
        ...     {"branch": ["main"], "step": [0, 25]},
        ... )
        >>> multiplier_figure(metrics, ["Adam"]).axes[0].get_title(loc="left")
        'Adam'
    """
    if "equivalent_ratio" not in dataset:
        raise ValueError(
            f"the dataset holds {sorted(map(str, dataset.data_vars))}, but a multiplier figure "
            "needs 'equivalent_ratio': track flip_multiplier."
        )
    lanes = lanes_of(dataset)
    if labels is not None and len(labels) != len(lanes):
        raise ValueError(
            f"labels has {len(labels)} names for {len(lanes)} runs: give one for each, or None."
        )
    names = [lane.label for lane in lanes] if labels is None else list(labels)
    columns = min(_COLUMNS, len(lanes))
    rows = -(-len(lanes) // columns)
    steps = dataset["step"].values
    turns = "oscillation_modulus" in dataset
    with styled():
        figure = Figure(figsize=(max(2.1 * columns, 4.2), 1.55 * rows + 0.75), layout="constrained")
        grid = figure.subplots(rows, columns, squeeze=False, sharex=True, sharey=True)
        panels = grid.ravel().tolist()
        for axes in panels[len(lanes) :]:
            axes.set_axis_off()
        for axes, lane, name in zip(panels, lanes, names, strict=False):
            axes.axhline(1.0, color=INK, ls="--", lw=0.9)
            at, ratio = curve(dataset, lane, "ratio")
            axes.plot(at, ratio, color=_BY_EIGENVALUE, lw=1.2)
            at, ratio = curve(dataset, lane, "equivalent_ratio")
            axes.plot(at, ratio, "o", color=_BY_MULTIPLIER, ms=2.4, mew=0)
            if turns:
                at, modulus = curve(dataset, lane, "oscillation_modulus")
                axes.plot(at, modulus, color=_OSCILLATION, lw=0.9, marker="v", ms=2.4, mew=0)
            if lane.diverged_at >= 0:
                name = f"{name}, diverged at {lane.diverged_at}"
            axes.set_title(name)
            step_axis(axes, float(steps.min()), float(steps.max()))
            axes.set_xlabel("")
        panels[0].set_ylim(*_RANGE)
        panels[0].set_yticks(np.arange(0, 1.6, 0.5))
        for column in range(columns):
            # The lowest panel of each column, which need not be in the last row.
            lowest = max(place for place in range(len(lanes)) if place % columns == column)
            panels[lowest].set_xlabel("step")
            panels[lowest].tick_params(labelbottom=True)
        name = "ratio to the edge, modulus" if turns else "ratio to the edge"
        figure.supylabel(name, fontsize=8.5, color=INK)
        handles = [
            Line2D([], [], color=_BY_EIGENVALUE, lw=1.6, label="λ₁(P⁻¹H) / threshold"),
            Line2D(
                [],
                [],
                color=_BY_MULTIPLIER,
                ls="",
                marker="o",
                ms=4,
                label="by the flip multiplier of the whole step",
            ),
            Line2D([], [], color=INK, ls="--", lw=1, label="the edge"),
        ]
        if turns:
            label = "largest oscillating multiplier, modulus"
            line = Line2D([], [], color=_OSCILLATION, lw=1, marker="v", ms=4, mew=0, label=label)
            handles.insert(2, line)
        legend_above(figure, handles, title)
    return figure
