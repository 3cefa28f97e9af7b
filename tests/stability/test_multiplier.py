"""Multipliers of update maps against closed forms: the frozen zoo, quadratics, orbits."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aeoskit import optimizers as opt
from aeoskit.stability import (
    MULTIPLIER_RESULTS,
    equivalent_ratio,
    flip_multiplier,
    leading_multipliers,
    period_two_orbit,
)
from aeoskit.stability._multiplier import _analyze
from aeoskit.stability._update_map import HeldMap

# Every named optimizer that has a metric: with P frozen, each is a rule over it. Schedule-Free's
# recurrence is that of a limit.
ZOO = {
    name: lambda make=make: make(0.01)
    for name, make in opt.NAMED.items()
    if make(0.01).has_metric and not name.startswith("schedule_free")
} | {
    "gradient_descent_decay": lambda: opt.gradient_descent(0.1, weight_decay=0.2),
    "momentum_polyak": lambda: opt.momentum(0.1, form="polyak", weight_decay=0.5),
    "nesterov_ema": lambda: opt.nesterov(0.1, 0.8, form="ema"),
    "rmsprop_polyak": lambda: opt.rmsprop(0.01, beta1=0.9),
    "adam_short": lambda: opt.adam(0.01, 0.64),
    "adamw_decay": lambda: opt.adamw(0.01, weight_decay=0.3),
    "nadamw_decay": lambda: opt.nadamw(0.01, weight_decay=0.3),
}
SHAPE = (3, 2)
LATE = 100_000  # NAdam's rule varies with the step number, up to here


def _frozen(name: str, key: jax.Array):
    """The optimizer with P frozen after a step, its state, and P as a matrix."""
    optimizer = ZOO[name]()
    params = jax.random.normal(key, SHAPE)

    state = optimizer.init(params)
    for i in range(2):
        grads = jax.random.normal(jax.random.fold_in(key, i), SHAPE)
        if not i:
            _, state = optimizer.update(grads, state, params)
    frozen, state = opt.freeze(optimizer, state, grads, params)
    metric = frozen.preconditioner(state, grads)
    columns = [metric.mv(unit.reshape(SHAPE)).reshape(-1) for unit in jnp.eye(6)]
    return frozen, state, np.stack(columns, axis=1)


def test_equivalent_ratio_of_every_frozen_optimizer(x64: None):
    """The whole zoo in one compiled solve: which optimizer it is, is an argument."""
    branches, cases = [], []
    for number, name in enumerate(ZOO):
        frozen, state, metric = _frozen(name, jax.random.key(number))
        leaves, treedef = jax.tree.flatten(state)
        buffers = [x for x in leaves if jnp.issubdtype(x.dtype, jnp.floating)]
        assert len(buffers) <= 1
        assert all(x.shape == SHAPE for x in buffers)

        def step(params, buffer, grads, frozen=frozen, leaves=leaves, treedef=treedef):
            floating = [jnp.issubdtype(x.dtype, jnp.floating) for x in leaves]
            full = [buffer if f else jnp.asarray(LATE) for f in floating]
            state = jax.tree.unflatten(treedef, full)
            updates, after = frozen.update(grads, state, params)
            new = [x for x, f in zip(jax.tree.leaves(after), floating, strict=True) if f]
            return params + updates, new[0] if new else buffer

        branches.append(step)
        cases.append((name, frozen, state, np.asarray(metric)))

    def update_map(params, buffer, index, hessian):
        grads = (hessian @ params.reshape(-1)).reshape(SHAPE)
        return jax.lax.switch(index, branches, params, buffer, grads)

    rng = np.random.default_rng(0)
    point = jnp.asarray(rng.normal(size=SHAPE)), jnp.asarray(rng.normal(size=SHAPE))
    for number, (name, frozen, state, metric) in enumerate(cases):
        root = rng.normal(size=(6, 6))
        hessian = root @ root.T
        top = np.linalg.eigvals(np.linalg.solve(metric, hessian)).real.max()
        for ratio in (0.6, 1.02):
            scaled = jnp.asarray(ratio * float(frozen.threshold(state)) / top * hessian)
            found = flip_multiplier(
                update_map, point, args=(jnp.asarray(number), scaled), condition="search_space"
            )
            lr = frozen.learning_rate(state)
            decay = 0.0 if frozen.weight_decay is None else frozen.weight_decay
            assert bool(found.converged), name
            assert (float(found.value.real) < -1) == (ratio > 1), name
            seen = equivalent_ratio(found.value, frozen.momentum_rule, lr, jnp.asarray(decay))
            np.testing.assert_allclose(seen, ratio, rtol=1e-3, err_msg=name)


def test_smooth_maps_whose_derivative_is_a_multiple_of_the_identity_are_not_refused():
    """Gradient descent in one dimension, of a quadratic; and a step of zero."""
    for factor in (0.7, 1.0):
        held = HeldMap(lambda p, s, f: (f * p, s), jnp.ones(1), (), (jnp.asarray(factor),))
        assert not bool(_analyze(held, None).constant.any())


def test_under_jit_what_went_wrong_is_a_result(x64: None):
    """One program: what cannot be raised there is reported in `result`, and the value is NaN."""
    curvature = jnp.array([0.5, 1.0, 2.0])

    def update_map(params, state, sign):
        grads = curvature * params
        return params - 0.9 * jnp.where(sign, jnp.sign(grads), grads), state

    solve = jax.jit(lambda p, sign: flip_multiplier(update_map, (p, ()), args=(sign,)))
    params = jnp.ones(3)
    found = solve(params, jnp.asarray(False))
    np.testing.assert_allclose(found.value, 1 - 0.9 * 2, atol=1e-12)
    assert bool(found.result == MULTIPLIER_RESULTS.successful)
    found = solve(params, jnp.asarray(True))
    assert bool(found.result == MULTIPLIER_RESULTS.not_differentiable)
    assert bool(jnp.isnan(found.value))
    assert not bool(found.converged)
    found = solve(params.at[1].set(jnp.nan), jnp.asarray(False))
    assert bool(found.result == MULTIPLIER_RESULTS.nonfinite)
    assert bool(jnp.isnan(found.value))
    assert not bool(found.converged)


def test_what_is_held(x64: None):
    """Integers, keys and what `hold` names stay where they are, whatever the map does to them."""
    state = {"m": jnp.ones(2), "nu": jnp.ones(2), "count": jnp.asarray(3), "key": jax.random.key(0)}

    def update_map(params, state):
        m = 0.5 * state["m"] + 3 * params + state["nu"]
        nu = -7 * state["nu"]
        count, key = state["count"] + 1, jax.random.split(state["key"])[0]
        return params - m, dict(m=m, nu=nu, count=count, key=key)

    def names(hold):
        return HeldMap(update_map, jnp.ones(2), state, hold=hold).names

    assert names(None) == ("params", "state/m", "state/nu")
    for hold in ("state/nu", ["*/nu"], lambda path: "nu" in path, (False, {**state, **NU})):
        assert names(hold) == ("params", "state/m")
    assert names("state") == names((False, True)) == ("params",)
    held = HeldMap(update_map, jnp.ones(2), state, hold="state")
    np.testing.assert_allclose(jax.jacfwd(held)(held.point)[0][0], -2 * jnp.eye(2))
    assert held.embed(held.point)[1]["nu"] is None
    with pytest.raises(ValueError, match="names no leaf"):
        names("state/v")
    with pytest.raises(ValueError, match="no floating-point leaf of the parameters"):
        names("params")


NU = {"m": False, "nu": True, "count": False, "key": False}


def test_leading_multipliers_in_the_users_scale(x64: None):
    factors = jnp.array([0.2, -1.2, 0.9, 0.5])
    found = leading_multipliers(
        lambda p, s, f: (f * p, s), (jnp.ones(4), ()), 2, args=(factors,), scale=(factors**2, 1.0)
    )
    np.testing.assert_allclose(found.value, [-1.2, 0.9], rtol=1e-8)
    assert found.left_found.all()
    np.testing.assert_allclose(found.condition, 1.0, rtol=1e-6)
    assert found.vector[0].shape == (2, 4)
    with pytest.raises(ValueError, match="not positive"):
        leading_multipliers(lambda p, s: (p, s), (jnp.ones(4), ()), 2, scale=(factors, 1.0))


@pytest.mark.parametrize(
    ("bad", "error", "match"),
    [
        (lambda: flip_multiplier(3, (jnp.ones(2), ())), TypeError, "pass the function"),
        (lambda: flip_multiplier(lambda p, s: p, jnp.ones(2)), ValueError, "not a pair"),
        (lambda: flip_multiplier(lambda p, s: (p[:1], s), (jnp.ones(2), ())), ValueError, "params"),
        (
            lambda: flip_multiplier(lambda p, s: (p, s), (jnp.ones(2) * 1j, ())),
            TypeError,
            "complex",
        ),
        (lambda: equivalent_ratio(-1.0, "ema"), ValueError, "a str"),
        (lambda: equivalent_ratio(-1.0, ([1.0, 2.0], [1.0, 2.0])), ValueError, "lower degree"),
    ],
)
def test_bad_questions(bad, error, match):
    with pytest.raises(error, match=match):
        bad()


RULES = [lambda: opt.EMA(0.9), lambda: opt.Nesterov(0.5), opt.NoMomentum]


@pytest.mark.parametrize("make", RULES, ids=["ema", "nesterov", "none"])
@pytest.mark.parametrize("step_decay", [0.0, 0.4])
def test_equivalent_ratio_inverts_the_recurrence(make, step_decay: float, x64: None):
    """Real and complex multipliers, by the rule and by its polynomial."""
    rule, lr = make(), 0.3
    numbers = jnp.asarray(lr), jnp.asarray(step_decay / lr)
    threshold = rule.threshold(*numbers)
    zero, one = (np.asarray(rule.recurrence(jnp.asarray(s), *numbers)) for s in (0.0, 1.0))
    a = np.poly(zero)
    b = (np.poly(one) - a)[1:]
    for ratio in (0.4, 0.9999, 1.03, 1.5):
        values = np.linalg.eigvals(zero + ratio * float(threshold) * (one - zero))
        value = complex(values[np.argmin(values.real)])
        np.testing.assert_allclose(equivalent_ratio(value, rule, *numbers), ratio, rtol=1e-6)
        np.testing.assert_allclose(equivalent_ratio(value, (a, b)), ratio, rtol=1e-6)


def test_equivalent_ratio_of_a_rule_with_two_buffers(x64: None):
    """`x -= lr (m₁ + m₂)`: three multipliers a mode, so that no trace tells the real part."""
    a = np.poly([1.0, 0.9, 0.5])
    b = np.polyadd(0.1 * np.poly([0.0, 0.5]), 0.5 * np.poly([0.0, 0.9]))
    threshold = -np.polyval(a, -1) / np.polyval(b, -1)
    values = np.roots(np.polyadd(a, 0.7 * threshold * b))
    value = complex(values[np.argmin(values.real)])
    assert value.imag != 0
    np.testing.assert_allclose(equivalent_ratio(value, (a, b)), 0.7, rtol=1e-5)
    np.testing.assert_allclose(equivalent_ratio(-1.0, (a, b)), 1.0, rtol=1e-12)


def test_period_two_orbit_of_gradient_descent_is_the_closed_form(x64: None):
    """On `S x²/2 - Q x⁴/4`: `x² = S/Q - 2/(η Q)` past the edge, a fixed point before it."""
    eta, q = 0.5, 3.0

    def update_map(x, state, s):
        return x - eta * (s * x - q * x**3), state

    for s, there in ((4.4, True), (3.6, False)):
        orbit = period_two_orbit(update_map, (jnp.asarray(0.1), ()), args=(jnp.asarray(s),))
        assert bool(orbit.converged)
        assert bool(orbit.is_orbit) == there
        square = s / q - 2 / (eta * q) if there else 0.0
        np.testing.assert_allclose(orbit.amplitude**2, square, rtol=1e-8, atol=1e-12)
    resting = period_two_orbit(update_map, (jnp.asarray(0.0), ()), args=(jnp.asarray(4.4),))
    assert not bool(resting.is_orbit)
    kick = (jnp.asarray(0.01), ())
    moved = period_two_orbit(
        update_map, (jnp.asarray(0.0), ()), args=(jnp.asarray(4.4),), displacement=kick
    )
    assert bool(moved.is_orbit)
    np.testing.assert_allclose(moved.first[0], -moved.second[0], rtol=1e-8)


# Three states in a row, each valued by the next: its update is no gradient of anything.
FEATURES = jnp.array([[1.0, 0.5], [0.2, -1.0], [-0.7, 0.3]])
NEXT = 0.6 * jnp.roll(FEATURES, 1, axis=0) + 0.4 * FEATURES
TD = FEATURES.T @ (FEATURES - 0.9 * NEXT) / 3


@jax.custom_vjp
def _residual(x):
    return x


_residual.defvjp(lambda x: (_residual(x), None), lambda _, c: (c,))


def _td_step(wrap):
    def step(params, state, rate):
        def loss(w):
            target = jax.lax.stop_gradient(1.0 + 0.9 * NEXT @ w)
            return 0.5 * jnp.mean(wrap(FEATURES @ w - target) ** 2)

        state = 0.5 * state + jax.grad(loss)(params)
        return params - rate * state, state

    return step


@pytest.mark.parametrize("which", [flip_multiplier, leading_multipliers])
@pytest.mark.part(1)
def test_steps_with_targets_that_are_stopped(which):
    point, args = (jnp.ones(2), jnp.zeros(2)), (jnp.asarray(1.5),)
    step = _td_step(lambda x: x)
    with pytest.raises(
        ValueError, match=r'at (params|state) .*stop_gradient.*product="difference"'
    ) as caught:
        which(step, point, args=args)
    assert "\n" not in str(caught.value)
    inside = jax.jit(lambda point: which(step, point, args=args))(point)
    assert bool(inside.result == MULTIPLIER_RESULTS.hidden_derivative)
    assert bool(jnp.all(jnp.isnan(inside.value)))
    found = which(step, point, args=args, product="difference")
    identity = np.eye(2)
    jacobian = np.block([[identity - 1.5 * TD, -0.75 * identity], [TD, 0.5 * identity]])
    values = np.linalg.eigvals(jacobian)
    single = which is flip_multiplier
    key = (lambda z: z.real) if single else (lambda z: -abs(z))
    value = np.atleast_1d(found.value)[0]
    right = min(values.tolist(), key=key)
    bound = np.atleast_1d(found.bound)[0]
    assert min(abs(value - right), abs(value - np.conj(right))) <= max(bound, 1e-4)
    assert bound < 0.03


def test_a_step_without_a_forward_derivative():
    point, args = (jnp.ones(2), jnp.zeros(2)), (jnp.asarray(1.5),)
    step = _td_step(_residual)
    with pytest.raises(ValueError, match=r'custom_vjp.*product="difference"'):
        flip_multiplier(step, point, args=args)
    found = flip_multiplier(step, point, args=args, product="difference")
    plain = flip_multiplier(_td_step(lambda x: x), point, args=args, product="difference")
    np.testing.assert_allclose(found.value, plain.value, atol=1e-3)
