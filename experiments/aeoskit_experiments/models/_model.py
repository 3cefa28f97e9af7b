"""The interface of models, and their common parts."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Num, PRNGKeyArray, PyTree

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.data import AnyDataset, Dataset, PairDataset, TokenDataset

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
    """A network: two functions, hashable and equal for equal settings, so that nothing is retraced.

    Args:
        init: `(key, dataset) -> params`, any pytree of float32 arrays. It reads only the shapes of
            the data set, so that `jax.eval_shape` gives those of the parameters.
        apply: `(params, inputs (n, features)) -> outputs (n, classes)`; of a model of tokens,
            `(params, inputs (n, length)) -> outputs (n, length, vocabulary)`; of pairs of
            sequences, `(params, ((n, source), (n, target))) -> outputs (n, target, vocabulary)`.
        couples: Whether an example's output depends on the other examples (batch norm), so that the
            data have to be evaluated whole.
    """

    init: Callable[[PRNGKeyArray, AnyDataset], PyTree]
    apply: Callable[[PyTree, PyTree[Num[Array, "n ?*inputs"]]], Float[Array, "n *outputs"]]
    couples: bool = False


def check_settings(activation: str, init: str, scale: float, **positive: int) -> None:
    """Raise a `UserError` for invalid settings of a network."""
    for name, value in positive.items():
        if value < 1:
            raise UserError(f"{name} is {value}: it must be at least 1")
    if activation not in ACTIVATIONS:
        raise UserError(f"activation is {activation!r}: it is one of {', '.join(ACTIVATIONS)}")
    if init not in VARIANCES:
        raise UserError(f"init is {init!r}: it is one of {', '.join(VARIANCES)}")
    if not 0 < scale < float("inf"):
        raise UserError(f"scale is {scale}: it must be positive, and a number")


# For each kind of data its name, a model for it, and an example.
_KINDS: dict[type[AnyDataset], tuple[str, str, str]] = {
    Dataset: ("rows of numbers", "mlp", "digits"),
    TokenDataset: ("tokens", "transformer", "markov"),
    PairDataset: ("pairs of sequences", "encoder_decoder", "sorting --pairs"),
}


def rows_of(dataset: AnyDataset, model: str) -> Dataset:
    """The data set, if its inputs are rows of numbers.

    Raises:
        UserError: if they are tokens, or pairs of sequences.
    """
    if isinstance(dataset, Dataset):
        return dataset
    raise wrong_kind(dataset, model, Dataset)


def tokens_of(dataset: AnyDataset, model: str) -> TokenDataset:
    """The data set, if its inputs are sequences of tokens.

    Raises:
        UserError: if they are rows of numbers, or pairs of sequences.
    """
    if isinstance(dataset, TokenDataset):
        return dataset
    raise wrong_kind(dataset, model, TokenDataset)


def pairs_of(dataset: AnyDataset, model: str) -> PairDataset:
    """The data set, if its inputs are pairs of sequences.

    Raises:
        UserError: if they are not.
    """
    if isinstance(dataset, PairDataset):
        return dataset
    raise wrong_kind(dataset, model, PairDataset)


def wrong_kind(dataset: AnyDataset, model: str, *takes: type[AnyDataset]) -> UserError:
    """The error for data that a model does not take."""
    found, other, _ = _KINDS[type(dataset)]
    taken = " or ".join(_KINDS[kind][0] for kind in takes)
    choices = ", or ".join(f"data {_KINDS[kind][2]}" for kind in takes)
    return UserError(
        f"the data are {found}, but {model} takes {taken}: choose model {other}, or {choices}"
    )


def draw_layer(
    key: PRNGKeyArray, shape: tuple[int, ...], init: str, scale: float
) -> dict[str, Any]:
    """A layer's weight, `N(0, scale² · variance / fan_in)`, and its bias, zero."""
    fan_in = 1
    for size in shape[:-1]:
        fan_in *= size
    deviation = scale * (VARIANCES[init] / fan_in) ** 0.5
    weight = scaled_normal(key, shape, deviation)
    return {"weight": weight, "bias": jnp.zeros(shape[-1], jnp.float32)}


def scaled_normal(
    key: PRNGKeyArray, shape: tuple[int, ...], deviation: float
) -> Float[Array, "..."]:
    """Normal random numbers, the same bits whether drawn alone or in a larger program.

    Without the barrier, a compiler that sees both multiplies the deviation by the factor that is
    the last step of the draw, which rounds differently.
    """
    normal = jax.random.normal(key, shape, jnp.float32)
    return deviation * jax.lax.optimization_barrier(normal)
