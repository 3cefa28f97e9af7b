"""Swept values as labels, and a lane found again by them."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:  # a second to import, and listing runs needs it not
    import xarray as xr

ABSENT = object()
"""Stands for the value of a name that a lane does not have."""


def label_values(values: Sequence[Any]) -> list[float | None] | list[str | None]:
    """The values of one swept name as labels of one kind: all floats, or all text.

    A value that is None is text, as "none" is a setting like another; a lane that does not have the
    name at all (`ABSENT`) gets None.

    >>> label_values([16, 64]), label_values([16, None])
    ([16.0, 64.0], ['16', 'none'])
    """
    if all(value is ABSENT or isinstance(value, int | float) for value in values):
        return [None if value is ABSENT else float(value) for value in values]
    return [None if value is ABSENT else label_text(value) for value in values]


def label_text(value: Any) -> str:
    """A swept value as text."""
    return "none" if value is None else str(value)


def lane_selection(dataset: "xr.Dataset", lane: Mapping[str, Any]) -> dict[str, Any]:
    """The indexers that pick one lane: `dataset.sel(lane_selection(dataset, lane))`.

    Args:
        dataset: the metrics of a run, of any branches.
        lane: its swept values, all of them, as `create_run` was given them.

    Returns:
        labels for `sel`: one for each dimension of the sweep; `lane` where the lanes are not a
        full grid; nothing for what does not vary.

    Raises:
        ValueError: if no lane has these values.

    Example:
        >>> import xarray as xr
        >>> coords = {"lr": [1e-3, 3e-3], "batch": ["16", "none"], "width": 10.0}
        >>> metrics = xr.Dataset(coords=coords)
        >>> lane_selection(metrics, {"lr": 3e-3, "batch": None, "width": 10})
        {'lr': 0.003, 'batch': 'none'}
    """
    given = {
        f"swept_{name}" if f"swept_{name}" in dataset.coords else name: value
        for name, value in lane.items()
    }
    found: dict[str, Any] = {}
    fits = [True] * dataset.sizes.get("lane", 0)
    for name in map(str, dataset.coords):
        labels = dataset[name]
        if labels.dims == ("lane",) and name != "lane":
            value = given.get(name, ABSENT)
            fits = [
                fit and _matches(label, value)
                for fit, label in zip(fits, labels.values.tolist(), strict=True)
            ]
        elif name in given and labels.dims:
            known = labels.values.tolist()
            matching = [label for label in known if _matches(label, given[name])]
            if not matching:
                raise ValueError(f"no lane has {name} {given[name]!r}: it is one of {known}.")
            found[name] = matching[0]
    if fits:
        if True not in fits:
            raise ValueError(f"no lane has {dict(lane)}: take one of the run's `lanes`.")
        found["lane"] = fits.index(True)
    return found


def _matches(label: float | str, value: Any) -> bool:
    if value is ABSENT:
        return label == "" or label != label
    if isinstance(label, str):
        return label == label_text(value)
    return isinstance(value, int | float) and label == float(value)
