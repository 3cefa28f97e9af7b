"""Refusals of optimizers: one line, with the value, the reason and the fix."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aeoskit import optimizers as opt

BAD = {
    "lr zero": (lambda: opt.adam(0.0), "lr must be greater than 0, got 0.0"),
    "lr negative": (lambda: opt.gradient_descent(-0.1), "lr must be greater than 0, got -0.1"),
    "lr nan": (lambda: opt.adam(float("nan")), "lr must be finite, got nan"),
    "lr infinite": (lambda: opt.adam(float("inf")), "lr must be finite, got inf"),
    "lr array": (lambda: opt.adam(jnp.array([0.1, 0.2])), "filter_vmap"),
    "lr underflows": (lambda: opt.adam(1e-60), "lr must be greater than 0, got 1e-60"),
    "beta1 one": (lambda: opt.adam(0.1, 1.0), "beta1 must be less than 1, got 1.0"),
    "beta1 negative": (lambda: opt.momentum(0.1, -0.1), "beta1 must be at least 0, got -0.1"),
    "beta2 one": (lambda: opt.rmsprop(0.1, 1.0), "beta2 must be less than 1, got 1.0"),
    "beta2 rounds to one": (lambda: opt.adam(0.1, 0.9, 1 - 1e-9), r"0.999999999 \(= 1.0\)"),
    "eps negative": (lambda: opt.adam(0.1, eps=-1e-8), "eps must be at least 0, got -1e-08"),
    "eps zero": (lambda: opt.adam(0.1, eps=0.0), "eps and eps_root are both 0"),
    "eps in root zero": (
        lambda: opt.rmsprop(0.1, eps=0.0, eps_in_root=True),
        "eps and eps_root are both 0",
    ),
    "power zero": (lambda: opt.adam(0.1, power=0), "power must be greater than 0"),
    "decay negative": (lambda: opt.adamw(0.1, weight_decay=-1.0), "weight_decay must be at least"),
    "warmup zero": (lambda: opt.LinearWarmup(0.1, 0), "warmup steps must be at least 1, got 0"),
    "form": (lambda: opt.momentum(0.1, form="heavy"), "form must be"),
    "correction": (lambda: opt.adam(0.1, correction="both"), "correction must be one of adam"),
    "order": (lambda: opt.Optimizer(0.1, order="last"), "order must be one of precondition_last"),
    "adam first": (
        lambda: opt.rmsprop(0.1, beta1=0.9, correction="adam"),
        'correction="adam" puts',
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_refuses(name: str):
    make, message = BAD[name]
    with pytest.raises(ValueError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("value", ["0.1", None, True, 1j, [0.1, "a"]])
def test_refuses_what_is_no_number(value: object):
    with pytest.raises(TypeError, match="lr must be a real number"):
        opt.adam(value)


@pytest.mark.parametrize("value", [1, 0.5, np.float64(0.5), np.int32(1), jnp.asarray(1)])
def test_takes_what_is_a_number(value: object):
    lr = opt.adam(value).schedule(jnp.asarray(0))
    assert lr.dtype == jnp.float32
    assert not lr.weak_type


def test_traced_values_are_not_looked_at():
    thresholds = jax.jit(
        lambda lr: opt.adam(lr, eps=lr).threshold(opt.adam(lr).init(jnp.zeros(1)))
    )(-1.0)
    np.testing.assert_allclose(thresholds, -38.0, rtol=1e-6)


def test_frozen_wants_a_preconditioner():
    # Under the type checker of the test run it is that one which complains.
    with pytest.raises(TypeError, match=r"(?i)preconditioner"):
        opt.Frozen({"w": jnp.ones(2)})  # pyright: ignore[reportArgumentType]


def test_decay_needs_parameters():
    optimizer = opt.adamw(0.1)
    with pytest.raises(ValueError, match="update\\(grads, state, params\\)"):
        optimizer.update(jnp.ones(1), optimizer.init(jnp.zeros(1)))


@pytest.mark.parametrize("make", [opt.gradient_descent, opt.momentum, opt.adam])
@pytest.mark.parametrize(
    ("grads", "message"),
    [
        ({"w": jnp.ones(2)}, r"grads has no leaf grads\['b'\]\[0\]"),
        ({"w": jnp.ones(2), "b": [jnp.ones(3)], "c": jnp.ones(1)}, r"grads\['c'\] is a leaf that"),
        ({"w": jnp.ones(2), "b": [jnp.ones(4)]}, r"grads\['b'\]\[0\] has shape \(4,\)"),
        ({"w": jnp.ones(2), "b": (jnp.ones(3),)}, "other containers"),
    ],
)
def test_names_the_leaf_that_does_not_match(make, grads, message: str):
    optimizer = make(0.1)
    state = optimizer.init({"w": jnp.ones(2), "b": [jnp.ones(3)]})
    with pytest.raises(ValueError, match=message):
        optimizer.update(grads, state)
    with pytest.raises(ValueError, match=message):
        optimizer.preconditioner(state, grads)


def test_frozen_metric_of_another_structure():
    frozen, _ = opt.freeze(opt.adam(0.1), opt.adam(0.1).init(jnp.zeros(2)), jnp.ones(2))
    with pytest.raises(ValueError, match=r"params has shape \(3,\)"):
        frozen.init(jnp.zeros(3))


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ({"f": jnp.tanh}, r"params\['f'\] is .*filter"),
        ({"n": jnp.arange(3)}, r"params\['n'\] is an array of int32"),
        ({"z": jnp.ones(2, complex)}, r"params\['z'\] is an array of complex64"),
    ],
)
def test_refuses_parameters_that_it_cannot_move(params, message: str):
    with pytest.raises(TypeError, match=message):
        opt.adam(0.1).init(params)


def test_a_model_is_filtered_first():
    model = eqx.nn.MLP(2, 1, 3, 1, key=jax.random.key(0))
    params = eqx.filter(model, eqx.is_inexact_array)
    optimizer = opt.adam(0.1)
    updates, _ = optimizer.update(params, optimizer.init(params))
    assert jax.tree.structure(updates) == jax.tree.structure(params)
