"""Trees over the parameters: structure, algebra, and comparison."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from ._hyperparameters import cast_to

# Leaves and containers, separately: hashable, so that a state can hold it as a static field.
Structure = tuple[tuple[jax.ShapeDtypeStruct, ...], Any]


def static_structure(params: PyTree) -> Structure:
    leaves, treedef = jax.tree.flatten(params)
    return tuple(jax.ShapeDtypeStruct(p.shape, p.dtype) for p in leaves), treedef


def tree_of(structure: Structure) -> PyTree[jax.ShapeDtypeStruct]:
    leaves, treedef = structure
    return jax.tree.unflatten(treedef, leaves)


def structure_of(tree: PyTree) -> PyTree[jax.ShapeDtypeStruct]:
    return tree_of(static_structure(tree))


def zeros_like(params: PyTree) -> PyTree:
    """Zeros of the same shapes, dtypes and placement; never weakly typed, so that scans close."""
    return jax.tree.map(lambda leaf: jnp.zeros_like(leaf, dtype=leaf.dtype), params)


def blend(a: Float[Array, ""], x: PyTree, b: Float[Array, ""], y: PyTree) -> PyTree:
    """The blend `a x + b y`, leaf by leaf, in the dtype of y (the buffer's)."""
    return jax.tree.map(lambda i, j: cast_to(a, j) * i.astype(j.dtype) + cast_to(b, j) * j, x, y)


def check_floating(params: PyTree) -> None:
    """Raise a `TypeError` for leaves that an optimizer cannot update: functions, integers, complex.

    Raises:
        TypeError: with the leaf's path.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            what = type(leaf).__name__ if dtype is None else f"an array of {dtype}"
            raise TypeError(
                f"params{jax.tree_util.keystr(path)} is {what}, but an optimizer updates only real "
                f"floating-point arrays: pass `eqx.filter(params, eqx.is_inexact_array)`."
            )
