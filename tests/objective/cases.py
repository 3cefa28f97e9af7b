"""Losses of the three kinds, over models whose dense Hessians are small."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax.flatten_util import ravel_pytree


class Case(NamedTuple):
    loss: Callable[..., Any]  # (params, batch)
    whole: Callable[..., Any]  # (params, data) -> mean over all of the data, by hand
    params: Any
    data: Any


N, FEATURES, CLASSES = 11, 3, 2


def linear(params, x):
    return x @ params["w"] + params["b"][None]


def mlp(params, x):
    hidden = jnp.tanh(x @ params["in"]["w"] + params["in"]["b"][None])
    return hidden @ params["out"]["w"] + params["out"]["b"][None]


def squared(outputs, targets):
    return 0.5 * jnp.sum((outputs - targets) ** 2, -1)


def cross_entropy(outputs, targets):
    return -jnp.sum(targets * jax.nn.log_softmax(outputs), -1)


def layer(key, fan_in, fan_out):
    return {"w": jax.random.normal(key, (fan_in, fan_out)), "b": 0.1 * jnp.ones(fan_out)}


def make_params(model):
    one, two = jax.random.split(jax.random.key(0))
    if model is linear:
        return layer(one, FEATURES, CLASSES)
    return {"in": layer(one, FEATURES, 4), "out": layer(two, 4, CLASSES)}


def make_data():
    inputs = jax.random.normal(jax.random.key(1), (N, FEATURES))
    labels = jax.random.randint(jax.random.key(2), (N,), 0, CLASSES)
    mask = (jnp.arange(N) % 3 > 0).astype(inputs.dtype)
    return inputs, jax.nn.one_hot(labels, CLASSES, dtype=inputs.dtype), mask


MODELS = {"linear": linear, "mlp": mlp}
OUTPUT_LOSSES = {"squared": squared, "cross_entropy": cross_entropy}


def _per_example(model, output_loss):
    def loss(params, batch):
        inputs, targets, _ = batch
        return output_loss(model(params, inputs), targets)

    return loss, lambda params, data: jnp.mean(loss(params, data))


def _mean(model, output_loss):
    def loss(params, batch):
        inputs, targets, _ = batch
        return jnp.mean(output_loss(model(params, inputs), targets))

    return loss, loss


def _weighted(model, output_loss):
    def loss(params, batch):
        inputs, targets, mask = batch
        return jnp.sum(mask * output_loss(model(params, inputs), targets)), jnp.sum(mask)

    def whole(params, data):
        total, weight = loss(params, data)
        return total / weight

    return loss, whole


KINDS = {"per_example": _per_example, "mean": _mean, "weighted": _weighted}
NAMES = [
    "linear-squared-per_example",
    *(f"mlp-{output_loss}-{kind}" for output_loss in OUTPUT_LOSSES for kind in KINDS),
]


def make_case(name: str) -> Case:
    """Made on demand, so that it has the precision of the test."""
    model, output_loss, kind = name.split("-")
    loss, whole = KINDS[kind](MODELS[model], OUTPUT_LOSSES[output_loss])
    return Case(loss, whole, make_params(MODELS[model]), make_data())


def dense_hessian(whole, params, data):
    flat, unravel = ravel_pytree(params)
    return jax.hessian(lambda flat: whole(unravel(flat), data))(flat)


def dense_gauss_newton(model, output_loss, params, inputs, targets):
    flat, unravel = ravel_pytree(params)
    jacobian = jax.jacobian(lambda flat: model(unravel(flat), inputs))(flat)
    outputs = model(params, inputs)
    inner = jax.vmap(jax.hessian(lambda z, t: output_loss(z[None], t[None])[0]))(outputs, targets)
    return jnp.einsum("nap,nab,nbq->pq", jacobian, inner, jacobian) / inputs.shape[0]
