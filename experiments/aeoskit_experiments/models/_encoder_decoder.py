"""Transformers of an encoder and a decoder."""

from dataclasses import dataclass, replace
from typing import Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.data import AnyDataset
from aeoskit_experiments.options import Count, Positive

from ._attention import (
    Initializer,
    Precision,
    TransformerInit,
    causal,
    check_transformer,
    cross_attention,
    logits,
    network,
    rounded,
    self_attention,
    self_layer,
    through,
)
from ._model import Activation, Model, check_settings, pairs_of
from ._norms import layer_norm

PairSizeName = Literal["tiny", "base", "big"]
PADDING = 0


@dataclass(frozen=True)
class _Size:
    layers: int
    heads: int
    width: int


# base and big are those of the paper.
_SIZES: dict[str, _Size] = {
    "tiny": _Size(layers=2, heads=2, width=64),
    "base": _Size(layers=6, heads=8, width=512),
    "big": _Size(layers=6, heads=16, width=1024),
}


@dataclass(frozen=True)
class _Init:
    size: _Size
    context: int | None
    tied: bool
    stacked: bool
    init: str
    scale: float

    def __call__(self, key: PRNGKeyArray, dataset: AnyDataset) -> PyTree:
        pairs = pairs_of(dataset, "encoder_decoder")
        source, known = (side.shape[1] for side in pairs.inputs)
        longest = max(source, known)
        if self.context is not None and longest > self.context:
            raise UserError(
                f"context is {self.context}: the longer of source and target has {longest} "
                f"tokens, so raise it to {longest}, or shorten the data's length"
            )
        width, layers = self.size.width, self.size.layers
        of_tokens, of_head, of_encoder, of_decoder = jax.random.split(key, 4)
        params = {
            "tokens": self._initializer(2 * layers).table(of_tokens, pairs.vocabulary),
            "encoder": self._encoder(of_encoder, self.context or source),
            "decoder": self._decoder(of_decoder, self.context or known),
            "norm": self._initializer(3 * layers).norm(),
        }
        if not self.tied:
            head = self._initializer(3 * layers).dense(of_head, (width, pairs.vocabulary))
            params["head"] = head["weight"]
        return params

    def _encoder(self, key: PRNGKeyArray, positions: int) -> PyTree:
        initializer = self._initializer(2 * self.size.layers)
        of_positions, of_layers = jax.random.split(key)
        return {
            "positions": initializer.table(of_positions, positions),
            "layers": initializer.layers(
                of_layers, self.size.layers, self.stacked, initializer.layer
            ),
            "norm": initializer.norm(),
        }

    def _decoder(self, key: PRNGKeyArray, positions: int) -> PyTree:
        initializer = self._initializer(3 * self.size.layers)

        def layer(key: PRNGKeyArray) -> PyTree:
            of_qkv, of_out, of_q, of_kv, of_cross, of_up, of_down = jax.random.split(key, 7)
            return {
                "attention": initializer.attention(of_qkv, of_out),
                "cross": initializer.cross_attention(of_q, of_kv, of_cross),
                "network": initializer.network(of_up, of_down),
            }

        of_positions, of_layers = jax.random.split(key)
        return {
            "positions": initializer.table(of_positions, positions),
            "layers": initializer.layers(of_layers, self.size.layers, self.stacked, layer),
        }

    def _initializer(self, terms: int) -> Initializer:
        return Initializer(self.size.width, terms, self.init, self.scale)


@dataclass(frozen=True)
class _Apply:
    heads: int
    activation: str
    remat: bool
    precision: str

    def __call__(
        self, params: PyTree, inputs: tuple[Int[Array, "n source"], Int[Array, "n target"]]
    ) -> Float[Array, "n target vocabulary"]:
        source, known = inputs
        mask = _not_padding(source)
        encoder, decoder = params["encoder"], params["decoder"]

        def encode(x: Float[Array, "n s width"], layer: PyTree) -> Float[Array, "n s width"]:
            return self_layer(x, layer, self.heads, mask, self.activation)

        x = self._embed(params["tokens"], encoder["positions"], source, "source")
        memory = layer_norm(self._through(x, encoder["layers"], encode), encoder["norm"])
        causal_mask = causal(known.shape[1])

        def decode(x: Float[Array, "n t width"], layer: PyTree) -> Float[Array, "n t width"]:
            x = x + self_attention(x, layer["attention"], self.heads, causal_mask)
            x = x + cross_attention(x, memory, layer["cross"], self.heads, mask)
            return x + network(x, layer["network"], self.activation)

        x = self._embed(params["tokens"], decoder["positions"], known, "target")
        return logits(self._through(x, decoder["layers"], decode), params, self.precision)

    def _embed(
        self,
        tokens: Float[Array, "vocabulary width"],
        positions: Float[Array, "context width"],
        sequences: Int[Array, "n t"],
        side: str,
    ) -> Float[Array, "n t width"]:
        length, context = sequences.shape[1], positions.shape[0]
        if length > context:
            raise UserError(
                f"the {side} has {length} tokens: the encoder-decoder was made for at most "
                f"{context}, so raise its context"
            )
        x = jnp.take(tokens, sequences, axis=0) + positions[None, :length]
        return rounded(x, self.precision)

    def _through(self, x: Array, layers: PyTree, layer) -> Array:
        return through(x, layers, layer, remat=self.remat, precision=self.precision)


def _not_padding(source: Int[Array, "n source"]) -> Bool[Array, "n 1 1 source"]:
    """The mask of the source: its padding is not attended to."""
    tokens = source != PADDING
    # A softmax over no tokens would be 0/0: a source of padding alone counts as tokens.
    mask = tokens | ~jnp.any(tokens, axis=1, keepdims=True)
    return mask[:, None, None]


def encoder_decoder(
    *,
    size: PairSizeName = "tiny",
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
    """An encoder-decoder transformer: it reads one sequence and predicts another, token by token.

    The encoder attends to the whole source except its padding (token 0); the decoder predicts each
    token of the target from those before it and from the encoder's output. As in model transformer,
    layer norms come before attention and feed-forward network, positions are learned, and there is
    no dropout; both sides share the token embedding.

    Source: Vaswani et al., *Attention is all you need* (2017, arXiv:1706.03762), whose layer norms
    come after instead, whose positions are sinusoidal, and whose feed-forward networks have relu.

    Args:
        size: tiny (2 layers, 2 heads, width 64), base (6, 8, 512) or big (6, 16, 1024), the last
            two from the paper; the options below override it.
        layers: Number of layers of the encoder, and of the decoder.
        heads: Number of attention heads; a divisor of the width.
        width: Dimension of the residual stream.
        context: Largest length of source and target; the data's lengths, if not given.
        tied: Whether the output matrix is the token embedding.
        stacked: Whether the layers' parameters are stacked and run in a loop, so that a deep
            network compiles as fast as a shallow one; matrix preconditioners need them apart.
        activation: The nonlinearity; the paper's is relu, whose kinks the Hessian does not see.
        init: Standard deviation of the weights; lecun is 1/√fan_in, gpt2 is 0.02. Those that write
            to the residual stream are also divided by the root of the number of its terms.
        scale: Factor on all initial weights.
        remat: Keep only the layers' inputs and recompute the rest of a layer when it is
            differentiated: less memory for about a third more work.
        precision: Precision of activations and products; bfloat16 keeps the parameters, softmax,
            the norms' statistics and the logits in float32.

    Returns:
        The model, for data of pairs of sequences.

    Raises:
        UserError: if a size is below 1, the heads do not divide the width, `scale` is not positive,
            a name is unknown, or (from `init`) a sequence is longer than `context`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> from aeoskit_experiments.data import PairDataset
        >>> source, known, target = (jnp.ones((5, length), int) for length in (4, 3, 3))
        >>> data = PairDataset((source, known), (target, jnp.ones((5, 3))), vocabulary=7)
        >>> model = encoder_decoder(width=8)
        >>> params = jax.eval_shape(model.init, jax.random.key(0), data)
        >>> jax.eval_shape(model.apply, params, data.inputs).shape
        (5, 3, 7)
    """
    if size not in _SIZES:
        raise UserError(f"size is {size!r}: it is one of {', '.join(_SIZES)}")
    given = {"layers": layers, "heads": heads, "width": width}
    overrides = {name: value for name, value in given.items() if value is not None}
    whole = replace(_SIZES[size], **overrides)
    check_settings(
        activation, "lecun", scale, **overrides, **({} if context is None else {"context": context})
    )
    check_transformer(whole.width, whole.heads, init, precision)
    return Model(
        _Init(whole, context, tied, stacked, init, scale),
        _Apply(whole.heads, activation, remat, precision),
    )
