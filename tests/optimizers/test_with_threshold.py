"""Learning rates for given thresholds, over the whole zoo, and what a multiplier says of one."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from aeoskit import equivalent_ratio
from aeoskit import optimizers as ak
from aeoskit.stability import spectral_radius

LR = 0.3
ZOO = {
    name: lambda make=make: make(LR) for name, make in ak.NAMED.items() if make(LR).has_threshold
} | {
    "momentum_polyak": lambda: ak.momentum(LR, 0.8, form="polyak"),
    "nesterov_ema": lambda: ak.nesterov(LR, form="ema"),
    "rmsprop_momentum": lambda: ak.rmsprop(LR, beta1=0.9),
    "adam_warmup": lambda: ak.adam(ak.LinearWarmup(LR, 10)),
    "adafactor_momentum": lambda: ak.adafactor(LR, beta1=0.9),
}
DECAYS = ((None, True), (0.1, True), (0.1, False))
THRESHOLDS = jnp.array([0.5, 7.0, 1e4])
PARAMS = {"w": jnp.ones((2, 3))}


def decayed(optimizer: ak.Optimizer, decay: float | None, scaled: bool) -> ak.Optimizer:
    return ak.Optimizer(
        optimizer.schedule,
        optimizer.momentum_rule,
        optimizer.preconditioner_rule,
        decay,
        optimizer.order,
        scaled,
    )


@pytest.mark.parametrize("name", ZOO)
def test_the_threshold_is_the_requested_one(name: str):
    for decay, scaled in DECAYS:
        optimizer = decayed(ZOO[name](), decay, scaled)
        state = optimizer.init(PARAMS)
        one = ak.with_threshold(optimizer, 7.0)
        assert float(one.threshold(state)) == pytest.approx(7.0, rel=1e-5)
        # Whatever the count: there is no schedule any more.
        assert float(one.threshold(eqx.tree_at(lambda s: s.count, state, state.count + 5))) == (
            float(one.threshold(state))
        )
        assert (one.order, one.decay_scaled) == (optimizer.order, scaled)


def test_a_sweep_of_thresholds():
    optimizer = decayed(ak.adam(LR), 0.1, False)
    state = optimizer.init(PARAMS)
    found = eqx.filter_vmap(lambda t: ak.with_threshold(optimizer, t).threshold(state))(THRESHOLDS)
    np.testing.assert_allclose(found, THRESHOLDS, rtol=1e-5)
    with pytest.raises(ValueError, match="filter_vmap"):
        ak.with_threshold(optimizer, THRESHOLDS)


@pytest.mark.parametrize("threshold", [0.0, -1.0, float("nan")])
def test_no_learning_rate_has_it(threshold: float):
    """Refused where it can be seen; a traced one gives a rate that is NaN."""
    optimizer = ak.adam(LR)
    state = optimizer.init(PARAMS)
    with pytest.raises(ValueError, match=f"the threshold {threshold:.3g} .* above 0") as caught:
        ak.with_threshold(optimizer, threshold)
    assert "\n" not in str(caught.value)
    rates = eqx.filter_vmap(lambda t: ak.with_threshold(optimizer, t).learning_rate(state))(
        jnp.array([threshold, 38.0])
    )
    assert np.isnan(float(rates[0]))
    assert float(rates[1]) == pytest.approx(1.0)


def test_a_decay_that_diverges_by_itself_has_none():
    # An unscaled decay of two flips the parameters at every step, whatever the learning rate.
    with pytest.raises(ValueError, match=r"with a weight decay of 2: .* a decay that does not"):
        ak.with_threshold(decayed(ak.gradient_descent(LR), 2.0, False), 1.0)
    scaled = ak.with_threshold(decayed(ak.gradient_descent(LR), 2.0, True), 1.0)
    assert float(scaled.threshold(scaled.init(PARAMS))) == pytest.approx(1.0)


@pytest.mark.parametrize("make", [ak.sign_descent, ak.lion])
def test_a_sign_has_no_threshold_to_be_set(make: Any):
    with pytest.raises(ValueError, match="piecewise constant in the gradient") as caught:
        ak.with_threshold(make(LR), 7.0)
    assert "\n" not in str(caught.value)


# NAdam's rule varies in time, and its recurrence is that of its limit.
@pytest.mark.parametrize("name", ZOO)
def test_a_recursion_reads_multipliers(name: str, x64: None):
    """At a share of the threshold the recurrence's smallest multiplier gives the share again."""
    optimizer = decayed(ZOO[name](), 0.1, True)
    state = optimizer.init(PARAMS)
    recursion = optimizer.recursion(state)
    assert recursion.rule is optimizer.momentum_rule
    assert float(recursion.lr) == pytest.approx(float(optimizer.learning_rate(state)))
    assert float(recursion.weight_decay) == pytest.approx(0.1)
    threshold = optimizer.threshold(state)
    for share in (0.7, 1.0, 1.02):
        matrix = recursion.rule.recurrence(share * threshold, recursion.lr, recursion.weight_decay)
        values = np.linalg.eigvals(matrix)
        value = complex(values[np.argmin(values.real)])
        assert float(equivalent_ratio(value, recursion)) == pytest.approx(share, rel=1e-6)


def test_a_recursion_of_an_unscaled_decay_has_it_in_units_of_the_rate():
    optimizer = decayed(ak.adam(LR), 0.06, False)
    recursion = optimizer.recursion(optimizer.init(PARAMS))
    assert float(recursion.weight_decay) == pytest.approx(0.2)
    assert float(equivalent_ratio(-1.0, recursion)) == pytest.approx(1.0)


def test_a_shift_is_curvature_that_every_mode_has():
    """Decay inside a buffer: a mode of curvature s is that of s + shift, and -1 is the edge."""
    shift = jnp.asarray(0.5)
    recursion = ak.Recursion(ak.Polyak(0.5), jnp.asarray(0.1), jnp.asarray(0.0), shift)
    threshold = 2 * 1.5 / 0.1 - 0.5
    assert float(equivalent_ratio(-1.0, recursion)) == pytest.approx(1.0)
    matrix = recursion.rule.recurrence(
        0.9 * threshold + shift, recursion.lr, recursion.weight_decay
    )
    values = np.linalg.eigvals(matrix)
    value = complex(values[np.argmin(values.real)])
    assert float(equivalent_ratio(value, recursion)) == pytest.approx(0.9, rel=1e-4)
    assert float(
        spectral_radius(recursion.rule, threshold + 0.5, recursion.lr, recursion.weight_decay)
    ) == pytest.approx(1.0, abs=1e-3)


def test_a_rule_that_is_none():
    with pytest.raises(ValueError, match=r"the rule is a float, not a momentum rule"):
        equivalent_ratio(-1.0, 0.9)


def test_the_rate_of_others_is_theirs():
    with pytest.raises(TypeError, match="this is of type OptaxOptimizer"):
        ak.with_threshold(ak.from_optax(optax.adam(0.1)), 50.0)


def test_a_threshold_that_is_small_beside_the_decays_share_is_kept():
    """The difference of 1,900.01 and 1,900 is lost in float32; that of Adam is linear."""
    optimizer = ak.with_threshold(ak.adamw(LR, weight_decay=100.0), 0.01)
    np.testing.assert_allclose(optimizer.learning_rate(optimizer.init(PARAMS)), 0.02, rtol=1e-4)


def test_a_threshold_that_is_not_linear_in_the_decay_is_refused():
    """A complex pair leaves the circle first; without a decay it is `A / lr` all the same."""
    rule = ak.LinearMomentum(1.0, [0.5, 0.8], [0.9, 0.5])
    plain = ak.with_threshold(ak.Optimizer(LR, rule), 5.0)
    np.testing.assert_allclose(plain.threshold(plain.init(PARAMS)), 5.0, rtol=1e-5)
    decayed = ak.Optimizer(LR, rule, weight_decay=2.0)
    with pytest.raises(ValueError, match="LinearMomentum with a weight decay of 2 is not A / lr"):
        ak.with_threshold(decayed, 5.0)
    traced = jax.jit(lambda x: ak.with_threshold(decayed, x).schedule(jnp.asarray(0)))(5.0)
    assert bool(jnp.isnan(traced))
