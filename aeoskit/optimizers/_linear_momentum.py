"""Momentum rules with several buffers: any sum of exponentials as weights of past directions."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from ._hyperparameters import as_hyperparameter, cast_to, is_concrete, one_minus_power
from ._momentum import (
    EMA,
    AbstractMomentum,
    EMANesterov,
    Nesterov,
    NoMomentum,
    Polyak,
    blend,
    zeros_like,
)
from ._nadam import NAdamMomentum

Scalar = Float[Array, ""]
Weights = Float[Array, " buffers"]


class LinearMomentum(AbstractMomentum):
    """`step = now g + Σ weights_i v_i`, then `v_i = decays_i v_i + g`.

    On one mode of curvature s, with G(z) the rule's gain at the frequency z,

        z - 1 + lr w + lr s G(z) = 0,    G(z) = now + Σ weights_i / (z - decays_i),

    so that -1 is a root at the threshold `(2 - lr w) / (lr G(-1))`. That no other root leaves the
    unit circle before holds for the rules that the functions of this module make (a test goes over
    their hyperparameters), and not for any weights.

    Args:
        now: the weight of the direction of this step.
        weights: that of each buffer.
        decays: the decay rate of each buffer, in [0, 1), all different.

    Example:
        >>> rule = LinearMomentum(0.5, [0.25], [0.5])  # EMA(0.5)
        >>> round(float(rule.threshold(jnp.asarray(1.0), jnp.asarray(0.0))), 3)
        6.0
    """

    now: Scalar
    weights: Weights
    decays: Weights

    def __init__(self, now: Any, weights: Sequence[Any], decays: Sequence[Any]):
        self.now = jnp.asarray(now, dtype=float)
        self.weights, self.decays = (
            jnp.stack([jnp.asarray(x, dtype=float) for x in values]) for values in (weights, decays)
        )

    def init(self, params: PyTree) -> PyTree:
        return tuple(zeros_like(params) for _ in range(self.decays.size))

    def update(self, direction: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        step = jax.tree.map(lambda g: cast_to(self.now, g) * g, direction)
        for weight, buffer in zip(self.weights, state, strict=True):
            step = blend(weight, buffer, jnp.ones_like(weight), step)
        one = jnp.ones_like(self.now)
        buffers = tuple(
            blend(one, direction, decay, buffer)
            for decay, buffer in zip(self.decays, state, strict=True)
        )
        return step, buffers

    def threshold(self, lr: Scalar, weight_decay: Scalar) -> Scalar:
        gain = self.now - jnp.sum(self.weights / (1 + self.decays))
        return (2 - lr * weight_decay) / (lr * gain)

    def recurrence(
        self, curvature: Scalar, lr: Scalar, weight_decay: Scalar
    ) -> Float[Array, "size size"]:
        stay = 1 - lr * weight_decay - lr * self.now * curvature
        first = jnp.concatenate([stay[None], -lr * self.weights])
        seen = jnp.broadcast_to(curvature, self.decays.shape)
        rest = jnp.concatenate([seen[:, None], jnp.diag(self.decays)], axis=1)
        return jnp.concatenate([first[None], rest])

    def bias_correction(self, count: Int[Array, ""]) -> Scalar:
        # At the first step nothing is past: 0 ** 0 in the general formula, where a decay is 0.
        seen = jnp.where(count > 1, one_minus_power(self.decays, jnp.maximum(count - 1, 1)), 0)
        ends = self.weights / (1 - self.decays)
        return (self.now + jnp.sum(ends * seen)) / (self.now + jnp.sum(ends))


def optimistic(rule: AbstractMomentum, alpha: Any, beta: Any) -> LinearMomentum | None:
    """The step `(alpha + beta) u_t - beta u_{t-1}` along what another rule makes of directions.

    Threshold: the rule's over `alpha + 2 beta`.

    Args:
        rule: the rule whose steps u are those.
        alpha: the weight of the step, above 0.
        beta: that of its difference to the one before, at least 0: with a negative one, which is
            momentum and no optimism, other roots may leave first.

    Returns:
        A rule; None if the other one is of another kind than those of the module of momentum.

    Raises:
        ValueError: if alpha or beta is outside of that.

    Example:
        >>> rule = optimistic(NoMomentum(), 1.0, 1.0)
        >>> round(float(rule.threshold(jnp.asarray(1.0), jnp.asarray(0.0))), 3)
        0.667
    """
    mend = "aeoskit.flip_multiplier measures the stability of any update"
    alpha = as_hyperparameter("alpha of optimistic gradients", alpha, above=0, mend=mend)
    beta = as_hyperparameter("beta of optimistic gradients", beta, at_least=0, mend=mend)
    if not (is_concrete(alpha) and is_concrete(beta)):
        alpha = jnp.where((alpha > 0) & (beta >= 0), alpha, jnp.nan)
    both = alpha + beta
    if isinstance(rule, NoMomentum):
        return LinearMomentum(both, [-beta], [0.0])
    if not isinstance(rule, Polyak | EMA | Nesterov | EMANesterov | NAdamMomentum):
        return None
    decay = rule.beta1
    gain = 1.0 if isinstance(rule, Polyak | Nesterov) else 1 - decay
    # Partial fractions of the product of both gains.
    if isinstance(rule, Polyak | EMA):
        return LinearMomentum(gain * both, [gain * (decay * both - beta)], [decay])
    return LinearMomentum(
        gain * (1 + decay) * both,
        [gain * decay * (decay * both - beta), -gain * beta],
        [decay, 0.0],
    )


def adan(b1: Any, b2: Any) -> LinearMomentum:
    """Adan's: an average of directions, and one of their differences, bias corrections at 1.

    Threshold `2 / (lr ((1 - b1) / (1 + b1) + 2 (1 - b2)² / (1 + b2)))`, 119.3/lr at (.98, .92).

    Source: Xie et al., *Adan: Adaptive Nesterov Momentum Algorithm* (arXiv 2208.06677).

    Args:
        b1: the decay rate of the average of directions.
        b2: that of the average of differences, whose weight is `1 - b2`.

    Returns:
        A rule.

    Example:
        >>> round(float(adan(0.98, 0.92).threshold(jnp.asarray(1.0), jnp.asarray(0.0))), 1)
        119.3
    """
    b1, b2 = jnp.asarray(b1, dtype=float), jnp.asarray(b2, dtype=float)
    rest = 1 - b2
    return LinearMomentum((1 - b1) + rest**2, [(1 - b1) * b1, -(rest**3)], [b1, b2])


def ademamix(b1: Any, b3: Any, alpha: Any) -> LinearMomentum:
    """AdEMAMix's: a fast average of directions and alpha times a slow one.

    Threshold `2 / (lr ((1 - b1) / (1 + b1) + alpha (1 - b3) / (1 + b3)))`, 37.82/lr at
    (.9, .9999, 5).

    Source: Pagliardini et al., *The AdEMAMix Optimizer* (arXiv 2409.03137).

    Args:
        b1: the decay rate of the fast average.
        b3: that of the slow one.
        alpha: the weight of the slow one, at least 0.

    Returns:
        A rule.

    Example:
        >>> round(float(ademamix(0.9, 0.9, 1.0).threshold(jnp.asarray(1.0), jnp.asarray(0.0))), 2)
        19.0
    """
    b1, b3, alpha = (jnp.asarray(x, dtype=float) for x in (b1, b3, alpha))
    slow = alpha * (1 - b3)
    return LinearMomentum((1 - b1) + slow, [(1 - b1) * b1, slow * b3], [b1, b3])


def simplified_ademamix(b1: Any, alpha: Any) -> LinearMomentum:
    """Polyak's buffer with alpha times the direction added.

    Threshold `2 / (lr (alpha + 1 / (1 + b1)))`.

    Source: Morwani et al., arXiv 2502.02431.

    Args:
        b1: the decay rate of the buffer.
        alpha: the weight of the direction, at least 0.

    Returns:
        A rule.

    Example:
        >>> rule = simplified_ademamix(0.9, 0.0)
        >>> round(float(rule.threshold(jnp.asarray(1.0), jnp.asarray(0.0))), 2)
        3.8
    """
    b1, alpha = jnp.asarray(b1, dtype=float), jnp.asarray(alpha, dtype=float)
    return LinearMomentum(1 + alpha, [b1], [b1])
