"""Regression onto a Chebyshev polynomial: one number in, one out."""

import jax.numpy as jnp
import numpy as np

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.options import Count, NonNegative, Seed

from ._dataset import Dataset
from ._sequences import check_at_least


def chebyshev(
    *, examples: Count = 20, degree: Count = 4, noise: NonNegative = 0.0, seed: Seed = 0
) -> Dataset:
    """Evenly spaced points on [-1, 1], with a Chebyshev polynomial of them as targets.

    One number in, one out. Cohen et al. (2021, arXiv 2103.00065) fit 20 points at degrees 3, 4
    and 5, without noise.

    Args:
        examples: Number of points, both ends among them.
        degree: Degree of the polynomial.
        noise: Standard deviation of Gaussian noise on the targets.
        seed: Seed of the noise.

    Returns:
        The data set, to be fitted with loss mse.

    Raises:
        UserError: if a number is out of its range.

    Example:
        >>> data = chebyshev(examples=3, degree=2)
        >>> data.inputs[:, 0].tolist(), data.targets[:, 0].tolist()
        ([-1.0, 0.0, 1.0], [1.0, -1.0, 1.0])
    """
    check_at_least(2, examples=examples)
    check_at_least(1, degree=degree)
    if not 0 <= noise < float("inf"):
        raise UserError(f"noise is {noise}: it must be a number, and not negative")
    if seed < 0:
        raise UserError(f"seed is {seed}: it must not be negative")
    points = np.linspace(-1, 1, examples)
    values = np.polynomial.chebyshev.chebval(points, [0] * degree + [1])
    values += noise * np.random.default_rng(seed).normal(size=examples)
    return Dataset(
        inputs=jnp.asarray(points[:, None], jnp.float32),
        labels=jnp.zeros(examples, jnp.int32),
        targets=jnp.asarray(values[:, None], jnp.float32),
        num_classes=1,
        image_shape=(1, 1, 1),
    )
