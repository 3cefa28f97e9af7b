"""The scaling D of the coordinates in which the Jacobian of an update map is solved."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, PyTree

from ._update_map import HeldMap, Leaves

Scale = tuple[Float[Array, "..."], ...]


def _positive_or_one(x: Array) -> Array:
    return jnp.where((x > 0) & jnp.isfinite(x), x, 1)


def _rms(leaves: list[Array]) -> Array:
    """Of all entries of all leaves; 1 where that is zero."""
    total = sum(jnp.sum(jnp.square(x.astype(jnp.float32))) for x in leaves)
    return _positive_or_one(jnp.sqrt(jnp.asarray(total) / max(1, sum(x.size for x in leaves))))


def magnitudes(leaves: Leaves) -> Scale:
    """The root mean square of each leaf, 1 for a leaf of zeros, in the leaf's shape."""
    return tuple(jnp.full_like(x, _rms([x]).astype(x.dtype)) for x in leaves)


def like_params(held: HeldMap) -> list[list[int]]:
    """The subtrees of the state that have the params' structure and shapes, as leaf numbers."""
    params, state = held.at(held.point)
    treedef = jax.tree.structure(params)
    shapes = [getattr(x, "shape", ()) for x in jax.tree.leaves(params)]
    count = len(shapes)
    numbers = jax.tree.unflatten(
        jax.tree.structure(state), range(count, count + len(jax.tree.leaves(state)))
    )
    leaves = dict(enumerate(jax.tree.leaves((params, state))))

    def alike(tree: PyTree) -> bool:
        if jax.tree.structure(tree) != treedef:
            return False
        return [getattr(leaves[i], "shape", ()) for i in jax.tree.leaves(tree)] == shapes

    nodes = jax.tree.leaves(numbers, is_leaf=alike)
    return [jax.tree.leaves(node) for node in nodes if alike(node)]


def automatic_scale(held: HeldMap, after: Leaves, alive: tuple[Bool[Array, ...], ...]) -> Scale:
    """D, from the magnitudes of the state: the parameters in units of a step, m in √ν, ν in ν.

    Every subtree of the state of the params' structure without a negative entry is taken for
    second moments; ν is their sum. Other subtrees are measured in units of √ν where their entries
    follow it, and by their root mean square where they do not (a momentum of preconditioned
    gradients); so are other leaves. Any D is right: a good one saves products and digits.

    Args:
        held: the map and the point.
        after: the point after one step.
        alive: which coordinates are.

    Returns:
        A positive array for each leaf that moves.
    """
    point = held.point
    index_of = {name: i for i, name in enumerate(held.names)}
    steps = [
        jnp.where(a, y - x, 0)
        for x, y, a, is_param in zip(point, after, alive, held.is_param, strict=True)
        if is_param
    ]
    unit = _rms(steps)
    params = [name for name in held.paths if name.partition("/")[0] == "params"]
    # After the step: before the first one the state is zero.
    leaves_after = jax.tree.leaves(held.at(tuple(jnp.where(jnp.isfinite(y), y, 0) for y in after)))
    subtrees = like_params(held)
    floating = [
        tree
        for tree in subtrees
        if all(jnp.issubdtype(getattr(leaves_after[i], "dtype", int), jnp.floating) for i in tree)
    ]

    scale: list[Any] = [jnp.full_like(x, _rms([x]).astype(x.dtype)) for x in point]
    second: dict[str, Array] = {}
    is_second: list[Array] = []
    for tree in floating:
        positive = jnp.all(jnp.stack([jnp.all(leaves_after[i] >= 0) for i in tree]))
        is_second.append(positive)
        for name, i in zip(params, tree, strict=True):
            share = jnp.where(positive, leaves_after[i], 0).astype(float)
            second[name] = second.get(name, jnp.zeros_like(share)) + share
    if second:
        eps = jnp.finfo(jnp.float32).eps
        top = _positive_or_one(jnp.max(jnp.stack([jnp.max(x, initial=0) for x in second.values()])))
        second = {name: jnp.maximum(x, eps * top) for name, x in second.items()}
    for name in params:
        if name in index_of:
            scale[index_of[name]] = jnp.full_like(
                point[index_of[name]], unit.astype(point[0].dtype)
            )
    for tree, positive in zip(floating, is_second, strict=True):
        roots = [jnp.sqrt(second[name]) for name in params]
        sizes = [jnp.abs(leaves_after[i]).astype(float) for i in tree]
        flat, along = _rms(sizes), _rms(roots)
        # The larger cosine: of the entries' sizes with √ν, or with a constant.
        follows = sum(jnp.sum(x * r) for x, r in zip(sizes, roots, strict=True)) / along
        level = sum(jnp.sum(x) for x in sizes)
        for i, root in zip(tree, roots, strict=True):
            path = held.paths[i]
            if path not in index_of:
                continue
            x = point[index_of[path]]
            first = jnp.where(follows >= level, root / along, 1) * flat
            moment = jnp.maximum(leaves_after[i], jnp.finfo(jnp.float32).eps * flat)
            best = jnp.where(positive, moment, first)
            scale[index_of[path]] = best.astype(x.dtype)
    return tuple(scale)


def given_scale(held: HeldMap, scale: Any) -> Scale:
    """D from what the user gave: a prefix of (params, state) whose leaves broadcast.

    Raises:
        ValueError: it is no such prefix, or a scale is not positive.
    """
    point = held.at(held.point)
    spread: list[Any] = []

    def over(factor: Any, part: PyTree) -> None:
        spread.extend([factor] * len(jax.tree.leaves(part)))

    try:
        jax.tree.map(over, scale, point)
        named = dict(zip(held.paths, spread, strict=True))
        arrays = [
            jnp.broadcast_to(jnp.asarray(named[name], x.dtype), x.shape)
            for name, x in zip(held.names, held.point, strict=True)
        ]
    except (ValueError, TypeError) as error:
        raise ValueError(
            "scale is not a prefix of (params, state) with positive numbers or arrays for "
            f'leaves: pass one such as (1.0, 1e-3), "auto", or None for no scaling. ({error})'
        ) from error
    for name, array in zip(held.names, arrays, strict=True):
        if not isinstance(array, Tracer) and not bool(jnp.all((array > 0) & jnp.isfinite(array))):
            raise ValueError(f"scale of {name} has an entry that is not positive and finite.")
    return tuple(arrays)
