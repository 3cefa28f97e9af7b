"""The density of the spectrum, by stochastic Lanczos quadrature."""

from collections.abc import Callable

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from .._results import RESULTS
from ..vectors._directions import orthogonalize
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
from ._trace import check_arguments, leaf_eps, mean_and_error, rademacher_like

# In units of epsilon times the largest entry of T: below it, what is left of a product is noise.
_INVARIANT = 100.0


def tridiagonalize(
    operator: lx.AbstractLinearOperator, vector: PyTree, steps: int
) -> tuple[Float[Array, " steps"], Float[Array, " steps"], Int[Array, ""], Bool[Array, ""]]:
    """Lanczos from one vector, with full reorthogonalization: the tridiagonal matrix.

    `steps` products at most, fewer where the Krylov space is invariant. Holds `steps` vectors.

    Returns:
        The diagonal, the off-diagonal (entry j couples j and j + 1; zero at the end), the size of
        the matrix, and whether the space is invariant (the quadrature is exact then).
    """
    structure = vector_structure(operator)
    tolerance = _INVARIANT * leaf_eps(structure)
    zeros = jnp.zeros(steps, tree_dtype(structure))

    def body(carry):
        basis, q, diagonal, off_diagonal, size, scale, _ = carry
        basis = block_set_row(basis, size, q)
        w = operator.mv(q)
        alpha = tree_dot(q, w)
        w, _, beta = orthogonalize(basis, w, size + 1, jnp.full_like(size, -1))
        scale = jnp.maximum(scale, jnp.maximum(jnp.abs(alpha), beta))
        # False for NaN as well: it is in the diagonal now, and the loop ends.
        continues = beta > tolerance * scale
        q = tree_scale(1 / jnp.where(continues, beta, 1), w)
        q = jax.tree.map(lambda x, s: x.astype(s.dtype), q, structure)
        return (
            basis,
            q,
            diagonal.at[size].set(alpha),
            off_diagonal.at[size].set(beta),
            size + 1,
            scale,
            continues,
        )

    start = tree_scale(1 / tree_norm(vector), vector)
    size, scale = jnp.zeros((), jnp.int32), jnp.zeros((), zeros.dtype)
    carry = (block_zeros(structure, steps), start, zeros, zeros, size, scale, jnp.asarray(True))
    carry = jax.lax.while_loop(lambda c: c[-1] & (c[4] < steps), body, carry)
    _, _, diagonal, off_diagonal, size, _, continues = carry
    is_whole_space = tree_size(structure) == steps
    return diagonal, off_diagonal, size, ~continues | ((size == steps) & is_whole_space)


def gauss_rule(
    diagonal: Float[Array, " steps"], off_diagonal: Float[Array, " steps"], size: Int[Array, ""]
) -> tuple[Float[Array, " steps"], Float[Array, " steps"]]:
    """The nodes (ascending) and weights of the leading `size` rows of a tridiagonal matrix.

    Source: Golub and Welsch 1969. Weights sum to one.
    """
    index = jnp.arange(diagonal.shape[0])
    # Past the end: a value inside of the spectrum, with weight zero, at which a function of the
    # spectrum is defined.
    diagonal = jnp.where(index < size, diagonal, diagonal[0])
    off_diagonal = jnp.where(index < size - 1, off_diagonal, 0)[:-1]
    matrix = jnp.diag(diagonal) + jnp.diag(off_diagonal, 1) + jnp.diag(off_diagonal, -1)
    finite = jnp.all(jnp.isfinite(matrix))
    values, vectors = jnp.linalg.eigh(jnp.where(finite, matrix, 0), symmetrize_input=False)
    weights = vectors[0] ** 2
    return jnp.where(finite, values, jnp.nan), weights / jnp.sum(weights)


def quadratures(
    operator: lx.AbstractLinearOperator, key: Array, probes: int, steps: int
) -> tuple[Array, Array, Array, Array]:
    """`tridiagonalize` from `probes` random sign vectors, one after the other."""
    structure = vector_structure(operator)

    def one(k: Array):
        return tridiagonalize(operator, rademacher_like(k, structure), steps)

    return jax.lax.map(one, jax.random.split(key, probes))


_POINTS = 512


class SpectralDensity(eqx.Module):
    """The distribution of a symmetric operator's eigenvalues, as random probes see it.

    Attributes:
        nodes: `(probes, steps)`, the Ritz values of each probe, ascending; all between the least
            and the greatest eigenvalue.
        weights: `(probes, steps)`, each row sums to one. `sum(weights * f(nodes))` of a row
            estimates the mean of f over the eigenvalues.
        grid: `(points,)`, values of the eigenvalue.
        density: `(points,)`, the density there, broadened by a Gaussian; its integral is one
            (times the dimension: how many eigenvalues there are per unit).
        density_std_error: `(points,)`, its standard error, from the spread of the probes.
        sigma: The width of the Gaussian.
        moments: `(2,)`, estimates of the mean eigenvalue, `trace(A) / n`, and of the mean of their
            squares, `||A||_F² / n`. For each probe v the quadrature holds `v^T A v` and `||A v||²`
            exactly (from two steps on).
        moments_std_error: `(2,)`, their standard errors.
        result: A member of `RESULTS`.
        stats: `{"matvecs"}`.

    Example:
        >>> operator = lx.DiagonalLinearOperator(jnp.array([1.0, 1.0, 1.0, 5.0]))
        >>> density = spectral_density(operator, key=jax.random.key(0), probes=2, steps=4)
        >>> [round(float(m), 4) for m in density.moments]
        [2.0, 7.0]
    """

    nodes: Float[Array, "probes steps"]
    weights: Float[Array, "probes steps"]
    grid: Float[Array, " points"]
    density: Float[Array, " points"]
    density_std_error: Float[Array, " points"]
    sigma: Float[Array, ""]
    moments: Float[Array, "2"]
    moments_std_error: Float[Array, "2"]
    result: RESULTS
    stats: dict[str, Array]

    def expectation(
        self, function: Callable[[Array], Array]
    ) -> tuple[Float[Array, ""], Float[Array, ""]]:
        """The mean of a function over the eigenvalues, `trace(f(A)) / n`, and its standard error.

        Exact in each probe for polynomials of a degree under twice the number of steps.
        """
        values = jnp.where(self.weights > 0, function(self.nodes), 0)
        return mean_and_error(jnp.sum(self.weights * values, axis=1))


@eqx.filter_jit
def _density(
    operator: lx.AbstractLinearOperator,
    key: Array,
    probes: int,
    steps: int,
    grid: Array | int,
    sigma: Array | None,
) -> SpectralDensity:
    operator = lx.linearise(operator)
    diagonal, off_diagonal, size, _ = quadratures(operator, key, probes, steps)
    nodes, weights = jax.vmap(gauss_rule)(diagonal, off_diagonal, size)
    low, high = jnp.min(nodes), jnp.max(nodes)
    if sigma is None:
        # What `steps` nodes resolve; for a single eigenvalue, a sliver of it.
        least_width = 1e-3 * jnp.maximum(jnp.abs(low), jnp.abs(high))
        sigma = jnp.maximum((high - low) / steps, least_width)
        sigma = jnp.where(sigma > 0, sigma, 1)
    sigma = jnp.asarray(sigma, nodes.dtype)
    if isinstance(grid, int):
        grid = jnp.linspace(low - 4 * sigma, high + 4 * sigma, grid)
    grid = jnp.asarray(grid, nodes.dtype)

    def broaden(nodes: Array, weights: Array) -> Array:
        z = (grid[:, None] - nodes[None, :]) / sigma
        heights = jnp.exp(-0.5 * z**2) / (sigma * (2 * jnp.pi) ** 0.5)
        return jnp.sum(heights * weights[None, :], axis=1)

    density, density_error = mean_and_error(jax.vmap(broaden)(nodes, weights))
    powers = jnp.stack([jnp.sum(weights * nodes**p, axis=1) for p in (1, 2)], axis=1)
    moments, moments_error = mean_and_error(powers)
    finite = jnp.all(jnp.isfinite(nodes))
    return SpectralDensity(
        nodes=nodes,
        weights=weights,
        grid=grid,
        density=density,
        density_std_error=density_error,
        sigma=sigma,
        moments=moments,
        moments_std_error=moments_error,
        result=RESULTS.where(finite, RESULTS.successful, RESULTS.nonfinite),
        stats={"matvecs": jnp.sum(size, dtype=jnp.int32)},
    )


def spectral_density(
    operator: lx.AbstractLinearOperator,
    *,
    key: PRNGKeyArray,
    probes: int = 8,
    steps: int = 40,
    grid: Float[Array, " points"] | int | None = None,
    sigma: Float[Array, ""] | float | None = None,
) -> SpectralDensity:
    """The density of the eigenvalues of a symmetric operator.

    Costs `probes * steps` products at most (fewer where a Krylov space is exhausted), one
    `lineax.linearise`, and holds `steps` vectors and about four more. More steps resolve finer
    structure, more probes lessen the noise.

    Args:
        operator: Symmetric, on any pytree of real floating-point leaves.
        key: For the probes, vectors of random signs.
        probes: How many; two at least for a standard error.
        steps: Lanczos steps for each; at most the dimension is used.
        grid: `(points,)` values at which the density is wanted, or how many of them, evenly spaced
            over all nodes; None for 512.
        sigma: The width of the Gaussian that broadens each node; None for the span of the nodes
            over `steps`, about what the nodes resolve.

    Returns:
        A `SpectralDensity`.

    Raises:
        ValueError: The operator is not tagged symmetric, or an option is out of range.
        TypeError: Not a lineax operator.

    Source: Lin, Saad and Yang, SIAM Review 58 (2016); Ghorbani, Krishnan and Xiao 2019.

    Example:
        >>> operator = lx.DiagonalLinearOperator(jnp.linspace(0.0, 1.0, 50))
        >>> density = spectral_density(operator, key=jax.random.key(0), steps=20)
        >>> total = jnp.trapezoid(density.density, density.grid)
        >>> round(float(total), 3)
        1.0
    """
    check_arguments(
        "spectral_density", operator, symmetric=True, probes=(probes, 1), steps=(steps, 1)
    )
    if grid is None:
        grid = _POINTS
    if isinstance(grid, int) and grid < 2:
        raise ValueError(f"spectral_density(grid={grid}): two points or more, or an array of them.")
    if isinstance(sigma, float | int) and not sigma > 0:
        raise ValueError(f"spectral_density(sigma={sigma}): a width is positive.")
    steps = min(steps, tree_size(operator.in_structure()))
    width = None if sigma is None else jnp.asarray(sigma, jnp.result_type(float))
    return _density(operator, key, probes, steps, grid, width)
