"""What the bridge says of optax's less common optimizers, against their own steps."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from aeoskit.linalg import DiagonalPreconditioner
from aeoskit.optimizers import (
    EMA,
    EMANesterov,
    Nesterov,
    NoMomentum,
    Polyak,
    from_optax,
    preconditioner_of,
    threshold_of,
)
from aeoskit.optimizers._linear_momentum import (
    LinearMomentum,
    adan,
    ademamix,
    optimistic,
    simplified_ademamix,
)
from aeoskit.stability import spectral_radius, threshold_from_recurrence

LR = 0.1
C = optax.contrib
PARAMS = {"b": jnp.array([0.5, -1.0, 0.25]), "w": jnp.arange(12.0).reshape(3, 4) / 7 + 0.1}
GRADS = {"b": jnp.array([1.0, -2.0, 0.5]), "w": jnp.cos(jnp.arange(12.0)).reshape(3, 4)}


def _of(name):
    """The buffer of that name, after the step."""
    return lambda before, after, g: getattr(after, name)


def _combined(function):
    return lambda before, after, g: jax.tree.map(function, g, *before(after))


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
    "novograd": (optax.novograd(LR, eps=1e-2), 3.8, None),
    "acprop": (C.acprop(LR, eps_root=1e-3), 38, _of("mu")),
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


@pytest.mark.parametrize("name", [n for n in LAST if LAST[n][2] is not None])
def test_the_step_in_the_metric_is_its_direction(x64, name):
    """P times the seventh step is what the buffers hold, all of it optax's own numbers."""
    transform, share, direction = LAST[name]
    # Optax's own `scale_by_distance_over_gradients` promotes ranks.
    with jax.numpy_rank_promotion("allow"):
        params, grads, before, after, _, updates = walk(transform)
    np.testing.assert_allclose(threshold_of(transform, before, params) * LR, share, rtol=1e-6)
    P = preconditioner_of(transform, before, grads, params)
    has_state = bool(jax.tree.leaves(before))
    states = (part_of(before), part_of(after)) if has_state else (None, None)
    found = P.mv(_tree(lambda u: -u / LR, updates))
    assert_close(found, direction(*states, grads))
