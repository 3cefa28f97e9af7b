"""Eigenvalues inside of the spectrum: Jacobi-Davidson, MINRES."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from aeoskit import Objective
from aeoskit.linalg import (
    EVIDENCE,
    MINRES,
    RESULTS,
    JacobiDavidson,
    Lanczos,
    eigensolve,
)

from .spectra import N, orthogonal, spectra, symmetric

EASY = ("clustered", "indefinite", "tiny_gap", "rank_deficient", "repeated", "negative_definite")


def batch():
    """Matrices and shifts: in the bulk, near the top, outside, exactly at an eigenvalue."""
    matrices, shifts = [], []
    for name in EASY:
        matrix = spectra()[name]
        values = np.linalg.eigvalsh(matrix)
        width = values[-1] - values[0]
        inside = [np.quantile(values, q) + 0.013 * width for q in (0.2, 0.5)]
        for shift in (*inside, values[-1] + 0.1 * width, values[30]):
            matrices.append(matrix)
            shifts.append(shift)
    return np.stack(matrices), np.array(shifts)


def summary(solution):
    s = solution
    return s.values, s.vectors, s.residuals, s.converged, s.stats, s.result == RESULTS.successful


def test_nearest_to_a_shift():
    """Against the dense spectrum; what is called converged has that residual, of A itself."""
    matrices, shifts = batch()

    @jax.jit
    @jax.vmap
    def solve(matrix, shift):
        op = lx.MatrixLinearOperator(matrix, lx.symmetric_tag)
        method = JacobiDavidson(shift=shift, rtol=1e-4, atol=1e-4)
        return summary(eigensolve(op, method, k=3, which="nearest"))

    # The shift is swept with the matrices, by `vmap`.
    values, vectors, residuals, converged, stats, good = (
        jax.tree.map(np.asarray, x)
        for x in solve(jnp.asarray(matrices, jnp.float32), jnp.asarray(shifts, jnp.float32))
    )
    missed = 0
    for i, (matrix, shift) in enumerate(zip(matrices, shifts, strict=True)):
        spectrum = np.linalg.eigvalsh(matrix)
        scale = np.abs(spectrum).max()
        true = np.linalg.norm(matrix @ vectors[i].T - vectors[i].T * values[i], axis=0)
        assert (true <= residuals[i] + 2e-6 * scale)[converged[i]].all()
        nearest = np.sort(np.abs(spectrum - shift))[:3]
        assert (np.abs(values[i][:, None] - spectrum).min(axis=1) <= residuals[i] + 1e-5).all()
        missed += not np.allclose(np.sort(np.abs(values[i] - shift)), nearest, atol=1e-3 * scale)
    assert converged.all()
    assert good.all()
    assert missed == 0
    assert stats["matvecs"].max() < 3000


class Counting(lx.AbstractLinearOperator):
    """Counts the products that are run, not traced."""

    diagonal: jax.Array

    def mv(self, vector):
        jax.debug.callback(lambda: CALLS.append(1))
        return self.diagonal * vector

    def as_matrix(self):
        return jnp.diag(self.diagonal)

    def transpose(self):
        return self

    def in_structure(self):
        return jax.ShapeDtypeStruct(self.diagonal.shape, self.diagonal.dtype)

    def out_structure(self):
        return self.in_structure()


CALLS: list[int] = []
lx.linearise.register(Counting, lambda operator: operator)
lx.conj.register(Counting, lambda operator: operator)
lx.is_symmetric.register(Counting, lambda operator: True)
lx.is_positive_semidefinite.register(Counting, lambda operator: True)
lx.is_negative_semidefinite.register(Counting, lambda operator: False)


@pytest.mark.parametrize(
    ("linear_solver", "excess"),
    [
        (MINRES(rtol=1e-2), 1.0),
        (lx.CG(rtol=1e-2, atol=1e-2), 1.0),
        (lx.GMRES(rtol=1e-2, atol=1e-2, restart=5), 3.0),
    ],
    ids=lambda x: type(x).__name__,
)
def test_every_product_counts(linear_solver, excess):
    """Those of the linear solves too: exactly, or from above by a factor of `excess`."""
    op = Counting(jnp.linspace(1.0, 4.0, 30))
    CALLS.clear()
    # Below the spectrum the shifted operator is definite, as CG asks.
    solution = eigensolve(
        op, JacobiDavidson(shift=0.5, linear_solver=linear_solver), which="nearest"
    )
    jax.effects_barrier()
    spent = int(solution.stats["matvecs"])
    assert 10 < len(CALLS) <= spent <= excess * len(CALLS)
    np.testing.assert_allclose(solution.values[0], 1.0, rtol=1e-4)


def test_a_linear_solver_that_fails_is_seen_in_the_residuals_and_is_not_fatal():
    matrix = spectra()["indefinite"].astype(np.float32)
    op = lx.MatrixLinearOperator(jnp.asarray(matrix), lx.symmetric_tag)
    # CG is not for an indefinite system: the caller was wrong to vouch for it.
    wrong = JacobiDavidson(shift=-20.3, linear_solver=lx.CG(rtol=1e-6, atol=1e-6, max_steps=3))
    solution = eigensolve(op, wrong, which="nearest", max_matvecs=60)
    vector, value = np.asarray(solution.vectors[0], float), float(solution.values[0])
    true = np.linalg.norm(matrix @ vector - value * vector)
    np.testing.assert_allclose(solution.residuals[0], true, rtol=1e-2)
    assert bool(solution.converged[0]) == (true <= 1e-3 * abs(value))
    assert bool(solution.result == RESULTS.max_matvecs_reached)
    with pytest.raises(ValueError, match="symmetric"):
        MINRES(rtol=0.1).init(lx.MatrixLinearOperator(jnp.eye(2)), {})


def test_warm_starts_and_what_is_not_finite():
    """One program: cold, warm after a small change, and a matrix of NaN."""
    matrix = spectra()["indefinite"]
    solver = JacobiDavidson(shift=-20.3, rtol=1e-4)

    @jax.jit
    def solve(matrix, start):
        op = lx.MatrixLinearOperator(matrix, lx.symmetric_tag)
        return eigensolve(op, solver, which="nearest", start=start)

    structure = jax.ShapeDtypeStruct((N,), jnp.float32)
    cold = solve(jnp.asarray(matrix, jnp.float32), solver.initial_state(structure, 1))
    moved = matrix + 1e-3 * symmetric(np.linspace(-1, 1, N), 3)
    warm = solve(jnp.asarray(moved, jnp.float32), cold.state)
    values = np.linalg.eigvalsh(moved)
    nearest = values[np.argmin(np.abs(values + 20.3))]
    np.testing.assert_allclose(warm.values[0], nearest, rtol=1e-5)
    assert int(warm.stats["matvecs"]) < 0.8 * int(cold.stats["matvecs"])
    assert bool(cold.evidence == EVIDENCE.fresh_direction)
    assert bool(warm.evidence == EVIDENCE.fresh_direction)
    lost = solve(jnp.full((N, N), jnp.nan, jnp.float32), cold.state)
    assert bool(lost.result == RESULTS.nonfinite)
    assert np.isnan(lost.values).all()
    assert not lost.converged.any()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(lost.state.block))


def test_outliers_over_a_bulk():
    """The start is in the bulk: what is nearest to it is not what is nearest to the shift."""
    values = np.concatenate([[3.0, 2.5, 2.0], np.linspace(-0.5, 1.5, 57)])
    q = orthogonal(60, 0)
    op = lx.MatrixLinearOperator(jnp.asarray((q * values) @ q.T, jnp.float32), lx.symmetric_tag)

    @jax.jit
    def solve(shift):
        return eigensolve(op, JacobiDavidson(shift=shift, rtol=1e-3), which="nearest")

    for shift, wanted in ((2.4, 2.5), (1.8, 2.0), (2.8, 3.0)):
        solution = solve(jnp.asarray(shift, jnp.float32))
        assert solution.converged.all()
        np.testing.assert_allclose(solution.values, wanted, rtol=1e-4)
        assert int(solution.stats["matvecs"]) < 250


def test_jacobi_davidson_at_an_end():
    matrix = spectra()["clustered"]
    op = lx.MatrixLinearOperator(jnp.asarray(matrix, jnp.float32), lx.symmetric_tag)
    solution = eigensolve(op, JacobiDavidson(basis=10, rtol=1e-4, atol=1e-4), k=2)
    want = np.linalg.eigvalsh(matrix)[::-1][:2]
    np.testing.assert_allclose(solution.values, want, atol=2e-3)
    assert solution.converged.all()


def test_derivative_of_an_interior_pair(x64):
    """The linear system is indefinite there: MINRES."""
    base, other = (jnp.asarray(symmetric(np.linspace(-3, 3, 12), s)) for s in (0, 1))

    def ours(t, shift):
        op = lx.MatrixLinearOperator(base + t * other, lx.symmetric_tag)
        s = eigensolve(op, JacobiDavidson(shift=shift, rtol=1e-10), which="nearest")
        return s.values[0] + s.vectors[0, 0] ** 2

    def truth(t):
        values, vectors = jnp.linalg.eigh(base + t * other)
        return values[7] + vectors[0, 7] ** 2

    slope, by_shift = jax.jit(jax.grad(ours, argnums=(0, 1)))(0.1, 0.8)
    np.testing.assert_allclose(slope, jax.grad(truth)(0.1), rtol=1e-7)
    assert by_shift == 0  # the shift says which one, and not how large it is


def test_negative_curvature_at_a_saddle():
    """`which="smallest"` on the Hessian, where the loss falls off to one side."""

    def loss(w, x):
        return x * (
            w["a"][0] ** 2 * 2 - 3 * w["b"][1] ** 2 + w["a"][0] * w["b"][0] + w["b"][0] ** 2
        )

    objective = Objective(loss, jnp.array([0.5, 1.5]))
    saddle = {"a": jnp.zeros(1), "b": jnp.zeros(2)}
    solution = eigensolve(objective.hessian(saddle), Lanczos(rtol=1e-5), which="smallest")
    np.testing.assert_allclose(solution.values[0], -6.0, rtol=1e-5)
    np.testing.assert_allclose(jnp.abs(solution.vectors["b"][0]), [0, 1], atol=1e-4)
    step = jax.tree.map(lambda w, v: w + 0.1 * v[0], saddle, solution.vectors)
    assert objective.value(step) < objective.value(saddle)


def test_minres(x64):
    """Against a dense solve; a singular system that has no solution says so."""
    rng = np.random.default_rng(0)
    matrix = symmetric(np.r_[np.linspace(-2, -0.5, 6), np.linspace(0.3, 3, 6)])
    b = jnp.asarray(rng.normal(size=12))

    @jax.jit
    def solve(matrix, b):
        op = lx.MatrixLinearOperator(matrix, lx.symmetric_tag)
        s = lx.linear_solve(op, b, MINRES(rtol=1e-10, max_steps=30), throw=False)
        return s.value, s.stats["num_steps"], s.result == lx.RESULTS.successful

    x, steps, good = solve(jnp.asarray(matrix), b)
    np.testing.assert_allclose(x, np.linalg.solve(matrix, b), rtol=1e-8)
    assert good
    assert int(steps) <= 14
    x, steps, good = solve(jnp.diag(jnp.r_[jnp.arange(11.0), 0.0]), b)
    assert not good
    x, steps, good = solve(jnp.asarray(matrix), 0 * b)
    np.testing.assert_array_equal(x, 0)
    assert good
    assert int(steps) == 0


def test_options_that_make_no_sense():
    solver = JacobiDavidson
    for options in ({"rtol": -1.0}, {"atol": np.inf}, {"basis": 2}, {"switch": -1.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            solver(0.0, **options)
    op = lx.DiagonalLinearOperator(jnp.arange(30.0))
    with pytest.raises(ValueError, match="basis"):
        eigensolve(op, solver(0.0, basis=5), k=5, which="nearest")
    with pytest.raises(ValueError, match="nearest"):
        eigensolve(op, solver(0.0), which="both")


@pytest.mark.parametrize(("k", "basis"), [(1, 5), (1, 7), (2, 8), (3, 9)])
@pytest.mark.part(2)
def test_a_search_ends_with_a_small_basis(k, basis):
    """A restart leaves room for all that a search has to know."""
    values = np.linspace(-4, 4, 40)
    operator = lx.DiagonalLinearOperator(jnp.asarray(values, jnp.float32))
    solver = JacobiDavidson(1.2, basis=basis)
    solution = eigensolve(operator, solver, k=k, which="nearest", max_matvecs=4000)
    assert np.asarray(solution.is_top).all()
    nearest = np.sort(np.abs(values - 1.2))[:k]
    np.testing.assert_allclose(np.abs(solution.values - 1.2), nearest, atol=5e-3)
