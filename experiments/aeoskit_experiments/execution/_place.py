"""The devices of a run, from the stage place of its pipeline."""

import jax

from aeoskit.sharding import Placement, make_mesh
from aeoskit_experiments._errors import UserError
from aeoskit_experiments.pipelines import Place


def placement_of(place: Place) -> Placement:
    """The placement that a stage requests, on the present devices.

    Raises:
        UserError: If the mesh does not fit the devices, or leaves a process without one.
    """
    devices = None
    if place.devices is not None and place.devices < len(jax.devices()):
        devices = jax.devices()[: place.devices]
    try:
        mesh = make_mesh(place.mesh, devices)
        placement = Placement(mesh, params=place.params, basis=place.basis)
    except ValueError as error:
        # For more CPU devices the library suggests Python code; here there is an option.
        reason, python, _ = " ".join(str(error).split()).partition(", or simulate them on CPUs:")
        more = ", or on a CPU more of them, with --devices" if python else ""
        raise UserError(f"place: {reason}{more}") from error
    taking_part = len({device.process_index for device in mesh.devices.flat})
    if taking_part < jax.process_count():
        raise UserError(
            f"place: the mesh {place.mesh!r} takes {mesh.size} of the {len(jax.devices())} devices "
            f"of {jax.process_count()} processes, and {jax.process_count() - taking_part} of these "
            "would have none: leave sizes and 'devices' out, as in 'data', or start fewer processes"
        )
    return placement
