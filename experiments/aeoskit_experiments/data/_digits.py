"""Scikit-learn's handwritten digits."""

from typing import Annotated

import numpy as np

from aeoskit_experiments.options import Fraction, Natural, Seed, at_most

from ._dataset import Dataset
from ._prepare import Images, Standardize, prepare
from ._scikit_learn import shipped


def digits(
    *,
    examples: Annotated[
        int, at_most(1_797, least=1, reason="scikit-learn's digits has 1797 examples")
    ] = 1797,
    label_noise: Fraction = 0.0,
    standardize: Standardize = "channel",
    seed: Seed = 0,
    test: Natural = 0,
) -> Dataset:
    """The 1797 images of 8×8 pixels that scikit-learn ships.

    `standardize="channel"` is the convention of the literature: one mean and one standard deviation
    for the whole (gray) channel. With `"pixel"`, every pixel has mean 0 and variance 1 over the
    sampled examples, except for constant ones (the blank corners), which become 0: dead inputs;
    pixels that are nearly constant get large values, so that even random labels are fitted within a
    few hundred steps. With `"none"`, pixels are scaled to [0, 1].

    Args:
        examples: Number of images, drawn at random without replacement.
        label_noise: Fraction of the labels replaced by uniformly random ones; 1 is all random.
        standardize: Mean 0 and variance 1 for the channel, for each pixel, or not at all.
        seed: Seed of the draw of the examples and of the random labels.
        test: Number of the remaining images that are kept as test rows.

    Returns:
        The data set. A larger `examples` with the same seed contains the smaller one's images.

    Raises:
        UserError: if `examples` is not between 1 and 1797 or `label_noise` not between 0 and 1.

    Example:
        >>> data = digits(examples=100, label_noise=0.4)
        >>> data.inputs.shape, data.targets.shape, data.num_classes
        ((100, 64), (100, 10), 10)
    """
    return prepare(
        read_digits(),
        examples=examples,
        label_noise=label_noise,
        standardize=standardize,
        seed=seed,
        test=test,
    )


def read_digits() -> Images:
    """All of the images."""
    table = np.loadtxt(shipped("data") / "digits.csv.gz", delimiter=",")
    return Images("digits", table[:, :-1], table[:, -1].astype(int), 16.0, 10, (8, 8, 1))
