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
        test_inputs: rows that are not trained on, `(m, features)`, treated as the inputs are; None
            where there are none.
        test_targets: what belongs to them, `(m, num_classes)`, without label noise; None likewise.
    """

    inputs: Float[Array, "n features"]
    labels: Int[Array, " n"]
    targets: Float[Array, "n classes"]
    num_classes: int = eqx.field(static=True)
    image_shape: tuple[int, int, int] = eqx.field(static=True)
    test_inputs: Float[Array, "m features"] | None = None
    test_targets: Float[Array, "m classes"] | None = None


class TokenDataset(eqx.Module):
    """Sequences of tokens, whole and in memory: at each position, the next token is to be told.

    Args:
        inputs: one sequence an example, `(n, length)`, of tokens from 0 to `vocabulary - 1`.
        targets: what follows each token of the inputs, `(n, length)`; or a pair of that and
            weights of the same shape, 0 where nothing is to be told (a question, padding).
        vocabulary: how many different tokens there are.
    """

    inputs: Int[Array, "n length"]
    targets: Int[Array, "n length"] | tuple[Int[Array, "n length"], Float[Array, "n length"]]
    vocabulary: int = eqx.field(static=True)


class PairDataset(eqx.Module):
    """Pairs of sequences, whole and in memory: the second is to be told from the first.

    Both sides share one vocabulary and are padded to one length each; token 0 is padding.

    Args:
        inputs: the source, `(n, source)`, and what of the target is known at each position: its
            tokens one place further, behind a token that begins it, `(n, target)`.
        targets: the tokens to be told, `(n, target)`, and weights of that shape, 0 at padding.
        vocabulary: how many different tokens there are.
    """

    inputs: tuple[Int[Array, "n source"], Int[Array, "n target"]]
    targets: tuple[Int[Array, "n target"], Float[Array, "n target"]]
    vocabulary: int = eqx.field(static=True)


AnyDataset = Dataset | TokenDataset | PairDataset
