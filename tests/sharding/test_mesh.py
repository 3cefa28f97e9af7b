"""Meshes: their text, what is refused, and with which words."""

from __future__ import annotations

import jax
import pytest
from jax.sharding import AxisType, Mesh

from aeoskit.sharding import check_mesh, make_mesh


@pytest.mark.parametrize(
    ("spec", "shape"),
    [
        ("data=4", {"data": 4}),
        ("data=2,model=2", {"data": 2, "model": 2}),
        ("data", {"data": 4}),
        (" data = -1 , model = 2 ", {"data": 2, "model": 2}),
        ("data,model=3", {"data": 1, "model": 3}),
        ("data=3", {"data": 3}),
        ({"data": -1, "model": 2}, {"data": 2, "model": 2}),
    ],
)
def test_specs(spec, shape):
    mesh = make_mesh(spec)
    assert dict(mesh.shape) == shape
    assert set(mesh.axis_types) == {AxisType.Auto}
    check_mesh(mesh)


def test_the_devices_named():
    last = jax.devices()[-1]
    assert make_mesh("data", [last]).devices.tolist() == [last]


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        ("data=8", r"needs 8 devices, but there are 4.*'jax_num_cpu_devices', 8"),
        ("data=0", "size 0: a size is a whole number"),
        ("data=two", "has the part 'data=two': write it as"),
        ("data=2,data=2", "names the axis 'data' twice"),
        ("data=²", "has the part"),
        ("data=-2", "size -2"),
        ("data:2", "has the part 'data:2'"),
        ("data=2,,", "has the part ''"),
        ("", "has no axis"),
        ("data,model", "leaves the sizes of 'data' and 'model' open"),
        ({"data": -3}, "size -3"),
    ],
)
def test_what_is_refused(spec, words):
    with pytest.raises(ValueError, match=words):
        make_mesh(spec)


def test_explicit_axes_are_refused():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Explicit,))
    with pytest.raises(ValueError, match=r"axis 'data' is explicit: .*AxisType.Auto"):
        check_mesh(mesh)
    with pytest.raises(TypeError, match="the mesh is a str"):
        check_mesh("data=4")
    check_mesh(Mesh(jax.devices(), ("data",)))
