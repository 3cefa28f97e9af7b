"""Bridges to the optimizers of other packages, with their known metrics and thresholds."""

from typing import Any

import optimistix as optx

from .._interface import AbstractOptimizer
from .optax._bridge import OptaxOptimizer
from .optimistix._bridge import OptimistixOptimizer


def as_optimizer(optimizer: Any) -> AbstractOptimizer:
    """Convert any supported optimizer to one that a trajectory can follow.

    Args:
        optimizer: an aeoskit optimizer, an optax transformation or an optimistix minimiser.

    Returns:
        The optimizer itself, or a bridge to it.

    Raises:
        TypeError: for anything else.

    Example:
        >>> import optax
        >>> type(as_optimizer(optax.adam(1e-3))).__name__
        'OptaxOptimizer'
    """
    if isinstance(optimizer, AbstractOptimizer):
        return optimizer
    if isinstance(optimizer, optx.AbstractMinimiser):
        return OptimistixOptimizer(optimizer)
    if not all(callable(getattr(optimizer, name, None)) for name in ("init", "update")):
        raise TypeError(
            f"the optimizer is a {type(optimizer).__name__}: pass an aeoskit optimizer such as "
            "adam(1e-3), an optax transformation or an optimistix minimiser."
        )
    return OptaxOptimizer(optimizer)
