"""The loop that grows a subspace, common to all methods but the dense one.

A method defines where a solve begins, which direction it multiplies next, when the wanted pairs are
good enough, what a full basis keeps, and what it remembers. The rest is here: products,
the small problem, rotations, the search for overlooked pairs, decisions and error bars.
"""

import abc
import dataclasses
from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Bool, Int, PyTree, UInt32

from .._platform import apply_if
from .._results import EVIDENCE, EigenSolution
from ..operators._layout import product_error
from ..vectors._tree import pytree_dataclass, tree_dtype, vector_structure
from ._arguments import Start
from ._convergence import ROTATION, Decision, Numerics, SearchState, decide, make_solution
from ._relation import Pairs, Relation, matmul, namespace, original_order, ritz_pairs, with_product
from ._solver import AbstractEigenSolver, EigenProblem
from ._space import add_random_row, combine_blocks, grow, orthonormal_basis, padded_basis, recombine

UNLIMITED = 2**24 - 1


@pytree_dataclass
class SearchPlan:
    """The search of a solve for an overlooked pair, beside growing its space.

    Attributes:
        asked: Whether it has to search from a random row beside the wanted pairs.
        limit: After how many products that search ends in any case.
        evidence: The evidence for the pairs in the end.
        trusted: Whether there is any.

    Example:
        >>> no = np.asarray(False)
        >>> bool(SearchPlan(no, np.int32(0), EVIDENCE.random_start, ~no).trusted)
        True
    """

    asked: Bool[Any, ""]
    limit: Int[Any, ""]
    evidence: EVIDENCE
    trusted: Bool[Any, ""]


@pytree_dataclass
class SubspaceState:
    """The state that one product hands to the next.

    Attributes:
        basis: Rows.
        relation: What is known of the operator on their span.
        pairs: The Ritz pairs.
        numerics: What is known of the numbers.
        search: The search for what was overlooked.
        decision: What is next.
        extra: What the method keeps beside these.
        key: For random rows.
        matvecs: How many products.
        restarts: How many times the basis was full.

    Example:
        >>> SubspaceState.__dataclass_fields__["basis"].name
        'basis'
    """

    basis: PyTree
    relation: Relation
    pairs: Any
    numerics: Numerics
    search: SearchState
    decision: Decision
    extra: Any
    key: UInt32[Any, "2"]
    matvecs: Int[Any, ""]
    restarts: Int[Any, ""]


class AbstractSubspaceSolver(AbstractEigenSolver):
    """A method that grows a subspace; what is not overridden is for symmetric operators.

    `init`, `step` and `finish` run on the host, where all but vectors is NumPy and a product costs
    a dispatch, or traced into a program: they are the same functions.
    """

    eager: ClassVar[bool] = True
    # Whether the rows of a state's block are orthonormal, as this solver has left them.
    keeps_rows: ClassVar[bool] = True
    rtol: eqx.AbstractVar[Any]
    atol: eqx.AbstractVar[Any]
    noise: eqx.AbstractVar[Any]

    # The hooks of a method.

    @abc.abstractmethod
    def capacity(self, dimension: int, k: int) -> int:
        """The number of rows of the basis."""

    def start_vectors_used(self, k: int, dimension: int) -> int:
        """The number of a caller's vectors that are used."""
        return min(k, dimension)

    @abc.abstractmethod
    def may_search(self, problem: EigenProblem) -> bool:
        """True if a search from a random row is ever asked for: if not, no program has it."""

    @abc.abstractmethod
    def begin(
        self, structure: PyTree, problem: EigenProblem, start: Start, count: int, xp: Any
    ) -> tuple[Any, Any, Any]:
        """The method's own memory beside the relation, the unit and the norm seen.

        `count` rows were given.
        """

    @abc.abstractmethod
    def plan_search(self, problem: EigenProblem, start: Start) -> SearchPlan:
        """The search for an overlooked pair."""

    @abc.abstractmethod
    def direction(self, problem: EigenProblem, state: SubspaceState) -> tuple[Any, Any, Any]:
        """The coordinates of the next direction, a unit, orthogonal to all that was multiplied.

        Also: the first row along which more than a little is expected in its image; and `extra`.
        """

    def rows_a_product(self) -> int:
        """The number of rows that a product may add: one for its image, one for its direction."""
        return 1

    def expand(
        self, operator: lx.AbstractLinearOperator, problem: EigenProblem, state: SubspaceState
    ) -> SubspaceState:
        """Adds a row that the next direction needs, where the method goes out of the span."""
        return state

    def wants_random(self, problem: EigenProblem, state: SubspaceState) -> Any:
        """True if the method itself wants a random row before its next product."""
        return state.relation.size == 0

    @abc.abstractmethod
    def learn(
        self, problem: EigenProblem, state: SubspaceState, x: Any, product: Any
    ) -> SubspaceState:
        """The method's own part of a product, before the pairs are known."""

    def analyze(self, problem: EigenProblem, state: SubspaceState) -> Any:
        """`extra`, once the pairs are known."""
        return state.extra

    @abc.abstractmethod
    def settled(self, problem: EigenProblem, state: SubspaceState) -> tuple[Any, Any]:
        """True once the wanted pairs are good enough; those that are by their value's estimate."""

    def expected_errors(self, problem: EigenProblem, state: SubspaceState) -> Any | None:
        """Estimates of the errors of the wanted values, in units; None: from residuals and gaps."""
        return None

    @abc.abstractmethod
    def shrink(
        self, problem: EigenProblem, state: SubspaceState
    ) -> tuple[Relation, Pairs, Any, Any, Any]:
        """Cuts a full basis: the relation, pairs and columns kept, what that lost, and `extra`."""

    @abc.abstractmethod
    def remember(
        self, problem: EigenProblem, state: SubspaceState, start: Start, rows: int
    ) -> tuple[Any, Any, Any]:
        """The columns of the next start's block, the memory beside it, and its age."""

    def no_pairs(self, c: int, dtype: Any, xp: Any) -> Pairs:
        """Empty pairs, before the first product, in the shapes of the small problem's."""
        square = xp.zeros((c, c), dtype)
        return Pairs(xp.zeros(c, dtype), square, square, xp.full(c, xp.inf, dtype))

    def small_problem(self, problem: EigenProblem, state: SubspaceState) -> tuple[Pairs, Any]:
        """The Ritz pairs, and the asymmetry seen."""
        return ritz_pairs(state.relation, state.numerics.scale, problem.which)

    def more_stats(self, problem: EigenProblem, state: SubspaceState) -> dict[str, Any]:
        """The entries of `stats` beside the counts."""
        return {}

    # What follows from it.

    def row_direction(self, state: SubspaceState, row: Any, at_start: Any) -> Any:
        """A row as a direction, by which rows are in it: in a search all that was not multiplied.

        A random row is orthogonal to those, in which an eigenvector may hide that one Ritz pair
        stands for beside a close one.

        Args:
            state: The state.
            row: Which row.
            at_start: Whether it is one of those given, which are multiplied as they are.
        """
        relation = state.relation
        hidden = relation.present & state.search.running & ~at_start
        return (np.arange(relation.present.shape[0]) == row) | hidden

    def init(
        self, operator: lx.AbstractLinearOperator, problem: EigenProblem, start: Start
    ) -> SubspaceState:
        """The start vectors as rows. No products."""
        structure = vector_structure(operator)
        dimension, dtype, k = problem.dimension, tree_dtype(structure), problem.k
        xp = namespace(start.age)
        c = self.capacity(dimension, k)
        given = start.memory is None
        key = start.key
        count = self.block_size(structure, k)
        if given:
            count = min(
                jax.tree.leaves(start.block)[0].shape[0], self.start_vectors_used(k, dimension)
            )
        rows = xp.where(start.fresh, 0, count).astype(np.int32)
        present = xp.arange(c) < rows
        if given or not self.keeps_rows:
            noise = jnp.asarray(self.noise if given else 0.0, dtype)
            basis, key = orthonormal_basis(structure, start.block, c, noise, key)
        else:
            refresh = ~start.fresh & (start.age % 8 == 7)
            basis, key = padded_basis(structure, start.block, c, refresh, start.fresh, key)
            present = xp.pad(start.memory.present, (0, c - count)) & ~start.fresh
            # The first row of a cold start is random.
            present = present | (start.fresh & (xp.arange(c) == 0))
            # Empty rows at the end are free.
            rows = (present * np.arange(1, c + 1)).max().astype(np.int32)
        extra, unit, scale = self.begin(structure, problem, start, count, xp)
        plan = self.plan_search(problem, start)
        square, zero = xp.zeros((c, c), dtype), xp.zeros((), dtype)
        integer, no = xp.zeros((), np.int32), xp.asarray(False)
        return SubspaceState(
            basis=basis,
            relation=Relation(square, square, present, xp.asarray(rows), integer),
            pairs=self.no_pairs(c, dtype, xp),
            numerics=Numerics(
                unit=xp.asarray(unit, dtype),
                scale=xp.asarray(scale, dtype),
                lost=zero,
                asymmetry=zero,
                finite=~no,
                error=xp.asarray(product_error(operator), dtype),
            ),
            search=SearchState(
                asked=xp.asarray(plan.asked),
                running=no,
                passed=no,
                claimed=xp.zeros(k, dtype),
                worst=zero,
                begun=integer,
                limit=xp.asarray(plan.limit, np.int32),
            ),
            decision=Decision(done=no, enough=no, add_random_row=xp.asarray(rows) == 0, shrink=no),
            extra=extra,
            key=xp.asarray(key),
            matvecs=integer,
            restarts=integer,
        )

    def step(
        self, operator: lx.AbstractLinearOperator, problem: EigenProblem, state: SubspaceState
    ) -> SubspaceState:
        """One product."""
        state = self._make_room(problem, state)
        state = self.expand(operator, problem, state)
        x, first, extra = self.direction(problem, state)
        relation, numerics = state.relation, state.numerics
        xp = namespace(x)
        # As long as all images are zero, another unit is still possible.
        fixed = (relation.count > 0) & (numerics.scale > 0)
        basis, product = grow(state.basis, operator, x, relation.size, first, numerics.unit, fixed)
        numerics = dataclasses.replace(
            numerics,
            unit=product.unit,
            scale=xp.where(
                product.finite, xp.maximum(numerics.scale, product.norm), numerics.scale
            ),
            lost=xp.maximum(numerics.lost, xp.where(product.added, 0 * product.left, product.left)),
            finite=numerics.finite & product.finite,
        )
        relation = with_product(relation, x, product)
        state = dataclasses.replace(
            state,
            basis=basis,
            relation=relation,
            numerics=numerics,
            extra=extra,
            matvecs=state.matvecs + 1,
        )
        state = self.learn(problem, state, x, product)
        pairs, asymmetry = self.small_problem(problem, state)
        asymmetry = xp.maximum(state.numerics.asymmetry, asymmetry)
        scale = xp.maximum(state.numerics.scale, xp.max(xp.abs(pairs.values)))
        numerics = dataclasses.replace(state.numerics, asymmetry=asymmetry, scale=scale)
        state = dataclasses.replace(state, pairs=pairs, numerics=numerics)
        state = dataclasses.replace(state, extra=self.analyze(problem, state))
        settled, _ = self.settled(problem, state)
        search, decision = decide(
            state.pairs,
            state.relation,
            state.numerics,
            state.search,
            problem=problem,
            rtol=self.rtol,
            atol=self.atol,
            settled=settled,
            matvecs=state.matvecs,
            searches=self.may_search(problem),
        )
        return dataclasses.replace(
            state,
            search=search,
            decision=dataclasses.replace(
                decision, add_random_row=decision.add_random_row | self.wants_random(problem, state)
            ),
        )

    def _make_room(self, problem: EigenProblem, state: SubspaceState) -> SubspaceState:
        c = state.relation.multiplied.shape[0]

        def smaller(state: SubspaceState) -> SubspaceState:
            relation, pairs, columns, lost, extra = self.shrink(problem, state)
            numerics = state.numerics
            eps = np.finfo(numerics.scale.dtype).eps
            return dataclasses.replace(
                state,
                basis=recombine(state.basis, columns),
                relation=relation,
                pairs=pairs,
                # The errors of rotations have no common direction: squares add up.
                numerics=dataclasses.replace(
                    numerics,
                    lost=(numerics.lost**2 + lost**2 + (ROTATION * eps * numerics.scale) ** 2)
                    ** 0.5,
                ),
                extra=extra,
                restarts=state.restarts + (1 - state.decision.shrink),
            )

        # A basis of the whole space is never full, and has nothing to search for.
        if c < problem.dimension:
            taken = state.relation.size + state.decision.add_random_row + self.rows_a_product()
            state = apply_if(state.decision.shrink | (taken > c), smaller, state)
        relation, new = state.relation, state.decision.add_random_row
        basis, key = apply_if(
            new, lambda c: add_random_row(c[0], relation.size, c[1]), (state.basis, state.key)
        )
        present = relation.present | ((np.arange(c) == relation.size) & new)
        relation = dataclasses.replace(relation, present=present, size=relation.size + new)
        return dataclasses.replace(state, basis=basis, relation=relation, key=key)

    def terminate(
        self, operator: lx.AbstractLinearOperator, problem: EigenProblem, state: SubspaceState
    ) -> Any:
        """True once the solve is over."""
        return state.decision.done

    def finish(
        self,
        operator: lx.AbstractLinearOperator,
        problem: EigenProblem,
        state: SubspaceState,
        start: Start,
    ) -> EigenSolution:
        """The k best pairs, and the start of the next solve. No products."""
        k = problem.k
        plan = self.plan_search(problem, start)
        _, value_met = self.settled(problem, state)
        rows = self.block_size(operator.in_structure(), k)
        wanted = matmul(state.relation.multiplied, state.pairs.vectors[:, :k])
        columns, memory, age = self.remember(problem, state, start, rows)
        xp, back = namespace(wanted), original_order(k, problem.which)
        small = {
            "key": state.key,
            "fresh": xp.asarray(False),
            "age": xp.asarray(age, np.int32),
            "memory": memory,
        }
        small = jax.device_put(small) if xp is np else small
        vectors, block = combine_blocks(state.basis, wanted[:, back], columns)
        return make_solution(
            problem=problem,
            rtol=self.rtol,
            atol=self.atol,
            relation=state.relation,
            pairs=state.pairs,
            numerics=state.numerics,
            search=state.search,
            decision=state.decision,
            evidence=plan.evidence,
            trusted=plan.trusted,
            vectors=vectors,
            estimates=self.expected_errors(problem, state),
            value_met=value_met,
            stats={
                "matvecs": xp.asarray(state.matvecs, np.int32),
                "restarts": xp.asarray(state.restarts, np.int32),
                **self.more_stats(problem, state),
            },
            state=Start(block, **small),
        )
