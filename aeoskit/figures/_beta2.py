"""The picture of β₂: the ratio with P held, and the realized edge, of each optimizer."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, NullLocator

from ._style import FAINT, INK, PALETTE, legend_above, log_axis, new_figure, styled

_MARKERS = ("o", "s", "D", "^", "v", "P", "X")
_EDGE = 0.8
"""The median ζ from which a run is at the edge."""
_SHADE = "#e6ecf1"
_NONE = 0.25
"""The place on the axis of optimizers without β₂, relative to the least distance from 1."""
_BETWEEN = 0.85
"""The distance between two of them, a factor on that axis."""


def beta2_figure(rows: Sequence[Mapping[str, Any]], title: str | None = None) -> Figure:
    """Draws the ratio to the threshold, and the realized edge, over β₂, a line an optimizer.

    Args:
        rows: one a run, with `optimizer`, `beta2` (None for an optimizer that has none), `ratio`
            and `zeta`; None where there is no number.
        title: what stands above the figure; None for nothing.

    Returns:
        a figure: on the left the ratio, on a logarithmic axis, on the right ζ, with the range of a
        run at the edge shaded from 0.8. Both have β₂ on an axis that is logarithmic in its distance
        from 1, and optimizers without it at its end.

    Raises:
        ValueError: if there are no rows, one lacks a number's name, or a β₂ is not in [0, 1).

    Example:
        >>> row = {"optimizer": "Adam", "beta2": 0.99, "ratio": 1.02, "zeta": 0.98}
        >>> [axes.get_ylabel() for axes in beta2_figure([row]).axes]
        ['λ₁(P⁻¹H) / threshold', 'realized edge  ζ']
    """
    if not rows:
        raise ValueError("there are no rows, so that there is nothing to draw.")
    for row in rows:
        if missing := [name for name in ("beta2", "ratio", "zeta") if name not in row]:
            raise ValueError(
                f"a row has no {missing[0]}: this figure is one of ratios and realized edges over "
                f"β₂; draw the edge instead."
            )
        if row["beta2"] is not None and not 0 <= row["beta2"] < 1:
            raise ValueError(f"beta2 is {row['beta2']}: give a decay in [0, 1), or None.")
    swept = sorted({row["beta2"] for row in rows if row["beta2"] is not None})
    lacking = list(dict.fromkeys(str(x["optimizer"]) for x in rows if x["beta2"] is None))
    first = _NONE * (1 - swept[-1] if swept else 1)
    ends = {name: first * _BETWEEN**place for place, name in enumerate(lacking)}
    names = list(dict.fromkeys(str(row["optimizer"]) for row in rows))
    looks = {name: _look(place) for place, name in enumerate(names)}
    with styled():
        figure, (left, right) = new_figure(2, height=2.9)
        right.axhspan(_EDGE, 9, color=_SHADE, lw=0, zorder=0)
        for axes, key in ((left, "ratio"), (right, "zeta")):
            for name, look in looks.items():
                own = [row for row in rows if str(row["optimizer"]) == name]
                places = [ends[name] if x["beta2"] is None else 1 - x["beta2"] for x in own]
                values = [np.nan if x[key] is None else x[key] for x in own]
                axes.plot(places, values, label=name, **look)
            axes.axhline(1, color=INK, ls="--", lw=1, zorder=1, label="_edge")
            _beta2_axis(axes, swept, list(ends.values()))
        log_axis(left)
        left.set_ylabel("λ₁(P⁻¹H) / threshold")
        known = [row["zeta"] for row in rows if row["zeta"] is not None]
        right.set_ylim(min([0.5, *known]) - 0.02, max([1.1, *known]) + 0.02)
        right.set_ylabel("realized edge  ζ")
        handles = [Line2D([], [], label=name, **look) for name, look in looks.items()]
        legend_above(figure, [*handles, Patch(color=_SHADE, lw=0, label="at the edge")], title)
    return figure


def _look(place: int) -> dict[str, Any]:
    color = PALETTE[place % len(PALETTE)]
    # Beyond the palette a color comes a second time, with another marker, hollow.
    again = place >= len(PALETTE)
    marker = _MARKERS[(place + 3 * again) % len(_MARKERS)]
    face = {"mfc": "white"} if again else {}
    return {"color": color, "marker": marker, "ms": 4, "mew": 1.0, "lw": 1.1, **face}


def _beta2_axis(axes: Axes, swept: list[float], ends: list[float]) -> None:
    """Names the values of β₂; optimizers without one are beyond the largest."""
    axes.set_xscale("log")
    places, labels = [1 - value for value in swept], [f"{value:g}" for value in swept]
    if ends:
        if swept:
            axes.axvline((ends[0] * places[-1]) ** 0.5, color=FAINT, lw=0.5, label="_none")
        places.append((ends[0] * ends[-1]) ** 0.5)
        labels.append("none")
    axes.xaxis.set_major_locator(FixedLocator(places))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(places, labels)
    axes.set_xlim(max(places) * 1.35, min([*places, *ends]) / 1.35)
    axes.set_xlabel("β₂")
