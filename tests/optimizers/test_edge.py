"""Quadratics: with P held the iterate diverges exactly above the threshold, with P live never."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aeoskit import optimizers as opt
from aeoskit.linalg import DiagonalPreconditioner

SIZE = 5
RULES = {
    "none": lambda: opt.NoMomentum(),
    "polyak": lambda: opt.Polyak(0.9),
    "ema": lambda: opt.EMA(0.9),
    "nesterov": lambda: opt.Nesterov(0.9),
    "ema_nesterov": lambda: opt.EMANesterov(0.9),
    "nadam": lambda: opt.NAdamMomentum(0.9),
}


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("decay", [None, 0.2])
@pytest.mark.parametrize("order", ["precondition_last", "precondition_first"])
def test_held_metric_diverges_exactly_above_the_threshold(
    rule: str, decay: float | None, order: str, x64: None
):
    """On random quadratics with a random diagonal P, at .99 and at 1.01 of the threshold."""

    @jax.jit
    @partial(jax.vmap, in_axes=(0, None))
    def growth(key, factor):
        keys = jax.random.split(key, 4)
        diagonal = jnp.exp(jax.random.normal(keys[0], (SIZE,)))
        optimizer = opt.Optimizer(
            0.5, RULES[rule](), opt.Frozen(DiagonalPreconditioner(diagonal)), decay, order
        )
        start = jax.random.normal(keys[1], (SIZE,))
        state = optimizer.init(start)
        # The spectrum of P^-1/2 H P^-1/2: the top one at the factor, none so flat as to be slow.
        others = jax.random.uniform(keys[2], (SIZE - 1,), minval=0.1, maxval=0.9)
        spectrum = optimizer.threshold(state) * factor * jnp.append(others, 1.0)
        basis = jnp.linalg.qr(jax.random.normal(keys[3], (SIZE, SIZE)))[0]
        root = jnp.sqrt(diagonal)[:, None] * basis
        hessian = (root * spectrum[None]) @ root.T

        def step(carry, _):
            x, state = carry
            updates, state = optimizer.update(hessian @ x, state, x)
            return (opt.apply_updates(x, updates), state), None

        (end, _), _ = jax.lax.scan(step, (start, state), length=2500)
        return jnp.linalg.norm(end) / jnp.linalg.norm(start)

    keys = jax.random.split(jax.random.key(7), 4)
    assert bool((growth(keys, 0.99) < 1e-6).all())
    assert bool((growth(keys, 1.01) > 1e6).all())


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
