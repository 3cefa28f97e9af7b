"""What `Tracking` believes of an operator, in the coordinates of its basis: small dense algebra.

The basis has rows Q (c at most). The *model* F is a symmetric c x c matrix: on the directions X
that this solve has multiplied it is exact, elsewhere it is what earlier solves left. All is in
terms of `±A`, so that the wanted end is the top.
"""

from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree, UInt32

from .solvers._eigensolve import EigenProblem
from ._results import EVIDENCE
from ._tree import block_combine, tree_where

matmul = partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)

# How fast the guesses follow what is measured: the curvature of directions of which nothing is
# known, and the drift of a value from one solve to the next.
_BULK_RATE = 0.1
_DRIFT_RATE = 0.1
# A direction that is older than this (in solves, squared overlap counted) tells of drift.
_OLD = 0.5
# A direction shorter than this in what is left of it is no direction.
_GONE = 1e-3


class Memory(eqx.Module):
    """What a solve leaves to the next one, beside vectors."""

    model: Float[Array, "r r"]
    staleness: Float[Array, "r r"]
    bulk: Float[Array, ""]
    bulk_weight: Float[Array, ""]
    drift: Float[Array, ""]


class TrackingState(eqx.Module):
    """What one product needs from those before it.

    Attributes:
        basis: Orthonormal rows, the first `size` of them filled.
        model: F.
        staleness: G: for a unit direction x, `xᵀGx` is how many solves ago the model was measured
            there.
        exact: X in columns, the first `products` of them filled: coordinates, orthonormal.
        direction: The unit coordinates of the next product.
        exploring: Whether that product looks for what nothing wanted points to.
        explorers: Columns: the explorer, its last change, and, once it was multiplied in this
            solve, the direction of that product and what the product brought.
        theta, ritz, residuals, gains: By wanted pair: its value on span(X), its coordinates, its
            residual norm, and by how much the model expects the value to rise.
        lost: What was left out of a product because rounding had made its direction arbitrary.
        pending: Rows that the caller gave and that have not been multiplied.
    """

    basis: PyTree[Array]
    model: Float[Array, "c c"]
    staleness: Float[Array, "c c"]
    exact: Float[Array, "c c"]
    direction: Float[Array, " c"]
    exploring: Bool[Array, ""]
    explorers: Float[Array, "c 4"]
    explored: Bool[Array, ""]
    due: Bool[Array, ""]
    cold: Bool[Array, ""]
    theta: Float[Array, " k"]
    ritz: Float[Array, "c k"]
    residuals: Float[Array, " k"]
    gains: Float[Array, " k"]
    pending: Bool[Array, " c"]
    size: Int[Array, ""]
    products: Int[Array, ""]
    old_rows: Int[Array, ""]
    bulk: Float[Array, ""]
    bulk_weight: Float[Array, ""]
    drift: Float[Array, ""]
    scale: Float[Array, ""]
    lost: Float[Array, ""]
    asymmetry: Float[Array, ""]
    finite: Bool[Array, ""]
    evidence: EVIDENCE
    age: Int[Array, ""]
    key: UInt32[Array, "2"]
    matvecs: Int[Array, ""]
    restarts: Int[Array, ""]


def off(exact: Float[Array, "c m"], x: Float[Array, " c"]) -> Float[Array, " c"]:
    """What is left of x beside the orthonormal columns (zero columns do no harm)."""
    for _ in range(2):
        x = x - matmul(exact, matmul(exact.T, x))
    return x


def appended(
    columns: Float[Array, "c m"], x: Float[Array, " c"]
) -> tuple[Float[Array, "c m+1"], Float[Array, " c"]]:
    """The columns and a unit one along what is left of x; zero if nothing is left."""
    left = off(columns, x)
    norm = jnp.linalg.norm(left)
    enough = norm > _GONE * jnp.maximum(jnp.linalg.norm(x), jnp.finfo(x.dtype).tiny)
    unit = jnp.where(enough, left / jnp.where(enough, norm, 1), 0)
    return jnp.concatenate([columns, unit[:, None]], axis=1), unit


def secant(state: TrackingState, x: Float[Array, " c"], image: Float[Array, " c"]) -> TrackingState:
    """The model that agrees with the measured image of x and changes least (Frobenius) elsewhere.

    The symmetric update of Powell (1970): `F + (I - xxᵀ)(y - Fx)xᵀ + x(y - Fx)ᵀ`, for unit x.
    """
    c = x.shape[0]
    index = jnp.arange(c)
    before, measured = matmul(state.model, x), jnp.dot(x, image)
    expected = jnp.dot(x, before)
    # Directions multiplied before know what <u, Ax> has to be.
    asymmetry = jnp.max(jnp.abs(matmul(state.exact.T, image - before)))
    change = image - before
    model = state.model + jnp.outer(change, x) + jnp.outer(x, change - jnp.dot(x, change) * x)
    stale = matmul(state.staleness, x)
    oldness = jnp.dot(x, stale)
    staleness = state.staleness - jnp.outer(stale, x) - jnp.outer(x, stale - oldness * x)
    error = measured - expected
    # What share of x the model knew nothing about.
    unknown = jnp.sum(jnp.where(index >= state.old_rows, x**2, 0))
    rate = jnp.maximum(_BULK_RATE, 1 / (1 + state.bulk_weight))
    first = (state.matvecs == 0) & (state.bulk_weight == 0)
    bulk = jnp.where(first, measured, state.bulk + rate * unknown * error)
    tells = (oldness > _OLD) & ~state.exploring
    drift = state.drift + jnp.where(
        tells, _DRIFT_RATE * (jnp.abs(error) / jnp.maximum(oldness, _OLD) - state.drift), 0
    )

    def parts(s: TrackingState) -> tuple:
        return (
            s.model,
            s.staleness,
            s.exact,
            s.products,
            s.asymmetry,
            s.bulk,
            s.bulk_weight,
            s.drift,
        )

    learned = (
        (model + model.T) / 2,
        staleness,
        jnp.where(index[None, :] == state.products, x[:, None], state.exact),
        state.products + 1,
        jnp.maximum(state.asymmetry, asymmetry),
        bulk,
        state.bulk_weight + jnp.where(first, 1, unknown),
        drift,
    )
    # A product that was not finite teaches nothing, or the pair that it was of would be lost.
    return eqx.tree_at(parts, state, tree_where(state.finite, learned, parts(state)))


def masked(matrix: Float[Array, "c c"], filled: Bool[Array, " c"]) -> Float[Array, "c c"]:
    """The matrix with rows that hold nothing given values under all others."""
    below = -2 * jnp.linalg.norm(matrix) - 1
    both = filled[:, None] & filled[None, :]
    return jnp.where(both, matrix, 0) + jnp.diag(jnp.where(filled, 0, below))


def analyse(
    problem: EigenProblem, state: TrackingState, inflation: Float[Array, ""]
) -> tuple[TrackingState, Float[Array, "c c"], Bool[Array, " k"]]:
    """Wanted pairs, their residuals and expected gains; the model's vectors, best first."""
    c, k = state.model.shape[0], problem.k
    index = jnp.arange(c)
    filled, multiplied = index < state.size, index < state.products
    projected = matmul(state.exact.T, matmul(state.model, state.exact))
    hopeful = state.model + inflation * state.drift * state.staleness
    both = jnp.stack([masked(projected, multiplied), masked(hopeful, filled)])
    values, vectors = jnp.linalg.eigh((both + both.mT) / 2, symmetrize_input=False)
    best = jnp.arange(c - 1, c - 1 - k, -1)
    held = jnp.arange(k) < state.products
    theta, expected = values[0, best], values[1, best]
    ritz = matmul(state.exact, vectors[0][:, best])
    residual_vectors = matmul(state.model, ritz) - theta[None] * ritz
    residuals = jnp.linalg.norm(residual_vectors, axis=0)
    gains = jnp.where(held, jnp.maximum(expected - theta, 0), jnp.inf)
    state = eqx.tree_at(
        lambda s: (s.theta, s.ritz, s.residuals, s.gains, s.scale),
        state,
        (
            jnp.where(held, theta, 0),
            jnp.where(held[None], ritz, 0),
            jnp.where(held, residuals, jnp.inf),
            gains,
            jnp.maximum(state.scale, jnp.max(jnp.where(multiplied, jnp.abs(values[0, ::-1]), 0))),
        ),
    )
    return state, vectors[1][:, ::-1], held


def choose(
    state: TrackingState, hopes: Float[Array, "c c"], settled: Bool[Array, " k"]
) -> TrackingState:
    """The next direction: what the caller gave, an unsettled pair's expected gain, the explorer."""
    c, k = state.model.shape[0], settled.shape[0]
    index = jnp.arange(c)
    given = jnp.any(state.pending)
    first = (index == jnp.argmax(state.pending)).astype(hopes.dtype)
    unsettled = jnp.argmin(settled)
    residual = matmul(state.model, state.ritz) - state.theta[None] * state.ritz
    newest = (index == state.size - 1).astype(hopes.dtype)
    explore = jnp.all(settled) & ~given
    candidates = jnp.stack(
        [
            jnp.where(given, first, jnp.where(explore, state.explorers[:, 0], hopes[:, unsettled])),
            residual[:, unsettled],
            newest,
            *(hopes[:, i] for i in range(min(k, c))),
        ],
        axis=1,
    )
    left = candidates - matmul(state.exact, matmul(state.exact.T, candidates))
    left = left - matmul(state.exact, matmul(state.exact.T, left))
    norms = jnp.linalg.norm(left, axis=0)
    full = jnp.linalg.norm(candidates, axis=0)
    sound = norms > _GONE * jnp.where(full > 0, full, jnp.inf)
    pick = jnp.argmax(sound)
    norm = jnp.where(sound[pick], norms[pick], 1)
    direction = jnp.where(sound[pick], left[:, pick] / norm, newest)
    return eqx.tree_at(
        lambda s: (s.direction, s.exploring, s.pending),
        state,
        (direction, explore, state.pending & (index != jnp.argmax(state.pending))),
    )


def rotated(state: TrackingState, columns: Float[Array, "c p"]) -> PyTree:
    """The basis vectors with these coordinates."""
    return block_combine(state.basis, columns)


def restart(problem: EigenProblem, kept: int, state: TrackingState) -> TrackingState:
    """Fewer rows: the wanted pairs and their residuals (exact), the explorers, the model's best.

    The model stays exact on the wanted pairs, whose images lie in what is kept; elsewhere it keeps
    its values, as a model.
    """
    c, k = state.model.shape[0], problem.k
    residual = matmul(state.model, state.ritz) - state.theta[None] * state.ritz
    lengths = jnp.linalg.norm(residual, axis=0)
    residual = residual / jnp.where(lengths > 0, lengths, 1)[None]
    _, vectors = jnp.linalg.eigh(state.model, symmetrize_input=False)
    wanted = jnp.concatenate(
        [state.ritz, residual, state.direction[:, None], state.explorers, vectors[:, ::-1]], axis=1
    )
    columns, _ = jnp.linalg.qr(wanted[:, :kept])
    # Columns of zeros leave QR free to choose: nothing is promised of those rows but a value.
    model = matmul(columns.T, matmul(state.model, columns))
    staleness = matmul(columns.T, matmul(state.staleness, columns))

    def padded(x: Array) -> Array:
        return jnp.pad(x, [(0, c - kept), *[(0, 0)] * (x.ndim - 1)])

    def square(x: Array) -> Array:
        return jnp.pad(x, [(0, c - kept)] * 2)

    basis = jax.tree.map(
        lambda b, r: jax.lax.dynamic_update_slice_in_dim(b, r, 0, axis=0),
        state.basis,
        rotated(state, columns),
    )
    exact = matmul(columns.T, state.ritz)
    exact, _ = jnp.linalg.qr(exact)
    exact = jnp.pad(padded(exact), [(0, 0), (0, c - k)])
    direction = off(exact, padded(matmul(columns.T, state.direction)))
    length = jnp.linalg.norm(direction)
    return eqx.tree_at(
        lambda s: (
            s.basis,
            s.model,
            s.staleness,
            s.exact,
            s.products,
            s.direction,
            s.explorers,
            s.ritz,
            s.pending,
            s.size,
            s.old_rows,
            s.restarts,
        ),
        state,
        (
            basis,
            square((model + model.T) / 2),
            square(staleness),
            exact,
            jnp.full_like(state.products, k),
            direction / jnp.where(length > 0, length, 1),
            padded(matmul(columns.T, state.explorers)),
            padded(matmul(columns.T, state.ritz)),
            state.pending & False,
            jnp.full_like(state.size, kept),
            jnp.full_like(state.old_rows, kept),
            state.restarts + 1,
        ),
    )


def next_explorers(
    state: TrackingState, best: Float[Array, "c p"], renew: Bool[Array, ""]
) -> Float[Array, "c 2"]:
    """The explorer and its last change for the next solve: a step of a conjugate-gradient kind.

    Once multiplied, the explorer becomes the best direction, beside the model's best, in the span
    of itself, what its product brought and its last change (LOBPCG for one vector). A column of
    zeros asks for a fresh random vector.
    """
    e, change, multiplied, brought = state.explorers.T
    stepped = jnp.any(multiplied != 0)
    columns, first = appended(best, jnp.where(stepped, multiplied, e))
    columns, second = appended(columns, jnp.where(stepped, brought, 0))
    columns, third = appended(columns, change)
    span = jnp.stack([first, second, third], axis=1)
    small = matmul(span.T, matmul(state.model, span))
    there = jnp.any(span != 0, axis=0)
    _, vectors = jnp.linalg.eigh(masked(small, there), symmetrize_input=False)
    moved = jnp.where(stepped, matmul(span, vectors[:, -1]), first)
    moved = jnp.where(renew, 0, moved)
    columns, moved = appended(best, moved)
    _, change = appended(columns, jnp.where(renew, 0, jnp.where(stepped, first, third)))
    return jnp.stack([moved, change], axis=1)


def compressed(matrix: Float[Array, "c c"], columns: Float[Array, "c p"]) -> Float[Array, "p p"]:
    """The symmetric matrix on the span of orthonormal columns."""
    small = matmul(columns.T, matmul(matrix, columns))
    return (small + small.T) / 2
