"""Normalizations, written in `jax.numpy`: fused kernels have wrong third derivatives."""

from dataclasses import dataclass
from typing import Any, Literal, get_args

import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, PyTree

from aeoskit_experiments._errors import UserError

Norm = Literal["batch", "group", "layer", "none"]

# The constant added inside the roots.
NORM_EPS = 1e-5


def layer_norm(x: Float[Array, "*n width"], norm: PyTree) -> Float[Array, "*n width"]:
    """Layer norm: mean 0 and variance 1 over the last axis, for each example and position.

    Args:
        x: the input.
        norm: `scale` and `bias`, `(width,)`.

    Returns:
        An array like `x`. Statistics are in single precision at least.

    Source: Ba, Kiros, Hinton, arXiv 1607.06450.

    >>> layer_norm(jnp.array([[1.0, 3.0]]), {"scale": jnp.ones(2), "bias": jnp.zeros(2)}).round(4)
    Array([[-1.,  1.]], dtype=float32)
    """
    return _affine(_standardized(x, (-1,)), norm)


def group_norm(
    x: Float[Array, "n height width c"], norm: PyTree, groups: int
) -> Float[Array, "n height width c"]:
    """Group norm: mean 0 and variance 1 over an example's pixels and the channels of a group.

    Args:
        x: images.
        norm: `scale` and `bias`, `(c,)`.
        groups: their number, a divisor of the channels. One is layer norm of the whole image.

    Returns:
        Images of that size.

    Source: Wu, He, arXiv 1803.08494.

    >>> norm = {"scale": jnp.ones(2), "bias": jnp.zeros(2)}
    >>> group_norm(jnp.array([[[[1.0, 5.0], [3.0, 9.0]]]]), norm, groups=2).round(4)
    Array([[[[-1., -1.],
             [ 1.,  1.]]]], dtype=float32)
    """
    x = rearrange(x, "n height width (groups c) -> n height width groups c", groups=groups)
    x = _standardized(x, (1, 2, 4))
    return _affine(rearrange(x, "n height width groups c -> n height width (groups c)"), norm)


def batch_norm(x: Float[Array, "n *place c"], norm: PyTree) -> Float[Array, "n *place c"]:
    """Batch norm in training mode: mean 0 and variance 1 of each channel over the whole batch.

    Statistics are those of the batch, without running averages, so that an example's output depends
    on the rest of the batch: the loss has to be evaluated on the whole batch.

    Args:
        x: images, or rows.
        norm: `scale` and `bias`, `(c,)`.

    Returns:
        An array like `x`.

    Source: Ioffe, Szegedy, arXiv 1502.03167.

    >>> norm = {"scale": jnp.ones(1), "bias": jnp.zeros(1)}
    >>> batch_norm(jnp.array([[1.0], [3.0]]), norm).round(4)
    Array([[-1.],
           [ 1.]], dtype=float32)
    """
    return _affine(_standardized(x, tuple(range(x.ndim - 1))), norm)


def unit_norm(width: int) -> dict[str, Any]:
    """The initial parameters of a normalization."""
    return {"scale": jnp.ones(width, jnp.float32), "bias": jnp.zeros(width, jnp.float32)}


@dataclass(frozen=True)
class Normalization:
    """The normalization after (or before) the convolutions of a network of images.

    Args:
        kind: batch, group, layer or none, which leaves a bias.
        groups: Number of groups, for kind group.
    """

    kind: str
    groups: int

    @property
    def couples(self) -> bool:
        """True if outputs depend on the other examples of a batch."""
        return self.kind == "batch"

    def check(self, **channels: int) -> None:
        """Raise a `UserError` for settings that do not fit these numbers of channels."""
        if self.kind not in get_args(Norm):
            raise UserError(f"norm is {self.kind!r}: it is one of {', '.join(get_args(Norm))}")
        if self.groups < 1:
            raise UserError(f"groups is {self.groups}: it must be at least 1")
        for name, value in channels.items():
            if self.kind == "group" and value % self.groups:
                raise UserError(
                    f"groups is {self.groups}: {name} is {value}, so give a "
                    "divisor of it, or choose norm layer"
                )

    def draw(self, channels: int) -> dict[str, Any]:
        """The initial parameters."""
        norm = unit_norm(channels)
        return {"bias": norm["bias"]} if self.kind == "none" else norm

    def __call__(
        self, x: Float[Array, "n height width c"], norm: PyTree
    ) -> Float[Array, "n height width c"]:
        """Images, normalized by the `scale` and `bias` among the parameters of a layer."""
        match self.kind:
            case "batch":
                return batch_norm(x, norm)
            case "group":
                return group_norm(x, norm, self.groups)
            case "layer":
                return group_norm(x, norm, 1)
        return x + norm["bias"][None, None, None]


def at_least_float32(x: Array) -> Array:
    """`x` in single precision at least, for exponentials and statistics."""
    return x.astype(jnp.float32) if x.dtype.itemsize < 4 else x


def _standardized(x: Array, axes: tuple[int, ...]) -> Array:
    exact = at_least_float32(x)
    centred = exact - jnp.mean(exact, axis=axes, keepdims=True)
    variance = jnp.mean(centred**2, axis=axes, keepdims=True)
    return (centred * jax.lax.rsqrt(variance + NORM_EPS)).astype(x.dtype)


def _affine(x: Array, norm: PyTree) -> Array:
    along = (None,) * (x.ndim - 1)
    scale, bias = (norm[name].astype(x.dtype)[along] for name in ("scale", "bias"))
    return x * scale + bias
