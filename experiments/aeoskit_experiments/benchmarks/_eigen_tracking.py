"""Tracking: the top eigenvalue at every step of training."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from aeoskit.linalg import AbstractEigenSolver, Lanczos, eigensolve

from ._eigen_peers import BASIS, FlatOperator, scipy_solvers
from ._eigen_problems import Point, TrainingProblem


@eqx.filter_jit
def _warm(
    problem: TrainingProblem, points: Point, solver: AbstractEigenSolver
) -> tuple[Array, Array]:
    def step(state: Any, point: Point) -> tuple[Any, tuple[Array, Array]]:
        solution = eigensolve(problem.operator_at(point), solver, start=state)
        return solution.state, (solution.values[0], solution.stats["matvecs"])

    structure = problem.operator().in_structure()
    return jax.lax.scan(step, solver.initial_state(structure, 1), points)[1]


@eqx.filter_jit
def _cold(problem: TrainingProblem, points: Point, solver: AbstractEigenSolver) -> Array:
    return jax.lax.map(
        lambda point: eigensolve(problem.operator_at(point), solver, k=2).values[0], points
    )


def _true_values(
    problem: TrainingProblem, points: Point, solver: AbstractEigenSolver
) -> np.ndarray:
    """The reference values in float64, from a random start at every step: no error persists.

    Each solve continues until two pairs have relative residuals of 1e-5, which leaves an error of
    `residual² / gap` in the value.
    """
    with jax.enable_x64(True):
        problem, points = jax.tree.map(
            lambda x: jnp.asarray(x, jnp.float64) if jnp.issubdtype(x.dtype, jnp.floating) else x,
            (problem, points),
        )
        return np.asarray(_cold(problem, points, solver))


def _row(name: str, solver: str, values: Any, matvecs: Any, truth: np.ndarray) -> dict[str, Any]:
    error = np.abs(np.asarray(values, np.float64) - truth) / np.abs(truth)
    error = np.where(np.isfinite(error), error, np.inf)
    return {
        "problem": name,
        "solver": solver,
        "matvecs_per_step": float(np.mean(matvecs)),
        "median_error": float(np.median(error)),
        "p99_error": float(np.quantile(error, 0.99)),
        "max_error": float(np.max(error)),
        "steps": len(truth),
    }


def _eigsh_from_last(problem: TrainingProblem, points: Point, steps: int, rtol: float) -> Any:
    """scipy's, with the last vector as its start."""
    sparse = scipy_solvers()

    vector, values, matvecs = None, [], []
    for i in range(steps):
        flat = FlatOperator(problem.operator_at(jax.tree.map(lambda x, i=i: x[i], points)))
        if vector is None:
            vector = flat.start(jax.random.key(0))
        operator = sparse.LinearOperator((flat.n, flat.n), matvec=flat.product, dtype=flat.dtype)
        top, block = sparse.eigsh(operator, 1, which="LA", ncv=BASIS, tol=rtol, v0=vector)
        vector = block[:, 0]
        values.append(top[0])
        matvecs.append(flat.count)
    return np.array(values), np.array(matvecs)


def tracking_rows(
    problem: TrainingProblem,
    solvers: dict[str, AbstractEigenSolver],
    steps: int,
    *,
    rtol: float = 1e-3,
    peers: bool = True,
    oracle: AbstractEigenSolver | None = None,
) -> list[dict[str, Any]]:
    """Continue training, solve at every step from the last state, and compare with float64.

    All solvers see the same training: its parameters are kept.

    Args:
        problem: The problem at the first step.
        solvers: Solvers to compare, by name; each with its own tolerance.
        steps: Number of steps.
        rtol: The peer's tolerance.
        peers: Whether scipy's `eigsh` runs too.
        oracle: Solver for the reference values, in float64 and cold at every step; Lanczos if None.

    Returns:
        A row per solver: products per step, and the median, 99th percentile and maximum over the
        steps of the value's relative error.
    """
    points = problem.points(steps)
    truth = _true_values(problem, points, oracle or Lanczos(basis=64, rtol=1e-5))
    rows = []
    for name, solver in solvers.items():
        values, matvecs = _warm(problem, points, solver)
        rows.append(_row(problem.name, name, values, matvecs, truth))
    if peers:
        values, matvecs = _eigsh_from_last(problem, points, steps, rtol)
        rows.append(_row(problem.name, "scipy eigsh", values, matvecs, truth))
    return rows
