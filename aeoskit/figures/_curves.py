"""The lanes of a dataset, their curves and labels.

A *lane* is one run of a dataset: one branch of one entry of a sweep.
"""

import itertools
from dataclasses import dataclass
from typing import Any

import numpy as np
import xarray as xr

from .._median import running_median as running_median
from ._factors import lane_colors, sweep_dims
from ._names import name_value


@dataclass(frozen=True)
class Lane:
    """One run of a dataset: a branch and a place in the sweep."""

    selection: dict[str, Any]
    label: str
    color: Any
    diverged_at: int
    hue: Any = None


def lanes_of(dataset: xr.Dataset) -> list[Lane]:
    """The lanes of a dataset in order, each with its label and color."""
    dims = sweep_dims(dataset)
    branches = dataset["branch"].values.tolist()
    places = [
        dict(zip(("branch", *dims), at, strict=True))
        for at in itertools.product(
            range(len(branches)), *(range(dataset.sizes[dim]) for dim in dims)
        )
    ]
    found = []
    for place, (color, hue) in zip(places, lane_colors(dataset, places), strict=True):
        branch, here = branches[place["branch"]], {dim: place[dim] for dim in dims}
        point = dataset.isel(here).sel(branch=branch)
        label = ", ".join(_label(point, dim) for dim in dims)
        if len(branches) > 1 or not label:
            label = f"{branch} ({label})" if label else _single_run_label(point) or str(branch)
        diverged = int(point["diverged_at"]) if "diverged_at" in point else -1
        found.append(Lane({"branch": branch, **here}, label, color, diverged, hue))
    return found


def _label(point: xr.Dataset, dim: Any) -> str:
    if dim != "lane":
        return name_value(str(dim), point[dim].item())
    # Lanes off a grid have the values that vary as further coordinates of the lane dimension.
    named = [
        name_value(str(name), point[name].item())
        for name in point.coords
        if name not in ("lane", "branch", "step", "index") and point[name].ndim == 0
        if point[name].item() == point[name].item()
    ]
    return ", ".join(named) or f"lane {point['lane'].item()}"


def _single_run_label(point: xr.Dataset) -> str:
    if len(point["branch"].shape) or point["branch"].item() != "main":
        return ""
    return name_value("lr", point["lr"].item()) if "lr" in point.coords else ""


def curve(dataset: xr.Dataset, lane: Lane, name: str, index: int = 0) -> tuple[Any, Any]:
    """Steps and values at which a lane has a finite measurement, up to its divergence.

    Returns:
        two vectors of the same length, empty where nothing was measured.
    """
    if name not in dataset:
        return np.empty(0), np.empty(0)
    selection = dict(lane.selection)
    array = dataset[name].sel(branch=selection.pop("branch")).isel(selection)
    if "index" in array.dims:
        array = array.isel(index=index)
    steps, values = dataset["step"].values, np.asarray(array.values, float)
    keep = np.isfinite(values)
    if lane.diverged_at >= 0:
        keep &= steps <= lane.diverged_at
    return steps[keep], values[keep]
