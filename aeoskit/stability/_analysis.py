"""The analysis of an update map by one product with a random vector, before any solve."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from aeoskit.linalg import tree_random_like

from ._scaling import automatic_scale, like_params, magnitudes
from ._update_map import HeldMap, Leaves, Product, derivative

# In units of epsilon: a derivative that is this near to a multiple of the identity counts as one.
_SAME = 64.0
# A finite change has to be off by this many of the errors that such derivatives allow.
_OFF = 32.0
# Second moments that are this small beside the largest of their leaf count as zero where a
# derivative is infinite, and are raised to this share of it.
_ZERO = 1e-20
_RAISED = 1e-7
# Lengths of the finite changes, in units of the leaves' own magnitudes.
_REACH = (0.1, 1.0, -1.0)


class MapAnalysis(eqx.Module):
    """The properties of a map at a point: D, dead coordinates, and piecewise constant leaves.

    `map` is the map that it was given, with second moments raised where they are zero and a
    derivative is infinite; `constant` has a boolean for each leaf that moves.
    """

    map: HeldMap
    scale: tuple[Float[Array, ...], ...]
    alive: tuple[Bool[Array, ...], ...]
    dead: Int[Array, ""]
    constant: Bool[Array, " leaves"]
    usable: Bool[Array, ""]
    products: Int[Array, ""]


def analyze_map(
    held: HeldMap, scale: tuple[Array, ...] | None, product: Product = "forward"
) -> MapAnalysis:
    """Analyzes a map by one derivative along a random vector, and a few more where needed.

    A row of the Jacobian that is not finite (`√ν` at ν = 0) makes every product not finite there,
    since `0 ∞` is NaN: one vector finds all of them.
    """
    size = magnitudes(held.point)
    random_tangent = tree_random_like(jax.random.key(0), held.point)
    tangent = tuple(
        (s * t).astype(x.dtype) for s, t, x in zip(size, random_tangent, held.point, strict=True)
    )
    after, image = derivative(held, held.point, tangent, product)
    alive = tuple(jnp.isfinite(t) for t in image)
    sound = jnp.all(jnp.stack([jnp.all(jnp.isfinite(y)) for y in after]))
    whole = jnp.all(jnp.stack([jnp.all(a) for a in alive]))
    raised, zeros = _raised(held)

    def with_raised() -> tuple[Any, ...]:
        after, image = derivative(held, raised, tangent, product)
        left = tuple(jnp.isfinite(t) for t in image)
        # Coordinates that raising made finite are dead all the same.
        return raised, after, image, _with_state(held, left, alive, zeros)

    unchanged = (held.point, after, image, alive)
    point, after, image, alive = jax.lax.cond(whole, lambda: unchanged, with_raised)
    held = held.moved(point)
    # A row of the identity has the eigenvalue 1 and leaves the others alone: hyperparameters among
    # the state, whose columns may be of any size.
    alive = tuple(
        a if is_param else a & (y != t)
        for a, y, t, is_param in zip(alive, image, tangent, held.is_param, strict=True)
    )
    is_param = [a for a, is_param in zip(alive, held.is_param, strict=True) if is_param]
    usable = sound & jnp.any(jnp.stack([jnp.any(a) for a in is_param]))
    factors, same = _multiples(tangent, image, alive)
    suspect = same & jnp.asarray(held.is_param)
    constant = jax.lax.cond(
        jnp.any(suspect),
        lambda: suspect & _jumps(held, tangent, after, factors, alive, product),
        lambda: jnp.zeros_like(suspect),
    )
    return MapAnalysis(
        map=held,
        scale=automatic_scale(held, after, alive) if scale is None else scale,
        alive=alive,
        dead=sum((jnp.sum(~a, dtype=jnp.int32) for a in is_param), jnp.zeros((), jnp.int32)),
        constant=constant,
        usable=usable,
        products=(1 + ~whole + jnp.where(jnp.any(suspect), len(_REACH), 0)).astype(jnp.int32),
    )


def _raised(held: HeldMap) -> tuple[Leaves, tuple[Array, ...]]:
    """The point with the zeros of non-negative state leaves raised, and where these were.

    A norm over a leaf (Adafactor's clipping, LAMB's trust ratio) spreads the infinite derivative
    of one coordinate over all of them; with its second moment above zero there is none, and
    nothing else sees the change, since the update of a coordinate without gradient is zero.
    """
    leaves, zeros = [], []
    for x, is_param in zip(held.point, held.is_param, strict=True):
        top = jnp.max(x)
        low = (x <= _ZERO * top) & (jnp.min(x) >= 0) & (top > 0) & (not is_param)
        leaves.append(jnp.where(low, (_RAISED * top).astype(x.dtype), x))
        zeros.append(low)
    return tuple(leaves), tuple(zeros)


def _with_state(
    held: HeldMap, left: tuple[Array, ...], first: tuple[Array, ...], zeros: tuple[Array, ...]
) -> tuple[Array, ...]:
    """The masks of live coordinates: where a parameter is dead, so is its state."""
    index_of = {name: i for i, name in enumerate(held.names)}
    params = [name for name in held.paths if name.partition("/")[0] == "params"]
    alive = list(left)
    subtrees = like_params(held)
    for position, name in enumerate(params):
        if name not in index_of:
            continue
        own = index_of[name]
        parts = [
            index_of[held.paths[t[position]]]
            for t in subtrees
            if held.paths[t[position]] in index_of
        ]
        for i in parts:
            alive[own] = alive[own] & (first[own] | ~zeros[i])
        for i in parts:
            alive[i] = alive[i] & alive[own]
    return tuple(alive)


def _norm(x: Array, alive: Array) -> Array:
    return jnp.sqrt(jnp.sum(jnp.square(jnp.where(alive, x, 0).astype(float))))


def _eps(x: Array) -> float:
    return float(jnp.finfo(x.dtype).eps)


def _multiples(
    tangent: Leaves, image: Leaves, alive: tuple[Array, ...], factors: Array | None = None
) -> tuple[Array, Array]:
    """For each leaf, c of the nearest `c × tangent`, and whether the image is that."""
    found, same = [], []
    for i, (t, y, a) in enumerate(zip(tangent, image, alive, strict=True)):
        t, y = jnp.where(a, t, 0).astype(float), jnp.where(a, y, 0).astype(float)
        square = jnp.sum(t * t)
        c = jnp.sum(t * y) / jnp.where(square > 0, square, 1) if factors is None else factors[i]
        off = jnp.where(jnp.isfinite(y), jnp.abs(y - c * t), jnp.inf)
        found.append(c)
        same.append(_norm(off, a) <= _SAME * _eps(image[i]) * jnp.sqrt(square))
    return jnp.stack(found), jnp.stack(same)


def _jumps(
    held: HeldMap,
    tangent: Leaves,
    after: Leaves,
    factors: Array,
    alive: tuple[Array, ...],
    product: Product,
) -> Bool[Array, " leaves"]:
    """For each leaf: its derivative is the same multiple further away, but it did not get there.

    A map with that derivative on the whole way would have moved by `h c t`, with an error of the
    derivative's own tolerance.
    """
    point = held.point

    def at(h: Array) -> Array:
        there = tuple((x + h * t).astype(x.dtype) for x, t in zip(point, tangent, strict=True))
        moved, image = derivative(held, there, tangent, product)
        _, same = _multiples(tangent, image, alive, factors)
        flags = []
        for i, (x, y, a) in enumerate(zip(after, moved, alive, strict=True)):
            t = tangent[i]
            change = y.astype(float) - x.astype(float)
            expected = factors[i] * h * t.astype(float)
            off = _norm(change - expected, a)
            reach = _norm(x, a) + _norm(y, a) + jnp.abs(h) * _norm(t, a)
            flags.append(off > _OFF * _SAME * _eps(x) * reach)
        return same & jnp.stack(flags)

    return jnp.any(jax.lax.map(at, jnp.asarray(_REACH)), axis=0)
