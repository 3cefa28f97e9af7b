"""Decoder-only transformers of GPT-2's shape."""

from dataclasses import dataclass, replace
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.data import AnyDataset
from aeoskit_experiments.options import Count, Positive

from ._attention import (
    Initializer,
    Precision,
    TransformerInit,
    causal,
    check_transformer,
    logits,
    rounded,
    self_layer,
    through,
)
from ._model import Activation, Model, check_settings, tokens_of

SizeName = Literal["tiny", "gpt2-small", "1b"]


@dataclass(frozen=True)
class TransformerSize:
    """The size of a transformer.

    Args:
        layers: Number of layers.
        heads: Number of attention heads.
        width: Dimension of the residual stream.
        context: Largest length of a sequence; None for the data's length.
        vocabulary: The usual vocabulary of this size; the model itself takes the data's.
    """

    layers: int
    heads: int
    width: int
    context: int | None
    vocabulary: int


_SIZES: dict[str, TransformerSize] = {
    "tiny": TransformerSize(layers=2, heads=2, width=64, context=None, vocabulary=32),
    "gpt2-small": TransformerSize(layers=12, heads=12, width=768, context=1024, vocabulary=50257),
    "1b": TransformerSize(layers=18, heads=16, width=2048, context=1024, vocabulary=50257),
}


def transformer_size(name: SizeName) -> TransformerSize:
    """A size by its name.

    With their vocabulary and the output tied, gpt2-small has 124,439,808 parameters and 1b has
    1,011,476,480.

    Args:
        name: tiny, gpt2-small or 1b.

    Returns:
        The size.

    Raises:
        UserError: if there is no such size.

    Example:
        >>> transformer_size("gpt2-small").width
        768
    """
    if name not in _SIZES:
        raise UserError(f"size is {name!r}: it is one of {', '.join(_SIZES)}")
    return _SIZES[name]


@dataclass(frozen=True)
class _Init:
    size: TransformerSize
    tied: bool
    stacked: bool
    init: str
    scale: float

    def __call__(self, key: PRNGKeyArray, dataset: AnyDataset) -> PyTree:
        tokens_data = tokens_of(dataset, "transformer")
        length, context = tokens_data.inputs.shape[1], self.size.context
        if context is not None and length > context:
            raise UserError(
                f"context is {context}: the sequences have {length} tokens, so raise it to "
                f"{length}, or shorten the data's length"
            )
        width, layers = self.size.width, self.size.layers
        initializer = Initializer(width, 2 * layers, self.init, self.scale)
        of_tokens, of_positions, of_layers, of_head = jax.random.split(key, 4)
        params = {
            "tokens": initializer.table(of_tokens, tokens_data.vocabulary),
            "positions": initializer.table(of_positions, context or length),
            "layers": initializer.layers(of_layers, layers, self.stacked, initializer.layer),
            "norm": initializer.norm(),
        }
        if not self.tied:
            params["head"] = initializer.dense(of_head, (width, tokens_data.vocabulary))["weight"]
        return params


@dataclass(frozen=True)
class _Apply:
    heads: int
    activation: str
    remat: bool
    precision: str

    def __call__(
        self, params: PyTree, inputs: Int[Array, "n length"]
    ) -> Float[Array, "n length vocabulary"]:
        length, context = inputs.shape[1], params["positions"].shape[0]
        if length > context:
            raise UserError(
                f"the sequences have {length} tokens: the transformer was made for at most "
                f"{context}, so raise its context"
            )
        x = jnp.take(params["tokens"], inputs, axis=0) + params["positions"][None, :length]
        x = through(
            rounded(x, self.precision),
            params["layers"],
            self._layer,
            remat=self.remat,
            precision=self.precision,
        )
        return logits(x, params, self.precision)

    def _layer(self, x: Float[Array, "n t width"], layer: PyTree) -> Float[Array, "n t width"]:
        return self_layer(x, layer, self.heads, causal(x.shape[1]), self.activation)


def transformer(
    *,
    size: SizeName = "tiny",
    layers: Count | None = None,
    heads: Count | None = None,
    width: Count | None = None,
    context: Count | None = None,
    tied: bool = True,
    stacked: bool = True,
    activation: Activation = "gelu",
    init: TransformerInit = "lecun",
    scale: Positive = 1.0,
    remat: bool = False,
    precision: Precision = "float32",
) -> Model:
    """A decoder-only transformer of GPT-2's shape: it predicts the next token at every position.

    Layer norms before attention and feed-forward network, learned positions, a feed-forward width
    of four times the width, no dropout. Attention is unfused: the scores of all pairs of positions
    are in memory.

    Args:
        size: tiny (2 layers, 2 heads, width 64), gpt2-small (12, 12, 768, context 1024) or 1b (18,
            16, 2048, context 1024); the options below override it.
        layers: Number of layers.
        heads: Number of attention heads; a divisor of the width.
        width: Dimension of the residual stream.
        context: Largest length of a sequence; for tiny the data's length, if not given.
        tied: Whether the output matrix is the token embedding.
        stacked: Whether the layers' parameters are stacked, leaves `(layers, ...)`, and run in a
            loop, so that a deep network compiles as fast as a shallow one; otherwise each layer has
            its own matrices, as matrix preconditioners need them.
        activation: The nonlinearity; gelu is GPT-2's, by tanh.
        init: Standard deviation of the weights; lecun is 1/√fan_in, gpt2 is 0.02. Those that write
            to the residual stream are also divided by √(2 layers).
        scale: Factor on all initial weights.
        remat: Keep only the layers' inputs and recompute the rest of a layer when it is
            differentiated: memory of one layer instead of all, for about a third more work.
        precision: Precision of activations and products; bfloat16 keeps the parameters, softmax,
            the norms' statistics and the logits in float32.

    Returns:
        The model, for data of tokens.

    Raises:
        UserError: if a size is below 1, the heads do not divide the width, `scale` is not positive,
            a name is unknown, or (from `init`) the sequences are longer than `context`.

    Example:
        >>> import jax
        >>> from aeoskit_experiments.data import tokens
        >>> data, model = tokens(examples=5, length=6, vocabulary=7), transformer(width=8)
        >>> params = jax.eval_shape(model.init, jax.random.key(0), data)
        >>> jax.eval_shape(model.apply, params, data.inputs).shape
        (5, 6, 7)
    """
    given = {"layers": layers, "heads": heads, "width": width, "context": context}
    overrides = {name: value for name, value in given.items() if value is not None}
    whole = replace(transformer_size(size), **overrides)
    check_settings(activation, "lecun", scale, **overrides)
    check_transformer(whole.width, whole.heads, init, precision)
    return Model(
        _Init(whole, tied, stacked, init, scale), _Apply(whole.heads, activation, remat, precision)
    )
