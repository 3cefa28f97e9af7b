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

THRESHOLD = eqx.filter_jit(lambda rule, lr, decay: rule.threshold(lr, decay))


def _matrix(filters, lr: float, decay: float, curvature: float) -> np.ndarray:
    """One step of (x, buffers) in NumPy, column by column: the definition of filters in series."""
    sizes = [len(held.decays) for held in filters]

    def step(z: np.ndarray) -> np.ndarray:
        after, own, direction = [], 1, curvature * z[0]
        for (now, weights, decays, inputs), size in zip(filters, sizes, strict=True):
            v = z[own : own + size]
            out = np.float64(now) * direction + np.asarray(weights, np.float64) @ v
            after.extend(np.asarray(decays, float) * v + np.asarray(inputs, float) * direction)
            own, direction = own + size, out
        return np.append((1 - lr * decay) * z[0] - lr * direction, after)

    return np.stack([step(unit) for unit in np.eye(1 + sum(sizes))], axis=1)


def _radius(filters, lr: float, decay: float, curvature: float) -> float:
    return float(np.abs(np.linalg.eigvals(_matrix(filters, lr, decay, curvature))).max())


def _first_crossing(filters, lr: float, decay: float) -> float:
    """The least curvature of spectral radius 1: the first on a fine grid, bisected to the end."""
    grid = np.geomspace(1e-6, 1e5, 10_000) / lr
    zero, one = (_matrix(filters, lr, decay, s) for s in (0.0, 1.0))
    radii = np.abs(np.linalg.eigvals(zero + grid[:, None, None] * (one - zero))).max(axis=1)
    first = int(np.argmax(radii > 1 + 1e-12))
    low, high = grid[first - 1], grid[first]
    for _ in range(60):
        middle = (low + high) / 2
        if _radius(filters, lr, decay, middle) > 1:
            high = middle
        else:
            low = middle
    return (low + high) / 2


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
def test_the_spectral_radius_passes_1_at_the_closed_form(
    name: str, beta: float, lr: float, step_decay: float
):
    with jax.enable_x64(True):
        rule, decay = RULES[name](beta), step_decay / lr
        filters = ((opt.EMANesterov(beta) if name == "nadam" else rule).filter,)
        closed = float(THRESHOLD(rule, jnp.asarray(lr), jnp.asarray(decay)))
        below = [_radius(filters, lr, decay, closed * share) for share in (0.01, 0.5, 1 - 1e-9)]
        assert max(below) < 1
        assert _radius(filters, lr, decay, closed * (1 + 1e-9)) > 1


@pytest.mark.parametrize("name", RULES)
def test_in_single_precision(name: str):
    found = THRESHOLD(RULES[name](0.9), jnp.asarray(1e-3), jnp.asarray(0.1))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, AT_POINT_NINE[name] * (1e3 - 0.05), rtol=1e-5)


def _two_buffers(number: int) -> opt.LinearMomentum | opt.Cascade:
    """In series, or side by side; every fourth has one decay rate twice."""
    rng = np.random.default_rng(number)
    rates = rng.uniform(0, 0.99, 2) if number % 4 else np.repeat(rng.uniform(0.3, 0.97), 2)
    if number % 2 and rates[0] != rates[1]:
        inputs = (1 - rates) * rng.uniform(0.2, 2, 2)
        weights = rng.uniform(-0.4, 1, 2)
        now = max(0.01, 0.05 - weights @ (inputs / (1 - rates))) * rng.uniform(1, 2)
        return opt.LinearMomentum(now, weights.tolist(), rates.tolist(), inputs.tolist())
    kinds = (opt.EMA, opt.Polyak, opt.Nesterov, opt.EMANesterov)
    return opt.Cascade(*(kinds[rng.integers(4)](rate) for rate in rates))


@pytest.mark.parametrize("number", range(20))
def test_two_buffers_leave_the_circle_first_where_the_companion_matrix_does(number, x64: None):
    rule, lr = _two_buffers(number), 0.1
    filters = rule.filters if isinstance(rule, opt.Cascade) else (rule.filter,)
    for decay in (0.0, 0.7):
        found = float(THRESHOLD(rule, jnp.asarray(lr), jnp.asarray(decay)))
        np.testing.assert_allclose(found, _first_crossing(filters, lr, decay), rtol=1e-10)


def test_a_pair_leaves_the_circle_before_minus_one(x64: None):
    """Two averages: at `lr λ = 19/81`, far below the 722 at which -1 is a multiplier."""
    with pytest.raises(ValueError, match="got no rule"):
        opt.Cascade()
    rule, zero, one = opt.Cascade(opt.EMA(0.9), opt.EMA(0.9)), jnp.asarray(0.0), jnp.asarray(1.0)
    np.testing.assert_allclose(rule.threshold(one, zero), 19 / 81, rtol=1e-12)
    found = np.linalg.eigvals(stability.companion_matrix(rule, 19 / 81, 1.0))
    np.testing.assert_allclose(np.sort(np.abs(found))[1:], 1, rtol=1e-12)
    np.testing.assert_allclose(np.max(np.angle(found)), 0.11117, rtol=1e-4)


def test_slow_buffers_in_single_precision():
    """The pair leaves at the angle .001, where `1 - cos ω` is 5e-7."""
    rule = opt.Cascade(opt.EMA(0.999), opt.EMA(0.999))
    found = rule.threshold(jnp.asarray(1.0), jnp.asarray(0.0))
    assert found.dtype == jnp.float32
    np.testing.assert_allclose(found, _first_crossing(rule.filters, 1.0, 0.0), rtol=1e-3)


def test_a_cascade_is_its_rules_in_turn(x64: None):
    """Its update, its recurrence and its bias correction agree; what is no filter is refused."""
    rule = opt.Cascade(opt.EMA(0.8), opt.NoMomentum(), opt.EMANesterov(0.5))
    matrix = stability.companion_matrix(rule, 1.7, 0.3, 0.7)
    np.testing.assert_allclose(matrix, _matrix(rule.filters, 0.3, 0.7, 1.7), rtol=1e-14)
    state = rule.init(jnp.ones(1))
    for count in range(1, 40):
        step, state = rule.update(jnp.ones(1), state)
        np.testing.assert_allclose(rule.bias_correction(jnp.asarray(count)), step[0], rtol=1e-12)
    with pytest.raises(TypeError, match="Cascade takes linear momentum rules such as EMA"):
        opt.Cascade(opt.NAdamMomentum())  # pyright: ignore


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
    assert float(opt.EMA(0.9).threshold(jnp.asarray(1.0), jnp.asarray(2.5))) < 0


def test_vmaps_over_learning_rates_and_betas(x64: None):
    lrs, betas = jnp.array([0.1, 0.2, 0.3]), jnp.array([0.0, 0.5, 0.9])
    found = eqx.filter_vmap(
        lambda lr, beta: opt.Cascade(opt.EMA(beta), opt.NoMomentum()).threshold(lr, 0.1 + 0 * lr)
    )(lrs, betas)
    expected = (1 + betas) * (2 - 0.1 * lrs) / ((1 - betas) * lrs)
    np.testing.assert_allclose(found, expected, rtol=1e-9)


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
            below = [_radius((rule.filter,), lr, decay, share * threshold) for share in shares]
            assert max(below) < 1
            assert _radius((rule.filter,), lr, decay, 1.001 * threshold) > 1
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
        found = _radius((held,), 0.1, 0.0, curvature)
        np.testing.assert_allclose(found, 1 + (radius - 1) * curvature / 0.1, atol=1e-5)
    with pytest.raises(ValueError, match="no curvature is stable: now"):
        opt.LinearMomentum(*parts)
    # Traced coefficients are not read: there the threshold is NaN.
    traced = THRESHOLD(jax.jit(opt.LinearMomentum)(*parts), jnp.asarray(0.1), jnp.asarray(0.0))
    assert bool(jnp.isnan(traced))
    rule = jax.jit(opt.LinearMomentum)(*parts)
    behind = opt.Cascade(opt.EMA(0.9), rule)
    assert bool(jnp.isnan(behind.threshold(jnp.asarray(0.1), jnp.asarray(0.0))))


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


@pytest.mark.parametrize("name", ["threshold_from_recurrence", "verify_threshold"])
def test_what_is_gone_names_its_place(name: str):
    with pytest.raises(AttributeError, match=rf"aeoskit\.stability\.{name} is .* now"):
        getattr(stability, name)
