"""Meshes from a short text, and the kind of mesh that this library works on."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh

_FORM = "write it as 'data=4,model=2', where one size may be left out for all devices that remain"


def make_mesh(spec: str | Mapping[str, int], devices: Sequence[Any] | None = None) -> Mesh:
    """Makes a mesh of devices with named axes from a text such as `data=4,model=2`.

    The order of the axes is that of the text: devices of the last axis are neighbors. One size may
    be -1 or left out (`"data"`, `"data,model=2"`): that axis takes all the devices that remain.
    Where the sizes ask for fewer devices than there are, the first ones are taken. All axes are
    automatic (`AxisType.Auto`): the compiler chooses the shardings that are not given.

    Args:
        spec: the axes and their sizes, as text or as a mapping of names to sizes.
        devices: the devices, in order; all of the process group's if None.

    Returns:
        The mesh.

    Raises:
        ValueError: text of another form, a name given twice, a size of 0, or more devices asked for
            than there are.

    Example:
        >>> mesh = make_mesh("data,model=1")
        >>> mesh.axis_names, mesh.shape["data"] == len(jax.devices())
        (('data', 'model'), True)
    """
    axes = _parse(spec) if isinstance(spec, str) else dict(spec)
    shown = repr(spec) if isinstance(spec, str) else repr(dict(spec))
    if not axes:
        raise ValueError(f"the mesh {shown} has no axis: {_FORM}")
    for name, size in axes.items():
        if isinstance(size, bool) or not isinstance(size, int) or (size < 1 and size != -1):
            raise ValueError(
                f"the mesh {shown} gives axis {name!r} the size {size!r}: a size is a whole number "
                "of devices, at least 1, or -1 for all that remain"
            )
    open_axes = [name for name, size in axes.items() if size == -1]
    if len(open_axes) > 1:
        raise ValueError(
            f"the mesh {shown} leaves the sizes of {' and '.join(map(repr, open_axes))} open: "
            "one axis can take the devices that remain, so give the sizes of the others"
        )
    found = list(jax.devices() if devices is None else devices)
    product = math.prod(size for size in axes.values() if size != -1)
    if product > len(found):
        raise ValueError(
            f"the mesh {shown} needs {product} devices, but there are {len(found)}: take smaller "
            "sizes"
            + (
                f", or simulate them on CPUs: jax.config.update('jax_num_cpu_devices', {product})"
                if devices is None and found[0].platform == "cpu"
                else ""
            )
        )
    if open_axes:
        axes[open_axes[0]] = len(found) // product
    count = math.prod(axes.values())
    sizes = tuple(axes.values())
    if devices is None and count == len(found):
        # On hardware with a shape (TPUs) the order of the devices follows its links.
        return jax.make_mesh(sizes, tuple(axes), axis_types=(AxisType.Auto,) * len(axes))
    grid = np.empty(count, dtype=object)
    grid[:] = found[:count]
    return Mesh(grid.reshape(sizes), tuple(axes), axis_types=(AxisType.Auto,) * len(axes))


def _parse(spec: str) -> dict[str, int]:
    axes: dict[str, int] = {}
    for part in spec.split(",") if spec.strip() else ():
        name, equals, size = (piece.strip() for piece in part.partition("="))
        number = size.removeprefix("-")
        if not name.isidentifier() or (equals and not (number.isascii() and number.isdigit())):
            raise ValueError(f"the mesh {spec!r} has the part {part.strip()!r}: {_FORM}")
        if name in axes:
            raise ValueError(f"the mesh {spec!r} names the axis {name!r} twice: give each one size")
        axes[name] = int(size) if equals else -1
    return axes


def check_mesh(mesh: Any) -> None:
    """Refuses a mesh on which the operators of this library do not work.

    Args:
        mesh: the mesh.

    Raises:
        TypeError: if it is no `jax.sharding.Mesh`.
        ValueError: if an axis is explicit or manual: lineax compares shapes, which then contain
            shardings.

    Example:
        >>> check_mesh(make_mesh("data"))
    """
    if not isinstance(mesh, Mesh):
        raise TypeError(
            f"the mesh is a {type(mesh).__name__}: pass a jax.sharding.Mesh, as "
            "aeoskit.sharding.make_mesh('data=4') makes one"
        )
    for name, kind in zip(mesh.axis_names, mesh.axis_types, strict=True):
        if kind != AxisType.Auto:
            raise ValueError(
                f"the mesh's axis {name!r} is {kind.name.lower()}: build the mesh with automatic "
                f"axes, jax.make_mesh({tuple(mesh.devices.shape)}, {mesh.axis_names}, "
                f"axis_types=(jax.sharding.AxisType.Auto,) * {len(mesh.axis_names)}), or by "
                "aeoskit.sharding.make_mesh"
            )
