"""A Gaussian mixture: rows of any size, or images of any shape, drawn by jax.

With jax, `jax.eval_shape` gives their shapes without the data, as for tokens.
"""

import math
import re

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PRNGKeyArray

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.options import AtLeastTwo, Count, Fraction, Natural, NonNegative, Seed

from ._dataset import Dataset
from ._sequences import check_at_least, check_seed

# Beyond it, single precision does not resolve the points within a class.
_FARTHEST = 1e6


def mixture(
    *,
    examples: Count = 1000,
    classes: AtLeastTwo = 10,
    shape: str = "32x32x3",
    separation: NonNegative = 4.0,
    label_noise: Fraction = 0.0,
    seed: Seed = 0,
    test: Natural = 0,
) -> Dataset:
    """Gaussian classes of unit covariance around random centers, then scaled.

    The centers are drawn from a Gaussian whose variance gives two of them the root mean square
    distance `separation`; in many dimensions all distances are close to it, and the best classifier
    of two classes errs with probability `Φ(-separation / 2)`. Finally everything is divided by one
    number, so that each input has variance 1.

    Args:
        examples: Number of examples.
        classes: Number of classes, equally likely.
        shape: Shape of an example: height, width and channels (32x32x3), height and width (28x28)
            or a number of features (100).
        separation: Distance of two centers, in standard deviations within a class.
        label_noise: Probability with which a label is replaced by a uniformly random one.
        seed: Seed of all draws.
        test: Number of further examples, as test rows.

    Returns:
        The data set. A larger `examples` with the same seed contains the smaller one's examples.

    Raises:
        UserError: if a number is out of its range, or `shape` is invalid.

    Example:
        >>> mixture(examples=4, shape="8x8x3").image_shape
        (8, 8, 3)
    """
    image_shape = parse_shape(shape)
    check_at_least(1, examples=examples)
    check_at_least(2, classes=classes)
    if not 0 <= separation <= _FARTHEST:
        raise UserError(f"separation is {separation}: it must be from 0 to {_FARTHEST:g}")
    if not 0 <= label_noise <= 1:
        raise UserError(f"label_noise is {label_noise}: it is a probability, from 0 to 1")
    check_seed(seed)
    if test < 0:
        raise UserError(f"test is {test}: it must not be negative")
    features = math.prod(image_shape)
    of_centers, of_train, of_test, of_noise = jax.random.split(jax.random.key(seed), 4)
    # A coordinate of a center has this variance, and around it 1.
    variance = separation**2 / (2 * features)
    centers = math.sqrt(variance) * jax.random.normal(of_centers, (classes, features), jnp.float32)
    scale = 1 / math.sqrt(1 + variance)
    inputs, labels = _draw(of_train, centers, scale, examples)
    labels = _with_noise(of_noise, labels, classes, label_noise)
    test_inputs, test_labels = _draw(of_test, centers, scale, test) if test else (None, None)
    return Dataset(
        inputs=inputs,
        labels=labels,
        targets=jax.nn.one_hot(labels, classes, dtype=jnp.float32),
        num_classes=classes,
        image_shape=image_shape,
        test_inputs=test_inputs,
        test_targets=(
            None if test_labels is None else jax.nn.one_hot(test_labels, classes, dtype=jnp.float32)
        ),
    )


def parse_shape(text: str) -> tuple[int, int, int]:
    """Height, width and channels from a user's text.

    >>> parse_shape("32x32x3"), parse_shape("28x28"), parse_shape("100")
    ((32, 32, 3), (28, 28, 1), (1, 100, 1))

    Raises:
        UserError: if it is not a shape.
    """
    sizes = [int(size) for size in re.findall(r"\d+", text)]
    if not re.fullmatch(r"\d+([x×]\d+){0,2}", text) or 0 in sizes:
        raise UserError(f"shape is {text!r}: give sizes such as 32x32x3, 28x28 or 100")
    if len(sizes) == 1:
        return 1, sizes[0], 1
    return sizes[0], sizes[1], sizes[2] if len(sizes) == 3 else 1


def _draw(
    key: PRNGKeyArray, centers: Float[Array, "classes features"], scale: float, examples: int
) -> tuple[Float[Array, "n features"], Int[Array, " n"]]:
    of_labels, of_rows = jax.random.split(key)
    labels = jax.random.randint(of_labels, (examples,), 0, len(centers), jnp.int32)
    around = jax.random.normal(of_rows, (examples, centers.shape[1]), jnp.float32)
    return scale * (centers[labels] + around), labels


def _with_noise(
    key: PRNGKeyArray, labels: Int[Array, " n"], classes: int, probability: float
) -> Int[Array, " n"]:
    of_which, of_labels = jax.random.split(key)
    replaced = jax.random.uniform(of_which, labels.shape, jnp.float32) < probability
    other = jax.random.randint(of_labels, labels.shape, 0, classes, jnp.int32)
    return jnp.where(replaced, other, labels)
