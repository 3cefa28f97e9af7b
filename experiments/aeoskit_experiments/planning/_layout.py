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
from ._request import Knobs, Params, with_knobs

LARGEST_MESH = 8192
"""So many devices are simulated; the largest pods have as many."""


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
    """One kind of thing on a mesh.

    Args:
        what: Data, parameters, optimizer state, the basis of a solve, …
        lies: How it is placed, in words.
        bytes: All of it, once.
        bytes_device: What one device holds of it.
    """

    what: str
    lies: str
    bytes: int
    bytes_device: int


class Layout(msgspec.Struct, frozen=True, kw_only=True):
    """The placement of a run on a mesh.

    Args:
        mesh: Axis names and sizes.
        devices: How many the mesh has.
        present: Number of there are here; with fewer, all is computed from shapes.
        examples: How many the data have.
        rows_per_shard: Number of images each shard holds.
        tail: How many are left over: the first shards take one more each.
        parameters: How many the model has.
        shares: The placement of each kind of thing.
        bytes_device: All that a device holds between steps and in a solve's basis.
        sentence: The same for people.
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
    """Say what a run would place where on a mesh, of devices that need not be here.

    Args:
        pipeline: What would run; of a sweep's groups, the first one.
        mesh: Axes of devices, as `data=4,model=2`.
        params: Whether each device holds all parameters, or a part.

    Returns:
        A `Layout`.

    Raises:
        UserError: For a mesh that cannot be, or a pipeline that cannot be built.
    """
    with_knobs(pipeline, Knobs(), "float32").experiment()

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
    """The number of devices of a mesh; an open axis takes those that are here.

    >>> mesh_size("data=4,model=2", 1)
    8
    """
    size, opened = 1, False
    for part in mesh.split(","):
        _, _, number = part.partition("=")
        if number.strip().isdigit() and int(number) > 0:
            size *= int(number)
        else:
            opened = True  # or wrong, which make_mesh says
    return max(size, present) if opened else size


def compute_layout(request: LayoutRequest, progress: Callable[[str], None] | None = None) -> Layout:
    """The layout, where this process has as many devices as the mesh asks for."""
    del progress  # It takes no time.
    pipeline = with_knobs(request.load(), Knobs(), "float32")
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
    for what, lies, tree, times in found:
        whole, device = bytes_on_device(_undivided(tree)), bytes_on_device(tree)
        # Where nothing divides, what was to be split is not.
        lies = lies if device < whole or placement.mesh.size == 1 else "a copy on each"
        shares.append(Share(what=what, lies=lies, bytes=times * whole, bytes_device=times * device))
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
    sentence = f"{each:.4g} MB on each device, without what a program needs meanwhile"
    if present < found.devices:
        sentence += (
            f"; computed from shapes, since the mesh has {found.devices} devices, and "
            f"{present} of them can be used here"
        )
    return f"{sentence}: aeoskit plan compiles it"
