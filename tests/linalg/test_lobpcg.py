"""LOBPCG on the public test problems of its peers, and where these break down."""

import dataclasses

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from aeoskit.linalg import LOBPCG, RESULTS, DiagonalPreconditioner, eigensolve

from .spectra import operator, orthogonal, symmetric

N = 60
K = 4
# One solver, one k, one dimension, one dtype: one compiled program for most of this file.
SOLVER = LOBPCG(rtol=1e-6, atol=1e-9)


def mikota(n):
    """The standard form of Mikota's vibrating chain: eigenvalues 1, 4, 9, ..., n²."""
    mass = 1 / np.arange(1, n + 1)
    spring = np.arange(2 * n - 1, 0, -2.0)
    stiffness = np.diag(spring) - np.diag(np.arange(n - 1, 0, -1.0), 1)
    stiffness = stiffness - np.diag(np.arange(n - 1, 0, -1.0), -1)
    root = 1 / np.sqrt(mass)
    return root[:, None] * stiffness * root[None]


def elastic_rod(n):
    """A fixed and free rod by linear elements, in standard form."""
    stiffness = 2 * np.eye(n) - np.diag(np.ones(n - 1), 1) - np.diag(np.ones(n - 1), -1)
    stiffness[-1, -1] = 1
    mass = (4 * np.eye(n) + np.diag(np.ones(n - 1), 1) + np.diag(np.ones(n - 1), -1)) / 6
    mass[-1, -1] = 2 / 6
    inverse = np.linalg.inv(np.linalg.cholesky(mass))
    return inverse @ stiffness @ inverse.T


def laplacian(n):
    return 2 * np.eye(n) - np.diag(np.ones(n - 1), 1) - np.diag(np.ones(n - 1), -1)


def problems():
    linear = np.arange(1.0, N + 1)
    return {
        "mikota": mikota(N),
        "elastic_rod": elastic_rod(N),
        "laplacian": laplacian(N),
        "one_to_n": np.diag(linear),
        "indefinite_diagonal": np.diag(np.linspace(-30, 12, N)),
        "cluster": symmetric(np.concatenate([10 + 1e-4 * np.arange(K), np.linspace(-1, 8, N - K)])),
        "ones": symmetric(np.concatenate([np.ones(K), np.zeros(N - K)])),
        "geometric": symmetric(np.logspace(2, -6, N)),
        "negative_definite": symmetric(-linear),
        "zero": np.zeros((N, N)),
        "identity": np.eye(N),
    }


@pytest.mark.parametrize("which", ["largest", "smallest"])
@pytest.mark.part(1)
def test_public_problems(x64, which):
    for name, matrix in problems().items():
        matrix = matrix if which == "largest" else -matrix
        solution = eigensolve(operator(matrix), SOLVER, k=K)
        true = np.linalg.eigvalsh(matrix)[::-1][:K]
        scale = np.max(np.abs(np.linalg.eigvalsh(matrix)))
        vectors = np.asarray(solution.vectors)
        residual = vectors @ matrix - np.asarray(solution.values)[:, None] * vectors
        converged = np.asarray(solution.converged)
        tolerance = 1e-6 * np.abs(solution.values) + 1e-9
        assert np.all((np.linalg.norm(residual, axis=1) <= tolerance)[converged]), name
        np.testing.assert_allclose(vectors @ vectors.T, np.eye(K), atol=1e-10)
        if which == "smallest" and name in ("mikota", "geometric"):
            continue  # a relative tolerance of 1e-6 at values 1e-4 to 1e-8 of the norm
        assert bool(solution.result == RESULTS.successful), name
        assert np.all(solution.is_top)
        np.testing.assert_allclose(solution.values, true, atol=1e-6 * scale, err_msg=name)


def test_ends(x64):
    spectrum = np.linspace(-30, 12, N)
    matrix = operator(symmetric(spectrum))
    both = eigensolve(matrix, SOLVER, k=K, which="both")
    np.testing.assert_allclose(both.values, [*spectrum[::-1][:2], *spectrum[:2]], rtol=1e-6)
    with pytest.raises(ValueError, match="largest, smallest, both"):
        eigensolve(matrix, SOLVER, which="largest_magnitude")


def test_starts_that_are_of_no_use(x64):
    q = orthogonal(N, 3)
    spectrum = np.concatenate([[4.0], np.linspace(-1, 3, N - 1)])
    matrix = operator((q * spectrum[None]) @ q.T)
    lower, other = jnp.asarray(q[:, 30]), jnp.asarray(q[:, 31])
    bad = jnp.stack([lower, lower, lower * jnp.nan, jnp.zeros(N)])
    near = jnp.stack([lower, lower + 1e-12 * other, lower - 1e-12 * other, other])
    for start in (bad, near):
        solution = eigensolve(matrix, SOLVER, k=K, start=start)
        assert bool(solution.result == RESULTS.successful)
        np.testing.assert_allclose(solution.values, np.sort(spectrum)[::-1][:K], rtol=1e-6)


def test_locked_pairs_cost_nothing(x64):
    spectrum = np.concatenate([[100.0, 90.0, 80.0], 1 + 1e-3 * np.arange(N - 3)[::-1]])
    solver = LOBPCG(rtol=1e-5)
    costs = []
    for seed in range(7):  # One matrix's count moves by ten with the machine's rounding.
        matrix = operator(symmetric(spectrum, seed))
        cold = eigensolve(matrix, solver, k=4)
        warm = eigensolve(matrix, solver, k=4, start=cold.state)
        assert bool(warm.result == RESULTS.successful)
        costs.append((int(cold.stats["matvecs"]), int(warm.stats["matvecs"])))
    # Three pairs converge at once; the others cost the fourth and the search for copies only.
    cold, warm = np.median(costs, axis=0)
    assert cold <= 70
    assert warm <= 4 + 35


@pytest.mark.parametrize("budget", [1, 3, 7, 20])
def test_budget(x64, budget):
    solution = eigensolve(operator(np.diag(np.arange(1.0, N + 1))), SOLVER, k=K, max_matvecs=budget)
    assert int(solution.stats["matvecs"]) == budget
    assert bool(solution.result == RESULTS.max_matvecs_reached)
    assert np.isfinite(solution.state.block).all()
    assert np.isfinite(solution.values).sum() == min(budget, K)


def test_preconditioner(x64):
    # Wanted: the smallest of a diagonal spread over four decades plus a small coupling.
    coupling = 0.02 * symmetric(np.linspace(-1, 1, N))
    diagonal = np.logspace(0, 4, N)
    matrix = np.diag(diagonal) + coupling
    inverse = lx.DiagonalLinearOperator(jnp.asarray(1 / diagonal))
    plain = eigensolve(operator(-matrix), SOLVER, k=K)
    helped = LOBPCG(rtol=1e-6, atol=1e-9, preconditioner=inverse)
    solution = eigensolve(operator(-matrix), helped, k=K)
    assert bool(solution.result == RESULTS.successful)
    np.testing.assert_allclose(-solution.values, np.linalg.eigvalsh(matrix)[:K], rtol=1e-8)
    assert 3 * int(solution.stats["matvecs"]) < int(plain.stats["matvecs"])
    # An AbstractPreconditioner stands for the operator, not for its inverse.
    stands = DiagonalPreconditioner(jnp.asarray(diagonal))
    same = eigensolve(operator(-matrix), dataclasses.replace(helped, preconditioner=stands), k=K)
    np.testing.assert_allclose(same.values, solution.values, rtol=1e-9)
    assert int(same.stats["matvecs"]) == int(solution.stats["matvecs"])
    wrong = lx.DiagonalLinearOperator(jnp.ones(3))
    with pytest.raises(ValueError, match="another structure"):
        eigensolve(operator(matrix), LOBPCG(preconditioner=wrong))


def test_a_tolerance_near_the_floor():
    # In float32, after many cuts, each of which loses a little.
    matrix = symmetric(np.linspace(-1, 1, N)).astype(np.float32)
    solution = eigensolve(operator(matrix, np.float32), LOBPCG(rtol=5e-6), max_matvecs=2000)
    assert int(solution.stats["matvecs"]) < 300
    vector = np.asarray(solution.vectors[0], np.float64)
    true = np.linalg.norm(matrix.astype(np.float64) @ vector - float(solution.values[0]) * vector)
    assert true <= float(solution.residuals[0])
    impossible = eigensolve(operator(matrix, np.float32), LOBPCG(rtol=1e-9), max_matvecs=2000)
    assert bool(impossible.result == RESULTS.stagnation)
    assert not np.any(impossible.converged)
    assert int(impossible.stats["matvecs"]) < 300


def test_refusals():
    matrix = operator(np.eye(5), np.float32)
    with pytest.raises(ValueError, match="too small for k=3"):
        eigensolve(matrix, LOBPCG(block=2), k=3)
    for options in ({"block": 0}, {"rtol": -1.0}, {"explore": -1}):
        with pytest.raises(ValueError, match="LOBPCG"):
            LOBPCG(**options)


def test_host_driver_agrees(x64):
    matrix = operator(np.diag(np.arange(1.0, N + 1)))
    one = eigensolve(matrix, SOLVER, k=K, start=jax.random.key(1))
    other = eigensolve(matrix, SOLVER, k=K, start=jax.random.key(1), driver="host")
    np.testing.assert_allclose(one.values, other.values, rtol=1e-9)
    assert int(one.stats["matvecs"]) == int(other.stats["matvecs"])
