"""Long short-term memory."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from einops import einsum, rearrange
from jaxtyping import Array, Float, Num, PRNGKeyArray, PyTree

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.data import AnyDataset, Dataset, TokenDataset
from aeoskit_experiments.options import Count, Positive

from ._model import Init, Model, check_settings, draw_layer, scaled_normal, wrong_kind

# In the order of their blocks in a layer's arrays.
GATES = ("input", "forget", "cell", "output")


@dataclass(frozen=True)
class _Init:
    width: int
    layers: int
    forget_bias: float
    init: str
    scale: float

    def __call__(self, key: PRNGKeyArray, dataset: AnyDataset) -> PyTree:
        of_tokens, of_head, *of_layers = jax.random.split(key, self.layers + 2)
        params = {}
        if isinstance(dataset, TokenDataset):
            # A token is a one-hot input: its row has the variance of one input.
            shape = (dataset.vocabulary, self.width)
            params["tokens"] = scaled_normal(of_tokens, shape, self.scale)
            features, classes = self.width, dataset.vocabulary
        elif isinstance(dataset, Dataset):
            _, columns, channels = dataset.image_shape
            features, classes = columns * channels, dataset.num_classes
        else:
            raise wrong_kind(dataset, "lstm", TokenDataset, Dataset)
        params["layers"] = []
        for of_layer in of_layers:
            params["layers"].append(self._layer(of_layer, features))
            features = self.width
        params["head"] = draw_layer(of_head, (self.width, classes), self.init, self.scale)
        return params

    def _layer(self, key: PRNGKeyArray, features: int) -> PyTree:
        of_input, of_state = jax.random.split(key)
        gates = len(GATES) * self.width
        layer = draw_layer(of_input, (features, gates), self.init, self.scale)
        state = draw_layer(of_state, (self.width, gates), self.init, self.scale)
        forget = GATES.index("forget") * self.width
        bias = layer["bias"].at[forget : forget + self.width].set(self.forget_bias)
        return {"input": layer["weight"], "state": state["weight"], "bias": bias}


def _apply(params: PyTree, inputs: Num[Array, "n inputs"]) -> Float[Array, "n *length classes"]:
    if "tokens" in params:
        read = jnp.take(params["tokens"], inputs, axis=0)
        states = _states(rearrange(read, "n t width -> t n width"), params["layers"])
        outputs = rearrange(states, "t n width -> n t width")
        return outputs @ params["head"]["weight"] + params["head"]["bias"][None, None]
    row = params["layers"][0]["input"].shape[0]
    rows = rearrange(inputs, "n (t row) -> t n row", row=row)
    last = _states(rows, params["layers"])[-1]
    return last @ params["head"]["weight"] + params["head"]["bias"][None]


def _states(x: Float[Array, "t n inputs"], layers: PyTree) -> Float[Array, "t n width"]:
    for layer in layers:
        x = run_layer(x, layer)
    return x


def run_layer(x: Float[Array, "t n inputs"], layer: PyTree) -> Float[Array, "t n width"]:
    """The states of one layer at each time, from a state and a cell of zeros.

    Args:
        x: the inputs, time first.
        layer: `input` and `state`, the matrices of the four gates, and their `bias`.

    Returns:
        One state per time, between -1 and 1.
    """
    # The inputs' part of the gates does not depend on the state: one product for all times.
    read = einsum(x, layer["input"], "t n inputs, inputs gates -> t n gates")
    nothing = jnp.zeros((x.shape[1], layer["state"].shape[0]), read.dtype)

    def step(carry: tuple[Array, Array], read: Float[Array, "n gates"]):
        state, cell = carry
        gates = read + state @ layer["state"] + layer["bias"][None]
        input_gate, forget_gate, candidate, output_gate = rearrange(
            gates, "n (four width) -> four n width", four=4
        )
        cell = jax.nn.sigmoid(forget_gate) * cell + jax.nn.sigmoid(input_gate) * jnp.tanh(candidate)
        state = jax.nn.sigmoid(output_gate) * jnp.tanh(cell)
        return (state, cell), state

    # The loop is not unrolled: on CPU products would take two to six times as long, and compilation
    # up to nine times.
    return jax.lax.scan(step, (nothing, nothing), read)[1]


def lstm(
    *,
    width: Count = 64,
    layers: Count = 1,
    forget_bias: float = 1.0,
    init: Init = "lecun",
    scale: Positive = 1.0,
) -> Model:
    """An LSTM with forget gates: it predicts the next token at every position, or an image's class.

    It reads tokens one after the other, and images row by row, top to bottom; their class is
    predicted from the last state. The data decide: for tokens, `init` adds an embedding.

    Source: Hochreiter and Schmidhuber, *Long short-term memory* (1997); forget gates are those of
    Gers, Schmidhuber and Cummins (2000), the start of their bias is that of Jozefowicz, Zaremba and
    Sutskever (2015).

    Args:
        width: Dimension of the state, and of the cell, of each layer.
        layers: Number of stacked layers: each reads the states of the one below.
        forget_bias: Initial bias of the forget gates; all others are 0.
        init: Variance of the weights; lecun is 1/fan_in, he is 2/fan_in, of each matrix.
        scale: Factor on all initial weights.

    Returns:
        The model, for data of tokens or of images.

    Raises:
        UserError: if a size is below 1, `scale` is not positive, a name is unknown, or (from
            `init`) the data are pairs of sequences.

    Example:
        >>> import jax
        >>> from aeoskit_experiments.data import digits, markov
        >>> model = lstm(width=8)
        >>> for data in (digits(examples=5), markov(examples=5, length=6, vocabulary=7)):
        ...     params = jax.eval_shape(model.init, jax.random.key(0), data)
        ...     print(jax.eval_shape(model.apply, params, data.inputs).shape)
        (5, 10)
        (5, 6, 7)
    """
    check_settings("tanh", init, scale, width=width, layers=layers)
    if not abs(forget_bias) < float("inf"):
        raise UserError(f"forget_bias is {forget_bias}: it must be a number")
    return Model(_Init(width, layers, forget_bias, init, scale), _apply)
