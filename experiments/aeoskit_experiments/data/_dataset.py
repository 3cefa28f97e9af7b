"""What a data set is to an experiment."""

import equinox as eqx
from jaxtyping import Array, Float, Int


class Dataset(eqx.Module):
    """A classification data set, whole and in memory.

    Args:
        inputs: one row an example, `(n, features)`.
        labels: the classes, `(n,)`, after label noise.
        targets: the labels one-hot, `(n, num_classes)`.
        num_classes: how many classes there are.
        image_shape: how a row is laid out as an image: height, width, channels.
    """

    inputs: Float[Array, "n features"]
    labels: Int[Array, " n"]
    targets: Float[Array, "n classes"]
    num_classes: int = eqx.field(static=True)
    image_shape: tuple[int, int, int] = eqx.field(static=True)
