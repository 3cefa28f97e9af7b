"""Operators on bfloat16 and float16 leaves: bookkeeping in float32, and residuals that say so."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from aeoskit.linalg import (
    RESULTS,
    Arnoldi,
    Dense,
    Lanczos,
    Tracking,
    eigensolve,
)

from .spectra import orthogonal

N = 40


def low_operator(dtype):
    """A symmetric matrix of the format, on a pytree, and the same matrix in float64."""
    q = orthogonal(N, 0)
    values = np.concatenate([[3.0, 2.5, 2.0], np.linspace(-0.5, 1.5, N - 3)])
    matrix = jnp.asarray((q * values) @ q.T, dtype)
    matrix = jnp.tril(matrix) + jnp.tril(matrix, -1).T

    def product(matrix, vector):
        flat = jnp.concatenate([vector["a"].reshape(-1), vector["b"]])
        image = matrix @ flat
        return {"a": image[:6].reshape(2, 3), "b": image[6:]}

    structure = {
        "a": jax.ShapeDtypeStruct((2, 3), dtype),
        "b": jax.ShapeDtypeStruct((N - 6,), dtype),
    }
    operator = lx.FunctionLinearOperator(eqx.Partial(product, matrix), structure, lx.symmetric_tag)
    return operator, np.asarray(matrix.astype(jnp.float32), np.float64)


def true_residuals(matrix, solution):
    rows = [np.asarray(x).reshape(len(x), -1) for x in jax.tree.leaves(solution.vectors)]
    vectors = np.real(np.concatenate(rows, axis=1)).astype(np.float64)
    values = np.real(np.asarray(solution.values, np.complex128))
    return np.linalg.norm(vectors @ matrix - values[:, None] * vectors, axis=1)


@pytest.mark.parametrize(
    ("solver", "which"),
    [
        (Lanczos(rtol=2e-2), "largest"),
        (Tracking(rtol=2e-2), "largest"),
        (Arnoldi(rtol=2e-2), "largest_real"),
        (Dense(rtol=2e-2), "largest"),
    ],
    ids=lambda x: type(x).__name__,
)
def test_residuals_hold_the_rounding(solver, which):
    operator, matrix = low_operator(jnp.bfloat16)
    solution = eigensolve(operator, solver, which=which)
    assert bool(solution.converged[0])
    assert bool(solution.result == RESULTS.successful)
    np.testing.assert_allclose(np.real(solution.values), 3.0, rtol=1e-2)
    assert (true_residuals(matrix, solution) <= np.asarray(solution.residuals)).all()
    # The bookkeeping is of 32 bits.
    assert {x.dtype.itemsize for x in jax.tree.leaves(solution.vectors)} <= {4, 8}


def test_a_dense_solve_knows_that_columns_are_rounded():
    q = orthogonal(N, 1)
    exact = (q * np.linspace(1, 3, N)) @ q.T

    def product(matrix, vector):
        return (matrix @ vector.astype(jnp.float32)).astype(vector.dtype)

    matrix = jnp.asarray(exact, jnp.float32)
    structure = jax.ShapeDtypeStruct((N,), jnp.bfloat16)
    operator = lx.FunctionLinearOperator(eqx.Partial(product, matrix), structure, lx.symmetric_tag)
    loose, strict = (eigensolve(operator, Dense(rtol=rtol)) for rtol in (2e-2, 1e-3))
    assert (true_residuals(exact, loose) <= np.asarray(loose.residuals)).all()
    assert loose.converged.all()
    assert not strict.converged.any()
    assert bool(strict.result == RESULTS.stagnation)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16])
def test_a_tolerance_under_the_format(dtype):
    """Never converged under the rounding of the format, and well above it."""
    operator, matrix = low_operator(dtype)
    unit = float(jnp.finfo(dtype).eps)
    strict = eigensolve(operator, Lanczos(rtol=0.3 * unit), k=2)
    assert not strict.converged.any()
    assert bool(strict.result == RESULTS.stagnation)
    assert (true_residuals(matrix, strict) <= np.asarray(strict.residuals)).all()
    loose = eigensolve(operator, Lanczos(rtol=4 * unit), k=2)
    assert loose.converged.all()
    assert (np.asarray(loose.residuals) <= 4 * unit * np.asarray(loose.values)).all()


def test_estimates_hold_the_rounding():
    operator, _ = low_operator(jnp.bfloat16)
    met = eigensolve(operator, Tracking(rtol=1e-3, value_rtol=2e-2))
    assert bool(met.result == RESULTS.estimate_met)
    assert met.converged[0]
    assert met.estimates[0] >= float(jnp.finfo(jnp.bfloat16).eps) * met.values[0]
    missed = eigensolve(operator, Tracking(rtol=1e-3, value_rtol=1e-3))
    assert bool(missed.result == RESULTS.stagnation)


def test_a_warm_start_in_a_scan():
    operator, _ = low_operator(jnp.bfloat16)
    solver = Tracking(rtol=2e-2)

    def step(state, shift):
        solution = eigensolve(operator, solver, start=state)
        return solution.state, solution.values[0]

    start = solver.initial_state(operator.in_structure())
    _, values = jax.jit(lambda s: jax.lax.scan(step, s, jnp.arange(3.0)))(start)
    np.testing.assert_allclose(values, 3.0, rtol=1e-2)


def test_derivatives_come_back_in_the_leaves_format():
    matrix = jnp.diag(jnp.asarray([3.0, 1.0, 0.5], jnp.bfloat16))

    def top(matrix):
        operator = lx.MatrixLinearOperator(matrix, lx.symmetric_tag)
        return eigensolve(operator, Dense()).values[0]

    gradient = jax.grad(top)(matrix)
    assert gradient.dtype == jnp.bfloat16
    np.testing.assert_allclose(gradient.astype(jnp.float32), np.diag([1.0, 0, 0]), atol=1e-2)
