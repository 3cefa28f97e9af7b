"""Quadratics: with P held the iterate diverges exactly above the threshold, with P live never."""

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


def random_quadratics(count: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Diagonals of P, Hessians H with `λ₁(P⁻¹H) = 1` and no flat direction, and starts."""
    rng = np.random.default_rng(7)
    diagonals = np.exp(rng.normal(size=(count, SIZE)))
    hessians = []
    for diagonal in diagonals:
        basis = np.linalg.qr(rng.normal(size=(SIZE, SIZE)))[0]
        root = np.sqrt(diagonal)[:, None] * basis
        spectrum = np.append(rng.uniform(0.1, 0.9, SIZE - 1), 1.0)
        hessians.append((root * spectrum) @ root.T)
    return diagonals, np.stack(hessians), rng.normal(size=(count, SIZE))


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("decay", [None, 0.2])
@pytest.mark.parametrize("order", ["precondition_last", "precondition_first"])
def test_held_metric_diverges_exactly_above_the_threshold(
    rule: str, decay: float | None, order: str, x64: None
):
    """On random quadratics with a random diagonal P, at .99 and at 1.01 of the threshold."""

    @jax.jit
    def growth(factor, diagonal, hessian, start):
        metric = DiagonalPreconditioner(diagonal)
        optimizer = opt.Optimizer(0.5, RULES[rule](), opt.Frozen(metric), decay, order)
        state = optimizer.init(start)
        hessian = factor * optimizer.threshold(state) * hessian

        def step(carry, _):
            x, state = carry
            updates, state = optimizer.update(hessian @ x, state, x)
            return (opt.apply_updates(x, updates), state), None

        (end, _), _ = jax.lax.scan(step, (start, state), length=2500)
        return jnp.linalg.norm(end) / jnp.linalg.norm(start)

    for quadratic in zip(*random_quadratics(3), strict=True):
        assert float(growth(0.99, *quadratic)) < 1e-3
        assert float(growth(1.01, *quadratic)) > 1e3


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
