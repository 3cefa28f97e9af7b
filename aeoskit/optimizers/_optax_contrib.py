"""Metrics of optax.contrib: adaptive methods, and those that find their learning rate."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ._hyperparameters import cast_to
from ._optax_parts import Part
from ._optax_reading import corrected, incoming_of, refused_where, spread, stepped, tree_map


def _roots(part: Part, nu: PyTree, count: Array) -> PyTree:
    """The root of a corrected average; what corrections momentum has, its rule has."""
    o = part.options
    nu = corrected(nu, o["b2"], count)
    return tree_map(lambda v: jnp.sqrt(v + o["eps_root"]) + o["eps"], nu)


def _ademamix(part: Part) -> PyTree:
    return _roots(part, part.after.nu, part.after.count)


def _simplified(part: Part) -> PyTree:
    return _roots(part, part.after.n, part.after.t)


def _acprop(part: Part) -> PyTree:
    """P of the step before: of the first step `1 + eps`, whatever the gradients are.

    Its first moments center the second ones; the step is along the gradient itself.
    """
    incoming_of(part)  # the state after a step does not hold its P any more
    first, eps = part.before.count == 0, part.options["eps"]
    nu = corrected(part.before.nu, part.options["b2"], jnp.maximum(part.before.count, 1))
    return tree_map(lambda v: jnp.sqrt(jnp.where(first, 1, v)) + eps, nu)


def _adopt(part: Part) -> PyTree:
    """P of the step before, and no first step."""
    o, incoming, count = part.options, incoming_of(part), part.before.count
    metric = tree_map(lambda v: jnp.maximum(jnp.sqrt(v), o["eps"]), part.before.nu)
    metric = refused_where(
        count == 0, metric, "the first step of adopt does not move: make it, and measure then"
    )
    if not o["use_clipping"]:
        return metric
    most = o["clip_value_fn"](count)
    over = jax.tree.map(lambda g, p: jnp.sum(jnp.abs(g / p) > most), incoming, metric)
    return refused_where(
        jax.tree.reduce(jnp.add, over, jnp.zeros((), int)) > 0,
        metric,
        "the clipping of adopt, which works entry by entry, is active on these gradients: clipped "
        "entries step by their signs, so that there is no metric; take `use_clipping=False`",
    )


def _madgrad(part: Part) -> PyTree:
    """Dual averaging is a heavy ball, P constant: `Δx' = c Δx - (1 - c) λ g / P`."""
    return tree_map(lambda total: jnp.cbrt(total) + part.options["eps"], stepped(part).grad_sum_sq)


def _dog(part: Part) -> PyTree:
    """The distance from the start over the root of the sum of squares: a scalar step size."""
    o, incoming, after = part.options, incoming_of(part), stepped(part)
    rate = after.max_dist / jnp.sqrt(after.sum_sq_norm_grads + o["eps"])
    if o["init_step_type"] == "learning_rate":
        rate = jnp.where(part.before.is_init_step, o["init_step_value"], rate)
    return spread(1 / rate, incoming)


def _dowg(part: Part) -> PyTree:
    incoming, after = incoming_of(part), stepped(part)
    root = jnp.sqrt(after.weighted_sq_norm_grads) + part.options["eps"]
    return spread(root / after.estim_sq_dist, incoming)


def _layer_dog(part: Part) -> PyTree:
    after, eps = stepped(part), part.options["eps"]

    def inverse(like: Array, distance: Array, total: Array) -> Array:
        return jnp.full_like(like, jnp.sqrt(jnp.sum(total) + eps) / distance)

    return jax.tree.map(inverse, incoming_of(part), after.max_dist, after.grad_sum_of_squares)


def _dadapt(part: Part) -> PyTree:
    return tree_map(lambda v: jnp.sqrt(v) + part.options["eps"], stepped(part).exp_avg_sq)


def _prodigy(part: Part) -> PyTree:
    """The buffers hold gradients times the estimate of before; eps is times that of after."""
    incoming_of(part)
    before, after = part.before.estim_lr, stepped(part).estim_lr
    eps = after * part.options["eps"]
    return tree_map(
        lambda v: (jnp.sqrt(v) + cast_to(eps, v)) / cast_to(before, v), part.after.exp_avg_sq
    )


def estimated_rate(part: Part) -> Array:
    """The learning rate of the coming step of D-Adaptation and Prodigy, corrections included."""
    o, state = part.options, part.before
    rate, count = o["learning_rate"], state.count + 1
    rate = rate(state.count) if callable(rate) else rate
    b1, b2 = o["betas"] if "betas" in o else (o["beta1"], o["beta2"])
    b1, b2 = jnp.asarray(b1, dtype=float), jnp.asarray(b2, dtype=float)
    return state.estim_lr * rate * jnp.sqrt(1 - b2**count) / (1 - b1**count)


def dual_rate(part: Part) -> Array:
    """MADGRAD's learning rate of the coming step."""
    rate, count = part.options["learning_rate"], part.before.count
    rate = rate(count) if callable(rate) else rate
    return (rate + part.options["eps"]) * jnp.sqrt(count + 1.0)


def first_rate(options: dict[str, Any]) -> Any:
    """`b1` of a pair of decay rates."""
    return options["betas"][0] if "betas" in options else options["beta1"]


CONTRIB: dict[str, Callable[[Part], PyTree | None]] = {
    "dadapt_adamw": _dadapt,
    "prodigy": _prodigy,
    "scale_by_acprop": _acprop,
    "scale_by_ademamix": _ademamix,
    "scale_by_adopt": _adopt,
    "scale_by_distance_over_gradients": _layer_dog,
    "scale_by_dog": _dog,
    "scale_by_dowg": _dowg,
    "scale_by_madgrad": _madgrad,
    "scale_by_simplified_ademamix": _simplified,
}
