"""The small problem of an operator that is not symmetric: Ritz pairs, and what a restart keeps."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Float

from ..vectors._record import record
from ._relation import Pairs, Relation, cut, eigh, matmul, namespace, norms, when

ENDS = ("smallest_real", "largest_real", "largest_magnitude")
# An invariant subspace found to this many epsilons (times the root of the basis size) is as good
# as any.
_EXACT = 10.0


@record
class GeneralPairs(Pairs):
    """Complex Ritz pairs, conjugate ones side by side, the upper one first.

    Attributes:
        condition: `1/|yᴴx|` of the unit left and right eigenvectors of the projected matrix.
    """

    condition: Float[Any, " c"]

    def reach(self, residuals: Any) -> Any:
        """To first order, as far as the basis shows the left eigenvectors."""
        return residuals * self.condition[: residuals.shape[0]]


def no_pairs(c: int, dtype: Any, xp: Any) -> GeneralPairs:
    """Before the first product."""
    number = np.result_type(dtype, np.complex64)
    square, infinite = xp.zeros((c, c), number), xp.full(c, xp.inf, dtype)
    return GeneralPairs(xp.zeros(c, number), square, square, infinite, infinite)


def _eig(matrix: Any) -> tuple[Any, Any, Any]:
    """Eigenvalues, unit vectors, and condition numbers; on the host in double precision."""
    if namespace(matrix) is np:
        values, right = np.linalg.eig(matrix)
        try:  # rows of the inverse are left vectors, each of product 1 with its own right one
            condition = norms(np.linalg.inv(right).T) * norms(right)
        except np.linalg.LinAlgError:
            condition = np.full(len(values), np.inf)
        return values.astype(np.complex128), right.astype(np.complex128), condition
    values, left, right = jax.lax.linalg.eig(matrix)
    return values, right, 1 / jnp.abs(jnp.sum(left.conj() * right, axis=0))


def _order(values: Any, there: Any, which: str) -> Any:
    """Best first, those that are not there last, conjugate pairs together, the upper one first."""
    xp = namespace(values)
    # The decomposition puts the upper one just before the other.
    upper = xp.arange(values.shape[0]) - (values.imag < 0)
    if which == "largest_magnitude":
        first, second = -xp.abs(values), -values.real
    else:
        first = values.real if which == "smallest_real" else -values.real
        second = -xp.abs(values.imag)
    return xp.lexsort((-values.imag, upper, second, first, ~there))


def general_ritz_pairs(relation: Relation, scale: Any, which: str) -> GeneralPairs:
    """The Ritz pairs on what was multiplied, each with its residual and condition number."""
    xp, dtype = namespace(relation.tried), relation.tried.dtype
    number = np.result_type(dtype, np.complex64)
    c = relation.tried.shape[0]
    held = xp.arange(c) < relation.count
    projected = matmul(relation.tried.T, relation.images)
    # What is not there gets eigenvalues that no matrix of these products has.
    apart = 3 * c**0.5 * scale + 1e-30
    shifted = projected + xp.diag(xp.where(held, 0, apart))
    values, vectors, condition = _eig(shifted.astype(np.float64 if xp is np else dtype))
    order = _order(values, xp.abs(values) < 0.6 * apart, which)
    values = xp.where(held, values[order], 0).astype(number)
    vectors = xp.where(held[None, :], vectors[:, order], 0).astype(number)
    images, ritz = matmul(relation.images, vectors), matmul(relation.tried, vectors)
    errors = images - ritz * values[None, :]
    # Not infinite: times a residual of zero that is no number.
    condition = xp.where(condition[order] < 1e30, condition[order], 1e30).astype(dtype)
    return GeneralPairs(
        values=values,
        vectors=vectors,
        errors=errors,
        residuals=xp.where(held, norms(errors), xp.inf).astype(dtype),
        condition=xp.where(held, condition, xp.inf).astype(dtype),
    )


def nested_basis(pairs: Pairs, count: Any) -> Any:
    """Real orthonormal columns: the first j span the same as the first j vectors.

    (Where j splits no conjugate pair. Zero columns from `count` on.)
    """
    xp = namespace(pairs.values)
    held = xp.arange(pairs.values.shape[0]) < count
    # A conjugate pair gives its real and its imaginary part.
    columns = xp.where(pairs.values.imag[None, :] < 0, pairs.vectors.imag, pairs.vectors.real)
    return xp.where(held[None, :], xp.linalg.qr(xp.where(held[None, :], columns, 0))[0], 0)


def restarted(
    relation: Relation, pairs: GeneralPairs, kept: Any, most: Any
) -> tuple[Relation, GeneralPairs, Any, Any]:
    """As `_relation.compressed`, on the invariant subspace of the first `kept` values.

    It must split no conjugate pair. Source: Stewart, *A Krylov-Schur algorithm for large
    eigenproblems*, SIAM J. Matrix Anal. Appl. 23 (2001); it differs: real vectors only, and the
    subspace is found from eigenvectors, one at a time where these are nearly dependent.
    """
    xp, dtype = namespace(relation.tried), relation.tried.dtype
    c = relation.tried.shape[0]
    kept = xp.minimum(xp.asarray(kept, np.int32), relation.count)
    held = xp.arange(c) < kept
    projected = matmul(relation.tried.T, relation.images)
    eps = np.finfo(dtype).eps
    norm = xp.linalg.norm(projected)

    def defect(q: Any) -> Any:
        image = matmul(projected, q)
        return xp.linalg.norm(image - matmul(q, matmul(q.T, image)))

    best = nested_basis(pairs, kept).astype(dtype)
    rough = ~(defect(best) <= _EXACT * eps * c**0.5 * norm)
    best = when(rough, lambda _: _one_by_one(projected, pairs.values, kept).astype(dtype), best)
    errors = xp.where(held[None, :], pairs.errors, 0)
    shares = errors / (norms(errors) + 1e-30)[None, :]
    shares = xp.concatenate([shares.real, shares.imag], axis=1)
    smaller, columns, outside = cut(relation, best, shares, kept, most)
    number = pairs.values.dtype
    pairs = GeneralPairs(
        values=xp.where(held, pairs.values, 0).astype(number),
        vectors=xp.where(held[None, :], matmul(best.T, pairs.vectors), 0).astype(number),
        errors=matmul(columns.T, errors).astype(number),
        residuals=xp.where(held, pairs.residuals, xp.inf).astype(dtype),
        condition=xp.where(held, pairs.condition, xp.inf).astype(dtype),
    )
    return smaller, pairs, columns, xp.linalg.norm(outside)


def _repeated(count: Any, body: Callable[[Any, Any], Any], value: Any) -> Any:
    if isinstance(count, np.ndarray | np.generic):
        for i in range(int(count)):
            value = body(i, value)
        return value
    return jax.lax.fori_loop(0, count, body, value)


def _one_by_one(matrix: Any, values: Any, count: Any) -> Any:
    """A real basis of the invariant subspace of the first `count` values.

    By Schur vectors: each an eigenvector of what is left after those before it. That needs no
    condition, and `count` decompositions.
    """
    xp = namespace(matrix)
    c = matrix.shape[0]
    if xp is np:
        matrix, values = matrix.astype(np.float64), values.astype(np.complex128)
    apart = 3 * xp.linalg.norm(matrix)

    def body(i: Any, schur: Any) -> Any:
        found = matmul(schur, schur.conj().T)
        rest = xp.eye(c, dtype=values.dtype) - found
        left, vectors = xp.linalg.eig(matmul(rest, matmul(matrix, rest)) + apart * found)
        vector = vectors[:, xp.argmin(xp.abs(left - values[i]))]
        vector = vector - matmul(found, vector)
        vector = vector / xp.linalg.norm(vector)
        return schur + vector[:, None] * (xp.arange(c) == i)[None, :]

    schur = _repeated(count, body, xp.zeros((c, c), values.dtype))
    # The subspace is closed under conjugation, so that the projector onto it is real; the mean of
    # the subspace and of its conjugate is invariant where each of them is.
    basis = eigh(-matmul(schur, schur.conj().T).real)[1]
    return xp.where((xp.arange(c) < count)[None, :], basis, 0)
