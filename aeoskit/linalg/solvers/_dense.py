"""The dense solver: the oracle, for small operators."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._results import EVIDENCE, RESULTS, EigenSolution
from ..operators._protocol import dense_matrix
from ..vectors._tree import from_flat, tree_dtype, tree_size
from ._arguments import Scalar, Start
from ._convergence import ritz_gaps, temple_bound
from ._relation import WHICH, original_order, rank_ritz
from ._solver import AbstractEigenSolver, EigenProblem


class DenseState(eqx.Module):
    """The decomposition, ascending."""

    values: Float[Array, " n"]
    vectors: Float[Array, "n n"]
    residuals: Float[Array, " n"]
    asymmetry: Float[Array, ""]
    finite: Bool[Array, ""]
    matvecs: Int[Array, ""]
    key: Array


class Dense(AbstractEigenSolver):
    """Every eigenpair, from the full matrix: n products, `n²` memory, `n³` work.

    The products are taken at once, so that `max_matvecs` has no effect.

    Args:
        rtol: As in `Lanczos`; the residual is that of the dense decomposition, with an allowance
            for rounding.
        atol: As in `Lanczos`.

    Example:
        >>> from aeoskit.linalg import eigensolve
        >>> operator = lx.DiagonalLinearOperator(jnp.array([1.0, 4.0]))
        >>> eigensolve(operator, Dense(), k=2).values.tolist()
        [4.0, 1.0]
    """

    ends: ClassVar[tuple[str, ...]] = WHICH
    symmetric: ClassVar[bool] = True
    rtol: Scalar = 1e-3
    atol: Scalar = 0.0

    def default_max_matvecs(self, dimension: int) -> int:
        """One product a dimension."""
        return dimension

    def norm_seen(self, state: DenseState) -> Float[Array, ""]:
        """The largest eigenvalue."""
        return jnp.max(jnp.abs(state.values))

    def block_size(self, structure: PyTree, k: int) -> int:
        """The k pairs: a start is of no use to this solver."""
        return k

    def init(self, operator: lx.AbstractLinearOperator, problem: EigenProblem, start: Start):
        """Nothing yet."""
        n = tree_size(operator.in_structure())
        dtype = tree_dtype(operator.in_structure())
        return DenseState(
            values=jnp.zeros(n, dtype),
            vectors=jnp.eye(n, dtype=dtype),
            residuals=jnp.full(n, jnp.inf, dtype),
            asymmetry=jnp.zeros((), dtype),
            finite=jnp.asarray(True),
            matvecs=jnp.zeros((), jnp.int32),
            key=start.key,
        )

    def step(self, operator: lx.AbstractLinearOperator, problem: EigenProblem, state: DenseState):
        """All n products and the decomposition."""
        matrix = dense_matrix(operator)
        finite = jnp.all(jnp.isfinite(matrix))
        matrix = jnp.where(finite, matrix, 0)
        values, vectors = jnp.linalg.eigh((matrix + matrix.T) / 2, symmetrize_input=False)
        # Of the matrix as it is, and not of its symmetric part.
        images = jnp.matmul(matrix, vectors, precision=jax.lax.Precision.HIGHEST)
        return DenseState(
            values=values,
            vectors=vectors,
            residuals=jnp.linalg.norm(images - values[None, :] * vectors, axis=0),
            asymmetry=jnp.max(jnp.linalg.norm(matrix - matrix.T, axis=0)),
            finite=finite,
            matvecs=state.matvecs + problem.dimension,
            key=state.key,
        )

    def ended(self, operator: lx.AbstractLinearOperator, problem: EigenProblem, state: DenseState):
        """After the one step."""
        asymmetric = self._asymmetric(state)
        result = RESULTS.where(asymmetric, RESULTS.asymmetric, RESULTS.successful)
        result = RESULTS.where(state.finite, result, RESULTS.nonfinite)
        return state.matvecs > 0, result

    def _asymmetric(self, state: DenseState) -> Bool[Array, ""]:
        eps = jnp.finfo(state.values.dtype).eps
        return state.asymmetry > 10 * jnp.sqrt(eps) * jnp.max(jnp.abs(state.values))

    def terminate(self, operator: lx.AbstractLinearOperator, problem: EigenProblem, state: Any):
        """True once the solve is over."""
        return self.ended(operator, problem, state)[0]

    def finish(
        self,
        operator: lx.AbstractLinearOperator,
        problem: EigenProblem,
        state: DenseState,
        start: Start,
    ) -> EigenSolution:
        """The k pairs asked for."""
        structure = operator.in_structure()
        n = state.values.shape[0]
        _, result = self.ended(operator, problem, state)
        order, _ = rank_ritz(state.values, jnp.asarray(n), problem.which)
        top = order[: problem.k][original_order(problem.k, problem.which)]
        eps = jnp.finfo(state.values.dtype).eps
        floor = 8 * eps * jnp.max(jnp.abs(state.values))
        values = jnp.where(state.finite, state.values[top], jnp.nan)
        residuals = jnp.where(state.finite, state.residuals[top] + floor, jnp.inf)
        sound = state.finite & ~self._asymmetric(state)
        converged = sound & (residuals <= self.rtol * jnp.abs(values) + self.atol)
        result = RESULTS.where(
            (result == RESULTS.successful) & ~jnp.all(converged), RESULTS.stagnation, result
        )
        vectors = from_flat(state.vectors[:, top].T, structure)
        return EigenSolution(
            values=values,
            vectors=vectors,
            residuals=residuals,
            bounds=residuals,
            estimates=temple_bound(
                residuals, ritz_gaps(values, state.values, jnp.ones(n, dtype=bool))
            ),
            converged=converged,
            is_top=converged,
            evidence=EVIDENCE.whole_space,
            result=result,
            stats={"matvecs": state.matvecs, "restarts": jnp.zeros((), jnp.int32)},
            state=Start(
                block=vectors,
                key=state.key,
                fresh=jnp.asarray(False),
                age=jnp.zeros((), jnp.int32),
            ),
        )
