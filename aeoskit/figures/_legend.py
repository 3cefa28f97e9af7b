"""The entries of a legend: one a run, or one a value where the runs are a grid."""

import xarray as xr
from matplotlib.lines import Line2D

from ._curves import Lane
from ._factors import HUES, hue_and_tone, tones
from ._names import name_value
from ._style import FAINT


def run_handles(dataset: xr.Dataset, lanes: list[Lane]) -> list[list[Line2D]]:
    """The legend's entries of all runs, in groups; with the step for those that diverged."""
    factors = hue_and_tone(dataset)
    if factors is None:
        return [[_of_run(lane) for lane in lanes]]
    hue, tone = factors
    groups = [
        [
            Line2D([], [], color=color, lw=2.2, label=name_value(dim, value))
            for value, color in zip(dataset[dim].values.tolist(), palette, strict=False)
        ]
        for dim, palette in ((hue, HUES), (tone, tones(FAINT, dataset.sizes[tone])))
    ]
    diverged = [_of_run(lane) for lane in lanes if lane.diverged_at >= 0]
    return [*groups, diverged] if diverged else groups


def _of_run(lane: Lane) -> Line2D:
    if lane.diverged_at < 0:
        return Line2D([], [], color=lane.color, lw=1.6, label=lane.label)
    label = f"{lane.label}, diverged at step {lane.diverged_at}"
    return Line2D([], [], color=lane.color, lw=1.6, marker="x", label=label)
