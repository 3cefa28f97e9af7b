"""Quadratics with P live: nothing diverges (with P held: `test_zoo_edge`)."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aeoskit import optimizers as opt


@pytest.mark.parametrize("lr", [1e-3, 0.1, 10.0])
@pytest.mark.parametrize("name", ["adam", "rmsprop"])
def test_live_metric_settles_at_the_edge(name: str, lr: float, x64: None):
    """P grows until the ratio is near 1: nothing diverges, whatever the learning rate."""
    optimizer = {"adam": lambda: opt.adam(lr, beta2=0.99), "rmsprop": lambda: opt.rmsprop(lr)}[
        name
    ]()
    curvatures = jnp.array([1.0, 3.0, 10.0])
    steps = 6000

    @jax.jit
    def run(optimizer, x):
        def step(carry, _):
            x, state = carry
            grads = curvatures * x
            metric = optimizer.preconditioner(state, grads)
            top = jnp.max(curvatures / metric.diagonal)
            updates, state = optimizer.update(grads, state)
            return (opt.apply_updates(x, updates), state), (top / optimizer.threshold(state), x)

        return jax.lax.scan(step, (x, optimizer.init(x)), length=steps)[1]

    ratio, x = run(optimizer, jnp.ones(3))
    assert bool(jnp.isfinite(x).all())
    assert float(jnp.abs(x).max()) < 1e3 * max(lr, 1.0)
    np.testing.assert_array_less(jnp.abs(jnp.median(ratio[-1000:]) - 1.025), 0.125)
