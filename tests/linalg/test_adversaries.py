"""Questions that once got a wrong answer with a good conscience: true residuals are recomputed."""

import inspect

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from aeoskit.linalg import (
    EVIDENCE,
    LOBPCG,
    RESULTS,
    Arnoldi,
    Dense,
    JacobiDavidson,
    Lanczos,
    Tracking,
    eigensolve,
)

from .spectra import orthogonal

N = 30
DIAGONAL = np.arange(1.0, N + 1)
# Of small bases, so that solves restart; each with an end that it finds.
SOLVERS = {
    "Lanczos": (Lanczos(basis=12), "largest"),
    "Tracking": (Tracking(basis=16), "largest"),
    "LOBPCG": (LOBPCG(), "largest"),
    "Arnoldi": (Arnoldi(basis=12), "largest_real"),
    "JacobiDavidson": (JacobiDavidson(shift=3.3, basis=12), "nearest"),
}


def of(matrix):
    return lx.MatrixLinearOperator(jnp.asarray(matrix, jnp.float32), lx.symmetric_tag)


def true_residuals(matrix, solution):
    vectors = np.asarray(jnp.real(solution.vectors), np.float64)
    values = np.asarray(jnp.real(solution.values), np.float64)
    norms = np.linalg.norm(vectors, axis=-1)
    images = vectors @ np.asarray(matrix, np.float64)
    return np.linalg.norm(images - values[..., None] * vectors, axis=-1), norms


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.part(2)
def test_dependent_starts(name):
    """Constant, equal and zero vectors, three at a time: no ghost of what is not there."""
    solver, which = SOLVERS[name]
    eye = np.eye(N)
    starts = np.stack([np.ones((3, N)), eye[[0, 0, 0]], eye[[-1, -1, -2]], np.zeros((3, N))])

    @jax.jit
    @jax.vmap
    def solve(start):
        solution = eigensolve(of(np.diag(DIAGONAL)), solver, which=which, start=start)
        return solution.values, solution.vectors, solution.converged, solution.stats["matvecs"]

    values, vectors, converged, matvecs = map(np.asarray, solve(jnp.asarray(starts, jnp.float32)))
    for i in range(len(starts)):
        norm = np.linalg.norm(vectors[i, 0])
        residual = np.linalg.norm((DIAGONAL - values[i, 0]) * vectors[i, 0])
        assert abs(norm - 1) < 1e-3
        assert residual <= 2e-3 * abs(values[i, 0])
    assert converged.all()
    wanted = 3.0 if which == "nearest" else N
    # One that is given but the wanted vector alone may not be seen beyond: all mix in noise.
    np.testing.assert_allclose(np.real(values[:, 0]), wanted, rtol=1e-3)
    assert matvecs.max() < 500


@pytest.mark.parametrize("name", ["Lanczos", "Tracking"])
def test_a_track_survives_what_is_not_finite(name):
    """One bad measurement: the top pair is found again, not the second one for good."""
    solver, which = SOLVERS[name]
    scales = jnp.asarray([1, 1, jnp.nan, 1, 1], jnp.float32)

    @jax.jit
    def track(start):
        def body(state, scale):
            operator = of(np.diag(DIAGONAL)) * scale
            operator = lx.TaggedLinearOperator(operator, lx.symmetric_tag)
            solution = eigensolve(operator, solver, which=which, start=state)
            return solution.state, (solution.values[0], solution.converged[0])

        return jax.lax.scan(body, start, scales)[1]

    start = solver.initial_state(jax.ShapeDtypeStruct((N,), jnp.float32))
    values, converged = map(np.asarray, track(start))
    np.testing.assert_array_equal(converged, [True, True, False, True, True])
    np.testing.assert_allclose(values, [N, N, np.nan, N, N], rtol=1e-3)


@pytest.mark.parametrize(
    "solver",
    [Lanczos(rtol=3e-2), Tracking(rtol=3e-2), JacobiDavidson(shift=0.15, rtol=3e-2)],
    ids=lambda solver: type(solver).__name__,
)
def test_small_values_of_a_large_operator_in_sixteen_bits(solver):
    """Rounding is a share of the operator's norm, not of the eigenvalue."""
    q = orthogonal(40, 1)
    matrix = jnp.asarray((q * np.geomspace(0.1, 100, 40)) @ q.T, jnp.float32)
    narrow = jax.ShapeDtypeStruct((40,), jnp.bfloat16)

    def product(vector):
        return (matrix @ vector.astype(jnp.float32)).astype(jnp.bfloat16)

    operator = lx.FunctionLinearOperator(product, narrow, lx.symmetric_tag)
    which = "nearest" if isinstance(solver, JacobiDavidson) else "smallest"
    solution = eigensolve(operator, solver, which=which, max_matvecs=300)
    residual, _ = true_residuals(matrix, solution)
    assert residual[0] <= solution.residuals[0]
    assert not solution.converged[0]


def test_a_zero_operator():
    """No ghost at the shift: zero, exactly, in the whole space."""
    solution = eigensolve(of(np.zeros((6, 6))), JacobiDavidson(shift=0.3), which="nearest")
    assert bool(solution.result == RESULTS.successful)
    assert bool(solution.evidence == EVIDENCE.whole_space)
    assert float(solution.values[0]) == 0
    assert int(solution.stats["matvecs"]) < 100


@pytest.mark.parametrize("name", ["LOBPCG", "Lanczos"])
def test_an_operator_near_the_smallest_number(name):
    """Where squares underflow: solvers have units of their own."""
    solver, which = SOLVERS[name]
    q = orthogonal(N, 0)
    matrix = ((q * DIAGONAL) @ q.T * 1e-19).astype(np.float32)
    solution = eigensolve(of(matrix), solver, which=which)
    residual, _ = true_residuals(matrix, solution)
    assert not residual[0] > solution.residuals[0]
    assert solution.converged[0]
    np.testing.assert_allclose(solution.values, N * 1e-19, rtol=1e-4)


def test_dense_sees_asymmetry():
    matrix = np.diag(DIAGONAL) + 0.05 * np.triu(np.ones((N, N)), 1)
    solution = eigensolve(of(matrix), Dense())
    assert bool(solution.result == RESULTS.asymmetric)
    assert not solution.converged[0]
    vector = np.asarray(solution.vectors[0], np.float64)
    true = np.linalg.norm(matrix @ vector - float(solution.values[0]) * vector)
    assert float(solution.residuals[0]) == pytest.approx(true, rel=1e-2)


def test_leaves_without_entries():
    structure = {
        "weight": jax.ShapeDtypeStruct((2, 2), jnp.float32),
        "scalar": jax.ShapeDtypeStruct((), jnp.float32),
        "empty": jax.ShapeDtypeStruct((0, 3), jnp.float32),
    }
    double = lx.FunctionLinearOperator(
        lambda tree: jax.tree.map(lambda x: 2 * x, tree), structure, lx.symmetric_tag
    )
    for solver in (Lanczos(), Dense()):
        assert float(eigensolve(double, solver).values[0]) == pytest.approx(2)


def test_what_was_not_found_has_no_derivative():
    def top(matrix):
        return eigensolve(lx.MatrixLinearOperator(matrix, lx.symmetric_tag), Dense()).values[0]

    assert jnp.isnan(jax.grad(top)(jnp.full((3, 3), jnp.nan))).all()


def test_the_evidence_of_a_track():
    solver, _ = SOLVERS["Tracking"]
    first = eigensolve(of(np.diag(DIAGONAL)), solver)
    second = eigensolve(of(np.diag(DIAGONAL)), solver, start=first.state)
    assert bool(first.evidence == EVIDENCE.random_start)
    assert bool(second.evidence == EVIDENCE.followed_direction)


@pytest.mark.parametrize(
    ("arguments", "error", "says"),
    [
        ({"solver": Lanczos}, TypeError, r"make one: Lanczos\(\)"),
        ({"solver": "lanczos"}, TypeError, r"'lanczos', no eigen-solver"),
        ({"solver": Arnoldi()}, ValueError, r"the default\).*choose largest_real"),
        ({"which": "largest_real"}, ValueError, "choose largest,"),
        ({"max_matvecs": 2.5}, ValueError, r"max_matvecs=2.5"),
        ({"max_matvecs": np.int64(0)}, ValueError, "1 at least"),
        ({"max_matvecs": np.array([3, 4])}, ValueError, r"shape \(2,\)"),
        ({"k": 2.0}, ValueError, r"k=2.0"),
    ],
    ids=lambda x: next(iter(x)) if isinstance(x, dict) else "",
)
def test_questions_that_make_no_sense(arguments, error, says):
    question = {"solver": Lanczos(), "k": 1, "which": "largest", "max_matvecs": 10}
    if "shape" in says:
        arguments = {"max_matvecs": jnp.asarray(arguments["max_matvecs"])}
    # Outside of tests no one checks the types of a signature.
    bare = inspect.unwrap(eigensolve)
    with pytest.raises(error, match=says):
        bare(of(np.diag(DIAGONAL)), **(question | arguments))


def test_starts_that_are_none():
    keys = jax.random.split(jax.random.key(0), 3)
    for start in ("abc", jnp.ones(N, jnp.complex64), jnp.ones(3, jnp.uint32), keys):
        with pytest.raises(ValueError, match="expected None, a PRNG key"):
            eigensolve(of(np.diag(DIAGONAL)), start=start)


@pytest.mark.parametrize("shift", [jnp.ones(3), 1j, float("nan"), float("inf"), "near"])
def test_shifts_that_are_none(shift):
    with pytest.raises((ValueError, TypeError), match="shift"):
        JacobiDavidson(shift=shift)


def test_an_operator_that_is_not_square():
    with pytest.raises(ValueError, match="not square"):
        eigensolve(lx.MatrixLinearOperator(jnp.ones((3, 2))), Arnoldi(), which="largest_real")


def test_k_of_numpy():
    assert eigensolve(of(np.diag(DIAGONAL)), Dense(), k=np.int64(2)).values.shape == (2,)


def test_a_state_is_of_what_the_operator_acts_on():
    with pytest.raises(TypeError, match=r"operator.in_structure\(\)"):
        Lanczos().initial_state(of(np.diag(DIAGONAL)))
