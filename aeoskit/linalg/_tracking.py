"""Tracking: the solver for an operator that changes a little from solve to solve."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, PyTree

from .solvers._eigensolve import AbstractEigenSolver, EigenProblem
from ._orthogonal import draw, once, orthonormalise, project_out
from ._results import EVIDENCE, RESULTS
from ._ritz import structure_dimension
from ._solution import EigenSolution
from ._start import Start
from ._tracking_model import (
    Memory,
    TrackingState,
    analyse,
    choose,
    compressed,
    masked,
    next_explorers,
    restart,
    secant,
)
from ._tracking_start import start_rows
from ._tree import (
    block_combine,
    block_row,
    block_set_row,
    block_zeros,
    tree_dot,
    tree_dtype,
    tree_norm,
    tree_scale,
    tree_where,
)
from ._vector_structure import vector_structure

# In units of (machine epsilon * largest value seen): what rounding alone adds to a residual, and
# under what a product has brought nothing new.
_FLOOR = 8.0
_NOTHING = 100.0


class Tracking(AbstractEigenSolver):
    """The top (or bottom) pairs of a symmetric operator that changes a little at every step.

    A solve starts from a *model* of the operator: the pairs wanted and `kept` vectors beyond them,
    with what earlier solves measured on their span. It multiplies the model's best vector; where
    the product disagrees, the model is corrected by the smallest change that agrees (a secant
    update), and its new best direction is multiplied next. So every product goes to where the
    value is expected to rise most, and vectors that were not multiplied still serve: they tell how
    the residual is spread over the cluster at the top. With nothing known (a cold start) the same
    steps are those of Lanczos. A typical warm solve takes one to three products.

    **When it ends.** Each wanted pair has to meet the residual's tolerance, `||A v - θ v|| <=
    rtol |θ| + atol`, without the model expecting a better value; or, with `value_rtol` > 0, the
    model expects it to rise by no more than `value_rtol |θ|`. The second is an estimate of the
    value's own error, of second order in the residual: at the edge it takes half of the products.
    Such a solve ends with `RESULTS.estimate_met`, and `converged` still speaks of the residual
    alone. `estimates` holds the expected rise. The budget `max_matvecs` ends a solve anywhere, with
    the residuals that were reached.

    **Not locking in.** What the model knows of vectors that are not multiplied grows old; the
    expected value of such a vector is raised by `hope` times the drift seen lately, for every solve
    since it was measured, so that it is looked at before it can have overtaken the top one.
    A direction that nothing wanted points to is sought by an *explorer*: every
    `explore_every`-th solve spends one product on it (a step of LOBPCG beside the vectors kept),
    and after `renew_every` such products it starts again from a random vector. An eigenvalue that
    comes out of the bulk with no coupling to what is tracked is found when the explorer has turned
    to it; until then the old pair is reported as converged (tried: a gain of 1 % a step led unseen
    for 6 to 22 steps).

    Memory: `basis` vectors, `kept` + k + 2 in the state, and about four more.

    Args:
        basis: The number of vectors that the solver holds; it restarts when they are used up.
            None: 20, or 3 k + 15 if that is more.
        kept: How many vectors beyond the wanted ones are kept from solve to solve.
        noise: The weight of a random unit vector in the start where the caller gives vectors and
            no state: without it, a start that lacks the wanted vector would never meet it.
        rtol: See above; a tolerance under the floor of rounding ends in `RESULTS.stagnation`.
        atol: See `rtol`.
        value_rtol: See above; 0 asks for residuals.
        hope: How much of the drift is added to what is old. 0: none.
        explore_every: 0: never.
        renew_every: 0: never.

    Raises:
        ValueError: An option out of range; at a solve, a basis too small for k.

    Source: Powell's symmetric secant update (1970); Davidson's expansion (1975), with the model.

    Example:
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
    rtol: Any = 1e-3
    atol: Any = 0.0
    value_rtol: Any = 0.0
    hope: Any = 0.3
    noise: Any = 0.1
    explore_every: int = eqx.field(default=4, static=True)
    renew_every: int = eqx.field(default=16, static=True)

    def __check_init__(self):
        for name in ("rtol", "atol", "value_rtol", "hope", "noise"):
            value = getattr(self, name)
            if isinstance(value, int | float) and not 0 <= value < float("inf"):
                raise ValueError(
                    f"Tracking({name}={value}): it is finite and not negative; the defaults are "
                    "rtol=1e-3, atol=0, value_rtol=0, hope=0.3, noise=0.1."
                )
        for name, least in (("basis", 3), ("kept", 0), ("explore_every", 0), ("renew_every", 0)):
            count = getattr(self, name)
            if count is not None and count < least:
                raise ValueError(
                    f"Tracking({name}={count}): at least {least}; the defaults are basis=None, "
                    "kept=7, explore_every=4, renew_every=16."
                )

    def default_max_matvecs(self, dimension: int) -> int:
        """400, or 20 products for each basis vector."""
        return 20 * (self.basis or 20)

    def block_size(self, structure: PyTree, k: int) -> int:
        """The wanted pairs, those kept, the explorer and its last change."""
        return min(k + self.kept + 2, structure_dimension(structure))

    def blank_memory(self, structure: PyTree, k: int) -> Memory:
        """A model that knows nothing."""
        rows, dtype = self.block_size(structure, k), tree_dtype(structure)
        square, zero = jnp.zeros((rows, rows), dtype), jnp.zeros((), dtype)
        return Memory(model=square, staleness=square, bulk=zero, bulk_weight=zero, drift=zero)

    def _best_rows(self, structure: PyTree, k: int) -> int:
        rows = self.block_size(structure, k)
        return rows if rows == structure_dimension(structure) else rows - 2

    def init(self, operator: lx.AbstractLinearOperator, problem: EigenProblem, start: Start):
        """The vectors and the model of the last solve, or a random vector. No products."""
        structure, k = vector_structure(operator), problem.k
        dimension, dtype = structure_dimension(structure), tree_dtype(structure)
        rows = self.block_size(structure, k)
        basis = max(20, 3 * k + 15) if self.basis is None else self.basis
        c = min(basis, dimension)
        if c < min(rows + max(2, k), dimension):
            raise ValueError(
                f"Tracking(basis={self.basis}, kept={self.kept}) is too small for k={k}: use "
                f"basis={rows + max(2, k)} or more (or None), or a smaller kept."
            )
        known = isinstance(start.memory, Memory)
        if known and start.memory.model.shape[0] != rows:
            raise ValueError(
                f"eigensolve(start=...): the state is that of a solve for another k or of Tracking "
                f"with another `kept`: it has {start.memory.model.shape[0]} vectors, and k={k} "
                f"with kept={self.kept} has {rows}."
            )
        memory = start.memory if known else self.blank_memory(structure, k)
        block, usable, key = start_rows(
            structure, start, rows, min(rows, k + self.kept), self.noise
        )
        size = jnp.where(start.fresh | (not known), jnp.maximum(jnp.sum(usable), 1), rows)
        best = self._best_rows(structure, k)
        index = jnp.arange(c)
        pad = [(0, c - rows)] * 2
        both = usable[:, None] & usable[None, :]
        unknown = jnp.diag(jnp.where(usable, 0, memory.bulk))
        model = jnp.pad(jnp.where(both, memory.model, 0) + unknown, pad)
        grown = jnp.diag((jnp.arange(rows) < best).astype(dtype))
        staleness = jnp.pad(jnp.where(both, memory.staleness + grown, 0), pad)
        first = (index == 0).astype(dtype)
        explorers = jnp.zeros((c, 4), dtype)
        if best < rows:
            explorers = explorers.at[best, 0].set(1).at[best + 1, 1].set(1)
        explorers = jnp.where(start.fresh | (not known), 0, explorers)
        cold = start.fresh | (not known)
        age = jnp.where(cold, 0, start.age + 1).astype(jnp.int32)
        due = jnp.asarray(False)
        if self.explore_every > 0 and best < rows:
            due = ~cold & (age % self.explore_every == 0)
        given = ~start.fresh & (start.block is not None and not known)
        warm = EVIDENCE.followed_direction if self.explore_every > 0 else EVIDENCE.none
        evidence = EVIDENCE.where(given, EVIDENCE.none, warm)
        random = start.fresh | (start.block is None)
        evidence = EVIDENCE.where(random, EVIDENCE.random_start, evidence)
        integer, zero = jnp.zeros((), jnp.int32), jnp.zeros((), dtype)
        pending = jnp.pad(usable, (0, c - rows)) & given
        return TrackingState(
            basis=jax.tree.map(
                lambda empty, b: jax.lax.dynamic_update_slice_in_dim(empty, b, 0, axis=0),
                block_zeros(structure, c),
                block,
            ),
            model=model,
            staleness=staleness,
            exact=jnp.zeros((c, c), dtype),
            direction=first,
            exploring=jnp.asarray(False),
            explorers=explorers,
            explored=jnp.asarray(False),
            due=due,
            cold=jnp.asarray(cold),
            theta=jnp.zeros(k, dtype),
            ritz=jnp.zeros((c, k), dtype),
            residuals=jnp.full(k, jnp.inf, dtype),
            gains=jnp.full(k, jnp.inf, dtype),
            pending=pending.at[0].set(False),
            size=size.astype(jnp.int32),
            products=integer,
            old_rows=size.astype(jnp.int32),
            bulk=memory.bulk,
            bulk_weight=memory.bulk_weight,
            drift=memory.drift,
            scale=zero,
            lost=zero,
            asymmetry=zero,
            finite=jnp.asarray(True),
            evidence=evidence,
            age=age,
            key=key,
            matvecs=integer,
            restarts=integer,
        )

    def step(self, operator: lx.AbstractLinearOperator, problem: EigenProblem, state: Any):
        """One product."""
        c = state.model.shape[0]
        if c < structure_dimension(operator.in_structure()):
            kept = min(max(2 * problem.k + 5, (c + 1) // 2), c - 1)
            state = once(state.size == c, lambda s: restart(problem, kept, s), state)
        x = state.direction
        q = block_combine(state.basis, x)
        w = operator.mv(q)
        sign = -1.0 if problem.which == "smallest" else 1.0
        finite = jnp.isfinite(tree_norm(w))
        w = jax.tree.map(lambda a, b: jnp.where(finite, sign * a, 0).astype(b.dtype), w, q)
        w, h = project_out(state.basis, w, state.size)
        w, again = project_out(state.basis, w, state.size)
        filled = jnp.arange(c) < state.size
        image = jnp.where(filled, h + again, 0)
        rho = tree_norm(w)
        full = jnp.sqrt(jnp.sum(image**2) + rho**2)
        eps = jnp.finfo(rho.dtype).eps
        add = (state.size < c) & finite
        # What is left at the level of rounding points anywhere: it is turned, or drawn anew.
        unsure = rho <= _NOTHING * eps * jnp.maximum(full, state.scale)
        nothing = rho <= eps * jnp.maximum(full, state.scale)

        def turned(carry: tuple[PyTree, Array]) -> tuple[PyTree, Array]:
            v, key = carry
            fresh, key = draw(key, v)
            return orthonormalise(state.basis, tree_where(nothing, fresh, v), state.size), key

        unit, key = once(
            unsure & add, turned, (tree_scale(1 / jnp.where(unsure, 1, rho), w), state.key)
        )
        along = jnp.where(add, tree_dot(w, unit), 0)
        lost = jnp.sqrt(jnp.maximum(rho**2 - along**2, 0))
        lost = jnp.where(unsure, lost, 0)
        row = jnp.minimum(state.size, c - 1)
        new = (jnp.arange(c) == row) & add
        image = jnp.where(new, along, image)
        basis = block_set_row(state.basis, row, tree_where(add, unit, block_row(state.basis, row)))
        exploring = state.exploring
        explorers = jnp.where(
            exploring,
            state.explorers.at[:, 2].set(x).at[:, 3].set(new.astype(x.dtype)),
            state.explorers,
        )
        state = eqx.tree_at(
            lambda s: (
                s.basis,
                s.model,
                s.explorers,
                s.explored,
                s.size,
                s.finite,
                s.key,
                s.lost,
            ),
            state,
            (
                basis,
                state.model + jnp.diag(jnp.where(new, state.bulk, 0)),
                explorers,
                state.explored | exploring,
                state.size + add,
                state.finite & finite,
                key,
                jnp.maximum(state.lost, lost),
            ),
        )
        state = secant(state, x, image)
        state = eqx.tree_at(lambda s: s.matvecs, state, state.matvecs + 1)
        state, hopes, _ = analyse(problem, state, jnp.asarray(self.hope, x.dtype))
        return choose(state, hopes, self._settled(state))

    def _floor(self, state: TrackingState) -> Array:
        return _FLOOR * jnp.finfo(state.theta.dtype).eps * state.scale + state.lost

    def _converged(self, state: TrackingState) -> Bool[Array, " k"]:
        allowed = self.rtol * jnp.abs(state.theta) + self.atol
        return state.residuals + self._floor(state) <= allowed

    def _settled(self, state: TrackingState) -> Bool[Array, " k"]:
        small = self._converged(state) | (state.residuals <= self._floor(state))
        # A pair that has converged while the model sees a better one is not the one wanted.
        believed = state.gains <= 2 * state.residuals + self._floor(state)
        # A model that grew in this solve alone knows too little for an estimate.
        small_gain = state.gains <= self.value_rtol * jnp.abs(state.theta)
        return (small & believed) | (small_gain & ~state.cold)

    def terminate(self, operator: lx.AbstractLinearOperator, problem: EigenProblem, state: Any):
        """Whether the solve is over, and how."""
        eps = jnp.finfo(state.theta.dtype).eps
        complete = state.products >= structure_dimension(operator.in_structure())
        settled = jnp.all(self._settled(state)) & ~jnp.any(state.pending)
        enough = (settled & (state.explored | ~state.due)) | complete
        asymmetric = state.asymmetry > 10 * jnp.sqrt(eps) * state.scale
        converged = self._converged(state)
        floored = state.residuals <= self._floor(state)
        result = RESULTS.where(
            jnp.all(converged | ~floored), RESULTS.estimate_met, RESULTS.stagnation
        )
        result = RESULTS.where(jnp.all(converged), RESULTS.successful, result)
        result = RESULTS.where(enough, result, RESULTS.max_matvecs_reached)
        result = RESULTS.where(asymmetric, RESULTS.asymmetric, result)
        result = RESULTS.where(state.finite, result, RESULTS.nonfinite)
        spent = state.matvecs >= problem.max_matvecs
        return (state.matvecs > 0) & (enough | spent | ~state.finite | asymmetric), result

    def finish(
        self, operator: lx.AbstractLinearOperator, problem: EigenProblem, state: Any
    ) -> EigenSolution:
        """The wanted pairs, and the model for the next solve. No products."""
        structure, k = operator.in_structure(), problem.k
        c = state.model.shape[0]
        rows, best = self.block_size(structure, k), self._best_rows(structure, k)
        _, result = self.terminate(operator, problem, state)
        filled = jnp.arange(c) < state.size
        _, vectors = jnp.linalg.eigh(masked(state.model, filled), symmetrize_input=False)
        columns = jnp.where(filled[:, None], vectors[:, ::-1][:, :best], 0)
        # The eigenvectors of rows that hold nothing.
        columns = jnp.where((jnp.arange(best) < state.size)[None], columns, 0)
        if best < rows:
            renew = jnp.asarray(False)
            if self.explore_every > 0 and self.renew_every > 0:
                period = self.explore_every * self.renew_every
                renew = state.explored & (state.age % period == 0)
            explorers = next_explorers(state, columns, renew)
            columns = jnp.concatenate([columns, explorers], axis=1)
        memory = Memory(
            model=compressed(state.model, columns),
            staleness=compressed(state.staleness, columns),
            bulk=state.bulk,
            bulk_weight=jnp.minimum(state.bulk_weight, 1e3),
            drift=state.drift,
        )
        sound = state.finite & ~(result == RESULTS.asymmetric)
        held = jnp.arange(k) < state.products
        good = held & state.finite
        sign = -1.0 if problem.which == "smallest" else 1.0
        values = jnp.where(good, sign * state.theta, jnp.nan)
        residuals = jnp.where(good, state.residuals + self._floor(state), jnp.inf)
        converged = sound & good & self._converged(state)
        complete = state.products >= structure_dimension(structure)
        evidence = EVIDENCE.where(complete, EVIDENCE.whole_space, state.evidence)
        return EigenSolution(
            values=values,
            vectors=block_combine(state.basis, state.ritz),
            residuals=residuals,
            bounds=residuals,
            estimates=jnp.minimum(jnp.where(good, state.gains, jnp.inf), residuals),
            converged=converged,
            is_top=converged & ~(evidence == EVIDENCE.none),
            evidence=evidence,
            result=result,
            stats={"matvecs": state.matvecs, "restarts": state.restarts},
            state=Start(
                block=block_combine(state.basis, columns),
                key=state.key,
                fresh=jnp.asarray(False),
                age=state.age,
                memory=memory,
            ),
        )
