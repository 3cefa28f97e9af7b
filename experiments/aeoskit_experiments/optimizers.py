"""Optimizers of other packages: optax's transformations and optimistix's minimisers."""

from collections.abc import Callable
from typing import Any, Literal, get_args

import optax as _optax
import optimistix as optx

import aeoskit.optimizers as ours
from aeoskit.optimizers import OptimistixOptimizer, as_optimizer
from aeoskit.trajectory import AnyOptimizer
from aeoskit_experiments._errors import UserError
from aeoskit_experiments.options import Count, Positive

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

# Learning rates at which the run of `multiplier-edge` reaches its edge, found by trial: the
# thresholds differ by factors of thirty, and so do the rates. AMSGrad reaches none at any rate.
RATES: dict[str, float] = {
    "sgd": 0.07,
    "heavy_ball": 0.1,
    "nesterov": 0.04,
    "rmsprop": 5e-4,
    "adam": 5e-3,
    "adamw": 5e-3,
    "nadam": 3e-3,
    "amsgrad": 0.01,
    "adabelief": 5e-3,
    "adagrad": 0.03,
    "adafactor": 6e-3,
    "shampoo": 1.5e-3,
}

_MADE: dict[str, Callable[[float], Any]] = {
    "sgd": _optax.sgd,
    "heavy_ball": lambda lr: _optax.sgd(lr, momentum=0.9),
    "nesterov": lambda lr: _optax.sgd(lr, momentum=0.9, nesterov=True),
    "rmsprop": lambda lr: _optax.rmsprop(lr, decay=0.99),
    "adam": lambda lr: _optax.adam(lr, b2=0.99),
    "adamw": lambda lr: _optax.adamw(lr, b2=0.99),
    "nadam": lambda lr: _optax.nadam(lr, b2=0.99),
    "amsgrad": lambda lr: _optax.amsgrad(lr, b2=0.99),
    "adabelief": lambda lr: _optax.adabelief(lr, b2=0.99),
    "adagrad": _optax.adagrad,
    # Small matrices are factored too; otherwise it would be RMSProp.
    "adafactor": lambda lr: _optax.adafactor(lr, min_dim_size_to_factor=1),
    "shampoo": lambda lr: ours.shampoo(lr, beta2=0.99),
}


def optax(*, transform: Transform, lr: Positive | None = None) -> AnyOptimizer:
    """An optimizer of optax; the bridge reads its P and threshold.

    Args:
        transform: Name of the optimizer; shampoo is aeoskit's, since optax has none.
        lr: Learning rate; none for that of the recipe multiplier-edge.

    Returns:
        The optimizer. Momentum is 0.9 and the decay of second moments 0.99, where they exist;
        everything else has optax's defaults.

    Raises:
        UserError: for an unknown name.

    Example:
        >>> type(optax(transform="adam", lr=1e-3)).__name__
        'OptaxOptimizer'
    """
    if transform not in _MADE:
        raise UserError(f"transform is {transform!r}: it is one of {', '.join(TRANSFORMS)}")
    return as_optimizer(_MADE[transform](RATES[transform] if lr is None else lr))


def bfgs() -> OptimistixOptimizer:
    """Optimistix's BFGS with a backtracking line search: a reference without a threshold.

    A step is one evaluation of the loss; if the line search rejects it the parameters stay.

    Returns:
        The minimiser; networks of more than 10,000 parameters are refused.

    Example:
        >>> type(bfgs().minimiser).__name__
        'BFGS'
    """
    return OptimistixOptimizer(optx.BFGS(rtol=0.0, atol=1e-9))


def lbfgs(*, history: Count = 10) -> OptimistixOptimizer:
    """Optimistix's L-BFGS with a backtracking line search: as bfgs, without its matrix.

    Args:
        history: Number of stored pairs of steps and gradients.

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
