"""Lanczos quadrature: the spectrum as one vector sees it, in a few nodes and weights."""

import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float, Int, PyTree

from ..vectors._tree import (
    block_set_row,
    block_zeros,
    tree_dot,
    tree_dtype,
    tree_norm,
    tree_scale,
    tree_size,
    vector_structure,
)
from ._estimate import leaf_eps, project_out_again, rademacher_like

# In units of epsilon times the largest entry of T: below it, what is left of a product is noise.
_INVARIANT = 100.0


def tridiagonalise(
    operator: lx.AbstractLinearOperator, vector: PyTree, steps: int
) -> tuple[Float[Array, " steps"], Float[Array, " steps"], Int[Array, ""], Bool[Array, ""]]:
    """Lanczos from one vector, with full reorthogonalisation: the tridiagonal matrix.

    `steps` products at most, fewer where the Krylov space is invariant. Holds `steps` vectors.

    Returns:
        The diagonal, the off-diagonal (entry j couples j and j + 1; zero at the end), the size of
        the matrix, and whether the space is invariant (the quadrature is exact then).
    """
    structure = vector_structure(operator)
    tolerance = _INVARIANT * leaf_eps(structure)
    zeros = jnp.zeros(steps, tree_dtype(structure))

    def body(carry):
        basis, q, diagonal, off, size, scale, _ = carry
        basis = block_set_row(basis, size, q)
        w = operator.mv(q)
        alpha = tree_dot(q, w)
        # Twice is enough, and once is not.
        w, _ = project_out_again(basis, w, size + 1, 2)
        beta = tree_norm(w)
        scale = jnp.maximum(scale, jnp.maximum(jnp.abs(alpha), beta))
        # False for NaN as well: it is in the diagonal now, and the loop ends.
        open_ = beta > tolerance * scale
        q = tree_scale(1 / jnp.where(open_, beta, 1), w)
        q = jax.tree.map(lambda x, s: x.astype(s.dtype), q, structure)
        return (
            basis,
            q,
            diagonal.at[size].set(alpha),
            off.at[size].set(beta),
            size + 1,
            scale,
            open_,
        )

    start = tree_scale(1 / tree_norm(vector), vector)
    size, scale = jnp.zeros((), jnp.int32), jnp.zeros((), zeros.dtype)
    carry = (block_zeros(structure, steps), start, zeros, zeros, size, scale, jnp.asarray(True))
    carry = jax.lax.while_loop(lambda c: c[-1] & (c[4] < steps), body, carry)
    _, _, diagonal, off, size, _, open_ = carry
    whole = tree_size(structure) == steps
    return diagonal, off, size, ~open_ | ((size == steps) & whole)


def gauss_rule(
    diagonal: Float[Array, " steps"], off: Float[Array, " steps"], size: Int[Array, ""]
) -> tuple[Float[Array, " steps"], Float[Array, " steps"]]:
    """The nodes (ascending) and weights of the leading `size` rows of a tridiagonal matrix.

    Source: Golub and Welsch 1969. Weights sum to one.
    """
    index = jnp.arange(diagonal.shape[0])
    # Past the end: a value inside of the spectrum, with weight zero, at which a function of the
    # spectrum is defined.
    diagonal = jnp.where(index < size, diagonal, diagonal[0])
    off = jnp.where(index < size - 1, off, 0)[:-1]
    matrix = jnp.diag(diagonal) + jnp.diag(off, 1) + jnp.diag(off, -1)
    finite = jnp.all(jnp.isfinite(matrix))
    values, vectors = jnp.linalg.eigh(jnp.where(finite, matrix, 0), symmetrize_input=False)
    weights = vectors[0] ** 2
    return jnp.where(finite, values, jnp.nan), weights / jnp.sum(weights)


def quadratures(
    operator: lx.AbstractLinearOperator, key: Array, probes: int, steps: int
) -> tuple[Array, Array, Array, Array]:
    """`tridiagonalise` from `probes` random sign vectors, one after the other."""
    structure = vector_structure(operator)

    def one(k: Array):
        return tridiagonalise(operator, rademacher_like(k, structure), steps)

    return jax.lax.map(one, jax.random.split(key, probes))
