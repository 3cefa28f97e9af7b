"""Sign descent and Lion: they work, and they have no preconditioner."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from aeoskit.linalg import AbstractPreconditioner, IdentityPreconditioner

from ._hyperparameters import as_decay_rate
from ._momentum import AbstractMomentum, blend, zeros_like
from ._preconditioning import AbstractPreconditionerRule

Scalar = Float[Array, ""]


class Sign(AbstractPreconditionerRule):
    """In the preconditioner's place, but none: the step is the sign of each coordinate.

    A step that is piecewise constant in the gradient has no metric P, and no curvature at which it
    begins to diverge: on any quadratic it ends in a cycle of the length of the learning rate.
    `Optimizer.preconditioner` then raises, for there is nothing to measure, and
    `Optimizer.threshold` is NaN rather than an error, so that such an optimizer can be trained
    with the probes that log a threshold at every step. (What is said to hover at `2 / lr` is the
    sharpness in the ℓ∞ norm over `‖g‖₁`, arXiv 2603.05002, which is another thing.)

    Example:
        >>> import jax.numpy as jnp
        >>> from aeoskit.optimizers import Optimizer
        >>> optimizer = Optimizer(0.5, None, Sign())
        >>> optimizer.update(jnp.array([3.0, 0.0, -1e-3]), optimizer.init(jnp.zeros(3)))[0].tolist()
        [-0.5, 0.0, 0.5]
    """

    def init(self, params: PyTree) -> IdentityPreconditioner:
        return IdentityPreconditioner(params)

    def update(self, grads: PyTree, state: IdentityPreconditioner) -> IdentityPreconditioner:
        del grads
        return state

    def apply(self, direction: PyTree) -> PyTree:
        """The signs; that of zero is zero.

        Args:
            direction: a tree of arrays.

        Returns:
            A tree of entries -1, 0 and 1.
        """
        return jax.tree.map(jnp.sign, direction)

    def operator(
        self, state: IdentityPreconditioner, count: Int[Array, ""], bias: Scalar
    ) -> AbstractPreconditioner:
        raise ValueError(
            "sign descent and Lion have no preconditioner, since their step is piecewise constant "
            "in the gradient: measure the sharpness of the loss itself, or take another optimizer."
        )

    def structure(self, state: IdentityPreconditioner) -> PyTree[jax.ShapeDtypeStruct]:
        return state.in_structure()


class LionMomentum(AbstractMomentum):
    """Lion's two rates: `step = beta1 m + (1 - beta1) g`, then `m = beta2 m + (1 - beta2) g`.

    Under `Sign` it is Lion. The rule itself is linear, and has the threshold
    `(1 + beta2) (2 - lr w) / ((1 + beta2 - 2 beta1) lr)`, or, where `beta1 > beta2`, that of the
    complex pair, whose product `beta2 (1 - lr w) + (beta1 - beta2) lr s` reaches 1, if it is
    lower: derived by us.

    Source: Chen et al., *Symbolic discovery of optimization algorithms* (arXiv 2302.06675).

    Args:
        beta1: the share of m in the step, in [0, 1).
        beta2: the decay rate of m, in [0, 1).

    Raises:
        TypeError: if one is no real number.
        ValueError: if one is outside [0, 1).

    Example:
        >>> import jax.numpy as jnp
        >>> rule = LionMomentum(0.9, 0.99)
        >>> step, buffer = rule.update(jnp.ones(1), rule.init(jnp.zeros(1)))
        >>> step.tolist(), buffer.tolist()
        ([0.100], [0.0100])
    """

    beta1: Scalar
    beta2: Scalar

    def __init__(self, beta1: Any = 0.9, beta2: Any = 0.99):
        self.beta1 = as_decay_rate("beta1", beta1)
        self.beta2 = as_decay_rate("beta2", beta2)

    def init(self, params: PyTree) -> PyTree:
        return zeros_like(params)

    def update(self, direction: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        step = blend(1 - self.beta1, direction, self.beta1, state)
        return step, blend(1 - self.beta2, direction, self.beta2, state)

    def threshold(self, lr: Scalar, weight_decay: Scalar) -> Scalar:
        stay = 1 - lr * weight_decay
        gap = 1 + self.beta2 - 2 * self.beta1
        excess = self.beta1 - self.beta2
        never = jnp.full_like(lr, jnp.inf)
        flip = (1 + self.beta2) * (1 + stay) / lr
        turn = (1 - self.beta2 * stay) / lr
        return jnp.minimum(
            jnp.where(gap > 0, flip / jnp.where(gap > 0, gap, 1), never),
            jnp.where(excess > 0, turn / jnp.where(excess > 0, excess, 1), never),
        )

    def recurrence(
        self, curvature: Scalar, lr: Scalar, weight_decay: Scalar
    ) -> Float[Array, "2 2"]:
        stay = 1 - lr * weight_decay - lr * (1 - self.beta1) * curvature
        # Not the module's `companion`: the step has the buffer as it was before this gradient.
        return jnp.stack(
            [
                jnp.stack([stay, -lr * self.beta1]),
                jnp.stack([(1 - self.beta2) * curvature, self.beta2]),
            ]
        )

    def bias_correction(self, count: Int[Array, ""]) -> Scalar:
        # After t ones the step is 1 - beta1 beta2^(t-1).
        return 1 - self.beta1 * self.beta2 ** (count - 1).astype(self.beta2.dtype)
