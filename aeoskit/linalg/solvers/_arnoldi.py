"""Arnoldi with Krylov-Schur restart, for operators that are not symmetric."""

from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx  # noqa: F401 (the example)
import numpy as np
from jaxtyping import Bool, Float, PyTree

from .._platform import apply_if, has_eig
from .._results import EVIDENCE
from ..vectors._tree import pytree_dataclass, tree_size
from ._arguments import Scalar, Start, check_numbers
from ._convergence import next_candidate, pair_status, select
from ._relation import (
    Pairs,
    Relation,
    eigh,
    first_direction,
    kept_at_restart,
    least_multiplied,
    matmul,
    namespace,
    norms,
    restrict_rows,
    splits_pair,
)
from ._solver import EigenProblem
from ._subspace import UNLIMITED, AbstractSubspaceSolver, SearchPlan, SubspaceState

OSCILLATING = "largest_oscillating"
ENDS = ("smallest_real", "largest_real", "largest_magnitude", OSCILLATING)
# A value counts as real where its imaginary part is under this many roots of epsilon times its
# modulus: rounding takes two values apart, or turns them into a pair, by so much.
_REAL = 4.0
# And where it is under this many times its error.
_RESOLVED = 10.0
# An invariant subspace found to this many epsilons (times the root of the basis size) is as good
# as any.
_EXACT = 10.0
# Vectors beyond the wanted ones that a warm start keeps; one is there in case k splits a pair.
_GUARD = 2
# Rows beside the wanted pairs that a basis needs at a restart: the rest of a pair, one more Ritz
# vector, what was not multiplied, and the next two.
_LEAST = 5


@pytree_dataclass
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


def _order(values: Any, present: Any, which: str) -> Any:
    """Best first, those that are not there last, conjugate pairs together, the upper one first."""
    xp = namespace(values)
    # The decomposition puts the upper one just before the other.
    upper = xp.arange(values.shape[0]) - (values.imag < 0)
    if which in ("largest_magnitude", OSCILLATING):
        first, second = -xp.abs(values), -values.real
    else:
        first = values.real if which == "smallest_real" else -values.real
        second = -xp.abs(values.imag)
    return xp.lexsort((-values.imag, upper, second, first, ~present))


def general_ritz_pairs(relation: Relation, scale: Any, which: str) -> GeneralPairs:
    """The Ritz pairs on what was multiplied, each with its residual and condition number."""
    xp, dtype = namespace(relation.multiplied), relation.multiplied.dtype
    number = np.result_type(dtype, np.complex64)
    c = relation.multiplied.shape[0]
    held = xp.arange(c) < relation.count
    projected = matmul(relation.multiplied.T, relation.images)
    # What is not there gets eigenvalues that no matrix of these products has.
    apart = 3 * c**0.5 * scale + 1e-30
    shifted = projected + xp.diag(xp.where(held, 0, apart))
    values, vectors, condition = _eig(shifted.astype(np.float64 if xp is np else dtype))
    order = _order(values, xp.abs(values) < 0.6 * apart, which)
    values = xp.where(held, values[order], 0).astype(number)
    vectors = xp.where(held[None, :], vectors[:, order], 0).astype(number)
    images, ritz = matmul(relation.images, vectors), matmul(relation.multiplied, vectors)
    errors = images - ritz * values[None, :]
    # Not infinite: times a residual of zero that is no number.
    condition = xp.where(condition[order] < 1e30, condition[order], 1e30).astype(dtype)
    pairs = GeneralPairs(
        values=values,
        vectors=vectors,
        errors=errors,
        residuals=xp.where(held, norms(errors), xp.inf).astype(dtype),
        condition=xp.where(held, condition, xp.inf).astype(dtype),
    )
    return _oscillating_first(pairs) if which == OSCILLATING else pairs


def oscillating(pairs: GeneralPairs) -> Any:
    """True for each value that is known not to be real and positive, as far as its error goes."""
    xp = namespace(pairs.values)
    values, sizes = pairs.values, xp.abs(pairs.values)
    least = _REAL * np.finfo(pairs.residuals.dtype).eps ** 0.5 * sizes
    held = xp.isfinite(pairs.residuals)
    reach = xp.where(held, pairs.residuals, 0) * xp.where(held, pairs.condition, 0)
    turned = xp.abs(values.imag) > xp.maximum(least, _RESOLVED * reach)
    return held & ((values.real <= 0) | turned)


def _oscillating_first(pairs: GeneralPairs) -> GeneralPairs:
    """Those that oscillate by the modulus that they have at least, then the others by real part.

    By the bare modulus, values in the making, of no meaning yet, would take turns at the top.
    """
    xp = namespace(pairs.values)
    values, found = pairs.values, oscillating(pairs)
    held = xp.isfinite(pairs.residuals)
    upper = xp.arange(values.shape[0]) - (values.imag < 0)
    least = xp.abs(values) - xp.where(held, pairs.residuals, 0)
    # A conjugate pair stays together, whatever rounding makes of the lower one.
    found, least = found[upper], xp.where(found, -least, values.real)[upper]
    order = xp.lexsort((-values.imag, upper, least, ~found, ~held))
    return GeneralPairs(
        values=values[order],
        vectors=pairs.vectors[:, order],
        errors=pairs.errors[:, order],
        residuals=pairs.residuals[order],
        condition=pairs.condition[order],
    )


def nested_basis(pairs: Pairs, count: Any) -> tuple[Any, Any]:
    """Real orthonormal columns: the first j span the same as the first j vectors.

    (Where j splits no conjugate pair. Zero columns from `count` on.) Also: whether the vectors are
    dependent, to rounding, so that some columns are any direction.
    """
    xp = namespace(pairs.values)
    held = xp.arange(pairs.values.shape[0]) < count
    # A conjugate pair gives its real and its imaginary part.
    columns = xp.where(pairs.values.imag[None, :] < 0, pairs.vectors.imag, pairs.vectors.real)
    columns = xp.where(held[None, :], columns, 0)
    q, r = xp.linalg.qr(columns)
    least = np.finfo(columns.dtype).eps ** 0.5 * norms(columns)
    return xp.where(held[None, :], q, 0), xp.any(held & ~(xp.abs(xp.diagonal(r)) > least))


def restarted(
    relation: Relation, pairs: GeneralPairs, kept: Any, most: Any
) -> tuple[Relation, GeneralPairs, Any, Any]:
    """As `_relation.compress`, on the invariant subspace of the first `kept` values.

    It must split no conjugate pair. Source: Stewart, *A Krylov-Schur algorithm for large
    eigenproblems*, SIAM J. Matrix Anal. Appl. 23 (2001); it differs: real vectors only, and the
    subspace is found from eigenvectors, one at a time where these are nearly dependent.
    """
    xp, dtype = namespace(relation.multiplied), relation.multiplied.dtype
    c = relation.multiplied.shape[0]
    kept = xp.minimum(xp.asarray(kept, np.int32), relation.count)
    held = xp.arange(c) < kept
    projected = matmul(relation.multiplied.T, relation.images)
    eps = np.finfo(dtype).eps
    norm = xp.linalg.norm(projected)

    def defect(q: Any) -> Any:
        image = matmul(projected, q)
        return xp.linalg.norm(image - matmul(q, matmul(q.T, image)))

    best, dependent = nested_basis(pairs, kept)
    best = best.astype(dtype)
    # The defect alone does not tell: any direction may happen to be another eigenvector.
    rough = dependent | ~(defect(best) <= _EXACT * eps * c**0.5 * norm)
    is_multiplied = xp.arange(c) < relation.count
    best = apply_if(
        rough,
        lambda _: _one_by_one(projected, is_multiplied, pairs.values, kept).astype(dtype),
        best,
    )
    errors = xp.where(held[None, :], pairs.errors, 0)
    shares = errors / (norms(errors) + 1e-30)[None, :]
    shares = xp.concatenate([shares.real, shares.imag], axis=1)
    smaller, columns, outside = restrict_rows(relation, best, shares, kept, most)
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


def _one_by_one(matrix: Any, present: Any, values: Any, count: Any) -> Any:
    """A real basis of the invariant subspace of the first `count` values.

    By Schur vectors: each an eigenvector of what is left after those before it. That needs no
    condition, and `count` decompositions.
    """
    xp = namespace(matrix)
    c = matrix.shape[0]
    if xp is np:
        matrix, values = matrix.astype(np.float64), values.astype(np.complex128)
    apart = 3 * xp.linalg.norm(matrix) + 1e-30
    empty = xp.diag(~present).astype(values.dtype)

    def body(i: Any, schur: Any) -> Any:
        found = matmul(schur, schur.conj().T)
        rest = xp.eye(c, dtype=values.dtype) - found
        # Vectors that were found, and rows that are empty, are no candidates.
        taken = apart * (found + empty)
        left, vectors = xp.linalg.eig(matmul(rest, matmul(matrix, rest)) + taken)
        vector = vectors[:, xp.argmin(xp.abs(left - values[i]))]
        vector = vector - matmul(found, vector)
        vector = vector / xp.linalg.norm(vector)
        return schur + vector[:, None] * (xp.arange(c) == i)[None, :]

    schur = _repeated(count, body, xp.zeros((c, c), values.dtype))
    # The subspace is closed under conjugation, so that the projector onto it is real; the mean of
    # the subspace and of its conjugate is invariant where each of them is.
    basis = eigh(-matmul(schur, schur.conj().T).real)[1]
    return xp.where((xp.arange(c) < count)[None, :], basis, 0)


@pytree_dataclass
class ArnoldiMemory:
    """The rows of the block that span the wanted vectors."""

    wanted: Bool[Any, " r"]


class Arnoldi(AbstractSubspaceSolver):
    """Krylov-Schur Arnoldi for any real operator: one product a step, tested after each.

    `values` and `vectors` are complex (leaves `(k, *leaf)`, of unit norm, not orthogonal to each
    other). Complex eigenvalues come in conjugate pairs, side by side, positive imaginary part
    first; where k cuts a pair, that one is returned. A restart never splits a pair. Every product
    is with a real vector, and the basis is real.

    `which="largest_oscillating"` is the largest modulus among values that are not real and
    positive, by ten times their error. Where `stats["oscillates"]` is false, none was found in a
    full basis. A larger one at an angle under `stats["resolved_angle"]` would not have been seen,
    to first order: Ritz values next to the positive axis are no nearer to it than their errors.
    `stats["largest_positive"]`, with its residual, is the largest real and positive value seen.

    **Error bars.** `residuals` are `||A v - θ v||`, with an allowance for rounding. They bound no
    error: for an operator that is not normal, a small residual means that θ is an eigenvalue of an
    operator nearby. `bounds` (and `estimates`, the same numbers) are *residual × condition*, the
    first-order error of a simple eigenvalue, with the condition number `1/|yᴴx|` of the unit left
    and right eigenvectors of the *projected* matrix: an estimate, though it is called `bounds`.
    It sees the left eigenvector through the basis only, so that it is never too high, and low
    until the basis is the whole space: by a third or so on random matrices, by thirty times on a
    badly scaled one, by orders of magnitude on Grcar's. For the condition number itself solve the
    transposed operator too. `stats["condition"]` holds the estimates, `(k,)`.

    **More than one pair.** As for `Lanczos`: a Krylov space holds one copy of each eigenvalue, so
    that with k > 1 the pairs found are held and a random direction beside them is followed, until
    its best pair is known not to be one of them. `copies=False` does without, and then `is_top` is
    false.

    **What `converged` does not mean.** As for `Lanczos`: that there is no better pair. `is_top`
    means that it was looked for: a random start, a fresh direction beside a warm start, or the
    whole space. On operators far from normal (Grcar's matrix) Ritz values first fill the
    pseudospectrum, so that pairs with tiny residuals may be far inside or outside of the
    spectrum.

    **The small problem** is a decomposition of a `basis × basis` matrix after every product.
    Outside of transformations NumPy solves it, on any backend. Inside a compiled program XLA has it
    on CPU and GPU; elsewhere (TPU) that is a `ValueError`.

    **Cost.** A cold solve for one pair spends products only until it has converged. A warm solve
    spends k at least, one more if k cuts a pair, and `explore`. Memory: `basis` vectors, those
    kept at a restart (about half), and about four more.

    Args:
        basis: The number of vectors that the solver multiplies before a restart, at least k + 4;
            it holds one more.
        rtol: A pair has converged when `||A v - θ v|| <= rtol |θ| + atol`. The test adds an
            allowance for rounding, 8 epsilons of the largest product and what restarts lost, to
            the residual: a tolerance under that floor ends in `RESULTS.stagnation`, never in
            `converged`.
        atol: See `rtol`; an eigenvalue zero needs one.
        noise: The length of the random vector that is added to the first of the unit vectors that
            a caller gives.
        explore: The most products that a warm solve for one pair spends on a random direction.
        copies: Whether a solve for several pairs looks for copies.

    Raises:
        ValueError: An option out of range; at a solve, a basis too small for k; a backend that
            cannot solve the small problem inside a compiled program that has to hold it.

    Source: Stewart, *A Krylov-Schur algorithm for large eigenproblems*, SIAM J. Matrix Anal.
    Appl. 23 (2001).

    Example:
        >>> from aeoskit.linalg import eigensolve
        >>> turn = jnp.array([[0.0, 2.0, 0.0], [-2.0, 0.0, 0.0], [0.0, 0.0, -1.0]])
        >>> operator = lx.MatrixLinearOperator(turn)
        >>> solution = eigensolve(operator, Arnoldi(), k=2, which="largest_magnitude")
        >>> solution.values.imag.round(3).tolist()
        [2.0, -2.0]
    """

    ends: ClassVar[tuple[str, ...]] = ENDS
    symmetric: ClassVar[bool] = False
    # A caller may have scaled a state's vectors: multipliers are solved for in scaled coordinates.
    keeps_rows: ClassVar[bool] = False
    basis: int = eqx.field(default=30, static=True)
    rtol: Scalar = 1e-3
    atol: Scalar = 0.0
    noise: Scalar = 0.1
    explore: int = eqx.field(default=4, static=True)
    copies: bool = eqx.field(default=True, static=True)

    def __check_init__(self):
        if self.basis < 5:
            raise ValueError(f"Arnoldi(basis={self.basis}): a basis needs 5 vectors; use 30.")
        check_numbers(self, ("rtol", "atol", "noise"), "rtol=1e-3, atol=0, noise=0.1")
        if self.explore < 0:
            raise ValueError(
                f"Arnoldi(explore={self.explore}): a count is not negative; the default is 4."
            )

    def check_platform(self, platform: str) -> None:
        """A compiled program has to hold the decomposition of a general matrix."""
        if not has_eig(platform):
            raise ValueError(
                f"eigensolve: programs for {platform} cannot hold the small problem of Arnoldi, "
                "which a compiled solve needs: call eigensolve outside of jit, vmap and scan, "
                'with driver="auto" or "host", or run this part on the CPU (jax.default_device).'
            )

    def default_max_matvecs(self, dimension: int) -> int:
        """20 products for each basis vector."""
        return 20 * self.basis

    def block_size(self, structure: PyTree, k: int) -> int:
        """The wanted vectors and two more."""
        return min(k + _GUARD, tree_size(structure))

    def capacity(self, dimension: int, k: int) -> int:
        """`basis` rows, and one for the last residual."""
        if self.basis + 1 < min(k + _LEAST, dimension):
            raise ValueError(
                f"Arnoldi(basis={self.basis}) is too small for k={k}: use "
                f"basis={k + _LEAST - 1} or more (2k + 20 is a good choice)."
            )
        return min(self.basis + 1, dimension)

    def start_vectors_used(self, k: int, dimension: int) -> int:
        """One more than wanted: k may split a pair."""
        return min(k + 1, dimension)

    def blank_memory(self, structure: PyTree, k: int) -> ArnoldiMemory:
        """No rows."""
        return ArnoldiMemory(wanted=np.zeros(self.block_size(structure, k), bool))

    def no_pairs(self, c: int, dtype: Any, xp: Any) -> GeneralPairs:
        """Complex ones."""
        return no_pairs(c, dtype, xp)

    def small_problem(self, problem: EigenProblem, state: SubspaceState) -> tuple[Pairs, Any]:
        """Those of a general matrix, which is not asked for its symmetry."""
        scale = state.numerics.scale
        return general_ritz_pairs(state.relation, scale, problem.which), 0 * scale

    def may_search(self, problem: EigenProblem) -> bool:
        """Copies are looked for with k > 1, and what a warm start may lack."""
        return self.copies if problem.k > 1 else self.explore > 0

    def begin(
        self, structure: PyTree, problem: EigenProblem, start: Start, count: int, xp: Any
    ) -> tuple[Any, Any, Any]:
        """The numbers of wanted rows and of all rows; units are the first product's."""
        wanted = count if start.memory is None else xp.sum(start.memory.wanted)
        numbers = xp.stack([xp.asarray(wanted), xp.asarray(count)])
        return xp.where(start.fresh, 0, numbers).astype(np.int32), 0.0, 0.0

    def plan_search(self, problem: EigenProblem, start: Start) -> SearchPlan:
        """Copies, and beside a warm start what it may lack."""
        xp, several = namespace(start.age), problem.k > 1
        if start.memory is None:
            no = xp.asarray(False)
            return SearchPlan(no, xp.zeros((), np.int32), EVIDENCE.none, no)
        looked = several and self.copies
        asked = xp.where(start.fresh, looked, self.may_search(problem))
        evidence = EVIDENCE.fresh_direction
        if not looked:
            evidence = select(start.fresh, EVIDENCE.random_start, evidence)
        return SearchPlan(
            asked=asked,
            limit=xp.asarray(UNLIMITED if several else self.explore, np.int32),
            evidence=evidence,
            trusted=asked | (start.fresh & (not several)),
        )

    def direction(self, problem: EigenProblem, state: SubspaceState) -> tuple[Any, Any, Any]:
        """A given row, a random one, or the residual of the first pair that is not settled."""
        relation, k = state.relation, problem.k
        xp = namespace(relation.multiplied)
        index = xp.arange(relation.multiplied.shape[0])
        _, settled = pair_status(self.rtol, self.atol, state.pairs, state.numerics)
        wanted = (index < k) & ~settled & (index < relation.count)
        beyond = next_candidate(
            problem, self.rtol, self.atol, state.pairs, state.numerics, state.search
        )
        error = state.pairs.errors[:, xp.where(xp.any(wanted), xp.argmax(wanted), beyond)]
        # Its real and its imaginary part are two directions: the longer one now.
        real, imaginary = error.real, error.imag
        longer = (real * real).sum() >= (imaginary * imaginary).sum()
        at_start = state.matvecs < xp.where(xp.any(wanted), state.extra[1], state.extra[0])
        row = xp.where(at_start, state.matvecs, relation.size - 1)
        rows = self.row_direction(state, row, at_start).astype(real.dtype)
        residual = xp.where(longer, real, imaginary)
        # Where that is nothing, the row that has been multiplied least.
        last = (index == least_multiplied(relation)).astype(real.dtype)
        plain = at_start | state.decision.add_random_row
        x, _ = first_direction(relation, xp.where(plain, rows, residual), last)
        return x, xp.full((), -1, np.int32), state.extra

    def learn(
        self, problem: EigenProblem, state: SubspaceState, x: Any, product: Any
    ) -> SubspaceState:
        """Nothing of its own."""
        return state

    def settled(self, problem: EigenProblem, state: SubspaceState) -> tuple[Any, Any]:
        """All k pairs, and every given row had its product.

        Of those that oscillate, none in the making may be larger; that there is none is only known
        once the basis was full.
        """
        k, pairs = problem.k, state.pairs
        xp = namespace(pairs.values)
        _, settled = pair_status(self.rtol, self.atol, pairs, state.numerics)
        enough = xp.all(settled[:k]) & (state.relation.count >= k)
        if problem.which == OSCILLATING:
            found, sizes = oscillating(pairs), xp.abs(pairs.values)
            larger = sizes > (1 + self.rtol) * xp.max(xp.where(settled & found, sizes, 0))
            looked = state.matvecs >= self.basis
            enough &= xp.where(xp.all(found[:k]), ~xp.any(found & ~settled & larger), looked)
        return enough & (state.matvecs >= state.extra[0]), None

    def expected_errors(self, problem: EigenProblem, state: SubspaceState) -> Any:
        """Nothing better than the bounds."""
        return namespace(state.pairs.residuals).full_like(
            state.pairs.residuals[: problem.k], np.inf
        )

    def more_stats(self, problem: EigenProblem, state: SubspaceState) -> dict[str, Any]:
        """The condition numbers; and of those that oscillate, whether they do, and the others."""
        pairs, k = state.pairs, problem.k
        stats = {"condition": pairs.condition[:k]}
        if problem.which != OSCILLATING:
            return stats
        xp, found = namespace(pairs.values), oscillating(pairs)
        apart = found | ~xp.isfinite(pairs.residuals) | (pairs.values.imag != 0)
        real = xp.where(apart, -xp.inf, pairs.values.real)
        first, unit = xp.argmax(real), state.numerics.unit
        # What is no more than near to the positive axis may be a pair as far from it as this.
        held = xp.isfinite(pairs.residuals)
        reach = xp.where(held, pairs.residuals, 0) * xp.where(held, pairs.condition, 0)
        sizes = xp.abs(pairs.values)
        larger = held & ~found & (sizes + reach > xp.where(found[0], sizes[0], 0))
        near = xp.arctan2(xp.abs(pairs.values.imag) + reach, pairs.values.real)
        return stats | {
            "oscillates": found[:k],
            "largest_positive": xp.where(apart[first], xp.nan, real[first]) * unit,
            "largest_positive_residual": pairs.residuals[first] * unit,
            "resolved_angle": xp.max(xp.where(larger, near, 0)),
        }

    def shrink(self, problem: EigenProblem, state: SubspaceState) -> Any:
        """The best half of the pairs beyond the wanted; these alone before a search."""
        relation, k = state.relation, problem.k
        xp, c = namespace(relation.multiplied), relation.multiplied.shape[0]
        # All that was not multiplied goes along, and a pair may need one more.
        room = c - 3 - (xp.sum(relation.present) - relation.count)
        kept = xp.maximum(k, xp.minimum(kept_at_restart(c - 1, k), room))
        kept = xp.where(state.decision.shrink, k, kept)
        kept = kept + splits_pair(state.pairs.values, kept)
        return *restarted(relation, state.pairs, kept, c - 2), state.extra

    def remember(
        self, problem: EigenProblem, state: SubspaceState, start: Start, rows: int
    ) -> tuple[Any, Any, Any]:
        """The space of the wanted vectors and the next ones, in their order."""
        relation, values, k = state.relation, state.pairs.values, problem.k
        xp = namespace(relation.multiplied)
        columns = matmul(relation.multiplied, nested_basis(state.pairs, relation.count)[0])[
            :, :rows
        ]
        wanted = xp.minimum(k + splits_pair(values, k), relation.count)
        wanted = (xp.arange(rows) < wanted) & state.numerics.finite
        return columns, ArnoldiMemory(wanted=wanted), xp.zeros((), np.int32)
