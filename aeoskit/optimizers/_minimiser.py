"""Optimizers as optimistix minimisers."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import optimistix as optx
from jaxtyping import PyTree


class _Extra(eqx.Module):
    """An optimizer that is handed the value and the function as well, as line searches want."""

    optimizer: Any

    def init(self, params: PyTree) -> PyTree:
        return self.optimizer.init(params)

    def update(
        self, grads: PyTree, state: PyTree, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        del extra
        return self.optimizer.update(grads, state, params)


def as_minimiser(
    optimizer: Any, rtol: float = 1e-6, atol: float = 1e-6, **options: Any
) -> optx.AbstractMinimiser:
    """An optimizer as an `optimistix.AbstractMinimiser`, for `optimistix.minimise`.

    The step is that of the optimizer, driven by optimistix's `OptaxMinimiser`; it ends where both
    the step and the change of the value are within the tolerances. (An optimizer is not itself a
    minimiser: optimistix and optax both call their first function `init`, with other arguments.)

    Args:
        optimizer: An `Optimizer`, or an `OptaxOptimizer`.
        rtol: The relative tolerance of the step and of the value.
        atol: The absolute one.
        options: `norm` and `verbose`, as in `optimistix.OptaxMinimiser`.

    Returns:
        A minimiser: differentiable and compiled as optimistix's others are.

    Raises:
        TypeError: if it has no `init` and `update`.

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
    return optx.OptaxMinimiser(_Extra(optimizer), rtol=rtol, atol=atol, **options)
