"""Groups of parameters at learning rate 0, as at the start of a warmup: they do not move."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from aeoskit.linalg import Dense
from aeoskit.objective import Objective
from aeoskit.optimizers import EMA, RMS, Optimizer, as_optimizer, threshold_of
from aeoskit.probes import preconditioned_sharpness

# Three leaves whose curvatures are 1, 4 and 9, coupled a little.
MATRIX = jnp.array([[1.0, 0.3, 0.2], [0.3, 4.0, 0.5], [0.2, 0.5, 9.0]])
PARAMS = {"a": jnp.array([1.0]), "b": jnp.array([0.5]), "c": jnp.array([2.0])}


def loss(params, rows):
    w = jnp.concatenate([params["a"], params["b"], params["c"]])
    return 0.5 * jnp.sum(rows) * (w @ MATRIX @ w)


OBJECTIVE = Objective(loss, jnp.ones(1))


def warmup(rate):
    return optax.linear_schedule(0.0, rate, 10)


def edge_of(transform, state=None):
    state = transform.init(PARAMS) if state is None else state
    return preconditioned_sharpness(OBJECTIVE, PARAMS, transform, state, solver=Dense())


def grouped(make, rates):
    groups = {name: make(rate) for name, rate in rates.items()}
    return optax.partition(groups, {name: name for name in rates})


def expected_ratio(rates, root, threshold):
    """By definition: the top eigenvalue of R P⁻¹H, R the rates, over the threshold at rate 1."""
    scale = np.sqrt(np.array([rates[name] for name in "abc"]) / root)
    return np.linalg.eigvalsh(scale[:, None] * np.asarray(MATRIX) * scale)[-1] / threshold


@pytest.mark.parametrize("still", ["a", "b", "c", "ab", "bc", "ac"])
def test_the_others_values_hold_in_whatever_order(still):
    """Momentum, so that P is made of learning rates alone; all at once and each first or last."""
    rates = {"a": 0.1, "b": 0.2, "c": 0.3} | dict.fromkeys(still, 0.0)

    def make(rate):
        return optax.sgd(warmup(1.0) if rate == 0 else rate, momentum=0.9)

    edge = edge_of(grouped(make, rates))
    expected = expected_ratio(rates, np.ones(3), 3.8)
    np.testing.assert_allclose(edge.ratio, expected, rtol=1e-5)
    assert edge.solution.converged.all()
    first = next(rate for rate in rates.values() if rate)
    np.testing.assert_allclose(edge.threshold, 3.8 / first, rtol=1e-5)


def test_adam_whose_groups_start_and_stop():
    rates = {"a": 0.0, "b": 0.1, "c": 0.2}
    transform = grouped(lambda rate: optax.adam(warmup(1.0) if rate == 0 else rate), rates)
    grads, state = OBJECTIVE.gradient(PARAMS), transform.init(PARAMS)
    root = 0.1 * np.abs(np.concatenate([grads[name] for name in "abc"])) + 1e-9
    np.testing.assert_allclose(
        edge_of(transform, state).ratio, expected_ratio(rates, root, 38), rtol=1e-4
    )
    # A step later all of them move.
    _, state = transform.update(grads, state, PARAMS)
    rates["a"] = 0.1
    root = (1 - 0.9**2) * np.sqrt(np.concatenate([grads[name] ** 2 for name in "abc"])) + 1e-9
    np.testing.assert_allclose(
        edge_of(transform, state).ratio, expected_ratio(rates, root, 38), rtol=1e-3
    )


def test_weight_decay_of_groups_that_do_not_move_has_no_say():
    def make(settings):
        rate, decay = settings
        return optax.adamw(warmup(1.0) if rate == 0 else rate, weight_decay=decay)

    for order in itertools.permutations("abc"):
        settings = dict(zip(order, [(0.0, 0.5), (0.1, 1.0), (0.1, 2.0)], strict=True))
        transform = grouped(make, settings)
        found = threshold_of(transform, transform.init(PARAMS), PARAMS)
        # 38/lr minus 19 times the decay: the lowest of those that move.
        assert float(found) == pytest.approx(19 * (2 - 0.1 * 2.0) / 0.1, rel=1e-5)


STILL = {
    "one group": optax.adam(warmup(0.1)),
    "all groups": grouped(lambda rate: optax.adam(warmup(rate)), {"a": 0.1, "b": 0.2, "c": 0.3}),
    "decay": optax.adamw(warmup(0.1), weight_decay=0.1),
    "ours": Optimizer(warmup(0.1), EMA(0.9), RMS()),
    "ours, decay": Optimizer(warmup(0.1), EMA(0.9), RMS(), 0.1),
    "ours, decay that is not scaled": Optimizer(
        warmup(0.1), EMA(0.9), RMS(), 0.1, decay_scaled=False
    ),
}


@pytest.mark.parametrize("kind", STILL)
def test_where_nothing_moves_the_threshold_is_infinite_and_the_ratio_zero(kind):
    edge = edge_of(STILL[kind])
    assert edge.threshold == jnp.inf
    assert edge.ratio == 0
    assert np.isfinite(edge.values).all()
    assert edge.solution.converged.all()
    optimizer = as_optimizer(STILL[kind])
    assert optimizer.learning_rate(optimizer.init(PARAMS), PARAMS) == 0


def test_the_recursion_is_that_of_the_group_in_whose_units_p_is():
    rates = {"a": 0.0, "b": 0.1, "c": 0.2}
    optimizer = as_optimizer(
        grouped(lambda rate: optax.adam(warmup(1.0) if rate == 0 else rate), rates)
    )
    recursion = jax.jit(optimizer.recursion)(optimizer.init(PARAMS), PARAMS)
    assert float(recursion.lr) == pytest.approx(0.1)
    found = recursion.rule.threshold(jnp.asarray(0.1), jnp.asarray(0.0))
    assert float(found) == pytest.approx(380, rel=1e-3)
