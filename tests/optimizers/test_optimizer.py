"""The optimizer as a module: its metric, freezing, sweeps, dtypes."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aeoskit import optimizers as opt
from aeoskit.linalg import DiagonalPreconditioner

NAMED = {
    "gradient_descent": lambda lr=0.1: opt.gradient_descent(lr, weight_decay=0.1),
    "momentum": lambda lr=0.1: opt.momentum(lr, form="polyak"),
    "nesterov": lambda lr=0.1: opt.nesterov(lr),
    "rmsprop": lambda lr=0.1: opt.rmsprop(lr, beta1=0.5),
    "adam": lambda lr=0.1: opt.adam(lr),
    "padam": lambda lr=0.1: opt.adam(lr, power=0.125, correction="second_moment"),
    "adamw": lambda lr=0.1: opt.adamw(opt.LinearWarmup(lr, 5), weight_decay=0.1),
    "nadam": lambda lr=0.1: opt.nadam(lr),
}


def params_like(dtype: Any = None) -> dict[str, Any]:
    return {
        "w": jnp.linspace(-1.0, 2.0, 6).astype(dtype or float).reshape(2, 3),
        "b": [jnp.ones((), dtype or float), None],
    }


def gradient(params: Any, step: int = 0) -> Any:
    return jax.tree.map(lambda p: jnp.sin(3 * p + jnp.asarray(step, p.dtype)) + p, params)


def run(optimizer: opt.Optimizer, params: Any, steps: int) -> tuple[Any, opt.OptimizerState]:
    state = optimizer.init(params)
    for step in range(steps):
        updates, state = optimizer.update(gradient(params, step), state, params)
        params = opt.apply_updates(params, updates)
    return params, state


@pytest.mark.parametrize("correction", ["adam", "second_moment", "none"])
def test_adam_is_ema_momentum_in_the_metric(correction: str, x64: None):
    """`x - lr P⁻¹ m` is the step, with P from `preconditioner(state, grads)`."""
    optimizer = opt.adam(0.01, 0.9, 0.99, 1e-7, correction=correction)
    params, state = run(optimizer, params_like(), 4)
    grads = gradient(params, 9)
    metric = optimizer.preconditioner(state, grads)
    updates, after = optimizer.update(grads, state, params)
    m = jax.tree.map(lambda old, g: 0.9 * old + 0.1 * g, state.momentum, grads)
    expected = jax.tree.map(lambda step: -0.01 * step, metric.inv_mv(m))
    for got, want in zip(jax.tree.leaves(updates), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-14)
    # The P of the last step is now the one that was the coming step's.
    for got, want in zip(
        jax.tree.leaves(optimizer.preconditioner(after)), jax.tree.leaves(metric), strict=True
    ):
        np.testing.assert_array_equal(got, want)


@pytest.mark.parametrize(
    ("correction", "expected"),
    [
        # t = 2, g = 3 twice: nu = (1 - .9^2) 9, m's correction 1 - .5^2.
        ("adam", 0.75 * (np.sqrt(9 + 0.25) + 0.5)),
        ("second_moment", np.sqrt(9 + 0.25) + 0.5),
        ("none", np.sqrt(0.19 * 9 + 0.25) + 0.5),
    ],
)
def test_every_convention_of_the_metric(correction: str, expected: float, x64: None):
    optimizer = opt.adam(0.1, 0.5, 0.9, 0.5, eps_root=0.25, correction=correction)
    state, grads = optimizer.init(jnp.zeros(1)), jnp.array([3.0])
    _, state = optimizer.update(grads, state)
    metric = optimizer.preconditioner(state, grads)
    assert isinstance(metric, DiagonalPreconditioner)
    np.testing.assert_allclose(metric.diagonal, [expected], rtol=1e-14)


def test_dead_inputs_have_a_positive_metric():
    optimizer = opt.adam(1e-3)
    state = optimizer.init(jnp.zeros(2))
    grads = jnp.array([0.0, 1.0])
    updates, state = optimizer.update(grads, state)
    assert updates[0] == 0
    metric = optimizer.preconditioner(state, grads)
    assert bool((metric.inv_sqrt_mv(jnp.ones(2)) > 0).all())
    assert bool(jnp.isfinite(metric.inv_sqrt_mv(jnp.ones(2))).all())


def test_bias_corrections_keep_their_digits_in_single_precision():
    beta = jnp.asarray(0.999)
    exact = 1 - float(beta) ** np.arange(1, 50)
    got = eqx.filter_vmap(opt.EMA(0.999).bias_correction)(jnp.arange(1, 50))
    np.testing.assert_allclose(got, exact, rtol=1e-6)


def test_no_metric_of_a_last_step_before_the_first():
    optimizer = opt.adam(1e-3)
    state = optimizer.init(jnp.zeros(2))
    with pytest.raises(ValueError, match="no step was taken yet"):
        optimizer.preconditioner(state)
    jax.eval_shape(
        lambda s: optimizer.preconditioner(s).mv(s.momentum), state
    )  # traced: not looked at


def test_a_frozen_metric_stays(x64: None):
    """That the coming step is the live one is in `check_optimizer`."""
    optimizer = opt.adamw(opt.LinearWarmup(0.1, 5), weight_decay=0.1)
    params, state = run(optimizer, params_like(), 3)
    grads = gradient(params, 5)
    frozen, held = opt.freeze(optimizer, state, grads)
    assert eqx.tree_equal(held.momentum, state.momentum)
    assert int(held.count) == 3
    assert float(frozen.threshold(held)) == float(optimizer.threshold(state))
    metric = optimizer.preconditioner(state, grads)
    later = jax.tree.map(lambda g: 100 * g, grads)
    _, held = frozen.update(later, held, params)
    assert eqx.tree_equal(frozen.preconditioner(held, later), metric)
    assert eqx.tree_equal(frozen.preconditioner(held), metric)
    assert frozen.init(params).preconditioner is None


@pytest.mark.parametrize("name", ["adamw", "nadam"])
def test_vmapped_learning_rates_equal_single_runs(name: str, x64: None):
    lrs = jnp.array([0.003, 0.01, 0.03, 0.1])
    stacked = eqx.filter_vmap(NAMED[name])(lrs)

    def lane(optimizer):
        params, state = run(optimizer, params_like(), 3)
        grads = gradient(params, 5)
        metric = optimizer.preconditioner(state, grads)
        frozen, frozen_state = opt.freeze(optimizer, state, grads)
        held, _ = frozen.update(grads, frozen_state, params)
        threshold = optimizer.threshold(state)
        return params, state, metric.inv_sqrt_mv(grads), held, threshold

    arrays, rest = eqx.partition(stacked, eqx.is_array)
    together = jax.jit(jax.vmap(lambda a: lane(eqx.combine(a, rest))))(arrays)
    one = jax.jit(lane)
    for index, lr in enumerate(lrs):
        single = one(NAMED[name](float(lr)))
        for a, b in zip(jax.tree.leaves(together), jax.tree.leaves(single), strict=True):
            np.testing.assert_allclose(a[index], b, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("name", NAMED)
@pytest.mark.parametrize(
    ("enabled", "dtype"),
    [(False, jnp.bfloat16), (False, jnp.float32), (True, jnp.float32), (True, jnp.float64)],
)
def test_dtypes_stay(name: str, enabled: bool, dtype: Any, strict_promotion: None):
    with jax.enable_x64(enabled):
        params = params_like(dtype)
        optimizer = NAMED[name]()
        state = optimizer.init(params)
        grads = jax.tree.map(jnp.ones_like, params)

        def step(carry, _):
            params, state = carry
            updates, state = optimizer.update(grads, state, params)
            assert all(u.dtype == dtype for u in jax.tree.leaves(updates))
            return (opt.apply_updates(params, updates), state), None

        # A scan closes only over types that do not change, weak ones included.
        (after, state), _ = jax.lax.scan(step, (params, state), length=2)
        assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(after))
        floats = eqx.filter(state, eqx.is_inexact_array)
        assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(floats))
        metric = optimizer.preconditioner(state, grads)
        assert all(x.dtype == dtype for x in jax.tree.leaves(metric.inv_sqrt_mv(grads)))
        assert optimizer.threshold(state).dtype == jnp.result_type(float)


def test_gradients_of_another_precision_are_cast():
    optimizer = opt.adam(0.1)
    params = jnp.ones(2)
    updates, state = optimizer.update(jnp.ones(2, jnp.bfloat16), optimizer.init(params))
    assert updates.dtype == state.momentum.dtype == jnp.float32


def test_order_does_not_change_the_step_while_the_metric_is_constant(x64: None):
    metric = DiagonalPreconditioner(params_like(float) | {"w": jnp.full((2, 3), 4.0)})
    ends = [
        run(opt.Optimizer(0.1, opt.EMA(0.9), opt.Frozen(metric), 0.1, order), params_like(), 5)[0]
        for order in ("precondition_last", "precondition_first")
    ]
    assert eqx.tree_equal(*ends, rtol=1e-12)


def test_learning_rate_and_threshold_are_the_coming_step_s():
    optimizer = opt.gradient_descent(opt.LinearWarmup(1.0, 4))
    params = jnp.ones(1)
    state = optimizer.init(params)
    seen = []
    for _ in range(5):
        updates, after = optimizer.update(params, state)
        assert float(updates[0]) == -float(optimizer.learning_rate(state))
        seen.append(float(optimizer.threshold(state)))
        state = after
    assert seen == [8.0, 4.0, pytest.approx(8 / 3), 2.0, 2.0]


def test_shape_evaluation_and_one_compilation():
    traces = []

    @eqx.filter_jit
    def step(optimizer, state, params):
        traces.append(None)
        return optimizer.update(gradient(params), state, params)[1]

    params = params_like()
    for lr in (0.1, 0.2, 0.3):
        optimizer = opt.adam(lr)
        state = optimizer.init(params)
        for _ in range(2):
            state = step(optimizer, state, params)
    assert len(traces) == 1
    eqx.filter_eval_shape(opt.adam(0.1).init, params)
