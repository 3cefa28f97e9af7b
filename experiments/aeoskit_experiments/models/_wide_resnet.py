"""Wide residual networks."""

from dataclasses import dataclass

import jax
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from aeoskit_experiments._errors import UserError
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
    blocks: int
    widen: int
    channels: int
    norm: Normalization
    init: str
    scale: float

    def __call__(self, key: PRNGKeyArray, dataset: AnyDataset) -> PyTree:
        _, inputs, images = square_images(dataset, "wide_resnet")
        depth = STAGES * self.blocks
        *keys, last = jax.random.split(key, 3 * depth + 2)
        rest = iter(keys)
        # Without a norm the blocks' variances add up: their initial sum is one.
        damped = depth**-0.5 if self.norm.kind == "none" else 1.0

        def convolution(size: int, inputs: int, outputs: int, factor: float = 1.0) -> PyTree:
            shape, scale = (size, size, inputs, outputs), factor * self.scale
            return {"weight": draw_layer(next(rest), shape, self.init, scale)["weight"]}

        stem, now, stages = convolution(3, inputs, self.channels), self.channels, []
        for channels in (2**stage * self.widen * self.channels for stage in range(STAGES)):
            stage = []
            for place in range(self.blocks):
                first = convolution(3, now, channels) | self.norm.draw(channels)
                second = convolution(3, channels, channels, damped)
                block = {"norm": self.norm.draw(now), "first": first, "second": second}
                if not place and (now != channels or stages):
                    block["shortcut"] = convolution(1, now, channels)
                now = channels
                stage.append(block)
            stages.append(stage)
        head = draw_layer(last, (now, images.num_classes), self.init, self.scale)
        return {"stem": stem, "stages": stages, "norm": self.norm.draw(now), "head": head}


@dataclass(frozen=True)
class _Apply:
    norm: Normalization
    activation: str
    convolution: str

    def __call__(
        self, params: PyTree, inputs: Float[Array, "n features"]
    ) -> Float[Array, "n classes"]:
        convolve, active = CONVOLUTIONS[self.convolution], ACTIVATIONS[self.activation]
        x = as_images(inputs, params["stem"]["weight"].shape[2])
        x = convolve(x, params["stem"]["weight"])
        for number, stage in enumerate(params["stages"]):
            for place, block in enumerate(stage):
                stride = 2 if number and not place else 1
                start = active(self.norm(x, block["norm"]))
                h = self.norm(convolve(start, block["first"]["weight"], stride), block["first"])
                h = convolve(active(h), block["second"]["weight"])
                if "shortcut" in block:
                    x = convolve(start, block["shortcut"]["weight"], stride)
                x = x + h
        return read_out(active(self.norm(x, params["norm"])), params["head"])


def wide_resnet(
    *,
    depth: Count = 10,
    widen: int = 2,
    channels: Count = 16,
    norm: Norm = "group",
    groups: int = 4,
    activation: Activation = "gelu",
    convolution: Convolution = "shifted",
    init: Init = "lecun",
    scale: Positive = 1.0,
) -> Model:
    """Wide ResNet, WRN-depth-widen: three stages of wide blocks, norm and nonlinearity first.

    No dropout. Where a block changes the number of channels, its shortcut is a 1×1 convolution.

    Args:
        depth: Number of convolutions on the longest path; 4 more than a multiple of 6.
        widen: Factor on the channels of all stages.
        channels: Channels before the stages, which have 1, 2 and 4 times as many, times `widen`.
        norm: Normalization before each nonlinearity; layer is over the whole image, batch over all
            examples.
        groups: Number of groups of channels, for norm group.
        activation: The nonlinearity; the paper's is relu.
        convolution: As nine shifted matrix products (fast in compiled loops on CPU), or XLA's own.
        init: Variance of the weights; lecun is 1/fan_in, he (the paper's) is 2/fan_in.
        scale: Factor on all initial weights.

    Returns:
        The model, for square images.

    Raises:
        UserError: if a size is below 1, `depth` is not 10, 16, 22 and so on, `scale` is not
            positive, a name is unknown, the groups do not divide the channels, or (from `init`)
            the images are not square.

    Source: Zagoruyko, Komodakis, arXiv 1605.07146.

    Example:
        >>> import jax
        >>> from aeoskit_experiments.data import digits
        >>> data, model = digits(examples=5), wide_resnet(channels=4)
        >>> params = jax.eval_shape(model.init, jax.random.key(0), data)
        >>> jax.eval_shape(model.apply, params, data.inputs).shape
        (5, 10)
    """
    check_settings(activation, init, scale, depth=depth, widen=widen, channels=channels)
    check_convolution(convolution)
    blocks, rest = divmod(depth - 4, 2 * STAGES)
    if blocks < 1 or rest:
        nearest = 4 + 2 * STAGES * max(1, blocks)
        raise UserError(
            f"depth is {depth}: a wide ResNet has 4 convolutions more than a multiple of "
            f"{2 * STAGES}, so give {nearest} or {nearest + 2 * STAGES}"
        )
    normalization = Normalization(norm, groups)
    normalization.check(channels=channels)
    return Model(
        _Init(blocks, widen, channels, normalization, init, scale),
        _Apply(normalization, activation, convolution),
        normalization.couples,
    )
