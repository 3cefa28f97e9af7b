"""An optimizer at the learning rate that has a given threshold."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp

from ._hyperparameters import is_concrete
from ._optimizer import Optimizer
from ._schedules import Constant
from ._sign import Sign


def with_threshold(optimizer: Any, threshold: Any) -> Optimizer:
    """The same optimizer at the constant learning rate whose stability threshold is a given one.

    Every momentum rule's threshold is `A / lr - B w` with a decay w, so that no search is needed.
    With P live the threshold does not depend on the state, and this is the learning rate at which
    `λ₁(P⁻¹H)` will hover there; with P frozen, it sets how far from the edge a run is.

    Args:
        optimizer: one of ours, with any schedule, which the constant replaces.
        threshold: a value of `λ₁(P⁻¹H)`, above 0; it may be traced.

    Returns:
        The optimizer. Where no learning rate has that threshold and the numbers are traced, its
        learning rate is NaN, and the run says that it diverged.

    Raises:
        TypeError: for an optimizer that is not ours: its learning rate is in its own closures.
        ValueError: for sign descent, which has no threshold; where no learning rate has that one.

    Example:
        >>> import jax.numpy as jnp
        >>> from aeoskit.optimizers import adam
        >>> optimizer = with_threshold(adam(1e-3), 3800.0)
        >>> print(f"{optimizer.learning_rate(optimizer.init(jnp.zeros(2))):.3g}")
        0.01
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"with_threshold sets the learning rate of aeoskit's own optimizers, and this is of "
            f"type {type(optimizer).__name__}: take the one of ours, such as adam(1e-3)."
        )
    if isinstance(optimizer.preconditioner_rule, Sign):
        raise ValueError(
            "the step of sign descent is piecewise constant in the gradient, and has no threshold "
            "to be set: take an optimizer with a preconditioner."
        )
    one, zero = jnp.asarray(1.0), jnp.asarray(0.0)
    free = optimizer.momentum_rule.threshold(one, zero)
    slope = free - optimizer.momentum_rule.threshold(one, one)
    threshold = jnp.asarray(threshold, dtype=float)
    decay = zero if optimizer.weight_decay is None else optimizer.weight_decay
    if optimizer.decay_scaled:
        numerator, denominator = free, threshold + slope * decay
    else:
        # Unscaled, the decay in units of the learning rate grows as that falls.
        numerator, denominator = free - slope * decay, threshold
    lr = jnp.where((numerator > 0) & (denominator > 0), numerator / denominator, jnp.nan)
    if is_concrete(lr) and lr.ndim == 0 and bool(jnp.isnan(lr)):
        raise ValueError(
            f"no learning rate has the threshold {float(threshold):.3g} with a weight decay of "
            f"{float(decay):.3g}: pass a threshold above 0, and a decay that does not diverge by "
            "itself."
        )
    return Optimizer(
        Constant(lr),
        optimizer.momentum_rule,
        optimizer.preconditioner_rule,
        optimizer.weight_decay,
        optimizer.order,
        optimizer.decay_scaled,
    )
