"""What a data set is to an experiment."""

import equinox as eqx
from jaxtyping import Array, Float, Int


class Dataset(eqx.Module):
    """A data set, whole and in memory: of classes, or (labels all 0) of any targets.

    Args:
        inputs: one row an example, `(n, features)`.
        labels: the classes, `(n,)`, after label noise.
        targets: what to fit, `(n, num_classes)`: the labels one-hot.
        num_classes: how many classes, or outputs, there are.
        image_shape: how a row is laid out as an image: height, width, channels.
    """

    inputs: Float[Array, "n features"]
    labels: Int[Array, " n"]
    targets: Float[Array, "n classes"]
    num_classes: int = eqx.field(static=True)
    image_shape: tuple[int, int, int] = eqx.field(static=True)


class TokenDataset(eqx.Module):
    """Sequences of tokens, whole and in memory: at each position, the next token is to be told.

    Args:
        inputs: one sequence an example, `(n, length)`, of tokens from 0 to `vocabulary - 1`.
        targets: what follows each token of the inputs, `(n, length)`.
        vocabulary: how many different tokens there are.
    """

    inputs: Int[Array, "n length"]
    targets: Int[Array, "n length"]
    vocabulary: int = eqx.field(static=True)


AnyDataset = Dataset | TokenDataset
