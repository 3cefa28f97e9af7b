"""The state of another run from which a rewound one continues."""

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from aeoskit.record import Run, load_checkpoint, read_run
from aeoskit.trajectory import Carry, Trajectory, chunk_length, edge_states
from aeoskit_experiments._errors import UserError
from aeoskit_experiments.pipelines import Experiment, Rewind, Train, stored_pipeline

from ._edges import EDGE_COSTS

if TYPE_CHECKING:  # not needed by a run that is planned or not rewound
    import xarray as xr


@dataclasses.dataclass(frozen=True)
class SourceRun:
    """Another run up to the step that it is rewound to.

    Args:
        run: the other run.
        experiment: its experiment.
        at: the step.
        checkpoint: the newest step at or before it with a stored state.
        rows: the main run's measurements before the step.
        by_ratio: whether the step was found by the ratio, since there is no realized edge.
    """

    run: Run
    experiment: Experiment
    at: int
    checkpoint: int
    rows: "xr.Dataset"
    by_ratio: bool = False

    def load(self, like: Carry) -> Carry:
        """The state at the checkpoint.

        Args:
            like: a carry of the same structure.

        Raises:
            UserError: If the checkpoint does not fit.
        """
        try:
            return load_checkpoint(self.run, "main", self.checkpoint, like)
        except ValueError as error:
            raise UserError(f"rewind: {' '.join(str(error).split())}") from error


@dataclasses.dataclass(frozen=True)
class Start:
    """The start of a rewound run.

    Args:
        source: the other run.
        trajectory: that run's trajectory, with its probes, whose warm starts are kept.
        carry: its state at the checkpoint.
        kept: the probes whose warm starts the rewound run takes over.
    """

    source: SourceRun
    trajectory: Trajectory
    carry: Carry
    kept: tuple[str, ...]


def find_source_run(rewind: Rewind, raw: bool) -> SourceRun:
    """Find the step to which a run is rewound, and a checkpoint before it.

    Args:
        rewind: the run, and a step, "edge" or "threshold".
        raw: the optimizer has no preconditioner.

    Raises:
        UserError: If the run cannot be rewound to it.
    """
    old = stored_pipeline(rewind.run).declared()
    run = read_run(rewind.run)
    assert old.train is not None
    metrics = run.metrics
    if "loss" not in metrics or "main" not in metrics["branch"].values:
        raise UserError(f"rewind: the run {rewind.run} has no rows: rewind another run")
    main = metrics.sel(branch="main")
    end = int(main["step"].values[main["loss"].notnull().values].max()) + 1
    by_ratio = False
    if isinstance(rewind.at, int):
        at = rewind.at
    elif old.rewind is not None:
        raise UserError(
            f"rewind: at is {rewind.at}, but the run {rewind.run} is itself rewound, and its "
            f"record begins in the middle: give a step"
        )
    else:
        at, by_ratio = _moment(rewind.at, main, old, end, raw)
        if at is None:
            raise UserError(
                f"rewind: at is {rewind.at}, but the run {rewind.run} "
                + (
                    "was never at the edge"
                    if rewind.at == "edge"
                    else "has no ratio to it that rose to 0.9 from below"
                )
                + ": give a step"
            )
    if at > end:
        raise UserError(
            f"rewind: at is {at}, but the run {rewind.run} ended at step {end}: give at most {end}"
        )
    diverged_at = int(main["diverged_at"]) if "diverged_at" in main else -1
    if 0 <= diverged_at < at:
        raise UserError(
            f"rewind: at is {at}, but the run {rewind.run} diverged at step {diverged_at}: "
            f"give at most {diverged_at}"
        )
    return SourceRun(run, old, at, _checkpoint(run, at), _before(main, at), by_ratio)


def with_source_rows(dataset: "xr.Dataset", rewind: Rewind) -> "xr.Dataset":
    """A rewound run's measurements, preceded by those of the other main run.

    Args:
        dataset: the rewound run's metrics, without a sweep.
        rewind: the stage, whose `at` is a step.
    """
    assert isinstance(rewind.at, int)  # resolved by `build`
    rows = _before(read_run(rewind.run).metrics.sel(branch="main"), rewind.at)
    rows = rows.drop_vars("diverged_at", errors="ignore").expand_dims(branch=["main"])
    return dataset.combine_first(rows.reindex(branch=dataset["branch"]))


def _before(main: "xr.Dataset", at: int) -> "xr.Dataset":
    return main.isel(step=main["step"].values < at)


def _checkpoint(run: Run, at: int) -> int:
    folder = Path(run.path) / "checkpoints" / "main"
    # Other entries are incomplete saves.
    there = sorted(int(place.name) for place in folder.glob("*") if place.name.isdigit())
    early = [step for step in there if step <= at]
    if not early:
        found = f"the first one is at step {there[0]}" if there else "it has none"
        raise UserError(
            f"rewind: the run {run.path} has no checkpoint of step {at} or before ({found}): "
            f"run it with `store --checkpoint-every {max(1, at)}`"
            + (f", or give a step from {there[0]} on" if there else "")
        )
    return early[-1]


def _moment(
    moment: str, main: "xr.Dataset", old: Experiment, end: int, raw: bool
) -> tuple[int | None, bool]:
    """The end of the first chunk in which the run was there: where a branch begins.

    At the edge by the realized edge, or, in a record without it, by the ratio's rise to 0.9, and
    then True; at the threshold by that rise.
    """
    from ._summary import downhill_curve, ratio_curve  # since it imports xarray
    from ._windows import edge_step

    assert old.train is not None
    steps, zeta = downhill_curve(main)
    at, ratio = ratio_curve(main, raw)
    # On all of the data, of which a batch may be made, the realized edge of a chunk's last step is
    # known a step later. Earlier versions did not say what it cost.
    cost = str(main["realized_edge"].attrs.get("cost")) if steps.size else ""
    whole = {EDGE_COSTS[True]: True, EDGE_COSTS[False]: False}
    late = whole.get(cost, old.train.batch is None)
    by_zeta = moment == "edge" and steps.size > 0
    for step in _ends(old.train, [item.at for item in old.branches], end):
        if by_zeta:
            known = steps < step - late
            arrived = edge_states(steps[known], zeta[known]).arrived
        else:
            arrived = edge_step(at[at < step], ratio[at < step])
        if arrived is not None:
            return step, moment == "edge" and not by_zeta
    return None, False


def _ends(train: Train, moments: list[Any], end: int) -> list[int]:
    """The steps at the ends of chunks; segments end where branches begin."""
    planned = end if train.steps is None else max(train.steps, end)
    stops = sorted({at for at in moments if isinstance(at, int) and 0 < at < planned})
    ends, step = [], 0
    for stop in [*stops, planned]:
        length = chunk_length(stop - step, train.chunk)
        ends += [*range(step + length, stop, length), stop]
        step = stop
    return [step for step in ends if step <= end]
