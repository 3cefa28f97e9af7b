"""NAdam's momentum, whose bias corrections do not fit into one preconditioner."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from ._hyperparameters import as_decay_rate, one_minus_power
from ._momentum import AbstractMomentum, EMANesterov, blend, zeros_like

Scalar = Float[Array, ""]


class NAdamState(eqx.Module):
    """The average, and the number of steps that it has seen."""

    buffer: PyTree
    count: Int[Array, ""]


class NAdamMomentum(AbstractMomentum):
    """EMA Nesterov with NAdam's corrections: m by `1 - beta1**(t+1)`, g by `1 - beta1**t`.

    The step number t is the first step's 1. The rule varies in time and tends to `EMANesterov`,
    so `threshold` and `recurrence` are the limit's (13.571/lr at 0.9).

    Source: Dozat, *Incorporating Nesterov momentum into Adam* (2016), as optax writes it.

    Args:
        beta1: the decay rate, in [0, 1).

    Raises:
        TypeError: if it is no real number.
        ValueError: if it is outside [0, 1).

    Example:
        >>> import jax.numpy as jnp
        >>> rule = NAdamMomentum(0.5)
        >>> step, state = rule.update(jnp.ones(1), rule.init(jnp.zeros(1)))
        >>> float(step[0])  # 0.5 * 0.5 / 0.75 + 0.5 * 1 / 0.5
        1.333
    """

    beta1: Scalar

    def __init__(self, beta1: Any = 0.9):
        self.beta1 = as_decay_rate("beta1", beta1)

    def init(self, params: PyTree) -> NAdamState:
        return NAdamState(zeros_like(params), jnp.zeros((), jnp.int32))

    def update(self, direction: PyTree, state: NAdamState) -> tuple[PyTree, NAdamState]:
        count = state.count + 1
        buffer = blend(1 - self.beta1, direction, self.beta1, state.buffer)
        step = blend(
            (1 - self.beta1) / one_minus_power(self.beta1, count),
            direction,
            self.beta1 / one_minus_power(self.beta1, count + 1),
            buffer,
        )
        return step, NAdamState(buffer, count)

    def threshold(self, lr: Scalar, weight_decay: Scalar) -> Scalar:
        return EMANesterov(self.beta1).threshold(lr, weight_decay)

    def recurrence(
        self, curvature: Scalar, lr: Scalar, weight_decay: Scalar
    ) -> Float[Array, "2 2"]:
        return EMANesterov(self.beta1).recurrence(curvature, lr, weight_decay)

    def bias_correction(self, count: Int[Array, ""]) -> Scalar:
        # The corrections are in the rule: nothing is left for the preconditioner to correct.
        return jnp.ones_like(count, dtype=float)
