"""Schedules: the learning rate as a function of the number of steps taken."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int

from ._hyperparameters import as_hyperparameter, as_lr, is_concrete


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
        TypeError: if it is not a real number.
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
    """Linear warmup from `lr / steps` at the first step to `lr` at step `steps`, then constant.

    It starts at `lr / steps` and not at zero, since a step of length zero moves nothing and has
    an infinite threshold.

    Args:
        lr: the learning rate after the warmup, above 0.
        steps: the length of the warmup in steps, at least 1.

    Raises:
        TypeError: if one is not a real number.
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
            "warmup steps", steps, at_least=1, fix="take the number of steps, such as 100"
        )

    def __call__(self, count: Int[Array, ""]) -> Float[Array, ""]:
        return self.lr * _warm(count.astype(self.steps.dtype), self.steps)


def _steps(name: str, value: Any, least: int) -> Float[Array, ""]:
    return as_hyperparameter(name, value, at_least=least, fix="take a number of steps")


def _check_fits(total: Any, parts: Any, names: str) -> None:
    if is_concrete(total) and is_concrete(parts) and float(parts) >= float(total):
        raise ValueError(
            f"{names} takes {float(parts):g} of {float(total):g} steps, which leaves none: take "
            f"more steps."
        )


def _fraction(name: str, value: Any) -> Float[Array, ""]:
    fix = "take 0 or a share of lr such as 0.1"
    return as_hyperparameter(name, value, at_least=0, below=1, fix=fix)


def _warm(taken: Array, warmup: Array) -> Array:
    """The warmup factor: 1/warmup at the first step, 1 from step `warmup` on, 1 without warmup."""
    return jnp.minimum((taken + 1) / jnp.maximum(warmup, 1), 1)


class Cosine(AbstractSchedule):
    """A linear warmup, then half a cosine from `lr` down to `final * lr` after `steps` steps.

    Without warmup it is optax's `cosine_decay_schedule(lr, steps, alpha=final)`. With `final = 0`
    the threshold grows without bound towards the end, where steps have no length.

    Source: Loshchilov, Hutter, *SGDR* (arXiv 1608.03983).

    Args:
        lr: the largest learning rate, above 0.
        steps: the length of the whole schedule, at least 1; constant afterwards.
        warmup: the length of the warmup before the cosine, as in `LinearWarmup`; 0 for none.
        final: the final learning rate as a fraction of lr, in [0, 1).

    Raises:
        TypeError: if one is not a real number.
        ValueError: if one is outside its range, or the warmup leaves no step.

    Example:
        >>> import jax.numpy as jnp
        >>> schedule = Cosine(1.0, 6, warmup=2)
        >>> [round(float(schedule(jnp.asarray(count))), 3) for count in (0, 1, 2, 4, 6, 9)]
        [0.5, 1.0, 1.0, 0.5, 0.0, 0.0]
    """

    lr: Float[Array, ""]
    steps: Float[Array, ""]
    warmup: Float[Array, ""]
    final: Float[Array, ""]

    def __init__(self, lr: Any, steps: Any, warmup: Any = 0, final: Any = 0.0):
        self.lr = as_lr(lr)
        self.steps = _steps("steps", steps, 1)
        self.warmup = _steps("warmup", warmup, 0)
        self.final = _fraction("final", final)
        _check_fits(self.steps, self.warmup, "warmup")

    def __call__(self, count: Int[Array, ""]) -> Float[Array, ""]:
        taken = count.astype(self.steps.dtype)
        share = jnp.clip((taken - self.warmup) / (self.steps - self.warmup), 0, 1)
        left = (1 - self.final) * 0.5 * (1 + jnp.cos(jnp.pi * share)) + self.final
        return self.lr * _warm(taken, self.warmup) * left


class WSD(AbstractSchedule):
    """Warmup, stable, decay: `lr` after a linear warmup, and linear to `final * lr` at the end.

    Source: Hu et al., *MiniCPM* (arXiv 2404.06395); here with a linear decay.

    Args:
        lr: the learning rate in between, above 0.
        steps: the length of the whole schedule, at least 1; constant afterwards.
        decay: the length of the decay at its end, at least 1.
        warmup: the length of the warmup at its start, as in `LinearWarmup`; 0 for none.
        final: the final learning rate as a fraction of lr, in [0, 1).

    Raises:
        TypeError: if one is not a real number.
        ValueError: if one is outside its range, or warmup and decay leave no step between them.

    Example:
        >>> import jax.numpy as jnp
        >>> schedule = WSD(1.0, 10, decay=4, warmup=2)
        >>> [float(schedule(jnp.asarray(count))) for count in (0, 1, 5, 6, 7, 9, 10, 12)]
        [0.5, 1.0, 1.0, 1.0, 0.75, 0.25, 0.0, 0.0]
    """

    lr: Float[Array, ""]
    steps: Float[Array, ""]
    decay: Float[Array, ""]
    warmup: Float[Array, ""]
    final: Float[Array, ""]

    def __init__(self, lr: Any, steps: Any, decay: Any, warmup: Any = 0, final: Any = 0.0):
        self.lr = as_lr(lr)
        self.steps = _steps("steps", steps, 1)
        self.decay = _steps("decay", decay, 1)
        self.warmup = _steps("warmup", warmup, 0)
        self.final = _fraction("final", final)
        _check_fits(self.steps, self.warmup + self.decay, "warmup and decay")

    def __call__(self, count: Int[Array, ""]) -> Float[Array, ""]:
        taken = count.astype(self.steps.dtype)
        share = jnp.clip((taken - (self.steps - self.decay)) / self.decay, 0, 1)
        return self.lr * _warm(taken, self.warmup) * (1 - (1 - self.final) * share)


class FromFunction(AbstractSchedule):
    """A schedule that is a function of the number of steps taken, such as optax's.

    `Optimizer` and the named optimizers convert any callable. The function is not an array leaf:
    values in its closure cannot be swept.

    Args:
        function: takes the count, an integer scalar, and returns a learning rate.

    Raises:
        TypeError: if it cannot be called.

    Example:
        >>> import jax.numpy as jnp
        >>> float(FromFunction(lambda count: 1.0 / (count + 1))(jnp.asarray(3)))
        0.25
    """

    function: Callable[..., Any] = eqx.field(static=True)

    def __init__(self, function: Callable[..., Any]):
        if not callable(function):
            raise TypeError(
                f"a schedule is a function of the step count, got {function!r}: pass a number for "
                f"a constant learning rate."
            )
        self.function = function

    def __call__(self, count: Int[Array, ""]) -> Float[Array, ""]:
        return jnp.asarray(self.function(count)).astype(float)


def as_schedule(lr: Any) -> AbstractSchedule:
    """Convert a function, or a constant learning rate, to a schedule; a schedule stays as it is."""
    if isinstance(lr, AbstractSchedule):
        return lr
    return FromFunction(lr) if callable(lr) else Constant(lr)
