"""The flip multiplier of the training step, along a trajectory."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PRNGKeyArray, PyTree

from aeoskit.linalg import Arnoldi
from aeoskit.objective import Objective, loss_anatomy
from aeoskit.optimizers import as_optimizer
from aeoskit.sharding import Placement
from aeoskit.stability import flip_multiplier, oscillating_multiplier

from ._base import AbstractProbe, Measurement, ProbeContext, check_every


class TrainingStep(eqx.Module):
    """A full-batch training step as a map of `(params, state)`: what a multiplier is taken of.

    Args:
        objective: the mean loss over the data.
        optimizer: anything with optax's `update`.

    Example:
        >>> import jax.numpy as jnp
        >>> import aeoskit as ak
        >>> objective = ak.Objective(lambda w, x: 0.5 * (x @ w) ** 2, jnp.eye(2))
        >>> optimizer = ak.gradient_descent(1.0)
        >>> step = TrainingStep(objective, optimizer)
        >>> step(jnp.ones(2), optimizer.init(jnp.ones(2)))[0].tolist()
        [0.5, 0.5]
    """

    objective: Objective
    optimizer: Any

    @property
    def placement(self) -> Placement | None:
        """The placement of the objective's data."""
        return self.objective.placement

    @property
    def product(self) -> str:
        """By differences, where the objective's products are not made by a forward derivative."""
        return "forward" if self.objective.product == "forward" else "difference"

    def may_hide(self, params: PyTree) -> bool:
        """True if the loss has something in it that may hide a part of its derivative."""
        return bool(loss_anatomy(self.objective, params).hiding)

    def __call__(self, params: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        """One step: a gradient and an update; NaN where the loss is not finite."""
        value, grads = self.objective.value_and_gradient(params)
        optimizer = as_optimizer(self.optimizer)
        params, state = optimizer.step(self.objective.value, params, state, grads)
        # A trajectory ends where the loss is not finite, however finite the gradient is.
        factor = jnp.where(jnp.isfinite(value), 1.0, jnp.nan)
        return jax.tree.map(lambda leaf: factor.astype(leaf.dtype) * leaf, params), state


class FlipMultiplier(AbstractProbe):
    """Tracks the flip multiplier of the whole full-batch step, and the ratio that belongs to it.

    Unlike the preconditioned sharpness it needs no P: it is the eigenvalue of smallest real part of
    the Jacobian of the step, `aeoskit.flip_multiplier`, cold at each measurement.

    Args:
        every: period in steps. An odd one, since at the edge every other step is alike.
        solver: an `Arnoldi`; that of `flip_multiplier` by default.
        max_matvecs: budget of Jacobian products for one measurement.
        oscillation: whether to measure, in a second solve that begins where the first one ended,
            the largest modulus among multipliers that are not real and positive, too: of an
            optimizer with two momentum buffers it passes 1 where the flip multiplier does not
            pass -1. It costs about as much again.

    Measures `multiplier` (its real part), `multiplier_imag`, `multiplier_residual`,
    `multiplier_converged`, `multiplier_matvecs` (Jacobian products), `multiplier_criterion` (1 if
    the residual met its tolerance, 0 if not), `multiplier_dead` (parameters without a derivative)
    and `equivalent_ratio`: the ratio of `λ₁(P⁻¹H)` to the threshold at which the optimizer's own
    recurrence would have it, NaN where the optimizer has no such recurrence. With `oscillation`
    also `oscillation_modulus` and `oscillation_angle` (radians a step; NaN where none was found),
    `oscillation_resolved_angle` (under which a larger one may be hidden), `oscillation_residual`,
    `oscillation_converged` and `oscillation_matvecs`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import aeoskit as ak
        >>> rows = jnp.diag(jnp.arange(3.0))
        >>> objective = ak.Objective(lambda w, x: 0.5 * (x @ w - 1.0) ** 2, rows)
        >>> trajectory = ak.Trajectory(
        ...     objective, ak.gradient_descent(1.2), {"flip": ak.FlipMultiplier()})
        >>> carry = trajectory.init(jnp.zeros(3), jax.random.key(0))
        >>> chunk = next(ak.stream(trajectory, carry, 1))
        >>> print(f"{chunk.measurements['multiplier'][0, 0]:.2f}")
        -0.60
        >>> print(f"{chunk.measurements['equivalent_ratio'][0, 0]:.2f}")
        0.80
    """

    every: int = eqx.field(static=True, default=1, converter=check_every)
    solver: Arnoldi | None = None
    max_matvecs: int | None = eqx.field(static=True, default=None)
    oscillation: bool = eqx.field(static=True, default=False)

    @property
    def measures(self) -> tuple[str, ...]:
        parts = ("imag", "residual", "converged", "matvecs", "criterion", "dead")
        names = ("multiplier", *(f"multiplier_{part}" for part in parts), "equivalent_ratio")
        parts = ("modulus", "angle", "resolved_angle", "residual", "converged", "matvecs")
        return names + tuple(f"oscillation_{part}" for part in parts if self.oscillation)

    @property
    def solves(self) -> bool:
        return True

    def init(self, params: PyTree, key: PRNGKeyArray) -> None:
        del params, key

    def measure(self, context: ProbeContext, state: None) -> tuple[Measurement, None]:
        optimizer, point = context.optimizer, context.params
        if not optimizer.is_update_map:
            raise ValueError(
                f"the step of {optimizer.name} has no multipliers, since it searches along a line "
                "or is piecewise constant in the gradient: measure `sharpness` along its way."
            )
        step = TrainingStep(context.objective, optimizer), (point, context.optimizer_state)
        options: Any = dict(
            solver=self.solver,
            max_matvecs=self._budget(context),
            driver=context.driver,
            # No condition number is measured: the transposed solve would cost as much again.
            condition="search_space",
        )
        found = flip_multiplier(*step, start=context.key, **options)
        dtype = context.value.dtype
        try:
            recursion = optimizer.recursion(context.optimizer_state, point)
        except ValueError:
            ratio = jnp.asarray(jnp.nan)
        else:
            ratio = found.equivalent_ratio(recursion)
        values = (
            found.value.real.astype(dtype),
            found.value.imag.astype(dtype),
            found.residual.astype(dtype),
            found.converged,
            found.jvps,
            found.converged.astype(int),
            found.dead,
            ratio.astype(dtype),
        )
        if self.oscillation:
            turned = oscillating_multiplier(*step, start=found.state, **options)
            values += (
                turned.modulus.astype(dtype),
                turned.angle.astype(dtype),
                jnp.asarray(turned.resolved_angle, dtype),
                turned.residual.astype(dtype),
                turned.converged,
                turned.jvps,
            )
        return dict(zip(self.measures, values, strict=True)), state

    def _budget(self, context: ProbeContext) -> Any:
        budget = self.max_matvecs
        if budget is None:
            size = sum(leaf.size for leaf in jax.tree.leaves(context.params))
            budget = min(800, 20 * size)
        return jnp.where(context.active, budget, 1)
