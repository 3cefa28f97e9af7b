"""Second moments of the gradients along each axis of a leaf: what Shampoo and SOAP average."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from einops import einsum, reduce
from jaxtyping import Array, PyTree

# Leaves and containers apart: hashable, so that a state can hold it as a static field.
Structure = tuple[tuple[jax.ShapeDtypeStruct, ...], Any]


def static_structure(params: PyTree) -> Structure:
    leaves, treedef = jax.tree.flatten(params)
    return tuple(jax.ShapeDtypeStruct(p.shape, p.dtype) for p in leaves), treedef


def tree_of(structure: Structure) -> PyTree[jax.ShapeDtypeStruct]:
    leaves, treedef = structure
    return jax.tree.unflatten(treedef, leaves)


def axes_of(leaf: Any) -> tuple[int, ...]:
    """The lengths of a leaf's axes; a scalar is a vector of one entry."""
    return leaf.shape or (1,)


def statistics_dtype(dtype: Any) -> Any:
    """That of a leaf, but float32 in place of 16 bits, in which nothing can be decomposed."""
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.dtype("float32")


def widened(leaf: Array) -> Array:
    """A gradient as the statistics take it: no scalars, no 16-bit formats."""
    return leaf.reshape(axes_of(leaf)).astype(statistics_dtype(leaf.dtype))


def second_moment(gradient: Array, axis: int, full: bool) -> Array:
    """`G Gᵀ` of the gradient flattened into a matrix with that axis as rows, or its diagonal."""
    names = [f"x{i}" for i in range(gradient.ndim)]
    source = " ".join(names)
    if not full:
        return reduce(jnp.square(gradient), f"{source} -> {names[axis]}", "sum")
    other = " ".join([*names[:axis], "y", *names[axis + 1 :]])
    with jax.default_matmul_precision("highest"):
        return einsum(gradient, gradient, f"{source}, {other} -> {names[axis]} y")


def as_length(name: str, value: Any, mend: str) -> int:
    """A whole number of at least one, which decides the shapes of a program."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, got {value!r}: {mend}.")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}: {mend}.")
    return value
