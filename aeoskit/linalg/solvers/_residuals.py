"""The common part of methods that go after residuals: Lanczos, LOBPCG, Jacobi-Davidson."""

import dataclasses
from typing import Any

import equinox as eqx
import numpy as np
from jaxtyping import Bool, Float, Int, PyTree

from .._results import EVIDENCE
from ..vectors._tree import record, tree_size
from ._question import Start
from ._relation import first_direction, least_tried, matmul, namespace
from ._solver import EigenProblem
from ._subspace import WITHOUT_END, AbstractSubspaceSolver, Search, SubspaceState
from ._verdict import first_match, select, standing

# Vectors beyond the wanted ones that a warm start keeps: residuals have their share in them, and so
# two values are seen to change places.
GUARD = 2


@record
class ResidualMemory:
    """The rows of the block that hold a vector."""

    there: Bool[Any, " r"]


@record
class ResidualOwn:
    """Beside the relation.

    Attributes:
        random, given: How many such rows a solve begins with, each of which has its product.
        toward: The direction that the method made of a residual; zero: none.
        before: The wanted pairs' vectors before the last product.
        failed: How many linear solves did.
    """

    random: Int[Any, ""]
    given: Int[Any, ""]
    toward: Float[Any, " c"] | None = None
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
        return ResidualMemory(there=np.zeros(self.block_size(structure, k), bool))

    def may_search(self, problem: EigenProblem) -> bool:
        """Copies are looked for with k > 1, and what a warm start may lack."""
        return self.looks_for_copies() if problem.k > 1 else self.explore > 0

    def begin(
        self, structure: PyTree, problem: EigenProblem, start: Start, count: int, xp: Any
    ) -> Any:
        """The counts of start vectors; numbers are in units of the first product."""
        if start.memory is None:
            none = xp.zeros((), np.int32)
            return ResidualOwn(random=none, given=xp.asarray(count, np.int32)), 0.0, 0.0
        there = xp.sum(start.memory.there[: problem.k])
        cold = start.fresh | (there == 0)
        return (
            ResidualOwn(
                random=xp.where(cold, self.random_rows(), 0).astype(np.int32),
                given=xp.where(cold, 0, there).astype(np.int32),
            ),
            0.0,
            0.0,
        )

    def search(self, problem: EigenProblem, start: Start) -> Search:
        """Copies, and beside a warm start what it may lack."""
        xp = namespace(start.age)
        several = problem.k > 1
        if start.memory is None:
            no = xp.asarray(False)
            return Search(no, xp.zeros((), np.int32), EVIDENCE.none, no)
        copies = self.looks_for_copies()
        looked = several and copies
        asked = xp.where(start.fresh, looked, copies if several else self.explore > 0)
        limit = WITHOUT_END if several else self.explore
        found = EVIDENCE.fresh_direction
        if not looked:
            cold = EVIDENCE.random_start if self.random_rows() == 1 else EVIDENCE.block
            found = select(start.fresh, cold, found)
        # Without a search a block sees as many copies as it has vectors.
        cold = not several or self.random_rows() >= problem.k
        return Search(
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
        xp = namespace(relation.tried)
        index = xp.arange(relation.tried.shape[0])
        _, settled = standing(self.rtol, self.atol, state.pairs, state.health)
        wanted = (index < k) & ~settled & (index < relation.count)
        beyond = first_match(problem, self.rtol, self.atol, state.pairs, state.health, state.doubt)
        through = ~xp.any(wanted)
        return xp.where(through, beyond, xp.argmax(wanted)), through

    def begins(self, state: SubspaceState) -> Any:
        """True while vectors that were given are still to be multiplied."""
        return state.matvecs < state.own.given

    def direction(self, problem: EigenProblem, state: SubspaceState) -> tuple[Any, Any, Any]:
        """A start vector while there are any; a random row; the residual that is wanted most."""
        relation, own = state.relation, state.own
        xp = namespace(relation.tried)
        index = xp.arange(relation.tried.shape[0])
        begins = self.begins(state)
        row = xp.where(begins, state.matvecs, relation.size - 1)
        plain = begins | state.verdict.inject
        # A random row takes what the last solve saw beyond the wanted: that grows in time.
        guards = (index >= own.given) & (index < own.given + GUARD) & relation.there
        guards = guards & ~begins & (own.given > 0) & (state.restarts == 0)
        rows = (self.plain(state, row, begins) | guards).astype(relation.tried.dtype)
        residual = xp.where(plain, rows, state.pairs.errors[:, self.target(problem, state)[0]])
        # Where that is of no use, what has been multiplied least.
        last = (index == least_tried(relation)).astype(residual.dtype)
        given = [] if own.toward is None else [own.toward]
        x, _ = first_direction(relation, *given, residual, last)
        far = relation.size > 2 if own.toward is None else relation.size < 0
        return x, xp.where(far, relation.size - 2, -1), own

    def wants_random(self, problem: EigenProblem, state: SubspaceState) -> Any:
        """While a cold start has not all its vectors."""
        return state.matvecs < state.own.random

    def learn(self, problem: EigenProblem, state: SubspaceState, x: Any, product: Any) -> Any:
        """Keeps the vectors that were wanted before this product."""
        own, k, vectors = state.own, problem.k, state.pairs.vectors
        if own.before is None or vectors.shape[1] < 2 * k:
            return state
        # While others are looked for, the wanted pairs do not change.
        before = namespace(vectors).where(
            state.doubt.running, vectors[:, k : 2 * k], vectors[:, :k]
        )
        return dataclasses.replace(state, own=dataclasses.replace(own, before=before))

    def settled(self, problem: EigenProblem, state: SubspaceState) -> tuple[Any, Any]:
        """All k pairs, and every start vector had its product."""
        k = problem.k
        _, settled = standing(self.rtol, self.atol, state.pairs, state.health)
        xp = namespace(settled)
        enough = xp.all(settled[:k]) & (state.relation.count >= k)
        return enough & (state.matvecs >= state.own.random + state.own.given), None

    def remember(self, problem: EigenProblem, state: SubspaceState, start: Start, rows: int) -> Any:
        """The wanted vectors and the next ones."""
        xp = namespace(state.relation.tried)
        columns = matmul(state.relation.tried, state.pairs.vectors[:, :rows])
        missing = rows - columns.shape[1]
        if missing > 0:
            columns = xp.pad(columns, ((0, 0), (0, missing)))
        there = (xp.arange(rows) < state.relation.count) & state.health.finite
        return columns, ResidualMemory(there=there), xp.zeros((), np.int32)


def with_row(state: SubspaceState, basis: PyTree, added: Any, own: Any) -> SubspaceState:
    """The state with a row that was appended, unless nothing was."""
    relation = state.relation
    index = namespace(relation.tried).arange(relation.tried.shape[0])
    relation = dataclasses.replace(
        relation,
        there=relation.there | ((index == relation.size) & added),
        size=(relation.size + added).astype(relation.size.dtype),
    )
    return dataclasses.replace(state, basis=basis, relation=relation, own=own)
