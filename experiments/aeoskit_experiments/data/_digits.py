"""Scikit-learn's handwritten digits."""

import jax.numpy as jnp
import numpy as np

from aeoskit_experiments._errors import UserError

from ._dataset import Dataset

CLASSES, SHAPE = 10, (8, 8, 1)


def digits(
    *,
    examples: int = 1797,
    label_noise: float = 0.0,
    standardize: bool = True,
    seed: int = 0,
) -> Dataset:
    """The 1797 images of 8×8 pixels that scikit-learn ships.

    With `standardize`, every pixel has mean 0 and variance 1 over the examples taken, except those
    that are constant (the corners, always blank): they are 0, inputs that are dead. Without it,
    pixels are scaled to [0, 1].

    Args:
        examples: How many images, drawn at random without replacement.
        label_noise: Fraction of the labels replaced by uniformly random ones; 1 is all random.
        standardize: Whether every pixel gets mean 0 and variance 1 (constant pixels become 0).
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
    if seed < 0:
        raise UserError(f"seed is {seed}: it must not be negative")

    # Separate streams, so that noise does not change which images are drawn.
    taken = np.random.default_rng([seed, 0]).permutation(len(labels))[:examples]
    images, labels = images[taken], labels[taken].copy()
    noise = np.random.default_rng([seed, 1])
    replaced = noise.permutation(examples)[: round(label_noise * examples)]
    labels[replaced] = noise.integers(CLASSES, size=len(replaced))

    if standardize:
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
