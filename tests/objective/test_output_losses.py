"""Closed forms of output Hessians against differentiation in double precision."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from aeoskit.objective import AbstractOutputLoss, Objective, SoftmaxCrossEntropy, SquaredError
from aeoskit.objective._kinds import sum_and_weight

N, TOKENS, CLASSES = 5, 3, 4


def _make(name):
    """Outputs and targets, in the precision of the test."""
    keys = jax.random.split(jax.random.key(7), 4)
    shape = (N, CLASSES) if name.startswith("flat") else (N, TOKENS, CLASSES)
    outputs = 3 * jax.random.normal(keys[0], shape)
    labels = jax.random.randint(keys[1], shape[:-1], 0, CLASSES)
    probabilities = jax.nn.softmax(jax.random.normal(keys[2], shape), -1)
    mask = (jax.random.uniform(keys[3], shape[:-1]) > 0.4).astype(outputs.dtype)
    targets = {
        "labels": labels,
        "probabilities": probabilities,
        "uneven": 2 * probabilities * mask[..., None],
        "masked": (jnp.where(mask > 0, labels, -100), mask),
        "weighted": (probabilities, jnp.arange(N, dtype=outputs.dtype)),
    }[name.split("-")[1]]
    return outputs, targets


CASES = [
    *(f"flat-{kind}" for kind in ("labels", "probabilities", "uneven", "masked", "weighted")),
    *(f"tokens-{kind}" for kind in ("labels", "masked", "weighted")),
]


def _matrix(product, outputs):
    basis = jnp.eye(outputs.size, dtype=outputs.dtype).reshape(-1, *outputs.shape)
    return jax.jit(jax.vmap(product))(basis).reshape(outputs.size, outputs.size)


def _differentiated(loss, outputs, targets):
    slope = jax.grad(lambda f: sum_and_weight(loss(f, targets), len(f))[0])
    return lambda vector: jax.jvp(slope, (outputs,), (vector,))[1]


@pytest.mark.parametrize("name", CASES)
def test_softmax_hessian(x64, name):
    outputs, targets = _make(name)
    loss = SoftmaxCrossEntropy()
    found = _matrix(lambda v: loss.hessian_product(outputs, targets, v), outputs)
    expected = _matrix(_differentiated(loss, outputs, targets), outputs)
    assert np.abs(expected).max() > 1e-2
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)
    np.testing.assert_allclose(found, found.T, rtol=0, atol=1e-15)
    assert np.linalg.eigvalsh(found).min() > -1e-14
    constants = jnp.repeat(jnp.eye(outputs.size // CLASSES), CLASSES, axis=1)
    np.testing.assert_allclose(found @ constants.T, 0, atol=1e-14)


@pytest.mark.parametrize("name", ["flat-probabilities", "tokens-weighted"])
def test_squared_error_hessian(x64, name):
    outputs, targets = _make(name)
    loss = SquaredError()
    found = _matrix(lambda v: loss.hessian_product(outputs, targets, v), outputs)
    expected = _matrix(_differentiated(loss, outputs, targets), outputs)
    np.testing.assert_allclose(found, expected, rtol=1e-14)


def test_labels_are_one_hot_targets():
    outputs, labels = _make("flat-labels")
    one_hot = jax.nn.one_hot(labels, CLASSES)

    @jax.jit
    def losses_and_grads(outputs, targets):
        losses, pull_back = jax.vjp(lambda f: SoftmaxCrossEntropy()(f, targets), outputs)
        return losses, pull_back(jnp.ones_like(losses))[0]

    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-6),
        losses_and_grads(outputs, labels),
        losses_and_grads(outputs, one_hot),
    )
    wrong = np.array([-1, CLASSES, *labels[2:]])
    losses, _ = losses_and_grads(outputs, jnp.asarray(wrong))
    np.testing.assert_array_equal(np.isnan(losses), np.arange(N) < 2)


def test_masked_tokens_are_ignored():
    outputs, (labels, mask) = _make("tokens-masked")
    assert labels.min() == -100
    slope = jax.jit(jax.value_and_grad(SoftmaxCrossEntropy(), has_aux=True))
    (total, weight), grads = slope(outputs, (labels, mask))
    log_p = np.asarray(outputs) - np.log(np.exp(outputs).sum(-1, keepdims=True))
    kept = np.argwhere(np.asarray(mask) > 0)
    expected = -sum(log_p[i, j, int(labels[i, j])] for i, j in kept)
    np.testing.assert_allclose(total, expected, rtol=1e-6)
    assert weight == len(kept)
    np.testing.assert_array_equal(
        np.asarray(grads) == 0, np.broadcast_to(mask[..., None] == 0, grads.shape)
    )


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_extreme_logits(dtype):
    rows = [
        [1e4, -1e4, 0.0, 3e38],
        [1e30, 1e30, -1e30, 0.0],
        [-jnp.inf, 5.0, 4.0, -jnp.inf],
        [-1e4, -1e4 - 16, -2e4, -3e4],
    ]
    outputs = jnp.array(rows).astype(dtype)
    vector = jax.random.normal(jax.random.key(0), outputs.shape).astype(dtype)
    labels = jnp.array([3, 2, 1, 0])
    loss = SoftmaxCrossEntropy()
    found = loss.hessian_product(outputs, labels, vector)
    assert found.dtype == outputs.dtype
    z, u = np.asarray(outputs, np.float64), np.asarray(vector, np.float64)
    p = np.exp(z - z.max(-1, keepdims=True))
    p /= p.sum(-1, keepdims=True)
    expected = p * (u - (p * u).sum(-1, keepdims=True))
    eps = float(jnp.finfo(dtype).eps)
    np.testing.assert_allclose(np.asarray(found, np.float64), expected, atol=4 * eps)
    log_p = (
        z - z.max(-1, keepdims=True) - np.log(np.exp(z - z.max(-1, keepdims=True)).sum(-1))[:, None]
    )
    np.testing.assert_allclose(
        np.asarray(loss(outputs, labels), np.float64),
        -log_p[np.arange(4), labels],
        rtol=4 * eps,
        atol=4 * eps,
    )


def _model(params, inputs):
    hidden = jnp.tanh(params["embedding"][inputs])
    return hidden @ params["head"]


def _text(masked):
    keys = jax.random.split(jax.random.key(3), 4)
    params = {
        "embedding": jax.random.normal(keys[0], (CLASSES, 2)),
        "head": jax.random.normal(keys[1], (2, CLASSES)),
    }
    sequences = jax.random.randint(keys[2], (N, TOKENS + 1), 0, CLASSES)
    inputs, labels = sequences[:, :-1], sequences[:, 1:]
    mask = (jax.random.uniform(keys[3], labels.shape) > 0.4).astype(params["head"].dtype)
    return params, (inputs, (labels, mask) if masked else labels)


class Mean(AbstractOutputLoss):
    """The same loss as a scalar mean over the batch."""

    def __call__(self, outputs, targets):
        total, weight = SoftmaxCrossEntropy()(outputs, targets)
        return total / weight

    def hessian_product(self, outputs, targets, vector):
        return SoftmaxCrossEntropy().hessian_product(outputs, targets, vector) / targets.size


def plain(outputs, targets):
    """A function, so that it is differentiated."""
    return SoftmaxCrossEntropy()(outputs, targets)


@pytest.mark.parametrize(
    ("loss", "masked", "microbatch", "reuse"),
    [
        (SoftmaxCrossEntropy(), True, None, "recompute"),
        (SoftmaxCrossEntropy(), True, 2, "linearize"),
        (SoftmaxCrossEntropy(), False, 2, "recompute"),
        (Mean(), False, 2, "recompute"),
    ],
)
def test_gauss_newton_is_that_of_the_differentiated_loss(x64, loss, masked, microbatch, reuse):
    params, data = _text(masked)
    objective = Objective.from_model(
        _model, loss, data, microbatch=microbatch, reuse=reuse, params=params
    )
    found = lx.linearise(objective.gauss_newton(params)).as_matrix()
    expected = Objective.from_model(_model, plain, data).gauss_newton(params).as_matrix()
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-14)
    assert np.abs(expected).max() > 1e-2


@jax.custom_jvp
def _not_differentiable(x):
    return x


@_not_differentiable.defjvp
def _(primals, tangents):
    raise AssertionError("differentiated")


class NotDifferentiable(SoftmaxCrossEntropy):
    """A loss that notices."""

    def __call__(self, outputs, targets):
        return super().__call__(_not_differentiable(outputs), targets)


@pytest.mark.parametrize("reuse", ["linearize", "recompute"])
def test_the_loss_is_not_differentiated(reuse):
    params, data = _text(masked=True)
    objective = Objective.from_model(_model, NotDifferentiable(), data, reuse=reuse)

    def product(params):
        return lx.linearise(objective.gauss_newton(params)).mv(params)

    jax.eval_shape(product, params)
    with pytest.raises(AssertionError, match="differentiated"):
        jax.eval_shape(objective.gradient, params)


class Identity(SoftmaxCrossEntropy):
    """Keeps nothing for its Hessian."""

    def hessian_product(self, outputs, targets, vector):
        return vector


@pytest.mark.parametrize("microbatch", [None, 1])
def test_a_linearization_keeps_one_array_of_the_logits(microbatch):
    params, data = _text(masked=False)

    def held(loss):
        objective = Objective.from_model(
            _model, loss, data, microbatch=microbatch, reuse="linearize"
        )
        linearized = jax.eval_shape(
            lambda params: vars(lx.linearise(objective.gauss_newton(params)))["linear"], params
        )
        return sum(x.size * x.dtype.itemsize for x in jax.tree.leaves(linearized))

    assert held(SoftmaxCrossEntropy()) == held(Identity()) + N * TOKENS * CLASSES * 4
    assert held(plain) > held(SoftmaxCrossEntropy()) + N * TOKENS * CLASSES * 4


@pytest.mark.parametrize(
    ("loss", "targets", "message"),
    [
        (SoftmaxCrossEntropy(), jnp.zeros((N, 1), int), "integer labels without its last axis"),
        (SoftmaxCrossEntropy(), jnp.zeros(N), "targets must have that shape"),
        (SoftmaxCrossEntropy(), (jnp.zeros(N, int), jnp.ones((N, CLASSES))), "weights have shape"),
        (SoftmaxCrossEntropy(), (jnp.zeros(N, int),) * 3, "3 arrays"),
        (SquaredError(), jnp.zeros(N), "targets must have that shape"),
    ],
)
def test_shapes_that_do_not_fit(loss, targets, message):
    with pytest.raises(ValueError, match=message):
        loss(jnp.zeros((N, CLASSES)), targets)


def test_cross_entropy_needs_classes():
    with pytest.raises(ValueError, match="logits"):
        SoftmaxCrossEntropy()(jnp.zeros(N), jnp.zeros(N, int))
