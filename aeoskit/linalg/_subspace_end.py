"""When a subspace method is done, and its solution."""

import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float, PyTree

from .solvers._eigensolve import EigenProblem
from ._error_bars import ritz_gaps, temple_bound
from ._options import Scalar
from ._orthogonal import draw, once
from ._results import EVIDENCE, RESULTS
from ._ritz import structure_dimension
from ._solution import EigenSolution
from ._start import Start
from ._subspace import SubspaceState, rounding_floor, settled, starting
from ._tree import block_combine, block_gram


def ended(
    operator: lx.AbstractLinearOperator,
    problem: EigenProblem,
    shift: Float[Array, ""],
    state: SubspaceState,
    rtol: Scalar,
    atol: Scalar,
    explore: int,
) -> tuple[Bool[Array, ""], RESULTS]:
    """Whether the solve is over, and how."""
    eps = jnp.finfo(state.gram.dtype).eps
    done, converged = settled(shift, state, rtol, atol)
    complete = state.size >= structure_dimension(operator.in_structure())
    # One look overlooks a nearer pair once in a while; after a random start it is the second.
    twice = (state.evidence == EVIDENCE.none) & (explore > 0)
    sought = state.explored >= explore + twice
    enough = (jnp.all(done) & sought & ~starting(state)) | complete
    asymmetric = state.asymmetry > 10 * jnp.sqrt(eps) * (state.scale + jnp.abs(shift))
    result = RESULTS.where(jnp.all(converged), RESULTS.successful, RESULTS.stagnation)
    result = RESULTS.where(enough, result, RESULTS.max_matvecs_reached)
    result = RESULTS.where(asymmetric, RESULTS.asymmetric, result)
    result = RESULTS.where(state.finite, result, RESULTS.nonfinite)
    spent = state.matvecs >= problem.max_matvecs
    return (state.matvecs > 0) & (enough | spent | ~state.finite | asymmetric), result


def conclude(
    operator: lx.AbstractLinearOperator,
    problem: EigenProblem,
    shift: Float[Array, ""],
    state: SubspaceState,
    rtol: Scalar,
    atol: Scalar,
    explore: int,
    rows: int,
) -> EigenSolution:
    """The solution. No products: images are at hand."""
    structure = operator.in_structure()
    m, k = state.gram.shape[0], problem.k
    _, result = ended(operator, problem, shift, state, rtol, atol, explore)
    valid = (jnp.arange(m) < state.size) & state.finite
    block = block_combine(state.basis, state.coefficients[:, :rows])
    key = state.key
    like = jax.eval_shape(lambda: block)

    def fill(carry: tuple[PyTree, Array]) -> tuple[PyTree, Array]:
        fresh, key = draw(carry[1], like)
        lengths = jnp.sqrt(jnp.diagonal(block_gram(fresh, fresh)))
        fresh = block_combine(fresh, jnp.diag(1 / lengths))
        chosen = jax.tree.map(
            lambda x, y: jnp.where(valid[:rows].reshape(rows, *(1,) * (x.ndim - 1)), x, y),
            carry[0],
            fresh,
        )
        return chosen, key

    block, key = once(~jnp.all(valid[:rows]), fill, (block, key))
    values = jnp.where(valid[:k], shift + state.values, jnp.nan)
    residuals = jnp.where(valid[:k], state.residuals + rounding_floor(shift, state), jnp.inf)
    # A combination of dependent vectors may be short: its residual says nothing.
    lengths = jnp.sqrt(jnp.diagonal(block_gram(block, block)))[:k]
    sound = state.finite & ~(result == RESULTS.asymmetric) & (jnp.abs(lengths - 1) < 0.1)
    converged = sound & (residuals <= rtol * jnp.abs(values) + atol)
    result = RESULTS.where(
        (result == RESULTS.successful) & ~jnp.all(converged), RESULTS.stagnation, result
    )
    below = -2 * jnp.linalg.norm(state.projected) - 1
    empty = jnp.arange(m) >= state.size
    ritz = jnp.linalg.eigvalsh(state.projected + jnp.diag(jnp.where(empty, below, 0)))
    gaps = ritz_gaps(state.values, ritz, jnp.arange(m) >= m - state.size)
    complete = state.size >= structure_dimension(structure)
    if explore > 0:
        warm = ~(state.evidence == EVIDENCE.random_start) & (state.explored >= explore)
        sought = EVIDENCE.where(warm, EVIDENCE.fresh_direction, state.evidence)
    else:
        sought = state.evidence
    evidence = EVIDENCE.where(complete, EVIDENCE.whole_space, sought)
    return EigenSolution(
        values=values,
        vectors=jax.tree.map(lambda b: b[:k], block),
        residuals=residuals,
        bounds=residuals,
        estimates=temple_bound(residuals, gaps),
        converged=converged,
        is_top=converged & ~(evidence == EVIDENCE.none),
        evidence=evidence,
        result=result,
        stats={
            "matvecs": state.matvecs,
            "restarts": state.restarts,
            "failed_solves": state.failed,
        },
        state=Start(
            block=block,
            key=key,
            fresh=jnp.asarray(False),
            age=jnp.zeros((), jnp.int32),
        ),
    )
