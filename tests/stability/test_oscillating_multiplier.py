"""The largest multiplier that is not real and positive, against dense eigenvalues."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from aeoskit.optimizers import threshold_of
from aeoskit.stability import MULTIPLIER_RESULTS, flip_multiplier, oscillating_multiplier


def average(decay: float) -> Any:
    return optax.ema(decay, debias=False)


def step(params, state, lr):
    """Two averages, on a quadratic with 60 flat directions and one of negative curvature."""
    curvatures = jnp.concatenate([jnp.zeros(60), jnp.array([-0.05, 0.01, 0.1, 0.3, 0.5, 1.0])])
    updates, state = TWO.update(curvatures * params, state, params)
    return optax.apply_updates(params, jax.tree.map(lambda u: -lr * u, updates)), state


TWO = optax.chain(average(0.9), average(0.9))
POINT = jnp.ones(66), TWO.init(jnp.ones(66))


def exact(lr: float) -> complex:
    """The root of largest modulus, at the curvature 1."""
    z = np.roots(
        np.polyadd(np.polymul([1, -1], np.polymul([1, -0.9], [1, -0.9])), [lr / 100, 0, 0])
    )
    return complex(max(z, key=lambda root: (abs(root), root.imag)))


@pytest.mark.parametrize("double", [True, False])
@pytest.mark.parametrize("driver", ["host", "compiled"])
def test_a_pair_among_many_flat_directions(double: bool, driver: Any):
    with jax.enable_x64(double):
        point = jax.tree.map(jnp.asarray, POINT)
        for share in (0.9, 1.2):
            lr = share * 19 / 81
            found = oscillating_multiplier(step, point, args=(jnp.asarray(lr),), driver=driver)
            wanted = exact(lr)
            assert (abs(wanted) > 1) == (share > 1)
            assert bool(found.converged)
            assert abs(complex(found.value) - wanted) <= 1.5 * float(found.bound) + 1e-6
            assert float(found.bound) < 1e-2
            np.testing.assert_allclose(found.modulus, abs(wanted), atol=2e-3)
            np.testing.assert_allclose(found.angle, np.angle(wanted), rtol=2e-2)
            # Negative curvature is reported apart.
            assert found.positive is not None
            assert float(found.positive) > 1
    flip = flip_multiplier(step, POINT, args=(jnp.asarray(1.2 * 19 / 81),))
    assert bool(flip.converged)
    np.testing.assert_allclose(flip.value, 0.8033, rtol=1e-3)


def test_it_passes_1_at_the_threshold_of_the_bridge(x64: None):
    point = jax.tree.map(jnp.asarray, (jnp.ones(66), TWO.init(jnp.ones(66))))
    transform = optax.chain(TWO, optax.scale(-1.0))
    threshold = threshold_of(transform, transform.init(jnp.ones(66)))
    moduli = [
        float(oscillating_multiplier(step, point, args=(share * threshold,)).modulus)
        for share in (0.98, 1.02)
    ]
    assert moduli[0] < 1 < moduli[1]


def test_where_nothing_oscillates_there_is_none(x64: None):
    """Descent below 1 / curvature: each multiplier is real and positive."""

    def descend(w, state):
        return w - 0.5 * jnp.linspace(-0.1, 1.0, 50) * w, state

    found = oscillating_multiplier(descend, (jnp.ones(50), ()))
    assert found.result == MULTIPLIER_RESULTS.no_oscillation
    assert not bool(found.converged)
    assert bool(jnp.isnan(found.modulus))
    assert found.positive is not None
    np.testing.assert_allclose(float(found.positive), 1.05, rtol=1e-3)


INPUTS = jax.random.normal(jax.random.key(0), (64, 8))
TARGETS = jnp.sin(INPUTS @ jnp.arange(8.0))
OPTIMIZERS = {
    "two averages": (optax.chain(TWO, optax.scale(-0.3)), 3),
    "descent": (optax.sgd(0.5), 100),
    "adam": (optax.adam(1e-2, b2=0.99), 100),
}


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_it_is_that_of_the_dense_jacobian_of_a_network(name: str):
    transform, steps = OPTIMIZERS[name]

    def loss(params):
        return jnp.mean((jnp.tanh(INPUTS @ params["in"]) @ params["out"] - TARGETS) ** 2)

    def train(params, state):
        updates, state = transform.update(jax.grad(loss)(params), state, params)
        return optax.apply_updates(params, updates), state

    keys = jax.random.split(jax.random.key(1))
    params = {
        "in": jax.random.normal(keys[0], (8, 8)) / 3,
        "out": jax.random.normal(keys[1], (8,)) / 3,
    }
    point = jax.lax.fori_loop(0, steps, lambda _, p: train(*p), (params, transform.init(params)))
    leaves, treedef = jax.tree.flatten(point)
    moving = [i for i, x in enumerate(leaves) if jnp.issubdtype(x.dtype, jnp.floating)]
    flat, unravel = ravel_pytree([leaves[i] for i in moving])

    def of_vector(vector):
        moved = dict(zip(moving, unravel(vector), strict=True))
        here = [moved.get(i, x) for i, x in enumerate(leaves)]
        after = jax.tree.leaves(train(*jax.tree.unflatten(treedef, here)))
        return ravel_pytree([after[i] for i in moving])[0]

    values = np.linalg.eigvals(np.asarray(jax.jacfwd(of_vector)(flat), float))
    found = oscillating_multiplier(train, point, condition="search_space")
    assert bool(found.converged)
    modulus, angles = float(found.modulus), np.abs(np.angle(values))
    # Adam has larger ones, next to the positive axis: as far from it as the result says, at most.
    assert found.resolved_angle is not None
    assert float(found.resolved_angle) < 0.8
    larger = angles[np.abs(values) > 1.002 * modulus]
    assert larger.max(initial=0) <= float(found.resolved_angle)
    if name != "adam":
        np.testing.assert_allclose(modulus, np.abs(values[angles > 1e-3]).max(), rtol=2e-3)
    # A multiplier of the map, and of Adam one of many on a circle.
    assert np.abs(values - complex(found.value)).min() < 2e-3
