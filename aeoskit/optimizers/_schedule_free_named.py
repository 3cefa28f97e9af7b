"""Schedule-Free by its names: over the identity, and over Adam's metric."""

from __future__ import annotations

from typing import Any

from ._optimizer import Optimizer
from ._preconditioning import RMS
from ._schedule_free import ScheduleFree


def schedule_free_sgd(
    lr: Any, beta1: Any = 0.9, *, weight_lr_power: Any = 2.0, weight_decay: Any = None
) -> Optimizer:
    """Schedule-Free gradient descent: threshold 20/lr at 0.9, at the gradient point.

    The parameters are the gradient point y; `schedule_free_eval_params` gives the average x. It is
    `optax.contrib.schedule_free_sgd`; a warmup is a schedule, such as `LinearWarmup(lr, steps)`.

    Source: Defazio et al., *The road less scheduled* (arXiv 2405.15682).

    Args:
        lr: Learning rate of the iterate z. A number above 0, or a schedule.
        beta1: Share of the average in the gradient point, in [0, 1).
        weight_lr_power: Power of the largest learning rate so far that weighs an iterate in the
            average, at least 0.
        weight_decay: Decay at the gradient point, through the buffer, scaled by the learning rate,
            at least 0. None for none. It lowers the threshold by itself.

    Returns:
        An `Optimizer`, with optax's `init` and `update`, its P and its threshold.

    Raises:
        TypeError: if a hyperparameter is no real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = schedule_free_sgd(1.0)
        >>> float(optimizer.threshold(optimizer.init(jnp.zeros(1))))
        20.00
    """
    rule = ScheduleFree(beta1, weight_lr_power)
    return Optimizer(lr, rule, None, weight_decay, "precondition_first")


def schedule_free_adamw(
    lr: Any,
    beta1: Any = 0.9,
    beta2: Any = 0.999,
    eps: Any = 1e-8,
    *,
    eps_root: Any = 0.0,
    power: float | int = 0.5,
    correction: str = "second_moment",
    weight_lr_power: Any = 2.0,
    weight_decay: Any = None,
) -> Optimizer:
    """Schedule-Free AdamW: threshold `20/lr - weight_decay` at 0.9 on its P, at the gradient point.

    The parameters are the gradient point y; `schedule_free_eval_params` gives the average x. It is
    `optax.contrib.schedule_free_adamw`; a warmup is a schedule, such as `LinearWarmup(lr, steps)`.

    Source: Defazio et al., *The road less scheduled* (arXiv 2405.15682).

    Args:
        lr: Learning rate of the iterate z. A number above 0, or a schedule.
        beta1: Share of the average in the gradient point, in [0, 1).
        beta2: Decay of the second moments, in [0, 1).
        eps: Added to the root of the second moments, at least 0.
        eps_root: Added to the second moments inside the root, at least 0.
        power: Power that makes P out of the second moments: 0.5 is the square root.
        correction: Bias correction in P: "second_moment" or "none". There is no first moment.
        weight_lr_power: Power of the largest learning rate so far that weighs an iterate in the
            average, at least 0.
        weight_decay: Decay at the gradient point, through the buffer, scaled by the learning rate,
            at least 0. None for none. It lowers the threshold by itself.

    Returns:
        An `Optimizer`, with optax's `init` and `update`, its P and its threshold.

    Raises:
        TypeError: if a hyperparameter is no real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = schedule_free_adamw(0.5, weight_decay=1.0)
        >>> float(optimizer.threshold(optimizer.init(jnp.zeros(1))))
        39.0
    """
    rule = RMS(beta2, eps, eps_root, power, correction)
    return Optimizer(
        lr, ScheduleFree(beta1, weight_lr_power), rule, weight_decay, "precondition_first"
    )
