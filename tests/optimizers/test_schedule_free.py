"""Schedule-Free against optax's, its threshold at the gradient point, and what it refuses."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from aeoskit import optimizers as ak
from aeoskit.linalg import DiagonalPreconditioner

STEPS = 100
LATE = 100_000


# From zero over thirty steps: the first of them moves nothing.
RISING = optax.warmup_constant_schedule(0.0, 0.05, 30)


CASES = {
    "sgd": (
        lambda: ak.schedule_free_sgd(0.05),
        lambda: optax.contrib.schedule_free_sgd(0.05),
    ),
    "sgd_decay": (
        lambda: ak.schedule_free_sgd(0.05, 0.8, weight_decay=0.1),
        lambda: optax.contrib.schedule_free_sgd(0.05, b1=0.8, weight_decay=0.1),
    ),
    "sgd_warmup": (
        lambda: ak.schedule_free_sgd(RISING, weight_decay=0.1),
        lambda: optax.contrib.schedule_free_sgd(0.05, warmup_steps=30, weight_decay=0.1),
    ),
    "sgd_equal_weights": (
        lambda: ak.schedule_free_sgd(ak.LinearWarmup(0.05, 30), weight_lr_power=0.0),
        lambda: optax.contrib.schedule_free_sgd(ak.LinearWarmup(0.05, 30), weight_lr_power=0.0),
    ),
    "adamw": (
        lambda: ak.schedule_free_adamw(0.05),
        lambda: optax.contrib.schedule_free_adamw(0.05),
    ),
    "adamw_decay": (
        lambda: ak.schedule_free_adamw(0.05, 0.95, 0.99, 1e-3, weight_decay=0.1),
        lambda: optax.contrib.schedule_free_adamw(0.05, None, 0.95, 0.99, 1e-3, 0.1),
    ),
    "adamw_warmup": (
        lambda: ak.schedule_free_adamw(RISING, weight_decay=0.1, weight_lr_power=1.0),
        lambda: optax.contrib.schedule_free_adamw(0.05, 30, weight_decay=0.1, weight_lr_power=1.0),
    ),
}


def parameters() -> dict[str, Any]:
    # The last coordinate is dead: its gradient is always zero.
    return {"w": jax.random.normal(jax.random.key(0), (3, 4)), "b": (jnp.zeros(()),)}


def loss(params: dict[str, Any]) -> jax.Array:
    rows = jnp.tanh(params["w"] @ jnp.linspace(-1.0, 2.0, 4))
    return jnp.sum((rows - jnp.linspace(0.0, 1.0, 3)) ** 2) + jnp.sum(params["w"] ** 4)


@pytest.mark.parametrize("name", CASES)
def test_equals_optax(name: str, x64: None):
    """Step for step, at y and at x, on the gradients of optax's trajectory."""
    make_ours, make_theirs = CASES[name]
    ours, theirs = make_ours(), make_theirs()

    @jax.jit
    def run(optimizer, params):
        def step(carry, _):
            p, state, other = carry
            grads = jax.grad(loss)(p)
            updates, state = optimizer.update(grads, state, p)
            expected, other = theirs.update(grads, other, p)
            mine, p = ak.apply_updates(p, updates), optax.apply_updates(p, expected)
            averages = (
                ak.schedule_free_eval_params(mine, state),
                optax.contrib.schedule_free_eval_params(other, p),
            )
            return (p, state, other), ((mine, averages[0]), (p, averages[1]))

        start = (params, optimizer.init(params), theirs.init(params))
        return jax.lax.scan(step, start, length=STEPS)[1]

    got, want = run(ours, parameters())
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(want), strict=True):
        assert a.dtype == jnp.float64
        # Optax divides by beta1 and multiplies again in order to have x, at each step; a warmup's
        # rate is of float32 in optax.
        rtol = 1e-6 if "warmup" in name else 1e-11
        np.testing.assert_allclose(a, b, rtol=rtol, atol=1e-2 * rtol)


def late(optimizer: ak.Optimizer, params: Any) -> ak.OptimizerState:
    """The state at the start, with the weights of many steps in its average."""
    state = optimizer.init(params)
    weight = LATE * optimizer.learning_rate(state) ** 2
    return eqx.tree_at(lambda state: state.momentum.weight_sum, state, weight)


@pytest.mark.parametrize("decay", [None, 0.7])
@pytest.mark.parametrize("name", ["sgd", "adamw"])
def test_a_mode_decays_below_the_threshold_and_grows_above(name: str, decay: Any, x64: None):
    make = {"sgd": ak.schedule_free_sgd, "adamw": ak.schedule_free_adamw}[name]
    live, params = make(0.1, weight_decay=decay), jnp.ones(2)
    curvatures = jnp.array([1.0, 0.3])
    diagonal = jnp.array([0.5, 1.0])
    metric = ak.Frozen(DiagonalPreconditioner(diagonal))
    optimizer = ak.Optimizer(
        live.schedule, live.momentum_rule, metric, live.weight_decay, live.order
    )
    top = jnp.max(curvatures / diagonal)

    def grown(factor):
        state = late(optimizer, params)
        hessian = factor * optimizer.threshold(state) / top * curvatures

        def step(carry, _):
            y, state = carry
            updates, state = optimizer.update(hessian * y, state, y)
            return (ak.apply_updates(y, updates), state), jnp.abs(y[0])

        sizes = jax.lax.scan(step, (params, state), length=600)[1]
        return sizes[-50:].max() / sizes[300:350].max()

    below, above = jax.jit(jax.vmap(grown))(jnp.array([0.98, 1.02]))
    assert float(below) < 1 < float(above)
    assert float(optimizer.threshold(late(optimizer, params))) == pytest.approx(200 - (decay or 0))


@pytest.mark.parametrize("decay", [0.0, 0.7])
def test_the_bridge_says_the_same_late_in_training(decay: float, x64: None):
    theirs = optax.contrib.schedule_free_adamw(0.1, weight_decay=decay)
    state = theirs.init(jnp.ones(2))
    ours = ak.schedule_free_adamw(0.1, weight_decay=decay)
    threshold = float(ours.threshold(ours.init(jnp.ones(2))))
    # With the c of the moment it is lower: at the first step, where c is 1, by ten.
    first = float(ak.threshold_of(theirs, state))
    assert first == pytest.approx(20 - decay)
    aged = eqx.tree_at(lambda state: state.weight_sum, state, jnp.asarray(LATE * 0.1**2))
    assert float(ak.threshold_of(theirs, aged)) == pytest.approx(threshold, rel=1e-4)


def test_without_an_average_it_is_gradient_descent():
    """With beta1 zero y is z; x is the mean of what z was."""
    plain, free, params = ak.gradient_descent(0.1), ak.schedule_free_sgd(0.1, 0.0), jnp.ones(2)
    state, iterates = free.init(params), []
    for _ in range(3):
        grads = jnp.array([1.0, 3.0]) * params
        expected, _ = plain.update(grads, plain.init(params))
        updates, state = free.update(grads, state)
        np.testing.assert_allclose(updates, expected, rtol=1e-6)
        params = ak.apply_updates(params, updates)
        iterates.append(params)
    average = ak.schedule_free_eval_params(params, state)
    np.testing.assert_allclose(average, np.mean(iterates, axis=0), rtol=1e-6)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: ak.ScheduleFree(1.0), "beta1 must be less than 1, got 1.0"),
        (lambda: ak.schedule_free_sgd(0.1, -0.1), "beta1 must be at least 0"),
        (
            lambda: ak.schedule_free_sgd(0.1, weight_lr_power=-1),
            "weight_lr_power must be at least 0",
        ),
        (lambda: ak.schedule_free_adamw(0.1, eps=0.0), "eps and eps_root are both 0"),
        (lambda: ak.schedule_free_adamw(0.1, correction="adam"), 'correction="adam" puts'),
        (
            lambda: ak.Optimizer(0.1, ak.ScheduleFree(0.9)),
            'ScheduleFree averages steps.*take order="precondition_first"',
        ),
    ],
)
def test_refuses(make: Any, message: str):
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


def test_the_average_is_of_its_own_state():
    params = {"w": jnp.ones(2)}
    with pytest.raises(TypeError, match="OptimizerState without the average of Schedule-Free"):
        ak.schedule_free_eval_params(params, ak.adam(0.1).init(params))
    theirs = optax.contrib.schedule_free_sgd(0.1).init(params)
    with pytest.raises(TypeError, match=r"optax\.contrib\.schedule_free_eval_params"):
        ak.schedule_free_eval_params(params, theirs)
    state = ak.schedule_free_sgd(0.1).init(params)
    with pytest.raises(ValueError, match=r"params\['w'\] has shape \(3,\)"):
        ak.schedule_free_eval_params({"w": jnp.ones(3)}, state)
