"""Residual networks of He and others, for small images."""

from dataclasses import dataclass

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from aeoskit_experiments.data import AnyDataset
from aeoskit_experiments.options import Count, Positive

from ._convolution import CONVOLUTIONS, Convolution, check_convolution
from ._images import as_images, read_out, square_images
from ._model import ACTIVATIONS, Activation, Init, Model, check_settings, draw_layer
from ._norms import Norm, Normalization

# Each has twice the channels of the one before, on half the side.
STAGES = 3


@dataclass(frozen=True)
class _Init:
    channels: int
    blocks: int
    norm: Normalization
    init: str
    scale: float

    def __call__(self, key: PRNGKeyArray, dataset: AnyDataset) -> PyTree:
        _, inputs, images = square_images(dataset, "resnet")
        depth = STAGES * self.blocks
        *keys, last = jax.random.split(key, 2 * depth + 2)
        rest = iter(keys)
        # Without a norm the blocks' variances add up: their initial sum is one.
        damped = depth**-0.5 if self.norm.kind == "none" else 1.0

        def convolution(inputs: int, outputs: int, factor: float = 1.0) -> PyTree:
            scale = factor * self.scale
            layer = draw_layer(next(rest), (3, 3, inputs, outputs), self.init, scale)
            return layer | self.norm.draw(outputs)

        stem, now, stages = convolution(inputs, self.channels), self.channels, []
        for channels in (2**stage * self.channels for stage in range(STAGES)):
            stage = []
            for _ in range(self.blocks):
                first = convolution(now, channels)
                stage.append({"first": first, "second": convolution(channels, channels, damped)})
                now = channels
            stages.append(stage)
        head = draw_layer(last, (now, images.num_classes), self.init, self.scale)
        return {"stem": stem, "stages": stages, "head": head}


@dataclass(frozen=True)
class _Apply:
    norm: Normalization
    activation: str
    convolution: str

    def __call__(
        self, params: PyTree, inputs: Float[Array, "n features"]
    ) -> Float[Array, "n classes"]:
        active = ACTIVATIONS[self.activation]
        x = as_images(inputs, params["stem"]["weight"].shape[2])
        x = active(self._normed(x, params["stem"]))
        for number, stage in enumerate(params["stages"]):
            for place, block in enumerate(stage):
                stride = 2 if number and not place else 1
                h = active(self._normed(x, block["first"], stride))
                h = self._normed(h, block["second"])
                x = active(_shortcut(x, h.shape[3], stride) + h)
        return read_out(x, params["head"])

    def _normed(self, x: Array, layer: PyTree, stride: int = 1) -> Array:
        return self.norm(CONVOLUTIONS[self.convolution](x, layer["weight"], stride), layer)


def _shortcut(
    x: Float[Array, "n height width c"], channels: int, stride: int
) -> Float[Array, "n rows columns channels"]:
    """The identity; where the image shrinks, every other pixel, and zeros as the new channels."""
    x = x[:, ::stride, ::stride]
    return jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, channels - x.shape[3])))


def resnet(
    *,
    channels: Count = 16,
    blocks: int = 3,
    norm: Norm = "group",
    groups: int = 4,
    activation: Activation = "gelu",
    convolution: Convolution = "shifted",
    init: Init = "lecun",
    scale: Positive = 1.0,
) -> Model:
    """ResNet for small images: three stages of blocks of two 3×3 convolutions; default ResNet-20.

    Shortcuts have no parameters (the paper's option A). The nonlinearity comes after each sum.

    Args:
        channels: Channels of the first stage; the others have 2 and 4 times as many.
        blocks: Blocks in each stage; b blocks make ResNet-(6b + 2).
        norm: Normalization after each convolution; layer is over the whole image, batch over all
            examples.
        groups: Number of groups of channels, for norm group.
        activation: The nonlinearity; the paper's is relu.
        convolution: As nine shifted matrix products (fast in compiled loops on CPU), or XLA's own.
        init: Variance of the weights; lecun is 1/fan_in, he (the paper's) is 2/fan_in.
        scale: Factor on all initial weights.

    Returns:
        The model, for square images.

    Raises:
        UserError: if a size is below 1, `scale` is not positive, a name is unknown, the groups do
            not divide the channels, or (from `init`) the images are not square.

    Source: He, Zhang, Ren, Sun, arXiv 1512.03385, section 4.2.

    Example:
        >>> import jax
        >>> from aeoskit_experiments.data import digits
        >>> data, model = digits(examples=5), resnet(channels=8, blocks=1)
        >>> params = jax.eval_shape(model.init, jax.random.key(0), data)
        >>> jax.eval_shape(model.apply, params, data.inputs).shape
        (5, 10)
    """
    check_settings(activation, init, scale, channels=channels, blocks=blocks)
    check_convolution(convolution)
    normalization = Normalization(norm, groups)
    normalization.check(channels=channels)
    return Model(
        _Init(channels, blocks, normalization, init, scale),
        _Apply(normalization, activation, convolution),
        normalization.couples,
    )
