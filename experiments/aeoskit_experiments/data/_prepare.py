"""The preprocessing of images: a subset, random labels, a common scale, test rows."""

from dataclasses import dataclass
from typing import Literal, get_args

import jax.numpy as jnp
import numpy as np
from jaxtyping import Float, Integer, Num

from aeoskit_experiments._errors import UserError

from ._dataset import Dataset

Standardize = Literal["channel", "pixel", "none"]

# Separate streams of random numbers, so that noise does not change which images are drawn.
_DRAW, _NOISE, _DRAW_TEST = 0, 1, 2


@dataclass(frozen=True)
class Images:
    """Images as published.

    Args:
        name: the data set's name, for errors.
        pixels: one row per image, in the order height, width, channels.
        labels: from 0 to `classes - 1`.
        white: the pixel value that becomes 1 on the scale from 0 to 1.
        classes: number of classes.
        shape: height, width, channels.
        test_pixels: the pixels of the set's own test images; None without a test set.
        test_labels: their labels.
    """

    name: str
    pixels: Num[np.ndarray, "n features"]
    labels: Integer[np.ndarray, " n"]
    white: float
    classes: int
    shape: tuple[int, int, int]
    test_pixels: Num[np.ndarray, "m features"] | None = None
    test_labels: Integer[np.ndarray, " m"] | None = None


def prepare(
    images: Images,
    *,
    examples: int | None,
    label_noise: float,
    standardize: Standardize,
    seed: int,
    test: int,
) -> Dataset:
    """Draw examples and test rows, replace labels, and scale pixels.

    Args:
        images: all images.
        examples: number of training examples; None for all that are not test rows.
        label_noise: fraction of the labels replaced by uniformly random ones.
        standardize: the unit that gets mean 0 and variance 1 over the examples: a channel or a
            pixel.
        seed: of the draws and of the random labels.
        test: number of test rows, from the set's own test images or from the remaining ones.

    Returns:
        The data set. With the same seed, more examples contain the fewer, and so do test rows.

    Raises:
        UserError: if a number is out of its range.
    """
    _check(images, examples, label_noise, standardize, seed, test)
    total = len(images.labels)
    order = np.random.default_rng([seed, _DRAW]).permutation(total)
    if images.test_labels is None:
        count = total - test if examples is None else examples
        # From the other end, so that test rows stay the same with more examples.
        test_pixels, test_labels, left = images.pixels, images.labels, order[::-1][:test]
    else:
        assert images.test_pixels is not None
        count = total if examples is None else examples
        test_pixels, test_labels = images.test_pixels, images.test_labels
        left = np.random.default_rng([seed, _DRAW_TEST]).permutation(len(test_labels))[:test]
    taken = order[:count]
    labels = images.labels[taken].copy()
    noise = np.random.default_rng([seed, _NOISE])
    replaced = noise.permutation(count)[: round(label_noise * count)]
    labels[replaced] = noise.integers(images.classes, size=len(replaced))

    inputs, test_inputs = _scaled(
        images.pixels[taken], test_pixels[left], images.white, images.shape[-1], standardize
    )
    one_hot = np.eye(images.classes, dtype=np.float32)
    return Dataset(
        inputs=jnp.asarray(inputs),
        labels=jnp.asarray(labels, jnp.int32),
        targets=jnp.asarray(one_hot[labels]),
        num_classes=images.classes,
        image_shape=images.shape,
        test_inputs=jnp.asarray(test_inputs) if test else None,
        test_targets=jnp.asarray(one_hot[test_labels[left]]) if test else None,
    )


def _check(
    images: Images,
    examples: int | None,
    label_noise: float,
    standardize: str,
    seed: int,
    test: int,
) -> None:
    name, total = images.name, len(images.labels)
    if examples is not None and not 1 <= examples <= total:
        raise UserError(f"examples is {examples}: {name} has {total} images, ask for 1 to {total}")
    if not 0 <= label_noise <= 1:
        raise UserError(f"label_noise is {label_noise}: give a fraction, from 0 to 1")
    if standardize not in get_args(Standardize):
        raise UserError(
            f"standardize is {standardize!r}: take one of {', '.join(get_args(Standardize))}"
        )
    if seed < 0:
        raise UserError(f"seed is {seed}: it must not be negative")
    if test < 0:
        raise UserError(f"test is {test}: it must not be negative")
    if images.test_labels is not None:
        most, why = len(images.test_labels), f"{name} has {len(images.test_labels)} test images"
    else:
        trained = 1 if examples is None else examples
        most = total - trained
        why = f"{name} has {total} images, of which {trained} are trained on, and no test set"
    if test > most:
        fixes = [f"give at most {most}"] if most else []
        if images.test_labels is None and test < total:
            fixes.append(f"lower examples to {total - test}")
        raise UserError(f"test is {test}: {why}, so {', or '.join(fixes)}")


def _scaled(
    pixels: Num[np.ndarray, "n features"],
    test: Num[np.ndarray, "m features"],
    white: float,
    channels: int,
    standardize: str,
) -> tuple[Float[np.ndarray, "n features"], Float[np.ndarray, "m features"]]:
    """Both on the scale of the first, one channel at a time, since float64 is large."""
    scaled = np.empty(pixels.shape, np.float32), np.empty(test.shape, np.float32)
    axis = None if standardize == "channel" else 0
    for channel in range(channels):
        of_channel = slice(channel, None, channels)
        block = pixels[:, of_channel] / white
        center, spread = 0.0, 1.0
        if standardize != "none":
            constant = np.ptp(block, axis=axis) == 0
            center = np.where(constant, block.min(axis=axis), block.mean(axis=axis))
            # Constant pixels become 0, in test rows too, where they need not be constant.
            spread = np.where(constant, np.inf, block.std(axis=axis))
        for rows, out in zip((block, test[:, of_channel] / white), scaled, strict=True):
            out[:, of_channel] = (rows - center) / spread
    return scaled
