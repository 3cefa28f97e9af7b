"""Density, trace, diagonal, Frobenius norm and log-determinant against the dense matrix."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from aeoskit.linalg import (
    RESULTS,
    diagonal,
    spectral_density,
    trace,
)

from .spectra import TRACES, N, TreeOperator, spectra, symmetric

SPECTRA = spectra()
METHODS = ("hutchinson", "hutch++", "xtrace")
# Fixed keys: a bound of five standard errors fails for a wrong estimator, not by chance.
SIGMAS = 5.0


def keys(n):
    return jax.random.split(jax.random.key(5), n)


def flat(tree):
    """In TreeOperator's own order."""
    return np.concatenate([np.asarray(tree["b"]), np.asarray(tree["a"]).reshape(-1)])


def decaying():
    return symmetric(0.7 ** np.arange(N))


@pytest.mark.parametrize("name", ["indefinite", "clustered"])
@pytest.mark.parametrize("method", METHODS)
def test_traces_are_unbiased_and_know_their_error(x64, method, name):
    """Over many keys: the mean is the trace, and the errors have the reported size."""
    matrix = SPECTRA[name]
    operator = TreeOperator(jnp.asarray(matrix))
    estimates = _many_traces(operator, keys(200), method, 24)
    assert bool(jnp.all(estimates.stats["matvecs"] == 24))
    errors = np.asarray(estimates.value) - np.trace(matrix)
    assert abs(errors.mean()) < SIGMAS * errors.std() / 200**0.5
    std_error = np.sqrt(np.mean(np.asarray(estimates.std_error) ** 2))
    assert 0.75 < std_error / errors.std() < 1.5


def _lanes(operator, keys, method, budget):
    return jax.vmap(lambda k: trace(operator, key=k, method=method, max_matvecs=budget))(keys)


_many_traces = jax.jit(_lanes, static_argnums=(2, 3))


def test_xtrace_beats_hutchinson_on_a_decaying_spectrum(x64):
    operator = TreeOperator(jnp.asarray(decaying()))
    true = np.trace(decaying())
    error = {}
    for method in METHODS:
        values = _many_traces(operator, keys(200), method, 24).value
        error[method] = np.sqrt(np.mean((np.asarray(values) - true) ** 2))
    assert error["hutch++"] < error["hutchinson"] / 3
    assert error["xtrace"] < error["hutch++"] / 2


@pytest.mark.parametrize("method", ["hutch++", "xtrace"])
def test_low_rank_is_exact(x64, method):
    """A sketch larger than the rank; and no NaN where the images depend on each other."""
    for name, true in (("rank_deficient", 12.0), ("zero", 0.0)):
        operator = TreeOperator(jnp.asarray(SPECTRA[name]))
        estimates = _many_traces(operator, keys(200), method, 24)
        np.testing.assert_allclose(estimates.value, true, atol=1e-10)
        assert float(jnp.max(estimates.std_error)) < 1e-10


def test_a_small_tail_under_a_huge_eigenvalue():
    """float32: the images are dependent to rounding, the tail still counts."""
    spectrum = np.full(N, 2.0)
    spectrum[0] = 2e7
    operator = TreeOperator(jnp.asarray(symmetric(spectrum), jnp.float32))
    for key in keys(3):
        estimate = trace(operator, key=key, max_matvecs=12)
        np.testing.assert_allclose(estimate.value, 2e7, rtol=1e-4)


def test_a_budget_of_the_dimension_is_exact_and_nothing_retraces(x64):
    operator = TreeOperator(jnp.asarray(SPECTRA["indefinite"]))
    for function in (trace, diagonal):
        estimate = function(operator, key=keys(1)[0], max_matvecs=N)
        assert int(estimate.stats["matvecs"]) == N
        assert max(float(jnp.max(e)) for e in jax.tree.leaves(estimate.std_error)) == 0
        traces = len(TRACES)
        other = TreeOperator(jnp.asarray(SPECTRA["clustered"]))
        estimate = function(other, key=keys(2)[1], max_matvecs=N)
        assert len(TRACES) == traces
        if function is trace:
            np.testing.assert_allclose(estimate.value, np.trace(SPECTRA["clustered"]))
        else:
            np.testing.assert_allclose(flat(estimate.value), np.diag(SPECTRA["clustered"]))


def test_diagonal(x64):
    """Every entry within its error, and errors of the size that theory says."""
    matrix = SPECTRA["wilkinson"] + 0.3 * SPECTRA["clustered"]
    operator = TreeOperator(jnp.asarray(matrix))
    estimate = diagonal(operator, key=keys(1)[0], max_matvecs=N - 1)
    errors, std_error = flat(estimate.value) - np.diag(matrix), flat(estimate.std_error)
    assert np.all(np.abs(errors) < SIGMAS * std_error)
    off = matrix - np.diag(np.diag(matrix))
    theory = np.sqrt((off**2).sum(1) / (N - 1))
    np.testing.assert_allclose(std_error, theory, rtol=0.4)


@jax.jit
def _densities(operator, keys):
    return jax.vmap(lambda k: spectral_density(operator, key=k, probes=4, steps=6))(keys)


def test_quadratures_hold_the_quadratic_forms(x64):
    """Each probe's quadrature has v^T A^p v for p < 2 steps, and no more."""
    matrix = SPECTRA["indefinite"]
    # Of a diagonal matrix all vectors of signs have the same form, the mean of the powers.
    spectrum = np.linalg.eigvalsh(matrix)
    densities = _densities(TreeOperator(jnp.diag(jnp.asarray(spectrum))), keys(200))
    assert np.all(np.asarray(densities.stats["matvecs"]) == 24)
    nodes, weights = np.asarray(densities.nodes), np.asarray(densities.weights)
    for power in range(13):
        errors = np.abs(np.sum(weights * nodes**power, axis=-1) / np.mean(spectrum**power) - 1)
        assert np.all((errors < 1e-9) == (power < 12)), (power, errors.max())
    # Unbiased over many keys, with the reported error.
    densities = _densities(TreeOperator(jnp.asarray(matrix)), keys(200))
    true = [np.trace(matrix) / N, np.sum(matrix**2) / N]
    errors = np.asarray(densities.moments) - true
    assert np.all(np.abs(errors.mean(0)) < SIGMAS * errors.std(0) / 200**0.5)
    std_error = np.sqrt(np.mean(np.asarray(densities.moments_std_error) ** 2, axis=0))
    np.testing.assert_allclose(std_error, errors.std(0), rtol=0.3)


@pytest.mark.parametrize("name", ["rank_deficient", "repeated", "identity", "zero"])
def test_an_exhausted_krylov_space_stops(x64, name):
    """Few distinct eigenvalues: few products, exact weights, no ghosts."""
    values = np.linalg.eigvalsh(SPECTRA[name])
    densities = _densities(TreeOperator(jnp.diag(jnp.asarray(values))), keys(200))
    distinct = len(np.unique(np.round(values, 8)))
    spent = np.asarray(densities.stats["matvecs"])
    # Rounding may grant a step more, of weight zero.
    assert 4 * distinct <= spent.min() <= spent.max() <= 4 * (distinct + 1)
    nodes = np.asarray(densities.nodes)[np.asarray(densities.weights) > 1e-12]
    assert np.max(np.min(np.abs(nodes[:, None] - values[None, :]), axis=1)) < 1e-10
    np.testing.assert_allclose(densities.moments[:, 0], values.mean(), atol=1e-10)


def test_the_density_of_a_known_spectrum(x64):
    """Within its errors of the broadened histogram, and nearer where more probes look."""
    spectrum = np.concatenate([[9.0, 8.9, 6.0], np.linspace(-0.5, 2.0, N - 3)])
    operator = TreeOperator(jnp.asarray(symmetric(spectrum)))
    grid = jnp.linspace(-3, 12, 200)
    density = spectral_density(
        operator, key=jax.random.key(0), probes=40, steps=25, grid=grid, sigma=0.4
    )
    z = (np.asarray(grid)[:, None] - spectrum[None, :]) / 0.4
    true = np.mean(np.exp(-0.5 * z**2) / (0.4 * np.sqrt(2 * np.pi)), axis=1)
    error = np.abs(np.asarray(density.density) - true)
    assert np.all(error < SIGMAS * np.asarray(density.density_std_error) + 2e-3)
    assert error.max() < 0.15 * true.max()
    np.testing.assert_allclose(np.trapezoid(density.density, grid), 1, atol=1e-3)
    mean, std_error = density.expectation(jnp.exp)
    assert abs(mean - np.mean(np.exp(spectrum))) < SIGMAS * std_error


def test_nonfinite_values_are_reported(x64):
    # From numpy: a weak type would compile everything anew.
    operator = TreeOperator(jnp.asarray(np.full((N, N), np.nan)))
    for method in METHODS:
        results = _many_traces(operator, keys(200), method, 24).result
        assert bool(jnp.all(results == RESULTS.nonfinite))
    estimate = diagonal(operator, key=keys(1)[0], max_matvecs=N - 1)
    assert bool(estimate.result == RESULTS.nonfinite)
    assert bool(jnp.all(_densities(operator, keys(200)).result == RESULTS.nonfinite))


def test_one_probe_says_nothing_of_its_error():
    operator = lx.DiagonalLinearOperator(jnp.ones(5))
    one = trace(operator, key=keys(1)[0], max_matvecs=1, method="hutchinson")
    assert float(one.value) == 5
    assert np.isinf(one.std_error)


def test_memory_of_a_density():
    """`steps` vectors and a few more, however many probes."""
    operator = lx.DiagonalLinearOperator(jnp.linspace(0.0, 1.0, 20_000))

    def run(operator, key):
        return spectral_density(operator, key=key, probes=16, steps=10).density

    analysis = jax.jit(run).lower(operator, jax.random.key(0)).compile().memory_analysis()
    assert analysis.temp_size_in_bytes < (10 + 6) * 20_000 * 4 + 16 * 512 * 10 * 4 * 2


def test_malformed_questions():
    operator, key = TreeOperator(jnp.eye(N)), jax.random.key(0)
    skew = lx.MatrixLinearOperator(jnp.ones((3, 3)))
    with pytest.raises(ValueError, match="choose hutchinson"):
        trace(operator, key=key, method="hutch")
    with pytest.raises(ValueError, match="max_matvecs=2"):
        trace(operator, key=key, method="hutch++", max_matvecs=2)
    for function in (trace, spectral_density):
        with pytest.raises(ValueError, match="not tagged symmetric"):
            function(skew, key=key)
        with pytest.raises(TypeError, match="lineax"):
            function(jnp.eye(3), key=key)
    for options in ({"probes": 0}, {"steps": 0}, {"grid": 1}, {"sigma": 0.0}):
        with pytest.raises(ValueError, match=next(iter(options))):
            spectral_density(operator, key=key, **options)
    with pytest.raises(ValueError, match="real floating-point"):
        diagonal(lx.DiagonalLinearOperator(jnp.ones(2, jnp.complex64)), key=key)
    np.testing.assert_allclose(trace(skew, key=key, method="hutchinson").value, 3.0)
