"""Trajectories of one parameter against closed forms: what is measured, at which steps."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aeoskit.linalg import Dense
from aeoskit.objective import Objective
from aeoskit.optimizers import gradient_descent, momentum
from aeoskit.probes import Evaluation, LossAndGradient, PreconditionedSharpness
from aeoskit.trajectory import SwitchOptimizer, Trajectory, branch, stack_lanes, stream

CURVATURE = 2.0


def quadratic(params, batch):
    return 0.5 * CURVATURE * params["w"] ** 2 + 0 * batch


def quartic(params, batch):
    return 0.25 * params["w"] ** 4 + 0 * batch


def wrong(params, batch):
    return (params["w"] * batch > 0).astype(float)


def start(loss, optimizer, probes, w, **options):
    trajectory = Trajectory(Objective(loss, jnp.ones(1)), optimizer, probes, **options)
    return trajectory, trajectory.init({"w": jnp.asarray(w)}, jax.random.key(0))


def descend(gradient, lr, w, steps):
    """The parameter before each of the steps, and after the last."""
    found = [w]
    for _ in range(steps):
        found.append(found[-1] - lr * gradient(found[-1]))
    return np.array(found)


@pytest.mark.parametrize("mode", ["scan", "host"])
def test_a_probe_measures_the_point_before_each_due_step_and_nothing_else(mode):
    lr, steps, every = 0.1, 40, 7
    probes = {
        "loss": LossAndGradient(),
        "edge": PreconditionedSharpness(every=every, solver=Dense()),
        "rare": Evaluation(objectives={"rare": Objective(quadratic, jnp.ones(1))}, every=33),
    }
    trajectory, carry = start(quartic, gradient_descent(lr), probes, 1.5)
    w = descend(lambda w: w**3, lr, 1.5, steps)
    expected = {
        "loss": 0.25 * w[:-1] ** 4,
        "gradient_norm": w[:-1] ** 3,
        "preconditioned_sharpness": 3 * w[:-1] ** 2,
        "ratio": 3 * w[:-1] ** 2 * lr / 2,
        "rare": 0.5 * CURVATURE * w[:-1] ** 2,
    }
    periods = {"loss": 1, "gradient_norm": 1, "rare": 33}
    chunks = list(stream(trajectory, carry, steps, chunk=16, mode=mode))
    assert [len(chunk.steps) for chunk in chunks] == [16, 16, 8]
    np.testing.assert_allclose(chunks[-1].carry.lane.params["w"], w[-1], rtol=1e-5)
    for chunk in chunks:
        assert chunk.measurements.keys() == chunk.measured.keys()
        for name, values in expected.items():
            due = chunk.steps % periods.get(name, every) == 0
            # A quantity that is due at no step of the chunk is left out of it.
            assert (name in chunk.measurements) == due.any()
            if due.any():
                np.testing.assert_array_equal(chunk.measured[name], due)
                found = chunk.measurements[name].reshape(len(due))
                np.testing.assert_allclose(found[due], values[chunk.steps[due]], rtol=1e-5)
                assert np.isnan(found[~due]).all()
        spent = chunk.measurements["preconditioned_sharpness_matvecs"][:, 0]
        np.testing.assert_array_equal(spent, chunk.steps % every == 0)


@pytest.mark.parametrize("mode", ["scan", "host"])
@pytest.mark.parametrize(("w", "factor"), [(1.0, 100.0), (0.01, 100.0), (1.0, 1e6)])
def test_a_lane_ends_at_the_first_loss_above_its_limit(w, factor, mode):
    """At `η h = 3` the parameter doubles at each step, at 0.5 it halves, at 2 it oscillates."""
    rates = np.array([3.0, 0.5, 2.0]) / CURVATURE
    optimizer = stack_lanes([gradient_descent(float(rate)) for rate in rates])
    options = {"lanes": 3, "divergence_factor": factor}
    trajectory, carry = start(quadratic, optimizer, {"loss": LossAndGradient()}, w, **options)
    steps = 24
    chunk = next(stream(trajectory, carry, steps, chunk=32, mode=mode))
    free = np.stack([descend(lambda w: CURVATURE * w, r, w, steps)[:-1] for r in rates], axis=1)
    losses = 0.5 * CURVATURE * free**2
    # A loss that starts near zero may still grow: the limit is the factor itself, at least.
    over = losses[:, 0] > factor * max(losses[0, 0], 1.0)
    last = int(np.argmax(over)) if over.any() else steps
    np.testing.assert_array_equal(chunk.diverged_at, [last if over.any() else -1, -1, -1])
    frozen = np.minimum(np.arange(steps), last)
    losses[:, 0] = losses[frozen, 0]
    np.testing.assert_allclose(chunk.measurements["loss"], losses, rtol=1e-5)


def test_another_optimizer_goes_on_from_the_same_point_with_a_fresh_state():
    beta, first, second = 0.5, 0.2, 0.1
    trajectory, carry = start(quadratic, momentum(first, beta1=beta), {}, 1.0)
    half = next(stream(trajectory, carry, 5)).carry
    branches = {"descent": SwitchOptimizer(gradient_descent(second))}
    branches["again"] = SwitchOptimizer(momentum(first, beta1=beta))
    ends = {
        name: float(next(stream(run, begin, 3)).carry.lane.params["w"])
        for name, (run, begin) in branch(trajectory, half, branches).items()
    }

    def averaged(w, steps):
        buffer = 0.0
        for _ in range(steps):
            buffer = beta * buffer + (1 - beta) * CURVATURE * w
            w = w - first * buffer
        return w

    middle = averaged(1.0, 5)
    assert float(half.lane.params["w"]) == pytest.approx(middle, rel=1e-5)
    assert ends["descent"] == pytest.approx(middle * (1 - second * CURVATURE) ** 3, rel=1e-5)
    # A fresh buffer: not the run that was not interrupted.
    assert ends["again"] == pytest.approx(averaged(middle, 3), rel=1e-5)
    assert ends["again"] != pytest.approx(averaged(1.0, 8), rel=1e-2)


def test_numbers_do_not_depend_on_the_chunks_nor_on_how_many_lanes_there_are():
    rates = [0.1, 0.4, 0.9]
    probes = {"loss": LossAndGradient()}
    optimizer = stack_lanes([gradient_descent(rate) for rate in rates])
    trajectory, carry = start(quartic, optimizer, probes, 1.0, lanes=3)
    rows = [
        np.concatenate([x.measurements["loss"] for x in stream(trajectory, carry, 40, chunk=size)])
        for size in (16, 40)
    ]
    np.testing.assert_array_equal(*rows)
    for lane, rate in enumerate(rates):
        w = descend(lambda w: w**3, rate, 1.0, 40)[:-1]
        np.testing.assert_allclose(rows[0][:, lane], 0.25 * w**4, rtol=1e-4)


@pytest.mark.parametrize("mode", ["scan", "host"])
def test_an_error_rate_of_parameters_that_are_not_finite_is_none(mode):
    """The loss at the parameters `inf` ends the run; comparisons with them would be numbers."""
    probes = {"error": Evaluation(objectives={"error": Objective(wrong, jnp.array([1.0, -1.0]))})}
    trajectory, carry = start(quartic, gradient_descent(1e30), probes, 1e4)
    chunk = next(stream(trajectory, carry, 4, mode=mode))
    np.testing.assert_array_equal(chunk.measurements["error"][:, 0], [0.5, *[np.nan] * 3])
    assert chunk.diverged_at.tolist() == [1]
