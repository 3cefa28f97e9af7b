"""A pipeline in, a record, a figure and the numbers out."""

import dataclasses
import os
import time
from pathlib import Path
from typing import Any

import jax
import msgspec
import xarray as xr

from aeoskit.record import create_run, environment, lane_selection, read_run
from aeoskit.trajectory import choose_mode
from aeoskit_experiments._errors import UserError
from aeoskit_experiments._supervise import tell_supervisor
from aeoskit_experiments.catalog import provenance
from aeoskit_experiments.pipelines import Experiment, Pipeline, Plot, Store

from ._build import Setup, build, build_optimizer, is_raw
from ._interrupt import Interrupt
from ._listener import Listener, Silent
from ._names import optimizer_name, rate_of
from ._onlooker import AnyWriter, Onlooker
from ._processes import from_leader, is_leader, noticing
from ._room import make_room
from ._run import Course, run_group
from ._summary import multiplier_rows, summarize_advance, summarize_run, threshold_row

MATMUL_PRECISION = "highest"
"""Products in full float32 on every backend; recorded with the run."""

EXIT_CODES = {"finished": 0, "diverged": 1, "interrupted": 130}


@dataclasses.dataclass(frozen=True)
class Outcome:
    """What `execute` returns.

    Args:
        folder: the run's folder.
        summary: the numbers: what the command line prints and `--json` gives.
        figures: the files that were drawn.
        status: "finished", "interrupted" or "diverged" (every lane of the main run).
        exit_code: 0; 1 if every lane diverged; 130 if the user stopped it.
        leads: whether this process wrote the record: of several, the first one. The others' summary
            has the status alone.
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
    """Runs a pipeline and leaves a record of it.

    Groups of a sweep run one after the other; the array leaves within a group as one `vmap`. Ctrl-C
    ends the run after the chunk at hand, and the record is whole.

    Args:
        pipeline: what `pipe` made, or a recipe.
        root: the folder of runs, in place of the pipeline's own.
        folder: the run's very folder, which must not exist yet.
        listener: is told of the progress on the host.

    Returns:
        An `Outcome`.

    Raises:
        UserError: bad input, before any work; nothing is left behind.
    """
    begun = time.perf_counter()
    pipeline.experiment()  # The whole is checked before anything is made.
    groups = [(group.values, group.pipeline.declared()) for group in pipeline.groups()]
    store = pipeline.declared().store or Store()
    listener = listener if listener is not None and is_leader() else Silent()
    with jax.default_matmul_precision(MATMUL_PRECISION), Interrupt() as interrupt:
        setup = _built(groups[0][1])
        if not any(axis.stage == "model" and axis.option != "seed" for axis in pipeline.sweep()):
            # Groups with different models may differ in it: then the rule decides for each.
            pipeline = _with_mode(pipeline, _mode(groups[0][1], setup))
        lanes = [{**values, **lane} for values, experiment in groups for lane in experiment.lanes()]
        writer = _create(pipeline, store, root, folder, lanes)
        status = "finished"
        try:
            with noticing(writer.path):
                _train_groups(groups, setup, store, writer, listener, interrupt)
        except KeyboardInterrupt:
            if _empty(writer):
                writer.discard()  # Stopped before the first chunk: there is nothing to keep.
                raise
            status = "interrupted"
            listener.noted("stopped by the user: the record holds every chunk that was done.")
        except BaseException:
            if _empty(writer):
                writer.discard()
            else:
                writer.close({"runs": []}, status="failed")
            raise
        return _conclude(pipeline, groups, lanes, writer, status, begun, listener)


def _train_groups(
    groups: list[tuple[dict[str, Any], Experiment]],
    setup: Setup,
    store: Store,
    writer: AnyWriter,
    listener: Listener,
    interrupt: Interrupt,
) -> None:
    """One group after the other; the first one's setup is there already."""
    offset = 0
    for index, (values, experiment) in enumerate(groups):
        assert experiment.train is not None
        if index > 0:
            make_room()
            setup = _built(experiment)
        said = ", ".join(
            f"{name} {'none' if value is None else value}" for name, value in values.items()
        )
        run_group(
            setup,
            dataclasses.replace(experiment.train, mode=_mode(experiment, setup)),
            experiment.branches,
            writer=writer,
            listener=listener,
            course=Course(
                name="main",
                label=f"main ({said})" if said else "main",
                lane_offset=offset,
                group=index if len(groups) > 1 else None,
                checkpoints=store.checkpoints,
                interrupt=interrupt,
            ),
        )
        offset += len(setup.lanes)


def _empty(writer: AnyWriter) -> bool:
    """Whether no row was written yet."""
    if isinstance(writer, Onlooker):
        return not writer.begun
    metrics = writer.path / "metrics.jsonl"
    return not metrics.exists() or metrics.stat().st_size == 0


def _built(experiment: Experiment) -> Setup:
    try:
        return build(experiment)
    except UserError:
        raise
    except ValueError as error:
        raise UserError(" ".join(str(error).split())) from error


def _mode(experiment: Experiment, setup: Setup) -> Any:
    """The loop mode of a group: what was asked for, or the rule."""
    assert experiment.train is not None
    if experiment.train.mode != "auto":
        return experiment.train.mode
    return choose_mode(setup.trajectory, setup.carry)


def _with_mode(pipeline: Pipeline, mode: str) -> Pipeline:
    """The pipeline with its loop mode decided, so that a rerun need not decide again."""
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
    """The record, made by the first process; the others learn where it is."""
    if not is_leader():
        said, _, why = from_leader("").partition("\n")
        if why:
            raise UserError(why)
        tell_supervisor(Path(said))
        return Onlooker(Path(said))
    data = pipeline.declared().data
    assert data is not None  # held by Pipeline.experiment
    # A root that the caller names is stronger than the folder that a stored pipeline names.
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
        from_leader(f"\n{why}")
        raise UserError(why) from error
    from_leader(str(writer.path.resolve()))
    tell_supervisor(writer.path)
    return writer


def _conclude(
    pipeline: Pipeline,
    groups: list[tuple[dict[str, Any], Experiment]],
    lanes: list[dict[str, Any]],
    writer: AnyWriter,
    status: str,
    begun: float,
    listener: Listener,
) -> Outcome:
    """Sums up, draws and closes the record: the first process does, and says how it ended."""
    if not is_leader():
        status = from_leader("")
        code = EXIT_CODES[status]
        return Outcome(writer.path, {"status": status}, [], status, code, leads=False)
    run = read_run(writer.path)
    dataset = run.metrics
    runs = _summaries(dataset, groups, lanes)
    plot = pipeline.declared().plot or Plot()
    summary: dict[str, Any] = {"name": pipeline.name, "runs": runs}
    kind = plot.kind if plot.kind != "auto" else _kind(dataset, groups[0][1])
    if kind == "advance":
        summary |= _advance(dataset, lanes)
    main = [item for item in runs if item["branch"] == "main"]
    rows = multiplier_rows(main)
    if (sides := _sides(groups[0][1])) is not None:
        rows = _threshold_rows(dataset, groups, sides)
    if rows:
        summary["rows"] = rows
    if status == "finished" and all(item["diverged_at"] is not None for item in main):
        status = "diverged"
    figures = _draw(dataset, kind, runs, rows, writer.figure_path(pipeline.name), listener)
    summary |= {
        "status": status,
        "seconds": time.perf_counter() - begun,
        "folder": str(writer.path),
        "figure": str(figures[0]) if figures else None,
    }
    path = writer.close(summary, status=status)  # type: ignore[arg-type]
    from_leader(status)
    return Outcome(path, summary, figures, status, EXIT_CODES[status])


def _summaries(
    dataset: xr.Dataset,
    groups: list[tuple[dict[str, Any], Experiment]],
    lanes: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    found = []
    names = [str(name) for name in dataset["branch"].values]
    for name in names:
        for values, experiment in groups:
            raw = _is_raw(experiment, name)
            for lane in experiment.lanes():
                coordinates = {**values, **lane}
                row = {"branch": name, **_said(experiment, name, lane, coordinates)}
                found.append(row | summarize_run(select(dataset, name, coordinates), raw))
    return found


def select(dataset: xr.Dataset, branch: str, lane: dict[str, Any]) -> xr.Dataset:
    """One branch and one lane of a record's dataset."""
    return dataset.sel(branch=branch, **lane_selection(dataset, lane))


def _is_raw(experiment: Experiment, branch: str) -> bool:
    return is_raw(build_optimizer(_choice(experiment, branch), ({},)))


def _choice(experiment: Experiment, branch: str) -> Any:
    for item in experiment.branches:
        if item.name == branch and item.optimizer is not None:
            return item.optimizer
    settings = {
        name: value[0] if isinstance(value, tuple) else value
        for name, value in experiment.optimizer.settings.items()  # type: ignore[union-attr]
    }
    return dataclasses.replace(experiment.optimizer, settings=settings)  # type: ignore[arg-type]


def _said(
    experiment: Experiment, branch: str, lane: dict[str, Any], coordinates: dict[str, Any]
) -> dict[str, Any]:
    """What a row says of its run: optimizer, learning rate, and the swept values."""
    choice = _choice(experiment, branch)
    transform = choice.settings.get("transform")
    own = {"optimizer": transform or choice.variant, "lr": rate_of(choice)}
    if choice.variant == experiment.optimizer.variant and not _switched(experiment, branch):  # type: ignore[union-attr]
        return {**own, **coordinates}
    # A branch with an optimizer of its own: the sweep's values are those of the run it left.
    left = {f"main_{name}": value for name, value in coordinates.items() if name in {*own, *lane}}
    return {**own, **{k: v for k, v in coordinates.items() if k not in {*own, *lane}}, **left}


def _switched(experiment: Experiment, branch: str) -> bool:
    return any(item.name == branch and item.optimizer is not None for item in experiment.branches)


def _sides(experiment: Experiment) -> tuple[str, str] | None:
    """The first branches that are frozen below and above the threshold, if there are both."""
    ratios = [(item.name, item.ratio) for item in experiment.branches if item.ratio is not None]
    below = [name for name, ratio in ratios if ratio < 1]
    above = [name for name, ratio in ratios if ratio > 1]
    return (below[0], above[0]) if below and above else None


def _threshold_rows(
    dataset: xr.Dataset, groups: list[tuple[dict[str, Any], Experiment]], sides: tuple[str, str]
) -> list[dict[str, Any]]:
    found = []
    for values, experiment in groups:
        raw = _is_raw(experiment, "main")
        for lane in experiment.lanes():
            coordinates = {**values, **lane}
            runs = [
                select(dataset, name, coordinates)
                if name in dataset["branch"].values
                else select(dataset, "main", coordinates).isel(step=slice(0, 0))
                for name in ("main", *sides)
            ]
            said = _said(experiment, "main", lane, coordinates)
            main, below, above = runs
            found.append(said | threshold_row(main, below, above, raw))
    return found


def _kind(dataset: xr.Dataset, experiment: Experiment) -> str:
    """What the branches or the probes are for, the edge otherwise."""
    if _sides(experiment) is not None:
        return "thresholds"
    if "multiplier" in dataset:
        return "multiplier"
    names = {str(name) for name in dataset["branch"].values}
    lanes = [name for name in dataset["loss"].dims if name not in ("branch", "step")]
    both = "sharpness" in dataset and "ratio" in dataset
    known = "frozen" in names and names <= {"main", "frozen", "momentum"}
    adaptive = not _is_raw(experiment, "main")
    return "advance" if known and both and adaptive and not lanes else "edge"


def _advance(dataset: xr.Dataset, lanes: list[dict[str, Any]]) -> dict[str, Any]:
    names = [str(name) for name in dataset["branch"].values]
    # Of a sweep, its first lane.
    empty = select(dataset, names[0], lanes[0]).isel(step=slice(0, 0))
    chosen = [
        select(dataset, name, lanes[0]) if name in names else empty
        for name in ("main", "frozen", "momentum")
    ]
    return summarize_advance(*chosen)


def _draw(
    dataset: xr.Dataset,
    kind: str,
    runs: list[dict[str, Any]],
    rows: list[dict[str, Any]],
    path: Path,
    listener: Listener,
) -> list[Path]:
    from aeoskit.figures import advance_figure, edge_figure, multiplier_figure, save
    from aeoskit.figures import threshold_figure as thresholds

    try:
        if kind == "advance":
            labels = {"main": optimizer_name(str(runs[0]["optimizer"]))}
            figure = advance_figure(dataset, labels=labels)
        elif kind == "multiplier":
            names = [optimizer_name(str(run["optimizer"])) for run in runs]
            figure = multiplier_figure(dataset, labels=names)
        elif kind == "thresholds":
            named = [{**row, "optimizer": optimizer_name(str(row["optimizer"]))} for row in rows]
            figure = thresholds(named)
        else:
            figure = edge_figure(dataset)
    except Exception as error:  # A record without a picture is better than no record.
        listener.noted(f"no figure was drawn: {type(error).__name__}: {error}")
        return []
    return save(figure, path)
