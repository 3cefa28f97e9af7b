"""The networks of images against ones written in numpy, their curvature against differences."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aeoskit.objective import Objective
from aeoskit.sharding import Placement, make_mesh
from aeoskit_experiments import UserError
from aeoskit_experiments.data import Dataset, digits, tokens
from aeoskit_experiments.execution import build
from aeoskit_experiments.losses import MeanLoss, cross_entropy, mse
from aeoskit_experiments.models import (
    cnn,
    resnet,
    shifted_convolution,
    vgg,
    vit,
    wide_resnet,
)
from aeoskit_experiments.models._convolution import check_convolution, lax_convolution
from aeoskit_experiments.pipelines import data, loss, model, optimizer, pipe, place, train
from aeoskit_experiments.planning._abstract import abstract_run
from aeoskit_experiments.planning._compile_plan import _situation

KEY = jax.random.key(0)
MAKERS = {"vgg": vgg, "resnet": resnet, "wide_resnet": wide_resnet, "vit": vit}
# A compiler that works less is done five times as soon; these programs run for milliseconds.
HASTY = {"xla_backend_optimization_level": 0}


def quick(function):
    return jax.jit(function, compiler_options=HASTY)


def images(height, width, channels, n=3):
    """The shapes of a data set."""
    return jax.eval_shape(
        lambda: Dataset(
            inputs=jnp.zeros((n, height * width * channels)),
            labels=jnp.zeros(n, jnp.int32),
            targets=jnp.zeros((n, 10)),
            num_classes=10,
            image_shape=(height, width, channels),
        )
    )


def count(model, dataset):
    shapes = jax.eval_shape(model.init, KEY, dataset)
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


@pytest.mark.parametrize(("side", "channels"), [(8, 1), (28, 1), (32, 3)])
@pytest.mark.parametrize("name", MAKERS)
def test_shapes(name, side, channels):
    dataset, network = images(side, side, channels), MAKERS[name]()
    params = jax.eval_shape(network.init, KEY, dataset)
    outputs = jax.eval_shape(network.apply, params, dataset.inputs)
    assert (outputs.shape, outputs.dtype) == ((3, 10), jnp.float32)
    if name == "vgg":
        assert len(params["blocks"]) == {8: 3, 28: 4, 32: 5}[side]


COLOR = images(32, 32, 3)


@pytest.mark.parametrize(
    ("network", "parameters"),
    [
        # Published: "0.27M" (He and others, table 6), "36.5M" (Zagoruyko, Komodakis, table 4).
        (resnet(norm="batch"), 269_722),
        (resnet(blocks=9, norm="batch"), 853_018),  # "0.85M"
        (wide_resnet(depth=28, widen=10, norm="batch"), 36_479_194),
        (wide_resnet(depth=40, widen=4), 8_949_210),  # "8.9M"
        (vgg(channels=64), 9_225_610),
        # Patches, positions, layers of 12 w² + 13 w, norm, head.
        (
            vit(patch=4, depth=3, width=24, heads=4),
            48 * 24 + 24 + 64 * 24 + 3 * (12 * 24**2 + 13 * 24) + 48 + 250,
        ),
    ],
)
def test_as_many_parameters_as_published(network, parameters):
    assert count(network, COLOR) == parameters


# By hand, in numpy.


def gelu(x):
    return 0.5 * x * (1 + np.tanh(np.sqrt(2 / np.pi) * (x + 0.044715 * x**3)))


def convolved(x, kernel, stride=1):
    size = len(kernel)
    padded = np.pad(x, ((0, 0), (size // 2,) * 2, (size // 2,) * 2, (0, 0)))
    rows, columns = range(0, x.shape[1], stride), range(0, x.shape[2], stride)
    windows = [[padded[:, i : i + size, j : j + size] for j in columns] for i in rows]
    return np.einsum("rcnijk,ijko->nrco", windows, kernel)


def normed(x, p, axes):
    unit = (x - x.mean(axes, keepdims=True)) / np.sqrt(x.var(axes, keepdims=True) + 1e-5)
    return unit * p["scale"] + p["bias"]


def pooled(x):
    return (x[:, ::2, ::2] + x[:, 1::2, ::2] + x[:, ::2, 1::2] + x[:, 1::2, 1::2]) / 4


def dense(x, p):
    return x @ p["weight"] + p["bias"]


def vgg_by_hand(p, x):
    for block in p["blocks"]:
        for layer in block:
            x = np.tanh(convolved(x, layer["weight"]) + layer["bias"])
        x = pooled(x)
    return dense(x[:, 0, 0], p["head"])


def resnet_by_hand(p, x):
    image = (1, 2, 3)
    x = gelu(normed(convolved(x, p["stem"]["weight"]), p["stem"], image))
    for stride, (block,) in zip((1, 2, 2), p["stages"], strict=True):
        first, second = block["first"], block["second"]
        h = gelu(normed(convolved(x, first["weight"], stride), first, image))
        h = normed(convolved(h, second["weight"]), second, image)
        x = x[:, ::stride, ::stride]
        x = gelu(h + np.concatenate([x, np.zeros((*x.shape[:3], h.shape[3] - x.shape[3]))], 3))
    return dense(x.mean((1, 2)), p["head"])


def wide_resnet_by_hand(p, x):
    batch = (0, 1, 2)
    x = convolved(x, p["stem"]["weight"])
    for stride, (block,) in zip((1, 2, 2), p["stages"], strict=True):
        start = gelu(normed(x, block["norm"], batch))
        h = convolved(start, block["first"]["weight"], stride)
        h = convolved(gelu(normed(h, block["first"], batch)), block["second"]["weight"])
        x = h + convolved(start, block["shortcut"]["weight"], stride)
    return dense(gelu(normed(x, p["norm"], batch)).mean((1, 2)), p["head"])


def vit_by_hand(p, x):
    patches = [[x[:, i : i + 4, j : j + 4].reshape(len(x), -1) for j in (0, 4)] for i in (0, 4)]
    x = dense(np.stack([*patches[0], *patches[1]], 1), p["patches"]) + p["positions"]
    for layer in p["layers"]:
        attention, network = layer["attention"], layer["network"]
        q, k, v = np.split(dense(normed(x, attention["norm"], -1), attention["qkv"]), 3, -1)
        mixed = np.empty_like(x)
        for head in np.split(np.arange(x.shape[2]), 2):
            weights = np.exp(q[..., head] @ k[..., head].swapaxes(1, 2) / np.sqrt(len(head)))
            mixed[..., head] = weights / weights.sum(-1, keepdims=True) @ v[..., head]
        x = x + dense(mixed, attention["out"])
        h = gelu(dense(normed(x, network["norm"], -1), network["up"]))
        x = x + dense(h, network["down"])
    return dense(normed(x, p["norm"], -1).mean(1), p["head"])


TINY = {
    "vgg": (vgg(channels=1), vgg_by_hand),
    "resnet": (resnet(channels=2, blocks=1, norm="layer"), resnet_by_hand),
    "wide_resnet": (wide_resnet(channels=1, norm="batch"), wide_resnet_by_hand),
    "vit": (vit(width=4, depth=1), vit_by_hand),
}


@pytest.mark.parametrize("name", TINY)
@pytest.mark.part(2)
def test_by_hand_and_hessian_products(name, x64):
    """Products against differences of gradients, at parameters where each of them counts."""
    network, by_hand = TINY[name]
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(network.init, KEY, images(8, 8, 1))

    def draw(path, leaf):
        start = float("scale" in jax.tree_util.keystr(path))
        return jnp.asarray(start + 0.5 * random.normal(size=leaf.shape))

    params = jax.tree_util.tree_map_with_path(draw, shapes)
    vector = jax.tree.map(lambda leaf: jnp.asarray(random.normal(size=leaf.shape)), shapes)
    inputs, targets = (jnp.asarray(random.normal(size=(3, size))) for size in (64, 10))

    def gradient(params):
        def of(params):
            outputs = network.apply(params, inputs)
            return jnp.mean(mse(outputs, targets)), outputs

        return jax.grad(of, has_aux=True)(params)

    @quick
    @jax.vmap
    def along(t):
        point = jax.tree.map(lambda p, v: p + t * v, params, vector)
        return jax.jvp(gradient, (point,), (vector,), has_aux=True)

    gradients, products, outputs = along(jnp.asarray([-1e-5, 0.0, 1e-5]))
    numbers = jax.tree.map(np.asarray, params)
    expected = by_hand(numbers, np.asarray(inputs).reshape(3, 8, 8, 1))
    np.testing.assert_allclose(outputs[1], expected, rtol=1e-8, atol=1e-10)

    def compare(product, gradient):
        difference = (gradient[2] - gradient[0]) / 2e-5
        assert np.max(np.abs(difference)) > 1e-4
        np.testing.assert_allclose(product[1], difference, rtol=1e-4, atol=1e-5)

    jax.tree.map(compare, products, gradients)


def test_convolutions_of_all_kinds_agree():
    """With strides, on odd sides too, and of single pixels."""
    random = np.random.default_rng(0)
    cases = [(5, 3, 2), (6, 3, 2), (5, 1, 2), (6, 1, 1), (4, 5, 1)]
    pairs = [
        (
            jnp.asarray(random.normal(size=(2, side, side, 2)), jnp.float32),
            jnp.asarray(random.normal(size=(size, size, 2, 3)), jnp.float32),
            stride,
        )
        for side, size, stride in cases
    ]

    @quick
    def both():
        return [(shifted_convolution(*pair), lax_convolution(*pair)) for pair in pairs]

    for (ours, theirs), (x, kernel, stride) in zip(both(), pairs, strict=True):
        expected = convolved(np.asarray(x), np.asarray(kernel), stride)
        np.testing.assert_allclose(ours, expected, rtol=1e-4, atol=1e-5)
        np.testing.assert_allclose(theirs, expected, rtol=1e-4, atol=1e-5)


def test_the_start():
    """Weights N(0, 1/fan_in); what writes to a stream that no norm holds is damped."""

    @quick
    def draw(key):
        plain = resnet(channels=16, blocks=2, norm="none").init(key, COLOR)
        return plain, vit(width=32, init="he", scale=2.0).init(key, COLOR)

    plain, transformer = draw(KEY)
    block = plain["stages"][1][1]
    np.testing.assert_allclose(jnp.var(block["first"]["weight"]) * 9 * 32, 1, rtol=0.1)
    np.testing.assert_allclose(jnp.var(block["second"]["weight"]) * 9 * 32, 1 / 6, rtol=0.1)
    assert "scale" not in block["first"]
    network = transformer["layers"][0]["network"]
    np.testing.assert_allclose(jnp.var(network["up"]["weight"]) * 32, 8, rtol=0.1)
    np.testing.assert_allclose(jnp.var(network["down"]["weight"]) * 128, 2, rtol=0.1)


REFUSED = {
    "data are 4x6, but resnet takes square images": lambda: resnet().init(KEY, images(4, 6, 1)),
    "data are 4x6, but vit": lambda: vit().init(KEY, images(4, 6, 1)),
    "data are 4x6, but cnn": lambda: cnn().init(KEY, images(4, 6, 1)),
    "data are tokens, but vgg": lambda: vgg().init(KEY, tokens(examples=2)),
    "blocks is 4: images of 8x8 can be halved 3 times": lambda: vgg(blocks=4).init(
        KEY, images(8, 8, 1)
    ),
    "data are 1x1, but vgg halves images": lambda: vgg().init(KEY, images(1, 1, 1)),
    "blocks is 6: VGG has at most 5": lambda: vgg(blocks=6),
    "blocks is 0": lambda: resnet(blocks=0),
    "depth is 12.*give 10 or 16": lambda: wide_resnet(depth=12),
    "depth is 4.*give 10 or 16": lambda: wide_resnet(depth=4),
    "patch is 3: images of 8x8": lambda: vit(patch=3).init(KEY, images(8, 8, 1)),
    "heads is 3": lambda: vit(heads=3),
    "convolution is 'fft'": lambda: check_convolution("fft"),
}


@pytest.mark.parametrize("message", REFUSED)
def test_refused(message):
    with pytest.raises(UserError, match=message) as caught:
        REFUSED[message]()
    assert "\n" not in str(caught.value)


# Batch norm couples the examples: the data are seen whole, or not at all.

COUPLED = model("vgg", channels=2, blocks=1, norm="batch")


def experiment(*stages, examples=8, **options):
    stages = (
        data("digits", examples=examples),
        COUPLED,
        loss("mse"),
        optimizer("adam", lr=1e-3),
        train(2, **options),
        *stages,
    )
    return pipe(*stages).experiment()


def test_batch_norm_is_seen_whole_on_devices_too():
    alone = build(experiment()).trajectory.objective
    setup = build(experiment(place("data=4")))
    spread, params = setup.trajectory.objective, setup.carry.lane.params
    assert alone.kind(params) == spread.kind(params) == "mean"
    # Of one example: its own statistics are not the batch's.
    network = vgg(channels=2, blocks=1, norm="batch")
    rows = digits(examples=8)
    whole = network.apply(params, rows.inputs)
    assert not np.allclose(network.apply(params, rows.inputs[:2]), whole[:2], atol=1e-2)
    expected = np.mean(0.5 * np.sum((np.asarray(whole) - np.asarray(rows.targets)) ** 2, 1))
    for objective in (alone, spread):
        np.testing.assert_allclose(objective.value(params), expected, rtol=1e-5)
    one, other = (jax.jit(lambda o, p: o.hessian(p).mv(p))(o, params) for o in (alone, spread))
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-5), one, other)


def test_batch_norm_in_parts_is_refused():
    with pytest.raises(UserError, match=r"microbatch is 4, but model vgg has batch norm.*norm gro"):
        experiment(microbatch=4)
    with pytest.raises(ValueError, match="10 examples do not divide over 4 devices"):
        build(experiment(place("data=4"), examples=10))
    # And by whoever has losses of single examples.
    network, rows = vgg(channels=2, blocks=1, norm="batch"), digits(examples=8)
    params = network.init(KEY, rows)
    for options in ({"microbatch": 4}, {"placement": make_mesh("data=4")}):
        objective = Objective.from_model(network.apply, mse, (rows.inputs, rows.targets), **options)
        with pytest.raises(ValueError, match="couples examples"):
            objective.check(params)


def test_no_plan_cuts_batch_norms_data():
    whole = experiment()
    run = abstract_run(whole, Placement(make_mesh("data=4")))
    assert run.trajectory.objective.kind(run.params) == "mean"
    assert _situation(whole, run).microbatch == 1


def test_the_mean_of_a_loss_knows_its_hessian(x64):
    random = np.random.default_rng(0)
    outputs, vector = (jnp.asarray(random.normal(size=(2, 3, 4))) for _ in range(2))
    labels, weights = jnp.asarray([[0, 1, 2], [3, 0, 1]]), jnp.asarray([[1.0, 0, 2], [1, 1, 0]])
    cases = [(cross_entropy, outputs, (labels, weights)), (mse, outputs[0], outputs[1])]
    for inner, at, targets in cases:
        along = vector if at.ndim == 3 else vector[0]
        mean = MeanLoss(inner)
        slope = jax.grad(lambda x, of=mean, targets=targets: of(x, targets))
        expected = jax.jvp(slope, (at,), (along,))[1]
        found = mean.hessian_product(at, targets, along)
        np.testing.assert_allclose(found, expected, rtol=1e-10)
