"""`Tracking` on operators that change at every step: products, errors, and no locking in."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from aeoskit.linalg import EVIDENCE, RESULTS, Tracking, eigensolve

from .spectra import TreeOperator, orthogonal, symmetric

STEPS, DIM = 150, 120


def crossing(rng):
    """Eight values within a few per cent whose ranks change all the time; nothing couples them."""
    t = np.arange(STEPS)[:, None] / STEPS
    top = 10 + 0.15 * np.sin(2 * np.pi * (0.5 + rng.random((1, 8))) * t + 6 * rng.random((1, 8)))
    bulk = np.tile(rng.uniform(-0.3, 7, DIM - 8), (STEPS, 1))
    q = orthogonal(DIM)
    return np.einsum("ij,tj,kj->tik", q, np.concatenate([top, bulk], axis=1), q)


def rising(rng):
    """A value out of the bulk overtakes the top one, one per cent a step."""
    top = np.tile([10.5, *(10 - 0.1 * np.arange(7))], (STEPS, 1))
    bulk = np.tile(rng.uniform(-0.3, 7, DIM - 8), (STEPS, 1))
    bulk[:, 40] = 2 + 10 * np.arange(STEPS) / 100
    q = orthogonal(DIM)
    return np.einsum("ij,tj,kj->tik", q, np.concatenate([top, bulk], axis=1), q)


def standing(rng):
    """One of the values kept rises, one per cent a step; all else stands still."""
    spectrum = np.concatenate([[10.0], rng.uniform(8.6, 9.8, 7), rng.uniform(-0.3, 7, DIM - 8)])
    spectrum = np.tile(spectrum, (STEPS, 1))
    spectrum[:, 3] += 0.1 * np.maximum(np.arange(STEPS) - 6, 0)
    q = orthogonal(DIM)
    return np.einsum("ij,tj,kj->tik", q, spectrum, q)


def rotating(rng):
    """The edge of stability: a cluster at the top that turns, back and forth at every step."""
    spectrum = np.concatenate([10 - 0.12 * np.arange(8), rng.uniform(-0.3, 7, DIM - 8)])
    base = symmetric(spectrum)

    def direction():
        x = rng.normal(size=(DIM, DIM)) / np.sqrt(2 * DIM)
        return (x + x.T) / 2

    flip, slow = direction(), direction()
    t = np.arange(STEPS)[:, None, None]
    return base + 0.1 * (-1.0) ** t * flip + 1.5 * np.sin(2 * np.pi * t / 200) * slow


@eqx.filter_jit
def track(solver, matrices):
    """One compiled program for all paths and tolerances."""

    def body(state, matrix):
        solution = eigensolve(
            lx.MatrixLinearOperator(matrix, lx.symmetric_tag), solver, start=state
        )
        return solution.state, (
            solution.values[0],
            solution.stats["matvecs"],
            solution.residuals[0],
            solution.converged[0],
            solution.estimates[0],
        )

    first = solver.initial_state(jax.ShapeDtypeStruct((DIM,), jnp.float32), 1)
    return jax.lax.scan(body, first, matrices)[1]


def tracked(path, seed=1, rtol=1e-3, value_rtol=0.0):
    matrices = path(np.random.default_rng(seed))
    solver = Tracking(rtol=jnp.asarray(rtol), value_rtol=jnp.asarray(value_rtol))
    outputs = track(solver, jnp.asarray(matrices, jnp.float32))
    values, matvecs, residuals, converged, estimates = map(np.asarray, outputs)
    true = np.linalg.eigvalsh(matrices)[:, -1]
    error = np.abs(values - true) / true
    return error, matvecs[1:], residuals / true, converged, estimates / true


@pytest.mark.parametrize(
    ("path", "products", "median", "worst"),
    # Values that cross uncoupled are mistaken for a solve or two: by 4e-3 to 1.4e-2, with rounding.
    [(crossing, 3.5, 1e-4, 3e-2), (rotating, 5.0, 1e-5, 1e-4), (rising, 2.0, 1e-4, 0.3)],
)
@pytest.mark.part(1)
def test_value_to_an_estimate(path, products, median, worst):
    error, matvecs, *_ = tracked(path, value_rtol=1e-4)
    assert np.mean(matvecs) <= products
    assert np.median(error) <= median
    assert np.max(error) <= worst


def test_a_value_out_of_the_bulk_is_found():
    # Nothing couples it to what is tracked: it leads unseen for as long as the explorer, with a
    # product every fourth solve, takes to turn to it, which is luck. It gains one per cent a step.
    errors = np.stack([tracked(rising, seed, value_rtol=1e-4)[0] for seed in range(1, 10)])
    wrong = np.sum(errors > 5e-3, axis=1)
    assert np.median(wrong) <= 10
    assert np.max(wrong) <= 30
    assert np.max(errors[:, -40:]) <= 1e-3


@pytest.mark.parametrize("value_rtol", [0.0, 1e-2])
def test_a_kept_value_that_rises_alone_is_found(value_rtol):
    error, matvecs, *_ = tracked(standing, value_rtol=value_rtol)
    # All that is kept is looked at in every eighth solve.
    assert np.sum(error > 5e-3) <= 10
    assert np.max(error) <= 0.1
    assert np.mean(matvecs) <= 1.6


@pytest.mark.parametrize(("path", "share"), [(rotating, 0.95), (crossing, 0.75)])
def test_estimates_cover_errors(path, share):
    error, _, _, converged, estimates = tracked(path, value_rtol=1e-2)
    assert np.all(converged)
    assert np.mean(error <= estimates + 2e-6) >= share
    # As above: eight paths, and two roundings of the first one.
    assert np.max(error) <= 3e-2


def test_a_restart_keeps_what_was_measured():
    error, matvecs, *_ = tracked(rotating, rtol=1e-5)
    # Twenty rows are full after about ten products.
    assert np.mean(matvecs) <= 22
    assert np.max(error) <= 1e-5


def test_residual_tolerance():
    error, matvecs, residuals, converged, _ = tracked(rotating, rtol=1e-3)
    assert np.all(converged)
    assert np.max(residuals) <= 1e-3
    assert np.max(error) <= 2e-4
    # From a random vector, a solve takes thirty.
    assert np.mean(matvecs) <= 8


def test_both_ends_and_several_pairs_of_a_pytree(x64):
    spectrum = np.concatenate([[9.0, 8.9, 8.0, 7.5], np.linspace(-3, 6, 56)])
    matrix = symmetric(spectrum)
    solver = Tracking(rtol=jnp.asarray(1e-6))
    first = TreeOperator(jnp.asarray(matrix))
    # A warm start that nothing has filled: one program for it and for what follows.
    top = eigensolve(first, solver, k=3, start=solver.initial_state(first.in_structure(), 3))
    bottom = eigensolve(TreeOperator(jnp.asarray(-matrix)), solver, k=3, which="smallest")
    true = np.sort(np.linalg.eigvalsh(matrix))[::-1][:3]
    np.testing.assert_allclose(top.values, true, rtol=1e-9)
    np.testing.assert_allclose(bottom.values, -true, rtol=1e-9)
    assert bool(top.result == RESULTS.successful)
    assert bool(top.evidence == EVIDENCE.fresh_direction)
    assert bool(jnp.all(top.is_top))
    moved = matrix + 1e-3 * symmetric(np.linspace(-1, 1, 60), seed=3)
    rough = Tracking(rtol=jnp.asarray(1e-3))
    warm = eigensolve(TreeOperator(jnp.asarray(moved)), rough, k=3, start=top.state)
    np.testing.assert_allclose(warm.values, np.sort(np.linalg.eigvalsh(moved))[::-1][:3], rtol=1e-5)
    assert int(warm.stats["matvecs"]) <= 6


def test_a_budget_is_kept_and_the_residual_reported():
    matrices = rotating(np.random.default_rng(2))[:2]
    solver = Tracking(rtol=1e-5)
    first, second = (
        lx.MatrixLinearOperator(jnp.asarray(x, jnp.float32), lx.symmetric_tag) for x in matrices
    )
    state = eigensolve(first, solver).state
    solution = eigensolve(second, solver, start=state, max_matvecs=2)
    assert int(solution.stats["matvecs"]) == 2
    assert bool(solution.result == RESULTS.max_matvecs_reached)
    assert not bool(solution.converged[0])
    vector, value = np.asarray(solution.vectors[0], np.float64), float(solution.values[0])
    true = np.linalg.norm(matrices[1] @ vector - value * vector)
    assert float(solution.residuals[0]) == pytest.approx(true, rel=0.05)
    ended = eigensolve(second, Tracking(rtol=1e-5, value_rtol=1e-2), start=state, throw=True)
    assert bool(ended.result == RESULTS.estimate_met)
    assert bool(ended.converged[0])
    assert float(ended.residuals[0]) > 1e-5 * float(ended.values[0])


def test_options_out_of_range():
    with pytest.raises(ValueError, match="value_rtol=-1"):
        Tracking(value_rtol=-1.0)
    with pytest.raises(ValueError, match="kept=-1"):
        Tracking(kept=-1)
    operator = lx.DiagonalLinearOperator(jnp.arange(50.0))
    with pytest.raises(ValueError, match="too small for k=12"):
        eigensolve(operator, Tracking(basis=20), k=12)
    state = eigensolve(operator, Tracking()).state
    with pytest.raises(ValueError, match="another k"):
        eigensolve(operator, Tracking(), k=2, start=state)


def repeated(solver, solves):
    """Solves of one matrix, each from the state of the last: products, and explorers left."""
    operator = lx.DiagonalLinearOperator(jnp.linspace(0.0, 3.0, 30) ** 2)
    state, products, explores = None, [], []
    for _ in range(solves):
        solution = eigensolve(operator, solver, start=state)
        state = solution.state
        products.append(int(solution.stats["matvecs"]))
        explores.append(bool(state.memory.present[-2]))
    return products[1:], explores[1:]


def test_an_explorer_of_every_solve_is_renewed():
    _, explores = repeated(Tracking(explore_every=1, renew_every=6), 20)
    ages = 1 + np.flatnonzero(np.logical_not(explores))
    assert ages.tolist() == [6, 12, 18]


def test_nothing_kept_is_not_looked_at():
    products, _ = repeated(Tracking(kept=0), 12)
    ages = 1 + np.arange(len(products))
    assert products == np.where(ages % 4 == 0, 2, 1).tolist()


def test_a_jump_of_all_values_is_no_change_of_ranks():
    """All values times 1.4, which is too little to forget: two are wanted, and both have moved."""
    rng, count = np.random.default_rng(0), 40
    spectra = np.concatenate(
        [
            10 - np.cumsum(rng.uniform(0.25, 0.5, (count, 8)), axis=1),
            rng.uniform(-1, 3, (count, 16)),
        ],
        axis=1,
    )
    matrices = np.stack([symmetric(x, i) for i, x in enumerate(spectra)])
    scales = np.array([1, 1, 1, 1, 1.4, 1.4, 1 / 1.3, 1 / 1.3])
    solver = Tracking()

    def one(matrix):
        def body(state, scale):
            operator = lx.MatrixLinearOperator(scale * matrix, lx.symmetric_tag)
            found = eigensolve(operator, solver, k=2, start=state)
            return found.state, (found.values, found.converged & found.is_top)

        first = solver.initial_state(jax.ShapeDtypeStruct((24,), jnp.float32), 2)
        return jax.lax.scan(body, first, jnp.asarray(scales, jnp.float32))[1]

    values, claimed = jax.jit(lambda x: jax.lax.map(one, x))(jnp.asarray(matrices, jnp.float32))
    assert np.asarray(claimed).all()
    truth = scales[:, None] * np.sort(spectra, axis=1)[:, None, :-3:-1]
    np.testing.assert_allclose(values, truth, rtol=1e-2)
