"""What a model is to an experiment, and what the models share."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.data import Dataset

Activation = Literal["tanh", "relu", "gelu", "softplus", "elu"]
Init = Literal["lecun", "he"]

ACTIVATIONS: dict[str, Callable[[Array], Array]] = {
    "tanh": jnp.tanh,
    "relu": jax.nn.relu,
    "gelu": jax.nn.gelu,
    "softplus": jax.nn.softplus,
    "elu": jax.nn.elu,
}
# Variance of a weight times the number of its inputs.
VARIANCES: dict[str, float] = {"lecun": 1.0, "he": 2.0}


@dataclass(frozen=True)
class Model:
    """A network: both halves are hashable and equal for equal settings, so nothing is retraced.

    Args:
        init: `(key, dataset) -> params`, any pytree of float32 arrays.
        apply: `(params, inputs (n, features)) -> outputs (n, classes)`.
    """

    init: Callable[[PRNGKeyArray, Dataset], PyTree]
    apply: Callable[[PyTree, Float[Array, "n features"]], Float[Array, "n classes"]]


def check_settings(activation: str, init: str, scale: float, **positive: int) -> None:
    """Refuses settings of a network that cannot be."""
    for name, value in positive.items():
        if value < 1:
            raise UserError(f"{name} is {value}: it must be at least 1")
    if activation not in ACTIVATIONS:
        raise UserError(f"activation is {activation!r}: it is one of {', '.join(ACTIVATIONS)}")
    if init not in VARIANCES:
        raise UserError(f"init is {init!r}: it is one of {', '.join(VARIANCES)}")
    if not scale > 0:
        raise UserError(f"scale is {scale}: it must be positive")


def draw_layer(
    key: PRNGKeyArray, shape: tuple[int, ...], init: str, scale: float
) -> dict[str, Any]:
    """A layer's weight, `N(0, scale² · variance / fan_in)`, and its bias, zero."""
    fan_in = 1
    for size in shape[:-1]:
        fan_in *= size
    deviation = scale * (VARIANCES[init] / fan_in) ** 0.5
    weight = deviation * jax.random.normal(key, shape, jnp.float32)
    return {"weight": weight, "bias": jnp.zeros(shape[-1], jnp.float32)}
