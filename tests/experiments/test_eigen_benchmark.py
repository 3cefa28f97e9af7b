"""The benchmark of eigen-solvers, tiny: what it counts and says, not how good anyone is."""

from __future__ import annotations

import importlib.util
import math

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from aeoskit.linalg import Dense, Lanczos, eigensolve
from aeoskit_experiments import UserError
from aeoskit_experiments.benchmarks import _eigen, run_eigen_benchmark
from aeoskit_experiments.benchmarks._eigen_optimum import optimum
from aeoskit_experiments.benchmarks._eigen_peers import FlatOperator, find_peers
from aeoskit_experiments.benchmarks._eigen_problems import (
    MATRICES,
    matrix_problem,
    matrix_spectra,
    training_problem,
)
from aeoskit_experiments.benchmarks._eigen_tracking import tracking_rows
from aeoskit_experiments.benchmarks._eigen_wall import wall_row

COLD = {"problem", "operator", "k", "rtol", "solver", "matvecs", "optimum", "residual"}
COLD |= {"error", "seconds", "converged"}
TRACKING = {"problem", "solver", "matvecs_per_step", "median_error", "p99_error", "max_error"}
TRACKING |= {"steps"}
# They need more products than there are.
_SLOW = ("matfree", "power iteration")


def _small(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_eigen, "matrix_problem", lambda name: matrix_problem(name, n=40))


def test_rows_of_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    _small(monkeypatch)
    result = run_eigen_benchmark(problems="matrices", ks=(1,), limit=60)
    rows = result["rows"]
    assert {row["problem"] for row in rows} == set(MATRICES)
    assert not result["tracking"]
    assert not result["wall"]
    solvers = {"Lanczos", *find_peers()[0]} - {"jax lobpcg"}
    assert {row["solver"] for row in rows} == solvers
    for row in rows:
        assert set(row) == COLD
        assert row["matvecs"] <= 60
        if row["converged"]:
            assert row["residual"] <= 1.01 * row["rtol"]
            # The least that a space from this start vector can do.
            assert row["optimum"] <= row["matvecs"]
        # On a plain one everyone finds the top pair: the peers are asked the right question.
        if row["problem"] == "clustered" and row["solver"] not in _SLOW:
            assert row["converged"]
            assert row["error"] < 1e-2


def test_what_is_not_installed_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda n: None if n == "scipy" else find(n))
    found, notes = find_peers()
    assert not [name for name in found if name.startswith("scipy")]
    assert any("scipy eigsh" in note and "aeoskit[bench]" in note for note in notes)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"problems": "A,matrix"}, "did you mean 'matrices'"),
        ({"solvers": "Lanczo"}, "did you mean 'Lanczos'"),
        ({"ks": (30,)}, "k is from 1 to"),
        ({"rtols": (0.0,)}, "rtol between 0 and 1"),
    ],
)
def test_refused_before_any_work(options: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        run_eigen_benchmark(**options)


def test_optimum_is_that_of_a_dense_krylov_space() -> None:
    matrix = np.asarray(matrix_problem("clustered", n=30).matrix, np.float64)
    start = np.random.default_rng(0).normal(size=30)
    found, values = optimum(lambda v: matrix @ v, start, (2,), (1e-2,))
    count = found[2, 1e-2]
    assert count is not None

    def worst(size: int) -> float:
        krylov = np.linalg.qr(
            np.stack([np.linalg.matrix_power(matrix / 10, i) @ start for i in range(size)], 1)
        )[0]
        theta, y = np.linalg.eigh(krylov.T @ matrix @ krylov)
        pairs = krylov @ y[:, -2:]
        left = np.linalg.norm(matrix @ pairs - pairs * theta[-2:], axis=0)
        return float(np.max(left / np.abs(theta[-2:])))

    assert worst(count) <= 1e-2 < worst(count - 1)
    assert values[0] == pytest.approx(10, rel=1e-2)


def test_optimum_goes_on_from_an_exhausted_space() -> None:
    diagonal = np.array([5.0, 5.0, 1.0, 1.0, 1.0, 1.0])
    found, values = optimum(lambda v: diagonal * v, np.ones(6), (1, 2), (1e-3,))
    assert found == {(1, 1e-3): 2, (2, 1e-3): 2}
    found, values = optimum(lambda v: diagonal * v, np.ones(6), (3,), (1e-3,))
    assert values[:2] == pytest.approx([5, 5], rel=1e-5)


def test_spectra_are_those_that_are_named() -> None:
    for name, spectrum in matrix_spectra(40).items():
        found = np.linalg.eigvalsh(np.asarray(matrix_problem(name, 40).matrix, np.float64))
        np.testing.assert_allclose(found, np.sort(spectrum), atol=1e-6 * np.abs(spectrum).max())


def test_the_start_vector_is_that_of_our_own_solves() -> None:
    operator = lx.DiagonalLinearOperator(jnp.arange(6.0))
    key = jax.random.key(3, impl="threefry2x32")
    # After one product the start vector is all that a solve knows.
    found = np.asarray(eigensolve(operator, Lanczos(), start=key, max_matvecs=1).vectors[0])
    flat = FlatOperator(operator).start(key)
    sign = np.sign(found @ flat)
    np.testing.assert_allclose(sign * found, flat / np.linalg.norm(flat), rtol=1e-5)


def test_no_solve_needs_less_than_the_optimum_from_its_start() -> None:
    """On a network's parameters, several leaves: ours and the optimum begin at one vector."""
    operator = training_problem("B", examples=20, width=2, steps=3).operator()
    setting = _eigen.Setting((1,), (1e-2, 1e-4), 60, 1, ("Lanczos",), {})
    for row in _eigen.cold_rows("small", "P⁻¹H", operator, setting):
        assert row["optimum"] <= row["matvecs"] <= row["optimum"] + 1


def test_tracking_rows() -> None:
    # A direct solver on both sides: the errors are those of float32.
    problem = training_problem("B", examples=20, width=2, steps=3)
    rows = tracking_rows(problem, {"Dense": Dense()}, 3, oracle=Dense(), peers=True)
    assert [row["solver"] for row in rows] == ["Dense", "scipy eigsh"]
    size = sum(x.size for x in jax.tree.leaves(problem.params))
    assert rows[0]["matvecs_per_step"] == size
    for row in rows:
        assert set(row) == TRACKING
        assert row["steps"] == 3
        assert row["median_error"] <= row["p99_error"] <= row["max_error"] < 1e-3


def test_points_are_the_training_that_goes_on() -> None:
    problem = training_problem("B", examples=20, width=2, steps=0)
    points = problem.points(3)
    later = problem.advanced(2).operator()
    same = problem.operator_at(jax.tree.map(lambda x: x[2], points))
    for a, b in zip(jax.tree.leaves(later), jax.tree.leaves(same), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6)


def test_wall_row() -> None:
    operator = matrix_problem("clustered", n=40)
    row = wall_row("clustered", operator, Dense(), repeats=1, gradient=lambda: jnp.zeros(3))
    spent = row["matvecs"] * row["product_seconds"] + row["linearize_seconds"]
    assert row["ratio"] == pytest.approx(row["solve_seconds"] / spent)
    assert row["matvecs"] == 40
    assert row["bytes"] > 40 * 40 * 4
    assert row["gradients"] == pytest.approx(row["solve_seconds"] / row["gradient_seconds"])
    assert math.isnan(wall_row("clustered", operator, Dense(), repeats=1)["gradients"])


def test_power_iteration_is_a_peer() -> None:
    power = find_peers()[0]["power iteration"]
    flat = FlatOperator(lx.DiagonalLinearOperator(jnp.array([1.0, 2.0, -8.0])), limit=200)
    answer = power(flat, 1, 1e-4, jax.random.key(0), 8.0)
    assert answer is not None
    # The largest in modulus; the error falls by a factor of 4 a product.
    assert answer.converged
    assert answer.matvecs == flat.count < 15
    assert answer.values.tolist() == [pytest.approx(-8, rel=1e-6)]
    assert power(flat, 2, 1e-4, jax.random.key(0), 8.0) is None
    few = power(FlatOperator(flat.linear, limit=2), 1, 1e-6, jax.random.key(0), 8.0)
    assert few is not None
    assert (few.matvecs, few.converged) == (2, False)


def test_what_a_search_for_copies_costs_is_a_row(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_eigen, "MATRICES", ("repeated",))
    _small(monkeypatch)
    rows = run_eigen_benchmark(problems="matrices", ks=(1, 3), peers=False, limit=200)["rows"]
    by_name = {(row["k"], row["solver"]): row for row in rows}
    assert set(by_name) == {(1, "Lanczos"), (3, "Lanczos"), (3, "Lanczos copies=False")}
    assert by_name[3, "Lanczos"]["matvecs"] > by_name[3, "Lanczos copies=False"]["matvecs"]
