"""The linear recurrence of a momentum rule on one mode of curvature."""

from __future__ import annotations

import jax.numpy as jnp
from jaxtyping import Array, Float, Num

from aeoskit.optimizers import AbstractMomentum

Scalar = Float[Array, ""]
Number = Num[Array, ""] | float | int


def companion_matrix(
    rule: AbstractMomentum, curvature: Number, lr: Number, weight_decay: Number = 0.0
) -> Float[Array, "size size"]:
    """The matrix that takes one mode's (x, buffer) to the next, with the identity as P.

    Args:
        rule: a momentum rule.
        curvature: the mode's eigenvalue of `P⁻¹H`.
        lr: the learning rate.
        weight_decay: decoupled weight decay, 0 for none.

    Returns:
        A matrix, 1 × 1 without momentum, 2 × 2 with.

    Example:
        >>> from aeoskit.optimizers import NoMomentum
        >>> companion_matrix(NoMomentum(), 3.0, 0.5).tolist()
        [[-0.5]]
    """
    return rule.recurrence(*(jnp.asarray(x, dtype=float) for x in (curvature, lr, weight_decay)))


def spectral_radius(
    rule: AbstractMomentum, curvature: Number, lr: Number, weight_decay: Number = 0.0
) -> Scalar:
    """The factor by which a mode of this curvature grows (above 1) or decays a step, in the end.

    Costs the eigenvalues of `companion_matrix`.

    Args:
        rule: a momentum rule.
        curvature: the mode's eigenvalue of `P⁻¹H`.
        lr: the learning rate.
        weight_decay: decoupled weight decay, 0 for none.

    Returns:
        The largest absolute value among the eigenvalues of `companion_matrix`, a scalar.

    Example:
        >>> from aeoskit.optimizers import Polyak
        >>> float(spectral_radius(Polyak(0.25), 1.0, 1.0))  # complex roots: the square root of beta
        0.50
    """
    return jnp.abs(jnp.linalg.eigvals(companion_matrix(rule, curvature, lr, weight_decay))).max()
