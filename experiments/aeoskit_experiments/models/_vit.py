"""Vision transformers."""

from dataclasses import dataclass

import jax
from einops import rearrange, reduce
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.data import AnyDataset
from aeoskit_experiments.options import Count, Positive

from ._attention import Initializer, check_heads, dense, self_layer
from ._images import as_images, square_images
from ._model import Activation, Init, Model, check_settings
from ._norms import layer_norm


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
                f"patch is {self.patch}: images of {side}x{side} are not a multiple of patches "
                "of that side, so give a divisor of it"
            )
        initializer = Initializer(self.width, 2 * self.depth, self.init, self.scale)
        of_patches, of_positions, of_layers, of_head = jax.random.split(key, 4)
        return {
            "patches": initializer.dense(of_patches, (self.patch**2 * channels, self.width)),
            "positions": initializer.table(of_positions, (side // self.patch) ** 2),
            "layers": initializer.layers(of_layers, self.depth, False, initializer.layer),
            "norm": initializer.norm(),
            "head": initializer.dense(of_head, (self.width, images.num_classes)),
        }


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
        x = dense(x, params["patches"]) + params["positions"][None]
        for layer in params["layers"]:
            x = self_layer(x, layer, self.heads, None, self.activation)
        x = reduce(layer_norm(x, params["norm"]), "n place width -> n width", "mean")
        return x @ params["head"]["weight"] + params["head"]["bias"][None]


def vit(
    *,
    patch: int = 4,
    depth: Count = 2,
    heads: Count = 2,
    width: Count = 32,
    activation: Activation = "gelu",
    init: Init = "lecun",
    scale: Positive = 1.0,
) -> Model:
    """A vision transformer: image patches as tokens, their mean into a dense layer.

    Layer norms before attention and feed-forward network, learned positions, a feed-forward width
    of four times the width, no dropout. Patches are averaged at the end, instead of a class token.
    Attention is unfused.

    Args:
        patch: Side of a patch in pixels; a divisor of the image's.
        depth: Number of layers.
        heads: Number of attention heads; a divisor of the width.
        width: Dimension of the residual stream.
        activation: The nonlinearity.
        init: Variance of the weights; lecun is 1/fan_in, he is 2/fan_in. Those that write to the
            residual stream are also divided by √(2 depth).
        scale: Factor on all initial weights.

    Returns:
        The model, for square images.

    Raises:
        UserError: if a size is below 1, the heads do not divide the width, `scale` is not positive,
            a name is unknown, or (from `init`) the images are not square or not a multiple of the
            patches.

    Source: Dosovitskiy and others, arXiv 2010.11929; its appendix D.3 on average pooling.

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
    check_heads(width, heads)
    return Model(_Init(patch, depth, width, init, scale), _Apply(patch, heads, activation))
