"""User functions as modules of stable identity, so that crossing a jit boundary never retraces."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np


class StableFunction(eqx.Module):
    """A callable whose arrays are leaves and whose rest is static and hashable.

    A plain function is all static, so that `jax.jit` takes it as an argument without knowing of
    equinox; a module's arrays stay leaves, so that they are not baked into compiled programs.
    """

    arrays: list[Any]
    rest: tuple[Any, ...] = eqx.field(static=True)

    def __init__(self, function: Callable[..., Any], name: str):
        if not callable(function):
            raise TypeError(f"{name} must be a function, got {type(function).__name__}")
        leaves, structure = jax.tree.flatten(function)
        is_array = [isinstance(leaf, jax.Array | np.ndarray) for leaf in leaves]
        static = tuple(None if a else leaf for a, leaf in zip(is_array, leaves, strict=True))
        try:
            hash((static, structure))
        except TypeError as error:
            raise TypeError(
                f"{name} cannot be hashed ({error}), so that every call would compile anew: pass a "
                "plain function, or an eqx.Module whose leaves are arrays or functions"
            ) from None
        self.arrays = [
            jnp.asarray(leaf) if a else None for a, leaf in zip(is_array, leaves, strict=True)
        ]
        self.rest = (structure, static, tuple(is_array))

    @property
    def function(self) -> Callable[..., Any]:
        structure, static, is_array = self.rest
        leaves = [
            a if is_a else s for a, s, is_a in zip(self.arrays, static, is_array, strict=True)
        ]
        return jax.tree.unflatten(structure, leaves)

    def __call__(self, *args: Any) -> Any:
        return self.function(*args)


class ModelLoss(eqx.Module):
    """`output_loss(model(params, inputs), targets)`, with the two halves kept apart."""

    model: StableFunction
    output_loss: StableFunction

    def __call__(self, params: Any, batch: Any) -> Any:
        inputs, targets = batch
        return self.output_loss(self.model(params, inputs), targets)
