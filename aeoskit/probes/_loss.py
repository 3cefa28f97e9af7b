"""The cheap probes: what the training step has computed anyway."""

import equinox as eqx

from aeoskit.linalg import tree_norm

from ._base import AbstractReading, Measurement, ProbeContext, check_every


class LossAndGradient(AbstractReading):
    """The training loss and the gradient's Euclidean norm.

    Args:
        every: period in steps.

    Costs nothing: both come out of the training step. Measures `loss` and `gradient_norm`.

    Example:
        >>> import aeoskit as ak
        >>> ak.LossAndGradient().every
        1
    """

    every: int = eqx.field(static=True, default=1, converter=check_every)

    @property
    def measures(self) -> tuple[str, ...]:
        return ("loss", "gradient_norm")

    def measure(self, context: ProbeContext, state: None) -> tuple[Measurement, None]:
        return {"loss": context.value, "gradient_norm": tree_norm(context.grads)}, state


class StabilityThreshold(AbstractReading):
    """The optimizer's stability threshold and learning rate of the coming step.

    Args:
        every: period in steps.

    Costs nothing: a closed form. Measures `threshold` (of `λ₁(P⁻¹H)`, `38/η` for Adam with
    `β₁ = 0.9`) and `learning_rate`; both follow the schedule.

    Example:
        >>> import aeoskit as ak
        >>> ak.StabilityThreshold().measures
        ('threshold', 'learning_rate')
    """

    every: int = eqx.field(static=True, default=1, converter=check_every)

    @property
    def measures(self) -> tuple[str, ...]:
        return ("threshold", "learning_rate")

    def measure(self, context: ProbeContext, state: None) -> tuple[Measurement, None]:
        dtype = context.value.dtype
        optimizer, at = context.optimizer, (context.optimizer_state, context.params)
        threshold, lr = optimizer.threshold(*at), optimizer.learning_rate(*at)
        return {"threshold": threshold.astype(dtype), "learning_rate": lr.astype(dtype)}, state
