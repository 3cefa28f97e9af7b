"""The common part of methods that multiply residuals: Lanczos, LOBPCG, Jacobi-Davidson."""

import dataclasses
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float, Int, PyTree

from .._results import EVIDENCE
from ..vectors._tree import pytree_dataclass, tree_size
from ._arguments import Start
from ._convergence import next_candidate, pair_status, select
from ._relation import first_direction, least_multiplied, matmul, namespace
from ._solver import EigenProblem
from ._subspace import UNLIMITED, AbstractSubspaceSolver, SearchPlan, SubspaceState

# Vectors beyond the wanted ones that a warm start keeps: residuals have their share in them, and so
# two values are seen to change places.
GUARD = 2


@pytree_dataclass
class ResidualMemory:
    """The rows of the block that hold a vector."""

    present: Bool[Any, " r"]


@pytree_dataclass
class ResidualExtra:
    """The state of these methods beside the relation.

    Attributes:
        random, given: How many such rows a solve begins with, each of which has its product.
        new_direction: The direction that the method made of a residual; zero: none.
        before: The wanted pairs' vectors before the last product.
        failed: How many linear solves did.
    """

    random: Int[Any, ""]
    given: Int[Any, ""]
    new_direction: Float[Any, " c"] | None = None
    before: Float[Any, "c k"] | None = None
    failed: Int[Any, ""] | None = None


class AbstractResidualSolver(AbstractSubspaceSolver):
    """Multiplies the residual of the first wanted pair that is not settled, or what it makes of it.

    A solve begins with the vectors that are given, or with random ones; it ends when the wanted
    pairs have settled and the search for overlooked ones has found nothing.
    """

    explore: eqx.AbstractVar[int]

    def looks_for_copies(self) -> bool:
        """True if a solve for several pairs does."""
        return True

    def random_rows(self) -> int:
        """The number of random vectors of a cold start."""
        return 1

    def block_size(self, structure: PyTree, k: int) -> int:
        """The wanted vectors and two more."""
        return min(k + GUARD, tree_size(structure))

    def blank_memory(self, structure: PyTree, k: int) -> ResidualMemory:
        """No rows."""
        return ResidualMemory(present=np.zeros(self.block_size(structure, k), bool))

    def may_search(self, problem: EigenProblem) -> bool:
        """Copies are looked for with k > 1, and what a warm start may lack."""
        return self.looks_for_copies() if problem.k > 1 else self.explore > 0

    def begin(
        self, structure: PyTree, problem: EigenProblem, start: Start, count: int, xp: Any
    ) -> Any:
        """The counts of start vectors; numbers are in units of the first product."""
        if start.memory is None:
            none = xp.zeros((), np.int32)
            return ResidualExtra(random=none, given=xp.asarray(count, np.int32)), 0.0, 0.0
        present = xp.sum(start.memory.present[: problem.k])
        cold = start.fresh | (present == 0)
        return (
            ResidualExtra(
                random=xp.where(cold, self.random_rows(), 0).astype(np.int32),
                given=xp.where(cold, 0, present).astype(np.int32),
            ),
            0.0,
            0.0,
        )

    def plan_search(self, problem: EigenProblem, start: Start) -> SearchPlan:
        """Copies, and beside a warm start what it may lack."""
        xp = namespace(start.age)
        several = problem.k > 1
        if start.memory is None:
            no = xp.asarray(False)
            return SearchPlan(no, xp.zeros((), np.int32), EVIDENCE.none, no)
        copies = self.looks_for_copies()
        looked = several and copies
        asked = xp.where(start.fresh, looked, copies if several else self.explore > 0)
        limit = UNLIMITED if several else self.explore
        found = EVIDENCE.fresh_direction
        if not looked:
            cold = EVIDENCE.random_start if self.random_rows() == 1 else EVIDENCE.block
            found = select(start.fresh, cold, found)
        # Without a search a block sees as many copies as it has vectors.
        cold = not several or self.random_rows() >= problem.k
        return SearchPlan(
            asked=asked,
            limit=xp.asarray(limit, np.int32),
            evidence=found,
            trusted=asked | (start.fresh & cold),
        )

    def target(self, problem: EigenProblem, state: SubspaceState) -> tuple[Any, Any]:
        """The rank of the pair to go after: the first wanted one that is not settled, or the first
        beyond them that may be one of them; and which it is.
        """
        relation, k = state.relation, problem.k
        xp = namespace(relation.multiplied)
        index = xp.arange(relation.multiplied.shape[0])
        _, settled = pair_status(self.rtol, self.atol, state.pairs, state.numerics)
        wanted = (index < k) & ~settled & (index < relation.count)
        beyond = next_candidate(
            problem, self.rtol, self.atol, state.pairs, state.numerics, state.search
        )
        all_settled = ~xp.any(wanted)
        return xp.where(all_settled, beyond, xp.argmax(wanted)), all_settled

    def at_start(self, state: SubspaceState) -> Any:
        """True while vectors that were given are still to be multiplied."""
        return state.matvecs < state.extra.given

    def direction(self, problem: EigenProblem, state: SubspaceState) -> tuple[Any, Any, Any]:
        """A start vector while there are any; a random row; the residual that is wanted most."""
        relation, extra = state.relation, state.extra
        xp = namespace(relation.multiplied)
        index = xp.arange(relation.multiplied.shape[0])
        at_start = self.at_start(state)
        row = xp.where(at_start, state.matvecs, relation.size - 1)
        plain = at_start | state.decision.add_random_row
        # A random row takes what the last solve saw beyond the wanted: that grows in time.
        guards = (index >= extra.given) & (index < extra.given + GUARD) & relation.present
        guards = guards & ~at_start & (extra.given > 0) & (state.restarts == 0)
        rows = (self.row_direction(state, row, at_start) | guards).astype(relation.multiplied.dtype)
        residual = xp.where(plain, rows, state.pairs.errors[:, self.target(problem, state)[0]])
        # Where that is of no use, what has been multiplied least.
        last = (index == least_multiplied(relation)).astype(residual.dtype)
        given = [] if extra.new_direction is None else [extra.new_direction]
        x, _ = first_direction(relation, *given, residual, last)
        far = relation.size > 2 if extra.new_direction is None else relation.size < 0
        return x, xp.where(far, relation.size - 2, -1), extra

    def wants_random(self, problem: EigenProblem, state: SubspaceState) -> Any:
        """While a cold start has not all its vectors."""
        return state.matvecs < state.extra.random

    def learn(self, problem: EigenProblem, state: SubspaceState, x: Any, product: Any) -> Any:
        """Keeps the vectors that were wanted before this product."""
        extra, k, vectors = state.extra, problem.k, state.pairs.vectors
        if extra.before is None or vectors.shape[1] < 2 * k:
            return state
        # While others are looked for, the wanted pairs do not change.
        before = namespace(vectors).where(
            state.search.running, vectors[:, k : 2 * k], vectors[:, :k]
        )
        return dataclasses.replace(state, extra=dataclasses.replace(extra, before=before))

    def settled(self, problem: EigenProblem, state: SubspaceState) -> tuple[Any, Any]:
        """All k pairs, and every start vector had its product."""
        k = problem.k
        _, settled = pair_status(self.rtol, self.atol, state.pairs, state.numerics)
        xp = namespace(settled)
        enough = xp.all(settled[:k]) & (state.relation.count >= k)
        return enough & (state.matvecs >= state.extra.random + state.extra.given), None

    def remember(self, problem: EigenProblem, state: SubspaceState, start: Start, rows: int) -> Any:
        """The wanted vectors and the next ones."""
        xp = namespace(state.relation.multiplied)
        columns = matmul(state.relation.multiplied, state.pairs.vectors[:, :rows])
        missing = rows - columns.shape[1]
        if missing > 0:
            columns = xp.pad(columns, ((0, 0), (0, missing)))
        present = (xp.arange(rows) < state.relation.count) & state.numerics.finite
        return columns, ResidualMemory(present=present), xp.zeros((), np.int32)


def with_row(state: SubspaceState, basis: PyTree, added: Any, extra: Any) -> SubspaceState:
    """The state with a row that was appended, unless nothing was."""
    relation = state.relation
    index = namespace(relation.multiplied).arange(relation.multiplied.shape[0])
    relation = dataclasses.replace(
        relation,
        present=relation.present | ((index == relation.size) & added),
        size=(relation.size + added).astype(relation.size.dtype),
    )
    return dataclasses.replace(state, basis=basis, relation=relation, extra=extra)
