"""The flip multiplier along trajectories on a quadratic, where it has a closed form."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix as optx
import pytest

from aeoskit.objective import Objective
from aeoskit.optimizers import from_optimistix, gradient_descent, momentum, nesterov
from aeoskit.probes import FlipMultiplier, LossAndGradient
from aeoskit.probes._multiplier import TrainingStep
from aeoskit.trajectory import Trajectory, stack_lanes, stream

CURVATURES = np.array([0.1, 0.6, 2.0])
STEPS = 4


def loss(w, x):
    return 0.5 * (x @ w - 1.0) ** 2


# Its Hessian is the mean of the outer products of the rows.
OBJECTIVE = Objective(loss, jnp.asarray(np.diag(np.sqrt(3 * CURVATURES)), jnp.float32))
PROBES = {"flip": FlipMultiplier(every=3), "loss": LossAndGradient()}


def run(optimizer: Any, mode: str = "scan", lanes: int | None = None, steps: int = STEPS) -> Any:
    """The measurements of a chunk at the steps that were due, and the chunk itself."""
    trajectory = Trajectory(OBJECTIVE, optimizer, PROBES, lanes=lanes)
    carry = trajectory.init(jnp.zeros(3), jax.random.key(0))
    (chunk,) = stream(trajectory, carry, steps, chunk=steps, mode=mode)
    due = chunk.measured["multiplier"]
    assert chunk.steps[due].tolist() == list(range(0, steps, 3))
    values = {name: chunk.measurements[name][due] for name in PROBES["flip"].measures}
    return values, chunk


def closed_form(optimizer: Any) -> complex:
    """The multiplier of smallest real part over all modes, by the momentum rule's recurrence."""
    rule, lr = optimizer.momentum_rule, optimizer.schedule.lr
    matrices = [rule.recurrence(jnp.asarray(s), lr, 0 * lr) for s in CURVATURES]
    values = np.concatenate([np.linalg.eigvals(matrix) for matrix in matrices])
    return min(values.tolist(), key=lambda value: value.real)


def test_heavy_ball_from_the_host():
    """A complex pair: the real part of it gives the ratio, its modulus would not."""
    optimizer = momentum(1.85, 0.9, form="polyak")
    values, _ = run(optimizer, mode="host")
    expected = closed_form(optimizer)
    assert abs(expected.imag) > 0.1
    np.testing.assert_allclose(values["multiplier"], expected.real, rtol=1e-3)
    np.testing.assert_allclose(values["multiplier_imag"], abs(expected.imag), rtol=1e-3)
    ratio = 2.0 / (3.8 / 1.85)
    np.testing.assert_allclose(values["equivalent_ratio"], ratio, rtol=1e-3)


def test_gradient_descent_in_lanes_of_which_one_diverges():
    """1 - lr λ₁, and lr λ₁ over 2 of it, on either side of the edge."""
    rates = (0.9, 1.1, 1e9)
    sweep = stack_lanes([gradient_descent(lr) for lr in rates])
    values, chunk = run(sweep, lanes=3)
    assert values["multiplier"].shape == (2, 3)
    assert chunk.diverged_at[2] in (1, 2)
    for lane, lr in enumerate(rates[:2]):
        np.testing.assert_allclose(values["multiplier"][:, lane], 1 - lr * 2.0, rtol=1e-4)
        np.testing.assert_allclose(values["equivalent_ratio"][:, lane], lr, rtol=1e-4)
    assert (values["multiplier_imag"][:, :2] == 0).all()
    assert values["multiplier_converged"][:, :2].all()
    assert (values["multiplier_dead"] == 0).all()
    spent = values["multiplier_matvecs"]
    # The products of the probe itself, and one of the solve.
    assert spent[1, 2] <= 3 < spent[1, :2].min()
    assert spent[0, 2] == spent[0, 0]


def test_a_step_that_averages_has_a_multiplier_but_no_ratio():
    """Schedule-Free as optax wrote it: no linear recurrence of one momentum rule."""
    values, _ = run(optax.contrib.schedule_free_sgd(0.5, b1=0.9), steps=1)
    assert np.isfinite(values["multiplier"]).all()
    assert np.isnan(values["equivalent_ratio"]).all()


def test_a_line_search_is_refused():
    with pytest.raises(ValueError, match="BFGS of optimistix has no multipliers") as caught:
        run(from_optimistix(optx.BFGS(1e-6, 1e-6)), steps=1)
    assert "\n" not in str(caught.value)


def test_the_training_step_is_the_trajectorys():
    optimizer, params = nesterov(0.1), jnp.array([1.0, -1.0, 2.0])
    step = TrainingStep(OBJECTIVE, optimizer)
    trajectory = Trajectory(OBJECTIVE, optimizer, {})
    (chunk,) = stream(trajectory, trajectory.init(params, jax.random.key(0)), 1)
    moved, state = eqx.filter_jit(step)(params, optimizer.init(params))
    lane = chunk.carry.lane
    np.testing.assert_allclose(moved, lane.params, rtol=1e-6)
    for one, other in zip(
        jax.tree.leaves(state), jax.tree.leaves(lane.optimizer_state), strict=True
    ):
        np.testing.assert_allclose(one, other, rtol=1e-6)


@pytest.mark.parametrize("every", [0, -1, True])
def test_a_period_that_is_none_is_refused(every: Any):
    with pytest.raises(ValueError, match="at least 1"):
        FlipMultiplier(every=every)


def test_targets_that_are_stopped():
    """Values of states that follow each other: the multiplier is that of the step, by differences.

    Its derivative as jax has it gives -1.4 for 0.76.
    """

    def td(w, x):
        return 0.5 * (x * w - jax.lax.stop_gradient(1.0 + 0.9 * x * w)) ** 2

    def measured(objective):
        trajectory = Trajectory(objective, gradient_descent(2.4), {"flip": FlipMultiplier()})
        carry = trajectory.init(jnp.asarray(3.0), jax.random.key(0))
        (chunk,) = stream(trajectory, carry, 2, chunk=2)
        return chunk.measurements["multiplier"]

    data = jnp.ones(4)
    by_differences = Objective(td, data, params=jnp.asarray(3.0), product="difference")
    np.testing.assert_allclose(measured(by_differences), 0.76, atol=1e-3)
    assert np.all(np.isnan(measured(Objective(td, data))))


def test_the_oscillation_of_two_buffers(x64: None):
    """Beyond their threshold the flip multiplier is .80, and the modulus above 1."""
    edge = 19 / 81 / CURVATURES.max()
    transform = optax.chain(
        optax.ema(0.9, debias=False), optax.ema(0.9, debias=False), optax.scale(-1.2 * edge)
    )
    probes = {"flip": FlipMultiplier(oscillation=True)}
    trajectory = Trajectory(OBJECTIVE, transform, probes)
    carry = trajectory.init(jnp.zeros(3), jax.random.key(0))
    (chunk,) = stream(trajectory, carry, 2, chunk=2, mode="host")
    found = {name: chunk.measurements[name][0, 0] for name in probes["flip"].measures}
    np.testing.assert_allclose(found["multiplier"], 0.8033, rtol=1e-3)
    np.testing.assert_allclose(found["equivalent_ratio"], 1.2, rtol=1e-2)
    np.testing.assert_allclose(found["oscillation_modulus"], 1.0039, rtol=1e-3)
    np.testing.assert_allclose(found["oscillation_angle"], 0.1197, rtol=1e-2)
    assert found["oscillation_converged"]
