"""The placement of a run on a mesh, from shapes alone: nothing is compiled or allocated."""

from collections.abc import Callable

import jax
import msgspec

from aeoskit.sharding import Placement, make_mesh
from aeoskit_experiments._errors import UserError
from aeoskit_experiments.jobs import PipelineJob
from aeoskit_experiments.pipelines import Pipeline, Track

from ._abstract import AbstractRun, abstract_run, bytes_on_device
from ._child import call_in_child, cpu_environment, enough_cpu_devices
from ._request import Params, PlanSettings, with_settings

LARGEST_MESH = 8192
"""The largest number of simulated devices, that of the largest pods."""


class LayoutRequest(PipelineJob, frozen=True, kw_only=True):
    """The request of a layout.

    Args:
        pipeline: The run, as plain data.
        mesh: Axes of devices, every size given.
        params: Whether each device holds all parameters, or a part.
    """

    mesh: str
    params: Params = "replicated"


class Share(msgspec.Struct, frozen=True, kw_only=True):
    """The placement of one kind of data on a mesh.

    Args:
        what: Data, parameters, optimizer state, the basis of a solve, …
        placed: Its placement, in words.
        bytes: Its total size.
        bytes_device: Its size on one device.
    """

    what: str
    placed: str
    bytes: int
    bytes_device: int


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """The placement of a run on a mesh.

    Args:
        mesh: Axis names and sizes.
        devices: Number of devices of the mesh.
        present: Number of devices present here; with fewer, everything is computed from shapes.
        examples: Number of examples of the data.
        rows_per_shard: Number of examples on each shard.
        tail: Number of remaining examples: the first shards take one more each.
        parameters: Number of parameters of the model.
        shares: The placement of each kind of data.
        bytes_device: Total size on one device between steps, with a solve's basis.
        sentence: The same in one sentence.
    """

    mesh: dict[str, int]
    devices: int
    present: int
    examples: int
    rows_per_shard: int
    tail: int
    parameters: int
    shares: tuple[Share, ...]
    bytes_device: int
    sentence: str


def layout(pipeline: Pipeline, mesh: str, *, params: Params = "replicated") -> Layout:
    """Compute the placement of a run on a mesh, whose devices need not be present.

    Args:
        pipeline: The run; for a sweep, its first group.
        mesh: Axes of devices, as `data=4,model=2`.
        params: Whether each device holds all parameters, or a part.

    Returns:
        A `Layout`.

    Raises:
        UserError: For an invalid mesh, or a pipeline that cannot be built.
    """
    with_settings(pipeline, PlanSettings(), "float32").experiment()

    size = mesh_size(mesh, present := len(jax.devices()))
    if size > LARGEST_MESH:
        raise UserError(
            f"the mesh {mesh!r} has {size} devices: a layout is computed for at most {LARGEST_MESH}"
        )
    request = LayoutRequest(pipeline=pipeline.to_dict(), mesh=mesh, params=params)
    if enough_cpu_devices(size):
        found = compute_layout(request)
    else:
        found = call_in_child(compute_layout, request, cpu_environment(size))
    return msgspec.structs.replace(found, present=present, sentence=_sentence(found, present))


def mesh_size(mesh: str, present: int) -> int:
    """The number of devices of a mesh; an axis without a size takes the devices present.

    >>> mesh_size("data=4,model=2", 1)
    8
    """
    size, opened = 1, False
    for part in mesh.split(","):
        _, _, number = part.partition("=")
        if number.strip().isdigit() and int(number) > 0:
            size *= int(number)
        else:
            opened = True  # or wrong, which make_mesh reports
    return max(size, present) if opened else size


def compute_layout(request: LayoutRequest, progress: Callable[[str], None] | None = None) -> Layout:
    """The layout, in a process with as many devices as the mesh."""
    del progress  # It takes no time.
    pipeline = with_settings(request.load(), PlanSettings(), "float32")
    experiment = pipeline.experiment()
    try:
        devices = jax.devices()
        wanted = mesh_size(request.mesh, len(devices))
        if len(devices) < wanted:
            devices = jax.devices("cpu")
        placement = Placement(make_mesh(request.mesh, devices), params=request.params)
        run = abstract_run(experiment, placement)
    except ValueError as error:
        raise UserError(" ".join(str(error).split())) from error
    tracks = [track for track in experiment.probes if isinstance(track, Track)]
    shares = _shares(run, max((track.basis for track in tracks), default=0))
    found = Layout(
        mesh=dict(placement.mesh.shape),
        devices=placement.mesh.size,
        present=len(devices),
        examples=run.trajectory.objective.n,
        rows_per_shard=run.trajectory.objective.n // placement.data_shards,
        tail=run.trajectory.objective.n % placement.data_shards,
        parameters=run.parameters,
        shares=shares,
        bytes_device=sum(share.bytes_device for share in shares),
        sentence="",
    )
    return msgspec.structs.replace(found, sentence=_sentence(found, len(devices)))


def _shares(run: AbstractRun, basis: int) -> tuple[Share, ...]:
    placement, lane, objective = run.placement, run.carry.lane, run.trajectory.objective
    axes = ", ".join(placement.data_axes) or "no axis"
    lanes = run.trajectory.lanes
    each = "" if lanes is None else f" (of {lanes} lanes)"
    every = ", ".join(a for a in placement.mesh.axis_names if a != placement.sweep)
    how = "a copy on each" if placement.params == "replicated" else f"split over {every}"
    vector = placement.basis_structure(run.params)
    found = [
        ("data", f"split over {axes}", (objective.data, objective.tail), 1),
        (f"parameters{each}", how, lane.params, 1),
        (f"optimizer{each}", how, lane.optimizer_state, 1),
        (f"warm starts{each}", f"split over {every}", lane.probe_states, 1),
        (f"basis of {basis} vectors", f"split over {every}", vector, basis),
    ]
    shares = []
    for what, placed, tree, times in found:
        whole, device = bytes_on_device(_undivided(tree)), bytes_on_device(tree)
        # If no axis divides an array, it is not split.
        placed = placed if device < whole or placement.mesh.size == 1 else "a copy on each"
        shares.append(
            Share(what=what, placed=placed, bytes=times * whole, bytes_device=times * device)
        )
    return tuple(shares)


def _undivided(tree: object) -> object:

    return jax.tree.map(
        lambda x: (
            jax.ShapeDtypeStruct(x.shape, x.dtype) if isinstance(x, jax.ShapeDtypeStruct) else x
        ),
        tree,
    )


def _sentence(found: Layout, present: int) -> str:
    each = found.bytes_device / 1e6
    sentence = f"{each:.4g} MB on each device, without the temporaries of programs"
    if present < found.devices:
        sentence += (
            f"; computed from shapes, since the mesh has {found.devices} devices, and "
            f"{present} of them can be used here"
        )
    return f"{sentence}: aeoskit plan compiles it"
