"""The picture of thresholds: a run just below, one just above, and where P live comes to rest."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogLocator

from ._style import INK, PALETTE, legend_above, styled

_BELOW, _ABOVE, _LIVE = PALETTE[0], PALETTE[1], PALETTE[2]
_FAINTEST = 1e-12
_HIGHEST = 1.6
"""Where the axis of ratios ends: one beyond is written at its end."""


def threshold_figure(rows: Sequence[Mapping[str, Any]], title: str | None = None) -> Figure:
    """Draws a table of thresholds, a line an optimizer.

    Args:
        rows: each with `optimizer`, `below` and `above` (the last loss over the first one with P
            frozen on either side of the threshold) and `live_ratio`; None where there is nothing.
        title: what stands above the figure; None for nothing.

    Returns:
        a figure: on the left both losses, on a logarithmic axis that ends at 1e-12; on the right
        the ratio with P live, on an axis that ends at 1.6: one beyond is written there.

    Raises:
        ValueError: if there are no rows.

    Example:
        >>> row = {"optimizer": "Adam", "below": 1e-4, "above": 1e5, "live_ratio": 0.98}
        >>> [axes.get_xlabel() for axes in threshold_figure([row]).axes]
        ['last loss over first, P frozen', 'λ₁(P⁻¹H) / threshold, P live']
    """
    if not rows:
        raise ValueError("there are no rows, so that there is nothing to draw.")
    places = np.arange(len(rows))[::-1]
    with styled():
        figure = Figure(figsize=(7.2, 0.23 * len(rows) + 1.1), layout="constrained")
        losses, live = figure.subplots(1, 2, sharey=True, width_ratios=(3, 2))
        for name, color, marker in (("below", _BELOW, "o"), ("above", _ABOVE, "D")):
            _dots(losses, rows, name, places, color, marker, least=_FAINTEST)
        losses.set_xscale("log")
        losses.xaxis.set_major_locator(LogLocator(numticks=7))
        losses.set_xlabel("last loss over first, P frozen")
        _dots(live, rows, "live_ratio", places, _LIVE, "s", most=_HIGHEST)
        live.set_xlabel("λ₁(P⁻¹H) / threshold, P live")
        live.set_xlim(0, _HIGHEST)
        for row, place in zip(rows, places, strict=True):
            ratio = row.get("live_ratio")
            if ratio is not None and ratio > _HIGHEST:
                live.text(
                    _HIGHEST,
                    place,
                    f"{ratio:.3g} → ",
                    color=_LIVE,
                    fontsize=8,
                    ha="right",
                    va="center",
                )
        for axes in (losses, live):
            axes.axvline(1.0, color=INK, ls="--", lw=0.9)
            axes.set_yticks(places, [str(row["optimizer"]) for row in rows])
            axes.set_ylim(-0.7, len(rows) - 0.3)
        live.tick_params(axis="y", labelleft=False)
        handles = [
            Line2D([], [], ls="", marker="o", color=_BELOW, label="below the threshold"),
            Line2D([], [], ls="", marker="D", ms=5, color=_ABOVE, label="above the threshold"),
            Line2D([], [], ls="", marker="s", ms=5, color=_LIVE, label="P live"),
        ]
        legend_above(figure, handles, title)
    return figure


def _dots(
    axes: Axes,
    rows: Sequence[Mapping[str, Any]],
    name: str,
    places: np.ndarray,
    color: str,
    marker: str,
    least: float = -np.inf,
    most: float = np.inf,
) -> None:
    """A dot a row, left out where there is no number, or one beyond the axis."""
    values = np.asarray([np.nan if row.get(name) is None else row[name] for row in rows], float)
    values[values > most] = np.nan
    axes.plot(np.maximum(values, least), places, marker, color=color, ms=4.5, mew=0, clip_on=False)
