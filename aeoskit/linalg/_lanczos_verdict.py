"""What thick-restart Lanczos makes of its Ritz pairs: which residual comes next, and the end."""

from typing import Any

import equinox as eqx
import jax.numpy as jnp

from .solvers._eigensolve import EigenProblem
from ._lanczos_state import LanczosState
from ._results import RESULTS
from ._ritz import rank_ritz, sort_key

# In units of (machine epsilon * largest Ritz value seen): what rounding alone adds to a residual.
FLOOR = 8.0
# In units of epsilon times the largest Ritz value: with every residual under it, the space
# counts as invariant (exhausted).
INVARIANT = 100.0


def judge(
    rtol: Any, atol: Any, dimension: int, problem: EigenProblem, state: LanczosState
) -> LanczosState:
    """The state with `direction`, `following`, `done` and `result` as its Ritz pairs want them.

    A pair is settled if it meets its tolerance, or is at the floor of the format. After a fresh
    direction one pair more has to settle: the best that it could bring.
    """
    m = state.projected.shape[0]
    eps = jnp.finfo(state.projected.dtype).eps
    order, valid = rank_ritz(state.ritz_values, state.size, problem.which)
    rank = jnp.arange(m)
    values = state.ritz_values[order]
    estimates = jnp.where(valid, state.estimates[order], -1)
    floor = FLOOR * eps * state.scale
    tolerance = rtol * jnp.abs(values) + atol / jnp.where(state.unit > 0, state.unit, 1)
    converged = valid & (estimates + floor <= tolerance)
    settled = converged | (valid & (estimates <= floor))
    needed = problem.k + (state.injected & (problem.k > 1)).astype(jnp.int32)

    # The next direction: the residual of the best pair that is not settled. With all of them
    # settled, the largest residual beyond them: a direction that no one has seen shows there
    # first, long before it shows in a value. In an exhausted space nothing is left there: on
    # with the largest residual of all.
    unsettled = (rank < needed) & valid & ~settled
    following = jnp.any(unsettled)
    beyond = jnp.argmax(jnp.where(rank < problem.k, -1, estimates))
    exhausted = INVARIANT * eps * state.scale
    alive = (state.explored < state.explore) & (estimates[beyond] > exhausted)
    free = jnp.where(alive, beyond, jnp.argmax(estimates))
    chosen = order[jnp.where(following, jnp.argmax(unsettled), free)]
    direction = state.coefficients @ state.ritz_vectors[:, chosen]

    required = jnp.minimum(needed, dimension)
    enough = jnp.all(settled | (rank >= required)) & (state.size >= required)
    if problem.k > 1:
        invariant = jnp.max(estimates) <= exhausted
        drift = jnp.abs(sort_key(state, problem) - state.injected_at)
        unchanged = state.injected & (drift <= 100 * eps * state.scale)
        enough = enough & (~invariant | unchanged)
    enough = enough & ~jnp.any(state.pending) & (state.explored >= state.explore)
    enough = enough | (state.size >= dimension)
    asymmetric = state.asymmetry > 10 * jnp.sqrt(eps) * state.scale
    good = jnp.all(converged | (rank >= problem.k))
    result = RESULTS.where(good, RESULTS.successful, RESULTS.stagnation)
    result = RESULTS.where(enough, result, RESULTS.max_matvecs_reached)
    result = RESULTS.where(asymmetric, RESULTS.asymmetric, result)
    result = RESULTS.where(state.finite, result, RESULTS.nonfinite)
    spent = state.matvecs >= problem.max_matvecs
    return eqx.tree_at(
        lambda s: (s.direction, s.following, s.done, s.result),
        state,
        (direction, following, enough | spent | ~state.finite | asymmetric, result),
    )
