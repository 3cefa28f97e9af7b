"""Where the loss, its gradient or the metric is not finite, no eigenvalue is one."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from aeoskit.linalg import RESULTS, Dense, Lanczos, RestrictedOperator, Tracking, eigensolve
from aeoskit.objective import Objective
from aeoskit.optimizers import adam, gradient_descent, scalar_rmsprop
from aeoskit.probes import (
    FlipMultiplier,
    LossAndGradient,
    PreconditionedSharpness,
    Sharpness,
    preconditioned_sharpness,
    sharpness,
)
from aeoskit.trajectory import Trajectory, stream

ROWS = jax.random.normal(jax.random.key(0), (6, 3))
LABELS = jnp.array([0, 1, 0, 1, 0, 1])
PARAMS = {"w": 0.3 * jax.random.normal(jax.random.key(1), (3, 2)), "b": jnp.zeros((1, 2))}


def cross_entropy(params, batch):
    rows, labels = batch
    logits = rows @ params["w"] + params["b"]
    return optax.softmax_cross_entropy_with_integer_labels(logits, labels)


def branch_not_taken(params, batch):
    """Finite, and so are products; the gradient is 0 times the infinite slope of a root."""
    length = jnp.sum(params["b"] ** 2)
    return cross_entropy(params, batch) + jnp.where(length > 1, jnp.sqrt(length), 0.0)


def infinite_example(params, batch):
    return cross_entropy(params, batch) + jnp.where(jnp.arange(len(batch[1])) == 2, jnp.inf, 0.0)


def mean(loss):
    return lambda params, batch: jnp.mean(loss(params, batch))


def weighted(loss):
    return lambda params, batch: (jnp.sum(loss(params, batch)), jnp.asarray(1.0 * len(batch[1])))


SOUND = (cross_entropy, (ROWS, LABELS))
BROKEN = {
    "label out of range": (cross_entropy, (ROWS, LABELS.at[3].set(5))),
    "label out of range, mean": (mean(cross_entropy), (ROWS, LABELS.at[3].set(5))),
    "NaN in the branch not taken": (branch_not_taken, (ROWS, LABELS)),
    "one infinite example": (infinite_example, (ROWS, LABELS)),
    "one infinite example, weighted": (weighted(infinite_example), (ROWS, LABELS)),
    "NaN in the data": (cross_entropy, (ROWS.at[0, 0].set(jnp.nan), LABELS)),
}


def no_number(solution):
    return (
        np.isnan(solution.values).all()
        and not solution.converged.any()
        and bool(solution.result == RESULTS.nonfinite)
    )


@pytest.mark.parametrize("kind", BROKEN)
@pytest.mark.part(3)
def test_no_function_returns_a_number(kind):
    objective = Objective(*BROKEN[kind])
    assert no_number(sharpness(objective, PARAMS, solver=Dense()))
    hessian = objective.hessian(PARAMS)
    assert no_number(eigensolve(RestrictedOperator(hessian, "w"), Dense()))
    optimizer = adam(1e-2)
    edge = preconditioned_sharpness(
        objective, PARAMS, optimizer, optimizer.init(PARAMS), solver=Dense()
    )
    assert no_number(edge.solution)
    assert np.isnan(edge.ratio)
    assert np.isfinite(edge.threshold)


@pytest.mark.parametrize("options", [{"reuse": "recompute"}, {"microbatch": 4}], ids=str)
def test_nor_where_products_are_made_otherwise(options):
    for kind in ("one infinite example", "NaN in the branch not taken"):
        assert no_number(sharpness(Objective(*BROKEN[kind], **options), PARAMS, solver=Dense()))


@pytest.mark.parametrize("solver", [Lanczos(basis=5), Tracking(), Dense()])
@pytest.mark.part(2)
def test_no_solver_does_under_jit(solver):
    def solve(objective, params):
        return sharpness(objective, params, solver=solver)

    objectives = [Objective(*SOUND), Objective(*BROKEN["label out of range"])]
    sound, broken = (eqx.filter_jit(solve)(objective, PARAMS) for objective in objectives)
    assert no_number(broken)
    truth = np.linalg.eigvalsh(np.asarray(objectives[0].hessian(PARAMS).as_matrix()))[-1]
    np.testing.assert_allclose(sound.values[0], truth, rtol=1e-4)
    # What follows such a measurement is right again.
    again = sharpness(objectives[0], PARAMS, solver=solver, start=broken.state)
    np.testing.assert_allclose(again.values[0], truth, rtol=1e-4)


def test_a_gauss_newton_matrix_of_a_loss_that_is_nan_has_none():
    def model(params, rows):
        return rows @ params["w"] + params["b"]

    def loss(logits, labels):
        return optax.softmax_cross_entropy_with_integer_labels(logits, labels)

    for labels, sound in ((LABELS, True), (LABELS.at[3].set(5), False)):
        for reuse in ("linearize", "recompute"):
            objective = Objective.from_model(model, loss, (ROWS, labels), reuse=reuse)
            solution = eigensolve(objective.gauss_newton(PARAMS), Dense())
            assert no_number(solution) != sound


def test_derivatives_of_a_value_do_not_see_the_check():
    def top(params, objective):
        return sharpness(objective, params, solver=Dense()).values[0]

    objective = Objective(*SOUND)
    slope = jax.grad(top)(PARAMS, objective)
    step = {"w": jnp.zeros((3, 2)).at[0, 0].set(1e-2), "b": jnp.zeros((1, 2))}
    ahead, behind = (
        top(jax.tree.map(lambda x, s, sign=sign: x + sign * s, PARAMS, step), objective)
        for sign in (1, -1)
    )
    np.testing.assert_allclose(slope["w"][0, 0], (ahead - behind) / 2e-2, rtol=2e-2)


@pytest.mark.parametrize("kind", ["label out of range", "NaN in the branch not taken"])
def test_probes_say_so_in_a_trajectory(kind):
    probes = {
        "loss": LossAndGradient(),
        "raw": Sharpness(solver=Dense()),
        "edge": PreconditionedSharpness(solver=Dense()),
        "flip": FlipMultiplier(),
    }
    trajectory = Trajectory(Objective(*BROKEN[kind]), gradient_descent(0.1), probes)
    [chunk] = stream(trajectory, trajectory.init(PARAMS, jax.random.key(0)), 2)
    for name in ("sharpness", "preconditioned_sharpness", "multiplier"):
        assert np.isnan(chunk.measurements[name]).all()
        assert not chunk.measurements[f"{name}_converged"].any()
    assert np.isnan(chunk.measurements["ratio"]).all()
    assert chunk.diverged_at == 0


def quadratic(scale):
    """A loss whose gradient at ones is `scale`, and its curvature as well."""
    return Objective(lambda w, x: 0.5 * scale * jnp.sum(x * w**2), jnp.ones(1))


@pytest.mark.parametrize(
    "optimizer", [adam(1e-2), optax.adam(1e-2), scalar_rmsprop(1e-2), optax.rmsprop(1e-2)]
)
@pytest.mark.part(2)
def test_second_moments_that_overflow_make_no_eigenvalue_zero(optimizer):
    """Of gradients above 1.8e19 the squares are infinite, P⁻¹ is zero, and so was every value."""
    params = jnp.ones(3)
    for scale, sound in ((1e18, True), (1e20, False)):
        edge = preconditioned_sharpness(
            quadratic(scale), params, optimizer, optimizer.init(params), solver=Dense()
        )
        assert no_number(edge.solution) != sound
        assert np.isnan(edge.ratio) != sound
