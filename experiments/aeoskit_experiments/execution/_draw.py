"""The figure of a record: the choice of its kind, and the drawing."""

from pathlib import Path
from typing import Any

import xarray as xr

from ._listener import Listener
from ._names import branch_name, optimizer_name


def kind_of(dataset: xr.Dataset, *, adaptive: bool, sides: bool) -> str:
    """The kind of figure that fits the branches, the probes or the sweep; edge by default.

    Args:
        dataset: the metrics of a run.
        adaptive: whether the main run has a preconditioner.
        sides: whether there are branches frozen below and above the threshold.

    Returns:
        A kind of the stage plot, any but auto. Grids and spikes are drawn only on request, since
        the trajectory shows more.
    """
    if sides:
        return "thresholds"
    if "multiplier" in dataset:
        return "multiplier"
    names = {str(name) for name in dataset["branch"].values}
    lanes = [name for name in dataset["loss"].dims if name not in ("branch", "step")]
    both = adaptive and "sharpness" in dataset and "ratio" in dataset
    if both and names == {"main"} and lanes in (["eps"], ["warmup"]):
        return "epsilon" if lanes == ["eps"] else "warmup"
    known = "frozen" in names and names <= {"main", "frozen", "momentum"}
    return "advance" if known and both and not lanes else "edge"


def draw(
    dataset: xr.Dataset,
    kind: str,
    runs: list[dict[str, Any]],
    rows: list[dict[str, Any]],
    path: Path,
    listener: Listener,
) -> list[Path]:
    """Draw a record's figure into files, or report why there is none.

    Args:
        dataset: the metrics of a run.
        kind: a kind of the stage plot, any but auto.
        runs: the summary of each run.
        rows: the table's rows, for a figure of thresholds or of β₂.
        path: the figure's path, without a suffix.
        listener: receives the reason if no figure was drawn.

    Returns:
        The files.
    """
    from aeoskit.figures import save

    try:
        figure = _figure(dataset, kind, runs, rows)
    except Exception as error:  # A record without a picture is better than no record.
        listener.noted(f"no figure was drawn: {type(error).__name__}: {error}")
        return []
    return save(figure, path)


def _figure(
    dataset: xr.Dataset, kind: str, runs: list[dict[str, Any]], rows: list[dict[str, Any]]
) -> Any:
    from aeoskit import figures

    if kind == "advance":
        labels = {"main": optimizer_name(str(runs[0]["optimizer"]))}
        return figures.advance_figure(dataset, labels=labels)
    if kind == "multiplier":
        names = [optimizer_name(str(run["optimizer"])) for run in runs]
        return figures.multiplier_figure(dataset, labels=names)
    if kind == "thresholds":
        return figures.threshold_figure(named(rows))
    if kind == "beta2":
        return figures.beta2_figure(named(rows))
    plain = {
        "grid": figures.grid_figure,
        "epsilon": figures.epsilon_figure,
        "warmup": figures.warmup_figure,
        "spikes": figures.spikes_figure,
    }
    if kind in plain:
        return plain[kind](dataset)
    if dataset.sizes["branch"] == 1 and "lr" in dataset.coords:
        return figures.edge_figure(dataset)  # named by its learning rate
    optimizers = {str(run["optimizer"]) for run in runs if run.get("branch") == "main"}
    main = optimizer_name(optimizers.pop()) if len(optimizers) == 1 else "main"
    names = [branch_name(str(branch), main) for branch in dataset["branch"].values]
    return figures.edge_figure(dataset.assign_coords(branch=names))


def named(rows: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """The rows with the optimizers' display names."""
    return [{**row, "optimizer": optimizer_name(str(row["optimizer"]))} for row in rows]
