"""A plan compiled in this process, which needs the right backend."""

import contextlib
import importlib.metadata
import math
import time
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import jax

from aeoskit.linalg import compiling_for
from aeoskit.sharding import Placement, make_mesh
from aeoskit_experiments._errors import UserError
from aeoskit_experiments.pipelines import Experiment, Pipeline, Track, least_basis, options_for

from ._abstract import AbstractRun, abstract_run
from ._compile import compile_row
from ._programs import programs_of
from ._request import MATMUL, Params, PlanSettings, Precision, Request, with_settings
from ._results import Plan, Row
from ._topology import Chip, Topology, chip_of, parse_topology
from ._verdict import SearchSpace, find_verdict, spell

_VERSIONS = ("aeoskit", "jax", "jaxlib", "libtpu")


def compile_plan(request: Request, progress: Callable[[str], None] | None = None) -> Plan:
    """Compile a run's programs for a topology, and judge whether they fit.

    Args:
        request: The request; a TPU needs libtpu and its environment variables.
        progress: Called with the name of each program before its compilation.

    Raises:
        UserError: If the run cannot be planned.
    """
    begun = time.perf_counter()
    pipeline = request.load()
    topology = parse_topology(request.topology)
    devices = _devices(topology)
    chip = topology.chip or chip_of(devices[0], len(devices))
    platform = "tpu" if topology.platform == "tpu" else devices[0].platform

    def runs(settings: PlanSettings) -> tuple[Experiment, AbstractRun]:
        experiment = with_settings(pipeline, settings, request.precision).experiment()
        return experiment, _run(experiment, settings, devices)

    def compile(settings: PlanSettings, names: Sequence[str] | None) -> list[Row]:
        def note(program: str) -> None:
            if progress is not None:
                change = spell(settings, request.settings)
                progress(" ".join(["compiling", program, change]).strip())

        return compile_programs(*runs(settings), chip, names, request.precision, note)

    with _compile_options(request, platform), _refusals():
        experiment, run = runs(request.settings)
        space = _situation(experiment, run)
        rows, settings, verdict = find_verdict(compile, request.settings, space, chip.memory)
        if settings != request.settings:
            experiment, run = runs(settings)
    return Plan(
        pipeline=pipeline.to_command(),
        topology=topology.name,
        chip=chip.kind,
        devices=run.placement.mesh.size,
        memory=chip.memory,
        source=chip.source,
        mesh=dict(run.placement.mesh.shape),
        precision=request.precision,
        effort=request.effort,
        knobs=settings,
        parameters=run.parameters,
        examples=run.trajectory.objective.n,
        lanes=run.trajectory.lanes or 1,
        rows=tuple(rows),
        verdict=verdict,
        versions=_versions(),
        seconds=time.perf_counter() - begun,
    )


def compile_programs(
    experiment: Experiment,
    run: AbstractRun,
    chip: Chip,
    names: Sequence[str] | None,
    precision: Precision,
    note: Callable[[str], None] = lambda program: None,
) -> list[Row]:
    """Compile the named programs of a run, or all; `note` is called before each with its name."""
    assert experiment.train is not None
    rows = []
    for program in programs_of(run, experiment.train.chunk):
        if names is None or program.name in names:
            note(program.name)
            rows.append(compile_row(program, chip, run.placement.mesh.size, precision))
    return rows


def compile_present(
    pipeline: Pipeline, devices: Sequence[Any], names: Sequence[str], params: Params
) -> list[Row]:
    """Compile the named programs of a run for devices of this process, with data sharded."""
    experiment = pipeline.declared()
    placement = Placement(make_mesh({"data": len(devices)}, devices), params=params)
    run = abstract_run(experiment, placement)
    chip = chip_of(devices[0], len(devices))
    return compile_programs(experiment, run, chip, names, "float32")


@contextlib.contextmanager
def _compile_options(request: Request, platform: str) -> Iterator[None]:
    """Compile for a platform, with the precision and effort of a request."""
    quick = platform == "tpu" and request.effort == "quick"
    # jax 0.12 has only the second of these.
    efforts = {"jax_exec_time_optimization_effort": -1.0, "jax_optimization_level": "O0"}
    name, least = next(item for item in efforts.items() if hasattr(jax.config, item[0]))
    before = getattr(jax.config, name)
    with jax.default_matmul_precision(MATMUL[request.precision]), compiling_for(platform):
        jax.config.update(name, least if quick else before)
        try:
            yield
        finally:
            jax.config.update(name, before)


@contextlib.contextmanager
def _refusals() -> Iterator[None]:
    """A context that turns errors of input into a `UserError`."""
    try:
        yield
    except UserError:
        raise
    except ValueError as error:
        raise UserError(" ".join(str(error).split())) from error


def _devices(topology: Topology) -> list[Any]:
    if topology.platform == "local":
        return list(jax.devices())
    if topology.platform == "cpu":
        return jax.devices("cpu")[: topology.devices]
    from jax.experimental import mesh_utils, topologies

    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=topology.name).devices
    except Exception as error:
        raise UserError(
            f"the topology is {topology.name!r}: the TPU compiler knows none such "
            f"({' '.join(str(error).split())[:200]})"
        ) from error
    # In the order of the chips' interconnect.
    return list(mesh_utils.create_device_mesh((len(found),), found).flat)


def _run(experiment: Experiment, settings: PlanSettings, devices: list[Any]) -> AbstractRun:
    mesh = make_mesh(settings.mesh, devices)
    return abstract_run(experiment, Placement(mesh, params=settings.params))


def _situation(experiment: Experiment, run: AbstractRun) -> SearchSpace:
    assert experiment.train is not None
    assert experiment.model is not None
    train, placement = experiment.train, run.placement
    rows = math.ceil((train.batch or run.trajectory.objective.n) / placement.data_shards)
    tracks = [track for track in experiment.probes if isinstance(track, Track)]
    tracks = [track for track in tracks if track.solver != "dense"]
    model = experiment.model
    remat = any(
        option.name == "remat" for option in options_for("model", model.variant, model.code)
    )
    return SearchSpace(
        rows_per_shard=rows,
        # A model that couples its examples cannot be evaluated in microbatches.
        microbatch=1 if model.build().couples else min(rows, train.microbatch or rows),
        basis=max((track.basis for track in tracks), default=0),
        least_basis=max((least_basis(track.k) for track in tracks), default=0),
        remat=remat and not model.settings["remat"],
        meshes=_split_models(dict(placement.mesh.shape)),
    )


def _split_models(mesh: dict[str, int]) -> tuple[str, ...]:
    """Meshes of the same devices with more devices per model."""
    if not mesh.keys() <= {"data", "model"}:
        return ()
    size, now = math.prod(mesh.values()), mesh.get("model", 1)
    return tuple(
        f"data={size // model},model={model}"
        for model in (4, 8, 16)
        if model > now and size % model == 0
    )


def _versions() -> dict[str, str]:
    found = {}
    for name in _VERSIONS:
        with contextlib.suppress(importlib.metadata.PackageNotFoundError):
            found[name] = importlib.metadata.version(name)
    return found
