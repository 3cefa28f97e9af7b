"""Schedules: the learning rate of a step, given how many steps were taken."""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ._hyperparameters import as_hyperparameter, as_lr


class AbstractSchedule(eqx.Module):
    """The learning rate as a function of the number of steps taken.

    Example:
        >>> isinstance(Constant(0.5), AbstractSchedule)
        True
    """

    @abc.abstractmethod
    def __call__(self, count: Int[Array, ""]) -> Float[Array, ""]:
        """The learning rate of the step that is taken after `count` steps.

        Args:
            count: steps taken, 0 before the first.

        Returns:
            A scalar.
        """


class Constant(AbstractSchedule):
    """The same learning rate at every step.

    Args:
        lr: the learning rate, above 0.

    Raises:
        TypeError: if it is no real number.
        ValueError: if it is not above 0.

    Example:
        >>> import jax.numpy as jnp
        >>> float(Constant(0.5)(jnp.asarray(7)))
        0.5
    """

    lr: Float[Array, ""]

    def __init__(self, lr: Any):
        self.lr = as_lr(lr)

    def __call__(self, count: Int[Array, ""]) -> Float[Array, ""]:
        del count
        return self.lr


class LinearWarmup(AbstractSchedule):
    """From `lr / steps` at the first step up to `lr` at step number `steps`, constant afterwards.

    It starts at `lr / steps` and not at zero, since a step of length zero moves nothing and has
    an infinite threshold.

    Args:
        lr: the learning rate after the warmup, above 0.
        steps: the length of the warmup in steps, at least 1.

    Raises:
        TypeError: if one is no real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> [float(LinearWarmup(1.0, 4)(jnp.asarray(count))) for count in (0, 1, 3, 9)]
        [0.25, 0.5, 1.0, 1.0]
    """

    lr: Float[Array, ""]
    steps: Float[Array, ""]

    def __init__(self, lr: Any, steps: Any):
        self.lr = as_lr(lr)
        self.steps = as_hyperparameter(
            "warmup steps", steps, at_least=1, mend="take the number of steps, such as 100"
        )

    def __call__(self, count: Int[Array, ""]) -> Float[Array, ""]:
        taken = count.astype(self.steps.dtype) + 1
        return self.lr * jnp.minimum(taken / self.steps, jnp.ones_like(self.steps))


def as_schedule(lr: Any) -> AbstractSchedule:
    """A schedule as it is; anything else is taken for a constant learning rate."""
    return lr if isinstance(lr, AbstractSchedule) else Constant(lr)
