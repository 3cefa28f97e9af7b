"""The look that all figures share: one font, a palette for every eye, a light grid, few lines."""

from collections.abc import Sequence
from typing import Any

import matplotlib
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import LogFormatterSciNotation, LogLocator, MaxNLocator

# Okabe and Ito's colors, which remain apart in the common kinds of color blindness; its yellow,
# too pale for a line on white, is left out.
PALETTE = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
INK = "#333333"
FAINT = "#8c8c8c"
_TITLE = {"family": "DejaVu Sans", "size": 10, "weight": "bold"}

RC: Any = {
    # A family by name, since the labels need its Greek letters and superscripts.
    "font.family": "DejaVu Sans",
    "mathtext.fontset": "dejavusans",
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.titlelocation": "left",
    "axes.labelsize": 8.5,
    "axes.labelcolor": INK,
    "axes.edgecolor": INK,
    "axes.linewidth": 0.7,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "axes.facecolor": "white",
    "figure.facecolor": "white",
    "grid.color": "#e6e6e6",
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": INK,
    "ytick.color": INK,
    "xtick.labelsize": 7.5,
    "ytick.labelsize": 7.5,
    "xtick.major.width": 0.7,
    "ytick.major.width": 0.7,
    "ytick.minor.width": 0.5,
    "legend.fontsize": 8,
    "legend.frameon": False,
    "legend.handlelength": 1.7,
    "legend.columnspacing": 1.6,
    "lines.linewidth": 1.3,
    "lines.solid_capstyle": "round",
    "axes.unicode_minus": True,
}


class _LogFormatter(LogFormatterSciNotation):
    """Numbers between 0.1 and 10,000 as they are, where an axis has no others."""

    def __call__(self, x: Any, pos: Any = None) -> str:
        text = super().__call__(x, pos)
        low, high = sorted(self.axis.get_view_interval()) if self.axis is not None else (0, 0)
        return f"{x:g}" if text and low >= 0.1 and high <= 1e4 else text


def styled() -> Any:
    """A context in which figures are built in this style, whatever the user's settings are."""
    return matplotlib.rc_context(RC)


def new_figure(
    panels: int, *, height: float = 2.7, width: float = 3.6
) -> tuple[Figure, list[Axes]]:
    """A figure with panels side by side (two rows from four on), made without pyplot."""
    columns = panels if panels <= 3 else (panels + 1) // 2
    rows = -(-panels // columns)
    figure = Figure(figsize=(width * columns, height * rows + 0.35), layout="constrained")
    axes = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for spare in axes[panels:]:
        spare.remove()
    return figure, axes[:panels]


def colors(count: int) -> list[Any]:
    """As many colors as asked: the palette, or steps along a perceptual map if there are more."""
    if count <= len(PALETTE):
        return list(PALETTE[:count])
    scale = matplotlib.colormaps["viridis"]
    return [scale(0.85 * place / (count - 1)) for place in range(count)]


def log_axis(axes: Axes) -> None:
    """Makes the vertical axis logarithmic, with labels between the decades only if they fit."""
    axes.set_yscale("log")
    axes.yaxis.set_major_locator(LogLocator(numticks=7))
    axes.yaxis.set_minor_locator(LogLocator(subs="auto", numticks=20))
    axes.yaxis.set_major_formatter(_LogFormatter())
    axes.yaxis.set_minor_formatter(_LogFormatter(minor_thresholds=(1.6, 0.6)))
    axes.tick_params(axis="y", which="minor", labelsize=6.5, labelcolor=FAINT)


def step_axis(axes: Axes, first: float, last: float) -> None:
    """Names and bounds the horizontal axis."""
    axes.set_xlabel("step")
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    pad = 0.02 * max(last - first, 1)
    axes.set_xlim(first - pad, last + pad)


def legend_above(figure: Figure, handles: Sequence[Any], title: str | None) -> None:
    """Puts one legend above all panels, so that it never covers data."""
    legend_of_groups(figure, [handles], title)


def legend_of_groups(figure: Figure, groups: Sequence[Sequence[Any]], title: str | None) -> None:
    """The same of entries in groups, which have a line each where they do not fit into one."""
    handles = [handle for group in groups for handle in group]
    if not handles:
        if title:
            figure.suptitle(title, fontsize=_TITLE["size"], fontweight="bold")
        return
    longest = max(len(str(handle.get_label())) for handle in handles)
    # About 0.062 inch a letter at this size, and half an inch for the line and the space.
    most = max(1, int(figure.get_figwidth() / (0.062 * longest + 0.5)))
    rows = -(-len(handles) // most)
    columns = -(-len(handles) // rows)
    widest = max(len(group) for group in groups)
    if len(groups) > 1 and rows > 1 and widest <= most:
        rows, columns = len(groups), widest
        handles = _by_column(groups, columns)
    # The panels keep their size, whatever stands above them.
    figure.set_figheight(figure.get_figheight() + 0.17 * (rows - 1) + 0.22 * bool(title))
    # The title is the legend's: matplotlib's layout would put a figure's title over the legend.
    figure.legend(
        handles=handles,
        loc="outside upper center",
        ncols=columns,
        title=title,
        title_fontproperties=_TITLE,
    )


def _by_column(groups: Sequence[Sequence[Any]], columns: int) -> list[Any]:
    """The entries in the order of a legend, which goes down each column, with blanks between."""
    return [
        group[column] if column < len(group) else Line2D([], [], ls="", label=" ")
        for column in range(columns)
        for group in groups
    ]
