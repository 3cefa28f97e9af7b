"""Decoder-only transformers of GPT-2's shape."""

from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from einops import einsum, rearrange
from jaxtyping import Array, Float, Int, PRNGKeyArray, PyTree

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.data import AnyDataset, TokenDataset

from ._model import ACTIVATIONS, Activation, Model, check_settings, draw_layer

SizeName = Literal["tiny", "gpt2-small", "1b"]
TransformerInit = Literal["lecun", "gpt2"]
Precision = Literal["float32", "bfloat16"]

# GPT-2's deviation of weights, at any width, and the constant inside its layer norms' roots.
GPT2_DEVIATION = 0.02
NORM_EPS = 1e-5
# Of the network inside each layer, relative to the width.
EXPANSION = 4


@dataclass(frozen=True)
class TransformerSize:
    """How large a transformer is.

    Args:
        layers: Attention and network, one after the other, so many times.
        heads: Of each attention.
        width: Numbers that stand for a token between the layers.
        context: The longest sequence; None is the data's length.
        vocabulary: What the size is usually taken with; the model itself takes the data's.
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
        UserError: if no size is called so.

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
        if not isinstance(dataset, TokenDataset):
            raise UserError(
                "the data are rows of numbers, but transformer takes tokens: choose data markov or "
                "data tokens, or model mlp"
            )
        length, context = dataset.inputs.shape[1], self.size.context
        if context is not None and length > context:
            raise UserError(
                f"context is {context}: the sequences have {length} tokens, so raise it to "
                f"{length}, or shorten the data's length"
            )
        width, layers = self.size.width, self.size.layers
        of_tokens, of_positions, of_layers, of_head = jax.random.split(key, 4)
        keys = jax.random.split(of_layers, layers)
        params = {
            # As rows of the output's matrix, where it is tied: of so many inputs as the width.
            "tokens": self._draw(of_tokens, (width, dataset.vocabulary))["weight"].T,
            "positions": self._draw(of_positions, (width, context or length))["weight"].T,
            "layers": jax.vmap(self._layer)(keys) if self.stacked else list(map(self._layer, keys)),
            "norm": _unit_norm(width),
        }
        if not self.tied:
            params["head"] = self._draw(of_head, (width, dataset.vocabulary))["weight"]
        return params

    def _layer(self, key: PRNGKeyArray) -> PyTree:
        width = self.size.width
        # The residual stream adds two terms a layer: at the start their variances add up to one.
        last = (2 * self.size.layers) ** -0.5
        of_qkv, of_out, of_up, of_down = jax.random.split(key, 4)
        return {
            "attention": {
                "norm": _unit_norm(width),
                "qkv": self._draw(of_qkv, (width, 3 * width)),
                "out": self._draw(of_out, (width, width), last),
            },
            "network": {
                "norm": _unit_norm(width),
                "up": self._draw(of_up, (width, EXPANSION * width)),
                "down": self._draw(of_down, (EXPANSION * width, width), last),
            },
        }

    def _draw(self, key: PRNGKeyArray, shape: tuple[int, int], factor: float = 1.0) -> Any:
        if self.init == "gpt2":
            factor *= GPT2_DEVIATION * shape[0] ** 0.5
        return draw_layer(key, shape, "lecun", self.scale * factor)


def _unit_norm(width: int) -> PyTree:
    return {"scale": jnp.ones(width, jnp.float32), "bias": jnp.zeros(width, jnp.float32)}


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
        x = self._through(self._rounded(x), params["layers"])
        head = params["head"] if "head" in params else params["tokens"].T
        # Logits are as exact as the parameters: a loss takes differences of theirs.
        return jnp.matmul(
            _norm(x, params["norm"]),
            self._rounded(head),
            preferred_element_type=params["tokens"].dtype,
        )

    def _through(self, x: Float[Array, "n t width"], layers: PyTree) -> Float[Array, "n t width"]:
        stacked, layer = not isinstance(layers, list), self._layer
        if self.remat:
            # Outside of a loop the compiler would merge what is computed again with the first time.
            layer = jax.checkpoint(layer, prevent_cse=not stacked)
        if stacked:
            return jax.lax.scan(layer, x, layers)[0]
        for one in layers:
            x, _ = layer(x, one)
        return x

    def _layer(self, x: Float[Array, "n t width"], layer: PyTree) -> tuple[Array, None]:
        layer = jax.tree.map(self._rounded, layer)
        x = x + _attention(x, layer["attention"], self.heads)
        inner = layer["network"]
        h = ACTIVATIONS[self.activation](_dense(_norm(x, inner["norm"]), inner["up"]))
        return x + _dense(h, inner["down"]), None

    def _rounded(self, x: Array) -> Array:
        return x.astype(jnp.bfloat16) if self.precision == "bfloat16" else x


def _wide(x: Array) -> Array:
    """In single precision at least: for exponentials and statistics."""
    return x.astype(jnp.float32) if x.dtype.itemsize < 4 else x


def _dense(x: Float[Array, "n t inputs"], layer: PyTree) -> Float[Array, "n t outputs"]:
    return x @ layer["weight"] + layer["bias"][None, None]


def _norm(x: Float[Array, "n t width"], norm: PyTree) -> Float[Array, "n t width"]:
    """Layer normalization, written out: fused kernels have wrong third derivatives."""
    wide = _wide(x)
    centred = wide - jnp.mean(wide, axis=-1, keepdims=True)
    variance = jnp.mean(centred**2, axis=-1, keepdims=True)
    unit = (centred * jax.lax.rsqrt(variance + NORM_EPS)).astype(x.dtype)
    scale, bias = (norm[name].astype(x.dtype)[None, None] for name in ("scale", "bias"))
    return unit * scale + bias


def _attention(
    x: Float[Array, "n t width"], layer: PyTree, heads: int
) -> Float[Array, "n t width"]:
    """Causal attention, all scores at once: flash attention has no second derivative."""
    qkv = _dense(_norm(x, layer["norm"]), layer["qkv"])
    q, k, v = rearrange(qkv, "n t (three heads d) -> three n heads t d", three=3, heads=heads)
    scores = _wide(einsum(q, k, "n heads t d, n heads s d -> n heads t s"))
    seen = jnp.tril(jnp.ones((x.shape[1], x.shape[1]), bool))
    weights = jax.nn.softmax(scores * q.shape[-1] ** -0.5, axis=-1, where=seen[None, None])
    mixed = einsum(weights.astype(x.dtype), v, "n heads t s, n heads s d -> n heads t d")
    return _dense(rearrange(mixed, "n heads t d -> n t (heads d)"), layer["out"])


def transformer(
    *,
    size: SizeName = "tiny",
    layers: int | None = None,
    heads: int | None = None,
    width: int | None = None,
    context: int | None = None,
    tied: bool = True,
    stacked: bool = True,
    activation: Activation = "gelu",
    init: TransformerInit = "lecun",
    scale: float = 1.0,
    remat: bool = False,
    precision: Precision = "float32",
) -> Model:
    """A decoder-only transformer of GPT-2's shape: it tells the next token at every position.

    Layer norms before attention and network, learned positions, a network of four times the width,
    no dropout. Attention is the plain one: the scores of all pairs of positions are held.

    Args:
        size: tiny (2 layers, 2 heads, width 64), gpt2-small (12, 12, 768, context 1024) or 1b (18,
            16, 2048, context 1024); what is given besides replaces its part of it.
        layers: Number of layers.
        heads: Attention heads; the width is a multiple.
        width: Numbers that stand for a token between the layers.
        context: The longest sequence; for tiny the data's length, if not given.
        tied: Whether the output's matrix is that of the tokens.
        stacked: Whether the layers' parameters are stacked, leaves `(layers, ...)`, and run in a
            loop, so that a deep network compiles as fast as a shallow one; otherwise each layer has
            matrices of its own, as optimizers with matrix preconditioners want them.
        activation: The nonlinearity of the networks; gelu is GPT-2's, by tanh.
        init: Deviation of the weights; lecun is 1/√fan_in, gpt2 is 0.02. Those that write to the
            residual stream are divided by √(2 layers) besides.
        scale: Factor on all initial weights.
        remat: Keep only what passes between layers and compute the rest of a layer again when it is
            differentiated: memory of one layer instead of all, for about a third more work.
        precision: What activations and products are computed in; bfloat16 keeps the parameters,
            softmax, the norms' statistics and the logits in float32.

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
    said = {name: value for name, value in given.items() if value is not None}
    whole = replace(transformer_size(size), **said)
    check_settings(activation, "lecun", scale, **said)
    if whole.width % whole.heads:
        raise UserError(
            f"heads is {whole.heads}: they share a width of {whole.width} evenly, so give a "
            "divisor of it"
        )
    if init not in get_args(TransformerInit):
        raise UserError(f"init is {init!r}: it is one of {', '.join(get_args(TransformerInit))}")
    if precision not in get_args(Precision):
        raise UserError(
            f"precision is {precision!r}: it is one of {', '.join(get_args(Precision))}"
        )
    return Model(
        _Init(whole, tied, stacked, init, scale), _Apply(whole.heads, activation, remat, precision)
    )
