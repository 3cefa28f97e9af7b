"""Metrics of optax's clipping and normalizing: factors of the updates that come in, held fixed."""

from __future__ import annotations

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ._optax_parts import Part
from ._optax_reading import incoming_of, params_of, refused_where, spread, tree_map


def _norm(tree: PyTree) -> Array:
    squares = [jnp.sum(jnp.square(x)) for x in jax.tree.leaves(tree)]
    return jnp.sqrt(sum(squares, jnp.zeros(())))


def _global_norm(part: Part) -> PyTree:
    """What clipping divides by, held fixed: 1 where it is not active."""
    incoming = incoming_of(part)
    return spread(jnp.maximum(_norm(incoming) / part.options["max_norm"], 1), incoming)


def _block_rms(part: Part) -> PyTree:
    limit = part.options["threshold"]
    return tree_map(
        lambda u: jnp.full_like(u, jnp.maximum(1, jnp.sqrt(jnp.mean(jnp.square(u))) / limit)),
        incoming_of(part),
    )


def _unit_norm(leaf: Array, axis: int | tuple[int, ...] | None) -> Array:
    """The norm of each unit: over all axes but the last, of three the first, of vectors all."""
    if axis is None and jnp.squeeze(leaf).ndim > 1:
        axis = 0 if leaf.ndim == 3 else tuple(range(leaf.ndim - 1))
    return jnp.sqrt(jnp.sum(jnp.square(leaf), axis=axis, keepdims=True))


def _adaptive(part: Part) -> PyTree:
    """The norm of each unit of a layer, in units of its parameters'."""
    o, incoming = part.options, incoming_of(part)

    def over(update: Array, param: Array) -> Array:
        norm = _unit_norm(update, o["axis"])
        most = o["clipping"] * jnp.maximum(_unit_norm(param, o["axis"]), o["eps"])
        # Optax's guard against a norm of zero, which its eps sees to already.
        over = jnp.maximum(norm, 1e-6) / most
        return jnp.broadcast_to(jnp.where(norm < most, 1, over), update.shape)

    return tree_map(over, incoming, params_of(part))


def _entries(part: Part) -> PyTree:
    """The identity, as long as nothing is clipped: a clipped entry steps by its sign."""
    incoming, most = incoming_of(part), part.options["max_delta"]
    over = [jnp.sum(jnp.abs(u) > most) for u in jax.tree.leaves(incoming)]
    return refused_where(
        sum(over, jnp.zeros((), int)) > 0,
        tree_map(jnp.ones_like, incoming),
        "optax's clip, which works entry by entry, is active on these updates: clipped entries "
        "step by their signs, so that there is no metric; clip_by_global_norm has one",
    )


def _update_norm(part: Part) -> PyTree:
    incoming = incoming_of(part)
    return spread(_norm(incoming) + part.options["eps"], incoming)


def _own_norm(part: Part) -> PyTree:
    incoming = incoming_of(part)
    return spread(_norm(incoming), incoming)


def _param_rms(part: Part) -> PyTree:
    least = part.options["min_scale"]
    return tree_map(
        lambda p: jnp.full_like(
            p, 1 / jnp.sqrt(jnp.maximum(jnp.mean(jnp.square(p)), jnp.square(least)))
        ),
        params_of(part),
    )


def _param_norm(part: Part) -> PyTree:
    least = part.options["min_scale"]
    return tree_map(
        lambda p: jnp.full_like(p, 1 / jnp.maximum(jnp.sqrt(jnp.sum(jnp.square(p))), least)),
        params_of(part),
    )


def _trust_ratio(part: Part) -> PyTree:
    o = part.options

    def inverse(update: Array, param: Array) -> Array:
        def length(x: Array) -> Array:
            return jnp.maximum(jnp.sqrt(jnp.sum(jnp.square(x))), o["min_norm"])

        ratio = o["trust_coefficient"] * length(param) / (length(update) + o["eps"])
        still = (length(param) == 0) | (length(update) == 0)
        return jnp.full_like(param, 1 / jnp.where(still, 1, ratio))

    return tree_map(inverse, incoming_of(part), params_of(part))


CLIPS: dict[str, Callable[[Part], PyTree | None]] = {
    "adaptive_grad_clip": _adaptive,
    "clip": _entries,
    "clip_by_block_rms": _block_rms,
    "clip_by_global_norm": _global_norm,
    "normalize": _own_norm,
    "normalize_by_update_norm": _update_norm,
    "scale_by_param_block_norm": _param_norm,
    "scale_by_param_block_rms": _param_rms,
    "scale_by_trust_ratio": _trust_ratio,
}
