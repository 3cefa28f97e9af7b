"""Scikit-learn's handwritten digits."""

from typing import Literal, get_args

import jax.numpy as jnp
import numpy as np

from aeoskit_experiments._errors import UserError

from ._dataset import Dataset

CLASSES, SHAPE = 10, (8, 8, 1)
Standardize = Literal["channel", "pixel", "none"]


def digits(
    *,
    examples: int = 1797,
    label_noise: float = 0.0,
    standardize: Standardize = "channel",
    seed: int = 0,
) -> Dataset:
    """The 1797 images of 8×8 pixels that scikit-learn ships.

    `standardize="channel"` is how the literature treats images: one mean and one deviation for the
    whole (gray) channel. With `"pixel"`, every pixel has mean 0 and variance 1 over the examples
    taken, except those that are constant (the corners, always blank): they are 0, inputs that are
    dead; pixels that are nearly constant get large values, so that even random labels are fitted
    within a few hundred steps. With `"none"`, pixels are scaled to [0, 1].

    Args:
        examples: How many images, drawn at random without replacement.
        label_noise: Fraction of the labels replaced by uniformly random ones; 1 is all random.
        standardize: Mean 0 and variance 1 for the channel, for each pixel, or not at all.
        seed: Seed of the draw of the examples and of the random labels.

    Returns:
        The data set. A larger `examples` with the same seed contains the smaller one's images.

    Raises:
        UserError: if `examples` is not between 1 and 1797 or `label_noise` not between 0 and 1.

    Example:
        >>> data = digits(examples=100, label_noise=0.4)
        >>> data.inputs.shape, data.targets.shape, data.num_classes
        ((100, 64), (100, 10), 10)
    """
    from sklearn.datasets import load_digits  # here, since it takes a second

    images, labels = load_digits(return_X_y=True)
    images, labels = np.asarray(images) / 16.0, np.asarray(labels)
    if not 1 <= examples <= len(labels):
        raise UserError(
            f"examples is {examples}: digits has {len(labels)} images, ask for 1 to {len(labels)}"
        )
    if not 0 <= label_noise <= 1:
        raise UserError(f"label_noise is {label_noise}: it is a fraction, from 0 to 1")
    if standardize not in get_args(Standardize):
        raise UserError(
            f"standardize is {standardize!r}: take one of {', '.join(get_args(Standardize))}"
        )
    if seed < 0:
        raise UserError(f"seed is {seed}: it must not be negative")

    # Separate streams, so that noise does not change which images are drawn.
    taken = np.random.default_rng([seed, 0]).permutation(len(labels))[:examples]
    images, labels = images[taken], labels[taken].copy()
    noise = np.random.default_rng([seed, 1])
    replaced = noise.permutation(examples)[: round(label_noise * examples)]
    labels[replaced] = noise.integers(CLASSES, size=len(replaced))

    if standardize == "channel":
        images = (images - images.mean()) / images.std()
    elif standardize == "pixel":
        constant = np.ptp(images, axis=0) == 0
        spread = np.where(constant, 1.0, images.std(axis=0))
        images = np.where(constant, 0.0, (images - images.mean(axis=0)) / spread)
    return Dataset(
        inputs=jnp.asarray(images, jnp.float32),
        labels=jnp.asarray(labels, jnp.int32),
        targets=jnp.asarray(np.eye(CLASSES)[labels], jnp.float32),
        num_classes=CLASSES,
        image_shape=SHAPE,
    )
