"""The picture of many ratios to a threshold: each with its spread, its bounds and its verdict."""

import dataclasses
import itertools
import math
from collections.abc import Sequence
from typing import Any, Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.patches import Patch
from matplotlib.ticker import MultipleLocator

from ._style import FAINT, INK, PALETTE, colors, legend_above, styled

_LINE = 0.165
"""Inches from one line to the next."""
_MORE = 0.6
"""Of that, what each further number in a line takes."""
_END = 1.5
_HUES = (*PALETTE, FAINT)
_SHADE = "#e6ecf1"
_DOT: dict[str, Any] = {"marker": "o", "ms": 3.6}
_CROSS: dict[str, Any] = {"marker": "X", "ms": 5.5}
_RING: dict[str, Any] = {"marker": "o", "ms": 3.6, "mfc": "white"}


@dataclasses.dataclass(frozen=True)
class Level:
    """A ratio to a threshold, and its verdict.

    Args:
        group: such as `E1`. Give the levels of a group one after the other.
        label: names the line within its group.
        setting: under what it was measured: settings share a line, and have a color each.
        value: the number that was judged; None if there is none.
        values: those that it is the median of, one a seed; nothing for one that is alone.
        low: its lower bound; None if it has none.
        high: its upper bound; None if it has none.
        verdict: "pass", "fail", or "open" for what could not be judged.

    Example:
        >>> Level("E3", "frozen-100", "mnist5k", 0.74, (), 0.85, 1.15, "fail").verdict
        'fail'
    """

    group: str
    label: str
    setting: str
    value: float | None
    values: tuple[float, ...]
    low: float | None
    high: float | None
    verdict: Literal["pass", "fail", "open"]


def levels_figure(levels: Sequence[Level], title: str | None = None) -> Figure:
    """Draws ratios to a threshold, each on its line, with bounds and spread.

    Args:
        levels: the numbers, in the order of the lines. Those of one group and label share a line.
        title: what stands above the figure; None for nothing.

    Returns:
        a figure with one panel from 0 to 1.5. A shade is a number's bounds, a thin line its range
        over the seeds, a dot one that passed, a cross one that failed, a ring one that could not be
        judged. A triangle at the end of the panel stands for numbers
        beyond it, and a median there has its number beside it; a line without any number is
        labeled so.

    Raises:
        ValueError: if there are no levels, or a number is not finite.

    Example:
        >>> edge = Level("E1", "lr-1e-3", "reference", 0.99, (0.98, 0.99, 1.01), 0.9, 1.1, "pass")
        >>> [text.get_text() for text in levels_figure([edge]).legends[0].get_texts()]
        ['reference', 'bounds']
    """
    if not levels:
        raise ValueError("there are no levels, so that there is nothing to draw.")
    for level in levels:
        for number in (level.value, level.low, level.high, *level.values):
            if number is not None and not math.isfinite(number):
                raise ValueError(f"{level.group} {level.label} is {number}: give finite numbers.")
    lines: dict[tuple[str, str], list[Level]] = {}
    for level in levels:
        lines.setdefault((level.group, level.label), []).append(level)
    settings = list(dict.fromkeys(level.setting for level in levels))
    hues = _HUES if len(settings) <= len(_HUES) else colors(len(settings))
    palette = dict(zip(settings, hues, strict=False))
    heights = [1 + _MORE * (len(members) - 1) for members in lines.values()]
    tops = [0.0, *itertools.accumulate(heights)]
    with styled():
        figure = Figure(figsize=(6.6, _LINE * tops[-1] + 1.1), layout="constrained")
        axes = figure.subplots()
        for top, height, members in zip(tops, heights, lines.values(), strict=False):
            first = top + (height - _MORE * (len(members) - 1)) / 2
            for index, level in enumerate(members):
                slot = 0.72 if len(members) == 1 else 0.86 * _MORE
                _draw(axes, first + _MORE * index, slot, level, palette[level.setting])
        groups = [group for group, _ in lines]
        for top, (before, after) in zip(tops[1:], itertools.pairwise(groups), strict=False):
            if before != after:
                axes.axhline(top, color=FAINT, lw=0.4, zorder=0, label="_divider")
        axes.axvline(1, color=INK, ls="--", lw=0.9, zorder=2, label="_threshold")
        axes.set_xlim(-0.03, _END + 0.03)
        axes.xaxis.set_major_locator(MultipleLocator(0.25))
        axes.set_xlabel("measured / threshold")
        axes.set_ylim(tops[-1], 0)
        middles = [top + height / 2 for top, height in zip(tops, heights, strict=False)]
        axes.set_yticks(middles, [f"{group}  {label}" for group, label in lines])
        axes.tick_params(axis="y", length=0)
        axes.grid(visible=False, axis="y")
        legend_above(figure, _handles(levels, palette), title)
    return figure


def _draw(axes: Axes, at: float, slot: float, level: Level, color: Any) -> None:
    low = -1.0 if level.low is None else level.low
    high = _END + 1 if level.high is None else level.high
    axes.barh(at, high - low, left=low, height=slot, color=_SHADE, lw=0, zorder=1)
    if level.value is None:
        axes.text(0, at, "no number", color=color, fontsize=6.5, va="center")
        return
    known = (level.value, *level.values)
    ends = min(known), max(known)
    axes.plot([_clip(end) for end in ends], [at, at], color=color, lw=0.9, zorder=3, label="_range")
    for end in dict.fromkeys(ends):
        if _clip(end) != end:
            sign = "<" if end < 0 else ">"
            axes.plot(_clip(end), at, sign, color=color, ms=3, mew=0, zorder=3, label="_beyond")
    kind = {"pass": _DOT, "fail": _CROSS, "open": _RING}[level.verdict]
    axes.plot(_clip(level.value), at, ls="", color=color, zorder=4, label="_median", **kind)
    if _clip(level.value) != level.value:
        axes.annotate(
            f"{level.value:.3g}",
            (_clip(level.value), at),
            (6, 0),
            textcoords="offset points",
            va="center",
            fontsize=6.5,
            color=color,
        )


def _clip(value: float) -> float:
    return min(max(value, 0.0), _END)


def _handles(levels: Sequence[Level], palette: dict[str, Any]) -> list[Line2D | Patch]:
    handles: list[Line2D | Patch] = [
        Line2D([], [], color=color, lw=0.9, label=name, **_DOT) for name, color in palette.items()
    ]
    handles.append(Patch(color=_SHADE, lw=0, label="bounds"))
    for verdict, words, kind in (("fail", "failed", _CROSS), ("open", "not judged", _RING)):
        if any(level.verdict == verdict and level.value is not None for level in levels):
            handles.append(Line2D([], [], color=INK, ls="", label=words, **kind))
    return handles
