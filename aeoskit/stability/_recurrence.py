"""Stability thresholds found from a momentum rule's recurrence, without its closed form."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Bool, Float, Num, PyTree

from aeoskit.optimizers import AbstractMomentum, Optimizer

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


def _growth(step_curvature: Scalar, args: PyTree) -> Scalar:
    """Spectral radius minus 1, at `lr * curvature`: the recurrence knows no other scale."""
    rule, decay = args
    return spectral_radius(rule, step_curvature, 1.0, decay) - 1


def threshold_from_recurrence(
    rule: AbstractMomentum, lr: Number, weight_decay: Number = 0.0
) -> Scalar:
    """The curvature at which the spectral radius of the recurrence passes 1.

    A bracket by doubling, then optimistix's bisection on `spectral radius - 1`. Nothing is
    assumed on where on the unit circle the root leaves it. The relative tolerance is `eps**0.7`
    of JAX's default float type: 1e-11 under x64, 1e-5 otherwise. Costs some 50 eigenvalue problems
    of size two.

    Args:
        rule: a momentum rule.
        lr: the learning rate, above 0.
        weight_decay: decoupled weight decay, at least 0.

    Returns:
        The threshold, a scalar; NaN where there is none (`lr * weight_decay >= 2`: flat directions
        diverge), or where the radius is not below 1 under it and above 1 over it.

    Example:
        >>> from aeoskit.optimizers import EMA
        >>> float(threshold_from_recurrence(EMA(0.9), lr=1.0))
        38.00
    """
    lr, decay = jnp.asarray(lr, dtype=float), jnp.asarray(weight_decay, dtype=float)
    args = (rule, lr * decay)
    tolerance = float(jnp.finfo(lr.dtype).eps) ** 0.7
    # Rules of this family have thresholds of 2/(1 - beta) at most, doubled: 60 doublings are
    # there for what a user writes.
    upper = jax.lax.while_loop(
        lambda y: (_growth(y, args) <= 0) & (y < 2.0**60),
        lambda y: 2 * y,
        jnp.ones_like(lr),
    )
    solution = optx.root_find(
        _growth,
        optx.Bisection(rtol=tolerance, atol=tolerance, flip=False),
        upper / 2,
        args,
        options={"lower": jnp.zeros_like(upper), "upper": upper},
        # Where the radius is so steep that no float has it within `atol` of 1, bisection goes on
        # to the last bit and stays there: the check below is what counts.
        max_steps=128,
        throw=False,
    )
    found, margin = solution.value, tolerance**0.5
    # A root of 1 at every curvature is marginal: below 1 by more than its rounding.
    below = _growth(found * (1 - margin), args) < -4 * jnp.finfo(lr.dtype).eps
    crosses = below & (_growth(found * (1 + margin), args) > 0)
    return jnp.where(crosses, found / lr, jnp.nan)


class ThresholdCheck(eqx.Module):
    """A closed-form threshold beside the one that the recurrence has.

    Args:
        closed_form: the optimizer's threshold.
        from_recurrence: that of `threshold_from_recurrence`; NaN where there is none.
        relative_error: their difference over the closed form.
        agrees: whether it is within the tolerance.

    Example:
        >>> from aeoskit.optimizers import gradient_descent
        >>> check = verify_threshold(gradient_descent(0.5))
        >>> float(check.closed_form), float(check.from_recurrence)
        (4.0, 4.0)
    """

    closed_form: Scalar
    from_recurrence: Scalar
    relative_error: Scalar
    agrees: Bool[Array, ""]


def verify_threshold(optimizer: Optimizer, count: Any = 0) -> ThresholdCheck:
    """Compares an optimizer's closed-form threshold with its recurrence's.

    Args:
        optimizer: the optimizer; its preconditioner is not looked at.
        count: the number of steps taken, the schedule's argument.

    Returns:
        A `ThresholdCheck`: both values, their relative difference, and whether it is within 1e-8
        (1e-3 in single precision, where a recurrence with beta near 1 loses four digits).

    Example:
        >>> from aeoskit.optimizers import adamw
        >>> bool(verify_threshold(adamw(1e-3, weight_decay=0.1)).agrees)
        True
    """
    lr = optimizer.schedule(jnp.asarray(count, dtype=jnp.int32))
    decay = optimizer.decay_over_lr(lr)
    closed = optimizer.momentum_rule.threshold(lr, decay)
    found = threshold_from_recurrence(optimizer.momentum_rule, lr, decay)
    error = jnp.abs(found - closed) / jnp.abs(closed)
    bound = 1e-8 if jnp.finfo(lr.dtype).bits == 64 else 1e-3
    return ThresholdCheck(closed, found, error, error <= bound)
