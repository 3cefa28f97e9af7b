"""Means over fixed data along a trajectory: a test loss, an error rate."""

import equinox as eqx
import jax
import jax.numpy as jnp

from aeoskit.objective import Objective

from ._base import AbstractReading, Measurement, ProbeContext, check_every


class Evaluation(AbstractReading):
    """Evaluates the parameters on fixed data: test rows, or the training data by another measure.

    What is evaluated is the mean of a function over data, an `Objective`: in microbatches and over
    devices if that is set up so. The data are leaves, so that other data of the same shapes do not
    retrace.

    Args:
        objectives: name to what is evaluated; it need not be differentiable.
        every: period in steps.

    Raises:
        ValueError: nothing to evaluate.

    Costs a forward pass over the data of each, in the program of the training step. Measures a
    scalar for each name: NaN where the parameters are not finite.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import aeoskit as ak
        >>> def loss(w, batch):
        ...     x, y = batch
        ...     return 0.5 * (x @ w - y) ** 2
        >>> def wrong(w, batch):
        ...     x, y = batch
        ...     return ((x @ w > 0.5) != (y > 0.5)).astype(float)
        >>> train, test = (jnp.eye(2), jnp.array([1.0, 0.0])), (jnp.ones((1, 2)), jnp.ones(1))
        >>> probe = ak.Evaluation(objectives={"test_error": ak.Objective(wrong, test)}, every=2)
        >>> trajectory = ak.Trajectory(
        ...     ak.Objective(loss, train), ak.gradient_descent(0.8), {"test": probe})
        >>> chunk = next(ak.stream(trajectory, trajectory.init(jnp.zeros(2), jax.random.key(0)), 5))
        >>> chunk.measurements["test_error"][chunk.measured["test_error"], 0].tolist()
        [1.0, 0.0, 0.0]
    """

    objectives: dict[str, Objective]
    every: int = eqx.field(static=True, default=1, converter=check_every)

    def __check_init__(self):
        if not self.objectives:
            raise ValueError(
                "objectives is empty, so that nothing would be measured: pass for example "
                "{'test_loss': Objective(loss, test_data)}."
            )

    @property
    def measures(self) -> tuple[str, ...]:
        return tuple(self.objectives)

    def measure(self, context: ProbeContext, state: None) -> tuple[Measurement, None]:
        dtype, leaves = context.value.dtype, jax.tree.leaves(context.params)
        # Comparisons with NaN are false: without this an error rate would be a plausible number.
        finite = jnp.all(jnp.stack([jnp.all(jnp.isfinite(leaf)) for leaf in leaves]))
        return {
            name: jnp.where(finite, objective.value(context.params), jnp.nan).astype(dtype)
            for name, objective in self.objectives.items()
        }, state
