"""Closed-form thresholds against the recurrences, and those against the updates themselves."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aeoskit import optimizers as opt
from aeoskit import stability

RULES = {
    "none": lambda beta: opt.NoMomentum(),
    "polyak": opt.Polyak,
    "ema": opt.EMA,
    "nesterov": opt.Nesterov,
    "ema_nesterov": opt.EMANesterov,
    "nadam": opt.NAdamMomentum,
}
AT_POINT_NINE = {
    "none": 2.0,
    "polyak": 3.8,
    "ema": 38.0,
    "nesterov": 3.8 / 2.8,
    "ema_nesterov": 38 / 2.8,
    "nadam": 38 / 2.8,
}

# One compilation a rule: property tests draw values only.
both = eqx.filter_jit(
    lambda rule, lr, decay: (
        rule.threshold(lr, decay),
        stability.threshold_from_recurrence(rule, lr, decay),
    )
)


@pytest.mark.parametrize("name", RULES)
def test_closed_form_at_point_nine(name: str, x64: None):
    rule = RULES[name](0.9)
    lr, decay = jnp.asarray(0.02), jnp.asarray(0.3)
    np.testing.assert_allclose(
        rule.threshold(lr, 0 * decay), AT_POINT_NINE[name] / 0.02, rtol=1e-14
    )
    expected = AT_POINT_NINE[name] * (2 - 0.02 * 0.3) / 2 / 0.02
    np.testing.assert_allclose(rule.threshold(lr, decay), expected, rtol=1e-14)


@pytest.mark.parametrize("name", RULES)
@given(
    beta=st.sampled_from([0.0, 0.3, 0.64, 0.9, 0.95, 0.99, 0.999]),
    lr=st.floats(1e-5, 100.0),
    step_decay=st.one_of(st.just(0.0), st.floats(1e-4, 1.9)),
)
def test_closed_form_equals_recurrence(name: str, beta: float, lr: float, step_decay: float):
    with jax.enable_x64(True):
        closed, found = both(RULES[name](beta), jnp.asarray(lr), jnp.asarray(step_decay / lr))
        np.testing.assert_allclose(found, closed, rtol=1e-9)


@pytest.mark.parametrize("name", RULES)
def test_in_single_precision(name: str):
    closed, found = both(RULES[name](0.9), jnp.asarray(1e-3), jnp.asarray(0.1))
    assert closed.dtype == found.dtype == jnp.float32
    np.testing.assert_allclose(found, closed, rtol=1e-4)


@pytest.mark.parametrize("name", [name for name in RULES if name != "nadam"])
@pytest.mark.parametrize("decay", [None, 0.7])
def test_recurrence_is_the_update(name: str, decay: float | None, x64: None):
    """The matrix is the Jacobian of what `update` does on one mode."""
    rule = RULES[name](0.8)
    optimizer = opt.Optimizer(0.3, rule, weight_decay=decay)
    state = optimizer.init(jnp.zeros(()))
    leaves, treedef = jax.tree.flatten(state.momentum)

    def step(vector):
        buffer = jax.tree.unflatten(treedef, [vector[1]] if leaves else [])
        full = opt.OptimizerState(state.count, buffer, state.preconditioner)
        updates, after = optimizer.update(1.7 * vector[0], full, vector[0])
        return jnp.stack([vector[0] + updates, *jax.tree.leaves(after.momentum)])

    size = 1 + len(leaves)
    matrix = stability.companion_matrix(rule, 1.7, 0.3, 0.0 if decay is None else decay)
    np.testing.assert_allclose(jax.jacfwd(step)(jnp.zeros(size)), matrix, rtol=1e-14, atol=1e-15)


def test_spectral_radius_leaves_the_circle_at_the_threshold(x64: None):
    rule = opt.EMA(0.9)
    radii = [float(stability.spectral_radius(rule, 38 * factor, 1.0)) for factor in (0.9, 1, 1.01)]
    np.testing.assert_allclose(radii, [0.9**0.5, 1.0, 1.166], rtol=1e-3)


def test_no_threshold_where_decay_alone_diverges():
    assert bool(jnp.isnan(stability.threshold_from_recurrence(opt.EMA(0.9), 1.0, 2.5)))
    assert float(opt.EMA(0.9).threshold(jnp.asarray(1.0), jnp.asarray(2.5))) < 0


def test_vmaps_over_learning_rates_and_betas(x64: None):
    lrs, betas = jnp.array([0.1, 0.2, 0.3]), jnp.array([0.0, 0.5, 0.9])
    found = eqx.filter_vmap(
        lambda lr, beta: stability.threshold_from_recurrence(opt.EMA(beta), lr, 0.1)
    )(lrs, betas)
    expected = (1 + betas) * (2 - 0.1 * lrs) / ((1 - betas) * lrs)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


@pytest.mark.parametrize(
    "make",
    [
        lambda: opt.gradient_descent(0.1),
        lambda: opt.momentum(0.1),
        lambda: opt.nesterov(0.1),
        lambda: opt.rmsprop(0.1, beta1=0.9),
        lambda: opt.adam(opt.LinearWarmup(1e-3, 10)),
        lambda: opt.adamw(1e-3, weight_decay=0.1),
        lambda: opt.nadam(1e-3),
    ],
)
def test_verify_threshold(make):
    check = stability.verify_threshold(make(), count=3)
    assert bool(check.agrees)


def test_verify_threshold_finds_a_wrong_formula():
    class Wrong(opt.AbstractLinearMomentum):
        filter = opt.NoMomentum.filter

        def threshold(self, lr, weight_decay):
            return 38 / lr

    check = stability.verify_threshold(opt.Optimizer(0.1, Wrong()))
    assert not bool(check.agrees)
    np.testing.assert_allclose(check.from_recurrence, 20.0, rtol=1e-4)
