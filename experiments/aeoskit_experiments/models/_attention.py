"""The parts of transformers: initialization and evaluation of attention and feed-forward layers.

Everything is written in `jax.numpy`, so that it can be differentiated as often as curvature and its
derivatives need: fused layer norms have wrong third derivatives, and flash attention has no second
one.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from einops import einsum, rearrange
from jaxtyping import Array, Bool, Float, PRNGKeyArray, PyTree

from aeoskit_experiments._errors import UserError

from ._model import ACTIVATIONS, draw_layer
from ._norms import at_least_float32, layer_norm, unit_norm

TransformerInit = Literal["lecun", "gpt2"]
Precision = Literal["float32", "bfloat16"]

# GPT-2's standard deviation of weights, at any width.
GPT2_DEVIATION = 0.02
# Width of the feed-forward network in each layer, relative to the width.
EXPANSION = 4


def check_heads(width: int, heads: int) -> None:
    """Raise a `UserError` for heads that do not divide the width."""
    if width % heads:
        raise UserError(f"heads is {heads}: the width is {width}, so give a divisor of it")


def check_transformer(width: int, heads: int, init: str, precision: str) -> None:
    """Raise a `UserError` for invalid settings of a transformer."""
    check_heads(width, heads)
    if init not in get_args(TransformerInit):
        raise UserError(f"init is {init!r}: it is one of {', '.join(get_args(TransformerInit))}")
    if precision not in get_args(Precision):
        raise UserError(
            f"precision is {precision!r}: it is one of {', '.join(get_args(Precision))}"
        )


@dataclass(frozen=True)
class Initializer:
    """The initializer of the parts of a transformer.

    Args:
        width: dimension of the residual stream.
        terms: number of terms in the residual stream, each from attention or a feed-forward
            network: the weights that write to it are divided by its root, so that the initial
            variances add up to one.
        init: standard deviation of the weights: lecun, he or gpt2.
        scale: factor on all of them.
    """

    width: int
    terms: int
    init: str
    scale: float

    def dense(
        self, key: PRNGKeyArray, shape: tuple[int, int], factor: float = 1.0
    ) -> dict[str, Any]:
        """The weight of a linear layer, and its bias."""
        if self.init == "gpt2":
            factor *= GPT2_DEVIATION * shape[0] ** 0.5
        init = "lecun" if self.init == "gpt2" else self.init
        return draw_layer(key, shape, init, self.scale * factor)

    def table(self, key: PRNGKeyArray, rows: int) -> Float[Array, "rows width"]:
        """A vector for each token or position."""
        # As rows of a tied output matrix, whose number of inputs is the width.
        return self.dense(key, (self.width, rows))["weight"].T

    def norm(self) -> PyTree:
        """The parameters of a layer norm: scale 1 and bias 0."""
        return unit_norm(self.width)

    def layer(self, key: PRNGKeyArray) -> PyTree:
        """A layer of self-attention and a feed-forward network."""
        of_qkv, of_out, of_up, of_down = jax.random.split(key, 4)
        return {
            "attention": self.attention(of_qkv, of_out),
            "network": self.network(of_up, of_down),
        }

    def attention(self, of_qkv: PRNGKeyArray, of_out: PRNGKeyArray) -> PyTree:
        """The parameters of self-attention."""
        return {
            "norm": self.norm(),
            "qkv": self.dense(of_qkv, (self.width, 3 * self.width)),
            "out": self.dense(of_out, (self.width, self.width), self.terms**-0.5),
        }

    def cross_attention(
        self, of_q: PRNGKeyArray, of_kv: PRNGKeyArray, of_out: PRNGKeyArray
    ) -> PyTree:
        """The parameters of cross-attention."""
        return {
            "norm": self.norm(),
            "q": self.dense(of_q, (self.width, self.width)),
            "kv": self.dense(of_kv, (self.width, 2 * self.width)),
            "out": self.dense(of_out, (self.width, self.width), self.terms**-0.5),
        }

    def network(self, of_up: PRNGKeyArray, of_down: PRNGKeyArray) -> PyTree:
        """The parameters of a feed-forward network."""
        inner = EXPANSION * self.width
        return {
            "norm": self.norm(),
            "up": self.dense(of_up, (self.width, inner)),
            "down": self.dense(of_down, (inner, self.width), self.terms**-0.5),
        }

    def layers(
        self, key: PRNGKeyArray, count: int, stacked: bool, draw: Callable[[PRNGKeyArray], PyTree]
    ) -> PyTree:
        """`count` layers: leaves `(count, ...)`, or a list."""
        keys = jax.random.split(key, count)
        return jax.vmap(draw)(keys) if stacked else list(map(draw, keys))


def through(
    x: Float[Array, "n t width"],
    layers: PyTree,
    layer: Callable[[Array, PyTree], Array],
    *,
    remat: bool,
    precision: str,
) -> Float[Array, "n t width"]:
    """`x` after each of the layers, stacked or in a list."""
    stacked = not isinstance(layers, list)

    def step(x: Array, params: PyTree) -> tuple[Array, None]:
        return layer(x, jax.tree.map(lambda leaf: rounded(leaf, precision), params)), None

    # Outside of a loop the compiler would merge the recomputation with the first computation.
    run = jax.checkpoint(step, prevent_cse=not stacked) if remat else step
    if stacked:
        return jax.lax.scan(run, x, layers)[0]
    for params in layers:
        x, _ = run(x, params)
    return x


def rounded(x: Array, precision: str) -> Array:
    """`x` in the precision of activations and products."""
    return x.astype(jnp.bfloat16) if precision == "bfloat16" else x


def dense(x: Float[Array, "n t inputs"], layer: PyTree) -> Float[Array, "n t outputs"]:
    """The linear map of a layer, with its bias."""
    return x @ layer["weight"] + layer["bias"][None, None]


def causal(length: int) -> Bool[Array, "1 1 t t"]:
    """The causal mask: each position sees itself and those before it."""
    return jnp.tril(jnp.ones((length, length), bool))[None, None]


def self_layer(
    x: Float[Array, "n t width"],
    layer: PyTree,
    heads: int,
    mask: Bool[Array, "#n 1 #t t"] | None,
    activation: str,
) -> Float[Array, "n t width"]:
    """`x` after a layer of self-attention and a feed-forward network."""
    x = x + self_attention(x, layer["attention"], heads, mask)
    return x + network(x, layer["network"], activation)


def self_attention(
    x: Float[Array, "n t width"], layer: PyTree, heads: int, mask: Bool[Array, "#n 1 #t t"] | None
) -> Float[Array, "n t width"]:
    """Self-attention under a mask `mask`; of all positions to all if it is None."""
    qkv = dense(layer_norm(x, layer["norm"]), layer["qkv"])
    q, k, v = rearrange(qkv, "n t (three heads d) -> three n heads t d", three=3, heads=heads)
    return _read(q, k, v, layer["out"], mask)


def cross_attention(
    x: Float[Array, "n t width"],
    memory: Float[Array, "n s width"],
    layer: PyTree,
    heads: int,
    mask: Bool[Array, "#n 1 #t s"],
) -> Float[Array, "n t width"]:
    """Cross-attention to another sequence, which is normalized already."""
    q = rearrange(
        dense(layer_norm(x, layer["norm"]), layer["q"]), "n t (heads d) -> n heads t d", heads=heads
    )
    kv = dense(memory, layer["kv"])
    k, v = rearrange(kv, "n s (two heads d) -> two n heads s d", two=2, heads=heads)
    return _read(q, k, v, layer["out"], mask)


def _read(
    q: Float[Array, "n heads t d"],
    k: Float[Array, "n heads s d"],
    v: Float[Array, "n heads s d"],
    out: PyTree,
    mask: Bool[Array, "#n 1 #t s"] | None,
) -> Float[Array, "n t width"]:
    """Scaled dot-product attention, all scores at once."""
    scores = at_least_float32(einsum(q, k, "n heads t d, n heads s d -> n heads t s"))
    weights = jax.nn.softmax(scores * q.shape[-1] ** -0.5, axis=-1, where=mask)
    mixed = einsum(weights.astype(q.dtype), v, "n heads t s, n heads s d -> n heads t d")
    return dense(rearrange(mixed, "n heads t d -> n t (heads d)"), out)


def network(x: Float[Array, "n t width"], layer: PyTree, activation: str) -> Array:
    """The feed-forward network of a layer, the same at each position."""
    h = ACTIVATIONS[activation](dense(layer_norm(x, layer["norm"]), layer["up"]))
    return dense(h, layer["down"])


def logits(
    x: Float[Array, "n t width"], params: PyTree, precision: str
) -> Float[Array, "n t vocabulary"]:
    """The logits of each token, through the head, or through the tied token embedding."""
    head = params["head"] if "head" in params else params["tokens"].T
    # In the parameters' precision: a loss takes differences of them.
    return jnp.matmul(
        layer_norm(x, params["norm"]),
        rounded(head, precision),
        preferred_element_type=params["tokens"].dtype,
    )
