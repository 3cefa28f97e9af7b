"""The probe: a small module that measures something at a point of a trajectory."""

import abc
from typing import Any, Literal

import equinox as eqx
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PRNGKeyArray, PyTree

from aeoskit.objective import Linearization, Objective
from aeoskit.optimizers import AbstractOptimizer

Measurement = dict[str, Array]


class ProbeContext(eqx.Module):
    """The input of a probe: the point of the trajectory *before* its step is taken.

    Args:
        objective: the mean loss over all of the data.
        params: the parameters `x_t`.
        optimizer: the optimizer that is about to step.
        optimizer_state: its state before the step.
        value: the training loss at `x_t` (on the minibatch, if there is one).
        grads: the gradient that the coming step will use.
        step: how many steps were taken so far.
        key: a fresh PRNG key for this point.
        active: False once the lane has diverged. Its parameters are frozen then, and a solve gets
            one product, so that the other lanes do not wait for it.
        driver: the loop of an eigensolve inside the probe: `"compiled"`, or `"host"` where a loop
            inside the program is slow (convolutions on CPU).
        linearization: `objective.linearize(params)`, where a probe that `linearizes` is due and
            the step trains on all of the data, so that its gradient is the step's.
        batch: the mean loss over the step's minibatch; None where it trains on all of the data.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import aeoskit as ak
        >>> objective = ak.Objective(lambda w, x: 0.5 * (x @ w - 1.0) ** 2, jnp.eye(2))
        >>> params, optimizer = jnp.zeros(2), ak.adam(1e-3)
        >>> value, grads = objective.value_and_gradient(params)
        >>> context = ak.ProbeContext(
        ...     objective, params, optimizer, optimizer.init(params), value, grads,
        ...     jnp.asarray(0), jax.random.key(0))
        >>> context.driver
        'compiled'
    """

    objective: Objective
    params: PyTree
    optimizer: AbstractOptimizer
    optimizer_state: PyTree
    value: Float[Array, ""]
    grads: PyTree
    step: Int[Array, ""]
    key: PRNGKeyArray
    active: Bool[Array, ""] = eqx.field(default_factory=lambda: jnp.asarray(True))
    driver: Literal["compiled", "host"] = eqx.field(static=True, default="compiled")
    linearization: Linearization | None = None
    batch: Objective | None = None

    @property
    def training(self) -> Objective:
        """The mean loss over the data of the step."""
        return self.objective if self.batch is None else self.batch


class AbstractProbe(eqx.Module):
    """A quantity that is measured along a trajectory, every `every` steps.

    A probe's state holds its warm start; it has fixed shapes, so that a probe runs inside
    `lax.scan` and `jax.vmap`. A measurement is a flat mapping of names to arrays of fixed shapes.
    `check_probe` tests all of this.

    A probe with an attribute `overhead` that is not None is kept to a budget of time. It `solves`,
    and measures its products as `{measures[0]}_matvecs`; `every` is its shortest period and
    `solver.value_rtol`, if there is one, its tightest tolerance.
    """

    every: eqx.AbstractVar[int]

    @property
    @abc.abstractmethod
    def measures(self) -> tuple[str, ...]:
        """The names that `measure` returns."""

    @property
    @abc.abstractmethod
    def solves(self) -> bool:
        """True if a measurement runs an eigensolve or another loop of products."""

    @property
    def linearizes(self) -> bool:
        """True if a measurement uses the Hessian of the trajectory's own objective."""
        return False

    @abc.abstractmethod
    def init(self, params: PyTree, key: PRNGKeyArray) -> Any:
        """The state before the first measurement.

        Args:
            params: the parameters (only their shapes and dtypes are read).
            key: the PRNG key of the probe's start vectors.
        """

    @abc.abstractmethod
    def measure(self, context: ProbeContext, state: Any) -> tuple[Measurement, Any]:
        """Measures at one point.

        Args:
            context: the point of the trajectory.
            state: what `init` or the previous `measure` returned.

        Returns:
            The measurement and the state of the next one.
        """


class AbstractReading(AbstractProbe):
    """A probe without a solve and without a state."""

    @property
    def solves(self) -> bool:
        return False

    def init(self, params: PyTree, key: PRNGKeyArray) -> None:
        del params, key


def check_every(every: int) -> int:
    """Refuses a period that is not a positive whole number."""
    if isinstance(every, bool) or not isinstance(every, int) or every < 1:
        raise ValueError(
            f"`every` is {every!r}, but a probe's period is a whole number of steps, at least 1; "
            "pass every=1 to measure at each step."
        )
    return every


def check_k(k: int) -> int:
    """Refuses a number of eigenvalues that is not a positive whole number."""
    if isinstance(k, bool) or not isinstance(k, int) or k < 1:
        raise ValueError(
            f"k is {k!r}, but a probe tracks a whole number of eigenvalues, at least 1; pass k=1 "
            "for the largest."
        )
    return k
