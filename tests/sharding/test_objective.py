"""An objective on a mesh gives what it gives on one device."""

from __future__ import annotations

import importlib.util
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aeoskit.objective import Objective, kronecker_fisher
from aeoskit.sharding import Placement, make_mesh

HERE = Path(__file__).parent
_spec = importlib.util.spec_from_file_location("sharding_everything", HERE / "everything.py")
cases = sys.modules[_spec.name] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cases)

PLACEMENTS = [
    ("data=3", {}),
    ("data=1", {}),
    ("data=2", {"params": "sharded", "check_vma": True}),
    ("data=4", {"basis": "params", "check_vma": True}),
    ("data=2,model=2", {"params": "sharded"}),
]


@pytest.mark.parametrize(("spec", "options"), PLACEMENTS)
@pytest.mark.part(2)
def test_sharded_equals_unsharded(x64, spec, options):
    case = cases.make_case("weighted" if spec == "data=3" else "per_example", 11, 2)
    placement = Placement(make_mesh(spec), **options)
    placed = case.objective.place(placement)
    assert placed.n == 11
    found = cases.everything(placed, placement.put_params(case.params), *case[2:])
    cases.same(cases.everything(*case), found)


def test_in_single_precision():
    case = cases.make_case("per_example", 11)
    placed = case.objective.place(make_mesh("data=4"))
    cases.same(cases.everything(*case), cases.everything(placed, *case[1:]), rtol=1e-5)


@pytest.mark.parametrize("n", [3, 6])
def test_batches_read_head_and_tail(n):
    objective = Objective(lambda w, x: x[:, 0] * w, jnp.arange(2.0 * n).reshape(n, 2))
    placed, indices = objective.place(make_mesh("data=4")), jnp.array([0, n - 1, -1, 1, n - 2])
    found = placed.on_batch(indices)
    rows = jnp.concatenate([found.data, found.tail])
    assert rows.tolist() == objective.on_batch(indices).data.tolist()
    # Before the beginning there is nothing: not the end once more.
    late = jnp.full(4, -n - 1)
    assert np.isnan(placed.on_batch(late).data).all()
    assert np.isnan(objective.on_batch(late).data).all()


def test_eight_devices():
    """The full cross product, in a process that has eight."""
    done = subprocess.run(
        [sys.executable, HERE / "eight.py"], capture_output=True, text=True, timeout=600
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert done.stdout.splitlines()[-1] == "all the same"


def test_a_scalar_mean_sees_the_whole_batch(x64):
    case = cases.make_case("mean", 12, batch=4)
    placement = Placement(make_mesh("data=4"))
    placed = case.objective.place(placement)
    placed.check(case.params)
    cases.same(cases.everything(*case), cases.everything(placed, *case[1:]))
    with pytest.raises(ValueError, match=r"11 examples do not divide over 4 devices: return per-"):
        cases.make_case("mean", 11).objective.place(placement).value(case.params)
    with pytest.raises(ValueError, match="5 examples do not divide"):
        placed.on_batch(jnp.arange(5)).value(case.params)


def test_one_microbatch_of_all_is_the_whole_batch(x64):
    """Also where it is given together with the placement: batch statistics are not a shard's."""
    case = cases.make_case("mean", 12)
    options = {"microbatch": 12, "placement": make_mesh("data=4")}
    placed = Objective(case.objective.loss, case.objective.data, **options)
    assert placed.microbatch is None
    np.testing.assert_allclose(placed.value(case.params), case.objective.value(case.params))


def batch_norm(w, x):
    return (w * (x - x.mean()) / (1e-3 + x.std())) ** 2 + x


def test_a_coupled_loss_is_seen():
    objective = Objective(batch_norm, jnp.arange(11.0), placement=make_mesh("data=4"))
    with pytest.raises(ValueError, match=r"couples examples.*on a mesh, return the mean itself"):
        objective.check(jnp.asarray(0.5))


@pytest.mark.parametrize("n", [1, 3, 4, 5])
def test_fewer_examples_than_shards(n):
    objective = Objective(lambda w, x: (x - w) ** 2, jnp.arange(float(n)))
    w = jnp.asarray(0.5)
    placed = objective.place(make_mesh("data=4"))
    placed.check(w)
    np.testing.assert_allclose(placed.gradient(w), objective.gradient(w), rtol=1e-6)
    assert placed.kind(w) == "per_example"


def test_numpy_goes_to_its_devices_only():
    rows = np.arange(8.0).reshape(4, 2)
    placed = Objective(lambda w, x: x @ w, rows, placement=make_mesh("data=4"))
    assert placed.data.addressable_shards[0].data.shape == (1, 2)
    assert placed.data.dtype == jnp.float32
    again = placed.place(make_mesh("data=2"))
    assert again.data.addressable_shards[0].data.shape == (2, 2)
    with pytest.raises(TypeError, match="must be arrays"):
        Objective(lambda w, x: x @ w, np.array(["a"]), placement=make_mesh("data=4"))


def test_shapes_alone_can_be_placed():
    shapes = (jax.ShapeDtypeStruct((9, 4), jnp.float32), jax.ShapeDtypeStruct((9, 2), jnp.float32))
    objective = cases.make_case("per_example", 9).objective
    placed = Objective(objective.loss, shapes, placement=make_mesh("data=4"))
    assert placed.tail is not None
    head, tail = placed.data[0], placed.tail[0]
    assert (head.shape, tail.shape, head.sharding.spec[0]) == ((8, 4), (1, 4), "data")
    out = jax.eval_shape(placed.value, cases.make_params())
    assert out.shape == ()


def test_derivatives_of_values_and_lanes(x64):
    case = cases.make_case("per_example", 7)
    placed = case.objective.place(Placement(make_mesh("data=2,sweep=2")))

    def twice(objective, params):
        step = lambda s: objective.value(jax.tree.map(lambda p: s * p, params))  # noqa: E731
        return jax.grad(step)(1.5), jax.vmap(step)(jnp.array([0.5, 2.0]))

    cases.same(twice(case.objective, case.params), jax.jit(twice)(placed, case.params))


def test_kronecker_factors(x64):
    case = cases.make_case("known", 7)
    placed = case.objective.place(make_mesh("data=4"))
    # Draws belong to examples, wherever these are.
    options = {"kind": "gauss_newton", "key": jax.random.key(1), "damping": 0.1, "iterations": 1}
    one, other = (
        kronecker_fisher(objective, case.params, **options)
        for objective in (case.objective, placed)
    )
    cases.same(one.mv(case.vector), other.mv(case.vector))


@pytest.mark.parametrize("product", ["reverse", "difference"])
def test_other_products_on_a_mesh(product):
    x, w = jax.random.normal(jax.random.key(0), (13, 4)), jnp.ones((4, 2)) / 3

    def loss(w, x):
        return jnp.sum(jnp.tanh(x @ w) ** 2, 1)

    expected = Objective(loss, x).hessian(w).as_matrix()
    placed = Objective(loss, x, product=product, microbatch=3, placement=make_mesh("data=2"))
    np.testing.assert_allclose(placed.hessian(w).as_matrix(), expected, atol=1e-3)
