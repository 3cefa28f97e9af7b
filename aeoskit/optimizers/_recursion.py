"""What an optimizer's step is on one mode, P constant."""

from __future__ import annotations

from typing import NamedTuple

from jaxtyping import Array, Float

from ._momentum import AbstractMomentum

Scalar = Float[Array, ""]


class Recursion(NamedTuple):
    """The linear recurrence of the coming step on a mode of `P⁻¹H`, with P constant.

    `aeoskit.equivalent_ratio` reads a multiplier with it.

    Args:
        rule: The momentum rule.
        lr: The learning rate.
        weight_decay: The decoupled weight decay, in units of the learning rate.
        shift: Curvature that a decay inside the momentum buffer adds to every mode.

    Example:
        >>> import jax.numpy as jnp
        >>> from aeoskit.optimizers import adam
        >>> optimizer = adam(0.5)
        >>> recursion = optimizer.recursion(optimizer.init(jnp.zeros(2)))
        >>> type(recursion.rule).__name__, float(recursion.lr)
        ('EMA', 0.5)
    """

    rule: AbstractMomentum
    lr: Scalar
    weight_decay: Scalar
    shift: Scalar | float = 0.0
