"""Convolutional networks."""

from dataclasses import dataclass

import jax
from einops import rearrange
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.data import AnyDataset
from aeoskit_experiments.options import Count, Positive

from ._convolution import CONVOLUTIONS, Convolution, check_convolution
from ._images import as_images, halved, square_images
from ._model import ACTIVATIONS, Activation, Init, Model, check_settings, draw_layer


@dataclass(frozen=True)
class _Init:
    channels: int
    depth: int
    init: str
    scale: float

    def __call__(self, key: PRNGKeyArray, dataset: AnyDataset) -> PyTree:
        side, inputs, images = square_images(dataset, "cnn")
        shrink = 2**self.depth
        if side % shrink:
            halvings = next(depth for depth in range(self.depth) if side % 2 ** (depth + 1))
            fix = f"give at most {halvings}" if halvings else "take model vgg, resnet or mlp"
            raise UserError(
                f"depth is {self.depth}: images of {side}x{side} can be halved {halvings} times, "
                f"and each convolution halves them: {fix}"
            )
        *keys, last = jax.random.split(key, self.depth + 1)
        layers = []
        for k in keys:
            layers.append(draw_layer(k, (3, 3, inputs, self.channels), self.init, self.scale))
            inputs = self.channels
        features = (side // shrink) ** 2 * inputs
        head = draw_layer(last, (features, images.num_classes), self.init, self.scale)
        return {"convolutions": layers, "head": head}


@dataclass(frozen=True)
class _Apply:
    activation: str
    convolution: str

    def __call__(
        self, params: PyTree, inputs: Float[Array, "n features"]
    ) -> Float[Array, "n classes"]:
        x = as_images(inputs, params["convolutions"][0]["weight"].shape[2])
        for layer in params["convolutions"]:
            x = CONVOLUTIONS[self.convolution](x, layer["weight"])
            x = halved(ACTIVATIONS[self.activation](x + layer["bias"][None, None, None]))
        x = rearrange(x, "n height width c -> n (height width c)")
        return x @ params["head"]["weight"] + params["head"]["bias"][None]


def cnn(
    *,
    channels: Count = 16,
    depth: Count = 2,
    activation: Activation = "tanh",
    convolution: Convolution = "shifted",
    init: Init = "lecun",
    scale: Positive = 1.0,
) -> Model:
    """Convolutions of 3×3, each followed by the nonlinearity and 2×2 average pooling; a dense head.

    Args:
        channels: Channels of each convolution.
        depth: Number of convolutions; each halves the image.
        activation: The nonlinearity.
        convolution: As nine shifted matrix products (fast in compiled loops on CPU), or XLA's own.
        init: Variance of the weights; lecun is 1/fan_in, he is 2/fan_in.
        scale: Factor on all initial weights.

    Returns:
        The model, for square images.

    Raises:
        UserError: if a size is below 1, `scale` is not positive, a name is unknown, or (from
            `init`) the images are not square or cannot be halved `depth` times.

    Example:
        >>> import jax
        >>> from aeoskit_experiments.data import digits
        >>> data, model = digits(examples=5), cnn(channels=4)
        >>> params = model.init(jax.random.key(0), data)
        >>> model.apply(params, data.inputs).shape
        (5, 10)
    """
    check_settings(activation, init, scale, channels=channels, depth=depth)
    check_convolution(convolution)
    return Model(_Init(channels, depth, init, scale), _Apply(activation, convolution))
