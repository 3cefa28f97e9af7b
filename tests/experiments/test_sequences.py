"""The LSTM and the encoder-decoder against numpy, and derivatives of all their parts."""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from aeoskit.objective import Objective
from aeoskit.record import read_run
from aeoskit_cli import main
from aeoskit_experiments import UserError
from aeoskit_experiments.data import PairDataset, digits, tokens
from aeoskit_experiments.losses import cross_entropy
from aeoskit_experiments.models import cnn, encoder_decoder, lstm, transformer
from aeoskit_experiments.models._attention import (
    Initializer,
    causal,
    cross_attention,
    self_attention,
)
from aeoskit_experiments.models._encoder_decoder import _not_padding
from aeoskit_experiments.models._lstm import run_layer

KEY = jax.random.key(0)
TOKENS = tokens(examples=3, length=4, vocabulary=5)
IMAGES = digits(examples=3)


def reversal(examples=3, length=4, vocabulary=6):
    """Sources of one to `length` tokens, padded; their targets are reversed, then an end."""
    random = np.random.default_rng(0)
    begin, end = 1, 2
    source = np.zeros((examples, length), int)
    known, answer = np.zeros((2, examples, length + 1), int)
    for i in range(examples):
        row = random.integers(3, vocabulary, size=1 + i % length)
        source[i, : len(row)] = row
        answer[i, : len(row) + 1] = [*row[::-1], end]
        known[i, : len(row) + 1] = [begin, *row[::-1]]
    weights = jnp.asarray(answer != 0, jnp.float32)
    source, known, answer = (jnp.asarray(x, jnp.int32) for x in (source, known, answer))
    return PairDataset((source, known), (answer, weights), vocabulary)


PAIRS = reversal()
TINY = encoder_decoder(width=4, heads=2, layers=2)


def anywhere(shapes, seed=0):
    """Biases and norms are not where they begin, so that each of them counts."""
    random = np.random.default_rng(seed)

    def draw(path, x):
        start = float("scale" in jax.tree_util.keystr(path))
        return jnp.asarray(start + 0.4 * random.normal(size=x.shape), x.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes)


def params_of(model, data):
    return anywhere(jax.eval_shape(model.init, KEY, data))


def double(tree):
    return jax.tree.map(lambda x: np.asarray(x, np.float64), tree)


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def lstm_by_hand(rows, params):
    """The states of the last layer, one time of one example after the other."""
    for layer in params["layers"]:
        width = layer["state"].shape[0]
        state, cell, states = np.zeros(width), np.zeros(width), []
        for x in rows:
            gates = x @ layer["input"] + state @ layer["state"] + layer["bias"]
            let_in, keep, new, let_out = gates.reshape(4, width)
            cell = sigmoid(keep) * cell + sigmoid(let_in) * np.tanh(new)
            state = sigmoid(let_out) * np.tanh(cell)
            states.append(state)
        rows = states
    return np.stack(rows)


@pytest.mark.parametrize("data", [TOKENS, IMAGES], ids=["tokens", "images"])
def test_lstm_by_hand(data):
    model = lstm(width=3, layers=2)
    params = params_of(model, data)
    exact, expected = double(params), []
    for row in np.asarray(data.inputs):
        read = exact["tokens"][row] if data is TOKENS else np.float64(row).reshape(8, 8)
        logits = lstm_by_hand(read, exact) @ exact["head"]["weight"] + exact["head"]["bias"]
        expected.append(logits if data is TOKENS else logits[-1])
    found = jax.jit(model.apply)(params, data.inputs)
    assert np.std(found) > 0.05
    np.testing.assert_allclose(found, np.stack(expected), rtol=1e-4, atol=1e-5)


def test_lstm_initialization():
    model = lstm(width=64, layers=2, forget_bias=1.5, init="he", scale=0.5)
    params = model.init(KEY, tokens(examples=2, length=3, vocabulary=64))
    np.testing.assert_allclose(jnp.std(params["tokens"]), 0.5, rtol=0.05)
    first, second = params["layers"]
    for weight in (first["input"], first["state"], second["input"], second["state"]):
        assert weight.shape == (64, 256)
        np.testing.assert_allclose(jnp.var(weight) * 64, 2 * 0.25, rtol=0.05)
    np.testing.assert_array_equal(second["bias"], np.repeat([0, 1.5, 0, 0], 64))
    np.testing.assert_array_equal(params["head"]["bias"], 0)
    # Rows of an image of several channels hold all of them.
    images = jax.eval_shape(lambda: IMAGES)
    shapes = jax.eval_shape(model.init, KEY, images)
    assert shapes["layers"][0]["input"].shape == (8, 256)
    assert "tokens" not in shapes


def encoder_decoder_by_hand(params, source, known, heads):
    """One position of one pair after the other, with the padding of the source cut away."""

    def norm(x, p):
        return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * p["scale"] + p["bias"]

    def dense(x, p):
        return x @ p["weight"] + p["bias"]

    def read(q, keys, values, out):
        mixed = []
        for head in np.split(np.arange(len(q)), heads):
            scores = np.exp([q[head] @ k[head] / np.sqrt(len(head)) for k in keys])
            mixed.append(scores @ np.stack([v[head] for v in values]) / scores.sum())
        return dense(np.concatenate(mixed), out)

    def within(stream, p, past_only):
        q, k, v = zip(
            *(np.split(dense(norm(x, p["norm"]), p["qkv"]), 3) for x in stream), strict=True
        )
        ends = [t + 1 if past_only else len(stream) for t in range(len(stream))]
        return [
            x + read(q[t], k[:end], v[:end], p["out"])
            for t, (x, end) in enumerate(zip(stream, ends, strict=True))
        ]

    def network(stream, p):
        return [
            x + dense(np.maximum(dense(norm(x, p["norm"]), p["up"]), 0), p["down"]) for x in stream
        ]

    def layers(p):
        count = len(jax.tree.leaves(p)[0])
        return [jax.tree.map(lambda x, i=i: x[i], p) for i in range(count)]

    encoder, decoder = params["encoder"], params["decoder"]
    stream = [
        params["tokens"][token] + encoder["positions"][t]
        for t, token in enumerate(source[source != 0])
    ]
    for layer in layers(encoder["layers"]):
        stream = network(within(stream, layer["attention"], False), layer["network"])
    memory = [norm(x, encoder["norm"]) for x in stream]
    stream = [params["tokens"][token] + decoder["positions"][t] for t, token in enumerate(known)]
    for layer in layers(decoder["layers"]):
        stream, cross = within(stream, layer["attention"], True), layer["cross"]
        k, v = zip(*(np.split(dense(x, cross["kv"]), 2) for x in memory), strict=True)
        stream = [
            x + read(dense(norm(x, cross["norm"]), cross["q"]), k, v, cross["out"]) for x in stream
        ]
        stream = network(stream, layer["network"])
    head = params.get("head", params["tokens"].T)
    return np.stack([norm(x, params["norm"]) @ head for x in stream])


def test_encoder_decoder_by_hand():
    model = encoder_decoder(width=4, heads=2, layers=2, tied=False, activation="relu")
    params = params_of(model, PAIRS)
    tied = {name: value for name, value in params.items() if name != "head"}
    source, known = PAIRS.inputs

    @jax.jit
    def apply(params, tied):
        # The second pair has two tokens in its source, and a beginning is predicted as if nothing
        # followed it.
        short = model.apply(tied, (source[1:2, :2], known[1:2, :3]))
        return model.apply(params, PAIRS.inputs), model.apply(tied, PAIRS.inputs), short

    *both, short = apply(params, tied)
    for one, found in zip((params, tied), both, strict=True):
        pairs = zip(*map(np.asarray, PAIRS.inputs), strict=True)
        expected = [encoder_decoder_by_hand(double(one), *pair, heads=2) for pair in pairs]
        assert np.std(found) > 0.3
        np.testing.assert_allclose(found, np.stack(expected), rtol=1e-4, atol=1e-5)
    np.testing.assert_allclose(short, both[1][1:2, :3], rtol=1e-4, atol=1e-5)
    shapes = jax.eval_shape(encoder_decoder(width=4).init, KEY, PAIRS)
    assert "head" not in shapes


def test_encoder_decoder_options():
    options = {"width": 4, "heads": 2, "layers": 2}
    together = encoder_decoder(**options)
    apart = encoder_decoder(stacked=False, remat=True, **options)
    rough = encoder_decoder(precision="bfloat16", **options)
    stacked = params_of(together, PAIRS)
    listed = dict(stacked)
    for side in ("encoder", "decoder"):
        layers = [jax.tree.map(lambda x, i=i: x[i], stacked[side]["layers"]) for i in range(2)]
        listed[side] = {**stacked[side], "layers": layers}
    shapes = jax.eval_shape(apart.init, KEY, PAIRS)
    assert jax.tree.map(jnp.shape, listed) == jax.tree.map(jnp.shape, shapes)

    @jax.jit
    def run(stacked, listed):
        return (
            together.apply(stacked, PAIRS.inputs),
            apart.apply(listed, PAIRS.inputs),
            rough.apply(stacked, PAIRS.inputs),
        )

    exact, again, rounded = run(stacked, listed)
    np.testing.assert_allclose(again, exact, rtol=1e-4, atol=1e-5)
    assert rounded.dtype == jnp.float32
    assert 1e-4 < jnp.linalg.norm(rounded - exact) / jnp.linalg.norm(exact) < 0.1


def test_encoder_decoder_initialization():
    data = jax.eval_shape(lambda: reversal(vocabulary=300))
    params = jax.jit(lambda key: encoder_decoder(width=64, layers=3).init(key, data))(KEY)
    encoder, decoder = params["encoder"]["layers"], params["decoder"]["layers"]
    cross = decoder["cross"]
    for weight, fan_in, terms in (
        (params["tokens"], 64, 1),
        (encoder["attention"]["out"]["weight"], 64, 6),
        (encoder["network"]["down"]["weight"], 256, 6),
        (decoder["attention"]["qkv"]["weight"], 64, 1),
        (decoder["network"]["down"]["weight"], 256, 9),
        (cross["q"]["weight"], 64, 1),
        (cross["kv"]["weight"], 64, 1),
        (cross["out"]["weight"], 64, 9),
    ):
        np.testing.assert_allclose(jnp.std(weight) * (fan_in * terms) ** 0.5, 1, rtol=0.03)
    assert params["encoder"]["positions"].shape == (4, 64)
    assert params["decoder"]["positions"].shape == (5, 64)


def test_sizes_of_the_paper():
    """Vaswani et al. state 65 and 213 million parameters, with some 37,000 tokens."""
    data = jax.eval_shape(lambda: reversal(vocabulary=37_000))
    for size, millions in (("base", 65), ("big", 213)):
        shapes = jax.eval_shape(encoder_decoder(size=size).init, KEY, data)
        count = sum(x.size for x in jax.tree.leaves(shapes))
        np.testing.assert_allclose(count, millions * 1e6, rtol=0.03)


def parts():
    """Functions of arrays that transformers and LSTMs are made of, and such arrays."""
    initial = Initializer(width=4, terms=1, init="lecun", scale=1.0)
    one, two, three = jax.random.split(KEY, 3)
    x, memory = jnp.zeros((3, 3, 4)), jnp.zeros((3, 5, 4))
    # Half a source, a whole one, and one of nothing but padding.
    seen = _not_padding(jnp.array([[4, 3, 0, 0, 0], [4, 3, 5, 3, 3], [0, 0, 0, 0, 0]]))
    cell = {"input": jnp.zeros((4, 8)), "state": jnp.zeros((2, 8)), "bias": jnp.zeros(8)}
    return {
        "causal": (
            lambda x, layer: self_attention(x, layer, 2, causal(3)),
            (x, initial.attention(one, two)),
        ),
        "cross": (
            lambda x, memory, layer: cross_attention(x, memory, layer, 2, seen),
            (x, memory, initial.cross_attention(one, two, three)),
        ),
        "lstm": (run_layer, (x, cell)),
    }


@pytest.mark.parametrize("part", ["causal", "cross", "lstm"])
def test_derivatives(part, x64):
    """The first three of a weighted sum of the outputs, each against differences of the last."""
    function, shapes = parts()[part]
    arrays = jax.tree.map(lambda x: jnp.asarray(x, jnp.float64), anywhere(shapes))
    flat, unravel = ravel_pytree(arrays)
    random = np.random.default_rng(1)
    u, v = random.normal(size=(2, flat.size)) / flat.size**0.5
    weights = random.normal(size=jax.eval_shape(function, *arrays).shape)
    h = 1e-3

    def value(flat):
        return jnp.vdot(weights, function(*unravel(flat)))

    def second(flat):
        return jax.jvp(jax.grad(value), (flat,), (u,))[1]

    def around(direction):
        return jnp.stack([flat + k * h * direction for k in (-2, -1, 1, 2)])

    @jax.jit
    def everything(flat):
        near = jax.lax.map(jax.value_and_grad(value), around(u))
        seconds = jax.lax.map(second, around(v))
        return near, seconds, jax.grad(value)(flat), jax.jvp(second, (flat,), (v,))

    def difference(along):
        return jnp.array([1.0, -8, 8, -1]) @ along / (12 * h)

    (values, gradients), seconds, gradient, (product, third) = everything(flat)
    for found, expected in (
        (gradient @ u, difference(values)),
        (product, difference(gradients)),
        (third, difference(seconds)),
    ):
        assert jnp.linalg.norm(expected) > 1e-3
        error = jnp.linalg.norm(found - expected) / jnp.linalg.norm(expected)
        assert error < 1e-8, error


def test_objective_of_pairs():
    """Two examples at a time, weights and all, against the mean over the targets."""
    params, (answer, weights) = params_of(TINY, PAIRS), PAIRS.targets
    data = (PAIRS.inputs, PAIRS.targets)
    objective = Objective.from_model(TINY.apply, cross_entropy, data, microbatch=2)
    log_p = jax.nn.log_softmax(TINY.apply(params, PAIRS.inputs))
    chosen = [log_p[i, t, answer[i, t]] for i, t in np.argwhere(weights)]
    assert len(chosen) == 2 + 3 + 4
    np.testing.assert_allclose(
        jax.jit(Objective.value)(objective, params), -np.mean(chosen), rtol=1e-5
    )


def test_models_of_equal_settings_are_one_function():
    for make in (lstm, encoder_decoder):
        one, two, other = make(), make(), make(scale=2.0)
        assert (one, hash(one)) == (two, hash(two))
        assert one.init != other.init
    assert encoder_decoder().apply != encoder_decoder(activation="relu").apply


def abstract_pairs(source):
    return jax.eval_shape(lambda: reversal(length=source))


REFUSED = {
    "width is 0": lambda: lstm(width=0),
    "layers is 0": lambda: lstm(layers=0),
    "forget_bias is nan": lambda: lstm(forget_bias=float("nan")),
    "lstm takes tokens or rows of numbers: choose model encoder_decoder, or data markov": lambda: (
        lstm().init(KEY, PAIRS)
    ),
    "heads is 3": lambda: encoder_decoder(heads=3),
    "context is 0": lambda: encoder_decoder(context=0),
    "are tokens, but encoder_decoder takes pairs of sequences: choose model transformer": lambda: (
        TINY.init(KEY, TOKENS)
    ),
    "are pairs of sequences, but transformer takes tokens: choose model encoder_d": lambda: (
        transformer().init(KEY, PAIRS)
    ),
    "are pairs of sequences, but cnn takes rows": lambda: cnn().init(KEY, PAIRS),
    "context is 4: the longer of source and target has 5": lambda: encoder_decoder(context=4).init(
        KEY, PAIRS
    ),
    "the source has 7 tokens: .* at most 4": lambda: jax.eval_shape(
        TINY.apply, jax.eval_shape(TINY.init, KEY, PAIRS), abstract_pairs(7).inputs
    ),
}


@pytest.mark.parametrize("message", list(REFUSED))
def test_refused(message):
    with pytest.raises(UserError, match=message) as caught:
        REFUSED[message]()
    assert "\n" not in str(caught.value)


def test_a_pipeline_trains_and_tracks_an_lstm(runs):
    words = (
        "pipe data digits --examples 6 model lstm --width 3 loss mse optimizer adam --lr 1e-2 "
        "track preconditioned_sharpness --every 10 --solver dense train --steps 20 "
        f"store --no-checkpoints --root {runs}"
    )
    assert main([*words.split(), "--quiet"]) == 0
    (folder,) = runs.iterdir()
    metrics = read_run(folder).metrics.isel(branch=0)
    assert float(metrics["loss"][-1]) < float(metrics["loss"][0])
    measured = metrics["preconditioned_sharpness_converged"].values
    assert measured[~np.isnan(measured)].tolist() == [1, 1]
