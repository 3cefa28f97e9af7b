from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from aeoskit.objective import Objective
from aeoskit_experiments import UserError
from aeoskit_experiments.data import digits, markov, quadratic, tokens
from aeoskit_experiments.losses import mse
from aeoskit_experiments.models import linear


def test_digits():
    data = digits()
    assert data.inputs.shape == (1797, 64)
    assert data.inputs.dtype == jnp.float32
    assert data.labels.dtype == jnp.int32
    assert data.image_shape == (8, 8, 1)
    np.testing.assert_array_equal(data.targets.argmax(-1), data.labels)
    np.testing.assert_array_equal(data.targets.sum(-1), 1)


@pytest.mark.parametrize("examples", [1, 100, 1797])
def test_standardized_per_pixel_with_dead_pixels_at_zero(examples):
    raw = np.asarray(digits(examples=examples, standardize="none").inputs)
    assert raw.min() >= 0
    assert raw.max() <= 1
    inputs = np.asarray(digits(examples=examples, standardize="pixel").inputs)
    dead = np.ptp(raw, axis=0) == 0
    assert dead[0]  # the corner
    np.testing.assert_array_equal(inputs[:, dead], 0)
    np.testing.assert_allclose(inputs.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(inputs.std(0)[~dead], 1, rtol=1e-4)


def test_standardized_as_one_channel():
    inputs = np.asarray(digits(examples=300).inputs, np.float64)
    np.testing.assert_allclose([inputs.mean(), inputs.std()], [0, 1], atol=1e-6)
    raw = np.asarray(digits(examples=300, standardize="none").inputs, np.float64)
    np.testing.assert_allclose(inputs, (raw - raw.mean()) / raw.std(), atol=1e-5)


def test_label_noise():
    clean, noisy = digits(examples=1000), digits(examples=1000, label_noise=0.4)
    np.testing.assert_array_equal(clean.inputs, noisy.inputs)
    changed = float(jnp.mean(clean.labels != noisy.labels))
    assert 0.3 < changed < 0.4  # a tenth of the random labels are right by chance
    everything = digits(examples=1000, label_noise=1.0)
    assert float(jnp.mean(clean.labels == everything.labels)) < 0.15


def test_seeds():
    small, large = digits(examples=50, standardize="none"), digits(examples=99, standardize="none")
    np.testing.assert_array_equal(small.inputs, large.inputs[:50])
    other = digits(examples=50, standardize="none", seed=1)
    assert not np.array_equal(small.inputs, other.inputs)


@pytest.mark.parametrize(
    "settings",
    [
        {"examples": 0},
        {"examples": 1798},
        {"label_noise": 1.1},
        {"label_noise": -0.1},
        {"seed": -1},
    ],
)
def test_refused(settings):
    (name,) = settings
    with pytest.raises(UserError, match=name) as caught:
        digits(**settings)
    assert "\n" not in str(caught.value)


def test_the_quadratic_has_its_spectrum():
    """With model linear and loss mse: each eigenvalue as many times as there are outputs."""
    data = quadratic(dimension=3, outputs=2, sharpness=5.0, condition=16.0, seed=1)
    network = linear()
    params = network.init(jax.random.key(0), data)
    objective = Objective.from_model(network.apply, mse, (data.inputs, data.targets), params=params)
    flat, rebuild = ravel_pytree(params)
    assert flat.shape == (6,)
    hessian = jax.hessian(lambda flat: objective.value(rebuild(flat)))(flat)
    found = np.sort(np.linalg.eigvalsh(np.asarray(hessian, np.float64)))
    np.testing.assert_allclose(found, np.repeat([5 / 16, 5 / 4, 5.0], 2), rtol=1e-5)
    # The minimum is zero, at zero.
    assert float(objective.value(rebuild(0 * flat))) == 0
    # No eigenvector lies along an axis, so that no diagonal metric is the matrix itself.
    assert np.abs(np.linalg.eigh(hessian)[1]).max() < 0.99


def test_quadratics_of_one_dimension_and_of_one_eigenvalue():
    assert quadratic(dimension=1).inputs.shape == (1, 1)
    inputs = np.asarray(quadratic(dimension=4, condition=1.0).inputs)
    np.testing.assert_allclose(inputs.T @ inputs / 4, np.eye(4), atol=1e-6)
    other = np.asarray(quadratic(dimension=4, seed=1).inputs)
    assert not np.allclose(np.asarray(quadratic(dimension=4).inputs), other)


@pytest.mark.parametrize(
    "settings",
    [
        {"dimension": 0},
        {"outputs": 0},
        {"sharpness": 0.0},
        {"sharpness": float("nan")},
        {"condition": 0.5},
        {"condition": float("nan")},
        {"seed": -1},
    ],
)
def test_no_quadratic(settings):
    (name,) = settings
    with pytest.raises(UserError, match=f"^{name} is") as caught:
        quadratic(**settings)
    assert "\n" not in str(caught.value)


def test_tokens_are_uniform_and_targets_are_one_further():
    data = tokens(examples=200, length=50, vocabulary=8)
    assert isinstance(data.targets, jax.Array)
    assert (data.inputs.shape, data.inputs.dtype, data.vocabulary) == ((200, 50), jnp.int32, 8)
    np.testing.assert_array_equal(data.inputs[:, 1:], data.targets[:, :-1])
    counts = np.bincount(np.asarray(data.targets).ravel(), minlength=8)
    np.testing.assert_allclose(counts, 1250, rtol=0.15)  # four deviations of a count
    fewer, other = tokens(examples=9, length=50, vocabulary=8), tokens(examples=9, seed=1)
    np.testing.assert_array_equal(fewer.inputs, data.inputs[:9])
    assert not np.array_equal(other.inputs, tokens(examples=9).inputs)


def test_a_markov_chain_remembers_one_token():
    data = markov(examples=500, length=100, vocabulary=4, concentration=0.5)
    assert isinstance(data.targets, jax.Array)
    np.testing.assert_array_equal(data.inputs[:, 1:], data.targets[:, :-1])
    before, at, after = (np.asarray(x) for x in (
        data.inputs[:, :-1], data.inputs[:, 1:], data.targets[:, 1:]))  # fmt: skip
    counts = np.zeros((4, 4, 4))
    np.add.at(counts, (before, at, after), 1)
    chain = counts.sum(0) / counts.sum((0, 2))[:, None]
    assert np.ptp(chain, axis=0).max() > 0.3  # what follows depends on the token
    for given in counts:  # and not on the one before it, as far as counts can tell
        size = given.sum(1, keepdims=True)
        deviation = np.sqrt(size * chain * (1 - chain)) + 1
        assert (np.abs(given - size * chain) / deviation).max() < 5
    fewer = markov(examples=9, length=100, vocabulary=4, concentration=0.5)
    np.testing.assert_array_equal(fewer.inputs, data.inputs[:9])


def test_tokens_without_noise_are_those_of_before_there_was_any():
    sums = [int((data.inputs * jnp.arange(1, 9)[None]).sum()) for data in (
        tokens(examples=4, length=8), markov(examples=4, length=8))]  # fmt: skip
    assert sums == [2291, 1845]


def test_tokens_have_shapes_with_nothing_drawn():
    for make in (tokens, markov):
        spec = jax.eval_shape(lambda make=make: make(examples=10**12, length=1024))
        assert spec.inputs.shape == spec.targets.shape == (10**12, 1024)


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (tokens, {"examples": 0}),
        (tokens, {"length": 0}),
        (tokens, {"vocabulary": 1}),
        (markov, {"vocabulary": 4097}),
        (markov, {"concentration": 0.0}),
        (markov, {"seed": -1}),
    ],
)
def test_tokens_refused(make, settings):
    (name,) = settings
    with pytest.raises(UserError, match=name) as caught:
        make(**settings)
    assert "\n" not in str(caught.value)
