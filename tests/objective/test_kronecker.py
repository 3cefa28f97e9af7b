"""Kronecker factors of the Fisher matrix, against the dense block and its nearest product."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.linalg
from jax.sharding import Mesh, NamedSharding, PartitionSpec

import aeoskit as ak
from aeoskit.objective import SoftmaxCrossEntropy, SquaredError, kronecker_fisher
from aeoskit.objective._kronecker import _start, _update_factors

_spec = importlib.util.spec_from_file_location(
    "objective_cases", Path(__file__).parent / "cases.py"
)
cases = sys.modules[_spec.name] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cases)

DAMPING, ITERATIONS = 1e-3, 20


def gradients_of(loss, params, data):
    """The gradient of the sum of each example's loss, leaves (n, *leaf)."""

    def one(example):
        def total(params):
            output = loss(params, jax.tree.map(lambda x: x[None], example))
            return output[0] if isinstance(output, tuple) else output.sum()

        return jax.grad(total)(params)

    return jax.tree.map(np.asarray, jax.jit(jax.vmap(one))(data))


def block_of(gradients, weight):
    return np.einsum("nab,ncd->abcd", gradients, gradients) / weight


def nearest(block, diagonal=()):
    """The nearest Kronecker product to a block (a, b, a, b), by the SVD of its rearrangement."""
    rows, columns = block.shape[:2]
    kept = [
        np.eye(size, dtype=bool) if axis in diagonal else np.ones((size, size), bool)
        for axis, size in enumerate((rows, columns))
    ]
    left, values, right = np.linalg.svd(block.transpose(0, 2, 1, 3)[kept[0]][:, kept[1]])
    # What an iteration multiplies the error by, so that it ends below the tolerances.
    assert (values[1] / values[0]) ** (2 * ITERATIONS) < 1e-12
    L, R = np.zeros((rows, rows)), np.zeros((columns, columns))
    L[kept[0]], R[kept[1]] = values[0] * left[:, 0], right[0]
    return (L, R) if np.trace(R) > 0 else (-L, -R)


def damped(L, R, damping):
    """Martens and Grosse, section 6.3, as they write it."""
    pi = np.sqrt((np.trace(L) / len(L)) / (np.trace(R) / len(R)))
    return np.kron(
        L + pi * np.sqrt(damping) * np.eye(len(L)), R + np.sqrt(damping) / pi * np.eye(len(R))
    )


def dense(gradients, weight, damping) -> Any:
    def block(g):
        if g.ndim == 2:
            return g.T @ g / weight + damping * np.eye(g.shape[1])
        return damped(*nearest(block_of(g, weight)), damping)

    return scipy.linalg.block_diag(*map(block, jax.tree.leaves(gradients)))


def matrix_of(P) -> Any:
    """P from its factors; that products are those of this matrix is for tests of linalg."""
    blocks = []
    for axes in P.factors:
        block = np.ones((1, 1))
        for factor in axes:
            values = np.asarray(factor.values)
            vectors = np.eye(len(values)) if factor.vectors is None else np.asarray(factor.vectors)
            block = np.kron(block, (vectors * values) @ vectors.T)
        blocks.append(block)
    return scipy.linalg.block_diag(*blocks)


def test_nearest_product_against_dense(x64):
    case = cases.make_case("mlp-cross_entropy-weighted")
    objective = ak.Objective(case.loss, case.data, microbatch=4)
    P = kronecker_fisher(objective, case.params, damping=DAMPING, iterations=ITERATIONS)
    weight = np.sum(case.data[2])
    expected = dense(gradients_of(case.loss, case.params, case.data), weight, DAMPING)
    np.testing.assert_allclose(matrix_of(P), expected, rtol=1e-8, atol=1e-10)


def layer_loss(w, batch):
    """Linear in w, its gradients the outer products of the examples' parts."""
    names = "abc"[: len(batch)]
    return jnp.einsum(f"{','.join('n' + x for x in names)},{names}->n", *batch, w)


@pytest.mark.parametrize("shape", [(3, 4), (2, 3, 4)])
def test_independent_parts_give_their_second_moments_in_one_iteration(x64, shape):
    parts = [np.random.default_rng(i).normal(size=(4, size)) for i, size in enumerate(shape)]
    chosen = np.indices((4,) * len(shape)).reshape(len(shape), -1)  # each with each
    data = tuple(jnp.asarray(part[i]) for part, i in zip(parts, chosen, strict=True))
    w = jnp.zeros(shape)
    P = kronecker_fisher(ak.Objective(layer_loss, data), w, damping=DAMPING, iterations=1)
    moments = [part.T @ part / 4 for part in parts]  # K-FAC's A and G
    mean = np.prod([np.trace(m) / len(m) for m in moments]) ** (1 / len(shape))
    expected = np.ones((1, 1))
    for m in moments:
        balanced = m * (mean / (np.trace(m) / len(m)))
        expected = np.kron(expected, balanced + DAMPING ** (1 / len(shape)) * np.eye(len(m)))
    np.testing.assert_allclose(matrix_of(P), expected, rtol=1e-10, atol=1e-13)
    if len(shape) == 2:
        np.testing.assert_allclose(
            damped(moments[0], moments[1], DAMPING), expected, rtol=1e-10, atol=1e-13
        )


def test_long_axes_are_diagonal(x64):
    a, g = jax.random.normal(jax.random.key(0), (2, 30, 4))
    data = (a, g[:, :3] * (1 + a[:, :1] ** 2))  # not independent
    P = kronecker_fisher(
        ak.Objective(layer_loss, data),
        jnp.zeros((4, 3)),
        damping=DAMPING,
        iterations=ITERATIONS,
        max_dimension=3,
    )
    gradients = np.einsum("na,nb->nab", *data)
    expected = damped(*nearest(block_of(gradients, 30), diagonal=(0,)), DAMPING)
    np.testing.assert_allclose(matrix_of(P), expected, rtol=1e-8, atol=1e-10)


def test_frozen_in_an_optimizer_against_dense(x64):
    case = cases.make_case("mlp-squared-per_example")
    objective = ak.Objective(case.loss, case.data)
    P = kronecker_fisher(objective, case.params, damping=0.1)
    optimizer = ak.Optimizer(0.05, ak.EMA(0.9), ak.optimizers.Frozen(P))
    state = optimizer.init(case.params)
    edge = ak.preconditioned_sharpness(
        objective, case.params, optimizer, state, k=5, solver=ak.Dense()
    )
    hessian = cases.dense_hessian(case.whole, case.params, case.data)
    expected = scipy.linalg.eigh(hessian, matrix_of(P), eigvals_only=True)[::-1]
    np.testing.assert_allclose(edge.values, expected[:5], rtol=1e-9)
    np.testing.assert_allclose(edge.threshold, 38 / 0.05)


def affine(params, x):
    return x @ params["w"] + params["b"].reshape((1,) * (x.ndim - 1) + (3,))


WEIGHTS = np.array([0.5, 2.0, 0.0, 1.0])
TARGETS = {
    "labels": lambda labels: labels,
    "weighted labels": lambda labels: (labels, jnp.tile(jnp.asarray(WEIGHTS), 16)),
    "probabilities": lambda labels: jax.nn.one_hot(labels, 3, dtype=float) * 0.7,
}


def gauss_newton_case(name):
    inputs = jax.random.normal(jax.random.key(0), (64, 2))
    labels = jax.random.randint(jax.random.key(1), (64,), 0, 3)
    output_loss = SoftmaxCrossEntropy()
    if name == "squared error":
        output_loss, targets = SquaredError(), (jnp.ones((64, 3)), jnp.tile(WEIGHTS, 16))
    elif name == "weighted tokens":
        inputs, targets = inputs.reshape(32, 2, 2), (labels.reshape(32, 2), jnp.tile(WEIGHTS, 8))
    else:
        targets = TARGETS[name](labels)
    params = {"b": jnp.array([0.0, 0.5, -0.5]), "w": jnp.ones((2, 3)) / 2}
    return ak.Objective.from_model(affine, output_loss, (inputs, targets)), params


def dense_gauss_newton(objective, params) -> Any:
    """The bias's block, which is one factor, and the nearest product to the weights' block."""
    matrix = np.asarray(objective.gauss_newton(params).as_matrix())
    bias = matrix[:3, :3] + DAMPING * np.eye(3)
    weights = damped(*nearest(matrix[3:, 3:].reshape(2, 3, 2, 3)), DAMPING)
    return scipy.linalg.block_diag(bias, weights)


@pytest.mark.parametrize("name", [*TARGETS, "squared error", "weighted tokens"])
def test_gauss_newton_against_dense(x64, name):
    objective, params = gauss_newton_case(name)
    P = kronecker_fisher(
        objective,
        params,
        damping=DAMPING,
        kind="gauss_newton",
        iterations=ITERATIONS,
        microbatch=24,
    )
    expected = dense_gauss_newton(objective, params)
    np.testing.assert_allclose(matrix_of(P), expected, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("name", ["weighted labels", "squared error", "weighted tokens"])
def test_draws_give_gauss_newton_on_average(x64, name):
    objective, params = gauss_newton_case(name)
    P = kronecker_fisher(
        objective,
        params,
        damping=DAMPING,
        kind="gauss_newton",
        key=jax.random.key(2),
        samples=2000,
    )
    found, expected = matrix_of(P), dense_gauss_newton(objective, params)
    for part in (slice(0, 3), slice(3, None)):  # of 128,000 draws
        scale = np.abs(expected[part, part]).max()
        np.testing.assert_allclose(found[part, part], expected[part, part], atol=0.04 * scale)


def test_microbatches_and_devices_change_nothing(x64, cpu_devices):
    data = (jax.random.normal(jax.random.key(0), (12, 3)), jnp.arange(12) % 2)
    params = cases.make_params(cases.linear)

    def matrix(data, microbatch):
        objective = ak.Objective.from_model(
            cases.linear, SoftmaxCrossEntropy(), data, microbatch=microbatch
        )
        options = {"kind": "gauss_newton", "key": jax.random.key(1), "samples": 2}
        return matrix_of(kronecker_fisher(objective, params, damping=DAMPING, **options))

    sharding = NamedSharding(Mesh(np.array(cpu_devices), ("data",)), PartitionSpec("data"))
    sharded = jax.device_put(data, sharding)
    np.testing.assert_allclose(matrix(sharded, 5), matrix(data, None), atol=1e-12)


def test_memory_does_not_grow_with_the_data():
    params = jnp.zeros((8, 6))
    directions = [tuple(_start(n, True, params.dtype) for n in params.shape)]

    def temporary(n: int) -> int:
        objective = ak.Objective(layer_loss, (jnp.ones((n, 8)), jnp.ones((n, 6))))
        lowered = _update_factors.lower(
            objective, params, directions, (0,), "empirical", None, 1, 16
        )
        return lowered.compile().compiled.memory_analysis().temp_size_in_bytes

    assert temporary(16 * 64 + 3) <= 1.1 * temporary(16 * 4 + 3)


def test_leaves_without_gradients_are_damping_alone():
    objective = ak.Objective(lambda w, x: x * w["s"], jnp.array([1.0, 3.0]))
    params = {"s": jnp.array(2.0), "dead": jnp.ones((2, 3))}
    P = kronecker_fisher(objective, params, damping=0.25)
    image = P.mv(params)
    np.testing.assert_allclose(image["dead"], 0.25 * params["dead"], rtol=1e-6)
    np.testing.assert_allclose(image["s"], (5 + 0.25) * 2, rtol=1e-6)


def test_half_precision_and_sweeps():
    data = tuple(jax.random.normal(jax.random.key(0), (2, 40, 3)))
    objective = ak.Objective(layer_loss, data)

    def image(w, damping):
        return kronecker_fisher(objective, w, damping=damping).mv(jnp.ones((3, 3), w.dtype))

    ones = jnp.ones((3, 3))
    dampings = jnp.array([0.1, 1.0])
    swept = jax.jit(jax.vmap(image, in_axes=(None, 0)))(ones, dampings)
    np.testing.assert_allclose(swept[1], image(ones, 1.0), rtol=1e-5)
    low = image(ones.astype(jnp.bfloat16), 1.0)
    assert low.dtype == jnp.bfloat16
    np.testing.assert_allclose(low.astype(jnp.float32), swept[1], rtol=0.03, atol=0.03)


X = jnp.ones((4, 2))
PER_EXAMPLE = ak.Objective(lambda w, x: (x @ w) ** 2, X)
MEAN = ak.Objective(lambda w, x: jnp.mean((x @ w) ** 2), X)
MODEL = ak.Objective.from_model(lambda w, x: x @ w, cases.squared, (X, X))
KNOWN = ak.Objective.from_model(lambda w, x: x @ w, SquaredError(), (X, jnp.ones(4)))
MANY = ak.Objective.from_model(lambda w, x: x * w[None], SquaredError(), (X, X), residual_budget=15)
W = jnp.ones(2)
REFUSED = {
    "mean": (MEAN, W, {}, "only the mean over a batch"),
    "empty": (PER_EXAMPLE, {"a": jnp.zeros((0, 2))}, {}, r"params\['a'\] has shape \(0, 2\)"),
    "complex": (PER_EXAMPLE, {"a": jnp.ones(2, complex)}, {}, r"params\['a'\] is an array of comp"),
    "negative damping": (PER_EXAMPLE, W, {"damping": -1.0}, "damping is -1.0"),
    "no number": (PER_EXAMPLE, W, {"damping": "a"}, "damping must be a real number, got 'a'"),
    "singular": (PER_EXAMPLE, W, {"damping": 0.0}, "factor of axis 0 of params is singular"),
    "not finite": (PER_EXAMPLE, jnp.array([jnp.nan, 0]), {}, "gradients of params are not finite"),
    "iterations": (PER_EXAMPLE, W, {"iterations": 0}, "iterations is 0"),
    "kind": (PER_EXAMPLE, W, {"kind": "true"}, "kind is 'true'"),
    "key": (PER_EXAMPLE, W, {"key": jax.random.key(0)}, "draws nothing"),
    "no model": (PER_EXAMPLE, W, {"kind": "gauss_newton"}, "Objective.from_model"),
    "unknown loss": (MODEL, W, {"kind": "gauss_newton"}, "not squared"),
    "no key": (KNOWN, W, {"kind": "gauss_newton", "samples": 2}, "pass key="),
    "many outputs": (MANY, W, {"kind": "gauss_newton"}, "an example has 2 outputs, .* pass key="),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_refused_in_one_line(name):
    objective, params, options, message = REFUSED[name]
    with pytest.raises((ValueError, TypeError), match=message) as error:
        kronecker_fisher(objective, params, **{"damping": 0.1, **options})
    assert "\n" not in str(error.value)


def test_undamped_factors_under_jit_are_refused():
    with pytest.raises(ValueError, match="pass a positive damping under jit"):
        jax.jit(lambda w: kronecker_fisher(PER_EXAMPLE, w, damping=0.0).mv(w))(W)
