"""Fully connected networks."""

import itertools
from dataclasses import dataclass

import jax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from aeoskit_experiments.data import AnyDataset
from aeoskit_experiments.options import Count, Positive

from ._model import ACTIVATIONS, Activation, Init, Model, check_settings, draw_layer, rows_of


@dataclass(frozen=True)
class _Init:
    width: int
    depth: int
    init: str
    scale: float

    def __call__(self, key: PRNGKeyArray, dataset: AnyDataset) -> PyTree:
        rows = rows_of(dataset, "mlp")
        sizes = [rows.inputs.shape[1], *[self.width] * self.depth, rows.num_classes]
        keys = jax.random.split(key, len(sizes) - 1)
        pairs = itertools.pairwise(sizes)
        return [
            draw_layer(k, pair, self.init, self.scale) for k, pair in zip(keys, pairs, strict=True)
        ]


@dataclass(frozen=True)
class _Apply:
    activation: str

    def __call__(
        self, params: PyTree, inputs: Float[Array, "n features"]
    ) -> Float[Array, "n classes"]:
        *hidden, last = params
        x = inputs
        for layer in hidden:
            x = ACTIVATIONS[self.activation](x @ layer["weight"] + layer["bias"][None])
        return x @ last["weight"] + last["bias"][None]


def mlp(
    *,
    width: Count = 100,
    depth: Count = 2,
    activation: Activation = "tanh",
    init: Init = "lecun",
    scale: Positive = 1.0,
) -> Model:
    """A fully connected network, with weights `N(0, 1/fan_in)` and zero biases by default.

    Args:
        width: Units in each hidden layer.
        depth: Number of hidden layers.
        activation: The nonlinearity.
        init: Variance of the weights; lecun is 1/fan_in, he is 2/fan_in.
        scale: Factor on all initial weights.

    Returns:
        The model.

    Raises:
        UserError: if a size is below 1, `scale` is not positive or a name is unknown.

    Example:
        >>> import jax
        >>> from aeoskit_experiments.data import digits
        >>> data, model = digits(examples=5), mlp(width=8)
        >>> params = model.init(jax.random.key(0), data)
        >>> model.apply(params, data.inputs).shape
        (5, 10)
    """
    check_settings(activation, init, scale, width=width, depth=depth)
    return Model(_Init(width, depth, init, scale), _Apply(activation))
