"""Vector algebra on pytrees, leaf by leaf.

A *vector* is a pytree of floating-point arrays. A *block* of m vectors is a pytree of the same
structure whose leaves are `(m, *leaf)`. Nothing is ravelled: on sharded leaves a dot product is
an all-reduce of a scalar, where a ravelled vector would have to be gathered.
"""

import dataclasses
import functools
import math
from typing import Any, TypeAlias, dataclass_transform

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from aeoskit.sharding import place_like

Vector: TypeAlias = PyTree[Array]
Block: TypeAlias = PyTree[Array]
Structure: TypeAlias = PyTree[jax.ShapeDtypeStruct]

# Accelerators round float32 products to TF32 or bfloat16 by default: fatal to orthogonality.
_PRECISION = jax.lax.Precision.HIGHEST


def tree_dtype(tree: PyTree) -> Any:
    """The dtype of the scalars that belong to a vector: at least float32.

    Args:
        tree: A vector, block, or structure.

    Returns:
        A numpy dtype.

    Example:
        >>> print(tree_dtype({"w": jnp.ones(3, jnp.bfloat16)}))
        float32
    """
    dtypes = [jax.dtypes.canonicalize_dtype(leaf.dtype) for leaf in jax.tree.leaves(tree)]
    return jnp.result_type(jnp.float32, *dtypes)


def tree_size(structure: Structure) -> int:
    """The dimension of the space that a structure describes.

    Args:
        structure: Shapes and dtypes, such as an operator's `in_structure()`.

    Returns:
        A Python integer.

    Example:
        >>> tree_size({"w": jax.ShapeDtypeStruct((2, 3), jnp.float32)})
        6
    """
    return sum(math.prod(leaf.shape) for leaf in jax.tree.leaves(structure))


def _total(terms: list[Array], dtype: Any) -> Array:
    return functools.reduce(jnp.add, terms) if terms else jnp.zeros((), dtype)


def tree_dot(a: Vector, b: Vector) -> Float[Array, ""]:
    """The inner product of two vectors, accumulated in at least float32.

    Args:
        a: A vector.
        b: A vector of the same structure.

    Returns:
        A scalar.

    Example:
        >>> float(tree_dot({"w": jnp.ones(3)}, {"w": jnp.full(3, 2.0)}))
        6.0
    """
    dtype = tree_dtype((a, b))

    def dot(x: Array, y: Array) -> Array:
        axes = tuple(range(x.ndim))
        return jax.lax.dot_general(
            x.astype(dtype), y.astype(dtype), ((axes, axes), ((), ())), precision=_PRECISION
        )

    return _total([dot(x, y) for x, y in _pairs(a, b)], dtype)


def _pairs(a: PyTree, b: PyTree) -> list[tuple[Array, Array]]:
    return list(zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def tree_norm(a: Vector) -> Float[Array, ""]:
    """The Euclidean norm of a vector.

    Args:
        a: A vector.

    Returns:
        A scalar, of at least float32.

    Example:
        >>> float(tree_norm([jnp.array([3.0]), jnp.array([4.0])]))
        5.0
    """
    return jnp.sqrt(tree_dot(a, a))


def tree_scale(scalar: Float[Array, ""], a: Vector) -> Vector:
    """`scalar * a`, in the dtypes of `a`.

    Args:
        scalar: A scalar.
        a: A vector.

    Returns:
        A vector.

    Example:
        >>> tree_scale(jnp.array(2.0), {"w": jnp.array([1.0, 3.0])})["w"].tolist()
        [2.0, 6.0]
    """
    return jax.tree.map(lambda x: (scalar * x).astype(x.dtype), a)


def tree_axpy(scalar: Float[Array, ""], a: Vector, b: Vector) -> Vector:
    """`scalar * a + b`, in the dtypes of `b`.

    Args:
        scalar: A scalar.
        a: A vector.
        b: A vector of the same structure.

    Returns:
        A vector.

    Example:
        >>> tree_axpy(jnp.array(2.0), jnp.array([1.0, 3.0]), jnp.array([1.0, 1.0])).tolist()
        [3.0, 7.0]
    """
    return jax.tree.map(lambda x, y: (scalar * x + y).astype(y.dtype), a, b)


def tree_where(predicate: Bool[Array, ""], a: PyTree, b: PyTree) -> PyTree:
    """`a` where the scalar predicate holds, otherwise `b`, leaf by leaf.

    Args:
        predicate: A scalar, may be traced.
        a: A pytree of arrays.
        b: A pytree of the same structure.

    Returns:
        A pytree of that structure.

    Example:
        >>> tree_where(jnp.array(False), jnp.zeros(2), jnp.ones(2)).tolist()
        [1.0, 1.0]
    """
    return jax.tree.map(lambda x, y: jnp.where(predicate, x, y), a, b)


def tree_random_like(key: Array, structure: PyTree) -> Vector:
    """A vector of independent standard normal entries.

    Args:
        key: A PRNG key.
        structure: A vector or a structure.

    Returns:
        A vector with the structure's shapes, dtypes and shardings.

    Example:
        >>> tree_random_like(jax.random.key(0), {"w": jnp.zeros((2, 3))})["w"].shape
        (2, 3)
    """
    leaves, treedef = jax.tree.flatten(structure)
    keys = jax.random.split(key, max(len(leaves), 1))
    draws = [
        jax.random.normal(k, leaf.shape, jax.dtypes.canonicalize_dtype(leaf.dtype))
        for k, leaf in zip(keys, leaves, strict=False)
    ]
    return place_like(jax.tree.unflatten(treedef, draws), structure)


def from_flat(flat: Float[Array, "*rows n"], structure: PyTree) -> PyTree:
    """The vector (or block) whose entries are in one array, in the order of the leaves."""
    leaves, treedef = jax.tree.flatten(structure)
    ends = np.cumsum([0, *(math.prod(leaf.shape) for leaf in leaves)])
    parts = [
        flat[..., begin:end].reshape(*flat.shape[:-1], *leaf.shape).astype(leaf.dtype)
        for leaf, begin, end in zip(leaves, ends[:-1], ends[1:], strict=True)
    ]
    return jax.tree.unflatten(treedef, parts)


def block_zeros(structure: PyTree, rows: int) -> Block:
    """A block of zero vectors.

    Args:
        structure: A vector or a structure.
        rows: How many.

    Returns:
        A block; on a mesh, each row has the structure's shardings.

    Example:
        >>> block_zeros({"w": jnp.ones(3)}, 2)["w"].shape
        (2, 3)
    """
    zeros = jax.tree.map(lambda s: jnp.zeros((rows, *s.shape), s.dtype), structure)
    return place_like(zeros, structure, rows=True)


def block_rows(block: Block) -> int:
    """The number of vectors in a block."""
    return jax.tree.leaves(block)[0].shape[0]


def block_row(block: Block, index: Any) -> Vector:
    """The vector in one row of a block.

    Args:
        block: m rows.
        index: Which; may be traced.

    Returns:
        A vector.

    Example:
        >>> block_row(jnp.eye(2), 1).tolist()
        [0.0, 1.0]
    """
    return jax.tree.map(
        lambda b: jax.lax.dynamic_index_in_dim(b, index, axis=0, keepdims=False), block
    )


def block_set_row(block: Block, index: Any, vector: Vector) -> Block:
    """The block with one row replaced.

    Args:
        block: m rows.
        index: Which; may be traced.
        vector: What takes its place, in the dtypes of the block.

    Returns:
        A block.

    Example:
        >>> block_set_row(jnp.eye(2), 1, jnp.array([5.0, 6.0])).tolist()
        [[1.0, 0.0], [5.0, 6.0]]
    """
    return jax.tree.map(
        lambda b, v: jax.lax.dynamic_update_index_in_dim(b, v.astype(b.dtype), index, axis=0),
        block,
        vector,
    )


def block_dots(block: Block, v: Vector) -> Float[Array, " m"]:
    """The inner products of each row of a block with one vector.

    Args:
        block: m rows.
        v: A vector of the same structure.

    Returns:
        `(m,)`, of at least float32.

    Example:
        >>> block_dots(jnp.eye(2), jnp.array([3.0, 4.0])).tolist()
        [3.0, 4.0]
    """
    dtype = tree_dtype((block, v))

    def dots(b: Array, x: Array) -> Array:
        return jnp.tensordot(b.astype(dtype), x.astype(dtype), axes=x.ndim, precision=_PRECISION)

    rows = jax.tree.leaves(block)[0].shape[0]
    return _total([dots(b, x) for b, x in _pairs(block, v)], dtype) + jnp.zeros(rows, dtype)


def block_combine(block: Block, coefficients: Array) -> PyTree:
    """Linear combinations of the rows of a block.

    Args:
        block: m rows.
        coefficients: `(m,)` for one vector, `(m, p)` for a block of p.

    Returns:
        A vector, or a block of p rows, in the block's dtypes.

    Example:
        >>> block_combine(jnp.eye(2), jnp.array([3.0, 4.0])).tolist()
        [3.0, 4.0]
    """

    def combine(b: Array) -> Array:
        dtype = jnp.result_type(b.dtype, coefficients.dtype)
        c = coefficients.astype(dtype).T
        return jnp.tensordot(c, b.astype(dtype), axes=1, precision=_PRECISION).astype(b.dtype)

    return jax.tree.map(combine, block)


def block_gram(a: Block, b: Block) -> Float[Array, "m p"]:
    """The inner products of the rows of two blocks.

    Args:
        a: m rows.
        b: p rows, of the same structure.

    Returns:
        `(m, p)`, of at least float32.

    Example:
        >>> block_gram(jnp.eye(2), jnp.array([[3.0, 4.0]])).tolist()
        [[3.0], [4.0]]
    """
    dtype = tree_dtype((a, b))

    def gram(x: Array, y: Array) -> Array:
        axes = tuple(range(1, x.ndim))
        return jax.lax.dot_general(
            x.astype(dtype), y.astype(dtype), ((axes, axes), ((), ())), precision=_PRECISION
        )

    return _total([gram(x, y) for x, y in _pairs(a, b)], dtype)


_PARTS = ("operator", "operator1", "operator2")


@functools.singledispatch
def vector_structure(operator: lx.AbstractLinearOperator) -> PyTree[jax.ShapeDtypeStruct]:
    """The `in_structure()` of an operator, each leaf with the sharding that a solver's basis gets.

    An operator over a mesh registers itself here. Its `in_structure()` has no shardings, since
    lineax compares structures, and would refuse vectors of other shardings. An operator made of
    others follows the first of them that has shardings.

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
            if _shapes(inner) == _shapes(structure) and _has_sharding(inner):
                return jax.tree.map(
                    lambda s, like: jax.ShapeDtypeStruct(s.shape, s.dtype, sharding=like.sharding),
                    structure,
                    inner,
                )
    return structure


def _shapes(structure: PyTree) -> Any:
    leaves, treedef = jax.tree.flatten(structure)
    return [leaf.shape for leaf in leaves], treedef


def _has_sharding(structure: PyTree) -> bool:
    return any(leaf.sharding is not None for leaf in jax.tree.leaves(structure))


@dataclass_transform(frozen_default=True)
def pytree_dataclass(cls: type) -> Any:
    """A frozen dataclass that is a pytree of its fields.

    An `eqx.Module` is one too, with checks that take ten times as long as the record itself.

    Args:
        cls: A class of annotated fields.

    Returns:
        The dataclass.

    Example:
        >>> @pytree_dataclass
        ... class Pair:
        ...     first: int
        ...     second: int
        >>> jax.tree.leaves(Pair(1, 2))
        [1, 2]
    """
    made = dataclasses.dataclass(frozen=True)(cls)
    names = tuple(field.name for field in dataclasses.fields(made))
    keys = tuple(jax.tree_util.GetAttrKey(name) for name in names)

    def with_keys(value: Any) -> tuple[Any, None]:
        return [(key, getattr(value, name)) for key, name in zip(keys, names, strict=True)], None

    def flat(value: Any) -> tuple[Any, None]:
        return [getattr(value, name) for name in names], None

    def built(_: None, children: Any) -> Any:
        # Not by the constructor: JAX puts placeholders where numbers belong, and it checks types.
        value = object.__new__(made)
        for name, child in zip(names, children, strict=True):
            object.__setattr__(value, name, child)
        return value

    jax.tree_util.register_pytree_with_keys(made, with_keys, built, flat)
    return made
