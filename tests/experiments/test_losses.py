from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np

from aeoskit.objective import Objective
from aeoskit_experiments.data import digits
from aeoskit_experiments.losses import accuracy, cross_entropy, mse
from aeoskit_experiments.models import mlp

OUTPUTS = jnp.array([[2.0, -1.0, 0.5], [0.0, 100.0, 0.0]])
TARGETS = jnp.array([[1.0, 0.0, 0.0], [0.0, 0.0, 1.0]])


def test_mse_is_half_the_squared_distance():
    np.testing.assert_allclose(mse(OUTPUTS, TARGETS), [0.5 * (1 + 1 + 0.25), 0.5 * (1e4 + 1)])


def test_cross_entropy():
    expected = np.log(np.exp(2) + np.exp(-1) + np.exp(0.5)) - 2
    np.testing.assert_allclose(cross_entropy(OUTPUTS, TARGETS), [expected, 100.0], rtol=1e-6)


def test_accuracy():
    assert accuracy(OUTPUTS, TARGETS) == 0.5
    assert accuracy(OUTPUTS, jnp.array([0, 2])) == 0.5
    assert accuracy(OUTPUTS, (TARGETS, jnp.array([1.0, 3.0]))) == 0.25


def test_accuracy_of_tokens():
    outputs = jnp.stack([OUTPUTS, OUTPUTS])
    labels, weights = jnp.array([[0, 1], [2, 1]]), jnp.array([[1.0, 1.0], [1.0, 0.0]])
    assert accuracy(outputs, labels) == 0.75
    np.testing.assert_allclose(accuracy(outputs, (labels, weights)), 2 / 3, rtol=1e-6)


def test_an_objective_of_the_shipped_parts():
    data, model = digits(examples=30), mlp(width=4)
    params = model.init(jax.random.key(0), data)
    for loss in (mse, cross_entropy):
        objective = Objective.from_model(
            model.apply, loss, (data.inputs, data.targets), microbatch=8, params=params
        )
        assert objective.kind(params) == "per_example"
        product = objective.gauss_newton(params).mv(params)
        assert all(jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(product))
