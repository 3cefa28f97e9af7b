"""An operator on the span of a basis, as far as known: small matrices, on the host or traced.

With the rows V of the basis, the directions that were multiplied have coordinates X (orthonormal
columns) and their images have coordinates Y, both in V:

    A V X = V Y.

Every product adds a column to both, and to V what was new in it (`_space.grow`), so that the
relation is exact up to rounding. For Ritz vectors S of `XᵀY` the residuals are `V (Y S - X S Θ)`:
their norms cost no product, whatever way the directions were chosen.

The functions here take NumPy arrays (the host driver) or JAX's (a compiled program): `xp` is the
namespace of whichever it is. They work on whole matrices where a column would do: a compiler for
CPUs makes a kernel of every elementwise expression and every product with a vector, which takes it
longer than the rest of the solve, and none of a product of matrices.
"""

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Inexact, Int

from ..vectors._tree import pytree_dataclass

WHICH = ("largest", "smallest", "both", "largest_magnitude")
# A direction shorter than this in what is left of it is no direction.
_GONE = 1e-3
# In units of (machine epsilon * norm seen): what is shorter than this in an image is rounding.
_ROUNDING = 4.0


@pytree_dataclass
class Relation:
    """The directions that were multiplied, and their images.

    Attributes:
        multiplied: X; columns from `count` on are zero.
        images: Y, likewise.
        present: Which rows of the basis hold a vector.
        size: How many rows are taken (some may be empty).
        count: How many columns.

    Example:
        >>> one, none = np.eye(2), np.zeros((2, 2))
        >>> Relation(one, np.diag([3.0, 1.0]), np.array([True, True]), 2, 2).size
        2
    """

    multiplied: Float[Any, "c c"]
    images: Float[Any, "c c"]
    present: Bool[Any, " c"]
    size: Any
    count: Any


@pytree_dataclass
class Pairs:
    """Ritz pairs of a relation, best first, the first `count` of them.

    Complex where the operator is not symmetric.

    Attributes:
        values: In units.
        vectors: S, in columns: coordinates in the columns of X.
        errors: The coordinates in V of their residuals, in columns.
        residuals: The norms of these, infinite where there is no pair.

    Example:
        >>> Pairs(np.ones(1), np.eye(1), np.zeros((1, 1)), np.zeros(1)).reach(np.array([0.5]))
        array([0.5])
    """

    values: Inexact[Any, " c"]
    vectors: Inexact[Any, "c c"]
    errors: Inexact[Any, "c c"]
    residuals: Float[Any, " c"]

    def reach(self, residuals: Any) -> Any:
        """Bounds on the distance of an eigenvalue from the first values, from their residuals."""
        return residuals

    def order(self, which: str) -> Any:
        """The numbers by which they are ranked."""
        return measure(self.values, which)


def namespace(x: Any) -> Any:
    """NumPy for what is on the host, jax.numpy for the rest."""
    return np if isinstance(x, np.ndarray | np.generic) else jnp


def matmul(a: Any, b: Any) -> Any:
    """A product of small matrices; accelerators round it to fewer digits unless asked not to."""
    if namespace(a) is np and namespace(b) is np:
        return a @ b
    return jnp.matmul(a, b, precision=jax.lax.Precision.HIGHEST)


def squares(columns: Any) -> Any:
    """The square of the norm of each column."""
    if namespace(columns) is np:
        return (columns * columns.conj()).real.sum(axis=0)
    # A product and its diagonal: a fourth of what a sum over rows takes to compile.
    return jnp.diagonal(matmul(columns.conj().T, columns)).real


def norms(columns: Any) -> Any:
    """The norm of each column."""
    return namespace(columns).sqrt(squares(columns))


def _is_complex(x: Any) -> bool:
    return np.issubdtype(x.dtype, np.complexfloating)


def measure(values: Any, which: str) -> Any:
    """The keys by which `which` orders values: moduli, real parts, or the values themselves."""
    if which in ("largest_magnitude", "largest_oscillating"):
        return namespace(values).abs(values)
    return values.real if _is_complex(values) else values


def splits_pair(values: Any, k: Any) -> Any:
    """1 if the first k of the values leave out the lower one of a conjugate pair, else 0."""
    return (values[k - 1].imag > 0).astype(np.int32) if _is_complex(values) else 0


def project_out(orthonormal_basis: Any, columns: Any) -> Any:
    """The columns without their parts along orthonormal ones (zero columns do no harm)."""
    # Twice is enough.
    for _ in range(2):
        columns = columns - matmul(orthonormal_basis, matmul(orthonormal_basis.T, columns))
    return columns


def reorthonormalize(columns: Any) -> Any:
    """Orthonormal to rounding, from columns that nearly are (or are zero).

    Decompositions in float32 leave lengths a few units in the last place under 1, at every restart
    anew. A step of Newton and Schulz.
    """
    return 1.5 * columns - 0.5 * matmul(columns, matmul(columns.T, columns))


def eigh(matrix: Any) -> tuple[Any, Any]:
    """Ascending values and vectors of a symmetric matrix."""
    if namespace(matrix) is np:
        return np.linalg.eigh(matrix)
    # The transpose is the same matrix in LAPACK's layout: no copy is compiled.
    return jnp.linalg.eigh(matrix.T, symmetrize_input=False)


def stack_columns(*vectors: Any) -> Any:
    """The vectors as columns, and zeros up to the fourth.

    Of fewer columns than four a compiler for CPUs writes out every product.
    """
    xp, width = namespace(vectors[0]), max(4, len(vectors))
    column = np.arange(width)[None, :]
    stack = xp.zeros((vectors[0].shape[0], width), vectors[0].dtype)
    for i, vector in enumerate(vectors):
        stack = xp.where(column == i, vector[:, None], stack)
    return stack


def sorted_eigh(matrix: Any, present: Any, bound: Any, which: str) -> tuple[Any, Any]:
    """Eigenvalues and vectors of a matrix on the rows that are there, best first.

    Args:
        matrix: `(c, c)`, symmetric to rounding; rows that are not there are coupled to no others.
        present: `(c,)`.
        bound: More than the modulus of any eigenvalue.
        which: The end.
    """
    xp = namespace(matrix)
    sign = -1.0 if which == "largest" else 1.0
    apart = xp.diag(xp.where(present, 0, 3 * bound).astype(matrix.dtype))
    values, vectors = eigh(sign * matrix + apart)
    values = sign * values
    if which in ("largest", "smallest"):
        return values, vectors
    c = values.shape[0]
    held = present.sum()
    rank = xp.arange(c)
    if which == "both":  # the ends in turn
        order = xp.where(rank % 2 == 0, xp.maximum(held - 1 - rank // 2, 0), rank // 2)
        order = xp.where(rank < held, order, rank)
    else:
        order = xp.argsort(xp.where(rank < held, -xp.abs(values), xp.inf))
    return values[order], vectors[:, order]


def rank_ritz(
    values: Float[Array, " m"], size: Int[Array, ""], which: str
) -> tuple[Int[Array, " m"], Bool[Array, " m"]]:
    """Indices of Ritz values, best first, and which ranks hold one.

    `values` ascend, and only the last `size` of them are Ritz values. "both" takes the ends in
    turn: largest, smallest, second largest, ...
    """
    m = values.shape[0]
    rank = jnp.arange(m)
    valid = rank < size
    if which == "largest":
        order = m - 1 - rank
    elif which == "smallest":
        order = jnp.minimum(m - size + rank, m - 1)
    elif which == "both":
        low = jnp.minimum(m - size + (rank - 1) // 2, m - 1)
        order = jnp.where(rank % 2 == 0, m - 1 - rank // 2, low)
    else:
        is_value = rank >= m - size
        order = jnp.argsort(jnp.where(is_value, -jnp.abs(values), jnp.inf))
    return order, valid


def original_order(k: int, which: str) -> np.ndarray:
    """From the order of `rank_ritz` to that of the solution ("both": the larger half first)."""
    if which == "both":
        return np.concatenate([np.arange(0, k, 2), np.arange(1, k, 2)])
    return np.arange(k)


def ritz_pairs(relation: Relation, scale: Any, which: str) -> tuple[Pairs, Any]:
    """The Ritz pairs on what was multiplied, each with its residual; the asymmetry seen."""
    xp = namespace(relation.multiplied)
    c = relation.multiplied.shape[0]
    held = xp.arange(c) < relation.count
    projected = matmul(relation.multiplied.T, relation.images)
    transposed = matmul(relation.images.T, relation.multiplied)
    values, vectors = sorted_eigh((projected + transposed) / 2, held, c**0.5 * scale + 1e-30, which)
    values = xp.where(held, values, 0).astype(values.dtype)
    vectors = xp.where(held[None, :], vectors, 0).astype(values.dtype)
    images, ritz = matmul(relation.images, vectors), matmul(relation.multiplied, vectors)
    errors = images - ritz * values[None, :]
    residuals = xp.where(held, norms(errors), xp.inf).astype(values.dtype)
    asymmetry = xp.max(xp.abs(projected - transposed))
    return Pairs(values, vectors, errors, residuals), asymmetry


def with_product(relation: Relation, x: Any, product: Any) -> Relation:
    """The relation with one more column."""
    xp = namespace(relation.multiplied)
    index = xp.arange(x.shape[0])
    # A zero direction would count as a pair of value and residual zero.
    known = product.finite & xp.any(x != 0)
    column = (index == relation.count)[None, :] & known
    return Relation(
        multiplied=xp.where(column, x[:, None], relation.multiplied),
        images=xp.where(column, product.image[:, None], relation.images),
        present=relation.present | ((index == relation.size) & product.added),
        size=relation.size + product.added,
        count=relation.count + known,
    )


def least_multiplied(relation: Relation) -> Any:
    """The row that has been multiplied least: the last one of those that have not been at all."""
    xp = namespace(relation.multiplied)
    seen = xp.where(relation.present, (relation.multiplied**2).sum(axis=1), 2)
    return seen.shape[0] - 1 - xp.argmin(seen[::-1])


def first_direction(relation: Relation, *candidates: Any) -> tuple[Any, Any]:
    """A unit vector: the first candidate of which something is left beside what was multiplied.

    Args:
        relation: What was multiplied.
        candidates: `(c,)` each, coordinates in the rows.

    Returns:
        `(c,)`, zero where nothing is left of any; and which one it is of, -1 for none.

    Example:
        >>> multiplied, present = np.diag([1.0, 0.0]), np.array([True, True])
        >>> relation = Relation(multiplied, multiplied, present, np.int32(2), np.int32(1))
        >>> x, which = first_direction(relation, np.array([1.0, 0.0]), np.array([1.0, 2.0]))
        >>> x.tolist(), int(which)
        ([0.0, 1.0], 1)
    """
    xp = namespace(relation.multiplied)
    stack = stack_columns(*candidates)
    full = norms(stack)
    left = project_out(relation.multiplied, stack)
    length = norms(left)
    sound = length > _GONE * xp.where(full > 0, full, xp.inf)
    left = xp.where(sound[None, :], left / xp.where(sound, length, 1)[None, :], 0)
    which = xp.where(xp.any(sound), xp.argmax(sound), -1)
    return left[:, which].astype(relation.multiplied.dtype), which


def compress(
    relation: Relation, pairs: Pairs, kept: Any, most: Any, preference: Any | None = None
) -> tuple[Relation, Pairs, Any, Any]:
    """The relation on the best `kept` pairs and what was not multiplied, and the columns of V.

    Images of Ritz vectors are in the span of these, so that the relation stays exact (thick
    restart: Wu and Simon, SIAM J. Matrix Anal. Appl. 22, 2000). Where `most` rows are too few for
    all that was not multiplied, those go in which the residuals have most of their share, then
    those that are preferred.

    Args:
        relation: What was multiplied.
        pairs: Its Ritz pairs.
        kept: How many of these to keep.
        most: How many rows there may be.
        preference: `(c, c)`, for directions that were not multiplied.

    Returns:
        The relation, its pairs, the columns of V, and the norm of what images had outside of them.

    Example:
        >>> x, images = np.diag([1.0, 0.0]), np.array([[2.0, 0.0], [0.5, 0.0]])
        >>> relation = Relation(x, images, np.array([True, True]), np.int32(2), np.int32(1))
        >>> pairs, _ = ritz_pairs(relation, 2.1, "largest")
        >>> smaller, *_ = compress(relation, pairs, 1, 2)
        >>> abs(smaller.images).tolist()
        [[2.0, 0.0], [0.5, 0.0]]
    """
    xp = namespace(relation.multiplied)
    kept = xp.minimum(xp.asarray(kept, np.int32), relation.count)
    held = xp.arange(relation.multiplied.shape[0]) < kept
    mask = xp.diag(held.astype(pairs.vectors.dtype))
    best, errors = matmul(pairs.vectors, mask), matmul(pairs.errors, mask)
    shares = errors / (pairs.residuals + 1e-30)[None, :]
    smaller, columns, outside = restrict_rows(relation, best, shares, kept, most, preference)
    pairs = Pairs(
        values=xp.where(held, pairs.values, 0).astype(best.dtype),
        vectors=smaller.multiplied,
        errors=matmul(columns.T, errors),
        residuals=xp.where(held, pairs.residuals, xp.inf).astype(best.dtype),
    )
    return smaller, pairs, columns, xp.max(outside)


def restrict_rows(
    relation: Relation,
    best: Any,
    shares: Any,
    kept: Any,
    most: Any,
    preference: Any | None = None,
) -> tuple[Relation, Any, Any]:
    """The relation on `kept` orthonormal combinations of X and what was not multiplied.

    Args:
        relation: What was multiplied.
        best: The combinations, in columns; zero columns from `kept` on.
        shares: Unit residuals, in columns: rows in which they have their shares go first.
        kept: How many.
        most: How many rows there may be.
        preference: `(c, c)`, for other directions.

    Returns:
        The relation, the columns of V, and the norms of what each image had outside of them.
    """
    xp = namespace(relation.multiplied)
    c = relation.multiplied.shape[0]
    index = xp.arange(c)
    held = index < kept
    best = reorthonormalize(best)
    ritz, images = matmul(relation.multiplied, best), matmul(relation.images, best)
    # The complement of what was multiplied, among the rows.
    rest = xp.diag(relation.present.astype(ritz.dtype)) - matmul(
        relation.multiplied, relation.multiplied.T
    )
    shares = matmul(rest, shares)
    weight = rest + 4 * matmul(shares, shares.T)
    if preference is not None:
        weight = weight + matmul(rest, matmul(preference, rest))
    weights, axes = eigh(-weight)
    not_multiplied = (weights < -0.5) & (index < most - kept)
    size = kept + not_multiplied.sum()
    behind = (index >= kept) & (index < size)
    # The Ritz vectors, and the complement right behind them.
    moved = (index[:, None] + kept == index[None, :]) & behind[None, :]
    moved = reorthonormalize(
        xp.where(relation.present[:, None], matmul(axes, moved.astype(ritz.dtype)), 0)
    )
    columns = (ritz + moved).astype(ritz.dtype)
    outside = images - matmul(columns, matmul(columns.T, images))
    smaller = Relation(
        multiplied=xp.diag(held.astype(ritz.dtype)),
        images=matmul(columns.T, images),
        present=index < size,
        size=size.astype(np.int32),
        count=kept,
    )
    return smaller, columns, norms(outside)


def compress_onto(
    relation: Relation, pairs: Pairs, count: Any, directions: Any, scale: Any, most: int
) -> tuple[Relation, Pairs, Any, Any]:
    """The relation on some of what was multiplied and what the images of that need, and columns.

    `compress` is the case of Ritz vectors of a space that grew from its own images, where all
    that was not multiplied is kept. Here any directions are, and so a relation stays exact whatever
    the space grew by (the locally optimal restart: Stathopoulos, SIAM J. Sci. Comput. 29, 2007).

    Args:
        relation: What there is.
        pairs: Its pairs.
        count: How many of the directions are the best pairs, in order.
        directions: `(c, p)`: orthonormal columns, coordinates in those of X; zero ones come last.
        scale: The norm seen.
        most: How many rows may be taken; with 2 p nothing is lost.

    Returns:
        The relation; pairs, `count` of them; the columns of V; the norm of what images lost.
    """
    xp = namespace(relation.multiplied)
    c, p = directions.shape
    index = xp.arange(c)
    multiplied = (directions * directions).sum(axis=0) > 0.5
    directions = reorthonormalize(directions)
    ritz, images = matmul(relation.multiplied, directions), matmul(relation.images, directions)
    beside = project_out(ritz, images)
    # The directions as singular vectors of values above all others: what is orthogonal to them
    # comes next, longest first, and is orthogonal to rounding.
    above = 1.1 * xp.sqrt((beside * beside).sum()) + 1e-30
    left, lengths, _ = xp.linalg.svd(
        xp.concatenate([above * ritz, beside], axis=1), full_matrices=False
    )
    held = multiplied.sum()
    width = min(left.shape[1], most)
    eps = np.finfo(ritz.dtype).eps
    not_multiplied = (index[:width] >= held) & (lengths[:width] > _ROUNDING * eps * (scale + above))
    columns = xp.where(not_multiplied[None, :], left[:, :width], 0)
    columns = columns + xp.pad(ritz, ((0, 0), (0, max(0, width - p))))[:, :width]
    columns = xp.where(relation.present[:, None], columns, 0).astype(ritz.dtype)
    # Singular vectors of rounding may point out of the rows.
    sound = (columns * columns).sum(axis=0) > 0.999
    columns = xp.where(sound[None, :], columns, 0)
    wide = ((0, c - width), (0, c - p))
    present = xp.pad(sound, (0, c - width))
    unit = xp.diag((index < held).astype(ritz.dtype))
    outside = images - matmul(columns, matmul(columns.T, images))
    smaller = Relation(
        multiplied=unit,
        images=xp.pad(matmul(columns.T, images), wide),
        present=present,
        size=xp.max(xp.where(present, index + 1, 0)).astype(np.int32),
        count=held.astype(np.int32),
    )
    best = index < count
    errors = matmul(columns.T, xp.where(best[None, :], pairs.errors, 0))
    pairs = dataclasses.replace(
        pairs,
        values=xp.where(best, pairs.values, 0).astype(ritz.dtype),
        vectors=unit * best[None, :],
        errors=xp.pad(errors, (wide[0], (0, 0))),
        residuals=xp.where(best, pairs.residuals, xp.inf).astype(ritz.dtype),
    )
    # Rounding is counted for every rotation.
    return smaller, pairs, columns, xp.maximum(xp.max(norms(outside)) - 2 * eps * scale, 0)


def kept_at_restart(m: int, k: int) -> int:
    """The number of Ritz vectors that a restart keeps: the wanted, and half of the rest.

    Args:
        m: The size of the basis.
        k: How many are wanted.

    Returns:
        A count under m.

    Example:
        >>> kept_at_restart(20, 2)
        11
    """
    return max(1, min(m - 1, k + max(1, (m - k) // 2)))
