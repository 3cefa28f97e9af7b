"""Convolutional networks."""

from dataclasses import dataclass
from typing import Literal

import jax
from einops import rearrange, reduce
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.data import AnyDataset

from ._convolution import lax_convolution, shifted_convolution
from ._model import ACTIVATIONS, Activation, Init, Model, check_settings, draw_layer, rows_of

Convolution = Literal["shifted", "lax"]
CONVOLUTIONS = {"shifted": shifted_convolution, "lax": lax_convolution}


@dataclass(frozen=True)
class _Init:
    channels: int
    depth: int
    init: str
    scale: float

    def __call__(self, key: PRNGKeyArray, dataset: AnyDataset) -> PyTree:
        images = rows_of(dataset, "cnn")
        height, width, inputs = images.image_shape
        shrink = 2**self.depth
        if height % shrink or width % shrink:
            raise UserError(
                f"depth is {self.depth}: images of {height}x{width} cannot be halved that often, "
                "ask for fewer convolutions"
            )
        *keys, last = jax.random.split(key, self.depth + 1)
        layers = []
        for k in keys:
            layers.append(draw_layer(k, (3, 3, inputs, self.channels), self.init, self.scale))
            inputs = self.channels
        features = (height // shrink) * (width // shrink) * inputs
        head = draw_layer(last, (features, images.num_classes), self.init, self.scale)
        return {"convolutions": layers, "head": head}


@dataclass(frozen=True)
class _Apply:
    activation: str
    convolution: str

    def __call__(
        self, params: PyTree, inputs: Float[Array, "n features"]
    ) -> Float[Array, "n classes"]:
        first = params["convolutions"][0]["weight"]
        # Images are square here; a model is applied to inputs alone, which do not say their shape.
        side = round((inputs.shape[1] / first.shape[2]) ** 0.5)
        x = rearrange(inputs, "n (height width c) -> n height width c", height=side, width=side)
        for layer in params["convolutions"]:
            x = CONVOLUTIONS[self.convolution](x, layer["weight"])
            x = ACTIVATIONS[self.activation](x + layer["bias"][None, None, None])
            x = reduce(x, "n (height i) (width j) c -> n height width c", "mean", i=2, j=2)
        x = rearrange(x, "n height width c -> n (height width c)")
        return x @ params["head"]["weight"] + params["head"]["bias"][None]


def cnn(
    *,
    channels: int = 16,
    depth: int = 2,
    activation: Activation = "tanh",
    convolution: Convolution = "shifted",
    init: Init = "lecun",
    scale: float = 1.0,
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
            `init`) the images cannot be halved `depth` times.

    Example:
        >>> import jax
        >>> from aeoskit_experiments.data import digits
        >>> data, model = digits(examples=5), cnn(channels=4)
        >>> params = model.init(jax.random.key(0), data)
        >>> model.apply(params, data.inputs).shape
        (5, 10)
    """
    check_settings(activation, init, scale, channels=channels, depth=depth)
    if convolution not in CONVOLUTIONS:
        raise UserError(
            f"convolution is {convolution!r}: it is one of {', '.join(sorted(CONVOLUTIONS))}"
        )
    return Model(_Init(channels, depth, init, scale), _Apply(activation, convolution))
