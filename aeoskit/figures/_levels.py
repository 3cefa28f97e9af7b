"""The picture of many numbers that should all be the same: each with its spread and its bounds."""

import dataclasses
import itertools
import math
from collections.abc import Sequence

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MultipleLocator

from ._style import FAINT, INK, colors, legend_above, styled

_LINE = 0.165
"""Inches from one line to the next."""


@dataclasses.dataclass(frozen=True)
class Level:
    """A number of one line.

    Args:
        group: lines of one group stand together, `E1` say.
        label: names the line within its group.
        setting: under what it was measured: settings share a line, and have a color each.
        value: the number that was judged.
        values: those that it is the median of, one a seed; nothing for one that is alone.
        low: its lower bound.
        high: its upper bound.

    Example:
        >>> Level("E3", "frozen-100", "mnist5k", 0.74, (), 0.85, 1.15).within
        False
    """

    group: str
    label: str
    setting: str
    value: float
    values: tuple[float, ...]
    low: float
    high: float

    @property
    def within(self) -> bool:
        """Whether it lies within its bounds."""
        return self.low <= self.value <= self.high


def levels_figure(levels: Sequence[Level], title: str | None = None) -> Figure:
    """Draws ratios to a threshold that should be 1: a line each, with bounds and spread.

    Args:
        levels: the numbers, in the order of the lines. Those of one group and label share a line.
        title: what stands above the figure; None for nothing.

    Returns:
        a figure with one panel. The shade of a line is the widest of its bounds; a dot is a number,
        the thin line through it its range over the seeds; a cross is one outside of its own bounds.
        What lies beyond 0 to 1.5 is drawn at the end, with its number beside it.

    Raises:
        ValueError: if there are no levels, or one of them is not finite.

    Example:
        >>> edge = Level("E1", "lr-1e-3", "reference", 0.99, (0.98, 0.99, 1.01), 0.9, 1.1)
        >>> [text.get_text() for text in levels_figure([edge]).legends[0].get_texts()]
        ['reference', 'bounds']
    """
    if not levels:
        raise ValueError("there are no levels, so that there is nothing to draw.")
    for level in levels:
        for value in (level.value, *level.values):
            if not math.isfinite(value):
                raise ValueError(f"{level.group} {level.label} is {value}: give finite numbers.")
    lines = list(dict.fromkeys((level.group, level.label) for level in levels))
    settings = list(dict.fromkeys(level.setting for level in levels))
    palette = dict(zip(settings, colors(len(settings)), strict=True))
    with styled():
        figure = Figure(figsize=(6.6, _LINE * len(lines) + 1.1), layout="constrained")
        axes = figure.subplots()
        for place, line in enumerate(lines):
            here = [level for level in levels if (level.group, level.label) == line]
            _line(axes, place, here, palette)
        _between_groups(axes, [group for group, _ in lines])
        axes.axvline(1, color=INK, ls="--", lw=0.9, zorder=2)
        axes.set_xlim(-0.03, 1.53)
        axes.xaxis.set_major_locator(MultipleLocator(0.25))
        axes.set_xlabel("measured / threshold")
        axes.set_ylim(len(lines) - 0.4, -0.6)
        axes.set_yticks(range(len(lines)), [f"{group}  {label}" for group, label in lines])
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        legend_above(figure, _handles(levels, palette), title)
    return figure


def _line(axes: Axes, place: int, here: Sequence[Level], palette: dict[str, str]) -> None:
    low, high = min(level.low for level in here), max(level.high for level in here)
    axes.barh(place, high - low, left=low, height=0.72, color="#e9eef2", lw=0, zorder=1)
    for index, level in enumerate(here):
        # Side by side, as they lie over each other where all is well.
        at = place + (0.5 * (index / (len(here) - 1) - 0.5) if len(here) > 1 else 0)
        color = palette[level.setting]
        spread = [min(max(value, 0), 1.5) for value in (level.value, *level.values)]
        axes.plot([min(spread), max(spread)], [at, at], color=color, lw=0.9, zorder=3)
        dot = {"marker": "o", "ms": 3.6} if level.within else {"marker": "X", "ms": 5.5}
        axes.plot(spread[0], at, ls="", color=color, zorder=4, mew=0, **dot)
        if not 0 <= level.value <= 1.5:
            side = ("right", -4) if level.value > 1 else ("left", 4)
            axes.annotate(
                f"{level.value:.3g}",
                (spread[0], at),
                (side[1], 0),
                textcoords="offset points",
                ha=side[0],
                va="center",
                fontsize=6.5,
                color=color,
            )


def _between_groups(axes: Axes, groups: Sequence[str]) -> None:
    for place, (before, after) in enumerate(itertools.pairwise(groups)):
        if before != after:
            axes.axhline(place + 0.5, color=FAINT, lw=0.4, zorder=0)


def _handles(levels: Sequence[Level], palette: dict[str, str]) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=color, marker="o", ms=3.6, lw=0.9, label=name)
        for name, color in palette.items()
    ]
    handles.append(Patch(color="#e9eef2", lw=0, label="bounds"))
    if not all(level.within for level in levels):
        handles.append(Line2D([], [], color=INK, marker="X", ms=5.5, ls="", label="outside"))
    return handles
