"""Vision transformers."""

from dataclasses import dataclass

import jax
from einops import einsum, rearrange, reduce
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.data import AnyDataset

from ._images import as_images, square_images
from ._model import ACTIVATIONS, Activation, Init, Model, check_settings, draw_layer
from ._norms import layer_norm, unit_norm

# Of the network inside each layer, relative to the width.
EXPANSION = 4


@dataclass(frozen=True)
class _Init:
    patch: int
    depth: int
    width: int
    init: str
    scale: float

    def __call__(self, key: PRNGKeyArray, dataset: AnyDataset) -> PyTree:
        side, channels, images = square_images(dataset, "vit")
        if side % self.patch:
            raise UserError(
                f"patch is {self.patch}: images of {side}x{side} are not cut evenly into patches "
                "of that side, so give a divisor of it"
            )
        places = (side // self.patch) ** 2
        of_patches, of_positions, of_layers, of_head = jax.random.split(key, 4)
        return {
            "patches": self._draw(of_patches, self.patch**2 * channels, self.width),
            # Of the size of what they are added to: pixels are standardized.
            "positions": self._draw(of_positions, self.width, places)["weight"].T,
            "layers": [self._layer(k) for k in jax.random.split(of_layers, self.depth)],
            "norm": unit_norm(self.width),
            "head": self._draw(of_head, self.width, images.num_classes),
        }

    def _layer(self, key: PRNGKeyArray) -> PyTree:
        width, inner = self.width, EXPANSION * self.width
        # The residual stream adds two terms a layer: at the start their variances add up to one.
        last = (2 * self.depth) ** -0.5
        of_qkv, of_out, of_up, of_down = jax.random.split(key, 4)
        return {
            "attention": {
                "norm": unit_norm(width),
                "qkv": self._draw(of_qkv, width, 3 * width),
                "out": self._draw(of_out, width, width, last),
            },
            "network": {
                "norm": unit_norm(width),
                "up": self._draw(of_up, width, inner),
                "down": self._draw(of_down, inner, width, last),
            },
        }

    def _draw(self, key: PRNGKeyArray, inputs: int, outputs: int, factor: float = 1.0) -> PyTree:
        return draw_layer(key, (inputs, outputs), self.init, factor * self.scale)


@dataclass(frozen=True)
class _Apply:
    patch: int
    heads: int
    activation: str

    def __call__(
        self, params: PyTree, inputs: Float[Array, "n features"]
    ) -> Float[Array, "n classes"]:
        channels = params["patches"]["weight"].shape[0] // self.patch**2
        x = rearrange(
            as_images(inputs, channels),
            "n (row i) (column j) c -> n (row column) (i j c)",
            i=self.patch,
            j=self.patch,
        )
        x = _dense(x, params["patches"]) + params["positions"][None]
        for layer in params["layers"]:
            x = x + _attention(x, layer["attention"], self.heads)
            network = layer["network"]
            h = _dense(layer_norm(x, network["norm"]), network["up"])
            x = x + _dense(ACTIVATIONS[self.activation](h), network["down"])
        x = reduce(layer_norm(x, params["norm"]), "n place width -> n width", "mean")
        return x @ params["head"]["weight"] + params["head"]["bias"][None]


def _dense(x: Float[Array, "n place inputs"], layer: PyTree) -> Float[Array, "n place outputs"]:
    return x @ layer["weight"] + layer["bias"][None, None]


def _attention(
    x: Float[Array, "n place width"], layer: PyTree, heads: int
) -> Float[Array, "n place width"]:
    """All patches to all, all scores at once: flash attention has no second derivative."""
    qkv = _dense(layer_norm(x, layer["norm"]), layer["qkv"])
    q, k, v = rearrange(qkv, "n t (three heads d) -> three n heads t d", three=3, heads=heads)
    scores = einsum(q, k, "n heads t d, n heads s d -> n heads t s")
    weights = jax.nn.softmax(scores * q.shape[-1] ** -0.5, axis=-1)
    mixed = einsum(weights, v, "n heads t s, n heads s d -> n heads t d")
    return _dense(rearrange(mixed, "n heads t d -> n t (heads d)"), layer["out"])


def vit(
    *,
    patch: int = 4,
    depth: int = 2,
    heads: int = 2,
    width: int = 32,
    activation: Activation = "gelu",
    init: Init = "lecun",
    scale: float = 1.0,
) -> Model:
    """A vision transformer: patches of the image as tokens, their mean into a dense layer.

    Layer norms before attention and network, learned positions, a network of four times the width,
    no dropout. Patches are averaged at the end, instead of a class token. Attention is the plain
    one.

    Args:
        patch: Side of a patch in pixels; a divisor of the image's.
        depth: Number of layers.
        heads: Attention heads; the width is a multiple.
        width: Numbers that stand for a patch between the layers.
        activation: The nonlinearity of the networks.
        init: Variance of the weights; lecun is 1/fan_in, he is 2/fan_in.
        scale: Factor on all initial weights.

    Returns:
        The model, for square images.

    Raises:
        UserError: if a size is below 1, the heads do not divide the width, `scale` is not positive,
            a name is unknown, or (from `init`) the images are not square or not cut evenly into
            patches.

    Source: Dosovitskiy and others, arXiv 2010.11929; its appendix D.3 on averages.

    Example:
        >>> import jax
        >>> from aeoskit_experiments.data import digits
        >>> data, model = digits(examples=5), vit(width=8)
        >>> params = jax.eval_shape(model.init, jax.random.key(0), data)
        >>> jax.eval_shape(model.apply, params, data.inputs).shape
        (5, 10)
    """
    sizes = {"patch": patch, "depth": depth, "heads": heads, "width": width}
    check_settings(activation, init, scale, **sizes)
    if width % heads:
        raise UserError(
            f"heads is {heads}: they share a width of {width} evenly, so give a divisor of it"
        )
    return Model(_Init(patch, depth, width, init, scale), _Apply(patch, heads, activation))
