"""What Arnoldi carries from product to product, and what it can tell from that."""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Complex, Float, Int, PyTree, UInt32

from .solvers._eigensolve import EigenProblem
from ._options import Scalar
from ._results import EVIDENCE, RESULTS
from ._tree import tree_dtype

# In units of (machine epsilon * largest product of a unit vector): what rounding alone adds to a
# residual.
FLOOR = 8.0
# In units of epsilon times the same: a residual under it counts as an invariant subspace.
INVARIANT = 100.0


class SmallState(eqx.Module):
    """Everything but vectors. The Ritz pairs are sorted: the one wanted most comes first.

    With the basis V and the residual vectors C as rows, `A V = V H + C B` up to `drift`, where A
    is the operator divided by `unit`: a power of two near the size of the first product, so that
    no square overflows or vanishes.
    """

    unit: Float[Array, ""]

    projected: Float[Array, "m m"]
    coefficients: Float[Array, "s m"]
    gram: Float[Array, "s s"]
    pending: Bool[Array, " s"]
    size: Int[Array, ""]
    values: Complex[Array, " m"]
    vectors: Complex[Array, "m m"]
    estimates: Float[Array, " m"]
    condition: Float[Array, " m"]
    rotation: Float[Array, "m kept"]
    kept: Int[Array, ""]
    scale: Float[Array, ""]
    drift: Float[Array, ""]
    finite: Bool[Array, ""]
    explored: Int[Array, ""]
    explore: Int[Array, ""]
    age: Int[Array, ""]
    evidence: EVIDENCE
    injected: Bool[Array, ""]
    injected_at: Float[Array, ""]
    key: UInt32[Array, "2"]
    matvecs: Int[Array, ""]
    restarts: Int[Array, ""]


class ArnoldiState(eqx.Module):
    """What one product needs from those before it."""

    basis: PyTree[Array]
    slots: PyTree[Array]
    small: SmallState


def needed(problem: EigenProblem, small: SmallState) -> Int[Array, ""]:
    """How many pairs have to settle: after a fresh direction, the best that it could bring too."""
    extra = small.injected & (problem.k > 1)
    return problem.k + extra.astype(jnp.int32)


def floor(small: SmallState) -> Float[Array, ""]:
    """What rounding and restarts may have added to any residual."""
    return FLOOR * jnp.finfo(small.projected.dtype).eps * small.scale + small.drift


def settled(
    rtol: Scalar, atol: Scalar, small: SmallState
) -> tuple[Bool[Array, " m"], Bool[Array, " m"]]:
    """By rank: whether each pair meets its tolerance or is at the floor; the former alone."""
    valid = jnp.arange(small.values.shape[0]) < small.size
    allowance = floor(small)
    tolerance = rtol * jnp.abs(small.values) + atol / small.unit
    converged = valid & (small.estimates + allowance <= tolerance)
    return converged | (valid & (small.estimates <= allowance)), converged


def signature(k: int, small: SmallState) -> Float[Array, ""]:
    """A number that changes whenever the wanted values do: infinity before there are k."""
    return jnp.where(small.size >= k, jnp.sum(jnp.abs(small.values[:k])), jnp.inf)


def direction(
    rtol: Scalar, atol: Scalar, problem: EigenProblem, small: SmallState
) -> tuple[Float[Array, " s"], Bool[Array, ""], Bool[Array, ""], Float[Array, ""]]:
    """Which combination of the residual vectors to multiply next.

    Also: whether it is a start vector, whether all wanted pairs have settled, and the norm under
    which the combination is rounding and nothing else.
    """
    eps = jnp.finfo(small.projected.dtype).eps
    rank = jnp.arange(small.values.shape[0])
    done, _ = settled(rtol, atol, small)
    estimates = jnp.where(rank < small.size, small.estimates, -1)
    unsettled = (rank < needed(problem, small)) & ~done & (estimates >= 0)
    # With all wanted pairs settled, the largest residual beyond them, as in Lanczos.
    exploring = ~jnp.any(unsettled)
    beyond = jnp.argmax(jnp.where(rank < problem.k, -1, estimates))
    alive = (small.explored < small.explore) & (estimates[beyond] > INVARIANT * eps * small.scale)
    beyond = jnp.where(alive, beyond, jnp.argmax(estimates))
    chosen = jnp.where(exploring, beyond, jnp.argmax(unsettled))
    # The real and the imaginary part of a residual are two directions: the longer one now.
    z = small.coefficients.astype(small.vectors.dtype) @ small.vectors[:, chosen]
    longer = (z.real @ small.gram @ z.real) >= (z.imag @ small.gram @ z.imag)
    start = jnp.any(small.pending)
    one_hot = (jnp.arange(z.shape[0]) == jnp.argmax(small.pending)).astype(small.gram.dtype)
    a = jnp.where(start, one_hot, jnp.where(longer, z.real, z.imag))
    # A residual that is still wanted is followed down to the floor.
    level = jnp.where(exploring, INVARIANT, FLOOR) * small.scale
    return a, start, exploring, eps * jnp.where(start, 100.0, level)


def verdict(
    rtol: Scalar,
    atol: Scalar,
    dimension: int,
    problem: EigenProblem,
    small: SmallState,
) -> tuple[Bool[Array, ""], RESULTS]:
    """Whether the solve is over, and how."""
    k = problem.k
    eps = jnp.finfo(small.projected.dtype).eps
    done, converged = settled(rtol, atol, small)
    rank = jnp.arange(small.values.shape[0])
    count = jnp.minimum(needed(problem, small), dimension)
    enough = jnp.all(done | (rank >= count)) & (small.size >= count)
    if k > 1:
        # All residuals zero: the space holds one copy of each value, and a fresh direction has
        # to show that there is no second one.
        worst = jnp.max(jnp.where(jnp.isfinite(small.estimates), small.estimates, 0))
        invariant = worst <= INVARIANT * eps * small.scale
        change = jnp.abs(signature(k, small) - small.injected_at)
        condition = jnp.max(jnp.where(rank < k, small.condition, 1))
        unchanged = small.injected & (change <= 100 * eps * small.scale * condition)
        enough = enough & (~invariant | unchanged)
    enough = enough & ~jnp.any(small.pending) & (small.explored >= small.explore)
    enough = enough | (small.size >= dimension)
    good = jnp.all(converged | (rank >= k))
    result = RESULTS.where(good, RESULTS.successful, RESULTS.stagnation)
    result = RESULTS.where(enough, result, RESULTS.max_matvecs_reached)
    result = RESULTS.where(small.finite, result, RESULTS.nonfinite)
    spent = small.matvecs >= problem.max_matvecs
    return (small.matvecs > 0) & (enough | spent | ~small.finite), result


def power_of_two(vector: PyTree) -> Float[Array, ""]:
    """The power of two next to the largest entry: dividing by it is exact. 1 for zero and NaN."""
    dtype = tree_dtype(vector)
    leaves = jax.tree.leaves(vector)
    largest = jnp.max(jnp.stack([jnp.max(jnp.abs(x), initial=0).astype(dtype) for x in leaves]))
    usable = jnp.isfinite(largest) & (largest > 0)
    _, exponent = jnp.frexp(jnp.where(usable, largest, 1))
    # Within the range in which the number and its inverse are both normal.
    limit = -jnp.finfo(dtype).minexp - 1
    return jnp.ldexp(jnp.ones((), dtype), jnp.clip(exponent, -limit, limit))
