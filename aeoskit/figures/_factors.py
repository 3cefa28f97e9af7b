"""Colors of the lanes of a dataset: hues and, on a grid, tones of them."""

from typing import Any

import numpy as np
import xarray as xr
from matplotlib.colors import to_rgb

from ._style import PALETTE, colors

HUES = PALETTE[:-1]
"""Without black, which has no darker tone."""
_TONES = 5


def sweep_dims(dataset: xr.Dataset) -> list[str]:
    """The dimensions of the sweep: those of `diverged_at`, or of the first measurement."""
    names = ["diverged_at"] if "diverged_at" in dataset else list(dataset.data_vars)[:1]
    fixed = {"branch", "step", "index"}
    return [str(dim) for name in names for dim in dataset[name].dims if dim not in fixed]


def hue_and_tone(dataset: xr.Dataset) -> tuple[str, str] | None:
    """The dimensions of a grid, one for hues and one for tones; None if it is none, or too large.

    Branches differ in tone: each has the hue of the run that it left.
    """
    varied = [dim for dim in sweep_dims(dataset) if dataset.sizes[dim] > 1]
    if dataset.sizes.get("branch", 1) > 1:
        varied.append("branch")
    if len(varied) != 2 or "lane" in varied:
        return None
    hue, tone = varied
    fits = dataset.sizes[hue] <= len(HUES) and dataset.sizes[tone] <= _TONES
    return (hue, tone) if fits else None


def lane_colors(dataset: xr.Dataset, places: list[dict[str, int]]) -> list[tuple[Any, Any]]:
    """The color and the hue of each lane, which is given by its index along every dimension.

    A lane off a grid has a color of its own, which is its hue too.
    """
    factors = hue_and_tone(dataset)
    if factors is None:
        return [(color, color) for color in colors(len(places))]
    hue, tone = factors
    count = dataset.sizes[tone]
    return [(tones(HUES[place[hue]], count)[place[tone]], HUES[place[hue]]) for place in places]


def tones(color: Any, count: int) -> list[Any]:
    """A color from pale to dark.

    >>> [round(sum(tone), 2) for tone in tones("#0072B2", 3)]
    [1.96, 1.15, 0.63]
    """
    rgb = np.array(to_rgb(color))
    levels = np.linspace(-1, 1, count) if count > 1 else np.zeros(1)
    mixed = [
        rgb - level * 0.44 * (1 - rgb) if level < 0 else rgb * (1 - 0.45 * level)
        for level in levels
    ]
    return [tuple(float(part) for part in tone) for tone in mixed]


def darker(color: Any) -> Any:
    """The same hue, for a line over others of that color."""
    return tones(color, 2)[1]
