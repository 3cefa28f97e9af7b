"""The placement of an operator's vectors on a mesh of devices, where it says so."""

import functools
from typing import Any

import jax
import lineax as lx
from jaxtyping import PyTree

_PARTS = ("operator", "operator1", "operator2")


@functools.singledispatch
def vector_structure(operator: lx.AbstractLinearOperator) -> PyTree[jax.ShapeDtypeStruct]:
    """The `in_structure()` of an operator, each leaf with the sharding that a solver's basis gets.

    An operator over a mesh registers itself here. It says nothing of shardings in its
    `in_structure()`, since lineax compares structures, and refuses vectors that lie otherwise. An
    operator made of others follows the first of them that has an opinion.

    Args:
        operator: A square operator.

    Returns:
        The structure. Leaves without a sharding ask for nothing.

    Example:
        >>> import jax.numpy as jnp
        >>> vector_structure(lx.DiagonalLinearOperator(jnp.ones(2)))
        ShapeDtypeStruct(shape=(2,), dtype=float32)
    """
    structure = operator.in_structure()
    for name in _PARTS:
        part = getattr(operator, name, None)
        if isinstance(part, lx.AbstractLinearOperator):
            inner = vector_structure(part)
            if _shapes(inner) == _shapes(structure) and _lies(inner):
                return jax.tree.map(
                    lambda s, like: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=like.sharding),
                    structure,
                    inner,
                )
    return structure


def _shapes(structure: PyTree) -> Any:
    leaves, treedef = jax.tree.flatten(structure)
    return [leaf.shape for leaf in leaves], treedef


def _lies(structure: PyTree) -> bool:
    return any(leaf.sharding is not None for leaf in jax.tree.leaves(structure))
