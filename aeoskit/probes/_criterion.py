"""The criterion that a measurement met."""

import jax.numpy as jnp
from jaxtyping import Array, Int

from aeoskit.linalg import RESULTS, AbstractEigenSolver, EigenSolution

CRITERIA = ("none", "residual", "value")
"""The words for the numbers of a column `…_criterion`, each at its place."""


def criterion(solution: EigenSolution, solver: AbstractEigenSolver) -> Int[Array, " k"]:
    """The criterion that each pair of a solution met, as a place in `CRITERIA`.

    Args:
        solution: the solution.
        solver: the solver, for its tolerances.

    Returns:
        0 for none, 1 for the residual's tolerance, 2 for the estimated error of the value alone.

    Example:
        >>> import jax.numpy as jnp, lineax as lx
        >>> from aeoskit.linalg import Dense, eigensolve
        >>> operator = lx.DiagonalLinearOperator(jnp.array([1.0, 4.0]))
        >>> criterion(eigensolve(operator, Dense()), Dense()).tolist()
        [1]
    """
    # A direct solver has no tolerance: its pairs are as good as the products.
    size = jnp.abs(solution.values)
    allowed = getattr(solver, "rtol", jnp.inf) * size + getattr(solver, "atol", 0.0)
    by_value = (solution.residuals > allowed) & (solution.result != RESULTS.successful)
    return jnp.where(solution.converged, jnp.where(by_value, 2, 1), 0).astype(int)
