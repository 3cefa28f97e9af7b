"""What solvers claim on operators that are hard for them, at their default tolerances.

The law: no pair that is `converged` and `is_top` has another value than the one asked for, no
residual or bound is under the true one, and two measurements after a spike all is well again. The
truth is dense, in float64. `aeoskit bench hard` holds 10,000 sequences against it; here are some.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import aeoskit as ak
from aeoskit import linalg
from aeoskit.linalg import eigensolve
from aeoskit_experiments.benchmarks import run_hard_benchmark

from .spectra import symmetric

# Two of each kind for each program: it is the compiler that takes the time.
SEQUENCES = {
    "Lanczos": (52, 2),
    "Tracking": (52, 2),
    "LOBPCG": (26, 1),
    "JacobiDavidson": (26, 1),
    "Arnoldi": (26, 1),
    "Dense": (26, 1),
}


@pytest.mark.parametrize("solver", SEQUENCES)
@pytest.mark.part(3)
def test_no_false_claim(solver):
    """Repeated, clustered, exhausted, struck and unrelated: a cold solve and seven warm ones."""
    count, questions = SEQUENCES[solver]
    found = run_hard_benchmark(count=count, solvers=solver, questions=questions)
    broken = ("false", "small_bars", "alarms", "late")
    wrong = [row for row in found["rows"] if any(row[name] for name in broken)]
    assert not wrong
    assert not found["failed"]
    # Silence would be no false claim either.
    claims, pairs = (sum(row[name] for row in found["rows"]) for name in ("claims", "pairs"))
    assert claims > pairs / 2


def outputs(params, batch):
    """A linear model's squared error, of either sign: H is I times 2 s X'X / n."""
    inputs, targets, sign = batch
    return sign * jnp.sum((inputs @ params - targets) ** 2, axis=-1)


@eqx.filter_jit
def top_four(solver, inputs, sign):
    targets = jnp.zeros((len(inputs), 3))
    objective = ak.Objective(outputs, (inputs, targets, jnp.full(len(inputs), sign)))
    found = ak.sharpness(objective, jnp.zeros((8, 3)), k=4, solver=solver)
    return found.values, found.converged & found.is_top


@pytest.mark.parametrize(
    "solver",
    [ak.Lanczos(atol=1e-4), ak.Tracking(atol=1e-4), linalg.LOBPCG(atol=1e-4)],
    ids=lambda solver: type(solver).__name__,
)
def test_a_linear_model_and_a_concave_loss(solver):
    """Each value three times; of the negative, twelve zeros at the top."""
    rng = np.random.default_rng(0)
    for _ in range(4):
        inputs = rng.normal(size=(4, 8)).astype(np.float32)
        for sign in (1.0, -1.0):
            values, claimed = top_four(solver, jnp.asarray(inputs), jnp.asarray(sign))
            gram = 2 * inputs.T.astype(np.float64) @ inputs / 4
            truth = np.sort(np.repeat(sign * np.linalg.eigvalsh(gram), 3))[::-1][:4]
            assert np.all((np.abs(values - truth) <= 5e-3 * np.abs(truth) + 5e-4) | ~claimed)
            assert np.any(claimed)


@pytest.mark.parametrize(
    "solver",
    [ak.Lanczos(basis=30), linalg.LOBPCG(), ak.Tracking(), linalg.Arnoldi(basis=40)],
    ids=lambda solver: type(solver).__name__,
)
@pytest.mark.parametrize("seed", [3, 5])
def test_a_pair_that_hides_in_what_was_not_multiplied(solver, seed):
    """Eleven values, two of them closer than the tolerance: one Ritz pair stands for both."""
    values = np.zeros(64)
    values[:11] = 72, 68, 54, 50, 41, 39.55, 39.54, 31, 26, 25, 21.5
    q = np.linalg.qr(np.random.default_rng(seed).normal(size=(64, 64)))[0]
    matrix = jnp.asarray((q * values[None]) @ q.T, jnp.float32)
    operator = lx.MatrixLinearOperator(matrix, lx.symmetric_tag)
    which = "largest" if "largest" in solver.ends else "largest_real"
    found = linalg.eigensolve(operator, solver, k=10, which=which, start=jax.random.key(seed))
    assert np.all(found.is_top)
    np.testing.assert_allclose(found.values.real, values[:10], rtol=2e-3)


EIGHT = np.geomspace(0.1, 1, 8)
# The fourth and fifth are near each other: what is beyond the wanted is found at once.
PAIRS = np.concatenate([[0.095, 0.103, 0.11, 0.1272, 0.1274], np.linspace(0.144, 1, 27)])


@pytest.mark.parametrize(
    ("solver", "k", "values"),
    [(linalg.JacobiDavidson(), 4, PAIRS), (ak.Tracking(), 10, EIGHT)],
    ids=["JacobiDavidson", "Tracking"],
)
@pytest.mark.part(1)
def test_copies_that_a_random_row_does_not_show_at_once(solver, k, values):
    """One key in forty (the first) or in twelve claimed other values in place of copies.

    Corrections of the random row's pair went to the values near it; and the random row was
    orthogonal to rows not multiplied, in which the last copy lay.
    """
    values = np.repeat(values, 64 // len(values))
    matrix = symmetric(values).astype(np.float32)

    @jax.jit
    def solve(key):
        operator = lx.MatrixLinearOperator(jnp.asarray(matrix), lx.symmetric_tag)
        found = eigensolve(operator, solver, k=k, which="smallest", start=key)
        return found.values, found.is_top

    found, claimed = map(np.asarray, jax.lax.map(solve, jax.random.split(jax.random.key(0), 300)))
    wrong = np.any((np.abs(found - values[:k]) > 0.01 * values[:k]) & claimed, axis=1)
    assert np.all(claimed)
    # A random row with next to nothing of the last copy is possible.
    assert np.sum(wrong) <= 1


@pytest.mark.parametrize(
    ("solver", "k", "which"),
    [
        (linalg.JacobiDavidson(0.05, basis=8, atol=1e-4), 2, "nearest"),
        (linalg.Arnoldi(basis=12, atol=1e-4), 6, "smallest_real"),
        (linalg.Lanczos(atol=1e-4), 4, "smallest"),
        (linalg.LOBPCG(atol=1e-4), 4, "smallest"),
        (ak.Tracking(atol=1e-4), 4, "smallest"),
    ],
    ids=lambda x: type(x).__name__,
)
def test_nothing_is_no_eigenvector(solver, k, which):
    """An exhausted space has no direction left: a zero vector has residual zero."""
    rng, dimension, count = np.random.default_rng(0), 24, 48
    spectra = np.zeros((count, dimension))
    for spectrum in spectra:
        rank = rng.integers(2, 6)
        spectrum[:rank] = rng.uniform(0.2, 1, rank)
    matrices = np.stack([symmetric(x, i) for i, x in enumerate(spectra)])

    def one(lane):
        matrix, key = lane
        first = solver.initial_state(jax.ShapeDtypeStruct((dimension,), jnp.float32), k, key)
        operator = lx.MatrixLinearOperator(matrix, lx.symmetric_tag)
        return eigensolve(operator, solver, k=k, which=which, start=first).vectors

    lanes = jnp.asarray(matrices, jnp.float32), jax.random.split(jax.random.key(1), count)
    vectors = jax.jit(lambda x: jax.lax.map(one, x))(lanes)
    np.testing.assert_allclose(np.linalg.norm(vectors, axis=-1), 1, atol=1e-5)


def test_restarts_keep_lengths():
    """Decompositions in float32 leave vectors too short, at each restart anew, and bars too."""
    spectra = np.sort(np.random.default_rng(0).uniform(0, 1, (8, 64)), axis=1)
    matrices = np.stack([symmetric(x, i) for i, x in enumerate(spectra)])

    def one(matrix):
        operator = lx.MatrixLinearOperator(matrix, lx.symmetric_tag)
        found = eigensolve(operator, linalg.LOBPCG(rtol=1e-5), k=6, which="both")
        return found.vectors, found.stats["restarts"]

    matrices = jnp.asarray(matrices, jnp.float32)
    vectors, restarts = jax.jit(lambda x: jax.lax.map(one, x))(matrices)
    assert np.mean(restarts) > 5
    lengths = np.linalg.norm(np.asarray(vectors, np.float64), axis=-1)
    assert np.max(np.abs(lengths - 1)) < 1e-6
