"""`execute`: it runs a pipeline and leaves a record, a figure and a summary."""

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import jax
import msgspec

from aeoskit.record import create_run, environment, read_run
from aeoskit.trajectory import choose_mode
from aeoskit_experiments._errors import UserError
from aeoskit_experiments.cache import follow_cache
from aeoskit_experiments.catalog import provenance
from aeoskit_experiments.jobs import report_record
from aeoskit_experiments.parts import fault_in, keep_sources
from aeoskit_experiments.pipelines import Experiment, Pipeline, Plot, Store

from ._build import Setup, build, is_whole_batch
from ._draw import draw
from ._edges import EDGE_COSTS
from ._follower import AnyWriter, FollowerWriter
from ._interrupt import Interrupt
from ._listener import Listener, SilentListener
from ._meanwhile import imported_meanwhile
from ._phase import phase
from ._processes import broadcast_from_leader, is_leader, lost_process_as_error
from ._rewind import with_source_rows
from ._room import limit_memory_maps
from ._rows import (
    advance_of,
    edge_rows,
    figure_kind,
    run_rows,
    runs_raw,
    select,
    sides_of,
    threshold_rows,
    warnings_of,
)
from ._run import Ends, RunContext, run_group
from ._summary import multiplier_rows, summarize_edge

MATMUL_PRECISION = "highest"
"""The precision of matrix products, full float32 on every backend; recorded with the run."""

_LATER = ("aeoskit.figures", "orbax.checkpoint", "dask.array", "matplotlib.backends.backend_pdf")
"""The modules that store the end of a run and draw it."""

EXIT_CODES = {"finished": 0, "diverged": 1, "interrupted": 130}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """The result of `execute`.

    Args:
        folder: the run's folder.
        summary: the numbers: what the command line prints and `--json` gives.
        figures: the files that were drawn.
        status: "finished", "interrupted" or "diverged" (every lane of the main run).
        exit_code: 0; 1 if every lane diverged; 130 if the user stopped the run.
        leads: whether this process wrote the record; of several, the first does. The others'
            summary has only the status.
    """

    folder: Path
    summary: dict[str, Any]
    figures: list[Path]
    status: str
    exit_code: int
    leads: bool = True


def execute(
    pipeline: Pipeline,
    *,
    root: str | os.PathLike[str] | None = None,
    folder: str | os.PathLike[str] | None = None,
    listener: Listener | None = None,
) -> Outcome:
    """Run a pipeline and leave a record of it.

    Groups of a sweep run one after the other; the array leaves within a group as one `vmap`. Ctrl-C
    ends the run after the present chunk, and the record is complete.

    Args:
        pipeline: what `pipe` made, or a recipe.
        root: the folder of runs, instead of the pipeline's own.
        folder: the run's own folder, which must not exist yet.
        listener: receives progress on the host.

    Returns:
        An `Outcome`.

    Raises:
        UserError: for bad input, before any work; nothing is left behind.
    """
    try:
        return _carry_out(pipeline, root, folder, listener)
    except Exception as error:
        # A check that met it has made a sentence of it already, which does not say where.
        origin = error.__cause__ if isinstance(error, UserError) else error
        fault = None if origin is None else fault_in(origin, pipeline.code())
        if fault is not None:
            raise fault from origin
        raise


def _carry_out(
    pipeline: Pipeline,
    root: str | os.PathLike[str] | None,
    folder: str | os.PathLike[str] | None,
    listener: Listener | None,
) -> Outcome:
    begun = time.perf_counter()
    uncached = follow_cache()
    pipeline = pipeline.inherited()
    pipeline.experiment()  # The whole is checked before anything is created.
    groups = [(group.values, group.pipeline.declared()) for group in pipeline.groups()]
    store = pipeline.declared().store or Store()
    listener = listener if listener is not None and is_leader() else SilentListener()
    if uncached:
        listener.noted(uncached)
    with jax.default_matmul_precision(MATMUL_PRECISION), Interrupt() as interrupt:
        setup = _built(groups[0][1])
        if not any(axis.stage == "model" and axis.option != "seed" for axis in pipeline.sweep()):
            # Groups with different models may differ in their mode: then the rule decides for each.
            pipeline = _with_mode(pipeline, _mode(groups[0][1], setup))
        lanes = [{**values, **lane} for values, experiment in groups for lane in experiment.lanes()]
        writer = _create(pipeline, store, root, folder, lanes)
        status = "finished"
        ends: Ends = {}
        warnings: list[str] = []
        try:
            with lost_process_as_error(writer.path), imported_meanwhile(*_LATER), phase("train"):
                _train_groups(groups, setup, store, writer, listener, interrupt, ends, warnings)
        except KeyboardInterrupt:
            if _empty(writer):
                writer.discard()  # Stopped before the first chunk: there is nothing to keep.
                raise
            status = "interrupted"
            listener.noted("stopped by the user: the record holds every finished chunk.")
        except BaseException:
            if _empty(writer):
                writer.discard()
            else:
                writer.close({"runs": []}, status="failed")
            raise
        return _conclude(pipeline, groups, lanes, writer, status, begun, listener, ends, warnings)


def _train_groups(
    groups: list[tuple[dict[str, Any], Experiment]],
    setup: Setup,
    store: Store,
    writer: AnyWriter,
    listener: Listener,
    interrupt: Interrupt,
    ends: Ends,
    warnings: list[str],
) -> None:
    """Run one group after the other; the first one's setup exists already."""
    offset = 0
    costs: dict[str, list[int]] = {}
    for index, (values, experiment) in enumerate(groups):
        assert experiment.train is not None
        if index > 0:
            limit_memory_maps()
            setup = _built(experiment)
        # From here on the length in steps is known, also for epochs, and so is the first step.
        known = dataclasses.replace(experiment, train=setup.train)
        if known.rewind is not None and setup.start is not None:
            begin = msgspec.structs.replace(known.rewind, at=setup.start.source.at)
            known = dataclasses.replace(known, rewind=begin)
        groups[index] = (values, known)
        labels = ", ".join(
            f"{name} {'none' if value is None else value}" for name, value in values.items()
        )
        if "realized_edge" in setup.trajectory.probes:
            whole = is_whole_batch(setup.train, setup.trajectory.objective.n)
            own = range(offset, offset + len(setup.lanes))
            costs.setdefault(EDGE_COSTS[whole], []).extend(own)
            writer.describe("realized_edge", cost=_of_lanes(costs))
        run_group(
            setup,
            msgspec.structs.replace(setup.train, mode=_mode(experiment, setup)),
            experiment.branches,
            writer=writer,
            listener=listener,
            context=RunContext(
                name="main",
                label=f"main ({labels})" if labels else "main",
                lane_offset=offset,
                group=index if len(groups) > 1 else None,
                checkpoints=store.checkpoints,
                checkpoint_every=store.checkpoint_every,
                interrupt=interrupt,
                warnings=warnings,
            ),
            ends=ends,
        )
        offset += len(setup.lanes)


def _of_lanes(said: dict[str, list[int]]) -> str:
    """One sentence, or each with the lanes that it is of."""
    if len(said) == 1:
        return next(iter(said))
    return "; ".join(
        f"lane{'s' * (len(of) > 1)} {', '.join(map(str, of))}: {text}" for text, of in said.items()
    )


def _empty(writer: AnyWriter) -> bool:
    """True if no row was written yet."""
    if isinstance(writer, FollowerWriter):
        return not writer.begun
    metrics = writer.path / "metrics.jsonl"
    return not metrics.exists() or metrics.stat().st_size == 0


def _built(experiment: Experiment) -> Setup:
    try:
        with phase("build"):
            return build(experiment)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(" ".join(str(error).split())) from error


def _mode(experiment: Experiment, setup: Setup) -> Any:
    """The loop mode of a group: the requested one, or that of the rule."""
    assert experiment.train is not None
    if experiment.train.mode != "auto":
        return experiment.train.mode
    return choose_mode(setup.trajectory, setup.carry)


def _with_mode(pipeline: Pipeline, mode: str) -> Pipeline:
    """The pipeline with its loop mode fixed, so that a rerun need not decide again."""
    stages = []
    for stage in pipeline.stages:
        if stage.stage == "train" and stage.settings["mode"] == "auto":
            options = {name: value for name, value in stage.options.items() if name != "mode"}
            defaults = {**stage.defaults, "mode": mode}
            stage = msgspec.structs.replace(stage, options=options, defaults=defaults)
        stages.append(stage)
    return msgspec.structs.replace(pipeline, stages=tuple(stages))


def _create(
    pipeline: Pipeline,
    store: Store,
    root: str | os.PathLike[str] | None,
    folder: str | os.PathLike[str] | None,
    lanes: list[dict[str, Any]],
) -> AnyWriter:
    """The record, created by the first process; the others receive its path."""
    if not is_leader():
        path, _, why = broadcast_from_leader("").partition("\n")
        if why:
            raise UserError(why)
        report_record(Path(path))
        return FollowerWriter(Path(path))
    data = pipeline.declared().data
    assert data is not None  # ensured by Pipeline.experiment
    # The caller's root takes precedence over the folder of a stored pipeline.
    chosen = folder if folder is not None else (store.folder if root is None else None)
    try:
        writer = create_run(
            root if root is not None else store.root,
            pipeline.name,
            pipeline=pipeline.to_dict(),
            environment={**environment(), "data": provenance(data.variant, data.settings)},
            lanes=lanes,
            folder=chosen,
        )
    except (ValueError, OSError) as error:
        why = " ".join(str(error).split())
        broadcast_from_leader(f"\n{why}")
        raise UserError(why) from error
    keep_sources(writer.path, pipeline.code())
    broadcast_from_leader(str(writer.path.resolve()))
    report_record(writer.path)
    return writer


def _conclude(
    pipeline: Pipeline,
    groups: list[tuple[dict[str, Any], Experiment]],
    lanes: list[dict[str, Any]],
    writer: AnyWriter,
    status: str,
    begun: float,
    listener: Listener,
    ends: Ends,
    warnings: list[str],
) -> Outcome:
    """Summarize, draw and close the record, in the first process."""
    if not is_leader():
        status = broadcast_from_leader("")
        code = EXIT_CODES[status]
        return Outcome(writer.path, {"status": status}, [], status, code, leads=False)
    dataset = read_run(writer.path).metrics
    runs = run_rows(dataset, groups, lanes, ends)
    rewind = groups[0][1].rewind
    if rewind is not None and isinstance(rewind.at, int) and lanes == [{}]:
        # The other run's earlier rows belong to the figure, and to the step of the edge.
        dataset = with_source_rows(dataset, rewind)
        runs[0] |= summarize_edge(select(dataset, "main", {}), runs_raw(groups[0][1], "main"))
    plot = pipeline.declared().plot or Plot()
    summary: dict[str, Any] = {"name": pipeline.name, "runs": runs}
    if said := [*warnings, *warnings_of(runs, groups)]:
        summary["warnings"] = said
    kind = plot.kind if plot.kind != "auto" else figure_kind(dataset, groups[0][1])
    if kind == "advance":
        summary |= advance_of(dataset, lanes)
    main = [item for item in runs if item["branch"] == "main"]
    rows = multiplier_rows(main)
    if (sides := sides_of(groups[0][1])) is not None:
        rows = threshold_rows(dataset, groups, sides)
    rows = rows or edge_rows(runs, groups)
    if rows:
        summary["rows"] = rows
    if status == "finished" and all(item["diverged_at"] is not None for item in main):
        status = "diverged"
    with phase("draw"):
        figures = draw(dataset, kind, runs, rows, writer.figure_path(pipeline.name), listener)
    summary |= {
        "status": status,
        "seconds": time.perf_counter() - begun,
        "folder": str(writer.path),
        "figure": str(figures[0]) if figures else None,
    }
    path = writer.close(summary, status=status)  # type: ignore[arg-type]
    broadcast_from_leader(status)
    return Outcome(path, summary, figures, status, EXIT_CODES[status])
