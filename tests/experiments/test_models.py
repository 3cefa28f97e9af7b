from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aeoskit.linalg import loop_mode
from aeoskit_experiments import UserError
from aeoskit_experiments.data import digits
from aeoskit_experiments.models import cnn, mlp, transformer

DATA = digits(examples=20)
KEY = jax.random.key(0)


def test_mlp_initialization():
    params = mlp(width=200, depth=3).init(KEY, DATA)
    assert [layer["weight"].shape for layer in params] == [
        (64, 200), (200, 200), (200, 200), (200, 10)]  # fmt: skip
    for layer in params:
        fan_in = layer["weight"].shape[0]
        np.testing.assert_allclose(jnp.var(layer["weight"]) * fan_in, 1, rtol=0.1)
        np.testing.assert_array_equal(layer["bias"], 0)
    wide = mlp(width=200, init="he", scale=0.5).init(KEY, DATA)[1]["weight"]
    np.testing.assert_allclose(jnp.var(wide) * 200, 0.5, rtol=0.1)


def test_mlp_by_hand():
    model = mlp(width=5, depth=1)
    one, two = params = model.init(KEY, DATA)
    hidden = np.tanh(np.asarray(DATA.inputs) @ one["weight"])
    np.testing.assert_allclose(
        model.apply(params, DATA.inputs), hidden @ two["weight"], rtol=1e-4, atol=1e-5
    )


def test_both_convolutions_agree(x64):
    data = jax.tree.map(lambda x: x.astype(jnp.float64), DATA.inputs)
    params = cnn(channels=3).init(KEY, DATA)
    params = jax.tree.map(lambda x: x.astype(jnp.float64), params)

    def total(params, model):
        return jnp.sum(jnp.sin(model.apply(params, data)))

    ours = jax.value_and_grad(total)(params, cnn(channels=3))
    theirs = jax.value_and_grad(total)(params, cnn(channels=3, convolution="lax"))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-8, atol=1e-10), ours, theirs)


@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the rule is for the CPU backend")
@pytest.mark.parametrize(("convolution", "mode"), [("shifted", "scan"), ("lax", "host")])
def test_the_shipped_convolution_is_safe_in_loops(convolution, mode):
    model = cnn(channels=2, convolution=convolution)
    assert loop_mode(model.apply, model.init(KEY, DATA), DATA.inputs) == mode


@pytest.mark.parametrize("make", [mlp, cnn, transformer])
def test_equal_settings_are_one_function(make):
    one, two, other = make(), make(), make(activation="relu")
    assert one.apply == two.apply
    assert hash(one.apply) == hash(two.apply)
    assert one.apply != other.apply


@pytest.mark.parametrize("activation", ["tanh", "relu", "gelu", "softplus", "elu"])
@pytest.mark.parametrize("make", [mlp, cnn])
def test_shapes(make, activation):
    model = make(activation=activation)
    params = jax.eval_shape(lambda: model.init(KEY, DATA))
    outputs = jax.eval_shape(model.apply, params, DATA.inputs)
    assert outputs.shape == (20, 10)
    assert outputs.dtype == jnp.float32


REFUSED = {
    "width": lambda: mlp(width=0),
    "depth": lambda: mlp(depth=0),
    "scale": lambda: mlp(scale=0.0),
    "channels": lambda: cnn(channels=0),
    "halved": lambda: cnn(depth=4).init(KEY, DATA),
}


@pytest.mark.parametrize("message", list(REFUSED))
def test_refused(message):
    with pytest.raises(UserError, match=message) as caught:
        REFUSED[message]()
    assert "\n" not in str(caught.value)
