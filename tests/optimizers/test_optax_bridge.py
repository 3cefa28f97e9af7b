"""The bridge to optax: P and thresholds read from its transformations, checked by what they do."""

from __future__ import annotations

import inspect
import pathlib
import warnings
from typing import Any, cast

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import aeoskit as ak
from aeoskit.linalg import DiagonalPreconditioner
from aeoskit.optimizers import (
    OptaxOptimizer,
    adam,
    adamw,
    as_optax,
    from_optax,
    lion,
    momentum,
    preconditioner_of,
    threshold_of,
)

PARAMS = {"b": jnp.array([0.5, -1.0, 0.25]), "w": jnp.arange(12.0).reshape(3, 4) / 7 + 0.1}
GRADS = {"b": jnp.array([1.0, -2.0, 0.5]), "w": jnp.cos(jnp.arange(12.0)).reshape(3, 4)}
# Each with its threshold in units of 1 / lr, and the weight that the first step gives its gradient.
KNOWN = {
    "sgd": (optax.sgd(0.1), 2, 1),
    "heavy ball": (optax.sgd(0.1, 0.9), 3.8, 1),
    "nesterov": (optax.sgd(0.1, 0.9, nesterov=True), 3.8 / 2.8, 1.9),
    "adam": (optax.adam(0.1, eps_root=1e-3), 38, 0.1),
    "nadam": (optax.nadam(0.1), 38 / 2.8, 0.9 * 0.1 / 0.19 + 1),
    "amsgrad": (optax.amsgrad(0.1), 38, 0.1),
    "adabelief": (optax.adabelief(0.1, eps=1e-3), 38, 0.1),
    "yogi": (optax.yogi(0.1), 38, None),  # its buffer does not start at zero
    "adamax": (optax.adamax(0.1), 38, 0.1),
    "adagrad": (optax.adagrad(0.1), 2, 1),
    "rmsprop": (optax.rmsprop(0.1, eps=1e-3), 2, 1),
    "rmsprop, momentum": (optax.rmsprop(0.1, momentum=0.9), 3.8, 1),
    "rmsprop, centered": (optax.rmsprop(0.1, centered=True), 2, 1),
    "rmsprop, corrected": (
        optax.rmsprop(0.1, eps=1e-3, eps_in_sqrt=False, bias_correction=True),
        2,
        1,
    ),
    "ema": (optax.chain(optax.ema(0.9), optax.scale(-0.1)), 38, 0.1),
    "adafactor": (optax.adafactor(0.1, min_dim_size_to_factor=2), 2, 1),
    "adafactor, momentum": (
        optax.adafactor(0.1, min_dim_size_to_factor=2, momentum=0.9),
        38,
        0.1,
    ),
    "lamb": (optax.lamb(0.1), 38, 0.1),
    "lars": (optax.lars(0.1), 3.8, 1),
}


def diagonal(P) -> Any:
    """That of a diagonal preconditioner."""
    assert isinstance(P, DiagonalPreconditioner)
    return P.diagonal


def states(transform) -> Any:
    """A state after three steps, and the updates and state of the fourth."""
    state = transform.init(PARAMS)
    for i in range(3):
        grads = jax.tree.map(lambda g, i=i: g * (1 + 0.3 * i), GRADS)
        _, state = transform.update(grads, state, PARAMS)
    updates, after = transform.update(GRADS, state, PARAMS)
    return state, updates, after


def assert_close(found, expected, rtol=1e-5):
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=rtol, atol=1e-9)


@pytest.mark.parametrize("name", KNOWN)
def test_metric_is_that_of_the_update(x64, name):
    """The first step is `-lr w P⁻¹ g`, with the weight w of the momentum rule."""
    transform, share, weight = KNOWN[name]
    state = transform.init(PARAMS)
    np.testing.assert_allclose(threshold_of(transform, state, PARAMS), share / 0.1, rtol=1e-6)
    updates, after = transform.update(GRADS, state, PARAMS)
    P = preconditioner_of(transform, state, GRADS, PARAMS)
    direction = P.mv(jax.tree.map(lambda u: -10 * u, updates))
    if weight is None:
        assert_close(direction, after[0].mu)
    else:
        assert_close(direction, jax.tree.map(lambda g: weight * g, GRADS))


@pytest.mark.parametrize("name", ["adam", "amsgrad", "adabelief", "yogi", "adamax", "heavy ball"])
def test_metric_of_a_later_step(x64, name):
    """Where optax keeps its direction in a buffer, P times the update is that buffer."""
    transform, _, _ = KNOWN[name]
    state, updates, after = states(transform)
    P = preconditioner_of(transform, state, GRADS, PARAMS)
    buffer = after[0].trace if name == "heavy ball" else after[0].mu
    assert_close(P.mv(jax.tree.map(lambda u: -10 * u, updates)), buffer)
    # Without gradients: the P of the step that was taken.
    assert_close(preconditioner_of(transform, after, None, PARAMS).mv(PARAMS), P.mv(PARAMS))


WRAPPED = {
    "chain": lambda tx: optax.chain(optax.identity(), tx),
    "named_chain": lambda tx: optax.named_chain(("first", optax.identity()), ("second", tx)),
    "finite": lambda tx: optax.apply_if_finite(tx, 3),
    "masked": lambda tx: optax.masked(tx, {"b": True, "w": True}),
    "partition": lambda tx: optax.partition({"all": tx}, {"b": "all", "w": "all"}),
    "labels": lambda tx: optax.partition({"x": tx, "y": tx}, {"b": "x", "w": "y"}),
    "labels of a function": lambda tx: optax.partition(
        {"x": tx}, lambda tree: jax.tree.map(lambda _: "x", tree)
    ),
}


@pytest.mark.parametrize("wrap", WRAPPED)
def test_wrappers_are_opened(x64, wrap):
    plain = optax.adamw(0.1)
    wrapped = WRAPPED[wrap](plain)
    state, _, _ = states(plain)
    inside, _, _ = states(wrapped)
    expected = diagonal(preconditioner_of(plain, state, GRADS))
    found = diagonal(preconditioner_of(wrapped, inside, GRADS, PARAMS))
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12)
    np.testing.assert_allclose(
        threshold_of(wrapped, inside, PARAMS), threshold_of(plain, state), rtol=1e-12
    )


def test_injected_hyperparameters_and_schedules(x64):
    """The threshold is that of the coming step: schedules are asked at their own count."""
    schedule = optax.linear_schedule(0.1, 0.2, 10)
    plain = optax.adam(schedule)
    injected = optax.inject_hyperparams(optax.adam)(learning_rate=schedule, b1=0.8)
    state, _, _ = states(plain)
    np.testing.assert_allclose(threshold_of(plain, state), 38 / 0.13, rtol=1e-6)
    state, _, _ = states(injected)
    np.testing.assert_allclose(threshold_of(injected, state), 18 / 0.13, rtol=1e-6)
    state.hyperparams["b1"] = jnp.asarray(0.9)
    np.testing.assert_allclose(threshold_of(injected, state), 38 / 0.13, rtol=1e-6)


def test_accumulation_gives_the_mean_gradient(x64):
    plain, steps = optax.adam(0.1), optax.MultiSteps(optax.adam(0.1), 2)
    state = steps.init(PARAMS)
    _, state = steps.update(jax.tree.map(lambda g: 3 * g, GRADS), state, PARAMS)
    found = diagonal(preconditioner_of(steps, state, GRADS, PARAMS))
    mean = jax.tree.map(lambda g: 2 * g, GRADS)
    expected = diagonal(preconditioner_of(plain, plain.init(PARAMS), mean))
    for x, y in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-12)


def test_groups_that_differ_in_learning_rate_have_one_threshold(x64):
    transform = optax.partition({"x": optax.sgd(0.1), "y": optax.sgd(0.4)}, {"b": "x", "w": "y"})
    state = transform.init(PARAMS)
    P, threshold = (
        preconditioner_of(transform, state, GRADS, PARAMS),
        threshold_of(transform, state, PARAMS),
    )
    # The edge of each group alone: curvature 2/0.1 and 2/0.4.
    np.testing.assert_allclose(threshold * diagonal(P)["b"], 20)
    np.testing.assert_allclose(threshold * diagonal(P)["w"], 5)


def test_norm_clipping_is_a_factor_of_the_metric(x64):
    """With the norm held, the step is `c g`: P is 1 / c."""
    transform = optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.1))
    norm = optax.tree.norm(GRADS)
    state = transform.init(PARAMS)
    P = preconditioner_of(transform, state, GRADS)
    np.testing.assert_allclose(diagonal(P)["w"], norm / 0.5, rtol=1e-6)
    updates, _ = transform.update(GRADS, state)
    for u, x in zip(*(jax.tree.leaves(t) for t in (updates, P.inv_mv(GRADS))), strict=True):
        np.testing.assert_allclose(u, -0.1 * x, rtol=1e-6)


def _grows(transform, curvature, steps=1250):
    """Whether one mode of that curvature grows under the transformation, in the end."""

    def step(carry, _):
        x, state = carry
        updates, state = transform.update(curvature * x, state, x)
        return (x + updates, state), jnp.abs(x)

    start = jnp.ones(())
    _, sizes = jax.lax.scan(step, (start, transform.init(start)), None, steps)
    sizes = np.asarray(sizes)
    return sizes[1200:].max() > sizes[1000:1050].max()


@pytest.mark.parametrize(
    "transform",
    [
        optax.sgd(0.1, 0.9, nesterov=True),
        optax.chain(optax.add_decayed_weights(0.5), optax.sgd(0.1, 0.9)),
        optax.chain(optax.trace(0.9), optax.add_decayed_weights(0.5), optax.scale(-0.1)),
        optax.chain(optax.scale(2.0), optax.add_decayed_weights(0.5), optax.sgd(0.1, 0.5)),
        optax.chain(optax.ema(0.9), optax.scale(-0.1), optax.add_decayed_weights(-0.01)),
        optax.contrib.schedule_free_sgd(0.1, b1=0.9),
        optax.contrib.schedule_free_sgd(0.1, b1=0.9, weight_decay=0.5),
        optax.chain(optax.ema(0.9, debias=False), optax.ema(0.9, debias=False), optax.scale(-0.1)),
        optax.chain(optax.scale_by_learning_rate(0.1), optax.trace(0.9), optax.ema(0.5, False)),
        optax.chain(
            optax.trace(0.9, nesterov=True),
            optax.scale(-0.1),
            optax.ema(0.8, debias=False),
            optax.add_decayed_weights(-0.02),
        ),
        optax.chain(
            optax.trace(0.5),
            optax.add_decayed_weights(0.5),
            optax.trace(0.9, nesterov=True),
            optax.scale(-0.01),
        ),
        optax.chain(
            optax.add_decayed_weights(0.1),
            optax.ema(0.5, debias=False),
            optax.scale(-0.1),
            optax.add_decayed_weights(-0.05),
            optax.ema(0.7, debias=False),
            optax.ema(0.6, debias=False),
            optax.add_decayed_weights(-0.01),
        ),
        optax.chain(optax.trace(0.9), as_optax(ak.gradient_descent(0.1))),
    ],
    ids=[
        *("nesterov", "decay first", "decoupled", "scaled", "unscaled", "schedule-free", "decayed"),
        *("two averages", "sum and average", "nesterov and average, decay", "decay between"),
        *("three, decay everywhere", "ours after a buffer"),
    ],
)
def test_thresholds_of_linear_ones(x64, transform):
    """Below it a quadratic's mode decays, above it grows: with optax's own steps."""
    state = transform.init(jnp.ones(()))
    if hasattr(state, "weight_sum"):  # schedule-free: late in training, as the test is
        state = state._replace(weight_sum=jnp.asarray(1100 * 0.1**2))
    threshold = float(threshold_of(transform, state))
    assert not _grows(transform, 0.98 * threshold)
    assert _grows(transform, 1.02 * threshold)


@pytest.mark.parametrize(
    ("transform", "says"),
    [
        (optax.lion(0.1), "scale_by_lion steps by a sign"),
        (optax.sign_sgd(0.1), "scale_by_sign steps by a sign"),
        (optax.lbfgs(), "scale_by_lbfgs, so that .* in each step from .*: aeoskit.flip_mult"),
        (
            optax.polyak_sgd(),
            r"scale_by_polyak, .* \(its step size depends on the value of the loss",
        ),
        (optax.scale_by_adam(), r"scale_by_learning_rate"),
        (
            optax.contrib.schedule_free(
                optax.chain(optax.trace(0.9), optax.trace(0.5), optax.scale(-0.1)), 0.1
            ),
            "schedule-free over two momentum buffers, trace and trace",
        ),
        (optax.chain(optax.add_decayed_weights(0.1), optax.adam(0.1)), "a term of the loss"),
        (
            optax.partition({"x": optax.adam(0.1), "y": optax.sgd(0.1)}, {"b": "x", "w": "y"}),
            "different momentum rules",
        ),
    ],
    ids=lambda x: "" if isinstance(x, str) else None,
)
def test_what_is_not_known_is_named(transform, says):
    with pytest.raises(ValueError, match=says):
        threshold_of(transform, transform.init(PARAMS), PARAMS)


def _identity_of_a_user():
    def identity():
        return optax.GradientTransformation(
            lambda params: optax.EmptyState(),
            lambda updates, state, params=None: (jax.tree.map(lambda u: 3 * u, updates), state),
        )

    return identity()


@pytest.mark.parametrize(
    ("transform", "says"),
    [
        (optax.chain(optax.clip_by_global_norm(1.0), as_optax(lion(0.1))), "by a sign"),
        (optax.chain(_identity_of_a_user(), optax.sgd(0.1)), "does not know"),
        (
            optax.partition({"x": optax.adam(0.1), "y": optax.set_to_zero()}, {"b": "y", "w": "x"}),
            "closed over by the loss",
        ),
        (optax.lamb(0.1, weight_decay=0.1), "between two metrics"),
    ],
    ids=["lion", "theirs", "frozen", "lamb"],
)
def test_what_looks_known_and_is_not(transform, says):
    with pytest.raises(ValueError, match=says):
        threshold_of(transform, transform.init(PARAMS), PARAMS)


def test_states_of_others_are_refused():
    adam, sgd = optax.adam(0.1), optax.sgd(0.1, 0.9)
    with pytest.raises(ValueError, match=r"no leaf state\[0\].count.*pass the state") as caught:
        preconditioner_of(adam, sgd.init(PARAMS), GRADS)
    assert "PyTreeDef" not in str(caught.value)
    with pytest.raises(ValueError, match="a chain of 2 has another state"):
        threshold_of(adam, optax.adamw(0.1).init(PARAMS))
    other = adam.init(jax.tree.map(lambda x: x[:2], PARAMS))
    with pytest.raises(ValueError, match=r"state\[0\].mu.* has shape .* these parameters"):
        preconditioner_of(adam, other, GRADS)
    with pytest.raises(ValueError, match="no step was taken"):
        preconditioner_of(adam, adam.init(PARAMS))
    clip = optax.chain(optax.clip_by_global_norm(1.0), sgd)
    with pytest.raises(ValueError, match="pass the gradients"):
        preconditioner_of(clip, clip.init(PARAMS))
    dead = optax.rmsprop(0.1, eps=0.0)
    with pytest.raises(ValueError, match="entries that are zero, negative or not finite, in b"):
        preconditioner_of(dead, dead.init(PARAMS), jax.tree.map(jnp.zeros_like, GRADS))


def test_a_state_of_optax_is_not_ours():
    # Under jaxtyping the signature refuses it first; without, our own sentence does.
    with pytest.raises(TypeError, match="OptimizerState"):
        adam(0.1).threshold(cast("Any", optax.adam(0.1).init(PARAMS)))


def test_under_jit_as_outside():
    """Groups, a rate of zero at the start of a warmup, a jitted update, a sign that is unknown."""
    warmup = optax.linear_schedule(0.0, 0.1, 10)
    mask = jax.tree.map(lambda x: x.ndim > 1, PARAMS)
    for transform, expected in (
        (optax.partition({"x": optax.adam(0.1), "y": optax.adam(0.3)}, {"b": "x", "w": "y"}), 380),
        (optax.adamw(0.1, mask=mask), 380 - 19e-4),
        (optax.adamw(warmup), np.inf),
        (optax.chain(optax.scale_by_adam(), optax.scale_by_schedule(warmup)), np.inf),
    ):
        state = transform.init(PARAMS)
        found = jax.jit(lambda s, t=transform: threshold_of(t, s, PARAMS))(state)
        np.testing.assert_allclose(found, expected, rtol=1e-6)
    with pytest.raises(ValueError, match="ascend the gradient"):
        jax.jit(lambda s: threshold_of(optax.scale_by_adam(), s))(
            optax.scale_by_adam().init(PARAMS)
        )
    jitted = optax.GradientTransformation(optax.adam(0.1).init, jax.jit(optax.adam(0.1).update))
    np.testing.assert_allclose(threshold_of(jitted, jitted.init(PARAMS)), 380, rtol=1e-6)
    ours = as_optax(adam(0.1))
    jax.jit(ours.update)(GRADS, ours.init(PARAMS), PARAMS)


def test_what_is_missing_is_named():
    adafactor, masked = optax.adafactor(0.1), optax.masked(optax.sgd(0.1), {"b": True, "w": True})
    with pytest.raises(ValueError, match="params="):
        preconditioner_of(adafactor, adafactor.init(PARAMS), GRADS)
    with pytest.raises(ValueError, match="pass `params=`"):
        threshold_of(masked, masked.init(PARAMS))
    with pytest.raises(TypeError, match="no `init` and `update`"):
        OptaxOptimizer(3)
    with pytest.raises(TypeError, match="from_optax"):
        as_optax(optax.adam(0.1))


def test_three_lines_in_a_users_script():
    """Clipping, AdamW, a schedule: sharpness, threshold and ratio as our own AdamW has them."""
    key = jax.random.key(0)
    inputs = jax.random.normal(key, (20, 3))
    targets = jnp.sin(inputs[:, :1])

    def loss(params, batch):
        x, y = batch
        return jnp.sum((jnp.tanh(x @ params["w"]) @ params["v"] - y) ** 2, axis=1)

    params = {"w": jax.random.normal(key, (3, 4)), "v": jnp.ones((4, 1))}
    tx = optax.chain(
        optax.clip_by_global_norm(100.0), optax.adamw(optax.cosine_decay_schedule(1e-2, 100))
    )
    objective = ak.Objective(loss, (inputs, targets))
    state = tx.init(params)
    edge = ak.preconditioned_sharpness(objective, params, tx, state)
    own = ak.adamw(1e-2)
    expected = ak.preconditioned_sharpness(objective, params, own, own.init(params))
    np.testing.assert_allclose(edge.values, expected.values, rtol=1e-4)
    np.testing.assert_allclose(edge.threshold, expected.threshold, rtol=1e-5)
    np.testing.assert_allclose(edge.ratio, expected.ratio, rtol=1e-4)


def test_ours_in_a_chain_of_theirs(x64):
    """`as_optax` unpacks, and takes the keyword arguments that optax hands on."""
    ours = optax.chain(optax.clip_by_global_norm(0.5), as_optax(adam(0.1)))
    theirs = optax.chain(optax.clip_by_global_norm(0.5), optax.adam(0.1))
    assert_close(states(ours)[1], states(theirs)[1])
    state = states(ours)[0]
    expected = preconditioner_of(theirs, states(theirs)[0], GRADS)
    assert_close(preconditioner_of(ours, state, GRADS).mv(PARAMS), expected.mv(PARAMS))
    clipped = optax.chain(optax.clip_by_global_norm(0.5), as_optax(adamw(0.1, weight_decay=0.2)))
    np.testing.assert_allclose(threshold_of(clipped, clipped.init(PARAMS)), 380 - 19 * 0.2)
    steps = optax.MultiSteps(cast("Any", as_optax(momentum(0.1))), 2)
    np.testing.assert_allclose(threshold_of(steps, steps.init(PARAMS)), 380)
    assert jax.tree.leaves(steps.update(GRADS, steps.init(PARAMS), PARAMS)[0])[0].shape == (3,)


DOCS = pathlib.Path(__file__).parents[2] / "docs" / "optax.md"
# Optimizers that take more than a learning rate, or none.
MADE = {
    "lbfgs": lambda: optax.lbfgs(),
    "noisy_sgd": lambda: optax.noisy_sgd(0.1, key=jax.random.key(0)),
    "optimistic_adam": lambda: optax.optimistic_adam_v2(0.1, alpha=0.1, beta=0.1),
    "optimistic_adam_v2": lambda: optax.optimistic_adam_v2(0.1, alpha=0.1, beta=0.1),
    "dog": lambda: optax.contrib.dog(0.1, ("distance", 0.1)),
    "dpsgd": lambda: _dpsgd(),
    "dowg": lambda: optax.contrib.dowg(0.1, 0.1),
    "schedule_free_adamw": lambda: optax.contrib.schedule_free_adamw(0.1, b1=0.9),
    "schedule_free_sgd": lambda: optax.contrib.schedule_free_sgd(0.1, b1=0.9),
}


def _dpsgd():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # of `seed`, which it requires
        return optax.contrib.dpsgd(0.1, 1.0, 0.1, 0)


def _of_optax(module):
    """Every optimizer of a module of optax: a function of a learning rate to a transformation."""
    inside = {"optax": "optax._src.alias", "optax.contrib": "optax.contrib."}[module.__name__]
    return {
        name
        for name, value in vars(module).items()
        if getattr(getattr(value, "func", value), "__module__", "").startswith(inside)
        and callable(value)
        and name[0].islower()
        and not name.startswith(("scale_by", "schedule_free_eval"))
        and name != "schedule_free"  # a wrapper
        and {"learning_rate", "max_learning_rate"} & {*inspect.signature(value).parameters}
    }


def _row(module, name):
    transform = MADE.get(name, lambda: getattr(module, name)(0.1))()
    state = transform.init(PARAMS)
    try:
        if name == "adopt":  # its first step does not move, and has no P
            _, state = transform.update(GRADS, state, PARAMS)
        if hasattr(state, "weight_sum"):  # schedule-free: late in training
            state = state._replace(weight_sum=jnp.asarray(1e9))
        lr = float(from_optax(transform).learning_rate(state, PARAMS))
        threshold = float(threshold_of(transform, state, PARAMS)) * lr
        kind = type(preconditioner_of(transform, state, GRADS, PARAMS)).__name__
        metric = {"IdentityPreconditioner": "identity"}.get(kind, "diagonal")
        return f"| `{name}` | {metric} | {threshold:.4g} / lr |"
    except ValueError as error:
        text = str(error)
        if "steps by a sign" in text:
            return f"| `{name}` | none: its steps are signs | none |"
        part = text.split("transformation ")[1].split(",")[0]
        return f"| `{name}` | not known (`{part}`) | by the multiplier |"


@pytest.mark.parametrize(
    ("module", "mark", "some"),
    [
        (optax, "table", {"adam", "nadam", "sgd", "lion", "adafactor", "lbfgs", "polyak_sgd"}),
        (optax.contrib, "contrib", {"ademamix", "dog", "muon", "prodigy", "sophia"}),
    ],
    ids=["optax", "contrib"],
)
def test_the_table_in_the_docs_is_of_every_optimizer(x64, module, mark, some):
    """The table is what the bridge gives; if it differs, the message has the new one."""
    made = _of_optax(module)
    assert some <= made
    rows = [_row(module, name) for name in sorted(made)]
    table = "\n".join([f"| {module.__name__} | P | threshold |", "| --- | --- | --- |", *rows])
    begin, end = (f"<!-- {mark}: {where} -->" for where in ("begin", "end"))
    written = DOCS.read_text().split(begin)[1].split(end)[0].strip()
    assert written == table, f"put this into docs/optax.md:\n{table}"
