"""The picture of a grid of runs: what each ended at, as heat maps with the numbers written in."""

from dataclasses import dataclass
from typing import Any

import matplotlib
import numpy as np
import xarray as xr
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import LogNorm, Normalize, TwoSlopeNorm
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from ._curves import Lane, curve
from ._factors import sweep_dims
from ._names import symbol, value_text
from ._panels import ratio_of
from ._style import INK, legend_above, log_axis, styled

_PANELS = {
    "sharpness": "sharpness  λ₁(H)",
    "ratio": "λ₁(P⁻¹H) / threshold",
    "test_error": "test error",
}
_MAP = matplotlib.colormaps["viridis"]
# White where the ratio is 1: blue is below the edge, and red above it.
_RATIO_MAP = matplotlib.colormaps["RdBu_r"]
_NO_NUMBER_COLOR = "#ececec"


def grid_figure(dataset: xr.Dataset, title: str | None = None) -> Figure:
    """Draws what the runs of a grid ended at: raw sharpness, ratio to the threshold, test error.

    Args:
        dataset: the metrics of a run swept over two numbers, one of which may have one value; with
            some of `sharpness`, `ratio` and `test_error`. Of branches, the main one is drawn.
        title: what stands above the figure; None for nothing.

    Returns:
        a figure with a panel a measurement and its color bar, that of the ratio white at 1. A cell
        is the median over the last fifth of the steps at which its run was measured; runs that
        diverged or were not measured are marked.

    Raises:
        ValueError: if the sweep has not two dimensions, or nothing of the three was measured.

    Example:
        >>> metrics = xr.Dataset(
        ...     {"ratio": (("branch", "lr", "beta2", "step"), [[[[0.9, 1.0]], [[0.5, 0.6]]]])},
        ...     {"branch": ["main"], "lr": [1e-3, 3e-3], "beta2": [0.99], "step": [0, 10]},
        ... )
        >>> [text.get_text() for text in grid_figure(metrics).axes[0].texts]
        ['1.00', '0.60']
    """
    grid = _grid(dataset)
    found = {name: _ends(dataset, grid, name) for name in _PANELS}
    found = {name: values for name, values in found.items() if values is not None}
    if not found:
        raise ValueError(
            f"the dataset holds {sorted(map(str, dataset.data_vars))}, but a grid figure needs "
            f"one of {list(_PANELS)}: track one of them."
        )
    rows, columns = len(grid.row_values), len(grid.column_values)
    with styled():
        width, height = max(0.62 * columns + 0.5, 2.1), max(0.42 * rows, 0.5) + 0.8
        figure = Figure(figsize=((width + 0.5) * len(found) + 0.3, height), layout="constrained")
        panels = figure.subplots(1, len(found), squeeze=False, sharey=True).ravel().tolist()
        for axes, (name, values) in zip(panels, found.items(), strict=True):
            _heat_map(figure, axes, grid, name, values)
        panels[0].set_ylabel(symbol(grid.names[0]), rotation=0, ha="right", va="center", labelpad=8)
        legend_above(figure, [], title)
    return figure


@dataclass(frozen=True)
class _Grid:
    """A grid's names, values and runs, the rows first."""

    names: tuple[str, str]
    row_values: list[Any]
    column_values: list[Any]
    lanes: list[list[Lane]]


def _grid(dataset: xr.Dataset) -> _Grid:
    dims = sweep_dims(dataset)
    varied = [dim for dim in dims if dataset.sizes[dim] > 1]
    # Where fewer than two vary, one of a single value stands in.
    single = [dim for dim in dims if dim not in varied][: max(2 - len(varied), 0)]
    chosen = [dim for dim in dims if dim in varied or dim in single]
    if "lane" in dims or not 1 <= len(chosen) <= 2:
        raise ValueError(
            f"the dataset sweeps {dims}, but a grid figure draws a full grid of two: choose a "
            f"value of the others, as in `dataset.isel({(dims or ['lr'])[0]}=0)`."
        )
    branches = dataset["branch"].values.tolist()
    branch = "main" if "main" in branches else branches[0]
    if len(chosen) == 1:
        dataset, chosen = dataset.expand_dims({"": [""]}), ["", *chosen]
    first, second = chosen
    rest = {dim: 0 for dim in dims if dim not in chosen}
    lanes = [
        [
            _lane(dataset, {"branch": branch, **rest, first: row, second: column})
            for column in range(dataset.sizes[second])
        ]
        for row in range(dataset.sizes[first])
    ]
    row_values, column_values = (dataset[dim].values.tolist() for dim in chosen)
    return _Grid((first, second), row_values, column_values, lanes)


def _lane(dataset: xr.Dataset, selection: dict[str, Any]) -> Lane:
    place = dict(selection)
    point = dataset.sel(branch=place.pop("branch")).isel(place)
    diverged = int(point["diverged_at"]) if "diverged_at" in point else -1
    kept = {dim: at for dim, at in selection.items() if dim}
    return Lane(kept, "", None, diverged)


def _ends(dataset: xr.Dataset, grid: _Grid, name: str) -> np.ndarray | None:
    """The median over the last fifth, NaN where there is none; None if no run was measured."""
    measured = False
    ends = np.full((len(grid.row_values), len(grid.column_values)), np.nan)
    for place in np.ndindex(ends.shape):
        lane = grid.lanes[place[0]][place[1]]
        of = ratio_of(dataset, lane) if name == "ratio" else curve(dataset, lane, name)
        steps, values = of
        measured |= bool(values.size)
        if values.size and lane.diverged_at < 0:
            ends[place] = np.median(values[steps >= steps[0] + 0.8 * (steps[-1] - steps[0])])
    return ends if measured else None


def _heat_map(figure: Figure, axes: Axes, grid: _Grid, name: str, values: np.ndarray) -> None:
    norm, cmap = _norm(name, values[np.isfinite(values)]), _RATIO_MAP if name == "ratio" else _MAP
    size = 8.5 if values.shape[1] <= 6 else 7
    for (row, column), value in np.ndenumerate(values):
        color = cmap(norm(value)) if np.isfinite(value) else _NO_NUMBER_COLOR
        corner = (column - 0.5, row - 0.5)
        axes.add_patch(Rectangle(corner, 1, 1, facecolor=color, edgecolor="white", lw=1.2))
        lane = grid.lanes[row][column]
        missing = "–" if lane.diverged_at < 0 else f"diverged\nat {lane.diverged_at}"
        axes.text(
            column,
            row,
            _cell_text(name, value) if np.isfinite(value) else missing,
            ha="center",
            va="center",
            color=_text_color(color) if np.isfinite(value) else INK,
            fontsize=size if np.isfinite(value) else size - 2,
        )
    if np.isfinite(values).any():
        bar = figure.colorbar(ScalarMappable(norm, cmap), ax=axes, pad=0.02, aspect=12)
        if isinstance(norm, LogNorm):
            log_axis(bar.ax)
        bar.outline.set_visible(False)
        bar.ax.tick_params(labelsize=7, width=0.5, length=2)
        bar.ax.grid(visible=False)
    axes.set_xticks(
        range(len(grid.column_values)), [value_text(value) for value in grid.column_values]
    )
    axes.set_yticks(range(len(grid.row_values)), [value_text(value) for value in grid.row_values])
    axes.set_xlim(-0.5, len(grid.column_values) - 0.5)
    axes.set_ylim(-0.5, len(grid.row_values) - 0.5)
    axes.set_xlabel(symbol(grid.names[1]))
    axes.set_title(_PANELS[name])
    axes.grid(visible=False)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)


def _norm(name: str, values: np.ndarray) -> Normalize:
    """Sharpness by its logarithm; the ratio by its distance from 1."""
    if not values.size:  # all diverged
        return Normalize()
    low, high = float(values.min()), float(values.max())
    if name == "ratio":
        # At least a half, lest a difference of a few percent look like all there is.
        return TwoSlopeNorm(1, min(low, 0.5), max(high, 1.5))
    if name == "sharpness" and low > 0:
        # At least half a decade, for the same reason.
        pad = max((10**0.5 / (high / low)) ** 0.5, 1.0)
        return LogNorm(low / pad, high * pad)
    # An error spans a factor of two at least, for the same reason.
    return Normalize(min(low, high / 2), high if high > 0 else 1)


def _cell_text(name: str, value: float) -> str:
    if name == "ratio":
        return f"{value:.2f}"
    if 100 <= abs(value) < 1e5:
        return f"{value:.0f}"
    return f"{value:#.3g}"


def _text_color(color: Any) -> str:
    """White on dark cells, black on light ones, by the contrast of WCAG 2."""
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in color[:3]]
    luminance = float(np.dot((0.2126, 0.7152, 0.0722), linear))
    return "white" if luminance < 0.179 else "black"
