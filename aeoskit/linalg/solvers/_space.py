"""A subspace that grows by products: all that touches vectors, in a few small programs.

The rows V of a basis are orthonormal, and what is known of the operator on their span is a pair of
small matrices X and Y (see `_relation`). One product takes a direction out of the span, multiplies
it, and adds what is new in the image as the next row. Everything else that a solver does is algebra
of small matrices. So these are nearly all that a solve compiles for vectors; from the host
they are dispatched one by one, under a transformation they are traced into the caller's program.
"""

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from .._platform import apply_if
from ..vectors._directions import combine_rows, orthogonalize, random_vector
from ..vectors._tree import (
    block_combine,
    block_gram,
    block_row,
    block_rows,
    block_set_row,
    block_zeros,
    pytree_dataclass,
    tree_dtype,
    tree_norm,
    tree_scale,
    tree_where,
    vector_structure,
)
from ._relation import namespace

# In units of (machine epsilon * norm of the product): less than this is nothing new.
NEGLIGIBLE = 8.0
# A unit vector with less than this beside the rows is taken as a combination of them.
_NEW = 1e-3


@pytree_dataclass
class Product:
    """One product, in the coordinates of the rows.

    Attributes:
        image: `(c,)`, divided by `unit`.
        norm: Of the image, divided by `unit`.
        left: The norm of what is outside of the rows that there were.
        added: Whether that became a row.
        finite: Whether the product was.
        unit: The power of two that numbers are divided by, so that no square overflows.
    """

    image: Float[Any, " c"]
    norm: Float[Any, ""]
    left: Float[Any, ""]
    added: Bool[Any, ""]
    finite: Bool[Any, ""]
    unit: Float[Any, ""]


def _is_array(x: Any) -> bool:
    return isinstance(x, jax.Array | np.ndarray | np.generic)


def _run(function: Callable[..., Any], static: Any, basis: PyTree, arrays: list[Any]) -> Any:
    treedef, rest = static
    it = iter(arrays)
    leaves = [next(it) if x is None else x for x in rest]
    return function(basis, *jax.tree.unflatten(treedef, leaves))


_program = jax.jit(_run, static_argnums=(0, 1))
_program_in_place = jax.jit(_run, static_argnums=(0, 1), donate_argnums=2)


def dispatch(function: Callable[..., Any], basis: PyTree, *args: Any, reads: bool = False) -> Any:
    """`function(basis, *args)`: a compiled program from the host, traced where arguments are.

    The basis is donated unless it is only read. `eqx.filter_jit` would do; it takes several times
    as long to call.
    """
    leaves, treedef = jax.tree.flatten(args)
    if any(isinstance(x, Tracer) for x in [*leaves, *jax.tree.leaves(basis)]):
        return function(basis, *args)
    rest = tuple(None if _is_array(x) else x for x in leaves)
    program = _program if reads else _program_in_place
    return program(function, (treedef, rest), basis, [x for x in leaves if _is_array(x)])


def _power_of_two(largest: Float[Array, ""]) -> Float[Array, ""]:
    """A power of two near the largest entry: dividing by it is exact. 1 for zero and NaN."""
    info = jnp.finfo(largest.dtype)
    usable = jnp.isfinite(largest) & (largest > 0)
    # Within the range in which the number and its inverse are both normal.
    limit = float(-info.minexp - 1)
    exponent = jnp.round(jnp.log2(jnp.where(usable, largest, 1)))
    bits = jnp.clip(exponent, -limit, limit).astype(jnp.int32) - info.minexp + 1
    kind = jnp.uint32 if info.bits == 32 else jnp.uint64
    return jax.lax.bitcast_convert_type(bits.astype(kind) << info.nmant, largest.dtype)


def _peak(vector: PyTree, dtype: Any) -> Float[Array, ""]:
    leaves = [jnp.max(jnp.abs(x), initial=0).astype(dtype) for x in jax.tree.leaves(vector)]
    return jnp.max(jnp.stack(leaves))


def _with_row(
    basis: PyTree, vector: PyTree, length: Array, size: Int[Array, ""], added: Bool[Array, ""]
) -> tuple[PyTree, Bool[Array, " c"]]:
    """The basis with a vector of that length as its next row, if it is added; which row that is."""
    row = jnp.minimum(size, block_rows(basis) - 1)
    unit = tree_scale(1 / jnp.where(added, length, 1), vector)
    basis = block_set_row(basis, row, tree_where(added, unit, block_row(basis, row)))
    return basis, (jnp.arange(block_rows(basis)) == row) & added


def _grow(
    basis: PyTree,
    operator: lx.AbstractLinearOperator,
    x: Float[Array, " c"],
    size: Int[Array, ""],
    first: Int[Array, ""],
    unit: Float[Array, ""],
    fixed: Bool[Array, ""],
) -> tuple[PyTree, Float[Array, " c+5"]]:
    dtype = tree_dtype(basis)
    # Placed explicitly: otherwise a compiler may gather the basis instead of one vector.
    q = combine_rows(basis, x, size, vector_structure(operator))
    w = operator.mv(q)
    peak = _peak(w, dtype)
    near = (peak > unit * 2.0**-30) & (peak < unit * 2.0**30)
    keep = fixed | near | ~jnp.isfinite(peak)
    unit = jnp.where((unit > 0) & keep, unit, _power_of_two(peak))
    finite = jnp.isfinite(peak / unit)
    w = jax.tree.map(lambda a, z: jnp.where(finite, a / unit, 0).astype(z.dtype), w, q)
    norm = tree_norm(w)
    w, image, left = orthogonalize(basis, w, size, first)
    added = (size < block_rows(basis)) & (left > NEGLIGIBLE * jnp.finfo(dtype).eps * norm)
    basis, row = _with_row(basis, w, left, size, added)
    image = jnp.where(row, left, image)
    numbers = jnp.stack([norm, left, added.astype(dtype), finite.astype(dtype), unit])
    return basis, jnp.concatenate([image, numbers])


def grow(
    basis: PyTree,
    operator: lx.AbstractLinearOperator,
    x: Any,
    size: Any,
    first: Any,
    unit: Any,
    fixed: Any,
) -> tuple[PyTree, Product]:
    """Multiplies a direction; what is new in its image becomes the next row. One product.

    Args:
        basis: The rows; there has to be room for one more, unless they are the whole space.
        operator: A.
        x: The direction's coordinates.
        size: How many rows there are.
        first: The first row along which more than a little is expected in the image; -1: unknown.
        unit: The unit; 0: still to be chosen.
        fixed: Whether the unit is final.
    """
    basis, flat = dispatch(_grow, basis, operator, x, size, first, unit, fixed)
    if isinstance(x, np.ndarray):
        flat = np.asarray(flat)
    norm, left, added, finite, unit = flat[-5:]
    return basis, Product(flat[:-5], norm, left, added > 0, finite > 0, unit)


def _add_random_row(
    basis: PyTree, size: Int[Array, ""], key: UInt32[Array, "2"]
) -> tuple[PyTree, UInt32[Array, "2"]]:
    fresh, key = random_vector(key, block_row(basis, 0))
    fresh, _, left = orthogonalize(basis, fresh, size, jnp.full_like(size, -1))
    return block_set_row(basis, size, tree_scale(1 / jnp.where(left > 0, left, 1), fresh)), key


def add_random_row(basis: PyTree, size: Any, key: Any) -> tuple[PyTree, Any]:
    """A random row, orthogonal to those that there are. No products."""
    basis, key_ = dispatch(_add_random_row, basis, size, key)
    return basis, np.asarray(key_) if isinstance(key, np.ndarray) else key_


class AbstractExpansion(eqx.Module):
    """A direction that a method makes of a residual, out of the span of the rows."""

    @abc.abstractmethod
    def __call__(
        self, residual: PyTree, known: PyTree
    ) -> tuple[PyTree, Int[Any, ""], Int[Any, ""]]:
        """The direction (of any length), how many products it took, and whether it failed.

        Args:
            residual: A vector.
            known: A block of orthonormal vectors (or zeros) that are known already.
        """


def _append(
    basis: PyTree,
    expansion: AbstractExpansion,
    residual: Float[Array, " c"],
    known: Float[Array, "c p"],
    size: Int[Array, ""],
) -> tuple[PyTree, Float[Array, " c+3"]]:
    right = block_combine(basis, residual)
    vector, spent, failed = expansion(right, block_combine(basis, known))
    # No square of an entry leaves the range of the format.
    peak = _peak(vector, residual.dtype)
    usable = jnp.isfinite(peak) & (peak > 0)
    unit = _power_of_two(peak)
    vector = jax.tree.map(
        lambda v, r: jnp.where(usable, v / unit, r).astype(r.dtype), vector, right
    )
    vector = tree_scale(1 / tree_norm(vector), vector)
    vector, coordinates, left = orthogonalize(basis, vector, size, jnp.full_like(size, -1))
    added = (left > _NEW) & (size < block_rows(basis))
    basis, row = _with_row(basis, vector, left, size, added)
    coordinates = jnp.where(row, left, coordinates)
    numbers = jnp.stack([added, spent, failed | ~usable]).astype(residual.dtype)
    return basis, jnp.concatenate([jnp.where(jnp.isfinite(coordinates), coordinates, 0), numbers])


def append(
    basis: PyTree, expansion: AbstractExpansion, residual: Any, known: Any, size: Any
) -> tuple[PyTree, Any, Any, Any, Any]:
    """Appends what an expansion makes of a residual, as the next row where it is not in the span.

    Returns:
        The basis; the coordinates of the unit direction, zero if there is none; whether a row was
        added; how many products that took; whether it failed.
    """
    basis, flat = dispatch(_append, basis, expansion, residual, known, size)
    if isinstance(residual, np.ndarray):
        flat = np.asarray(flat)
    spent = namespace(flat).asarray(flat[-2]).astype(np.int32)
    return basis, flat[:-3], flat[-3] > 0, spent, flat[-1] > 0


def _recombine(basis: PyTree, columns: Float[Array, "c p"]) -> PyTree:
    return jax.tree.map(
        lambda b, r: jax.lax.dynamic_update_slice_in_dim(b, r, 0, axis=0),
        basis,
        block_combine(basis, columns),
    )


def recombine(basis: PyTree, columns: Any) -> PyTree:
    """The basis with its first rows replaced by combinations of all."""
    return dispatch(_recombine, basis, columns)


def _combine_blocks(basis: PyTree, wanted: Array, columns: Array) -> tuple[PyTree, PyTree]:
    if not jnp.iscomplexobj(wanted):
        return block_combine(basis, wanted), block_combine(basis, columns)
    parts = [block_combine(basis, x) for x in (wanted.real, wanted.imag)]
    return jax.tree.map(jax.lax.complex, *parts), block_combine(basis, columns)


def combine_blocks(basis: PyTree, wanted: Any, columns: Any) -> tuple[PyTree, PyTree]:
    """Two blocks of combinations of the rows, whose coordinates are in columns."""
    return dispatch(_combine_blocks, basis, wanted, columns, reads=True)


def _padded_basis(
    block: PyTree,
    structure: PyTree,
    rows: int,
    refresh: Bool[Array, ""],
    fresh: Bool[Array, ""],
    key: UInt32[Array, "2"],
) -> tuple[PyTree, UInt32[Array, "2"]]:
    def newton(block: PyTree) -> PyTree:
        gram = block_gram(block, block)
        return block_combine(block, 1.5 * jnp.eye(gram.shape[0], dtype=gram.dtype) - 0.5 * gram)

    block = apply_if(refresh, newton, block)
    random, following = random_vector(key, structure)
    random = tree_scale(1 / tree_norm(random), random)
    block = block_set_row(block, 0, tree_where(fresh, random, block_row(block, 0)))
    basis = jax.tree.map(
        lambda b, x: jax.lax.dynamic_update_slice_in_dim(b, x[:rows].astype(b.dtype), 0, axis=0),
        block_zeros(structure, rows),
        block,
    )
    return basis, jnp.where(fresh, following, key)


def padded_basis(
    structure: PyTree, block: PyTree, rows: int, refresh: Any, fresh: Any, key: Any
) -> tuple[PyTree, Any]:
    """A basis of `rows` rows that begins with those of a block; with a random row if it is fresh.

    Rounding turns rows a little from solve to solve; with `refresh` one step of Newton's brings
    them back to orthonormal ones.

    Returns:
        The basis and the next key.
    """
    basis, key_ = dispatch(_padded_basis, block, structure, rows, refresh, fresh, key, reads=True)
    return basis, np.asarray(key_) if isinstance(key, np.ndarray) else key_


@eqx.filter_jit
def orthonormal_basis(
    structure: PyTree, block: PyTree, rows: int, noise: Array, key: UInt32[Array, "2"]
) -> tuple[PyTree, UInt32[Array, "2"]]:
    """A basis that begins with the vectors of a caller's block, in order, made orthonormal.

    Vectors that are zero, not finite or dependent are replaced by random ones; the first takes a
    random part of length `noise`. No products.
    """
    count = min(block_rows(block), rows)

    def put(i: Array, carry: tuple[PyTree, Array]) -> tuple[PyTree, Array]:
        basis, key = carry
        fresh, key = random_vector(key, block_row(basis, 0))
        fresh = tree_scale(1 / tree_norm(fresh), fresh)
        given = block_row(block, i)
        dtype = tree_dtype(basis)
        unit = _power_of_two(_peak(given, dtype))
        given = jax.tree.map(lambda x, f: (x / unit).astype(f.dtype), given, fresh)
        norm = tree_norm(given)
        good = jnp.isfinite(norm) & (norm > 0)
        level = jnp.where(i == 0, noise, 0)
        given = jax.tree.map(
            lambda x, f: jnp.where(good, x / norm + level * f, f).astype(f.dtype), given, fresh
        )
        left, _, norm = orthogonalize(basis, given, i, i * 0)
        # Of a dependent vector nothing but rounding is left: its noise points anywhere.
        dependent = norm < 1e-4
        again, _, other = orthogonalize(basis, fresh, i, i * 0)
        row = jax.tree.map(
            lambda a, b: jnp.where(dependent, b / other, a / jnp.where(dependent, 1, norm)),
            left,
            again,
        )
        return block_set_row(basis, i, row), key

    return jax.lax.fori_loop(0, count, put, (block_zeros(structure, rows), key))
