"""Trees that must be alike: the user is told which leaf is not."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import PyTree


def check_floating(params: PyTree) -> None:
    """Refuses leaves that an optimizer cannot move: functions, integers, complex numbers.

    Raises:
        TypeError: naming the leaf's path.
    """
    for path, leaf in jax.tree_util.tree_leaves_with_path(params):
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            what = type(leaf).__name__ if dtype is None else f"an array of {dtype}"
            raise TypeError(
                f"params{jax.tree_util.keystr(path)} is {what}, but an optimizer moves real "
                f"floating-point arrays only: pass `eqx.filter(params, eqx.is_inexact_array)`."
            )


def check_like(name: str, tree: PyTree, structure: PyTree[jax.ShapeDtypeStruct]) -> None:
    """Refuses a tree whose leaves are not those of the parameters that `init` saw.

    Raises:
        ValueError: naming the first leaf's path.
    """

    def leaves(of: PyTree) -> dict[str, Any]:
        pairs = jax.tree_util.tree_leaves_with_path(of)
        return {jax.tree_util.keystr(path): leaf for path, leaf in pairs}

    mend = "pass the structure that `init(params)` was given"
    got, expected = leaves(tree), leaves(structure)
    for path in expected:
        if path not in got:
            raise ValueError(f"{name} has no leaf {name}{path}, which the state has: {mend}.")
    for path, leaf in got.items():
        if path not in expected:
            raise ValueError(f"{name}{path} is a leaf that the state does not have: {mend}.")
        if jnp.shape(leaf) != expected[path].shape:
            raise ValueError(
                f"{name}{path} has shape {jnp.shape(leaf)}, but the state has "
                f"{expected[path].shape} there: {mend}."
            )
    if jax.tree.structure(tree) != jax.tree.structure(structure):
        raise ValueError(
            f"{name} has the state's leaves in other containers "
            f"({jax.tree.structure(tree)}, not {jax.tree.structure(structure)}): {mend}."
        )
