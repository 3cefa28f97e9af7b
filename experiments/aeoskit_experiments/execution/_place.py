"""The devices that a run is spread over, from what its pipeline says."""

import jax

from aeoskit.sharding import Placement, make_mesh
from aeoskit_experiments._errors import UserError
from aeoskit_experiments.pipelines import Place


def placement_of(place: Place) -> Placement:
    """The placement that a stage asks for, on the devices that are there.

    Raises:
        UserError: If the mesh cannot be made of them, or leaves a process without a device.
    """
    devices = None
    if place.devices is not None and place.devices < len(jax.devices()):
        devices = jax.devices()[: place.devices]
    try:
        mesh = make_mesh(place.mesh, devices)
        placement = Placement(mesh, params=place.params, basis=place.basis)
    except ValueError as error:
        # Of a CPU's devices the library names Python's way to more of them; here there is another.
        said, python, _ = " ".join(str(error).split()).partition(", or simulate them on CPUs:")
        more = ", or on a CPU more of them, with --devices" if python else ""
        raise UserError(f"place: {said}{more}") from error
    taking_part = len({device.process_index for device in mesh.devices.flat})
    if taking_part < jax.process_count():
        raise UserError(
            f"place: the mesh {place.mesh!r} takes {mesh.size} of the {len(jax.devices())} devices "
            f"of {jax.process_count()} processes, and {jax.process_count() - taking_part} of these "
            "would have none: leave sizes and 'devices' out, as in 'data', or start fewer processes"
        )
    return placement
