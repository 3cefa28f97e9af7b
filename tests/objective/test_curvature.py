"""Every operator against the dense matrix in double precision."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from aeoskit.objective import HessianOperator, LinearizedOperator, Objective

_spec = importlib.util.spec_from_file_location(
    "objective_cases", Path(__file__).parent / "cases.py"
)
cases = sys.modules[_spec.name] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cases)

MICROBATCHES = [None, 1, 4]  # of 11: whole, all alike, an uneven end


@pytest.mark.parametrize("microbatch", MICROBATCHES)
@pytest.mark.parametrize("name", cases.NAMES)
@pytest.mark.part(7)
def test_value_and_gradient(x64, name, microbatch):
    case = cases.make_case(name)
    objective = Objective(case.loss, case.data, microbatch=microbatch)
    value, grads = objective.value_and_gradient(case.params)
    expected, expected_grads = jax.value_and_grad(case.whole)(case.params, case.data)
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(objective.value(case.params), expected, rtol=1e-12)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13), grads, expected_grads
    )


@pytest.mark.parametrize(
    ("microbatch", "reuse"), [(None, "recompute"), (4, "recompute"), (4, "linearize")]
)
@pytest.mark.parametrize("name", cases.NAMES)
@pytest.mark.part(7)
def test_hessian(x64, name, microbatch, reuse):
    case = cases.make_case(name)
    objective = Objective(case.loss, case.data, microbatch=microbatch, reuse=reuse)
    operator = lx.linearise(objective.hessian(case.params))
    expected = cases.dense_hessian(case.whole, case.params, case.data)
    np.testing.assert_allclose(operator.as_matrix(), expected, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    "options",
    [
        {"microbatch": 4},
        {"microbatch": 4, "reuse": "recompute"},
        {"product": "reverse"},
        {"product": "difference"},
    ],
)
def test_one_pass_for_loss_gradient_and_hessian(x64, options):
    case = cases.make_case(cases.NAMES[0])
    point = Objective(case.loss, case.data, **options).linearize(case.params)
    expected = jax.value_and_grad(case.whole)(case.params, case.data)
    jax.tree.map(
        lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-10, atol=1e-13),
        (point.value, point.grads),
        expected,
    )
    matrix = lx.linearise(point.hessian).as_matrix()
    rtol = 1e-6 if options.get("product") == "difference" else 1e-10
    dense = cases.dense_hessian(case.whole, case.params, case.data)
    np.testing.assert_allclose(matrix, dense, rtol=rtol, atol=rtol)


@pytest.mark.parametrize("reuse", ["linearize", "recompute"])
def test_one_pass_where_the_loss_is_not_finite(reuse):
    rows = jnp.array([1.0, jnp.nan])
    objective = Objective(lambda w, x: w**2 + jax.lax.stop_gradient(x), rows, reuse=reuse)
    point = objective.linearize(jnp.array(2.0))
    assert float(point.grads) == 4.0
    assert np.isnan(point.value)
    assert np.isnan(point.hessian.mv(jnp.array(1.0)))


@pytest.mark.parametrize(
    ("microbatch", "reuse"), [(None, "linearize"), (4, "recompute"), (4, "linearize")]
)
@pytest.mark.parametrize("output_loss", list(cases.OUTPUT_LOSSES))
@pytest.mark.part(3)
def test_gauss_newton(x64, output_loss, microbatch, reuse):
    output_loss = cases.OUTPUT_LOSSES[output_loss]
    params = cases.make_params(cases.mlp)
    inputs, targets, _ = cases.make_data()
    objective = Objective.from_model(
        cases.mlp, output_loss, (inputs, targets), microbatch=microbatch, reuse=reuse
    )
    operator = lx.linearise(objective.gauss_newton(params))
    expected = cases.dense_gauss_newton(cases.mlp, output_loss, params, inputs, targets)
    np.testing.assert_allclose(operator.as_matrix(), expected, rtol=1e-10, atol=1e-12)
    assert lx.is_symmetric(operator)
    assert lx.is_positive_semidefinite(operator)


def test_gauss_newton_needs_the_model():
    case = cases.make_case("linear-squared-per_example")
    with pytest.raises(TypeError, match="from_model"):
        Objective(case.loss, case.data).gauss_newton(case.params)


def test_lineax_protocol():
    case = cases.make_case("linear-squared-per_example")
    operator = Objective(case.loss, case.data).hessian(case.params)
    assert lx.is_symmetric(operator)
    assert not lx.is_positive_semidefinite(operator)
    assert not lx.is_diagonal(operator)
    assert operator.T is operator
    assert operator.in_structure() == operator.out_structure()
    matrix = operator.as_matrix()
    np.testing.assert_allclose(lx.diagonal(operator), np.diagonal(matrix), rtol=1e-6)
    np.testing.assert_allclose(lx.materialise(operator).as_matrix(), matrix, rtol=1e-5, atol=1e-6)
    # A convex loss plus a multiple of the identity: conjugate gradients solve it.
    damped = lx.TaggedLinearOperator(
        operator + lx.IdentityLinearOperator(operator.in_structure()), lx.positive_semidefinite_tag
    )
    solved = lx.linear_solve(damped, case.params, lx.CG(rtol=1e-5, atol=1e-5)).value
    back = damped.mv(solved)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-3), back, case.params)


def test_auto_decides_by_bytes():
    case = cases.make_case("mlp-squared-per_example")
    small = Objective(case.loss, case.data, residual_budget=0).hessian(case.params)
    recomputed = lx.linearise(small)
    assert isinstance(recomputed, HessianOperator)
    assert lx.linearise(recomputed) is recomputed
    large = lx.linearise(Objective(case.loss, case.data).hessian(case.params))
    assert isinstance(large, LinearizedOperator)
    assert lx.linearise(large) is large


def test_a_linearization_crosses_jit_without_retracing():
    case = cases.make_case("mlp-squared-weighted")
    objective = Objective(case.loss, case.data, microbatch=4)
    traces = []

    @jax.jit
    def step(operator, vector):
        traces.append(1)
        return operator.mv(vector)

    for scale in (1.0, 0.5, 2.0):
        params = jax.tree.map(lambda x, s=scale: s * x, case.params)
        operator = objective.hessian(params)
        ours = step(lx.linearise(operator), params)
        recomputed = operator.mv(params)
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), ours, recomputed
        )
    assert len(traces) == 1


def test_an_operator_crosses_jit_without_retracing():
    case = cases.make_case("mlp-squared-mean")
    losses, traces = [], []

    def loss(params, batch):
        losses.append(1)
        return case.loss(params, batch)

    @jax.jit
    def step(operator, vector):
        traces.append(1)
        return operator.mv(vector)

    counts = []
    for scale in (1.0, 0.5, 2.0):
        params = jax.tree.map(lambda x, s=scale: s * x, case.params)
        operator = Objective(loss, case.data, microbatch=4).hessian(params)
        step(operator, params)
        operator.mv(params)
        counts.append(len(losses))
    assert len(traces) == 1
    assert counts[0] == counts[1] == counts[2]


def test_differentiable_in_the_params(x64):
    objective = Objective(lambda w, x: x * jnp.sum(w**4), jnp.ones(5), microbatch=2)
    w, v = jnp.array([1.0, 2.0]), jnp.array([1.0, 1.0])
    slope = jax.grad(lambda w: jnp.vdot(v, objective.hessian(w).mv(v)))(w)
    np.testing.assert_allclose(slope, 24 * w)


@pytest.mark.parametrize("kind", ["hessian", "gauss_newton"])
def test_memory_of_a_product_does_not_grow_with_the_data(kind):
    params = cases.make_params(cases.mlp)

    def temporary(n: int) -> int:
        data = (jnp.ones((n, cases.FEATURES)), jnp.ones((n, cases.CLASSES)))
        objective = Objective.from_model(cases.mlp, cases.squared, data, microbatch=64)
        operator = getattr(objective, kind)(params)
        compiled = jax.jit(lambda a, v: a.mv(v)).lower(operator, params).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    assert temporary(64 * 64 + 10) <= 1.1 * temporary(4 * 64 + 10)
