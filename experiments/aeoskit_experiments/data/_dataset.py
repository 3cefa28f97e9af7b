"""The data sets of experiments."""

import equinox as eqx
from jaxtyping import Array, Float, Int


class Dataset(eqx.Module):
    """A whole data set in memory: for classification, or (labels all 0) with any targets.

    Args:
        inputs: one row per example, `(n, features)`.
        labels: the classes, `(n,)`, after label noise.
        targets: the targets of the loss, `(n, num_classes)`: the one-hot labels, or numbers.
        num_classes: number of classes, or outputs.
        image_shape: the shape of a row as an image: height, width, channels.
        test_inputs: rows that are not trained on, `(m, features)`, preprocessed as the inputs are;
            None without test rows.
        test_targets: their targets, `(m, num_classes)`, without label noise; None likewise.
    """

    inputs: Float[Array, "n features"]
    labels: Int[Array, " n"]
    targets: Float[Array, "n classes"]
    num_classes: int = eqx.field(static=True)
    image_shape: tuple[int, int, int] = eqx.field(static=True)
    test_inputs: Float[Array, "m features"] | None = None
    test_targets: Float[Array, "m classes"] | None = None


class TokenDataset(eqx.Module):
    """Sequences of tokens in memory: at each position, the target is the next token.

    Args:
        inputs: one sequence per example, `(n, length)`, of tokens from 0 to `vocabulary - 1`.
        targets: the token after each token of the inputs, `(n, length)`; or a pair of these and
            weights of the same shape, 0 where there is no target (a question, padding).
        vocabulary: number of different tokens.
    """

    inputs: Int[Array, "n length"]
    targets: Int[Array, "n length"] | tuple[Int[Array, "n length"], Float[Array, "n length"]]
    vocabulary: int = eqx.field(static=True)


class PairDataset(eqx.Module):
    """Pairs of sequences in memory: the second is predicted from the first.

    Both sides share one vocabulary, and each is padded to its own fixed length; token 0 is padding.

    Args:
        inputs: the source, `(n, source)`, and the target shifted by one position, behind a token
            that begins it, `(n, target)`.
        targets: the tokens to be predicted, `(n, target)`, and weights of that shape, 0 at padding.
        vocabulary: number of different tokens.
    """

    inputs: tuple[Int[Array, "n source"], Int[Array, "n target"]]
    targets: tuple[Int[Array, "n target"], Float[Array, "n target"]]
    vocabulary: int = eqx.field(static=True)


AnyDataset = Dataset | TokenDataset | PairDataset
