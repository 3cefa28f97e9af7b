"""The midpoint of three iterates, and the sharpness there against dense matrices."""

import jax
import jax.flatten_util
import jax.numpy as jnp
import numpy as np
import pytest

import aeoskit as ak
from aeoskit.probes import midpoint

ROWS = np.random.default_rng(0).normal(size=(30, 4))
TARGETS = np.tanh(ROWS @ np.array([1.0, -1.0, 0.5, 2.0]))


def loss(params, batch):
    rows, targets = batch
    return 0.5 * (jnp.tanh(rows @ params["hidden"]) @ params["out"] - targets) ** 2


def test_an_oscillation_of_period_two_cancels():
    center, swing = jnp.array([3.0, -1.0]), jnp.array([0.25, 0.5])
    up, down = center + swing, center - swing
    np.testing.assert_array_equal(midpoint(up, down, up), center)
    np.testing.assert_array_equal(midpoint(down, up, down), center)


def test_its_sharpness_is_that_of_the_dense_matrices_there(x64):
    objective = ak.Objective(loss, (jnp.asarray(ROWS), jnp.asarray(TARGETS)))
    optimizer = ak.adam(0.1, beta2=0.9)
    params = {
        "hidden": jnp.asarray(np.random.default_rng(1).normal(size=(4, 3))),
        "out": jnp.full(3, 0.4),
    }
    points, states = [params], [optimizer.init(params)]
    for _ in range(60):
        grads = jax.grad(objective.value)(points[-1])
        updates, state = optimizer.update(grads, states[-1], points[-1])
        points.append(ak.apply_updates(points[-1], updates))
        states.append(state)
    between = midpoint(*points[-3:])
    grads = jax.grad(objective.value)(points[-2])
    flat, unravel = jax.flatten_util.ravel_pytree(between)
    hessian = np.asarray(jax.hessian(lambda x: objective.value(unravel(x)))(flat))
    expected = np.linalg.eigvalsh(hessian)[-1]
    options = {"solver": ak.Lanczos(rtol=1e-10), "start": jax.random.key(0)}
    found = ak.sharpness(objective, between, **options)
    np.testing.assert_allclose(found.values[0], expected, rtol=1e-9)
    metric = optimizer.preconditioner(states[-2], grads, points[-2])
    root = np.sqrt(jax.flatten_util.ravel_pytree(metric.mv(jax.tree.map(jnp.ones_like, params)))[0])
    scaled = np.linalg.eigvalsh(hessian / root / root[:, None])[-1]
    found = ak.preconditioned_sharpness(
        objective, between, optimizer, states[-2], grads=grads, **options
    )
    np.testing.assert_allclose(found.values[0], scaled, rtol=1e-9)


def test_trees_of_other_shapes_are_refused():
    with pytest.raises(ValueError, match=r"previous.* has shape \(2,\), but params has \(3,\)"):
        midpoint(jnp.ones(2), jnp.ones(3), jnp.ones(3))
    with pytest.raises(ValueError, match="new_params"):
        midpoint({"a": 1.0}, {"a": 1.0}, {"b": 1.0})
