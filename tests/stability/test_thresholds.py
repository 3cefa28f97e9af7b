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


def _radius(filter_: opt.LinearFilter, lr: float, decay: float, curvature: float) -> float:
    """The spectral radius of one mode, in NumPy: (x, buffers) to the next ones."""
    now, weights, decays, inputs = (np.asarray(x, np.float64) for x in filter_)
    matrix = np.diag(np.append(1 - lr * decay - lr * now * curvature, decays))
    matrix[0, 1:], matrix[1:, 0] = -lr * weights, curvature * inputs
    return float(np.abs(np.linalg.eigvals(matrix)).max())


THRESHOLD = eqx.filter_jit(lambda rule, lr, decay: rule.threshold(lr, decay))


@pytest.mark.parametrize("buffers", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("double", [False, True])
def test_any_filter_leaves_the_circle_at_its_threshold(buffers: int, double: bool):
    """Random filters against their companion matrices; of those without a threshold none is made.

    Slow buffers are among them: there a pair leaves the circle near the angle 0.
    """
    rng, lr, flips, turns, refused = np.random.default_rng(buffers), 0.1, 0, 0, 0
    pool = np.float32([0, 0.1, 0.5, 0.9, 0.95, 0.99, 0.999, 0.9999]).astype(float)
    with jax.enable_x64(double):
        for number in range(40):
            decays = rng.choice(pool, buffers, replace=False)
            inputs = np.float32((1 - decays) * rng.uniform(0.2, 2, buffers)).astype(float)
            weights = np.float32(rng.normal(size=buffers)).astype(float)
            now, decay = float(np.float32(rng.normal())), 0.5 * (number % 2)
            response = now + float(np.sum(weights * inputs / (1 - decays)))
            parts = now, weights.tolist(), decays.tolist(), inputs.tolist()
            if response <= 1e-4:
                refused += 1
                with pytest.raises(ValueError, match="no curvature is stable"):
                    opt.LinearMomentum(*parts)
                continue
            rule = opt.LinearMomentum(*parts)
            threshold = float(THRESHOLD(rule, jnp.asarray(lr), jnp.asarray(decay)))
            shares = [*np.logspace(-3, -0.3, 12), 0.9, 0.99, 0.999]
            below = [_radius(rule.filter, lr, decay, share * threshold) for share in shares]
            assert max(below) < 1
            assert _radius(rule.filter, lr, decay, 1.001 * threshold) > 1
            gain = now - np.sum(weights * inputs / (1 + decays))
            flip = np.isclose(threshold * lr * gain, 2 - lr * decay, rtol=1e-3)
            flips, turns = flips + flip, turns + (not flip)
    assert flips
    assert refused
    assert turns or not buffers


@pytest.mark.parametrize(
    ("parts", "radius"),
    [
        ((1.0, [-1.0], [0.0]), 1.0),  # the difference of two directions
        ((1.0, [-0.1], [0.9]), 1.0),  # a direction without the average before it
        ((0.3, [-0.05, -0.25], [0.5, 0.0]), 1.000500),  # ascent, in the end
    ],
)
def test_no_filter_with_a_root_at_one(parts: tuple, radius: float):
    """1 is a root at every curvature where a constant direction has no response."""
    held = opt.LinearFilter(*parts, inputs=tuple(np.ones(len(parts[1]))))  # pyright: ignore
    for curvature in (0.1, 0.01):
        found = _radius(held, 0.1, 0.0, curvature)
        np.testing.assert_allclose(found, 1 + (radius - 1) * curvature / 0.1, atol=1e-5)
    with pytest.raises(ValueError, match="no curvature is stable: now"):
        opt.LinearMomentum(*parts)
    # Traced coefficients are not read: there the threshold, and the one found, are NaN.
    traced = THRESHOLD(jax.jit(opt.LinearMomentum)(*parts), jnp.asarray(0.1), jnp.asarray(0.0))
    assert bool(jnp.isnan(traced))
    rule = jax.jit(opt.LinearMomentum)(*parts)
    assert bool(jnp.isnan(stability.threshold_from_recurrence(rule, 0.1)))


def test_a_filter_of_ones_own_is_checked():
    class Difference(opt.AbstractLinearMomentum):
        @property
        def filter(self):
            one = jnp.ones(())
            return opt.LinearFilter(one, (-one,), (0 * one,), (one,))

    class Sum(opt.AbstractLinearMomentum):
        @property
        def filter(self):
            one = jnp.ones(())
            return opt.LinearFilter(one, (one,), (one,), (one,))

    with pytest.raises(ValueError, match="Difference responds to a constant direction by 0 times"):
        Difference()
    with pytest.raises(ValueError, match="Sum has buffers with the decay rates 1, and one"):
        Sum()
    with pytest.raises(ValueError, match=r"a decay must be less than 1, got 1.5"):
        opt.LinearMomentum(1.0, [1.0], [1.5])


def test_a_turning_threshold_has_a_derivative(x64: None):
    """The exit of a complex pair is found by bisection, and differentiated at the root."""

    def threshold(weight):
        rule = opt.LinearMomentum(1.0, [0.5, weight], [0.9, 0.5])
        return rule.threshold(jnp.asarray(1.0), jnp.asarray(0.0))

    at, step = jnp.asarray(0.8), 1e-5
    slope = (threshold(at + step) - threshold(at - step)) / (2 * step)
    np.testing.assert_allclose(jax.grad(threshold)(at), slope, rtol=1e-6)
