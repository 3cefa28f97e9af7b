"""What is checked, what is refused, and how microbatches run."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import aeoskit as ak
from aeoskit.linalg import tree_dtype, tree_random_like
from aeoskit.objective import Objective
from aeoskit.sharding import make_mesh


def square(w, x):
    return 0.5 * (x - w) ** 2


W = jnp.array(0.5)
X = jnp.arange(5.0)


def test_on_batch_inside_jit():
    objective = Objective(square, X, microbatch=2)

    @jax.jit
    def step(objective, w, indices):
        return objective.on_batch(indices).value_and_gradient(w)

    value, grad = step(objective, W, jnp.array([0, 2, 4]))
    np.testing.assert_allclose(value, np.mean(0.5 * (np.array([0, 2, 4]) - 0.5) ** 2), rtol=1e-6)
    np.testing.assert_allclose(grad, -1.5, rtol=1e-6)
    assert objective.on_batch(jnp.array([0, 1, 2])).microbatch == 2
    assert objective.on_batch(jnp.array([0, 1])).microbatch is None


def test_sweeps_are_vmaps():
    objective = Objective(square, X, microbatch=2)
    params = jnp.array([0.0, 1.0, 2.0])
    values = jax.vmap(objective.value)(params)
    np.testing.assert_allclose(values, [objective.value(w) for w in params], rtol=1e-6)
    products = jax.vmap(lambda w: objective.hessian(w).mv(jnp.array(2.0)))(params)
    np.testing.assert_allclose(products, 2.0)


def test_a_module_is_a_loss():
    class Scaled(eqx.Module):
        scale: jax.Array
        link: Any

        def __call__(self, w, x):
            return self.scale * self.link(x - w)

    traces = []

    @jax.jit
    def value(objective, w):
        traces.append(1)
        return objective.value(w)

    for scale in (1.0, 2.0):
        objective = Objective(Scaled(jnp.array(scale), jnp.square), X, params=W)
        np.testing.assert_allclose(value(objective, W), scale * jnp.mean((X - W) ** 2), rtol=1e-6)
    assert len(traces) == 1


def test_half_precision_is_summed_in_single():
    data = jnp.full(4096, 1.0, jnp.bfloat16)
    objective = Objective(lambda w, x: w * x, data, microbatch=8)
    value, grad = objective.value_and_gradient(jnp.array(1.0, jnp.bfloat16))
    assert value == 1.0
    assert value.dtype == jnp.float32
    assert grad == 1.0
    assert grad.dtype == jnp.bfloat16


def convolve(w, x):
    y = jax.lax.conv_general_dilated(
        x, w, (1, 1), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC")
    )
    return jnp.mean(jnp.tanh(y), axis=(1, 2, 3))


def loops_in(objective, w):
    text = str(jax.make_jaxpr(lambda o, w: o.gradient(w))(objective, w))
    return text.count("scan[")


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the rule is for the CPU backend")
def test_convolutions_on_cpu_are_unrolled():
    w = jnp.ones((3, 3, 1, 1))
    images = jax.random.normal(jax.random.key(0), (7, 4, 4, 1))
    objective = Objective(convolve, images, microbatch=2)
    assert loops_in(objective, w) == 0
    assert loops_in(Objective(square, X, microbatch=2), W) == 1
    whole = Objective(convolve, images)
    np.testing.assert_allclose(objective.gradient(w), whole.gradient(w), rtol=1e-5, atol=1e-7)


def nan_data():
    return {"x": jnp.ones((5, 2)).at[3, 1].set(jnp.nan)}


def batch_norm(w, x):
    return (w * (x - x.mean()) / (1e-3 + x.std())) ** 2 + x


def random_loss(w, x):
    return square(w, x) + np.random.default_rng().random()


def masked_mean(w, x):
    mask = (x > 1).astype(x.dtype)
    return jnp.sum(mask * square(w, x)) / jnp.maximum(jnp.sum(mask), 1)


def bad_from(first):
    """Losses that are not finite from an example on."""
    return lambda w, x: jnp.where(x >= first, jnp.nan, x) * w


def bad_leaf(params, x):
    return jnp.mean(params["good"] * x) + params["bad"] * jnp.inf


REFUSED = {
    "nan": (lambda: Objective(lambda w, b: b["x"].sum(-1) * w, nan_data(), params=W),
            r"data\['x'\] is nan at index \[3, 1\]"),
    "axes": (lambda: Objective(square, (X, X[:3])),
             r"data\[0\] has 5 examples and data\[1\] has 3"),
    "empty": (lambda: Objective(square, X[:0]), "empty"),
    "nothing": (lambda: Objective(square, ()), "hold no array"),
    "scalar": (lambda: Objective(square, {"a": 1.0}), r"data\['a'\] is a scalar"),
    "list": (lambda: Objective(square, [[1.0, 2.0]]), r"data\[0\]\[0\] is a number in a list"),
    "large": (lambda: Objective(square, X, microbatch=6), "microbatch is 6.*5 examples"),
    "zero": (lambda: Objective(square, X, microbatch=0), "microbatch is 0"),
    "reuse": (lambda: Objective(square, X, reuse="never"), "never"),
    "shape": (lambda: Objective(lambda w, x: (x - w)[:, None], X, params=W),
              r"float32\[5, 1\] for a batch of 5 examples.*\(5,\)"),
    "aux": (lambda: Objective(lambda w, x: (x - w, {"a": x}), X, params=W), "batch of 5 examples"),
    "integer": (lambda: Objective(lambda w, x: jnp.ones(x.shape, int), X, params=W), "floating"),
    "infinite": (lambda: Objective(lambda w, x: square(w, x) / 0.0, X, params=W), "is inf"),
    "example": (lambda: Objective(bad_from(3), X, microbatch=2, params=W),
                r"is nan, and that of example 3 is the first .* \(2 in all\)"),
    "last example": (lambda: Objective(bad_from(4), X, placement=make_mesh("data=2"), params=W),
                     r"example 4 is the first .* \(1 in all\)"),
    "overflow": (lambda: Objective(lambda w, x: 0 * x + 3e38, X, params=W), "sum overflows"),
    "leaf": (lambda: Objective(bad_leaf, X, params={"good": W, "bad": W}),
             r"gradient is not finite at params\['bad'\] first"),
    "random": (lambda: Objective(random_loss, X, params=W), "random"),
    "batch norm": (lambda: Objective(batch_norm, X, microbatch=2, params=W),
                   "couples examples.*microbatch=None"),
    "masked": (lambda: Objective(masked_mean, X, microbatch=2, params=W),
               r"return \(sum, weight\)"),
    "pair": (lambda: Objective.from_model(lambda w, x: x * w, square, X), "pair"),
}  # fmt: skip


@pytest.mark.parametrize("name", list(REFUSED))
def test_refused_in_one_line(name):
    make, message = REFUSED[name]
    # Under the runtime checker a wrong literal is refused by its type already.
    if name == "reuse":
        with pytest.raises(Exception, match=message):
            make()
        return
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_wrong_types_are_refused():
    with pytest.raises(TypeError, match=r"data.*str"):
        Objective(square, "digits")
    with pytest.raises(TypeError, match="int32"):
        Objective(square, X, params={"w": jnp.arange(3)})
    with pytest.raises(TypeError, match=r"params\['f'\] is function"):
        Objective(square, X).gradient({"f": square})
    with pytest.raises(TypeError, match=r"params\['w'\] is a number of Python, 1.0"):
        Objective(square, X, params={"w": 1.0})
    with pytest.raises(TypeError, match=r"takes \(w, x, y\), .* loss\(params, \*batch\)"):
        Objective(lambda w, x, y: square(w, x), (X, X))


def test_a_vector_unlike_the_parameters_names_the_first_leaf():
    curvature = Objective(lambda w, x: square(w["a"], x), X).hessian({"a": W})
    with pytest.raises(ValueError, match=r"vector\['b'\] is a leaf that the point does not have"):
        curvature.mv({"a": W, "b": W})
    with pytest.raises(ValueError, match=r"vector\['a'\] has shape \(2,\), but the point has \(\)"):
        curvature.mv({"a": jnp.ones(2)})


def test_a_key_per_example_makes_randomness_data():
    def noisy(w, batch):
        x, keys = batch
        return square(w, x) * jax.vmap(jax.random.uniform)(keys)

    data = (X, jax.random.split(jax.random.key(0), 5))
    objective = Objective(noisy, data, microbatch=2, params=W)
    np.testing.assert_allclose(objective.value(W), jnp.mean(noisy(W, data)), rtol=1e-6)
    assert objective.on_batch(jnp.array([0, 3])).n == 2


def test_batch_norm_is_evaluated_whole():
    Objective(batch_norm, X, params=W)
    with pytest.raises(ValueError, match="couples"):
        Objective(batch_norm, X, microbatch=3).check(W)


def test_construction_inside_jit_checks_shapes_only():
    @jax.jit
    def value(x, w):
        return Objective(square, x, params=w).value(w)

    np.testing.assert_allclose(value(X, W), jnp.mean(square(W, X)), rtol=1e-6)


def test_params_of_numpy_are_taken_in_the_precision_of_jax():
    """As equinox and optax take them: float64 is float32 where JAX has no other, without a word."""
    params = {"w": np.array([0.5, -1.0, 2.0]), "b": np.float64(0.25)}

    def loss(params, x):
        return 0.5 * (jnp.tanh(x @ params["w"]) + params["b"]) ** 2

    data = np.random.default_rng(0).standard_normal((7, 3))
    same = jax.tree.map(lambda x: jnp.asarray(x, jnp.float32), params)
    objective = Objective(loss, data, params=params, microbatch=3)
    expected = objective.hessian(same).as_matrix()
    np.testing.assert_array_equal(objective.hessian(params).as_matrix(), expected)
    assert objective.gradient(params)["w"].dtype == jnp.float32
    optimizer = ak.optimizers.adafactor(1e-2)  # whose P has the parameters in it
    state = optimizer.init(params)
    edges = [
        ak.preconditioned_sharpness(objective, w, optimizer, optimizer.init(w), start=w)
        for w in (params, same)
    ]
    assert float(edges[0].ratio) == float(edges[1].ratio)
    point = objective.linearize(params)
    top = ak.sharpness(objective, params, linearization=point)
    assert float(top.values[0]) == float(ak.sharpness(objective, same).values[0])
    updates, _ = optimizer.update(objective.gradient(params), state, params)
    assert updates["w"].dtype == jnp.float32
    blank = ak.Tracking().initial_state(params)
    assert {x.dtype for x in jax.tree.leaves(blank.block)} == {jnp.dtype("float32")}
    assert tree_random_like(jax.random.key(0), params)["w"].dtype == jnp.float32
    assert str(tree_dtype(params)) == "float32"
