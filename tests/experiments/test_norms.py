"""The normalizations against numpy, their derivatives against differences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aeoskit_experiments import UserError
from aeoskit_experiments.models import batch_norm, group_norm, layer_norm, resnet, transformer
from aeoskit_experiments.models._norms import Normalization

RANDOM = np.random.default_rng(0)
X = RANDOM.normal(size=(3, 2, 2, 4)) + 1
NORM = {"scale": RANDOM.normal(size=4), "bias": RANDOM.normal(size=4)}
NORMS = {
    "batch": batch_norm,
    "group": lambda x, norm: group_norm(x, norm, groups=2),
    "image": lambda x, norm: group_norm(x, norm, groups=1),
    "layer": layer_norm,
}


def by_hand(name, x, norm):
    unit = np.empty_like(x)
    rows, columns, channels = x.shape[1:]
    if name == "batch":
        parts = [np.s_[..., c] for c in range(channels)]
    elif name == "layer":
        parts = list(np.ndindex(len(x), rows, columns))
    else:
        size = channels if name == "image" else channels // 2
        starts = range(0, channels, size)
        parts = [np.s_[n, :, :, c : c + size] for n in range(len(x)) for c in starts]
    for part in parts:
        unit[part] = (x[part] - x[part].mean()) / np.sqrt(x[part].var() + 1e-5)
    return unit * norm["scale"] + norm["bias"]


@pytest.fixture(scope="module")
def along_a_line():
    """Of a nonlinear sum of each norm's outputs: its first three derivatives, at three places."""
    direction = RANDOM.normal(size=X.shape)

    def values(t):
        x, norm = X + t * direction, {k: jnp.asarray(v) for k, v in NORM.items()}
        outputs = {name: function(x, norm) for name, function in NORMS.items()}
        return {name: jnp.sum(jnp.sin(y)) for name, y in outputs.items()}, outputs

    def differentiated(function):
        return lambda t: jax.jvp(function, (t,), (1.0,))[1]

    one = differentiated(lambda t: values(t)[0])
    two = differentiated(one)
    three = differentiated(two)
    with jax.enable_x64(True):
        at = jax.jit(jax.vmap(lambda t: (*values(t), one(t), two(t), three(t))))
        return jax.tree.map(np.asarray, at(jnp.asarray([-1e-4, 0.0, 1e-4])))


@pytest.mark.parametrize("name", NORMS)
def test_by_hand(along_a_line, name):
    np.testing.assert_allclose(along_a_line[1][name][1], by_hand(name, X, NORM), rtol=1e-10)


@pytest.mark.parametrize("name", NORMS)
def test_three_derivatives(along_a_line, name):
    sums, _, *derivatives = along_a_line
    for below, above in zip((sums, *derivatives[:-1]), derivatives, strict=True):
        slope = (below[name][2] - below[name][0]) / 2e-4
        assert abs(slope) > 1e-2
        np.testing.assert_allclose(above[name][1], slope, rtol=1e-5)


def test_what_outputs_depend_on():
    """Of the last example only the batch's norm tells the others; scales are taken out by each."""
    x = jnp.asarray(X, jnp.float32)
    other = x.at[-1].multiply(3)
    norm = {k: jnp.asarray(v, jnp.float32) for k, v in NORM.items()}
    for name, function in NORMS.items():
        before, after = function(x, norm), function(other, norm)
        assert jnp.allclose(before[:-1], after[:-1], atol=1e-6) == (name != "batch")
        np.testing.assert_allclose(function(5 * x, norm), before, rtol=1e-3, atol=1e-3)


def test_sixteen_bits_keep_their_statistics():
    """Numbers around a large mean, whose squares sixteen bits could not tell apart."""
    x = jnp.asarray(100 + X, jnp.bfloat16)
    norm = {k: jnp.asarray(v, jnp.float32) for k, v in NORM.items()}
    for name, function in NORMS.items():
        found = function(x, norm)
        assert found.dtype == jnp.bfloat16
        expected = by_hand(name, np.asarray(x, np.float64), NORM)
        np.testing.assert_allclose(np.asarray(found, np.float64), expected, atol=0.03)


def test_refused():
    with pytest.raises(UserError, match=r"groups is 3: channels is 16, so give a divisor"):
        resnet(groups=3)
    with pytest.raises(UserError, match="groups is 0"):
        resnet(groups=0)
    with pytest.raises(UserError, match="norm is 'weight': it is one of batch, group, layer, none"):
        Normalization("weight", 1).check(channels=1)
    assert resnet(norm="batch").couples
    assert not resnet(norm="group").couples
    assert not transformer().couples
