"""Branches that begin at a given ratio of `λ₁(P⁻¹H)` to the threshold."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from aeoskit.linalg import Dense
from aeoskit.objective import Objective
from aeoskit.optimizers import LinearWarmup, adam, adamw, from_optax, gradient_descent, momentum
from aeoskit.probes import LossAndGradient, PreconditionedSharpness, StabilityThreshold
from aeoskit.trajectory import (
    FreezePreconditioner,
    SwitchOptimizer,
    Trajectory,
    branch,
    stack_lanes,
    stream,
)

STEPS = 800
RATIOS = {"below": 0.98, "above": 1.02}
ROTATION = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
CURVATURES = np.array([0.1, 0.5, 1.0])
ROWS = jnp.asarray(np.sqrt(3 * CURVATURES)[:, None] * ROTATION.T, jnp.float32)


def loss(w, x):
    return 0.5 * jnp.sum((x @ w) ** 2, axis=-1)


OBJECTIVE = Objective(loss, ROWS)
PROBES = {
    "loss": LossAndGradient(),
    "threshold": StabilityThreshold(),
    "edge": PreconditionedSharpness(every=50, solver=Dense()),
}


def test_the_requested_ratio_decides():
    """In lanes, each with its own P: below the threshold every loss falls, above it grows."""
    # Decay has its part in the threshold.
    optimizers = [adamw(LinearWarmup(lr, 50), weight_decay=0.1) for lr in (0.03, 0.1)]
    trajectory = Trajectory(OBJECTIVE, stack_lanes(optimizers), PROBES, lanes=2)
    carry = trajectory.init(jnp.ones((3, 2)), jax.random.key(0))
    ways = {name: FreezePreconditioner(ratio) for name, ratio in RATIOS.items()}
    for side, (way, start) in branch(trajectory, carry, ways).items():
        (chunk,) = stream(way, start, STEPS, chunk=STEPS, mode="scan")
        ratio, due = chunk.measurements["ratio"], chunk.measured["ratio"]
        at = chunk.steps[:, None]
        sound = due[:, None] & ((chunk.diverged_at < 0) | (at <= chunk.diverged_at))
        # At once and for good: the schedule is replaced by a constant.
        np.testing.assert_allclose(ratio[sound], RATIOS[side], rtol=1e-3)
        assert (sound.sum(0) > 1).all()
        first, last = chunk.measurements["loss"][[0, -1]]
        assert (last < 0.1 * first if side == "below" else last > 10 * first).all()


def test_a_schedule_is_left_alone_without_a_ratio():
    trajectory = Trajectory(OBJECTIVE, adam(LinearWarmup(0.1, 50)), PROBES)
    carry = trajectory.init(jnp.ones((3, 2)), jax.random.key(0))
    way, start = branch(trajectory, carry, {"held": FreezePreconditioner()})["held"]
    state = start.lane.optimizer_state
    assert float(way.optimizer.threshold(state)) == pytest.approx(38 * 50 / 0.1, rel=1e-5)


def test_another_optimizer_begins_at_the_ratio():
    """In lanes that are elsewhere: of a quadratic every one has its edge at the same rate."""
    trajectory = Trajectory(OBJECTIVE, stack_lanes([adam(0.03), adam(0.1)]), PROBES, lanes=2)
    carry = trajectory.init(jnp.ones((3, 2)), jax.random.key(0))
    way, start = branch(trajectory, carry, {"x": SwitchOptimizer(momentum(7.0), 0.9)})["x"]
    rates = jax.vmap(lambda o, s: o.learning_rate(s))(way.optimizer, start.lane.optimizer_state)
    # The largest curvature is that of the mean over three rows, 1, and 38 / η is to be 1 / 0.9.
    np.testing.assert_allclose(rates, np.full(2, 38 * 0.9), rtol=1e-3)


def test_a_ratio_is_for_optimizers_of_ours():
    with pytest.raises(ValueError, match="rate of OptaxOptimizer cannot be set to a threshold"):
        SwitchOptimizer(from_optax(optax.sgd(0.1)), 0.9)


def test_at_a_maximum_there_is_no_rate():
    """No curvature is positive: no learning rate makes the ratio, and the run says so."""
    objective = Objective(lambda w, x: -0.5 * jnp.sum((x @ w) ** 2, axis=-1), ROWS)
    trajectory = Trajectory(objective, gradient_descent(0.1), {"loss": LossAndGradient()})
    carry = trajectory.init(jnp.ones((3, 2)), jax.random.key(0))
    way, start = branch(trajectory, carry, {"x": FreezePreconditioner(0.9)})["x"]
    assert np.isnan(float(way.optimizer.learning_rate(start.lane.optimizer_state)))
    (chunk,) = stream(way, start, 3)
    assert chunk.diverged_at.tolist() == [1]


@pytest.mark.parametrize("ratio", [0.0, -1.0, float("inf"), float("nan")])
def test_a_ratio_that_is_none_is_refused(ratio: float):
    with pytest.raises(ValueError, match="one of an eigenvalue to a threshold") as caught:
        FreezePreconditioner(ratio)
    assert "\n" not in str(caught.value)
