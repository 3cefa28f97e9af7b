"""Optimizers without an adaptive metric: momentum, averages and signs of the gradient."""

from __future__ import annotations

from typing import Any, Literal

from .._optimizer import Optimizer
from ..rules._momentum import (
    EMA,
    AbstractMomentum,
    EMANesterov,
    LionMomentum,
    Nesterov,
    NoMomentum,
    Polyak,
)
from ..rules._preconditioner import Sign
from ..rules._schedule_free import ScheduleFree

Form = Literal["ema", "polyak"]


def momentum_rule(beta1: Any, form: str, nesterov: bool) -> AbstractMomentum:
    """The momentum rule of this form."""
    rules = {
        ("ema", False): EMA,
        ("ema", True): EMANesterov,
        ("polyak", False): Polyak,
        ("polyak", True): Nesterov,
    }
    if (form, nesterov) not in rules:
        raise ValueError(
            f'form must be "ema" or "polyak", got {form!r}: the learning rates of '
            f"the two differ by the factor 1 - beta1."
        )
    return rules[form, nesterov](beta1)


def optional_momentum(beta1: Any, form: str = "ema", nesterov: bool = False) -> AbstractMomentum:
    """The momentum rule of this form; `NoMomentum` for None."""
    return NoMomentum() if beta1 is None else momentum_rule(beta1, form, nesterov)


def gradient_descent(lr: Any, *, weight_decay: Any = None) -> Optimizer:
    """Gradient descent, `x -= lr g`: threshold `2 / lr` on the sharpness.

    Source: Cohen et al., arXiv 2103.00065.

    Args:
        lr: Learning rate. A number above 0, or a schedule.
        weight_decay: Decoupled weight decay, at least 0. None for none.

    Returns:
        An `Optimizer`, with optax's `init` and `update`, its P and its threshold.

    Raises:
        TypeError: if a hyperparameter is not a real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = gradient_descent(0.5)
        >>> float(optimizer.threshold(optimizer.init(jnp.zeros(1))))
        4.0
    """
    return Optimizer(lr, weight_decay=weight_decay)


def momentum(
    lr: Any, beta1: Any = 0.9, form: Form | str = "ema", *, weight_decay: Any = None
) -> Optimizer:
    """Heavy ball: threshold 38/lr at 0.9 in the averaged form, 3.8/lr in Polyak's.

    Source: Cohen et al., arXiv 2103.00065 (Polyak's form), arXiv 2207.14484 (the averaged one).

    Args:
        lr: Learning rate, in the units of the form. A number above 0, or a schedule.
        beta1: Momentum, in [0, 1).
        form: "ema" is `m = beta1 m + (1 - beta1) g`, "polyak" is `m = beta1 m + g` as in optax's
            `sgd`. The step is `x -= lr m`, so that `lr_polyak = (1 - beta1) lr_ema`.
        weight_decay: Decoupled weight decay, at least 0. None for none.

    Returns:
        An `Optimizer`, with optax's `init` and `update`, its P and its threshold.

    Raises:
        TypeError: if a hyperparameter is not a real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = momentum(1.0, 0.9, form="polyak")
        >>> float(optimizer.threshold(optimizer.init(jnp.zeros(1))))
        3.80
    """
    return Optimizer(lr, momentum_rule(beta1, form, False), weight_decay=weight_decay)


def nesterov(
    lr: Any, beta1: Any = 0.9, form: Form | str = "polyak", *, weight_decay: Any = None
) -> Optimizer:
    """Nesterov's momentum: threshold 1.357/lr at 0.9 in Polyak's form, 13.571/lr averaged.

    Source: the thresholds are derived here from the recurrence (`aeoskit.stability`).

    Args:
        lr: Learning rate, in the units of the form. A number above 0, or a schedule.
        beta1: Momentum, in [0, 1).
        form: "polyak" is `x -= lr (g + beta1 v)` with `v = beta1 v + g` as in optax's `sgd`, "ema"
            has `1 - beta1` in front of both g.
        weight_decay: Decoupled weight decay, at least 0. None for none.

    Returns:
        An `Optimizer`, with optax's `init` and `update`, its P and its threshold.

    Raises:
        TypeError: if a hyperparameter is not a real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = nesterov(1.0, 0.9)
        >>> float(optimizer.threshold(optimizer.init(jnp.zeros(1))))
        1.357
    """
    return Optimizer(lr, momentum_rule(beta1, form, True), weight_decay=weight_decay)


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
        TypeError: if a hyperparameter is not a real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = schedule_free_sgd(1.0)
        >>> float(optimizer.threshold(optimizer.init(jnp.zeros(1))))
        20.00
    """
    rule = ScheduleFree(beta1, weight_lr_power)
    return Optimizer(lr, rule, None, weight_decay, "precondition_first")


def sign_descent(
    lr: Any,
    beta1: Any = None,
    form: Form | str = "ema",
    *,
    nesterov: bool = False,
    weight_decay: Any = None,
    order: str = "precondition_last",
) -> Optimizer:
    """Sign descent, `x -= lr sign(g)`: it has neither a preconditioner nor a threshold.

    `preconditioner` raises, and `threshold` is NaN, see `Sign`. With momentum it is Signum.

    Source: Bernstein et al., *signSGD* (arXiv 1802.04434).

    Args:
        lr: Learning rate: the length of each coordinate's step. A number above 0, or a schedule.
        beta1: Momentum, in [0, 1). None for no momentum.
        form: Form of the momentum, "polyak" or "ema", see `momentum`.
        nesterov: Whether the momentum is Nesterov's.
        weight_decay: Decoupled weight decay, at least 0. None for none.
        order: "precondition_last" for the sign of the momentum, "precondition_first" for the
            momentum of the signs.

    Returns:
        An `Optimizer`, with optax's `init` and `update`, its P and its threshold.

    Raises:
        TypeError: if a hyperparameter is not a real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = sign_descent(0.5)
        >>> optimizer.update(jnp.array([3.0, 0.0]), optimizer.init(jnp.zeros(2)))[0].tolist()
        [-0.5, 0.0]
    """
    rule = optional_momentum(beta1, form, nesterov)
    return Optimizer(lr, rule, Sign(), weight_decay, order)


def lion(lr: Any, beta1: Any = 0.9, beta2: Any = 0.99, weight_decay: Any = 1e-3) -> Optimizer:
    """Lion, the sign of a momentum: it has neither a preconditioner nor a threshold.

    `preconditioner` raises, and `threshold` is NaN, see `Sign`.

    Source: Chen et al., *Symbolic discovery of optimization algorithms* (arXiv 2302.06675), with
    optax's defaults.

    Args:
        lr: Learning rate: the length of each coordinate's step. A number above 0, or a schedule.
        beta1: Share of the average in the step, in [0, 1).
        beta2: Decay of the average, in [0, 1).
        weight_decay: Decoupled weight decay, at least 0. None for none.

    Returns:
        An `Optimizer`, with optax's `init` and `update`, its P and its threshold.

    Raises:
        TypeError: if a hyperparameter is not a real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = lion(0.5, weight_decay=None)
        >>> updates, state = optimizer.update(jnp.array([3.0, -1.0]), optimizer.init(jnp.zeros(2)))
        >>> updates.tolist(), float(optimizer.threshold(state))
        ([-0.5, 0.5], nan)
    """
    return Optimizer(lr, LionMomentum(beta1, beta2), Sign(), weight_decay)
