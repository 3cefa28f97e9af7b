"""A quadratic loss of known spectrum, on which thresholds are tested."""

import jax.numpy as jnp
import numpy as np

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.options import AtLeastOne, Count, Positive, Seed

from ._dataset import Dataset


def quadratic(
    *,
    dimension: Count = 10,
    outputs: Count = 4,
    sharpness: Positive = 1.0,
    condition: AtLeastOne = 100.0,
    seed: Seed = 0,
) -> Dataset:
    """Inputs with which model linear and loss mse are a quadratic of known spectrum.

    With one example per dimension, the Hessian in the `(dimension, outputs)` weights is one matrix
    for each output: its eigenvalues fall from `sharpness` to `sharpness / condition`, evenly in
    their logarithms, and its eigenvectors are random, so that no metric is aligned with them.
    Targets are zero, and hence so is the minimum.

    Args:
        dimension: Number of eigenvalues, each repeated once per output.
        outputs: Number of outputs.
        sharpness: The largest eigenvalue.
        condition: The largest eigenvalue over the smallest.
        seed: Seed of the eigenvectors.

    Returns:
        The data set.

    Raises:
        UserError: if a number is out of its range.

    Example:
        >>> inputs = quadratic(dimension=3, condition=4.0).inputs
        >>> import jax.numpy as jnp
        >>> jnp.linalg.eigvalsh(inputs.T @ inputs / 3).round(3).tolist()
        [0.25, 0.5, 1.0]
    """
    for name, value in (("dimension", dimension), ("outputs", outputs)):
        if value < 1:
            raise UserError(f"{name} is {value}: it must be at least 1")
    if not sharpness > 0:
        raise UserError(f"sharpness is {sharpness}: it is the largest eigenvalue, above 0")
    if not condition >= 1:
        raise UserError(f"condition is {condition}: it must be at least 1")
    if seed < 0:
        raise UserError(f"seed is {seed}: it must not be negative")
    random = np.random.default_rng(seed)
    rotation, _ = np.linalg.qr(random.normal(size=(dimension, dimension)))
    values = sharpness * condition ** -np.linspace(0, 1, dimension)
    inputs = np.sqrt(dimension * values)[:, None] * rotation.T
    return Dataset(
        inputs=jnp.asarray(inputs, jnp.float32),
        labels=jnp.zeros(dimension, jnp.int32),
        targets=jnp.zeros((dimension, outputs), jnp.float32),
        num_classes=outputs,
        image_shape=(1, dimension, 1),
    )
