"""The small dense problem of Arnoldi, and its restart.

The small problem (`analyse`) touches matrices of the size of the basis only, so that it can run
inside the compiled program, or on another device between two steps.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from ._arnoldi_state import ArnoldiState, SmallState
from ._orthogonal import once
from ._tree import block_combine

ENDS = ("smallest_real", "largest_real", "largest_magnitude")

# What a rotation of the basis adds to the error of A V = V H + C B, in units of epsilon times
# the largest product: measured, see tests/linalg/test_arnoldi.py.
_ROTATION = 2.0
# An invariant subspace found to this many epsilons (times the root of the basis size) is as good
# as any.
_EXACT = 10.0


def _dot(a: Array, b: Array) -> Array:
    dtype = jnp.result_type(a, b)
    return jnp.matmul(a.astype(dtype), b.astype(dtype), precision=jax.lax.Precision.HIGHEST)


def _order(values: Array, valid: Array, which: str) -> Int[Array, " m"]:
    """Best first, the invalid ones last, conjugate pairs side by side, the upper one first."""
    index = jnp.arange(values.shape[0])
    upper = index - (values.imag < 0)  # the decomposition puts the upper one just before the other
    if which == "smallest_real":
        first, second = values.real, -jnp.abs(values.imag)
    elif which == "largest_real":
        first, second = -values.real, -jnp.abs(values.imag)
    else:
        first, second = -jnp.abs(values), -values.real
    return jnp.lexsort((-values.imag, upper, second, first, ~valid))


def analyse(which: str, k: int, dimension: int, small: SmallState) -> SmallState:
    """The Ritz pairs, their residuals and condition numbers; in a full basis, what to keep."""
    m = small.projected.shape[0]
    dtype = small.projected.dtype
    filled = jnp.arange(m) < small.size
    norm = jnp.linalg.norm(small.projected)
    # Rows that are not filled get eigenvalues that no matrix of this norm has.
    outside = jnp.where(norm > 0, 3 * norm, 1)
    matrix = small.projected + jnp.diag(jnp.where(filled, 0, outside))
    values, left, right = jax.lax.linalg.eig(matrix)
    order = _order(values, jnp.abs(values) < 0.6 * outside, which)
    values, left, right = values[order], left[:, order], right[:, order]
    values = jnp.where(filled, values, 0)
    right = jnp.where(filled[None, :], right, 0)
    overlap = jnp.abs(jnp.sum(left.conj() * right, axis=0))
    condition = jnp.where(overlap > 0, 1 / jnp.where(overlap > 0, overlap, 1), jnp.inf)
    inner = jnp.linalg.norm(_dot(small.projected, right) - right * values[None, :], axis=0)
    z = _dot(small.coefficients, right)
    outer = jnp.sum((z.conj() * _dot(small.gram, z)).real, axis=0)
    estimates = jnp.sqrt(inner**2 + jnp.maximum(outer, 0))
    small = eqx.tree_at(
        lambda s: (s.values, s.vectors, s.estimates, s.condition, s.scale),
        small,
        (
            values,
            right,
            jnp.where(filled, estimates, jnp.inf).astype(dtype),
            jnp.where(filled, condition, jnp.inf).astype(dtype),
            jnp.maximum(small.scale, jnp.max(jnp.abs(values))),
        ),
    )
    if m == dimension:
        return small
    return once(small.size == m, lambda s: _choose(k, s), small)


def kept_at_restart(m: int, k: int) -> int:
    """How many Ritz vectors a restart keeps in a basis of m; one more if that cuts a pair."""
    return max(1, min(m - 2, k + max(1, (m - k) // 2)))


def _choose(k: int, small: SmallState) -> SmallState:
    """An orthonormal real basis Q of the invariant subspace of the best values: H Q = Q (QᵀHQ)."""
    m = small.projected.shape[0]
    keep = kept_at_restart(m, k)
    cut = small.values[keep - 1].imag > 0
    kept = (keep + cut).astype(small.kept.dtype)
    held = jnp.arange(keep + 1) < kept
    h = small.projected
    eps = jnp.finfo(h.dtype).eps
    norm = jnp.linalg.norm(h)

    def defect(z: Array) -> Array:
        image = _dot(h, z)
        return jnp.linalg.norm(image - _dot(z, _dot(z.conj().T, image)))

    def mask(z: Array) -> Array:
        return jnp.where(held[None, :], z, 0)

    # Eigenvectors that are far from parallel give a Schur basis by one factorization; otherwise
    # it is found vector by vector, which needs no condition.
    schur = mask(jnp.linalg.qr(mask(small.vectors[:, : keep + 1]))[0])
    rough = ~(defect(schur) <= _EXACT * eps * jnp.sqrt(m) * norm)
    schur = once(rough, lambda z: mask(_deflated(h, small.values[: keep + 1])), schur)
    # The subspace is closed under conjugation, so that the projector onto it is real; the mean
    # of the subspace and of its conjugate is invariant where each of them is.
    projector = _dot(schur, schur.conj().T).real
    q = jnp.linalg.eigh(projector, symmetrize_input=True)[1][:, ::-1][:, : keep + 1]
    q = mask(q)
    return eqx.tree_at(
        lambda s: (s.rotation, s.kept, s.drift),
        small,
        (q, kept, small.drift + defect(q) + _ROTATION * eps * small.scale),
    )


def _deflated(h: Array, targets: Array) -> Array:
    """Schur vectors one by one: each an eigenvector of what is left after those before it."""
    m, count = h.shape[0], targets.shape[0]
    outside = 3 * jnp.linalg.norm(h)

    def body(i: Array, z: Array) -> Array:
        found = _dot(z, z.conj().T)
        rest = jnp.eye(m, dtype=z.dtype) - found
        matrix = _dot(rest, _dot(h, rest)) + outside * found
        values, vectors = jax.lax.linalg.eig(matrix, compute_left_eigenvectors=False)
        vector = vectors[:, jnp.argmin(jnp.abs(values - targets[i]))]
        vector = vector - _dot(found, vector)
        return z.at[:, i].set(vector / jnp.linalg.norm(vector))

    return jax.lax.fori_loop(0, count, body, jnp.zeros((m, count), targets.dtype))


def restart(state: ArnoldiState) -> ArnoldiState:
    """Goes on in the chosen subspace: A V Q = V Q (QᵀHQ) + C B Q."""
    small = state.small
    m = small.projected.shape[0]
    q = small.rotation
    columns = q.shape[1]
    rotated = block_combine(state.basis, q)
    basis = jax.tree.map(
        lambda b, r: jax.lax.dynamic_update_slice_in_dim(b, r, 0, axis=0), state.basis, rotated
    )
    projected = jnp.zeros_like(small.projected)
    projected = projected.at[:columns, :columns].set(_dot(q.T, _dot(small.projected, q)))
    coefficients = jnp.zeros_like(small.coefficients)
    coefficients = coefficients.at[:, :columns].set(_dot(small.coefficients, q))
    held = jnp.arange(m) < small.kept
    vectors = jnp.zeros_like(small.vectors)
    vectors = vectors.at[:columns].set(_dot(q.T, jnp.where(held[None, :], small.vectors, 0)))
    small = eqx.tree_at(
        lambda s: (
            s.projected,
            s.coefficients,
            s.size,
            s.values,
            s.vectors,
            s.estimates,
            s.restarts,
        ),
        small,
        (
            projected,
            coefficients,
            small.kept,
            jnp.where(held, small.values, 0),
            vectors,
            jnp.where(held, small.estimates, jnp.inf),
            small.restarts + 1,
        ),
    )
    return ArnoldiState(basis=basis, slots=state.slots, small=small)


def ritz_block(basis: PyTree, coefficients: Array) -> PyTree:
    """The block of complex vectors with these coefficients, in single precision at least."""
    dtype = jnp.real(coefficients).dtype

    def join(x: Array, y: Array) -> Array:
        return jax.lax.complex(x.astype(dtype), y.astype(dtype))

    real = block_combine(basis, coefficients.real)
    return jax.tree.map(join, real, block_combine(basis, coefficients.imag))
