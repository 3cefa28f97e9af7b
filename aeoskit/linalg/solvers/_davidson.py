"""Jacobi-Davidson: a subspace expanded by corrections, each a short lineax solve."""

import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree

from .._platform import apply_if
from .._results import EVIDENCE
from ..operators._algebra import ComplementOperator
from ..operators._layout import widen
from ..vectors._tree import pytree_dataclass, tree_dtype, tree_norm, tree_size, tree_where
from ._arguments import Scalar, Start, check_numbers
from ._convergence import interior_candidates
from ._minres import MINRES, count_products
from ._relation import (
    Pairs,
    Relation,
    compress_onto,
    eigh,
    kept_at_restart,
    matmul,
    namespace,
    norms,
)
from ._residuals import GUARD, AbstractResidualSolver, with_row
from ._solver import EigenProblem
from ._space import AbstractExpansion, append
from ._subspace import UNLIMITED, SearchPlan, SubspaceState

# A target is gone after for itself once its residual is this share of its distance to the shift:
# sooner, and the pair nearest to wherever the solve began would be found.
_ISOLATED = 0.1
# Shifts are clipped to this many times the norm seen: the nearest values are the same, and `A - σ`
# keeps its digits.
_OUTSIDE = 8.0


@pytree_dataclass
class NearestPairs(Pairs):
    """Pairs nearest a shift, nearest first.

    Attributes:
        distances: Of the values to the shift.
    """

    distances: Float[Any, " c"]

    def order(self, which: str) -> Any:
        """The distances."""
        return self.distances


def nearest_pairs(relation: Relation, shift: Any, k: int) -> NearestPairs:
    """The pairs nearest a shift that a space suggests.

    Inside the spectrum Ritz values are no guide: a mixture of eigenvectors from both sides of the
    shift has one near it. The space is searched for *harmonic* Ritz vectors, eigenvectors of the
    inverse on the images (Paige, Parlett, van der Vorst 1995); the best of these make the small
    space in which values are taken as ordinary Ritz values. Images are in the span of the rows, so
    that their Gram matrix is exact.
    """
    xp = namespace(relation.multiplied)
    c = relation.multiplied.shape[0]
    dtype, eps = relation.multiplied.dtype, np.finfo(relation.multiplied.dtype).eps
    held = xp.arange(c) < relation.count
    images = relation.images - shift * relation.multiplied
    projected = matmul(relation.multiplied.T, images)
    projected = (projected + projected.T) / 2
    gram = matmul(images.T, images)
    squares, rotation = eigh(gram + xp.diag(xp.where(held, 0, 2 * xp.trace(gram) + 1)))
    # Images this short are rounding: an eigenvalue at the shift, which comes first.
    least = xp.maximum(eps * xp.max(xp.where(held, squares, 0)), np.finfo(dtype).tiny)
    close = (squares <= least) & held
    half = rotation / xp.sqrt(xp.maximum(squares, least))[None, :]
    inverse = matmul(half.T, matmul(projected, half))
    apart = close | ~held
    inverse = xp.where(apart[:, None] | apart[None, :], 0, (inverse + inverse.T) / 2)
    beyond = 2 * xp.sqrt((inverse * inverse).sum()) + 1
    empty = xp.where(held, 0, -beyond)
    values, vectors = eigh(inverse + xp.diag(xp.where(close, beyond, empty)))
    # Where there is no pair sorts first.
    order = xp.argsort(xp.where(xp.arange(c) < c - relation.count, 1, -xp.abs(values)))
    harmonic = xp.where(held[:, None], matmul(half, vectors[:, order]), 0)
    harmonic = xp.where(held[None, :], harmonic, 0)
    # Orthonormal, each span of leading columns as it was.
    vectors = xp.where(held[None, :], xp.linalg.qr(harmonic)[0], 0)
    q = min(c, k + GUARD + 2)
    head = vectors[:, :q]
    small = matmul(head.T, matmul(projected, head))
    above = 2 * xp.sqrt((small * small).sum()) + 1
    values, turn = eigh((small + small.T) / 2 + xp.diag(xp.where(held[:q], 0, above)))
    head = matmul(head, turn)
    # By the length of the image: that of a mixture of far eigenvectors is long, wherever its Ritz
    # value is.
    distance = xp.maximum(xp.abs(values), norms(matmul(images, head)))
    head = head[:, xp.argsort(xp.where(values < above / 2, distance, xp.inf))]
    vectors = xp.concatenate([head, vectors[:, q:]], axis=1)
    # Of A itself: no digit is lost to the shift.
    images, ritz = matmul(relation.images, vectors), matmul(relation.multiplied, vectors)
    values = (ritz * images).sum(axis=0)
    errors = images - ritz * values[None, :]
    return NearestPairs(
        values=xp.where(held, values, 0).astype(dtype),
        vectors=vectors.astype(dtype),
        errors=errors.astype(dtype),
        residuals=xp.where(held, norms(errors), xp.inf).astype(dtype),
        distances=xp.abs(values - shift).astype(dtype),
    )


class Correction(AbstractExpansion):
    """The direction of `(I - QQᵀ) (A - τ) (I - QQᵀ) t = (I - QQᵀ) r`, solved inexactly.

    A solve that fails leaves what it had; where that is not finite, the direction is the residual.

    Attributes:
        operator: A.
        shift: τ.
        factor: One over the norm of A.
        solver: The linear solver.
    """

    operator: lx.AbstractLinearOperator
    shift: Float[Any, ""]
    factor: Float[Any, ""]
    solver: lx.AbstractLinearSolver

    def __call__(self, residual: PyTree, known: PyTree) -> Any:
        """See `AbstractExpansion`."""
        definite = isinstance(self.solver, lx.CG)
        shifted = ComplementOperator(self.operator, self.shift, self.factor, known, definite)
        right = shifted.project(widen(residual))
        size, norm = tree_size(shifted.in_structure()), tree_norm(right)
        # Root mean square one: absolute tolerances are relative to the system.
        unit = jnp.where(norm > 0, norm, 1) / size**0.5
        right = jax.tree.map(lambda x: (x / unit).astype(x.dtype), right)
        solution = lx.linear_solve(shifted, right, self.solver, throw=False)
        length = tree_norm(solution.value)
        usable = jnp.isfinite(length) & (length > 0)
        short = solution.result == lx.RESULTS.max_steps_reached
        failed = ~usable | ~((solution.result == lx.RESULTS.successful) | short)
        spent = count_products(self.solver, solution.stats, size)
        return tree_where(usable, solution.value, right), jnp.asarray(spent, jnp.int32), failed


def as_shift(shift: Float[Array, ""] | float) -> Float[Array, ""]:
    """The shift as a floating scalar array, so that it can be swept."""
    wanted = "the number, finite and real, next to which eigenvalues are wanted."
    try:
        array = jnp.asarray(shift)
    except TypeError:
        raise TypeError(f"shift={shift!r}: the shift is {wanted}") from None
    if array.ndim:
        raise ValueError(
            f"shift: the shift is {wanted} This one has shape {array.shape}; for several shifts "
            "use jax.vmap."
        )
    known = not isinstance(array, Tracer)
    if jnp.iscomplexobj(array) or (known and not bool(jnp.isfinite(array))):
        raise ValueError(f"shift={shift}: the shift is {wanted}")
    return array if jnp.issubdtype(array.dtype, jnp.floating) else array.astype(float)


class JacobiDavidson(AbstractResidualSolver):
    """Eigenvalues nearest a shift, or at an end, by corrections that are solved inexactly.

    Each step solves, by a few steps of a lineax solver,

        (I - Q Qᵀ) (A - τ) (I - Q Qᵀ) t = -r,

    where r is the residual of the first wanted pair (θ, v) that has not converged, and Q holds v
    and the pairs that have. τ is the shift until `||r||` is under a tenth of `|θ - σ|`, and θ from
    then on (cubic convergence where solved exactly). For "largest" and "smallest" τ is θ, and
    directions are plain residuals (Lanczos) while `||r||` exceeds `switch` times the largest
    `||A v||` seen. Values come by harmonic extraction ("nearest") or as Ritz values (the ends).
    Residuals are those of A itself, whatever became of the linear solves. At the ends `Lanczos` is
    cheaper unless memory is short.

    **Cost.** One product a step and those of the linear solver, all counted in
    `stats["matvecs"]`: exactly for `MINRES`, `lineax.CG` and `lineax.BiCGStab` (to one product a
    solve), from above for `lineax.GMRES` (each cycle in full) and `lineax.LSMR`. The budget
    is looked at between steps, so that one linear solve may exceed it. `stats["failed_solves"]`
    counts linear solves that broke down or stagnated (a step limit does not count: its result is
    used). The nearer the shift to eigenvalues, in units of the width of the spectrum, the more
    products a solve takes: an eigenvalue amid a dense spectrum is dear. In a space of at most
    2 `basis` dimensions there are no linear solves: all of it is searched.

    **Memory.** 2 `basis` vectors, about as many while the space is cut down, those of the linear
    solver (`MINRES` five, `lineax.GMRES` its `restart` + 1), and one linearization.

    **What was overlooked.** When all wanted pairs have converged they are held, and a random
    direction is followed beside them until its best pairs (at an end one, by plain residuals until
    all is settled again, as in `Lanczos`; four inside the spectrum) are known not to be among them:
    a nearer pair or a copy takes its place, and another direction is drawn. Inside the spectrum it
    takes two to three times the products of a solve without. It is evidence, not proof.
    `explore=False` does without, and then `is_top` is false.

    Source: Sleijpen and van der Vorst, *A Jacobi-Davidson iteration method for linear eigenvalue
    problems*, SIAM J. Matrix Anal. Appl. 17 (1996).

    Args:
        shift: σ for "nearest", a number or a scalar array (it can be swept by `vmap`); no effect
            at the ends.
        linear_solver: A lineax solver; `MINRES(rtol=0.1, max_steps=20)` by default. `lineax.CG`
            where `A - σ` is definite, of either sign (you vouch for it).
        basis: How many directions are held, with a vector for the image of each.
        rtol: As in `Lanczos`. For values near zero give `atol`.
        atol: As in `Lanczos`.
        noise: As in `Lanczos`.
        explore: Whether overlooked pairs are looked for.
        switch: See above.

    Raises:
        ValueError: An option out of range; at a solve, a basis too small for k.

    Example:
        >>> from aeoskit.linalg import eigensolve
        >>> operator = lx.DiagonalLinearOperator(jnp.linspace(-4.0, 4.0, 9))
        >>> solution = eigensolve(operator, JacobiDavidson(1.2), which="nearest")
        >>> round(float(solution.values[0]), 3)
        1.0
    """

    ends: ClassVar[tuple[str, ...]] = ("nearest", "largest", "smallest")
    symmetric: ClassVar[bool] = True
    shift: Float[Array, ""] = eqx.field(default=0.0, converter=as_shift)
    linear_solver: lx.AbstractLinearSolver = MINRES(rtol=0.1, max_steps=20)
    basis: int = eqx.field(default=20, static=True)
    rtol: Scalar = 1e-3
    atol: Scalar = 0.0
    noise: Scalar = 0.1
    explore: bool = eqx.field(default=True, static=True)
    switch: Scalar = 0.1

    def __check_init__(self):
        check_numbers(
            self,
            ("rtol", "atol", "noise", "switch"),
            "rtol=1e-3, atol=0, noise=0.1, switch=0.1",
        )
        if self.basis < 3:
            raise ValueError(f"JacobiDavidson(basis={self.basis}): use 3 vectors or more; 20.")

    def default_max_matvecs(self, dimension: int) -> int:
        """200 products for each basis vector."""
        return 200 * self.basis

    def capacity(self, dimension: int, k: int) -> int:
        """A row for each direction and one for its image."""
        least = k + GUARD + 1
        if min(self.basis, dimension) < min(least, dimension):
            raise ValueError(
                f"JacobiDavidson(basis={self.basis}) is too small for k={k}: use basis={least} or "
                "more (2k + 10 is a good choice)."
            )
        return min(2 * self.basis, dimension)

    def rows_a_product(self) -> int:
        """The correction too."""
        return 2

    def _sigma(self, problem: EigenProblem, numerics: Any) -> Any:
        """The shift in units; one that is far outside of the spectrum may as well be nearer."""
        xp = namespace(numerics.unit)
        unit = xp.where(numerics.unit > 0, numerics.unit, 1)
        far = _OUTSIDE * numerics.scale
        return xp.clip(self.shift / unit, -far, far).astype(unit.dtype)

    def begin(
        self, structure: PyTree, problem: EigenProblem, start: Start, count: int, xp: Any
    ) -> Any:
        """The counts of start vectors; no correction yet."""
        extra, *units = super().begin(structure, problem, start, count, xp)
        c, dtype = self.capacity(problem.dimension, problem.k), tree_dtype(structure)
        zero = xp.zeros((), np.int32)
        return dataclasses.replace(extra, new_direction=xp.zeros(c, dtype), failed=zero), *units

    def may_search(self, problem: EigenProblem) -> bool:
        """A search was asked for by `explore`."""
        return self.explore

    def plan_search(self, problem: EigenProblem, start: Start) -> SearchPlan:
        """Also for one pair, and from vectors given: corrections see what they go after."""
        xp = namespace(start.age)
        asked = xp.asarray(self.explore)
        limit = xp.asarray(UNLIMITED, np.int32)
        return SearchPlan(asked, limit, EVIDENCE.fresh_direction, asked)

    def no_pairs(self, c: int, dtype: Any, xp: Any) -> Pairs:
        """With distances, which are used for "nearest"."""
        pairs = super().no_pairs(c, dtype, xp)
        return NearestPairs(
            pairs.values, pairs.vectors, pairs.errors, pairs.residuals, pairs.values
        )

    def small_problem(self, problem: EigenProblem, state: SubspaceState) -> tuple[Pairs, Any]:
        """Harmonic Ritz vectors inside the spectrum."""
        pairs, asymmetry = super().small_problem(problem, state)
        if problem.which != "nearest":
            return NearestPairs(
                pairs.values, pairs.vectors, pairs.errors, pairs.residuals, pairs.values
            ), asymmetry
        return nearest_pairs(
            state.relation, self._sigma(problem, state.numerics), problem.k
        ), asymmetry

    def expand(
        self, operator: lx.AbstractLinearOperator, problem: EigenProblem, state: SubspaceState
    ) -> SubspaceState:
        """The correction for the target; none for the random row that begins a search."""
        relation, pairs, numerics, k = state.relation, state.pairs, state.numerics, problem.k
        xp = namespace(relation.multiplied)
        c = relation.multiplied.shape[0]
        state = dataclasses.replace(
            state,
            extra=dataclasses.replace(state.extra, new_direction=0 * state.extra.new_direction),
        )
        if c >= problem.dimension:
            return state
        index = xp.arange(c)
        target, all_settled = self.target(problem, state)
        unit = xp.where(numerics.unit > 0, numerics.unit, 1)
        value, error = pairs.values[target], pairs.residuals[target]
        wanted = ~self.at_start(state) & (relation.count > 0) & ~state.decision.add_random_row
        if problem.which == "nearest":
            sigma = self._sigma(problem, numerics)
            isolated = (error < _ISOLATED * xp.abs(value - sigma)) & ~all_settled
            value = xp.where(isolated, value, sigma)
        else:
            # What was overlooked is sought as by Lanczos, to the end: what a correction adds is
            # near its target, and shows nothing of what the random row hides elsewhere.
            wanted = wanted & ~state.search.running & ~all_settled
            wanted = wanted & (error <= self.switch * numerics.scale)
        right = pairs.errors[:, target]
        # The pairs before the target have converged; those after it are left alone.
        known = (index < xp.minimum(target, k)) | (index == target)
        known = matmul(
            relation.multiplied, xp.where(known[None, :], pairs.vectors, 0)[:, : k + GUARD]
        )
        factor = 1 / xp.where(numerics.scale > 0, numerics.scale * unit, 1)
        expansion = Correction(operator, value * unit, factor, self.linear_solver)

        def with_expansion(state: SubspaceState) -> SubspaceState:
            basis, new_direction, added, spent, failed = append(
                state.basis, expansion, right, known, relation.size
            )
            extra = dataclasses.replace(
                state.extra,
                new_direction=new_direction,
                failed=(state.extra.failed + failed).astype(np.int32),
            )
            state = dataclasses.replace(state, matvecs=(state.matvecs + spent).astype(np.int32))
            return with_row(state, basis, added, extra)

        return apply_if(wanted, with_expansion, state)

    def shrink(self, problem: EigenProblem, state: SubspaceState) -> Any:
        """The best half of the pairs beyond the wanted; these alone before a search."""
        xp, k = namespace(state.relation.multiplied), problem.k
        c, p = state.relation.multiplied.shape[0], kept_at_restart(self.basis, k)
        if problem.which == "nearest":  # or what a search has to know would never be together
            p = max(p, min(k + interior_candidates(k, c // 2), self.basis - 1))
        count = xp.where(state.decision.shrink, k, p)
        best = xp.where(xp.arange(p) < count, state.pairs.vectors[:, :p], 0)
        return *compress_onto(
            state.relation, state.pairs, count, best, state.numerics.scale, c - 2
        ), state.extra

    def more_stats(self, problem: EigenProblem, state: SubspaceState) -> dict[str, Any]:
        """Linear solves that failed."""
        return {"failed_solves": state.extra.failed}
