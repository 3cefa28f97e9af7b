"""Optimistix's minimisers as trajectories: their own steps, with sharpness along them."""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix as optx
import pytest

from aeoskit.linalg import Dense
from aeoskit.objective import Objective
from aeoskit.optimizers import (
    OptaxOptimizer,
    OptimistixOptimizer,
    adam,
    as_optimizer,
    from_optimistix,
)
from aeoskit.probes import (
    LossAndGradient,
    PreconditionedSharpness,
    Sharpness,
    StabilityThreshold,
    preconditioned_sharpness,
)
from aeoskit.trajectory import Trajectory, stream

STEPS = 8
CURVATURES = np.array([0.05, 0.4, 3.0])
MINIMISERS = {
    "bfgs": lambda: optx.BFGS(1e-9, 1e-9),
    "lbfgs": lambda: optx.LBFGS(1e-9, 1e-9, history_length=3),
    "nonlinear_cg": lambda: optx.NonlinearCG(1e-9, 1e-9),
}


def loss(params, x):
    """A quadratic of known Hessian, and a fourth power on top: no minimiser ends within steps."""
    w = jnp.append(params["w"], params["b"])
    return 0.5 * (x @ w - 1.0) ** 2 + 0.01 * jnp.sum(w**4)


ROWS = jnp.asarray(np.diag(np.sqrt(3 * CURVATURES)), jnp.float32)
OBJECTIVE = Objective(loss, ROWS)
PARAMS = {"w": jnp.array([2.0, -1.0]), "b": jnp.array(1.5)}


def trajectory_of(minimiser: Any, **options: Any) -> Any:
    probes = {
        "loss": LossAndGradient(),
        "threshold": StabilityThreshold(),
        "raw": Sharpness(every=4, solver=Dense()),
    }
    trajectory = Trajectory(OBJECTIVE, minimiser, probes, **options)
    return trajectory, trajectory.init(PARAMS, jax.random.key(0))


@pytest.mark.parametrize(
    ("name", "mode"), [("bfgs", "scan"), ("lbfgs", "host"), ("nonlinear_cg", "scan")]
)
def test_its_steps_are_those_of_a_minimization(name: str, mode: str):
    """And sharpness, loss and the lack of a threshold are measured at each of them."""
    minimiser = MINIMISERS[name]()
    found = optx.minimise(
        lambda y, _: OBJECTIVE.value(y), minimiser, PARAMS, max_steps=STEPS, throw=False
    )
    assert bool(found.result == optx.RESULTS.nonlinear_max_steps_reached)
    trajectory, carry = trajectory_of(minimiser)
    assert isinstance(trajectory.optimizer, OptimistixOptimizer)
    (chunk,) = stream(trajectory, carry, STEPS, mode=mode)
    end = chunk.carry.lane.params
    # Optimistix ends before the last proposed point is looked at; so does a step of ours.
    for a, b in zip(jax.tree.leaves(end), jax.tree.leaves(found.value), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-6)

    losses = chunk.measurements["loss"][:, 0]
    assert losses[-1] < 0.5 * losses[0]
    assert chunk.diverged_at.tolist() == [-1]
    due = chunk.measured["sharpness"]
    assert chunk.steps[due].tolist() == [0, 4]
    start = jnp.append(PARAMS["w"], PARAMS["b"])
    top = np.max(CURVATURES + 0.12 * np.asarray(start) ** 2)
    np.testing.assert_allclose(chunk.measurements["sharpness"][0, 0, 0], top, rtol=1e-3)
    assert chunk.measurements["sharpness_converged"][due].all()
    for missing in ("threshold", "learning_rate"):
        assert np.isnan(chunk.measurements[missing]).all()


def test_it_stays_where_it_has_converged():
    optimizer = from_optimistix(optx.BFGS(1e-3, 1e-3))
    step = jax.jit(lambda params, state: optimizer.step(OBJECTIVE.value, params, state))
    params, state = PARAMS, optimizer.init(PARAMS)
    for _ in range(40):
        params, state = step(params, state)
    later, _ = step(params, state)
    for a, b in zip(jax.tree.leaves(later), jax.tree.leaves(params), strict=True):
        np.testing.assert_array_equal(a, b)
    gradient = OBJECTIVE.gradient(params)
    assert max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(gradient)) < 1e-2


def test_what_it_has_not_is_refused():
    optimizer = from_optimistix(MINIMISERS["bfgs"]())
    state = optimizer.init(PARAMS)
    with pytest.raises(ValueError, match="BFGS of optimistix has no preconditioner"):
        optimizer.preconditioner(state, PARAMS, PARAMS)
    with pytest.raises(ValueError, match="BFGS of optimistix is not a linear recurrence"):
        optimizer.recursion(state, PARAMS)
    assert np.isnan(float(optimizer.threshold(state)))
    assert np.isnan(float(optimizer.learning_rate(state)))
    trajectory = Trajectory(OBJECTIVE, optimizer, {"edge": PreconditionedSharpness()})
    carry = trajectory.init(PARAMS, jax.random.key(0))
    with pytest.raises(ValueError, match="has no preconditioner with a threshold"):
        next(stream(trajectory, carry, 2))
    with pytest.raises(ValueError, match="BFGS of optimistix has no preconditioner"):
        preconditioned_sharpness(OBJECTIVE, PARAMS, optimizer.minimiser, state)


def test_batches_and_lanes_are_refused():
    minimiser = MINIMISERS["lbfgs"]()
    with pytest.raises(ValueError, match="batch is 2, but LBFGS of optimistix compares"):
        trajectory_of(minimiser, batch=2)
    with pytest.raises(ValueError, match="lanes is 2, but the hyperparameters of LBFGS of"):
        trajectory_of(minimiser, lanes=2)


@pytest.mark.parametrize("make", [optx.BFGS, optx.DFP])
def test_a_matrix_that_is_too_large_is_refused(make: Any):
    large = {"w": jnp.zeros((101, 99)), "b": jnp.zeros(2)}
    optimizer = from_optimistix(make(1e-6, 1e-6))
    with pytest.raises(ValueError, match=r"a matrix of 10001 × 10001 .* take optimistix\.LBFGS"):
        optimizer.init(large)
    jax.eval_shape(optimizer.init, {"w": large["w"]})
    jax.eval_shape(from_optimistix(MINIMISERS["lbfgs"]()).init, large)


def test_whatever_trains_is_an_optimizer():
    ours = adam(0.1)
    assert as_optimizer(ours) is ours
    assert type(as_optimizer(optax.adam(0.1))) is OptaxOptimizer
    theirs = as_optimizer(optx.NonlinearCG(1e-6, 1e-6))
    assert type(theirs) is OptimistixOptimizer
    assert as_optimizer(theirs) is theirs
    with pytest.raises(TypeError, match="the optimizer is a float: pass an aeoskit optimizer"):
        as_optimizer(0.1)
    with pytest.raises(TypeError, match=r"such as optimistix\.BFGS\(rtol, atol\), got"):
        from_optimistix(optx.Newton(1e-6, 1e-6))
