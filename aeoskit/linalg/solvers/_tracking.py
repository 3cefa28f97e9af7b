"""Tracking: the solver for an operator that changes a little from solve to solve."""

import dataclasses
from functools import partial
from typing import Any, ClassVar

import equinox as eqx
import lineax as lx
import numpy as np
from jaxtyping import Bool, Float, Int, PyTree

from .._platform import apply_if
from .._results import EVIDENCE, EigenSolution
from ..vectors._tree import pytree_dataclass, tree_dtype, tree_size
from ._arguments import Scalar, Start, check_numbers
from ._convergence import floor, next_candidate, pair_status, select
from ._relation import (
    Relation,
    compress,
    eigh,
    first_direction,
    kept_at_restart,
    least_multiplied,
    matmul,
    namespace,
    norms,
    project_out,
    sorted_eigh,
    squares,
    stack_columns,
)
from ._solver import EigenProblem
from ._subspace import UNLIMITED, AbstractSubspaceSolver, SearchPlan, SubspaceState

# How fast the guesses follow what is measured: the curvature of directions of which nothing is
# known, and the rise of a value from one solve to the next.
_BULK_RATE = 0.1
_DRIFT_RATE = 0.1
# A direction that is older than this (in solves, squared overlap counted) shows drift.
_OLD = 0.5
# A first image that differs from the expected one by this share of either is another operator's.
_FORGET = 0.5
# The least share that the direction of a rise is taken to have in the combination that showed it.
_SHARE = 0.25
# A difference smaller than this share of the model is no sign of a jump.
_ROUGH = 1e-2
# The estimated error of a value, in units of the rise that the model expects, and of residual² over
# the distance to the next value that it knows: at least the error in nine of ten solves of every
# training that was tried (`aeoskit bench accuracy`), with the tolerance of probes.
_RISE, _SPREAD = 3.0, 2.0
# The largest distance to the next value, as a share of the value, that counts there: one that the
# model does not know may be as near, and the vector be a mixture of both.
_GAP = 0.02
# Columns of the explorer: itself, its last change, and, once it was multiplied in this solve, that
# direction and what its image brought.
_SELF, _CHANGE, _STEP, _BROUGHT = range(4)


@pytree_dataclass
class Model:
    """A model of the operator, in coordinates of rows and in units.

    Attributes:
        matrix: F: the projection of the operator, exact on what was multiplied in this solve.
        staleness: G: for a unit direction x, `xᵀGx` is how many solves ago F was measured there.
        bulk: The curvature of directions of which nothing is known.
        weight: How much was seen of these.
        drift: By how much a value rises from solve to solve.
        rates: By how much the value of each row rose a solve when it was last measured; a product
            of a combination of all rows renews all of them.
    """

    matrix: Float[Any, "r r"]
    staleness: Float[Any, "r r"]
    bulk: Float[Any, ""]
    weight: Float[Any, ""]
    drift: Float[Any, ""]
    rates: Float[Any, " r"]


@pytree_dataclass
class TrackingMemory:
    """The memory that a solve leaves to the next one, beside rows.

    Attributes:
        model: Of the rows.
        present: Which rows there are.
        unit: What numbers are divided by.
        scale: The norm of the operator, as far as solves have seen it, each solve by half.
        complete: Whether the wanted pairs were known to be all that there are.
    """

    model: Model
    present: Bool[Any, " r"]
    unit: Float[Any, ""]
    scale: Float[Any, ""]
    complete: Bool[Any, ""]


@pytree_dataclass
class Explorer:
    """A direction that nothing wanted points to, followed from solve to solve.

    Attributes:
        columns: See `_SELF`, `_CHANGE`, `_STEP`, `_BROUGHT`.
        direction: The direction to multiply if one is due: the explorer, or a check.
        checks: Whether it is a check, a combination of all rows kept.
        due: Whether this solve has to spend a product on it.
        explored: Whether it has.
        exploring: Whether the product under way is that one.
    """

    columns: Float[Any, "c 4"]
    direction: Float[Any, " c"]
    checks: Bool[Any, ""]
    due: Bool[Any, ""]
    explored: Bool[Any, ""]
    exploring: Bool[Any, ""]


@pytree_dataclass
class TrackingExtra:
    """The state of `Tracking` beside the relation.

    Attributes:
        model: Of all rows.
        explorer: See there.
        optimistic: The model's vectors with what is old raised, best first.
        gains: By how much the model expects each wanted value to rise.
        errors: The estimated errors of the wanted values.
        given: How many rows are multiplied first: those of the caller, the wanted ones.
        old: How many rows come from the last solve.
        cold: Whether the model grew in this solve alone.
    """

    model: Model
    explorer: Explorer
    optimistic: Float[Any, "c c"]
    gains: Float[Any, " k"]
    errors: Float[Any, " k"]
    given: Int[Any, ""]
    old: Int[Any, ""]
    cold: Bool[Any, ""]


class Tracking(AbstractSubspaceSolver):
    """The top (or bottom) pairs of a symmetric operator that changes a little at every step.

    A solve starts from a *model* of the operator: the pairs wanted and `kept` vectors beyond them,
    with what earlier solves measured on their span. It multiplies the model's best vector (with
    k > 1 all that were wanted last, first); where the product disagrees, the model is corrected by
    the smallest change that agrees (a secant update), and its new best direction is multiplied
    next. So every product goes to where the
    value is expected to rise most, and vectors that were not multiplied still serve: they tell how
    the residual is spread over the cluster at the top. With nothing known (a cold start) the same
    steps are those of Lanczos, copies of eigenvalues included. A typical warm solve takes one to
    three products. Residuals come from the products of the solve itself, never from the model.

    **When it ends.** Each wanted pair has to meet the residual's tolerance, `||A v - θ v|| <=
    rtol |θ| + atol`, without the model expecting a better value; or, with `value_rtol` > 0, the
    estimated error of its value is at most `value_rtol |θ|`. That estimate is of second order in
    the residual, so that at the edge it takes half of the products: the larger of three times the
    rise that the model expects and twice the residual squared over the gap (`estimates`). The gap
    is the model's, a fiftieth of the value at most: one that it does not know may be as near, and
    the vector be a mixture of both. It is no bound: in every training of `aeoskit bench accuracy`,
    before the edge and at it, with a tight cluster under label noise too, it covered nine of ten
    errors or more with `value_rtol=1e-2`; fewer where values cross without being coupled. Such a
    solve ends with `RESULTS.estimate_met`, and `converged` means that either was met. The budget
    `max_matvecs` ends a solve anywhere, with the residuals that were reached.

    **Not locking in.** The model's knowledge of vectors that are not multiplied grows old. So the
    expected value of such a vector is raised for every solve since it was measured, by `optimism`
    times the recent rise of all values or of its own, whichever is larger: it is multiplied before
    it can have overtaken the top one. And in every 2 `explore_every`-th solve a combination of all
    kept vectors is multiplied: what has risen stands out in its image, and is multiplied next.
    Directions that nothing wanted points to are searched by an *explorer*: every
    `explore_every`-th solve spends one product on it (a step of LOBPCG beside the vectors kept),
    and after `renew_every` such products it starts again from a random vector. An eigenvalue that
    comes out of the bulk with no coupling to what is tracked is found when the explorer has turned
    to it; until then the old pair is reported as converged (tried: with a gain of 1 % of the top
    value a solve, all else standing still, one among those kept led unseen for 5 solves, 24 at
    most, one out of the bulk for 12, 24 at most). Along trainings values are coupled: in
    24 of small tanh nets, of which 22 have top values that change places, with `value_rtol=1e-2`,
    all of 2,304 measurements were right to 0.1 %. `explore_every=1` finds what is not coupled
    sooner, for about half a product more a solve.

    **After a jump.** Where the first product is far from what the model expects (by half), it was
    of another operator: everything is forgotten, and the solve is a cold one.

    Memory: `basis` vectors, `kept` + k + 2 in the state, and about four more.

    Args:
        basis: The number of vectors that the solver holds; it restarts when they are used up.
            None: 20, or 3 k + 15 if that is more.
        kept: How many vectors beyond the wanted ones are kept from solve to solve. A state belongs
            to one k and one `kept`; all else may change.
        noise: The length of the random vector that is added to the first of the unit vectors that
            a caller gives: without it, a start that lacks the wanted vector would never meet it.
        rtol: See above; a tolerance under the floor of rounding ends in `RESULTS.stagnation`.
        atol: See `rtol`.
        value_rtol: See above; 0 asks for residuals.
        optimism: The factor on the recent rise that is added to old values. 0: none.
        explore_every: 0: never.
        renew_every: 0: never.

    Raises:
        ValueError: An option out of range; at a solve, a basis too small for k.

    Source: Powell's symmetric secant update (1970); Davidson's expansion (1975), with the model.

    Example:
        >>> import jax.numpy as jnp
        >>> from aeoskit.linalg import eigensolve
        >>> operator = lx.DiagonalLinearOperator(jnp.array([1.0, 4.0, 2.0, 3.0]))
        >>> first = eigensolve(operator, Tracking())
        >>> moved = lx.DiagonalLinearOperator(jnp.array([1.0, 4.1, 2.0, 3.0]))
        >>> second = eigensolve(moved, Tracking(), start=first.state)
        >>> round(float(second.values[0]), 4), int(second.stats["matvecs"])
        (4.1, 1)
    """

    ends: ClassVar[tuple[str, ...]] = ("largest", "smallest")
    symmetric: ClassVar[bool] = True
    basis: int | None = eqx.field(default=None, static=True)
    kept: int = eqx.field(default=7, static=True)
    rtol: Scalar = 1e-3
    atol: Scalar = 0.0
    value_rtol: Scalar = 0.0
    optimism: Scalar = 1.0
    noise: Scalar = 0.1
    explore_every: int = eqx.field(default=4, static=True)
    renew_every: int = eqx.field(default=16, static=True)

    def __check_init__(self):
        check_numbers(
            self,
            ("rtol", "atol", "value_rtol", "optimism", "noise"),
            "rtol=1e-3, atol=0, value_rtol=0, optimism=1.0, noise=0.1",
        )
        for name, least in (("basis", 3), ("kept", 0), ("explore_every", 0), ("renew_every", 0)):
            count = getattr(self, name)
            if count is not None and count < least:
                raise ValueError(
                    f"Tracking({name}={count}): at least {least}; the defaults are basis=None, "
                    "kept=7, explore_every=4, renew_every=16."
                )

    def default_max_matvecs(self, dimension: int) -> int:
        """20 products for each vector of `basis`; 400 if that is None."""
        return 20 * (self.basis or 20)

    def block_size(self, structure: PyTree, k: int) -> int:
        """The wanted pairs, those kept, the explorer and its last change."""
        return min(k + self.kept + 2, tree_size(structure))

    def blank_memory(self, structure: PyTree, k: int) -> TrackingMemory:
        """A model that knows nothing."""
        rows, dtype = self.block_size(structure, k), tree_dtype(structure)
        square, zero = np.zeros((rows, rows), dtype), np.zeros((), dtype)
        return TrackingMemory(
            model=Model(square, square, zero, zero, zero, np.zeros(rows, dtype)),
            present=np.zeros(rows, bool),
            unit=zero,
            scale=zero,
            complete=np.asarray(True),
        )

    def capacity(self, dimension: int, k: int) -> int:
        """`basis` rows."""
        basis = max(20, 3 * k + 15) if self.basis is None else self.basis
        rows = min(k + self.kept + 2, dimension)
        # Two rows may be empty: no explorer.
        c = min(basis, dimension + 2)
        if c < min(rows + max(2, k), dimension):
            raise ValueError(
                f"Tracking(basis={self.basis}, kept={self.kept}) is too small for k={k}: use "
                f"basis={rows + max(2, k)} or more (or None), or a smaller kept."
            )
        return c

    def start_vectors_used(self, k: int, dimension: int) -> int:
        """As many as are kept."""
        return min(k + self.kept, dimension)

    def _best_rows(self, rows: int, dimension: int) -> int:
        return rows if rows == dimension else rows - 2

    def may_search(self, problem: EigenProblem) -> bool:
        """Copies are looked for with k > 1."""
        return problem.k > 1

    def begin(
        self, structure: PyTree, problem: EigenProblem, start: Start, count: int, xp: Any
    ) -> Any:
        """The model of the last solve, a solve older."""
        k, dtype = problem.k, tree_dtype(structure)
        c, rows = self.capacity(problem.dimension, k), self.block_size(structure, k)
        best = self._best_rows(rows, problem.dimension)
        memory = self._memory(start, structure, k, xp)
        cold = xp.asarray(start.fresh | (start.memory is None))
        wider = ((0, c - rows), (0, c - rows))
        age = xp.where(cold, 0, start.age + 1)
        explores = self.explore_every > 0 and best < rows
        every = max(self.explore_every, 1)
        checks = ~cold & (age % (2 * every) == every // 2)
        checks = checks & (self.explore_every > 0 and self.kept > 0)
        due = (~cold & (age % every == 0) & explores) | checks
        columns = np.zeros((c, 4), dtype)
        if best < rows:
            columns[best, _SELF] = columns[best + 1, _CHANGE] = 1
        grown = np.diag((np.arange(c) < best).astype(dtype))
        zero = xp.zeros((), dtype)
        known, present = xp.where(cold, 0, 1).astype(dtype), memory.present.astype(dtype)
        columns = known * columns * xp.pad(present, wider[0])[:, None]
        kept = xp.where(np.arange(c) < best, _signs(age, c, xp), 0).astype(dtype)
        kept = kept * xp.pad(present, wider[0])
        no = xp.asarray(False)
        again = xp.where(cold | (k == 1), 0, xp.minimum(memory.present.sum(), k))
        extra = TrackingExtra(
            model=dataclasses.replace(
                memory.model,
                matrix=known * xp.pad(memory.model.matrix, wider),
                staleness=known * (xp.pad(memory.model.staleness, wider) + grown),
                rates=known * xp.pad(memory.model.rates, wider[0]),
            ),
            explorer=Explorer(
                columns, xp.where(checks, kept, columns[:, _SELF]), xp.asarray(checks), due, no, no
            ),
            optimistic=xp.eye(c, dtype=dtype),
            gains=xp.full(k, xp.inf, dtype),
            errors=xp.full(k, xp.inf, dtype),
            # Of several wanted vectors each is multiplied: after a jump of all values one that is
            # not would be taken for the lower one that it was.
            given=xp.asarray(count if start.memory is None else again, np.int32),
            old=xp.asarray(xp.where(cold, 0, rows), np.int32),
            cold=cold,
        )
        return extra, xp.where(cold, zero, memory.unit), xp.where(cold, zero, memory.scale)

    def _memory(self, start: Start, structure: PyTree, k: int, xp: Any) -> TrackingMemory:
        if start.memory is not None:
            return start.memory
        rows, dtype = self.block_size(structure, k), tree_dtype(structure)
        square, zero = xp.zeros((rows, rows), dtype), xp.zeros((), dtype)
        blank = Model(square, square, zero, zero, zero, square[0])
        return TrackingMemory(blank, xp.zeros(rows, bool), zero, zero, xp.asarray(True))

    def plan_search(self, problem: EigenProblem, start: Start) -> SearchPlan:
        """Copies at a cold start; later the explorer."""
        xp = namespace(start.age)
        no = xp.asarray(False)
        limit = xp.asarray(UNLIMITED, np.int32)
        if start.memory is None:
            return SearchPlan(no, limit, EVIDENCE.none, no)
        several = problem.k > 1
        cold = EVIDENCE.fresh_direction if several else EVIDENCE.random_start
        explores = self.explore_every > 0
        warm = EVIDENCE.followed_direction if explores else EVIDENCE.none
        asked = (start.fresh | ~start.memory.complete) & several
        return SearchPlan(
            asked=asked,
            limit=limit,
            evidence=select(asked | start.fresh, cold, warm),
            trusted=asked | start.fresh | explores,
        )

    def direction(self, problem: EigenProblem, state: SubspaceState) -> tuple[Any, Any, Any]:
        """The model's best direction for the first wanted pair that is not settled."""
        relation, extra = state.relation, state.extra
        xp = namespace(relation.multiplied)
        c = relation.multiplied.shape[0]
        index, dtype = xp.arange(c), relation.multiplied.dtype
        settled = self._each(problem, state)[0]
        all_settled = xp.all(settled)
        target = xp.argmin(settled)
        at_start = state.matvecs < extra.given
        explore = all_settled & extra.explorer.due & ~extra.explorer.explored & ~at_start
        # An explorer that is no more is the random row that was drawn for it.
        plain = at_start | state.decision.add_random_row
        row = xp.where(at_start, state.matvecs, relation.size - 1)
        main = extra.optimistic[:, target]
        residual = state.pairs.errors[:, target]
        if self.may_search(problem):
            beyond = next_candidate(
                problem, self.rtol, self.atol, state.pairs, state.numerics, state.search
            )
            residual = xp.where(all_settled, state.pairs.errors[:, beyond], residual)
            main = xp.where(all_settled, residual, main)
        main = xp.where(explore, extra.explorer.direction, main)
        main = xp.where(
            plain, self.row_direction(state, row, at_start | explore).astype(dtype), main
        )
        # What has not been multiplied at all, the last row in general.
        last = (index == least_multiplied(relation)).astype(dtype)
        x, which = first_direction(relation, main, residual, last)
        # Where nothing was left of that direction, the product is of something else.
        is_explorer = (which == 0) & ~(extra.explorer.checks & plain)
        explorer = dataclasses.replace(
            extra.explorer,
            exploring=explore & is_explorer,
            explored=extra.explorer.explored | explore,
        )
        extra = dataclasses.replace(extra, explorer=explorer)
        return x, xp.asarray(-1, np.int32), extra

    def learn(self, problem: EigenProblem, state: SubspaceState, x: Any, product: Any):
        """The model that agrees with the product and changes least elsewhere (Frobenius).

        A combination of the rows kept is the exception: what it shows to rise is believed to rise.
        The symmetric update of Powell (1970): `F + (I - xxᵀ)(y - Fx)xᵀ + x(y - Fx)ᵀ`, for unit x.
        """
        extra, relation = state.extra, state.relation
        xp, index = namespace(x), np.arange(x.shape[0])
        model, explorer, finite = extra.model, extra.explorer, product.finite
        sign = -1.0 if problem.which == "smallest" else 1.0
        checking = explorer.exploring & explorer.checks
        held = index < extra.old
        # F x and G x: what was expected of the product, and how old that is.
        pair = stack_columns(x, product.image)
        expected, stale = matmul(model.matrix, pair), matmul(model.staleness, pair)
        plain, modeled = matmul(pair.T, pair), matmul(pair.T, expected)
        before = matmul(expected.T, expected)[0, 0]
        oldness = xp.where(finite, matmul(pair.T, stale)[0, 0], 0)
        error = plain[0, 1] - modeled[0, 0]
        change = xp.where(finite, product.image - expected[:, 0], 0)
        old = xp.where(held, x, 0)
        # Of rows that were combined one has risen: an update of rank one has all of its rise. What
        # was measured in this solve stays, but for x, which `multiplied` has by now.
        parts = stack_columns(old, xp.where(checking & held, change, 0), x)
        inside = matmul(relation.multiplied.T, parts)
        whole, within = matmul(parts.T, parts), matmul(inside.T, inside)
        moved = parts[:, 1] - matmul(relation.multiplied, inside)[:, 1] + whole[1, 2] * x
        rise, length = sign * whole[1, 2], whole[1, 1] - within[1, 1] + whole[1, 2] ** 2
        # A difference of squares: under its rounding it is not known.
        length = xp.sqrt(xp.maximum(length, 100 * np.finfo(x.dtype).eps * whole[1, 1]))
        over = xp.where(rise > 0, 1 / xp.maximum(xp.maximum(rise, _SHARE * length), 1e-30), 0)
        # What share of x the model knew nothing about.
        unknown = xp.maximum(whole[2, 2] - whole[0, 0], 0)
        first = (state.matvecs == 1) & (model.weight == 0)
        rate = xp.maximum(_BULK_RATE, 1 / (1 + model.weight))
        bulk = xp.where(first, plain[0, 1], model.bulk + rate * unknown * error)
        new = (index == relation.size - 1) & product.added
        # By row, so that the rise of one is not diluted by the others, as it is in the drift.
        ages = xp.maximum(xp.diagonal(model.staleness), _OLD)
        risen = xp.maximum(sign * change * old, 0) / ages - old * old * model.rates
        informative = (oldness > _OLD) & (~explorer.exploring | checking) & finite
        lately = xp.maximum(sign * error, 0) / xp.maximum(oldness, _OLD)
        drift = model.drift + xp.where(informative, _DRIFT_RATE * (lately - model.drift), 0)
        rates = model.rates + xp.where(informative, risen / xp.maximum(xp.max(old * old), 1e-30), 0)
        # A first image that is far from the expected one.
        away = plain[1, 1] - 2 * modeled[1, 0] + before
        seen = xp.maximum(product.norm, xp.sqrt(before))
        seen = xp.maximum(_FORGET * seen, _ROUGH * xp.sqrt(squares(model.matrix).sum()))
        forget = (xp.sqrt(xp.maximum(away, 0)) > seen) & finite & (state.matvecs == 1) & ~extra.cold

        def secant(matrix: Any, change: Any, along: Any) -> Any:
            rotated = change - along * x
            return matrix + change[:, None] * x[None, :] + x[:, None] * rotated[None, :]

        change = change - (rise * over) * moved
        along = xp.where(finite, error, 0) - (rise * over) * whole[1, 2]
        matrix = secant(model.matrix, change, along) + xp.diag(xp.where(new, model.bulk, 0))
        matrix = matrix + (sign * over) * (moved[:, None] * moved[None, :])
        staleness = secant(model.staleness, -xp.where(finite, stale[:, 0], 0), -oldness)
        column = np.arange(4)[None, :]
        stepped = xp.where(column == _STEP, x[:, None], explorer.columns)
        stepped = xp.where(column == _BROUGHT, new[:, None].astype(x.dtype), stepped)
        steps = explorer.exploring & ~explorer.checks
        extra = dataclasses.replace(
            extra,
            model=Model(
                matrix=matrix,
                staleness=staleness,
                bulk=xp.where(finite, bulk, model.bulk),
                weight=xp.minimum(model.weight + xp.where(first, 1, unknown), 1e3),
                drift=drift,
                rates=rates,
            ),
            explorer=dataclasses.replace(
                explorer,
                columns=xp.where(steps, stepped, explorer.columns),
            ),
        )
        state = dataclasses.replace(state, extra=extra)
        small = dataclasses.replace(state, basis=None)
        small = apply_if(forget, partial(_reset, self.may_search(problem)), small)
        return dataclasses.replace(small, basis=state.basis)

    def analyze(self, problem: EigenProblem, state: SubspaceState) -> Any:
        """The model's vectors, and what it expects of the wanted values."""
        extra, k = state.extra, problem.k
        xp = namespace(extra.optimistic)
        sign = -1.0 if problem.which == "smallest" else 1.0
        rates = xp.sqrt(xp.maximum(extra.model.drift, extra.model.rates))
        raised = (sign * self.optimism) * (rates[:, None] * extra.model.staleness * rates[None, :])
        raised_matrix = extra.model.matrix + raised
        bound = xp.sqrt(squares(raised_matrix).sum()) + 1e-30
        values, optimistic = sorted_eigh(
            raised_matrix, state.relation.present, bound, problem.which
        )
        held = xp.arange(k) < state.relation.count
        gains = xp.maximum(sign * (values[:k] - state.pairs.values[:k]), 0)
        gains = xp.where(held, gains, xp.inf).astype(values.dtype)
        residuals = state.pairs.residuals[:k]
        # What is next, as it was measured.
        raises = xp.diagonal(matmul(optimistic.T, matmul(raised, optimistic)))
        beyond = xp.max(sign * (values - raises)[k:], initial=-xp.inf)
        tops = sign * state.pairs.values[:k]
        gap = xp.maximum(xp.minimum(tops - beyond, _GAP * xp.abs(tops)), 1e-30)
        spread = xp.minimum(_SPREAD * residuals**2 / gap, residuals)
        errors = xp.maximum(_RISE * gains, spread)
        return dataclasses.replace(extra, optimistic=optimistic, gains=gains, errors=errors)

    def finish(
        self,
        operator: lx.AbstractLinearOperator,
        problem: EigenProblem,
        state: SubspaceState,
        start: Start,
    ) -> EigenSolution:
        """As for every method; a solve that forgot everything was a cold one."""
        start = dataclasses.replace(start, fresh=start.fresh | state.extra.cold)
        return super().finish(operator, problem, state, start)

    def wants_random(self, problem: EigenProblem, state: SubspaceState) -> Any:
        """At a cold start, and where the explorer is due and there is none."""
        extra = state.extra
        xp = namespace(extra.optimistic)
        lacks = extra.explorer.due & ~extra.explorer.explored & ~extra.explorer.checks
        lacks = lacks & ~xp.any(extra.explorer.columns[:, _SELF] != 0)
        all_settled = xp.all(self._each(problem, state)[0])
        return (state.relation.size == 0) | (lacks & all_settled)

    def _each(self, problem: EigenProblem, state: SubspaceState) -> tuple[Any, Any]:
        """By wanted pair: whether it is good enough; whether by the estimate of its value."""
        extra, k = state.extra, problem.k
        xp = namespace(extra.gains)
        _, small = pair_status(self.rtol, self.atol, state.pairs, state.numerics)
        # A pair that has converged while the model sees a better one is not the one wanted.
        consistent = extra.gains <= 2 * state.pairs.residuals[:k] + floor(state.numerics)
        # A model that grew in this solve alone knows too little for an estimate.
        allowed = self.value_rtol * xp.abs(state.pairs.values[:k])
        met = (self.expected_errors(problem, state) <= allowed) & (~extra.cold | small[:k])
        return (small[:k] & consistent) | met, met

    def settled(self, problem: EigenProblem, state: SubspaceState) -> tuple[Any, Any]:
        """All wanted pairs, given rows and the explorer where it is due."""
        each, met = self._each(problem, state)
        extra = state.extra
        enough = namespace(each).all(each) & (state.relation.count >= problem.k)
        searched = extra.explorer.explored | ~extra.explorer.due
        return enough & searched & (state.matvecs >= extra.given), met

    def expected_errors(self, problem: EigenProblem, state: SubspaceState) -> Any:
        """The rise that the model expects, or the residual's estimate with the model's gap."""
        return state.extra.errors + state.numerics.error * state.numerics.scale

    def shrink(self, problem: EigenProblem, state: SubspaceState) -> Any:
        """The wanted pairs, exact, and the model's best; with nothing but the exact, as Lanczos.

        Elsewhere than on the pairs kept the model keeps its values, as a model.
        """
        relation, extra, k = state.relation, state.extra, problem.k
        xp = namespace(relation.multiplied)
        c = relation.multiplied.shape[0]
        not_multiplied = relation.present.sum() - relation.count
        half = min(max(2 * k + 5, (c + 1) // 2), c - 2)
        largest = min(max(half, (3 * c) // 4), c - 2)
        most = xp.where(state.decision.shrink, half, largest)
        exact = xp.clip(most - not_multiplied, k, kept_at_restart(c - 1, k))
        kept = xp.where(state.decision.shrink, k, exact)
        sign = -1.0 if problem.which == "smallest" else 1.0
        size = xp.sqrt(squares(extra.model.matrix).sum()) + 1e-30
        explorer = extra.explorer.columns
        preference = (sign / size) * extra.model.matrix + matmul(explorer, explorer.T)
        preference = preference + 2 * matmul(extra.optimistic[:, :k], extra.optimistic[:, :k].T)
        relation, pairs, columns, lost = compress(
            relation, state.pairs, kept, most, xp.eye(c, dtype=size.dtype) + preference
        )

        def rotated(matrix: Any) -> Any:
            return matmul(columns.T, matmul(matrix, columns))

        extra = dataclasses.replace(
            extra,
            model=dataclasses.replace(
                extra.model,
                matrix=rotated(extra.model.matrix),
                staleness=rotated(extra.model.staleness),
                rates=_combined_rates(columns, extra.model.rates),
            ),
            explorer=dataclasses.replace(
                extra.explorer,
                columns=matmul(columns.T, explorer),
                direction=matmul(columns.T, extra.explorer.direction),
            ),
            optimistic=matmul(columns.T, extra.optimistic),
            old=relation.size,
        )
        return relation, pairs, columns[:, :largest], lost, extra

    def remember(self, problem: EigenProblem, state: SubspaceState, start: Start, rows: int) -> Any:
        """The model's best vectors and the explorer, and the model on their span."""
        extra, present = state.extra, state.relation.present
        xp = namespace(extra.optimistic)
        best = self._best_rows(rows, problem.dimension)
        matrix = extra.model.matrix
        bound = xp.sqrt(squares(matrix).sum()) + 1e-30
        columns = sorted_eigh(matrix, present, bound, problem.which)[1][:, :best]
        columns = xp.where((xp.arange(best) < present.sum())[None, :], columns, 0)
        columns = xp.where(present[:, None], columns, 0)
        age = xp.where(extra.cold, 0, start.age + 1)
        if best < rows:
            renew = xp.asarray(False)
            if self.explore_every > 0 and self.renew_every > 0:
                renew = extra.explorer.explored & (
                    age % (self.explore_every * self.renew_every) == 0
                )
            sign = -1.0 if problem.which == "smallest" else 1.0
            moved = _next_explorer(extra.explorer.columns, columns, sign * matrix)
            columns = xp.concatenate([columns, xp.where(renew, 0, moved)], axis=1)
        columns = columns.astype(matrix.dtype)

        def projected_onto(matrix: Any) -> Any:
            small = matmul(columns.T, matmul(matrix, columns))
            return (small + small.T) / 2

        model = dataclasses.replace(
            extra.model,
            matrix=projected_onto(extra.model.matrix),
            staleness=projected_onto(extra.model.staleness),
            rates=_combined_rates(columns, extra.model.rates),
        )
        present = xp.any(columns != 0, axis=0)
        complete = ~state.search.asked | state.search.passed
        numerics = state.numerics
        memory = TrackingMemory(model, present, numerics.unit, numerics.scale / 2, complete)
        return columns, memory, age


def _combined_rates(columns: Any, rates: Any) -> Any:
    """The rates of combinations of rows."""
    return matmul((columns * columns).T, rates[:, None])[:, 0]


def _signs(age: Any, count: int, xp: Any) -> Any:
    """Signs that look random, other ones at each age, so that nothing cancels twice."""
    mixed = (xp.asarray(age, np.uint32) + np.uint32(1)) * (
        np.uint32(2654435761) * np.arange(1, 2 * count, 2, dtype=np.uint32)
    )
    mixed = (mixed ^ (mixed >> np.uint32(15))) * np.uint32(2246822519)
    return 1.0 - 2.0 * (mixed >> np.uint32(31))


def _reset(several: bool, state: SubspaceState) -> SubspaceState:
    """The state before anything was known."""
    extra, relation, numerics = state.extra, state.relation, state.numerics
    xp = namespace(relation.multiplied)

    def cleared(x: Any) -> Any:
        return xp.zeros_like(x)

    blank = [cleared(x) for x in (extra.model.matrix, extra.model.bulk)]
    return dataclasses.replace(
        state,
        relation=Relation(
            cleared(relation.multiplied),
            cleared(relation.images),
            cleared(relation.present),
            cleared(relation.size),
            cleared(relation.count),
        ),
        numerics=dataclasses.replace(
            numerics,
            unit=cleared(numerics.unit),
            scale=cleared(numerics.scale),
            lost=cleared(numerics.lost),
        ),
        # Not known to be all that there are, any more.
        search=dataclasses.replace(state.search, asked=xp.full_like(state.search.asked, several)),
        extra=dataclasses.replace(
            extra,
            model=Model(blank[0], blank[0], blank[1], blank[1], blank[1], blank[0][0]),
            explorer=dataclasses.replace(
                extra.explorer,
                columns=cleared(extra.explorer.columns),
                direction=cleared(extra.explorer.direction),
                due=cleared(extra.explorer.due),
            ),
            given=cleared(extra.given),
            old=cleared(extra.old),
            cold=xp.ones_like(extra.cold),
        ),
    )


def _next_explorer(columns: Any, best: Any, matrix: Any) -> Any:
    """The explorer and its last change for the next solve: a step of a conjugate-gradient kind.

    Once multiplied, the explorer becomes the best direction, beside the model's best, in the span
    of itself, what its image brought and its last change (LOBPCG for one vector). A column of zeros
    asks for a random vector.
    """
    xp = namespace(columns)
    # What spans the step, and what was the explorer before it, as combinations of the columns.
    choice = np.zeros((2, 4, 4), columns.dtype)
    choice[0, [_SELF, _CHANGE], [0, 3]] = 1
    choice[1, [_STEP, _BROUGHT, _CHANGE, _STEP], [0, 1, 2, 3]] = 1
    stepped = xp.any(columns[:, _STEP] != 0)
    vectors = project_out(best, matmul(columns, xp.where(stepped, choice[1], choice[0])))
    last = np.array([[0, 0, 0, 1]], vectors.dtype)
    span = vectors * (1 - last)
    # An orthonormal basis of the span, dependent directions left out.
    weights, turn = eigh(matmul(span.T, span))
    known = weights > 1e-6
    axes = matmul(span, turn / xp.sqrt(xp.where(known, weights, xp.inf))[None, :])
    small = matmul(axes.T, matmul(matrix, axes))
    below = xp.where(known, 0, xp.abs(small).sum() + 1)
    _, rotation = eigh((small + small.T) / 2 - xp.diag(below))
    moved = matmul(axes, rotation * last)
    change = project_out(moved, vectors * last)
    length = norms(change)[None, :]
    change = xp.where(length > 1e-3, change / xp.where(length > 1e-3, length, 1), 0)
    return xp.concatenate([moved[:, 3:], change[:, 3:]], axis=1)
