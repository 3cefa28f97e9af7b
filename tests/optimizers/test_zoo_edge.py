"""Where the zoo diverges with its metric held, and where it settles with the metric live."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aeoskit import optimizers as ak
from aeoskit.linalg import DiagonalPreconditioner
from aeoskit.stability import spectral_radius

SIZE = 4
RULES = {
    "none": ak.NoMomentum,
    "polyak": lambda: ak.Polyak(0.9),
    "ema": lambda: ak.EMA(0.9),
    "nesterov": lambda: ak.Nesterov(0.9),
    "ema_nesterov": lambda: ak.EMANesterov(0.9),
    "nadam": lambda: ak.NAdamMomentum(0.9),
    "lion": lambda: ak.LionMomentum(0.9, 0.99),
    "lion_turning": lambda: ak.LionMomentum(0.9, 0.1),  # a complex pair leaves the circle
}
ORDERS = ("precondition_last", "precondition_first")
DECAYS = ((None, True), (0.2, True), (0.02, False))


@pytest.mark.parametrize("rule", RULES)
def test_held_metric_diverges_exactly_above_the_threshold(rule: str, x64: None):
    """Top mode of a random quadratic at .99 and 1.01 of the threshold, each order and decay."""
    rng = np.random.default_rng(11)
    basis = np.linalg.qr(rng.normal(size=(SIZE, SIZE)))[0]
    diagonal = np.exp(rng.normal(size=SIZE))
    root = np.sqrt(diagonal)[:, None] * basis  # so that λ₁(P⁻¹H) = 1
    hessian = (root * np.append(rng.uniform(0.1, 0.9, SIZE - 1), 1.0)) @ root.T

    def growth(optimizer, factor, hessian, start):
        state = optimizer.init(start)
        hessian = factor * optimizer.threshold(state) * hessian

        def step(carry, _):
            x, state = carry
            updates, state = optimizer.update(hessian @ x, state, x)
            return (ak.apply_updates(x, updates), state), None

        (end, _), _ = jax.lax.scan(step, (start, state), length=2500)
        return jnp.linalg.norm(end) / jnp.linalg.norm(start)

    @jax.jit
    def all_growths(diagonal, hessian, start):
        metric = ak.Frozen(DiagonalPreconditioner(diagonal))
        return [
            jax.vmap(growth, (None, 0, None, None))(
                ak.Optimizer(0.5, RULES[rule](), metric, decay, order, scaled),
                jnp.array([0.99, 1.01]),
                hessian,
                start,
            )
            for order in ORDERS
            for decay, scaled in DECAYS
        ]

    below, above = np.stack(all_growths(diagonal, hessian, rng.normal(size=SIZE))).T
    assert len(below) == len(ORDERS) * len(DECAYS)
    np.testing.assert_array_less(below, 1e-2)
    np.testing.assert_array_less(1e2, above)


@pytest.mark.parametrize(("beta1", "beta2"), [(0.9, 0.99), (0.5, 0.9), (0.9, 0.5), (0.99, 0.0)])
def test_lion_momentum_has_the_threshold_of_its_recurrence(beta1: float, beta2: float, x64: None):
    rule, lr, decay = ak.LionMomentum(beta1, beta2), jnp.asarray(0.1), jnp.asarray(0.3)
    threshold = rule.threshold(lr, decay)
    shares = [*np.linspace(0.05, 0.95, 19), 1 - 1e-8]
    assert max(float(spectral_radius(rule, s * threshold, lr, decay)) for s in shares) < 1
    assert float(spectral_radius(rule, (1 + 1e-8) * threshold, lr, decay)) > 1


CURVATURES = jnp.array([[1.0, 3.0], [10.0, 2.0]])
EDGE, BELOW = (0.9, 1.15), (0.0, 0.6)
LIVE = {
    "amsgrad_previous": (
        lambda: ak.amsgrad(0.1, beta2=0.99, correction="none", maximum="previous"),
        EDGE,
    ),
    "padam_plain": (lambda: ak.padam(1.0, beta2=0.99, maximum="none"), EDGE),
    "adabelief": (lambda: ak.adabelief(0.1, beta2=0.99), EDGE),
    "scalar_rmsprop": (lambda: ak.scalar_rmsprop(0.1), EDGE),
    "scalar_rmsprop_momentum": (lambda: ak.scalar_rmsprop(0.1, beta1=0.9), EDGE),
    "gi_adam": (lambda: ak.gi_adam(0.1, beta2=0.99), EDGE),
    "nadamw": (lambda: ak.nadamw(0.1, beta2=0.95, weight_decay=1e-3), EDGE),
    "adafactor": (lambda: ak.adafactor(0.1, min_dim_size_to_factor=2), EDGE),
    # Its memory is hundreds of steps long by then, and it goes through long bursts.
    "adafactor_momentum": (
        lambda: ak.adafactor(0.1, beta1=0.9, min_dim_size_to_factor=2, weight_decay=1e-4),
        (0.75, 1.15),
    ),
    "amsgrad": (lambda: ak.amsgrad(0.1, beta2=0.99), BELOW),
    "padam": (lambda: ak.padam(1.0, beta2=0.99), BELOW),
    "adagrad": (lambda: ak.adagrad(1.0), BELOW),
}


@pytest.mark.parametrize("name", LIVE)
def test_live_metric_settles(name: str, x64: None):
    """Near the edge where P forgets, below it where P never falls.

    Gradients have noise of 1e-5, far under the size that P settles at: without it an iterate may
    arrive at the minimum to the last bit while P is still large, and then nothing is ever unstable.
    """
    make, (low, high) = LIVE[name]
    noise = 1e-5 * np.random.default_rng(1).normal(size=(4000, 2, 2))

    @jax.jit
    def run(optimizer, x, noise):
        def step(carry, noise):
            x, state = carry
            grads = CURVATURES * (x - 1) + noise
            metric = optimizer.preconditioner(state, grads, x)
            top = jnp.max(CURVATURES / metric.diagonal)
            updates, state = optimizer.update(grads, state, x)
            return (ak.apply_updates(x, updates), state), (top / optimizer.threshold(state), x)

        return jax.lax.scan(step, (x, optimizer.init(x)), noise)[1]

    ratio, x = run(make(), 2 * jnp.ones((2, 2)), noise)
    assert bool(jnp.isfinite(x).all())
    assert float(jnp.abs(x).max()) < 10
    median = float(jnp.median(ratio[-2000:]))
    assert low < median < high, median
