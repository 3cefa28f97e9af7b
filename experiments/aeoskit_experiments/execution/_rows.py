"""The rows of a run's summary, one for each branch and lane of its record."""

import dataclasses
from typing import Any

import xarray as xr

from aeoskit.record import lane_selection
from aeoskit_experiments.parts import short_name
from aeoskit_experiments.pipelines import Experiment, Track

from ._build import build_optimizer
from ._draw import kind_of
from ._names import rate_of
from ._run import Ends
from ._summary import measured, summarize_advance, summarize_run, threshold_row


def run_rows(
    dataset: xr.Dataset,
    groups: list[tuple[dict[str, Any], Experiment]],
    lanes: list[dict[str, Any]],
    ends: Ends,
) -> list[dict[str, Any]]:
    """A row for each branch and lane: its labels, its numbers, and the settings behind them."""
    found = []
    names = [str(name) for name in dataset["branch"].values]
    for name in names:
        for group, (values, experiment) in enumerate(groups):
            raw = runs_raw(experiment, name)
            for lane in experiment.lanes():
                coordinates = {**values, **lane}
                row = {"branch": name, **_row_labels(experiment, name, lane, coordinates)}
                part = select(dataset, name, coordinates)
                if any(
                    item.name == name and item.ratio is not None for item in experiment.branches
                ):
                    # The branch has set it.
                    rates = measured(part, "learning_rate")[1]
                    row["lr"] = float(rates[-1]) if rates.size else None
                row["threshold_of"] = "sharpness" if raw else "preconditioned_sharpness"
                row |= summarize_run(part, raw)
                # The final states, as in the closing lines: no row need be as late.
                if budgets := ends.get((name, group)):
                    row["budgets"] = budgets
                found.append(row | _row_settings(experiment))
    return found


def edge_rows(
    runs: list[dict[str, Any]], groups: list[tuple[dict[str, Any], Experiment]]
) -> list[dict[str, Any]]:
    """For each main run, where it is with respect to the edge, and its β₂.

    Args:
        runs: the rows of `run_rows`.
        groups: the groups of the run.

    Returns:
        Rows with `optimizer`, `beta2` (None for an optimizer that has none), `lr`, `ratio`, `zeta`,
        `zeta_of_sums`, `zeta_before` and `state`; None where one is not known.
    """
    keys = ("lr", "ratio", "zeta", "zeta_of_sums", "zeta_before", "state")
    return [
        {
            "optimizer": row["optimizer"],
            "beta2": _beta2(row, groups),
            **{key: row.get(key) for key in keys},
        }
        for row in runs
        if row["branch"] == "main"
    ]


def _beta2(row: dict[str, Any], groups: list[tuple[dict[str, Any], Experiment]]) -> Any:
    """The β₂ of a run: its own value of a sweep, or the setting of its optimizer."""
    return row.get("beta2", _choice(groups[0][1], row["branch"]).settings.get("beta2"))


SMALL_BETA2 = 0.97
"""The β₂ under which P moves so much within a step that the ratio need not be 1 at the edge."""


def warnings_of(
    runs: list[dict[str, Any]], groups: list[tuple[dict[str, Any], Experiment]]
) -> list[str]:
    """Sentences on what the numbers of a summary do not say.

    Args:
        runs: the rows of `run_rows`.
        groups: the groups of the run.
    """
    found = set()
    for row in runs:
        experiment = groups[0][1]
        held = any(x.name == row["branch"] and x.kind == "freeze" for x in experiment.branches)
        beta2 = _beta2(row, groups)
        adaptive = row["threshold_of"] == "preconditioned_sharpness" and row["ratio"] is not None
        if adaptive and not held and isinstance(beta2, int | float) and beta2 < SMALL_BETA2:
            found.add(float(beta2))
    if not found:
        return []
    listed = ", ".join(f"{beta2:g}" for beta2 in sorted(found))
    return [
        f"at beta2 = {listed} P moves within a step, and the ratio, for which it is held, need not "
        "be 1 at the edge: zeta says whether a run is there"
    ]


def _row_settings(experiment: Experiment) -> dict[str, Any]:
    """The settings behind a row's numbers that are not in the record's columns."""
    settings: dict[str, Any] = {}
    train = experiment.train
    if train is not None and train.epochs is not None:
        settings |= {"epochs": train.epochs, "planned_steps": train.steps}
    if experiment.rewind is not None:
        settings["rewound_to"] = experiment.rewind.at
    tracks = [probe for probe in experiment.probes if isinstance(probe, Track)]
    sizes = {track.variant: track.examples for track in tracks}
    if any(sizes.values()):
        # One number if the probes agree, otherwise one for each (None: all examples).
        same = len(set(sizes.values())) == 1
        settings["probe_examples"] = next(iter(sizes.values())) if same else sizes
    return settings


def select(dataset: xr.Dataset, branch: str, lane: dict[str, Any]) -> xr.Dataset:
    """One branch and one lane of a record's dataset."""
    return dataset.sel(branch=branch, **lane_selection(dataset, lane))


def runs_raw(experiment: Experiment, branch: str) -> bool:
    """True if a branch's optimizer has no preconditioner."""
    return build_optimizer(_choice(experiment, branch), ({},)).is_euclidean


def _choice(experiment: Experiment, branch: str) -> Any:
    for item in experiment.branches:
        if item.name == branch and item.optimizer is not None:
            return item.optimizer
    settings = {
        name: value[0] if isinstance(value, tuple) else value
        for name, value in experiment.optimizer.settings.items()  # type: ignore[union-attr]
    }
    return dataclasses.replace(experiment.optimizer, settings=settings)  # type: ignore[arg-type]


def _row_labels(
    experiment: Experiment, branch: str, lane: dict[str, Any], coordinates: dict[str, Any]
) -> dict[str, Any]:
    """The labels of a row: optimizer, learning rate, and the swept values."""
    choice = _choice(experiment, branch)
    transform = choice.settings.get("transform")
    own = {"optimizer": transform or short_name(choice.variant), "lr": rate_of(choice)}
    if choice.variant == experiment.optimizer.variant and not _switched(experiment, branch):  # type: ignore[union-attr]
        return {**own, **coordinates}
    # A branch with its own optimizer: the sweep's values belong to the main run.
    left = {f"main_{name}": value for name, value in coordinates.items() if name in {*own, *lane}}
    return {**own, **{k: v for k, v in coordinates.items() if k not in {*own, *lane}}, **left}


def _switched(experiment: Experiment, branch: str) -> bool:
    return any(item.name == branch and item.optimizer is not None for item in experiment.branches)


def sides_of(experiment: Experiment) -> tuple[str, str] | None:
    """The first branches frozen below and above the threshold, if both exist."""
    frozen = [item for item in experiment.branches if item.kind == "freeze"]
    ratios = [(item.name, item.ratio) for item in frozen if item.ratio is not None]
    below = [name for name, ratio in ratios if ratio < 1]
    above = [name for name, ratio in ratios if ratio > 1]
    return (below[0], above[0]) if below and above else None


def threshold_rows(
    dataset: xr.Dataset, groups: list[tuple[dict[str, Any], Experiment]], sides: tuple[str, str]
) -> list[dict[str, Any]]:
    """A row for each main run's threshold, tested by its branches on either side."""
    found = []
    for values, experiment in groups:
        raw = runs_raw(experiment, "main")
        for lane in experiment.lanes():
            coordinates = {**values, **lane}
            runs = [
                select(dataset, name, coordinates)
                if name in dataset["branch"].values
                else select(dataset, "main", coordinates).isel(step=slice(0, 0))
                for name in ("main", *sides)
            ]
            labels = _row_labels(experiment, "main", lane, coordinates)
            main, below, above = runs
            found.append(labels | threshold_row(main, below, above, raw))
    return found


def figure_kind(dataset: xr.Dataset, experiment: Experiment) -> str:
    """The kind of figure that fits the branches or the probes; edge by default."""
    return kind_of(
        dataset,
        adaptive=not runs_raw(experiment, "main"),
        sides=sides_of(experiment) is not None,
    )


def advance_of(dataset: xr.Dataset, lanes: list[dict[str, Any]]) -> dict[str, Any]:
    """The comparison of AEoS with EoS, from the branches that show it."""
    names = [str(name) for name in dataset["branch"].values]
    # For a sweep, its first lane.
    empty = select(dataset, names[0], lanes[0]).isel(step=slice(0, 0))
    chosen = [
        select(dataset, name, lanes[0]) if name in names else empty
        for name in ("main", "frozen", "momentum")
    ]
    return summarize_advance(*chosen)
