"""Plain stacks of convolutions, VGG's."""

from dataclasses import dataclass
from typing import Literal, get_args

import jax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.data import AnyDataset
from aeoskit_experiments.options import Count, Positive

from ._convolution import CONVOLUTIONS, Convolution, check_convolution
from ._images import as_images, halved, read_out, square_images
from ._model import ACTIVATIONS, Activation, Init, Model, check_settings, draw_layer
from ._norms import Norm, Normalization

Pool = Literal["mean", "max"]

# VGG-11: for each block, the channels of its convolutions relative to those of the first.
BLOCKS = ((1,), (2,), (4, 4), (8, 8), (8, 8))


@dataclass(frozen=True)
class _Init:
    channels: int
    blocks: int | None
    norm: Normalization
    init: str
    scale: float

    def __call__(self, key: PRNGKeyArray, dataset: AnyDataset) -> PyTree:
        side, inputs, images = square_images(dataset, "vgg")
        halvings = side.bit_length() - 1
        if not halvings:
            raise UserError(
                "the data are 1x1, but vgg halves images: choose model mlp, or data digits"
            )
        if self.blocks is not None and self.blocks > halvings:
            raise UserError(
                f"blocks is {self.blocks}: images of {side}x{side} can be halved {halvings} times, "
                f"give at most {halvings}"
            )
        *keys, last = jax.random.split(key, sum(map(len, BLOCKS)) + 1)
        rest, blocks = iter(keys), []
        for factors in BLOCKS[: self.blocks or halvings]:
            block = []
            for channels in (factor * self.channels for factor in factors):
                layer = draw_layer(next(rest), (3, 3, inputs, channels), self.init, self.scale)
                block.append(layer | self.norm.draw(channels))
                inputs = channels
            blocks.append(block)
        head = draw_layer(last, (inputs, images.num_classes), self.init, self.scale)
        return {"blocks": blocks, "head": head}


@dataclass(frozen=True)
class _Apply:
    norm: Normalization
    pool: str
    activation: str
    convolution: str

    def __call__(
        self, params: PyTree, inputs: Float[Array, "n features"]
    ) -> Float[Array, "n classes"]:
        x = as_images(inputs, params["blocks"][0][0]["weight"].shape[2])
        for block in params["blocks"]:
            for layer in block:
                x = self.norm(CONVOLUTIONS[self.convolution](x, layer["weight"]), layer)
                x = ACTIVATIONS[self.activation](x)
            x = halved(x, self.pool)
        return read_out(x, params["head"])


def vgg(
    *,
    channels: Count = 16,
    blocks: int | None = None,
    norm: Norm = "none",
    groups: int = 4,
    pool: Pool = "mean",
    activation: Activation = "tanh",
    convolution: Convolution = "shifted",
    init: Init = "lecun",
    scale: Positive = 1.0,
) -> Model:
    """VGG-11: blocks of 3×3 convolutions that halve the image; one dense layer at the end.

    Blocks end where the image is a single pixel, so that images of 32×32 have all five, of 28×28
    four and of 8×8 three: so no weight sees only padding. The remaining pixels are averaged. Mean
    pooling is smooth; VGG's own max pooling is not.

    Args:
        channels: Channels of the first block; the others have 2, 4, 8 and 8 times as many.
        blocks: Number of blocks, at most five; as many as the images can be halved, if not given.
        norm: Normalization between convolution and nonlinearity; layer is over the whole image,
            batch over all examples.
        groups: Number of groups of channels, for norm group.
        pool: Pooling of 2×2 pixels at the end of a block.
        activation: The nonlinearity.
        convolution: As nine shifted matrix products (fast in compiled loops on CPU), or XLA's own.
        init: Variance of the weights; lecun is 1/fan_in, he is 2/fan_in.
        scale: Factor on all initial weights.

    Returns:
        The model, for square images. With `channels=64`, the paper's network.

    Raises:
        UserError: if a size is below 1, `scale` is not positive, a name is unknown, the groups do
            not divide the channels, or (from `init`) the images are not square or cannot be halved
            that often.

    Source: Simonyan, Zisserman, arXiv 1409.1556, network A, without its three dense layers.

    Example:
        >>> import jax
        >>> from aeoskit_experiments.data import digits
        >>> data, model = digits(examples=5), vgg(channels=4)
        >>> params = jax.eval_shape(model.init, jax.random.key(0), data)
        >>> [len(block) for block in params["blocks"]]
        [1, 1, 2]
        >>> jax.eval_shape(model.apply, params, data.inputs).shape
        (5, 10)
    """
    overrides = {} if blocks is None else {"blocks": blocks}
    check_settings(activation, init, scale, channels=channels, **overrides)
    check_convolution(convolution)
    if blocks is not None and blocks > len(BLOCKS):
        raise UserError(f"blocks is {blocks}: VGG has at most {len(BLOCKS)}")
    if pool not in get_args(Pool):
        raise UserError(f"pool is {pool!r}: it is one of {', '.join(get_args(Pool))}")
    normalization = Normalization(norm, groups)
    normalization.check(channels=channels)
    return Model(
        _Init(channels, blocks, normalization, init, scale),
        _Apply(normalization, pool, activation, convolution),
        normalization.couples,
    )
