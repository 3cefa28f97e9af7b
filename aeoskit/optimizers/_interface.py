"""The interface of optimizers: state, step, metric, threshold, and properties that declare them."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from aeoskit.linalg import AbstractPreconditioner

from .rules._momentum import Recursion

Scalar = Float[Array, ""]
Function = Callable[[PyTree], Scalar]


class AbstractOptimizer(eqx.Module):
    """An optimizer: a state, a step, and, if they exist, a metric P and a threshold.

    Callers use the properties, never the type, to query an optimizer's capabilities. All are known
    without a state. By default an optimizer can only step; a subclass with more capabilities
    overrides the property and its method, and `check_optimizer` tests that the two agree.

    Attributes:
        name: its name in error messages.
        has_metric: whether `preconditioner` returns a P.
        has_threshold: whether `threshold` is a number, and `recursion` a recurrence.
        is_update_map: whether a step is a map of parameters, state and data alone, the same at each
            step, so that it has multipliers; false for line searches.
        is_euclidean: whether P is the identity, or there is none: then its sharpness is `λ₁(H)`
            itself.
        stackable: whether hyperparameters are array leaves, so that a sweep is a `vmap`.
        freezable: whether `freeze` can hold its P.
        tunable: whether `with_threshold` can set its learning rate.
        takes_batches: whether each step may use different data.

    Example:
        >>> from aeoskit.optimizers import adam, lion
        >>> adam(1e-3).has_threshold, adam(1e-3).is_euclidean, lion(1e-3).has_metric
        (True, False, False)
    """

    # Not annotated: a subclass sets them as attributes or properties.
    has_metric = False
    has_threshold = False
    is_update_map = False
    stackable = False
    freezable = False
    tunable = False
    takes_batches = False

    @property
    def name(self) -> str:
        return type(self).__name__

    @property
    def is_euclidean(self) -> bool:
        return not self.has_metric

    @abc.abstractmethod
    def init(self, params: PyTree) -> Any:
        """The state before the first step.

        Args:
            params: the parameters.

        Returns:
            The state, a pytree whose structure, shapes and dtypes do not change from step to step.
        """

    @abc.abstractmethod
    def step(
        self, function: Function, params: PyTree, state: Any, grads: PyTree | None = None
    ) -> tuple[PyTree, Any]:
        """One step down a function.

        Args:
            function: the function of the parameters to minimize.
            params: the parameters.
            state: the state.
            grads: the gradients at the parameters, if the caller has them.

        Returns:
            The pair `(params, state)`.
        """

    def preconditioner(
        self, state: Any, grads: PyTree | None = None, params: PyTree | None = None
    ) -> AbstractPreconditioner:
        """The metric P of the coming step; without gradients, that of the last step.

        Args:
            state: the state.
            grads: the gradients at the present parameters.
            params: the present parameters.

        Returns:
            A symmetric positive definite operator with its square roots.

        Raises:
            ValueError: if it has none.
        """
        del state, grads, params
        raise ValueError(
            f"{self.name} has no preconditioner with a threshold: measure `sharpness` along its "
            "trajectory."
        )

    def threshold(self, state: Any, params: PyTree | None = None) -> Scalar:
        """The value of `λ₁(P⁻¹H)` above which the coming step diverges on a quadratic, P constant.

        Args:
            state: the state.
            params: the present parameters.

        Returns:
            A scalar; NaN if it has none, so that it can be logged at every step.
        """
        del state, params
        return jnp.asarray(jnp.nan)

    def learning_rate(self, state: Any, params: PyTree | None = None) -> Scalar:
        """The learning rate of the coming step.

        Args:
            state: the state.
            params: the present parameters.

        Returns:
            A scalar; NaN if it has none.
        """
        del state, params
        return jnp.asarray(jnp.nan)

    def recursion(self, state: Any, params: PyTree | None = None) -> Recursion:
        """The linear recurrence of the coming step, P constant; it relates multipliers to ratios.

        Args:
            state: the state.
            params: the present parameters.

        Returns:
            A `Recursion`.

        Raises:
            ValueError: if it is not a linear recurrence.
        """
        del state, params
        raise ValueError(
            f"{self.name} is not a linear recurrence: measure `sharpness` along its trajectory, "
            "or compare multipliers themselves."
        )


class AbstractGradientOptimizer(AbstractOptimizer):
    """An optimizer with optax's interface: `init`, and `update` of the gradients.

    Example:
        >>> import jax.numpy as jnp
        >>> class Descent(AbstractGradientOptimizer):
        ...     '''x -= 0.1 g, and nothing is known of it.'''
        ...     def init(self, params):
        ...         return None
        ...     def update(self, grads, state, params=None):
        ...         return jax.tree.map(lambda g: -0.1 * g, grads), state
        >>> Descent().step(lambda w: w**2, jnp.asarray(1.0), None)[0].tolist()
        0.80
    """

    is_update_map = True
    takes_batches = True

    @abc.abstractmethod
    def update(self, grads: PyTree, state: Any, params: PyTree | None = None) -> tuple[PyTree, Any]:
        """The updates to add to the parameters, and the next state.

        Args:
            grads: the gradients at the parameters, with their structure.
            state: the state.
            params: the parameters, for an optimizer that needs them.

        Returns:
            The pair `(updates, state)`, for `apply_updates`.
        """

    def step(
        self, function: Function, params: PyTree, state: Any, grads: PyTree | None = None
    ) -> tuple[PyTree, Any]:
        """One step by `update` with the function's gradients."""
        grads = jax.grad(function)(params) if grads is None else grads
        updates, state = self.update(grads, state, params)
        return apply_updates(params, updates), state


def apply_updates(params: PyTree, updates: PyTree) -> PyTree:
    """`params + updates`, leaf by leaf, in the parameters' dtypes.

    Args:
        params: the parameters.
        updates: the updates of `Optimizer.update`, with the structure of `params`.

    Returns:
        The new parameters.

    Raises:
        ValueError: if the two trees have different structures.

    Example:
        >>> import jax.numpy as jnp
        >>> apply_updates(jnp.array([1.0]), jnp.array([-0.25])).tolist()
        [0.75]
    """
    return jax.tree.map(lambda p, u: jnp.asarray(p + u.astype(p.dtype), p.dtype), params, updates)
