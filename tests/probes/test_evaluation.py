"""Evaluation: fixed data as leaves, so that other data of the same shapes are no other program."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import aeoskit as ak

TRACES = []


def loss(w, rows):
    return 0.5 * (rows @ w - 1.0) ** 2


def wrong(w, rows):
    TRACES.append(rows.shape)
    return (rows @ w < 0.5).astype(float)


@pytest.mark.parametrize("mode", ["scan", "host"])
def test_it_is_the_mean_at_the_parameters_before_the_step_and_is_traced_once(mode):
    objective = ak.Objective(loss, jnp.eye(3))
    seen = []
    for scale in (1.0, 2.0):
        rows = scale * jnp.array([[1.0, 0.0, 0.0], [2.0, 0.0, 0.0], [9.0, 0.0, 0.0]])
        probe = ak.Evaluation(
            objectives={"error": ak.Objective(wrong, rows, microbatch=2)}, every=2
        )
        trajectory = ak.Trajectory(objective, ak.gradient_descent(0.3), {"test": probe})
        carry = trajectory.init(jnp.zeros(3), jax.random.key(0))
        before = len(TRACES)
        (chunk,) = ak.stream(trajectory, carry, 12, mode=mode)
        seen.append(len(TRACES) - before)
        w = 1 - 0.9 ** np.arange(12)  # each step takes a tenth of what is left
        expected = [(scale * np.array([1.0, 2.0, 9.0]) * at < 0.5).mean() for at in w]
        due = chunk.measured["error"]
        assert due.tolist() == [step % 2 == 0 for step in range(12)]
        np.testing.assert_allclose(chunk.measurements["error"][due, 0], np.array(expected)[due])
    assert TRACES
    assert seen[1] == 0


def test_nothing_to_evaluate_is_refused():
    with pytest.raises(ValueError, match="objectives is empty"):
        ak.Evaluation(objectives={})
