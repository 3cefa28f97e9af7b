"""The log-determinant of a shifted operator, by stochastic Lanczos quadrature."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, PRNGKeyArray

from ._estimate import Estimate, check_question, leaf_eps, mean_and_error
from ._quadrature import gauss_rule, quadratures
from ._results import RESULTS
from ._ritz import structure_dimension
from ._tree import tree_dtype

# In units of epsilon times the largest Ritz value: no eigenvalue under it can be told from zero.
_FLOOR = 8.0


@eqx.filter_jit
def _log_determinant(
    operator: lx.AbstractLinearOperator, shift: Array, key: Array, probes: int, steps: int
) -> Estimate:
    operator = lx.linearise(operator)
    structure = operator.in_structure()
    n = structure_dimension(structure)
    diagonal, off, size, exact = quadratures(operator, key, probes, steps)
    # Ritz values lie between the eigenvalues: one that is not positive proves an eigenvalue that
    # is not.
    nodes, weights = jax.vmap(gauss_rule)(diagonal, off, size)
    finite = jnp.all(jnp.isfinite(nodes))
    shifted = nodes + shift
    floor = _FLOOR * leaf_eps(structure) * jnp.max(jnp.abs(nodes))
    positive = jnp.min(shifted) > floor
    sound = finite & positive

    def integrate(nodes: Array, weights: Array) -> Array:
        logs = jnp.log(jnp.where(nodes + shift > floor, nodes + shift, 1))
        return n * jnp.sum(weights * logs, axis=1)

    value, error = mean_and_error(integrate(nodes, weights))
    half = jnp.maximum(size // 2, 1)
    coarse = integrate(*jax.vmap(gauss_rule)(diagonal, off, half))
    change = jnp.where(exact, 0, jnp.abs(coarse - integrate(nodes, weights)))
    result = RESULTS.where(positive, RESULTS.successful, RESULTS.not_positive_definite)
    return Estimate(
        value=jnp.where(sound, value, jnp.nan),
        std_error=jnp.where(sound, error, jnp.inf),
        result=RESULTS.where(finite, result, RESULTS.nonfinite),
        stats={
            "matvecs": jnp.sum(size, dtype=jnp.int32),
            "quadrature_error": jnp.where(sound, jnp.mean(change), jnp.inf),
        },
    )


def log_determinant(
    operator: lx.AbstractLinearOperator,
    shift: Float[Array, ""] | float = 0.0,
    *,
    key: PRNGKeyArray,
    probes: int = 8,
    steps: int = 40,
) -> Estimate:
    """The log-determinant of `A + shift I`, which has to be positive definite.

    Costs `probes * steps` products at most, one `lineax.linearise`, and holds `steps` vectors and
    about four more. There are two errors. `std_error` is that of the probes. The quadrature errs
    as well, always upward, and the more the larger the condition number (it takes about its square
    root in steps): `stats["quadrature_error"]` is by how much half as many steps would change the
    value, usually more than the error itself.

    Args:
        operator: A, symmetric, on any pytree of real floating-point leaves.
        shift: Added to every eigenvalue; data, another value does not retrace.
        key: For the probes, vectors of random signs.
        probes: How many; two at least for a standard error.
        steps: Lanczos steps for each; at most the dimension is used.

    Returns:
        An `Estimate`. Where an eigenvalue is seen that is not positive (or that rounding cannot
        tell from zero), the value is NaN and `result` is `RESULTS.not_positive_definite`. One that
        no probe sees stays unseen.

    Raises:
        ValueError: The operator is not tagged symmetric, or an option is out of range.
        TypeError: Not a lineax operator.

    Source: Ubaru, Chen and Saad, SIAM J. Matrix Anal. Appl. 38 (2017).

    Example:
        >>> operator = lx.DiagonalLinearOperator(jnp.array([0.0, 1.0, 3.0]))
        >>> estimate = log_determinant(operator, 1.0, key=jax.random.key(0))
        >>> round(float(estimate.value), 4)  # log 8
        2.0794
    """
    check_question(
        "log_determinant", operator, symmetric=True, probes=(probes, 1), steps=(steps, 2)
    )
    structure = operator.in_structure()
    steps = min(steps, structure_dimension(structure))
    return _log_determinant(operator, jnp.asarray(shift, tree_dtype(structure)), key, probes, steps)
