"""Placements of arrays on meshes, and the errors of impossible ones."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType
from jax.sharding import PartitionSpec as P

from aeoskit.sharding import Placement, as_placement, make_mesh, place_like, spread_spec


@pytest.mark.parametrize(
    ("shape", "axes", "spec"),
    [
        ((), {"data": 4}, P()),
        ((3,), {"data": 4}, P()),
        ((8,), {"data": 4}, P("data")),
        ((6, 8), {"data": 4, "model": 2}, P("model", "data")),
        ((8, 3), {"data": 4, "model": 2}, P(("data", "model"))),
        ((2, 3), {"data": 4, "model": 2}, P("model")),
        ((12, 4), {"data": 4}, P("data")),
        ((4, 12), {"data": 4}, P(None, "data")),
        ((0, 4), {"data": 4}, P()),
        ((5, 7), {"data": 1}, P()),
    ],
)
def test_each_leaf_uses_as_many_devices_as_divide_it(shape, axes, spec):
    assert spread_spec(shape, axes) == spec


def test_placement_of_arrays():
    placement = Placement(make_mesh("data=2,model=2"), params="sharded")
    params = placement.put_params({"w": jnp.ones((4, 6)), "b": jnp.ones(3)})
    assert params["w"].sharding.spec == P("data", "model")
    assert params["b"].sharding.spec == P()
    assert placement.compute_spec((4, 6)) == P(None, "model")
    state = {
        "moment": jnp.zeros((4, 6)),
        "basis": jnp.zeros((5, 4, 6)),
        "count": jnp.zeros((), jnp.int32),
        "factor": jnp.zeros((4, 4)),
        "key": jax.random.key(0),
        "name": "adam",
    }
    state = placement.put_state(state, params)
    assert state["moment"].sharding.spec == P("data", "model")
    assert state["basis"].sharding.spec == P(None, "data", "model")
    for name in ("count", "factor", "key"):
        assert state[name].sharding.spec == P()
    assert state["name"] == "adam"
    data = placement.put_data({"numpy": np.ones((4, 2)), "shape": jax.ShapeDtypeStruct((4,), int)})
    assert data["numpy"].sharding.spec == P(("data",))
    assert data["numpy"].dtype == jnp.result_type(float)
    assert data["shape"].sharding == placement.data_sharding


def test_replicated_parameters_and_a_spread_basis():
    placement = as_placement(make_mesh("data"))
    assert placement.params_spec((8, 4)) == P()
    assert placement.basis_spec((8, 4)) == P("data")
    assert Placement(placement.mesh, basis="params").basis_spec((8, 4)) == P()
    structure = placement.basis_structure(jnp.ones((8, 4)))
    assert place_like(jnp.ones((3, 8, 4)), structure, rows=True).sharding.spec == P(None, "data")


def test_lanes_of_a_sweep():
    placement = Placement(make_mesh("data=2,sweep=2"))
    params = {"w": jnp.ones((4, 6))}
    lanes = {"w": jnp.ones((2, 4, 6)), "count": jnp.ones(2), "basis": jnp.ones((2, 3, 4, 6))}
    placed = placement.put_state(lanes, params, lanes=2)
    assert placed["w"].sharding.spec == P("sweep")
    assert placed["basis"].sharding.spec == P("sweep", None, None, "data")
    assert placed["count"].sharding.spec == P()
    three = placement.put_state(
        jax.tree.map(lambda x: jnp.ones((3, *x.shape[1:])), lanes), params, 3
    )
    assert three["w"].sharding.spec == P(None)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"params": "split"}, "params is 'split': it must be one of replicated, sharded"),
        ({"data_axis": "rows"}, "the axis 'rows' is not one of the mesh's, 'data', 'model'"),
        ({"sweep_axis": "data"}, "the axis 'data' is named twice"),
    ],
)
def test_refusals(options, words):
    with pytest.raises(ValueError, match=words):
        Placement(make_mesh("data=2,model=2"), **options)


@pytest.mark.parametrize("spec", ["rows=4", "rows=2,model=2", "rows=2,sweep=2"])
def test_a_mesh_without_an_axis_for_the_examples_is_refused(spec):
    with pytest.raises(ValueError, match=r"none called 'data'.*, data_axis='rows'\)"):
        Placement(make_mesh(spec))
    assert Placement(make_mesh(spec), data_axis="rows").data_axes == ("rows",)
    assert Placement(make_mesh(spec), data_axis=()).data_shards == 1


@pytest.mark.parametrize("spec", ["model=4", "sweep=4", "sweep=2,model=2"])
def test_a_mesh_of_models_and_lanes_alone_splits_no_examples(spec):
    assert Placement(make_mesh(spec)).data_axes == ()


def test_explicit_meshes_are_refused():
    mesh = jax.make_mesh((4,), ("data",), axis_types=(AxisType.Explicit,))
    with pytest.raises(ValueError, match="axis 'data' is explicit"):
        Placement(mesh)
