"""Schedule-Free: an iterate, its average, and gradients at a point between the two."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from aeoskit._paths import check_like

from ._hyperparameters import as_decay_rate, as_hyperparameter, cast_to
from ._momentum import AbstractMomentum
from ._trees import blend, structure_of, zeros_like

Scalar = Float[Array, ""]


class ScheduleFreeState(eqx.Module):
    """The offset of the parameters from the average, and the history of the weights."""

    offset: PyTree
    largest_lr: Scalar
    weight_sum: Scalar


class ScheduleFree(AbstractMomentum):
    """Schedule-Free at its gradient point y: threshold `2 / ((1 - beta1) lr)`, 20/lr at 0.9.

    With an iterate `z' = z + Δ`, where `Δ = -lr (P⁻¹g + weight_decay y)`, and the average
    `x' = (1 - c) x + c z'`, gradients are taken at `y = (1 - beta1) z + beta1 x`, and those are the
    parameters. In terms of the buffer `d = y - x` that is linear, with a coefficient c that falls:

        f = d + (1 - beta1) Δ
        y' = y + (1 - beta1) Δ + c beta1 / (1 - beta1) f        d' = (1 - c) f

    c is the share of this step's weight in the sum of all weights; a weight is the largest
    learning rate so far to the power `weight_lr_power`. Without a schedule `c = 1 / t`.
    As in `optax.contrib.schedule_free`, which this equals, the weight uses the learning rate of the
    *next* step: during a warmup this differs from the authors' code.

    c tends to zero, and then the average is constant while y moves by a share of a plain step:
    `threshold` and `recurrence` are those of that limit. With the present c the threshold is `2 /
    (((1 - beta1) + c beta1 / (2 - c)) lr)`, lower by 4 % at the hundredth step.

    The buffer is of steps, and weight decay goes through it: `Optimizer` takes this rule with
    `order="precondition_first"` only, and adds decay before it. Decay w lowers the threshold by w.

    Source: Defazio et al., *The road less scheduled* (arXiv 2405.15682); threshold: Cohen et al.,
    arXiv 2207.14484 for the form, its limit derived here.

    Args:
        beta1: the share of the average in y, in [0, 1).
        weight_lr_power: at least 0; 0 for equal weights.

    Raises:
        TypeError: if one is not a real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> rule = ScheduleFree(0.5)
        >>> state = rule.weigh(jnp.asarray(1.0), rule.init(jnp.zeros(1)))
        >>> rule.update(-jnp.ones(1), state)[0].tolist()  # the first step has c = 1: x = y = z
        [-1.0]
    """

    takes_steps = True
    beta1: Scalar
    weight_lr_power: Scalar

    def __init__(self, beta1: Any = 0.9, weight_lr_power: Any = 2.0):
        self.beta1 = as_decay_rate("beta1", beta1)
        self.weight_lr_power = as_hyperparameter(
            "weight_lr_power", weight_lr_power, at_least=0, fix="take 2, or 0 for equal weights"
        )

    def init(self, params: PyTree) -> ScheduleFreeState:
        zero = jnp.zeros((), jnp.result_type(float))
        return ScheduleFreeState(zeros_like(params), zero, zero)

    def weigh(self, lr: Scalar, state: ScheduleFreeState) -> ScheduleFreeState:
        """The state with the coming step's weight, for `update`.

        Args:
            lr: the learning rate of the weight.
            state: the rule's state.

        Returns:
            The state to pass to `update`.
        """
        largest = jnp.maximum(state.largest_lr, lr.astype(state.largest_lr.dtype))
        weight_sum = state.weight_sum + self._weight(largest)
        return ScheduleFreeState(state.offset, largest, weight_sum)

    def update(
        self, direction: PyTree, state: ScheduleFreeState
    ) -> tuple[PyTree, ScheduleFreeState]:
        total = state.weight_sum
        # A schedule that starts at zero has no weight yet.
        share = jnp.where(
            total > 0, self._weight(state.largest_lr) / jnp.where(total > 0, total, 1), 0
        )
        iterate_share, one = 1 - self.beta1, jnp.ones_like(self.beta1)
        moved = blend(iterate_share, direction, one, state.offset)
        step = blend(iterate_share, direction, share * self.beta1 / iterate_share, moved)
        offset = jax.tree.map(lambda leaf: cast_to(1 - share, leaf) * leaf, moved)
        return step, ScheduleFreeState(offset, state.largest_lr, total)

    def threshold(self, lr: Scalar, weight_decay: Scalar) -> Scalar:
        return 2 / ((1 - self.beta1) * lr) - weight_decay

    def recurrence(
        self, curvature: Scalar, lr: Scalar, weight_decay: Scalar
    ) -> Float[Array, "1 1"]:
        return jnp.reshape(1 - (1 - self.beta1) * lr * (curvature + weight_decay), (1, 1))

    def bias_correction(self, count: Int[Array, ""]) -> Scalar:
        # No correction: the first weight of the average is 1.
        return jnp.ones_like(count, dtype=float)

    def _weight(self, largest: Scalar) -> Scalar:
        return largest ** self.weight_lr_power.astype(largest.dtype)


def schedule_free_eval_params(params: PyTree, state: Any) -> PyTree:
    """The average x, at which a Schedule-Free model is evaluated.

    The parameters that `update` moves are the gradient point y. Sharpness and threshold belong to
    y; the loss that one reports belongs to x.

    Args:
        params: the parameters, y.
        state: the optimizer's state, an `OptimizerState`.

    Returns:
        The average, in the parameters' dtypes.

    Raises:
        TypeError: if the state is not that of an aeoskit Schedule-Free optimizer.
        ValueError: if `params` does not match the state.

    Example:
        >>> import jax.numpy as jnp
        >>> from aeoskit.optimizers import apply_updates, schedule_free_sgd
        >>> optimizer, params = schedule_free_sgd(0.1), jnp.array([1.0])
        >>> state = optimizer.init(params)
        >>> for _ in range(2):
        ...     updates, state = optimizer.update(jnp.ones(1), state)
        ...     params = apply_updates(params, updates)
        >>> schedule_free_eval_params(params, state).tolist()  # of z = 0.9 and 0.8
        [0.85]
    """
    momentum = getattr(state, "momentum", None)
    if not isinstance(momentum, ScheduleFreeState):
        raise TypeError(
            f"the state is a {type(state).__name__} without the average of Schedule-Free: pass the "
            "OptimizerState of `schedule_free_sgd` or `schedule_free_adamw`; for that of optax's "
            "own there is optax.contrib.schedule_free_eval_params."
        )
    check_like("params", params, structure_of(momentum.offset))
    return jax.tree.map(lambda y, d: y - d.astype(y.dtype), params, momentum.offset)
