"""Power iteration finds what it was asked for."""

import jax.numpy as jnp
import numpy as np
import pytest

from aeoskit.linalg import RESULTS, PowerIteration, eigensolve

from .spectra import operator, orthogonal, symmetric

N = 60
# One program for every test of one pair at the top.
SOLVER = PowerIteration(rtol=1e-4)


def test_indefinite(x64):
    # Plain power iteration would find -100.
    spectrum = np.concatenate([[3.0], np.linspace(-100, 1, N - 1)])
    matrix = symmetric(spectrum)
    for sign, which, wanted in ((1, "largest", 3.0), (-1, "smallest", -3.0)):
        solution = eigensolve(operator(sign * matrix), SOLVER, which=which)
        assert bool(solution.result == RESULTS.successful)
        assert np.all(solution.is_top)
        np.testing.assert_allclose(solution.values, [wanted], rtol=1e-3)
    found = eigensolve(operator(matrix), SOLVER, which="largest_magnitude", max_matvecs=4000)
    np.testing.assert_allclose(found.values, [-100], rtol=1e-3)
    with pytest.raises(ValueError, match="PowerIteration finds"):
        eigensolve(operator(matrix), SOLVER, which="both")


def test_shift_given(x64):
    spectrum = np.concatenate([[3.0], np.linspace(-10, 1, N - 1)])
    matrix = operator(symmetric(spectrum))
    plain = eigensolve(matrix, PowerIteration(rtol=1e-4, shift=0.0))
    np.testing.assert_allclose(plain.values, [-10], rtol=1e-3)  # an eigenpair, but which?
    best = eigensolve(matrix, PowerIteration(rtol=1e-4, shift=-4.5))  # (λ₂ + λ_min) / 2
    np.testing.assert_allclose(best.values, [3.0], rtol=1e-4)
    estimated = eigensolve(matrix, SOLVER)
    assert int(best.stats["matvecs"]) < int(estimated.stats["matvecs"])


def test_several_pairs(x64):
    spectrum = np.concatenate([[9.0, 8.0, 8.0, 6.0], np.linspace(-20, 3, N - 4)])
    solution = eigensolve(operator(symmetric(spectrum)), PowerIteration(rtol=1e-4), k=4)
    assert bool(solution.result == RESULTS.successful)
    np.testing.assert_allclose(solution.values, [9, 8, 8, 6], rtol=1e-5)
    np.testing.assert_allclose(solution.vectors @ solution.vectors.T, np.eye(4), atol=1e-10)


def test_starts_and_budget(x64):
    q = orthogonal(N, 3)
    matrix = (q * np.concatenate([[4.0], np.linspace(-1, 3, N - 1)])[None]) @ q.T
    op = operator((matrix + matrix.T) / 2, np.float64)
    lower = jnp.asarray(q[:, 30], jnp.float64)
    for start in (jnp.zeros(N), jnp.full(N, jnp.nan), lower):
        solution = eigensolve(op, SOLVER, start=start)
        np.testing.assert_allclose(solution.values, [4.0], rtol=1e-3)
    warm = eigensolve(op, PowerIteration(rtol=1e-4, noise=0.0), start=solution.state)
    assert int(warm.stats["matvecs"]) == 9  # the probe, and the vector that is known
    assert not np.any(warm.is_top)  # no random direction took part
    for budget in (1, 2, 9):
        short = eigensolve(op, SOLVER, max_matvecs=budget)
        assert int(short.stats["matvecs"]) == budget
        assert bool(short.result == RESULTS.max_matvecs_reached)
        assert np.isfinite(short.values).all()
        assert not np.any(short.converged)


def test_refusals():
    for options in ({"probe": 1}, {"rtol": -1.0}, {"noise": float("inf")}):
        with pytest.raises(ValueError, match="PowerIteration"):
            PowerIteration(**options)
