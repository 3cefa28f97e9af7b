"""The layout of vectors in memory: 32 bits at least, and one flat array a dtype."""

import functools
import math
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Int, PyTree

from .._platform import compiles_ahead
from ..vectors._tree import tree_size, vector_structure
from ._protocol import AbstractWrappedOperator


def widen(tree: PyTree) -> PyTree:
    """The tree with leaves of at least float32.

    Args:
        tree: Of arrays, or of their structures.

    Returns:
        A tree of the same.

    Example:
        >>> widen(jnp.ones(2, jnp.bfloat16)).dtype
        dtype('float32')
    """

    def wide(x: Any) -> Any:
        dtype = jnp.result_type(x.dtype, jnp.float32)
        if eqx.is_array(x):
            return x.astype(dtype)
        return jax.ShapeDtypeStruct(x.shape, dtype, sharding=x.sharding)

    return jax.tree.map(wide, tree)


def narrow_unit(structure: PyTree) -> float:
    """The relative rounding of the leaves under 32 bits: 0 if there are none."""
    units = [float(jnp.finfo(x.dtype).eps) for x in jax.tree.leaves(structure)]
    return max((unit for unit in units if unit > jnp.finfo(jnp.float32).eps), default=0.0)


class WidenedOperator(AbstractWrappedOperator):
    """A, with vectors of at least float32: they are rounded on their way into A.

    A product costs one of A.

    Args:
        operator: A, square.
    """

    operator: lx.AbstractLinearOperator

    def mv(self, vector: PyTree[Array]) -> PyTree[Array]:
        """`A round(v)`."""
        rounded = jax.tree.map(lambda v, s: v.astype(s.dtype), vector, self.operator.in_structure())
        return widen(self.operator.mv(rounded))

    def in_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        """That of A, widened."""
        return widen(self.operator.in_structure())


@functools.singledispatch
def product_error(operator: lx.AbstractLinearOperator) -> float:
    """The relative error of an operator's products beyond rounding, in units of its norm.

    Residuals hold it, whatever the solver. An operator with products that are not exact
    (such as differences of gradients) registers their error; one that is made of another
    has that one's.

    Args:
        operator: A square operator.

    Returns:
        A share of the operator's norm; 0 for products that are exact but for rounding.

    Example:
        >>> product_error(lx.DiagonalLinearOperator(jnp.ones(2)))
        0.0
    """
    parts = (getattr(operator, name, None) for name in ("operator", "operator1", "operator2"))
    return sum((product_error(p) for p in parts if isinstance(p, lx.AbstractLinearOperator)), 0.0)


@product_error.register(WidenedOperator)
def _(operator: WidenedOperator) -> float:
    return narrow_unit(operator.operator.in_structure()) + product_error(operator.operator)


def _dtypes(structure: PyTree) -> list[Any]:
    return sorted({leaf.dtype for leaf in jax.tree.leaves(structure)}, key=str)


def packed_structure(structure: PyTree) -> PyTree[jax.ShapeDtypeStruct]:
    """One flat array a dtype."""
    leaves = jax.tree.leaves(structure)
    return tuple(
        jax.ShapeDtypeStruct((tree_size([x for x in leaves if x.dtype == dtype]),), dtype)
        for dtype in _dtypes(structure)
    )


def pack(tree: PyTree, structure: PyTree, rows: bool = False) -> PyTree[Array]:
    """A vector (or a block of them) of that structure, as one flat array a dtype."""
    pairs = list(zip(jax.tree.leaves(tree), jax.tree.leaves(structure), strict=True))

    def flat(x: Array) -> Array:
        return x.reshape(x.shape[0], -1) if rows else x.reshape(-1)

    return tuple(
        jnp.concatenate([flat(x) for x, s in pairs if s.dtype == dtype], axis=-1)
        for dtype in _dtypes(structure)
    )


@functools.partial(jax.jit, static_argnums=2)
def _part(flat: Array, begin: Int[Array, ""], shape: tuple[int, ...]) -> Array:
    cut = jax.lax.dynamic_slice_in_dim(flat, begin, math.prod(shape), axis=-1)
    return cut.reshape(*flat.shape[:-1], *shape)


def unpack(flat: PyTree, structure: PyTree) -> PyTree[Array]:
    """Undoes `pack`: a vector, or a block whose rows come first.

    Outside of programs a part is cut by one that leaves of its shape share: a program with a part
    for each leaf takes longer to compile than a solve.
    """
    leaves, treedef = jax.tree.flatten(structure)
    parts, begins = dict(zip(_dtypes(structure), flat, strict=True)), {}
    out = []
    for leaf in leaves:
        begin = begins.get(leaf.dtype, 0)
        end = begins[leaf.dtype] = begin + leaf.size
        part = parts[leaf.dtype]
        if isinstance(part, Tracer) or end >= 2**31:
            out.append(part[..., begin:end].reshape(*part.shape[:-1], *leaf.shape))
        else:
            out.append(_part(part, np.int32(begin), leaf.shape))
    return jax.tree.unflatten(treedef, out)


class PackedOperator(AbstractWrappedOperator):
    """A, on one flat array a dtype. A product costs one of A.

    Args:
        operator: A, square.
    """

    operator: lx.AbstractLinearOperator

    def mv(self, vector: PyTree[Array]) -> PyTree[Array]:
        """`A v`."""
        structure = self.operator.in_structure()
        return pack(self.operator.mv(unpack(vector, structure)), structure)

    def in_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        """One flat array a dtype."""
        return packed_structure(self.operator.in_structure())


@vector_structure.register(PackedOperator)
def _(operator: PackedOperator) -> PyTree[jax.ShapeDtypeStruct]:
    return operator.in_structure()


def _spread(x: Any) -> bool:
    sharding = None if isinstance(x, Tracer) else getattr(x, "sharding", None)
    return sharding is not None and len(sharding.device_set) > 1


def packable(structure: PyTree, arrays: PyTree) -> bool:
    """True if vectors may be packed: a flat array would gather those that are sharded.

    Under a transformation, or from shapes alone, shardings are unknown; then only a process with
    one device packs.
    """
    if any(getattr(leaf, "sharding", None) is not None for leaf in jax.tree.leaves(structure)):
        return False
    leaves = jax.tree.leaves(arrays)
    if any(_spread(x) for x in leaves):
        return False
    unknown = any(isinstance(x, Tracer | jax.ShapeDtypeStruct) for x in leaves)
    return not unknown or (jax.device_count() == 1 and not compiles_ahead())


def is_packed(block: PyTree, structure: PyTree) -> bool:
    """True if a block is one of packed vectors of that structure."""
    flat = packed_structure(structure)
    same = jax.tree.structure(block) == jax.tree.structure(flat)
    return same and all(
        x.ndim == 2 and x.shape[1:] == s.shape and x.dtype == s.dtype
        for x, s in zip(jax.tree.leaves(block), jax.tree.leaves(flat), strict=True)
    )
