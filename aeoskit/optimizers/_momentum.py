"""Momentum rules: what a step makes of this direction and the ones before it.

A rule alone sets the stability threshold. On one mode of curvature s, with the identity as
preconditioner and decoupled decay w, every rule here is the linear recurrence

    v' = beta v + in s x        x' = (1 - lr w) x - lr (now s x + out v')

whose characteristic polynomial has the root -1 exactly at
`s = (1 + beta) (2 - lr w) / (lr (now (1 + beta) + out in))`: the closed forms below. For s from
zero up to there both roots are within the unit circle, provided that `lr w < 2`.
"""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from ._hyperparameters import as_decay_rate, cast_to, one_minus_power

Scalar = Float[Array, ""]


def zeros_like(params: PyTree) -> PyTree:
    """Zeros of the same shapes, dtypes and placement; never weakly typed, so that scans close."""
    return jax.tree.map(lambda leaf: jnp.zeros_like(leaf, dtype=leaf.dtype), params)


def blend(a: Scalar, x: PyTree, b: Scalar, y: PyTree) -> PyTree:
    """`a x + b y` leaf by leaf, in the dtype of y (the buffer's)."""
    return jax.tree.map(lambda i, j: cast_to(a, j) * i.astype(j.dtype) + cast_to(b, j) * j, x, y)


def companion(
    beta: Scalar,
    gain_in: Scalar,
    gain_now: Scalar,
    gain_out: Scalar,
    curvature: Scalar,
    lr: Scalar,
    weight_decay: Scalar,
) -> Float[Array, "2 2"]:
    """The matrix that takes (x, v) of one mode to the next (the recurrence of the module's top)."""
    stay = 1 - lr * weight_decay - lr * (gain_now + gain_out * gain_in) * curvature
    return jnp.stack(
        [jnp.stack([stay, -lr * gain_out * beta]), jnp.stack([gain_in * curvature, beta])]
    )


class AbstractMomentum(eqx.Module):
    """What a step makes of this direction and the ones before it.

    A rule is linear in the directions, and states its own stability threshold. Subclasses are
    final; `aeoskit.stability.threshold_from_recurrence` checks what they state.

    Example:
        >>> import jax.numpy as jnp
        >>> isinstance(EMA(0.9), AbstractMomentum)
        True
        >>> step, buffer = EMA(0.5).update(jnp.ones(1), EMA(0.5).init(jnp.zeros(1)))
        >>> step.tolist(), buffer.tolist()
        ([0.5], [0.5])
    """

    @abc.abstractmethod
    def init(self, params: PyTree) -> PyTree:
        """The state before the first step.

        Args:
            params: the parameters: their shapes and dtypes are read.

        Returns:
            Buffers of zeros, or None.
        """

    @abc.abstractmethod
    def update(self, direction: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        """The direction to step along (against, for the gradient), and the next state.

        Args:
            direction: the direction of this step, with the structure of the parameters.
            state: the rule's state.

        Returns:
            The pair `(step, state)`.
        """

    @abc.abstractmethod
    def threshold(self, lr: Scalar, weight_decay: Scalar) -> Scalar:
        """The curvature `λ₁(P⁻¹H)` above which the iterate diverges on a quadratic, P constant.

        Args:
            lr: the learning rate.
            weight_decay: the decoupled weight decay, 0 for none.

        Returns:
            The threshold; zero or negative where `lr * weight_decay >= 2`: decay alone then
            diverges.
        """

    @abc.abstractmethod
    def recurrence(
        self, curvature: Scalar, lr: Scalar, weight_decay: Scalar
    ) -> Float[Array, "size size"]:
        """The matrix that takes (x, buffer) of one mode to the next one, with P the identity.

        Args:
            curvature: the mode's eigenvalue of `P⁻¹H`.
            lr: the learning rate.
            weight_decay: the decoupled weight decay, 0 for none.

        Returns:
            A matrix, 1 × 1 without a buffer and 2 × 2 with one.
        """

    @abc.abstractmethod
    def bias_correction(self, count: Int[Array, ""]) -> Scalar:
        """Which part of its final size the direction has at step number `count`.

        The sum of the weights which that step gives to the directions seen so far, over the same
        sum after infinitely many steps: Adam divides by it.

        Args:
            count: the number of the step; the first is 1.

        Returns:
            A scalar in (0, 1].
        """


class NoMomentum(AbstractMomentum):
    """The direction itself: `x -= lr g`. Threshold `2 / lr`.

    Example:
        >>> import jax.numpy as jnp
        >>> float(NoMomentum().threshold(jnp.asarray(0.5), jnp.asarray(0.0)))
        4.0
    """

    def init(self, params: PyTree) -> PyTree:
        del params
        return None

    def update(self, direction: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        return direction, state

    def threshold(self, lr: Scalar, weight_decay: Scalar) -> Scalar:
        return (2 - lr * weight_decay) / lr

    def recurrence(
        self, curvature: Scalar, lr: Scalar, weight_decay: Scalar
    ) -> Float[Array, "1 1"]:
        return jnp.reshape(1 - lr * weight_decay - lr * curvature, (1, 1))

    def bias_correction(self, count: Int[Array, ""]) -> Scalar:
        return jnp.ones_like(count, dtype=float)


class Polyak(AbstractMomentum):
    """Heavy ball: `v = beta1 v + g`, `x -= lr v`. Threshold `(2 + 2 beta1) / lr`.

    Source: Cohen et al., arXiv 2103.00065.

    Args:
        beta1: the decay rate, in [0, 1).

    Raises:
        TypeError: if it is no real number.
        ValueError: if it is outside [0, 1).

    Example:
        >>> import jax.numpy as jnp
        >>> float(Polyak(0.9).threshold(jnp.asarray(1.0), jnp.asarray(0.0)))
        3.80
    """

    beta1: Scalar

    def __init__(self, beta1: Any = 0.9):
        self.beta1 = as_decay_rate("beta1", beta1)

    def init(self, params: PyTree) -> PyTree:
        return zeros_like(params)

    def update(self, direction: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        buffer = blend(jnp.ones_like(self.beta1), direction, self.beta1, state)
        return buffer, buffer

    def threshold(self, lr: Scalar, weight_decay: Scalar) -> Scalar:
        return (1 + self.beta1) * (2 - lr * weight_decay) / lr

    def recurrence(
        self, curvature: Scalar, lr: Scalar, weight_decay: Scalar
    ) -> Float[Array, "2 2"]:
        one = jnp.ones_like(self.beta1)
        return companion(self.beta1, one, 0 * one, one, curvature, lr, weight_decay)

    def bias_correction(self, count: Int[Array, ""]) -> Scalar:
        return one_minus_power(self.beta1, count)


class EMA(AbstractMomentum):
    """Exponential moving average: `m = beta1 m + (1 - beta1) g`, `x -= lr m`.

    Threshold `(2 + 2 beta1) / ((1 - beta1) lr)`, 38/lr at 0.9. It is `Polyak` with
    `lr_polyak = (1 - beta1) lr_ema`.

    Source: Cohen et al., arXiv 2207.14484.

    Args:
        beta1: the decay rate, in [0, 1).

    Raises:
        TypeError: if it is no real number.
        ValueError: if it is outside [0, 1).

    Example:
        >>> import jax.numpy as jnp
        >>> float(EMA(0.9).threshold(jnp.asarray(1.0), jnp.asarray(0.0)))
        38.00
    """

    beta1: Scalar

    def __init__(self, beta1: Any = 0.9):
        self.beta1 = as_decay_rate("beta1", beta1)

    def init(self, params: PyTree) -> PyTree:
        return zeros_like(params)

    def update(self, direction: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        buffer = blend(1 - self.beta1, direction, self.beta1, state)
        return buffer, buffer

    def threshold(self, lr: Scalar, weight_decay: Scalar) -> Scalar:
        return (1 + self.beta1) * (2 - lr * weight_decay) / ((1 - self.beta1) * lr)

    def recurrence(
        self, curvature: Scalar, lr: Scalar, weight_decay: Scalar
    ) -> Float[Array, "2 2"]:
        one = jnp.ones_like(self.beta1)
        return companion(self.beta1, 1 - self.beta1, 0 * one, one, curvature, lr, weight_decay)

    def bias_correction(self, count: Int[Array, ""]) -> Scalar:
        return one_minus_power(self.beta1, count)


class Nesterov(AbstractMomentum):
    """Nesterov's momentum in Polyak's form: `v = beta1 v + g`, `x -= lr (g + beta1 v)`.

    Threshold `(2 + 2 beta1) / ((1 + 2 beta1) lr)`, 1.357/lr at 0.9, derived by us.

    Args:
        beta1: the decay rate, in [0, 1).

    Raises:
        TypeError: if it is no real number.
        ValueError: if it is outside [0, 1).

    Example:
        >>> import jax.numpy as jnp
        >>> float(Nesterov(0.9).threshold(jnp.asarray(1.0), jnp.asarray(0.0)))
        1.357
    """

    beta1: Scalar

    def __init__(self, beta1: Any = 0.9):
        self.beta1 = as_decay_rate("beta1", beta1)

    def init(self, params: PyTree) -> PyTree:
        return zeros_like(params)

    def update(self, direction: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        one = jnp.ones_like(self.beta1)
        buffer = blend(one, direction, self.beta1, state)
        return blend(one, direction, self.beta1, buffer), buffer

    def threshold(self, lr: Scalar, weight_decay: Scalar) -> Scalar:
        return (1 + self.beta1) * (2 - lr * weight_decay) / ((1 + 2 * self.beta1) * lr)

    def recurrence(
        self, curvature: Scalar, lr: Scalar, weight_decay: Scalar
    ) -> Float[Array, "2 2"]:
        one = jnp.ones_like(self.beta1)
        return companion(self.beta1, one, one, self.beta1, curvature, lr, weight_decay)

    def bias_correction(self, count: Int[Array, ""]) -> Scalar:
        return one_minus_power(self.beta1, count + 1)


class EMANesterov(AbstractMomentum):
    """Nesterov's momentum in the averaged form.

    `m = beta1 m + (1 - beta1) g`, `x -= lr ((1 - beta1) g + beta1 m)`; threshold
    `(2 + 2 beta1) / ((1 - beta1) (1 + 2 beta1) lr)`, 13.571/lr at 0.9, derived by us.

    Args:
        beta1: the decay rate, in [0, 1).

    Raises:
        TypeError: if it is no real number.
        ValueError: if it is outside [0, 1).

    Example:
        >>> import jax.numpy as jnp
        >>> float(EMANesterov(0.9).threshold(jnp.asarray(1.0), jnp.asarray(0.0)))
        13.571
    """

    beta1: Scalar

    def __init__(self, beta1: Any = 0.9):
        self.beta1 = as_decay_rate("beta1", beta1)

    def init(self, params: PyTree) -> PyTree:
        return zeros_like(params)

    def update(self, direction: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        buffer = blend(1 - self.beta1, direction, self.beta1, state)
        return blend(1 - self.beta1, direction, self.beta1, buffer), buffer

    def threshold(self, lr: Scalar, weight_decay: Scalar) -> Scalar:
        return (
            (1 + self.beta1)
            * (2 - lr * weight_decay)
            / ((1 - self.beta1) * (1 + 2 * self.beta1) * lr)
        )

    def recurrence(
        self, curvature: Scalar, lr: Scalar, weight_decay: Scalar
    ) -> Float[Array, "2 2"]:
        gain = 1 - self.beta1
        return companion(self.beta1, gain, gain, self.beta1, curvature, lr, weight_decay)

    def bias_correction(self, count: Int[Array, ""]) -> Scalar:
        return one_minus_power(self.beta1, count + 1)
