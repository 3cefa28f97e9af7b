"""The common parts of networks of images."""

from einops import rearrange, reduce
from jaxtyping import Array, Float, PyTree

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.data import AnyDataset, Dataset

from ._model import rows_of


def square_images(dataset: AnyDataset, model: str) -> tuple[int, int, Dataset]:
    """The side of the images, their channels, and the data set.

    A model is applied to flat rows, which do not have the image's shape: it has to be a square.

    Raises:
        UserError: if the data are not square images.
    """
    images = rows_of(dataset, model)
    height, width, channels = images.image_shape
    if height != width:
        raise UserError(
            f"the data are {height}x{width}, but {model} takes square images: choose model mlp, or "
            "data digits"
        )
    return height, channels, images


def as_images(
    inputs: Float[Array, "n features"], channels: int
) -> Float[Array, "n side side channels"]:
    """Rows as square images."""
    side = round((inputs.shape[1] / channels) ** 0.5)
    return rearrange(inputs, "n (height width c) -> n height width c", height=side, width=side)


def halved(
    x: Float[Array, "n height width c"], how: str = "mean"
) -> Float[Array, "n rows columns c"]:
    """Pooled by 2×2; an odd last row and column are left out.

    >>> import jax.numpy as jnp
    >>> halved(jnp.ones((1, 5, 5, 1))).shape
    (1, 2, 2, 1)
    """
    _, height, width, _ = x.shape
    x = x[:, : height // 2 * 2, : width // 2 * 2]
    return reduce(x, "n (height i) (width j) c -> n height width c", how, i=2, j=2)


def read_out(x: Float[Array, "n height width c"], head: PyTree) -> Float[Array, "n classes"]:
    """The mean of each channel, through a dense layer."""
    x = reduce(x, "n height width c -> n c", "mean")
    return x @ head["weight"] + head["bias"][None]
