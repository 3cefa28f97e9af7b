"""What the bridge says of optax's less common optimizers, against their own steps."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from aeoskit.optimizers import (
    EMA,
    Cascade,
    EMANesterov,
    LinearMomentum,
    Nesterov,
    NoMomentum,
    Polyak,
    from_optax,
    preconditioner_of,
    threshold_of,
)
from aeoskit.optimizers.bridges.optax._known import adan, ademamix, optimism, simplified_ademamix
from aeoskit.stability import spectral_radius

LR = 0.1
C = optax.contrib
PARAMS = {"b": jnp.array([0.5, -1.0, 0.25]), "w": jnp.arange(12.0).reshape(3, 4) / 7 + 0.1}
GRADS = {"b": jnp.array([1.0, -2.0, 0.5]), "w": jnp.cos(jnp.arange(12.0)).reshape(3, 4)}


def _of(name):
    """The buffer of that name, after the step."""
    return lambda before, after, g: getattr(after, name)


def _grad(before, after, g):
    return g


def _tree(function, *trees):
    return jax.tree.map(function, *trees)


# The transformation, its threshold times lr, and the direction that its step has in the metric,
# out of its own buffers before and after, and the gradient.
LAST = {
    "adadelta": (optax.adadelta(LR, rho=0.5, eps=1e-3), 2, _grad),
    "adan": (
        optax.adan(LR, b1=0.9, b2=0.8, b3=0.7, eps=1e-3),
        2 / (0.1 / 1.9 + 2 * 0.04 / 1.8),
        lambda before, after, g: _tree(
            lambda m, v: m / (1 - 0.9**after.t) + 0.2 * v / (1 - 0.8**after.t), after.m, after.v
        ),
    ),
    "radam, not yet": (optax.radam(LR, threshold=9.0), 38, _of("mu")),
    "radam": (optax.radam(LR, b2=0.99, eps=1e-2), 38, _of("mu")),  # in the seventh step
    "acprop": (C.acprop(LR, eps_root=1e-3), 2, _grad),  # its first moments only center
    "ademamix": (
        C.ademamix(LR, b3=lambda t: 0.99 + 0 * t, alpha=2.0),
        2 / (0.1 / 1.9 + 2 * 0.01 / 1.99),
        lambda before, after, g: _tree(
            lambda m, n: m / (1 - 0.9**after.count) + 2 * n, after.m1, after.m2
        ),
    ),
    "simplified ademamix": (
        C.simplified_ademamix(LR, b1=0.9, alpha=0.5),
        2 / (0.5 + 1 / 1.9),
        lambda before, after, g: _tree(lambda m, x: m + 0.5 * x, after.m, g),
    ),
    "dog": (C.dog(LR, ("distance", 0.1)), 2, _grad),
    "dog, given a rate": (C.dog(LR, ("learning_rate", 0.1)), 2, _grad),
    "dowg": (C.dowg(LR, 0.1), 2, _grad),
    "layers' dog": (
        optax.chain(optax.scale_by_distance_over_gradients(0.1, global_scale=LR), optax.scale(-1)),
        2,
        _grad,
    ),
    "normalized": (optax.normalize_by_update_norm(-LR), 2, _grad),
    "normalized by sam's": (optax.chain(C.normalize(), optax.sgd(LR)), 2, _grad),
    "adaptive clipping": (optax.chain(optax.adaptive_grad_clip(0.5), optax.sgd(LR)), 2, _grad),
    "block norm": (optax.chain(optax.scale_by_param_block_norm(), optax.sgd(LR)), 2, _grad),
    "entries": (optax.chain(optax.clip(9.0), optax.sgd(LR)), 2, _grad),
}
# Here the buffer holds steps: each step less `beta` times the one before is `gain` of P⁻¹g.
FIRST = {
    "novograd": (optax.novograd(LR, eps=1e-2, eps_root=0.1), 3.8, 0.9, 1.0),
    "sm3": (optax.sm3(LR), 38, 0.9, 0.1),
    "adopt": (C.adopt(LR, b2=0.5, clip_value_fn=lambda t: 9.0 * t), 38, 0.9, 0.1),
}


def walk(transform, steps=7) -> Any:
    """Some steps along different gradients: params, gradients, both states, both last updates."""
    params, state, before, updates = PARAMS, transform.init(PARAMS), None, None
    for i in range(steps):
        grads = _tree(lambda g, x, i=i: g * (1 + 0.3 * i) + 0.2 * x, GRADS, params)
        where, before, last = params, state, updates
        updates, state = transform.update(grads, before, params)
        params = optax.apply_updates(params, updates)
    return where, grads, before, state, last, updates


def assert_close(found, expected, rtol=1e-5):
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-9)


def part_of(state) -> Any:
    """The state of the part of a chain that has one."""
    while type(state) is tuple:
        state = next(s for s in state if jax.tree.leaves(s) or len(state) == 1)
    return state


@pytest.mark.parametrize("name", LAST)
def test_the_step_in_the_metric_is_its_direction(x64, name):
    """P times the seventh step is what the buffers hold, all of it optax's own numbers."""
    transform, share, direction = LAST[name]
    # Optax's own `scale_by_distance_over_gradients` promotes ranks.
    with jax.numpy_rank_promotion("allow"):
        params, grads, before, after, _, updates = walk(transform)
        P = preconditioner_of(transform, before, grads, params)
    np.testing.assert_allclose(threshold_of(transform, before, params) * LR, share, rtol=1e-6)
    has_state = bool(jax.tree.leaves(before))
    states = (part_of(before), part_of(after)) if has_state else (None, None)
    found = P.mv(_tree(lambda u: -u / LR, updates))
    assert_close(found, direction(*states, grads))


@pytest.mark.parametrize("name", FIRST)
def test_what_the_step_adds_in_the_metric_is_the_gradient(x64, name):
    """Where the buffer holds steps: `u_t = beta u_{t-1} - lr gain P⁻¹ g`."""
    transform, share, beta, gain = FIRST[name]
    params, grads, before, _, last, updates = walk(transform)
    np.testing.assert_allclose(threshold_of(transform, before, params) * LR, share, rtol=1e-6)
    P = preconditioner_of(transform, before, grads, params)
    added = _tree(lambda new, old: -(new - beta * old) / (LR * gain), updates, last)
    assert_close(P.mv(added), grads)


def test_learning_rates_that_optax_estimates(x64):
    """D-Adaptation and Prodigy: the rate, P and momentum of the step are those of its buffers."""
    transform = C.dadapt_adamw(LR, estim_lr0=0.3)
    params, grads, before, after, _, updates = walk(transform)
    lr = from_optax(transform).learning_rate(before)
    P = preconditioner_of(transform, before, grads, params)
    np.testing.assert_allclose(threshold_of(transform, before), 38 / lr)
    assert_close(P.mv(updates), _tree(jnp.negative, after.exp_avg))
    gained = _tree(lambda new, old: (new - 0.9 * old) / (0.1 * lr), after.exp_avg, before.exp_avg)
    assert_close(gained, grads)

    transform = C.prodigy(LR, estim_lr0=0.3)
    params, grads, before, after, _, updates = walk(transform)
    lr = from_optax(transform).learning_rate(before)
    P = preconditioner_of(transform, before, grads, params)
    np.testing.assert_allclose(threshold_of(transform, before), 38 / lr)
    # Its buffer holds gradients times the estimate.
    direction = _tree(lambda m: -m * lr / before.estim_lr, after.exp_avg)
    assert_close(P.mv(updates), direction)
    gained = _tree(
        lambda new, old: (new - 0.9 * old) / (0.1 * before.estim_lr), after.exp_avg, before.exp_avg
    )
    assert_close(gained, grads)


def test_madgrad_is_a_heavy_ball_in_its_metric(x64):
    """With P held, dual averaging from the start is an average of steps: that of its own sums."""
    transform = C.madgrad(LR, eps=1e-3)
    params, grads, before, after, _, updates = walk(transform)
    lr = from_optax(transform).learning_rate(before, params)
    P = preconditioner_of(transform, before, grads, params)
    state = part_of(after)
    # The step goes a tenth of the way from here to `start - sums / P`.
    way = _tree(lambda x0, x, u: 10 * u - (x0 - x), state.x0, params, updates)
    assert_close(P.mv(way), _tree(jnp.negative, state.s))
    gained = _tree(lambda new, old: (new - old) / lr, state.s, part_of(before).s)
    assert_close(gained, grads)
    np.testing.assert_allclose(threshold_of(transform, before, params), 38 / lr)


RULES = {
    "adan": adan(0.98, 0.92),
    "adan, quick": adan(0.3, 0.5),
    "adan, slow": adan(0.999, 0.01),
    "ademamix": ademamix(0.9, 0.999, 5.0),
    "ademamix, no slow one": ademamix(0.9, 0.99, 0.0),
    "simplified ademamix": simplified_ademamix(0.9, 10.0),
    "optimistic": optimism(1.0, 1.0),
    "optimistic heavy ball": Cascade(Polyak(0.9), optimism(1.0, 0.5)),
    "optimistic average": Cascade(EMA(0.5), optimism(0.7, 2.0)),
    "optimistic nesterov": Cascade(Nesterov(0.9), optimism(1.0, 0.3)),
    "optimistic nadam": Cascade(EMANesterov(0.8), optimism(1.0, 1.0)),
}


@pytest.mark.parametrize("decay", [0.0, 0.4])
@pytest.mark.parametrize("name", RULES)
def test_no_root_leaves_the_circle_before(x64, name, decay):
    """The closed form is where the recurrence's spectral radius passes 1, and nowhere before."""
    rule = RULES[name]
    assert isinstance(rule, LinearMomentum | Cascade)
    lr, decay = jnp.asarray(LR), jnp.asarray(decay)
    threshold = rule.threshold(lr, decay)
    shares = [0.02, 0.1, 0.3, 0.5, 0.7, 0.9, 0.99, 0.999, 1 - 1e-6]
    radii = [float(spectral_radius(rule, share * threshold, lr, decay)) for share in shares]
    assert max(radii) < 1
    assert float(spectral_radius(rule, (1 + 1e-6) * threshold, lr, decay)) > 1


@pytest.mark.parametrize(
    "rule", [NoMomentum(), Polyak(0.9), EMA(0.5), Nesterov(0.8), EMANesterov(0.9)], ids=str
)
def test_optimism_is_of_the_rules_own_steps(rule):
    """`(alpha + beta) u_t - beta u_{t-1}`, u being the steps of the rule inside."""
    alpha, beta = 0.7, 0.4
    both = Cascade(rule, optimism(alpha, beta))
    params = {"w": jnp.zeros(3)}
    inner, outer = rule.init(params), both.init(params)
    last = jax.tree.map(jnp.zeros_like, params)
    for i in range(5):
        direction = {"w": jnp.cos(jnp.arange(3.0) + i)}
        step, inner = rule.update(direction, inner)
        found, outer = both.update(direction, outer)
        assert_close(found, _tree(lambda u, v: (alpha + beta) * u - beta * v, step, last), 1e-4)
        last = step


def test_optimism_that_is_none_is_refused():
    with pytest.raises(ValueError, match=r"beta of optimistic gradients"):
        optimism(1.0, -0.5)


def test_clipping_that_is_active_has_no_metric():
    """Entry by entry it steps by signs: refused outside of jit, NaN inside."""
    transform = optax.chain(optax.clip(0.1), optax.sgd(LR))
    state = transform.init(PARAMS)
    with pytest.raises(ValueError, match="clip_by_global_norm has one"):
        preconditioner_of(transform, state, GRADS)
    traced = jax.jit(lambda g: preconditioner_of(transform, state, g).mv(g))(GRADS)
    assert all(bool(jnp.all(jnp.isnan(leaf))) for leaf in jax.tree.leaves(traced))
    adopt = C.adopt(LR)
    with pytest.raises(ValueError, match="first step of adopt does not move"):
        preconditioner_of(adopt, adopt.init(PARAMS), GRADS)


def test_no_threshold_without_a_stable_curvature():
    """Ascent by a weight is refused; a buffer that never forgets, which is traced, has NaN."""
    params = {"w": jnp.ones(3)}
    ascent = optax.contrib.ademamix(LR, alpha=-2.0)
    with pytest.raises(ValueError, match="constant direction by -1 times"):
        threshold_of(ascent, ascent.init(params), params)
    found = jax.jit(lambda state: threshold_of(ascent, state, params))(ascent.init(params))
    assert bool(jnp.isnan(found))
    forever = optax.inject_hyperparams(optax.sgd)(learning_rate=LR, momentum=0.9)
    state: Any = forever.init(params)
    threshold = jax.jit(lambda state: threshold_of(forever, state, params))
    np.testing.assert_allclose(threshold(state), 3.8 / LR, rtol=1e-6)
    state.hyperparams["momentum"] = jnp.asarray(1.0)
    assert bool(jnp.isnan(threshold(state)))
