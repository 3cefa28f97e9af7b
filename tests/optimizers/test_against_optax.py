"""Each named optimizer, step by step, against optax's own in double precision."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from aeoskit import optimizers as ak

STEPS = 100
WARMUP = 30


def warmup(lr: float) -> Any:
    return lambda count: lr * jnp.minimum((count.astype(float) + 1) / WARMUP, 1.0)


CASES = {
    "gradient_descent": (lambda: ak.gradient_descent(0.05), lambda: optax.sgd(0.05)),
    "momentum_polyak": (
        lambda: ak.momentum(0.02, 0.9, form="polyak"),
        lambda: optax.sgd(0.02, momentum=0.9),
    ),
    "momentum_ema": (
        lambda: ak.momentum(0.2, 0.9),
        lambda: optax.chain(optax.ema(0.9, debias=False), optax.scale(-0.2)),
    ),
    "nesterov": (
        lambda: ak.nesterov(0.02, 0.9),
        lambda: optax.sgd(0.02, momentum=0.9, nesterov=True),
    ),
    "nesterov_ema": (  # (1 - beta) lr in Polyak's form is lr in the averaged one
        lambda: ak.nesterov(0.2, 0.9, form="ema"),
        lambda: optax.sgd(0.2 * (1 - 0.9), momentum=0.9, nesterov=True),
    ),
    "rmsprop": (
        lambda: ak.rmsprop(0.01, 0.9, eps_in_root=True),
        lambda: optax.rmsprop(0.01, decay=0.9),
    ),
    "rmsprop_eps_outside": (
        lambda: ak.rmsprop(0.01, 0.9, eps=1e-3),
        lambda: optax.rmsprop(0.01, decay=0.9, eps=1e-3, eps_in_sqrt=False),
    ),
    "rmsprop_corrected": (
        lambda: ak.rmsprop(0.01, 0.9, correction="second_moment"),
        lambda: optax.rmsprop(0.01, decay=0.9, eps_in_sqrt=False, bias_correction=True),
    ),
    "rmsprop_momentum": (
        lambda: ak.rmsprop(0.01, 0.9, beta1=0.8, eps_in_root=True),
        lambda: optax.rmsprop(0.01, decay=0.9, momentum=0.8),
    ),
    "rmsprop_nesterov": (
        lambda: ak.rmsprop(0.01, 0.9, beta1=0.8, nesterov=True, eps_in_root=True),
        lambda: optax.rmsprop(0.01, decay=0.9, momentum=0.8, nesterov=True),
    ),
    "rmsprop_momentum_warmup": (
        lambda: ak.rmsprop(ak.LinearWarmup(0.01, WARMUP), 0.9, beta1=0.8, eps_in_root=True),
        lambda: optax.rmsprop(warmup(0.01), decay=0.9, momentum=0.8),
    ),
    "adam": (lambda: ak.adam(0.01), lambda: optax.adam(0.01)),
    "adam_eps": (
        lambda: ak.adam(0.01, 0.8, 0.95, 1e-3, eps_root=1e-4),
        lambda: optax.adam(0.01, 0.8, 0.95, 1e-3, eps_root=1e-4),
    ),
    "adam_beta1_zero": (
        lambda: ak.adam(0.01, 0.0, 0.0),
        lambda: optax.adam(0.01, 0.0, 0.0),
    ),
    "adam_warmup": (
        lambda: ak.adam(ak.LinearWarmup(0.01, WARMUP)),
        lambda: optax.adam(warmup(0.01)),
    ),
    "adam_uncorrected": (  # by optax's parts, which has no name for it
        lambda: ak.adam(0.01, correction="none"),
        lambda: optax.chain(_metric_of_raw_gradients(0.999, 1e-8), optax.scale(-0.01)),
    ),
    "adamw": (
        lambda: ak.adamw(0.01, weight_decay=0.1),
        lambda: optax.adamw(0.01, weight_decay=0.1),
    ),
    "nadam": (lambda: ak.nadam(0.01), lambda: optax.nadam(0.01)),
    "nadam_decay": (
        lambda: ak.nadam(0.01, 0.8, 0.99, weight_decay=0.1),
        lambda: optax.nadamw(0.01, 0.8, 0.99, weight_decay=0.1),
    ),
}


def _metric_of_raw_gradients(decay: float, eps: float) -> optax.GradientTransformation:
    """EMA of gradients over `√ν + eps`, both uncorrected, from optax's own two averages."""
    mean = optax.ema(0.9, debias=False)
    square = optax.ema(decay, debias=False)

    def init(params):
        return mean.init(params), square.init(params)

    def update(updates, state, params=None):
        grads = updates
        m, mean_state = mean.update(grads, state[0])
        nu, square_state = square.update(jax.tree.map(jnp.square, grads), state[1])
        updates = jax.tree.map(lambda a, b: a / (jnp.sqrt(b) + eps), m, nu)
        return updates, (mean_state, square_state)

    return optax.GradientTransformation(init, update)


def parameters() -> dict[str, Any]:
    keys = jax.random.split(jax.random.key(0), 2)
    return {
        "w": jax.random.normal(keys[0], (3, 4)),
        # The last coordinate is dead: its gradient is always zero.
        "b": (jax.random.normal(keys[1], (3,)), jnp.zeros(())),
    }


def loss(params: dict[str, Any]) -> jax.Array:
    rows = jnp.tanh(params["w"] @ jnp.linspace(-1.0, 2.0, 4)) + params["b"][0]
    return jnp.sum((rows - jnp.linspace(0.0, 1.0, 3)) ** 2) + jnp.sum(params["w"] ** 4)


@pytest.mark.parametrize("name", CASES)
def test_equals_optax(name: str, x64: None):
    make_ours, make_theirs = CASES[name]
    ours, theirs = make_ours(), make_theirs()

    # Both see the gradients of one trajectory (optax's): RMSProp near its edge multiplies rounding
    # errors by a hundred million within a hundred steps, whoever made them.
    @jax.jit
    def run(optimizer, params):
        def step(carry, _):
            p, state, other = carry
            grads = jax.grad(loss)(p)
            updates, state = optimizer.update(grads, state, p)
            expected, other = theirs.update(grads, other, p)
            both = (
                (updates, ak.apply_updates(p, updates)),
                (expected, optax.apply_updates(p, expected)),
            )
            return (both[1][1], state, other), both

        start = (params, optimizer.init(params), theirs.init(params))
        return jax.lax.scan(step, start, length=STEPS)[1]

    got, want = run(ours, parameters())
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == jnp.float64
        assert bool(jnp.isfinite(a).all())
        np.testing.assert_allclose(a, b, rtol=1e-12, atol=1e-15)
