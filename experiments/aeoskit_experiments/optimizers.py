"""Optimizers that others wrote, for experiments: optax's as they are, optimistix's minimisers."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import optax as _optax
import optimistix as optx

import aeoskit.optimizers as ours
from aeoskit.optimizers import OptaxOptimizer, OptimistixOptimizer, Optimizer, as_optimizer
from aeoskit_experiments._errors import UserError

Transform = Literal[
    "sgd",
    "heavy_ball",
    "nesterov",
    "rmsprop",
    "adam",
    "adamw",
    "nadam",
    "amsgrad",
    "adabelief",
    "adagrad",
    "adafactor",
    "shampoo",
]
TRANSFORMS: tuple[Transform, ...] = get_args(Transform)

# The learning rate at which each is at its edge on the digits of `multiplier-edge`, measured: the
# thresholds differ by factors of thirty, and so do the rates.
_MADE: dict[str, tuple[float, Callable[[float], Any]]] = {
    "sgd": (0.07, _optax.sgd),
    "heavy_ball": (0.1, lambda lr: _optax.sgd(lr, momentum=0.9)),
    "nesterov": (0.04, lambda lr: _optax.sgd(lr, momentum=0.9, nesterov=True)),
    "rmsprop": (1e-3, lambda lr: _optax.rmsprop(lr, decay=0.99)),
    "adam": (5e-3, lambda lr: _optax.adam(lr, b2=0.99)),
    "adamw": (5e-3, lambda lr: _optax.adamw(lr, b2=0.99)),
    "nadam": (3e-3, lambda lr: _optax.nadam(lr, b2=0.99)),
    "amsgrad": (1e-2, lambda lr: _optax.amsgrad(lr, b2=0.99)),
    "adabelief": (5e-3, lambda lr: _optax.adabelief(lr, b2=0.99)),
    "adagrad": (3e-2, _optax.adagrad),
    "adafactor": (3e-2, lambda lr: _optax.adafactor(lr, min_dim_size_to_factor=1)),
    "shampoo": (3e-3, lambda lr: ours.shampoo(lr, beta2=0.99)),
}


def optax(*, transform: Transform, lr: float | None = None) -> Optimizer | OptaxOptimizer:
    """An optimizer of optax, as optax made it; P and threshold are read by the bridge.

    Args:
        transform: Which one; shampoo, which optax lacks, is aeoskit's in optax's form.
        lr: Learning rate; none takes one at which the recipe multiplier-edge is at its edge.

    Returns:
        The optimizer. Second moments decay by 0.99, for all that have such a number.

    Raises:
        UserError: for another name.

    Example:
        >>> type(optax(transform="adam", lr=1e-3)).__name__
        'OptaxOptimizer'
    """
    if transform not in _MADE:
        raise UserError(f"transform is {transform!r}: it is one of {', '.join(TRANSFORMS)}")
    rate, make = _MADE[transform]
    return as_optimizer(make(rate if lr is None else lr))


def bfgs() -> OptimistixOptimizer:
    """Optimistix's BFGS with a backtracking line search: a reference that knows no threshold.

    A step is one evaluation of the loss; where the line search refuses it the parameters stay.

    Returns:
        The minimiser; networks of more than 10,000 parameters are refused.

    Example:
        >>> type(bfgs().minimiser).__name__
        'BFGS'
    """
    return OptimistixOptimizer(optx.BFGS(rtol=0.0, atol=1e-9))


def lbfgs(*, history: int = 10) -> OptimistixOptimizer:
    """Optimistix's L-BFGS with a backtracking line search: as bfgs, without its matrix.

    Args:
        history: How many pairs of steps and gradients are kept.

    Returns:
        The minimiser.

    Example:
        >>> lbfgs(history=5).minimiser.history_length
        5
    """
    return OptimistixOptimizer(optx.LBFGS(rtol=0.0, atol=1e-9, history_length=history))


def nonlinear_cg() -> OptimistixOptimizer:
    """Optimistix's nonlinear conjugate gradients (Polak-Ribiere) with a backtracking line search.

    Returns:
        The minimiser.

    Example:
        >>> type(nonlinear_cg().minimiser).__name__
        'NonlinearCG'
    """
    return OptimistixOptimizer(optx.NonlinearCG(rtol=0.0, atol=1e-9))
