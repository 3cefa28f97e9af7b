"""The transformer against one written in numpy, its derivatives against differences."""

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
from aeoskit_experiments.data import digits, tokens
from aeoskit_experiments.losses import cross_entropy
from aeoskit_experiments.models import mlp, transformer, transformer_size

KEY = jax.random.key(0)
DATA = tokens(examples=3, length=4, vocabulary=5)
TINY = transformer(width=4, heads=2, layers=2)


# A compiler that works less is done five times as soon; these programs run for milliseconds.
HASTY = {"xla_backend_optimization_level": 0}


def quick(function):
    return jax.jit(function, compiler_options=HASTY)


def shapes_of(model, data=DATA):
    return jax.eval_shape(model.init, KEY, data)


def params_of(model, data=DATA):
    """Anywhere: biases and norms are not where they begin, so that each of them counts."""
    random = np.random.default_rng(0)

    def draw(path, x):
        start = float("scale" in jax.tree_util.keystr(path))
        return jnp.asarray(start + 0.4 * random.normal(size=x.shape), x.dtype)

    return jax.tree_util.tree_map_with_path(draw, shapes_of(model, data))


def by_hand(params, sequence, heads):
    """GPT-2 in numpy, one position of one sequence after the other."""
    params = jax.tree.map(lambda x: np.asarray(x, np.float64), params)

    def norm(x, p):
        return (x - x.mean()) / np.sqrt(x.var() + 1e-5) * p["scale"] + p["bias"]

    def dense(x, p):
        return x @ p["weight"] + p["bias"]

    stream = [params["tokens"][token] + params["positions"][t] for t, token in enumerate(sequence)]
    for i in range(len(params["layers"]["attention"]["norm"]["bias"])):
        layer = jax.tree.map(lambda x, i=i: x[i], params["layers"])
        attention, network = layer["attention"], layer["network"]
        qkv = [np.split(dense(norm(x, attention["norm"]), attention["qkv"]), 3) for x in stream]
        for t in range(len(sequence)):
            mixed = []
            for head in np.split(np.arange(len(stream[0])), heads):
                scores = [qkv[t][0][head] @ qkv[s][1][head] for s in range(t + 1)]
                weights = np.exp(np.array(scores) / np.sqrt(len(head)))
                values = np.stack([qkv[s][2][head] for s in range(t + 1)])
                mixed.append(weights @ values / weights.sum())
            stream[t] = stream[t] + dense(np.concatenate(mixed), attention["out"])
        for t, x in enumerate(stream):
            h = dense(norm(x, network["norm"]), network["up"])
            h = 0.5 * h * (1 + np.tanh(np.sqrt(2 / np.pi) * (h + 0.044715 * h**3)))
            stream[t] = x + dense(h, network["down"])
    head = params.get("head", params["tokens"].T)
    return np.stack([norm(x, params["norm"]) @ head for x in stream])


@pytest.mark.parametrize("tied", [True, False])
def test_by_hand(tied):
    model = transformer(width=4, heads=2, layers=2, tied=tied)
    params, apply = params_of(model), quick(model.apply)
    expected = [by_hand(params, sequence, heads=2) for sequence in np.asarray(DATA.inputs)]
    found = apply(params, DATA.inputs)
    assert np.std(found) > 0.3
    np.testing.assert_allclose(found, np.stack(expected), rtol=1e-4, atol=1e-5)
    # A beginning is predicted as if nothing followed it.
    start = apply(params, DATA.inputs[:, :2])
    np.testing.assert_allclose(start, found[:, :2], rtol=1e-4, atol=1e-5)


def test_layers_may_be_apart():
    options = {"width": 4, "heads": 2, "layers": 2}
    together, apart = transformer(**options), transformer(stacked=False, remat=True, **options)

    @quick
    def both(key):
        stacked, apart_ = together.init(key, DATA), apart.init(key, DATA)
        return (
            (
                stacked,
                {**apart_, "layers": jax.tree.map(lambda *x: jnp.stack(x), *apart_["layers"])},
            ),
            (together.apply(stacked, DATA.inputs), apart.apply(apart_, DATA.inputs)),
        )

    for one, other in both(KEY):
        jax.tree.map(
            lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-4, atol=1e-5), one, other
        )


@pytest.mark.parametrize(
    ("size", "tied", "parameters"),
    [
        ("gpt2-small", True, 124_439_808),
        ("gpt2-small", False, 163_037_184),
        ("1b", True, 1_011_476_480),
    ],
)
def test_sizes_have_their_parameters_with_nothing_made(size, tied, parameters):
    of = transformer_size(size)
    data = jax.eval_shape(lambda: tokens(vocabulary=of.vocabulary, length=of.context))
    params = shapes_of(transformer(size=size, tied=tied), data)
    assert sum(x.size for x in jax.tree.leaves(params)) == parameters
    assert {x.dtype for x in jax.tree.leaves(params)} == {jnp.dtype(jnp.float32)}


def test_given_options_replace_those_of_the_size():
    params = shapes_of(transformer(size="gpt2-small", layers=3, width=24, context=7))
    assert params["layers"]["attention"]["qkv"]["weight"].shape == (3, 24, 72)
    assert params["positions"].shape == (7, 24)
    # A context that is not given is the data's length.
    assert shapes_of(TINY)["positions"].shape == (4, 4)


def test_initialization():
    data = tokens(examples=2, length=300, vocabulary=300)

    @quick
    def draw(key):
        return [
            transformer(width=64, layers=3, init=init, scale=2.0).init(key, data)
            for init in ("lecun", "gpt2")
        ]

    for params, deviation in zip(draw(KEY), ("fan_in", "constant"), strict=True):
        network, attention = params["layers"]["network"], params["layers"]["attention"]
        for weight, fan_in, residual in (
            (params["tokens"], 64, 1),
            (params["positions"], 64, 1),
            (attention["qkv"]["weight"], 64, 1),
            (attention["out"]["weight"], 64, 6),
            (network["up"]["weight"], 64, 1),
            (network["down"]["weight"], 256, 6),
        ):
            expected = 2 * (fan_in**-0.5 if deviation == "fan_in" else 0.02) / residual**0.5
            np.testing.assert_allclose(jnp.std(weight), expected, rtol=0.03)
        first, second, _ = network["up"]["weight"]
        assert not np.allclose(first, second)
        np.testing.assert_array_equal(network["norm"]["scale"], 1)
        np.testing.assert_array_equal(attention["qkv"]["bias"], 0)


def test_depth_does_not_lengthen_the_program():
    def program(layers):
        model = transformer(width=4, layers=layers)
        gradient = jax.grad(lambda params: jnp.sum(model.apply(params, DATA.inputs)))
        return len(str(jax.make_jaxpr(gradient)(shapes_of(model))).splitlines())

    assert program(20) == program(2)


def test_curvature_and_its_derivative(x64):
    """Against the dense matrices, and these against differences of gradients, in float64."""
    params = jax.tree.map(lambda x: x.astype(jnp.float64), params_of(TINY))
    objective = Objective.from_model(TINY.apply, cross_entropy, (DATA.inputs, DATA.targets))
    flat, unravel = ravel_pytree(params)
    one, two = jax.random.split(jax.random.key(2))
    u = jax.random.normal(one, flat.shape) / flat.size**0.5
    v = jax.random.normal(two, flat.shape) / flat.size**0.5

    def logits(flat):
        return TINY.apply(unravel(flat), DATA.inputs)

    def mean(flat):
        log_p = jax.nn.log_softmax(logits(flat))
        return -jnp.mean(jnp.sum(jax.nn.one_hot(DATA.targets, 5) * log_p, -1))

    def product(flat):
        return jax.jvp(jax.grad(mean), (flat,), (u,))[1]

    @quick
    def dense_gauss_newton(flat):
        jacobian, p = jax.jacfwd(logits)(flat), jax.nn.softmax(logits(flat))
        inner = jnp.einsum("ntc,ce->ntce", p, jnp.eye(5)) - jnp.einsum("ntc,nte->ntce", p, p)
        return jnp.einsum("ntcp,ntce,nteq->pq", jacobian, inner, jacobian) / DATA.inputs.size

    def difference(function, along, h=1e-3):
        near, far = (
            function(flat + k * h * along) - function(flat - k * h * along) for k in (1, 2)
        )
        return (8 * near - far) / (12 * h)

    def matrix(operator):
        column = lambda e: ravel_pytree(operator.mv(unravel(e)))[0]  # noqa: E731
        return jax.vmap(column)(jnp.eye(flat.size))

    gradient, dense = quick(jax.grad(mean)), quick(jax.hessian(mean))
    hessian = dense(flat)
    third = quick(lambda flat: jax.jvp(product, (flat,), (v,))[1])(flat)
    ours = quick(lambda o, w: (matrix(o.hessian(w)), matrix(o.gauss_newton(w))))
    for found, expected in (
        *zip(ours(objective, params), (hessian, dense_gauss_newton(flat)), strict=True),
        (hessian @ u, difference(gradient, u)),
        (third, difference(lambda flat: dense(flat) @ u, v)),
    ):
        error = jnp.linalg.norm(found - expected) / jnp.linalg.norm(expected)
        assert error < 1e-8, error


def product_of(layers, **options):
    """A compiled Hessian product, its arguments, and the bytes that it needs besides them."""
    data = tokens(examples=4, length=16, vocabulary=16)
    model = transformer(width=16, layers=layers, **options)
    params = params_of(model, data)
    objective = Objective.from_model(model.apply, cross_entropy, (data.inputs, data.targets))
    product = quick(lambda objective, params: objective.hessian(params).mv(params))
    compiled = product.lower(objective, params).compile()
    return compiled(objective, params), compiled.memory_analysis().temp_size_in_bytes


def test_remat_and_bfloat16():
    exact, memory = product_of(layers=6)
    again, less = product_of(layers=6, remat=True)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4), again, exact)
    assert less < 0.5 * memory
    rough, _ = product_of(layers=6, precision="bfloat16")
    assert {x.dtype for x in jax.tree.leaves(rough)} == {jnp.dtype(jnp.float32)}
    exact, rough = ravel_pytree(exact)[0], ravel_pytree(rough)[0]
    error = jnp.linalg.norm(rough - exact) / jnp.linalg.norm(exact)
    assert 1e-4 < error < 0.1, error


def test_precision_is_that_of_activations_and_not_of_logits(strict_promotion):
    model = transformer(width=8, precision="bfloat16")
    traced = jax.make_jaxpr(model.apply)(shapes_of(model), DATA.inputs)
    products = [line for line in str(traced).splitlines() if "dot_general" in line]
    assert [":bf16[" in line for line in products] == [*[True] * (len(products) - 1), False]
    assert traced.out_avals[0].dtype == jnp.float32


REFUSED = {
    "heads is 3": lambda: transformer(heads=3),
    "layers is 0": lambda: transformer(layers=0),
    "context is 0": lambda: transformer(context=0),
    "scale is 0": lambda: transformer(scale=0.0),
    "or data markov": lambda: TINY.init(KEY, digits(examples=2)),
    "choose model transformer": lambda: mlp().init(KEY, DATA),
    "context is 3: the sequences have 4": lambda: transformer(context=3).init(KEY, DATA),
    "at most 4": lambda: TINY.apply(shapes_of(TINY), jnp.zeros((1, 5), jnp.int32)),
}


@pytest.mark.parametrize("message", list(REFUSED))
def test_refused(message):
    with pytest.raises(UserError, match=message) as caught:
        REFUSED[message]()
    assert "\n" not in str(caught.value)


@pytest.fixture
def hasty():
    """As `HASTY`, for programs that are compiled out of reach."""
    jax.config.update("jax_disable_most_optimizations", True)
    yield
    jax.config.update("jax_disable_most_optimizations", False)


@pytest.mark.usefixtures("hasty")
def test_a_pipeline_trains_and_tracks_one(runs):
    words = (
        "pipe data markov --examples 4 --length 4 --vocabulary 4 model transformer --layers 1 "
        "--width 4 loss cross_entropy optimizer adam --lr 1e-2 "
        "track preconditioned_sharpness --every 10 --solver dense train --steps 20 "
        f"store --no-checkpoints --root {runs}"
    )
    assert main([*words.split(), "--quiet"]) == 0
    (folder,) = runs.iterdir()
    metrics = read_run(folder).metrics.isel(branch=0)
    assert float(metrics["loss"][-1]) < float(metrics["loss"][0])
    measured = metrics["preconditioned_sharpness_converged"].values
    assert measured[~np.isnan(measured)].tolist() == [1, 1]
