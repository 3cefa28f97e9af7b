"""Lanczos against dense float64, on matrices of known spectrum."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from aeoskit.linalg import EVIDENCE, RESULTS, Dense, Lanczos, eigensolve

from .spectra import N, TreeOperator, operator, orthogonal, spectra, symmetric

MATRICES = spectra()


def wanted(matrix, k, which):
    ascending = np.linalg.eigvalsh(np.asarray(matrix, np.float64))
    if which == "largest":
        return ascending[::-1][:k]
    if which == "smallest":
        return ascending[:k]
    if which == "both":
        return np.concatenate([ascending[::-1][: (k + 1) // 2], ascending[: k // 2]])
    return ascending[np.argsort(-np.abs(ascending), kind="stable")][:k]


def check_honest(solution, matrix, rtol, atol=0.0):
    """No pair is called converged whose true residual is above the tolerance."""
    matrix = np.asarray(matrix, np.float64)
    values = np.asarray(solution.values, np.float64)
    leaves = [np.asarray(x, np.float64) for x in jax.tree.leaves(solution.vectors)]
    assert len(leaves) == 1
    vectors = leaves[0]
    true = np.linalg.norm(vectors @ matrix - values[:, None] * vectors, axis=1)
    converged = np.asarray(solution.converged)
    tolerance = rtol * np.abs(values) + atol
    assert np.all(true[converged] <= tolerance[converged] * (1 + 1e-6))
    np.testing.assert_allclose(vectors @ vectors.T, np.eye(len(values)), atol=1e-4)
    if bool(solution.result == RESULTS.successful):
        assert converged.all()
    return true


@pytest.mark.parametrize("which", ["largest", "smallest", "both", "largest_magnitude"])
@pytest.mark.parametrize("k", [1, 3, 6])
@pytest.mark.part(4)
def test_against_dense(x64, which, k):
    solver = Lanczos(rtol=1e-8, atol=1e-9)
    for name, matrix in MATRICES.items():
        if name in ("tiny_gap", "huge_condition") and which in ("smallest", "both"):
            continue  # near zero, at a relative tolerance: test_floor
        if name == "wilkinson" and k > 1:
            continue  # pairs that agree to 14 digits: test_one_copy_of_a_repeated_value
        solution = eigensolve(operator(matrix), solver, k=k, which=which, max_matvecs=2000)
        check_honest(solution, matrix, 1e-8, 1e-9)
        assert bool(solution.result == RESULTS.successful), (name, solution.result)
        expected = wanted(matrix, k, which)
        if which == "largest_magnitude":
            expected, values = np.abs(expected), np.abs(np.asarray(solution.values))
        else:
            values = np.asarray(solution.values)
        np.testing.assert_allclose(values, expected, rtol=1e-6, atol=1e-7, err_msg=name)


def test_one_copy_of_a_repeated_value(x64):
    # Where rounding is all that tells two eigenvalues apart, and the space is not exhausted, a
    # single-vector method may report one copy: true eigenpairs still, with honest residuals.
    matrix = MATRICES["wilkinson"]
    solution = eigensolve(operator(matrix), Lanczos(rtol=1e-8), k=3)
    check_honest(solution, matrix, 1e-8)
    spectrum = np.linalg.eigvalsh(matrix)
    distance = np.min(np.abs(np.asarray(solution.values)[:, None] - spectrum[None]), axis=1)
    assert np.all(distance <= np.asarray(solution.bounds))
    np.testing.assert_allclose(solution.values[0], spectrum[-1], rtol=1e-10)


@pytest.mark.parametrize("k", [1, 3])
def test_dense_solver(x64, k):
    matrix = MATRICES["indefinite"]
    solution = eigensolve(operator(matrix), Dense(), k=k, which="both")
    np.testing.assert_allclose(solution.values, wanted(matrix, k, "both"), rtol=1e-10)
    check_honest(solution, matrix, 1e-3)
    assert int(solution.stats["matvecs"]) == N


def test_pytrees_of_several_leaves(x64):
    tree = TreeOperator(jnp.asarray(MATRICES["clustered"]))
    expected = wanted(MATRICES["clustered"], 3, "largest")
    for solver in (Lanczos(rtol=1e-7), Dense()):
        solution = eigensolve(tree, solver, k=3)
        np.testing.assert_allclose(solution.values, expected, rtol=1e-9)
        assert solution.vectors["a"].shape == (3, 7, 8)
        v = jax.tree.map(lambda x: x[0], solution.vectors)
        image = tree.mv(v)
        for a, b in zip(jax.tree.leaves(image), jax.tree.leaves(v), strict=True):
            np.testing.assert_allclose(a, solution.values[0] * b, atol=1e-5)


@pytest.mark.parametrize("seed", [1])
def test_products_are_those_of_full_lanczos(x64, seed):
    rng = np.random.default_rng(seed)
    tops = np.concatenate([10 * (1 - 0.004 * np.arange(8)), rng.uniform(-0.3, 8, 192)])
    op = operator(symmetric(tops, seed))
    key = jax.random.key(seed)
    for k, slack, rtol in ((1, 1.1, 1e-3), (6, 1.25, 1e-5)):
        full = eigensolve(op, Lanczos(basis=72, rtol=rtol), k=k, start=key)
        small = eigensolve(op, Lanczos(basis=20, rtol=rtol), k=k, start=key)
        optimum = int(full.stats["matvecs"])
        assert int(full.stats["restarts"]) == 0
        assert int(small.stats["matvecs"]) <= slack * optimum + 1


@settings(max_examples=25)
@given(
    values=st.lists(
        st.one_of(st.sampled_from([-1.0, 0.0, 1.0, 1.001, 2.0]), st.floats(-100, 100, width=32)),
        min_size=12,
        max_size=12,
    ),
    seed=st.integers(0, 3),
)
def test_random_operators_are_never_falsely_converged(values, seed):
    matrix = symmetric(np.asarray(values), seed).astype(np.float32)
    for k in (1, 3):
        solution = eigensolve(operator(matrix, np.float32), Lanczos(basis=8), k=k)
        check_honest(solution, matrix, 1e-3)
        assert int(solution.stats["matvecs"]) <= 160
        expected = wanted(matrix, k, "largest")
        if k == 1 and bool(solution.result == RESULTS.successful):
            scale = np.max(np.abs(values)) + 1e-30
            error = abs(float(solution.values[0]) - expected[0])
            # An eigenvalue within the bar, and (with so few dimensions) the top one.
            assert error <= 3e-3 * scale


def test_budget():
    op = operator(MATRICES["clustered"], np.float32)
    for budget in (1, 5, 21):
        solution = eigensolve(op, Lanczos(rtol=1e-6), k=3, max_matvecs=budget)
        assert int(solution.stats["matvecs"]) == budget
        assert bool(solution.result == RESULTS.max_matvecs_reached)
        assert not np.all(solution.converged)
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(solution.state.block))
    with pytest.raises(Exception, match="budget"):
        eigensolve(op, Lanczos(rtol=1e-6), k=3, max_matvecs=5, throw=True)


class NanAt(lx.AbstractLinearOperator):
    """Turns NaN when the vector leaves a small Krylov space: at the given product."""

    matrix: jax.Array
    limit: jax.Array

    def mv(self, vector):
        reach = jnp.max(jnp.where(jnp.abs(vector) > 0, jnp.arange(vector.shape[0]), 0))
        return jnp.where(reach >= self.limit, jnp.nan, self.matrix @ vector)

    def as_matrix(self):
        return self.matrix

    def transpose(self):
        return self

    def in_structure(self):
        return jax.ShapeDtypeStruct((12,), jnp.float32)

    def out_structure(self):
        return self.in_structure()


lx.linearise.register(NanAt, lambda operator: operator)
lx.is_symmetric.register(NanAt, lambda operator: True)
for _query in (lx.is_positive_semidefinite, lx.is_negative_semidefinite):
    _query.register(NanAt, lambda operator: False)


@pytest.mark.parametrize("product", [1, 5])
def test_nan_at_a_product(product):
    # A tridiagonal matrix and the first unit vector: product j reaches coordinate j - 1.
    off = np.diag(np.ones(11), 1)
    matrix = jnp.asarray(np.diag(np.arange(12.0)) + off + off.T, jnp.float32)
    start = jnp.zeros(12).at[0].set(1.0)
    op = NanAt(matrix, jnp.asarray(product - 1))
    solution = eigensolve(op, Lanczos(rtol=1e-7, noise=0.0), start=start)
    assert int(solution.stats["matvecs"]) == product
    assert bool(solution.result == RESULTS.nonfinite)
    assert not np.any(solution.converged)
    assert np.isnan(solution.values).all()
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(solution.state.block))
    again = eigensolve(operator(matrix, np.float32), start=solution.state)
    assert bool(again.result == RESULTS.successful)


@pytest.mark.parametrize("n", [1, 2, 5])
def test_small_dimensions(n):
    spectrum = np.arange(1.0, n + 1)
    matrix = symmetric(spectrum)
    for which in ("largest", "both"):
        solution = eigensolve(operator(matrix, np.float32), k=n, which=which)
        np.testing.assert_allclose(solution.values, wanted(matrix, n, which), rtol=1e-4)
        assert bool(solution.result == RESULTS.successful)
        warm = eigensolve(operator(matrix, np.float32), k=n, which=which, start=solution.state)
        np.testing.assert_allclose(warm.values, wanted(matrix, n, which), rtol=1e-4)
        assert jax.tree.map(jnp.shape, warm.state) == jax.tree.map(jnp.shape, solution.state)
    one = eigensolve(operator(matrix, np.float32), k=1)
    np.testing.assert_allclose(one.values, [n], rtol=1e-4)


def test_floor_is_stagnation_not_convergence():
    matrix = symmetric(np.concatenate([[1.0, 0.99], np.linspace(-1, 0.9, 58)]))
    solution = eigensolve(operator(matrix, np.float32), Lanczos(rtol=1e-9), max_matvecs=400)
    assert bool(solution.result == RESULTS.stagnation)
    assert not np.any(solution.converged)
    assert int(solution.stats["matvecs"]) < 100
    # Rank three: the zero eigenvalues have no relative accuracy, the three others have.
    solution = eigensolve(operator(MATRICES["rank_deficient"], np.float32), k=6)
    assert bool(solution.result == RESULTS.stagnation)
    np.testing.assert_array_equal(solution.converged, [True] * 3 + [False] * 3)
    np.testing.assert_allclose(solution.values, [5, 4, 3, 0, 0, 0], atol=1e-4)
    assert int(solution.stats["matvecs"]) <= 20
    loose = eigensolve(operator(MATRICES["rank_deficient"], np.float32), Lanczos(atol=1e-3), k=6)
    assert bool(loose.result == RESULTS.successful)


def test_large_negative_end_does_not_win():
    spectrum = np.concatenate([[1.0, 0.8], np.linspace(-100, 0.5, 58)])
    solution = eigensolve(operator(symmetric(spectrum), np.float32))
    np.testing.assert_allclose(solution.values, [1.0], rtol=1e-3)


def test_asymmetry_is_seen():
    matrix = MATRICES["clustered"].copy()
    matrix[:, 3] *= 1.2
    solution = eigensolve(operator(matrix, np.float32))
    assert bool(solution.result == RESULTS.asymmetric)
    assert not np.any(solution.converged)
    assert bool(eigensolve(operator(matrix, np.float32), Dense()).result == RESULTS.asymmetric)


@pytest.mark.parametrize("scale", [1e-30, 1e-20, 1.0, 1e20, 1e30])
def test_scale_does_not_matter(scale):
    # The squares of most of these are zero or infinite in float32.
    matrix = MATRICES["clustered"] * scale
    solution = eigensolve(operator(matrix, np.float32), k=2)
    assert bool(solution.result == RESULTS.successful)
    np.testing.assert_allclose(solution.values, wanted(matrix, 2, "largest"), rtol=1e-4)
    true = check_honest(solution, matrix, 1e-3)
    assert np.all(solution.residuals >= true)
    assert np.all(solution.estimates > 0)
    # With an `atol` of that scale too, and far above it.
    loose = eigensolve(operator(matrix, np.float32), Lanczos(atol=20 * scale), k=2)
    assert int(loose.stats["matvecs"]) < int(solution.stats["matvecs"])


def test_a_block_sees_both_of_a_pair(x64):
    rng = np.random.default_rng(0)
    double = symmetric(np.concatenate([[10, 10, 9, 9], rng.uniform(-1, 8, 146)]))
    solver = Lanczos(basis=24, rtol=1e-6, block=4, copies=False)
    for matrix in (MATRICES["wilkinson"], MATRICES["repeated"], double):
        solution = eigensolve(operator(matrix), solver, k=4)
        check_honest(solution, matrix, 1e-6)
        expected = wanted(matrix, 4, "largest")
        np.testing.assert_allclose(solution.values, expected, rtol=1e-6)
        assert str(solution.evidence) == str(EVIDENCE.block)


def test_starts_that_are_of_no_use():
    q = orthogonal(N, 3)
    matrix = (q * np.concatenate([[4.0], np.linspace(-1, 3, N - 1)])[None]) @ q.T
    op = operator((matrix + matrix.T) / 2, np.float32)
    lower = jnp.asarray(q[:, 30], jnp.float32)
    for start in (jnp.zeros(N), jnp.full(N, jnp.nan), lower, jnp.stack([lower, lower * jnp.inf])):
        solution = eigensolve(op, start=start)
        np.testing.assert_allclose(solution.values, [4.0], rtol=1e-4)
        assert bool(solution.result == RESULTS.successful)
    duplicates = eigensolve(op, k=3, start=jnp.stack([lower, lower, lower]))
    np.testing.assert_allclose(duplicates.values, wanted(matrix, 3, "largest"), rtol=1e-3)
