"""A subspace with its images, for methods that are free in how they expand it.

The state keeps an orthonormal basis V and the images Z = (A - σ) V, each a true product of A. So
any vector of the space has its residual without a product and without a recurrence, however the
space came about: a linear solve that was inexact, or failed, costs speed and never honesty.

For values nearest σ, inside of the spectrum, Ritz values are no guide: a mixture of eigenvectors
from both sides of σ has one near it. The space is searched for *harmonic* Ritz vectors instead
(Morgan 1991; Paige, Parlett, van der Vorst 1995), the best of which make the small space in which
values are taken as ordinary Ritz values.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from .solvers._eigensolve import EigenProblem
from .solvers._relation import kept_at_restart
from ._harmonic import GUARD, nearest_zero, small_product
from ._options import Scalar
from ._orthogonal import draw, once, orthonormalise
from ._results import EVIDENCE
from ._ritz import rank_ritz, structure_dimension
from ._shifted import widen
from ._start import Start
from ._tree import (
    block_combine,
    block_dots,
    block_gram,
    block_row,
    block_set_row,
    block_zeros,
    tree_dtype,
    tree_norm,
)
from ._vector_structure import vector_structure

# As in Lanczos: what rounding adds to a residual, in units of (epsilon * scale).
_FLOOR = 8.0


class SubspaceState(eqx.Module):
    """The space, what was found in it, and what it cost."""

    basis: PyTree[Array]
    images: PyTree[Array]
    projected: Float[Array, "m m"]
    gram: Float[Array, "m m"]
    coefficients: Float[Array, "m m"]  # orthonormal columns, best first
    values: Float[Array, " k"]  # shifted: theta - sigma
    residuals: Float[Array, " k"]
    residual: PyTree[Array]  # that of the target, the first pair that is not settled
    target: Int[Array, ""]
    size: Int[Array, ""]
    starts: PyTree[Array]
    begun: Int[Array, ""]
    scale: Float[Array, ""]
    asymmetry: Float[Array, ""]
    finite: Bool[Array, ""]
    evidence: EVIDENCE
    key: UInt32[Array, "2"]
    matvecs: Int[Array, ""]
    failed: Int[Array, ""]
    restarts: Int[Array, ""]
    explored: Int[Array, ""]


def begin(
    operator: lx.AbstractLinearOperator, problem: EigenProblem, start: Start, basis: int, name: str
) -> SubspaceState:
    """An empty space, and the vectors that it will start with. No products."""
    structure = vector_structure(operator)
    dimension = structure_dimension(structure)
    dtype = tree_dtype(structure)
    m, k = min(basis, dimension), problem.k
    if m < min(k + GUARD + 1, dimension):
        raise ValueError(
            f"{name}(basis={basis}) is too small for k={k}: use basis={k + GUARD + 1} or more "
            "(2k + 10 is a good choice)."
        )
    starts, key = start.block, start.key
    if starts is None:
        row, key = draw(key, structure)
        starts = jax.tree.map(lambda x: x[None], row)
        evidence = EVIDENCE.random_start
    else:
        rows = jax.tree.leaves(starts)[0].shape[0]
        starts = jax.tree.map(lambda x: x[: min(rows, m)], starts)
        evidence = EVIDENCE.where(start.fresh, EVIDENCE.random_start, EVIDENCE.none)
    integer, zero = jnp.zeros((), jnp.int32), jnp.zeros((), dtype)
    return SubspaceState(
        basis=block_zeros(structure, m),
        images=block_zeros(widen(structure), m),
        projected=jnp.zeros((m, m), dtype),
        gram=jnp.zeros((m, m), dtype),
        coefficients=jnp.eye(m, dtype=dtype),
        values=jnp.zeros(k, dtype),
        residuals=jnp.full(k, jnp.inf, dtype),
        residual=block_row(block_zeros(widen(structure), 1), 0),
        target=integer,
        size=integer,
        starts=starts,
        begun=integer,
        scale=zero,
        asymmetry=zero,
        finite=jnp.asarray(True),
        evidence=evidence,
        key=key,
        matvecs=integer,
        failed=integer,
        restarts=integer,
        explored=integer,
    )


def starting(state: SubspaceState) -> Bool[Array, ""]:
    """Whether start vectors are left."""
    return state.begun < jax.tree.leaves(state.starts)[0].shape[0]


def seek(
    shift: Float[Array, ""], state: SubspaceState, rtol: Scalar, atol: Scalar
) -> tuple[PyTree, Bool[Array, ""], SubspaceState]:
    """The right-hand side of the next linear solve, and whether it explores.

    The residual of the target; or, with all pairs settled, a random vector: if a nearer
    eigenvector or another copy was overlooked, its solution is full of it.
    """
    done = jnp.all(settled(shift, state, rtol, atol)[0]) & ~starting(state)
    like = block_row(state.basis, 0)
    residual = jax.tree.map(lambda x, v: x.astype(v.dtype), state.residual, like)
    chosen, key = once(done, lambda c: draw(c[1], c[0]), (residual, state.key))
    explored = jnp.where(done, state.explored + 1, 0)
    state = eqx.tree_at(lambda s: (s.key, s.explored), state, (key, explored))
    return widen(chosen), done, state


def add(
    operator: lx.AbstractLinearOperator,
    shift: Float[Array, ""],
    state: SubspaceState,
    direction: PyTree,
) -> SubspaceState:
    """The space with one more vector: the next start vector while there are any. One product."""
    first = starting(state)
    rows = jax.tree.leaves(state.starts)[0].shape[0]
    given = block_row(state.starts, jnp.minimum(state.begun, rows - 1))
    like = block_row(state.basis, 0)
    direction = jax.tree.map(
        lambda a, b, v: jnp.where(first, a.astype(v.dtype), b.astype(v.dtype)),
        given,
        direction,
        like,
    )

    def attempt(carry: tuple[PyTree, Array, Array, Array]) -> tuple[PyTree, Array, Array, Array]:
        # A direction that is nothing, or of which nothing is left: any other one.
        vector, key, lost, turn = carry
        vector, key = once(lost, lambda c: draw(c[1], c[0]), (vector, key))
        vector = orthonormalise(state.basis, vector, state.size)
        return vector, key, ~(tree_norm(vector) > 0.5), turn + 1

    norm = tree_norm(direction)
    carry = direction, state.key, ~(jnp.isfinite(norm) & (norm > 0)), jnp.zeros((), jnp.int32)
    q, key, _, _ = jax.lax.while_loop(lambda c: (c[3] == 0) | (c[2] & (c[3] < 3)), attempt, carry)
    product = operator.mv(q)
    scale = tree_norm(product)
    finite = jnp.isfinite(scale)
    z = jax.tree.map(
        lambda w, v, b: jnp.where(finite, w.astype(b.dtype) - shift * v.astype(b.dtype), 0).astype(
            b.dtype
        ),
        product,
        q,
        block_row(state.images, 0),
    )
    basis = block_set_row(state.basis, state.size, q)
    images = block_set_row(state.images, state.size, z)
    index = jnp.arange(state.gram.shape[0])
    column = jnp.where(index <= state.size, block_dots(basis, z), 0)
    row = jnp.where(index <= state.size, block_dots(images, q), 0)
    norms = jnp.where(index <= state.size, block_dots(images, z), 0)
    mean = (column + row) / 2
    i = state.size
    return eqx.tree_at(
        lambda s: (
            s.basis,
            s.images,
            s.projected,
            s.gram,
            s.size,
            s.begun,
            s.scale,
            s.asymmetry,
            s.finite,
            s.key,
            s.matvecs,
        ),
        state,
        (
            basis,
            images,
            state.projected.at[:, i].set(mean).at[i, :].set(mean),
            state.gram.at[:, i].set(norms).at[i, :].set(norms),
            i + 1,
            state.begun + first,
            jnp.where(finite, jnp.maximum(state.scale, scale), state.scale),
            jnp.maximum(state.asymmetry, jnp.max(jnp.abs(column - row))),
            state.finite & finite,
            key,
            state.matvecs + 1,
        ),
    )


def extract(
    problem: EigenProblem, shift: Array, state: SubspaceState, rtol: Scalar, atol: Scalar
) -> SubspaceState:
    """The k best pairs of the space, their residual vectors, and the target."""
    m, k = state.gram.shape[0], problem.k
    if problem.which == "nearest":
        values, vectors, valid = nearest_zero(state.projected, state.gram, state.size, k)
    else:
        empty = jnp.arange(m) >= state.size
        below = -2 * jnp.linalg.norm(state.projected) - 1
        values, vectors = jnp.linalg.eigh(
            state.projected + jnp.diag(jnp.where(empty, below, 0)), symmetrize_input=False
        )
        order, valid = rank_ritz(values, state.size, problem.which)
        values, vectors = values[order], jnp.where(valid[None, :], vectors[:, order], 0)
    best, values = vectors[:, :k], jnp.where(valid[:k], values[:k], 0)
    wide = widen(state.basis)
    residual_block = jax.tree.map(
        lambda z, v: z - v,
        block_combine(state.images, best),
        block_combine(wide, best * values[None, :]),
    )
    squares = jnp.diagonal(block_gram(residual_block, residual_block))
    residuals = jnp.where(valid[:k], jnp.sqrt(squares), jnp.inf)
    state = eqx.tree_at(
        lambda s: (s.coefficients, s.values, s.residuals), state, (vectors, values, residuals)
    )
    target = jnp.argmin(settled(shift, state, rtol, atol)[0]).astype(jnp.int32)
    return eqx.tree_at(
        lambda s: (s.target, s.residual), state, (target, block_row(residual_block, target))
    )


def rounding_floor(shift: Float[Array, ""], state: SubspaceState) -> Float[Array, ""]:
    """What rounding adds to a residual: images are those of the shifted operator."""
    return _FLOOR * jnp.finfo(state.gram.dtype).eps * (state.scale + jnp.abs(shift))


def settled(shift: Float[Array, ""], state: SubspaceState, rtol: Scalar, atol: Scalar):
    """Whether each pair meets its tolerance or is at the floor of the format; meets it."""
    floor = rounding_floor(shift, state)
    converged = state.residuals + floor <= rtol * jnp.abs(shift + state.values) + atol
    return converged | (state.residuals <= floor), converged


def restart(problem: EigenProblem, state: SubspaceState) -> SubspaceState:
    """Keeps the best vectors and their images."""
    m = state.gram.shape[0]
    chosen = state.coefficients[:, : kept_at_restart(m, problem.k)]
    chosen = jnp.pad(chosen, ((0, 0), (0, m - chosen.shape[1])))
    kept = jnp.full_like(state.size, kept_at_restart(m, problem.k))
    return eqx.tree_at(
        lambda s: (s.basis, s.images, s.projected, s.gram, s.coefficients, s.size, s.restarts),
        state,
        (
            block_combine(state.basis, chosen),
            block_combine(state.images, chosen),
            small_product(chosen.T, small_product(state.projected, chosen)),
            small_product(chosen.T, small_product(state.gram, chosen)),
            jnp.eye(m, dtype=state.gram.dtype),
            kept,
            state.restarts + 1,
        ),
    )


def confirm(
    shift: Float[Array, ""],
    exploring: Bool[Array, ""],
    old: SubspaceState,
    new: SubspaceState,
    rtol: Scalar,
    atol: Scalar,
) -> SubspaceState:
    """Where a look around changed a value, it has to be done again."""
    allowed = rtol * jnp.abs(shift + old.values) + atol + 2 * new.residuals
    changed = exploring & jnp.any(jnp.abs(new.values - old.values) > allowed)
    return eqx.tree_at(lambda s: s.explored, new, jnp.where(changed, 0, new.explored))


def make_room(
    operator: lx.AbstractLinearOperator, problem: EigenProblem, state: SubspaceState
) -> SubspaceState:
    """Restarts a space that is full."""
    m = state.gram.shape[0]
    if m >= structure_dimension(operator.in_structure()):
        return state
    return once(state.size == m, lambda s: restart(problem, s), state)
