"""Optimizers as optimistix minimisers."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import Any, ClassVar

import equinox as eqx
import optimistix as optx
from jaxtyping import PyTree

from ._hyperparameters import is_concrete


class _Extra(eqx.Module):
    """What `OptaxMinimiser` calls: it hands over the value and the function as well.

    Optax's line searches and plateaus want them; an update that takes no such words is spared them.
    """

    optimizer: Any

    def init(self, params: PyTree) -> PyTree:
        return self.optimizer.init(params)

    def update(
        self, grads: PyTree, state: PyTree, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        update = self.optimizer.update
        takes = inspect.signature(update).parameters.values()
        if not any(item.kind is inspect.Parameter.VAR_KEYWORD for item in takes):
            extra = {}
        return update(grads, state, params, **extra)


class AbstractOptimizer(optx.AbstractMinimiser):
    """Trains as an optax optimizer does, and minimizes as an optimistix solver does.

    Both libraries call their first function `init`: optax with the parameters, optimistix with the
    function, the parameters and five things more, so that the number of arguments tells whose it
    is. All else has names of its own. A minimization ends where the step and the change of the
    value are within 1e-6, relative and absolute; `as_minimiser` takes other tolerances.

    That is all that success means: where a schedule comes to 0, it ends there, at a minimum or not.
    Weight decay is refused: its end is no minimum of the function.
    """

    rtol: ClassVar[float] = 1e-6
    atol: ClassVar[float] = 1e-6
    norm: ClassVar[Callable[[PyTree], Any]] = staticmethod(optx.max_norm)

    def step(
        self, fn: Any, y: PyTree, args: PyTree, options: dict[str, Any], state: Any, tags: frozenset
    ) -> tuple[PyTree, Any, Any]:
        """A step of `optimistix.minimise`.

        Args:
            fn: the function, of `(y, args)`, to a value and what else it returns.
            y: the point.
            args: the function's second argument.
            options: of no effect.
            state: the state of the minimization.
            tags: of no effect.

        Returns:
            The next point, the next state, and what else the function returned.
        """
        return as_minimiser(self).step(fn, y, args, options, state, tags)

    def terminate(
        self, fn: Any, y: PyTree, args: PyTree, options: dict[str, Any], state: Any, tags: frozenset
    ) -> tuple[Any, optx.RESULTS]:
        """Whether `optimistix.minimise` is to end.

        Args:
            fn: the function.
            y: the point.
            args: the function's second argument.
            options: of no effect.
            state: the state of the minimization.
            tags: of no effect.

        Returns:
            Whether it is, and how.
        """
        return as_minimiser(self).terminate(fn, y, args, options, state, tags)

    def postprocess(
        self,
        fn: Any,
        y: PyTree,
        aux: Any,
        args: PyTree,
        options: dict[str, Any],
        state: Any,
        tags: frozenset,
        result: optx.RESULTS,
    ) -> tuple[PyTree, Any, dict[str, Any]]:
        """The end of `optimistix.minimise`.

        Args:
            fn: the function.
            y: the point.
            aux: what else the function returned.
            args: the function's second argument.
            options: of no effect.
            state: the state of the minimization.
            tags: of no effect.
            result: how it ended.

        Returns:
            The point, what else the function returned, and statistics.
        """
        return as_minimiser(self).postprocess(fn, y, aux, args, options, state, tags, result)


def as_minimiser(
    optimizer: Any, rtol: float = 1e-6, atol: float = 1e-6, **options: Any
) -> optx.AbstractMinimiser:
    """An optimizer as an `optimistix.AbstractMinimiser`, for `optimistix.minimise`.

    The step is that of the optimizer, driven by optimistix's `OptaxMinimiser`; it ends where both
    the step and the change of the value are within the tolerances. An `Optimizer` is a minimiser
    as it is, with tolerances of 1e-6; one of optax is not, and this makes it one.

    Args:
        optimizer: An `Optimizer`, an `OptaxOptimizer` or an optax transformation.
        rtol: The relative tolerance of the step and of the value.
        atol: The absolute one.
        options: `norm` and `verbose`, as in `optimistix.OptaxMinimiser`.

    Returns:
        A minimiser: differentiable and compiled as optimistix's others are. A schedule that comes
        to 0 ends it; with weight decay, which an optax transformation does not show, its end is
        no minimum, and the implicit derivative is wrong.

    Raises:
        TypeError: if it has no `init` and `update`.
        ValueError: if it is one of ours with weight decay.

    Example:
        >>> import jax.numpy as jnp
        >>> import optimistix as optx
        >>> from aeoskit.optimizers import adam
        >>> solver = as_minimiser(adam(0.1), rtol=1e-4, atol=1e-4)
        >>> found = optx.minimise(
        ...     lambda y, _: jnp.sum((y - 3.0) ** 2), solver, jnp.zeros(2), max_steps=2000)
        >>> [round(float(y), 2) for y in found.value]
        [3.0, 3.0]
    """
    if not all(callable(getattr(optimizer, name, None)) for name in ("init", "update")):
        raise TypeError(
            f"as_minimiser takes an optimizer, such as adam(1e-3), got {type(optimizer).__name__}."
        )
    decay = getattr(optimizer, "weight_decay", None)
    if decay is not None and not (is_concrete(decay) and bool((decay == 0).all())):
        # Within `minimise` its value is traced: one of 0 is refused there, too.
        amount = f" of {decay}" if is_concrete(decay) else ""
        raise ValueError(
            f"the optimizer has weight decay{amount}, with which it ends where step and decay "
            "balance: no minimum of the function, and optimistix's derivative would be wrong; make "
            "it with weight_decay=None, and add `0.5 * weight_decay * ‖y‖²` to the function."
        )
    optimizer = getattr(optimizer, "transform", optimizer)  # An OptaxOptimizer's own.
    return optx.OptaxMinimiser(_Extra(optimizer), rtol=rtol, atol=atol, **options)
