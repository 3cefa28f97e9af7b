"""What a metric reads out of a part of an optax transformation."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, PyTree

from ._hyperparameters import cast_to, is_concrete, one_minus_power
from ._optax_parts import Part

WAY_OUT = (
    "aeoskit.flip_multiplier measures the stability of any update, without knowing what it is "
    "made of."
)


def tree_map(function: Callable[..., Array], *trees: PyTree) -> PyTree:
    """`jax.tree.map`, for functions of arrays."""
    return jax.tree.map(function, *trees)


def spread(scalar: Array, like: PyTree) -> PyTree:
    """A tree with the same number everywhere."""
    return tree_map(lambda x: jnp.broadcast_to(cast_to(scalar, x), x.shape), like)


def corrected(tree: PyTree, beta: Any, count: Array) -> PyTree:
    """An average from zero, divided by the weight that it has after `count` steps."""
    share = one_minus_power(jnp.asarray(beta, dtype=float), count)
    return tree_map(lambda x: x / cast_to(share, x), tree)


def with_first_correction(part: Part, roots: PyTree) -> PyTree:
    """Adam's convention: the average is not corrected, P is."""
    if part.options.get("nesterov", False):
        return roots  # the rule has the corrections of both of its terms
    share = one_minus_power(jnp.asarray(part.options["b1"], dtype=float), part.after.count)
    return tree_map(lambda x: x * cast_to(share, x), roots)


def incoming_of(part: Part) -> PyTree:
    """The updates that come in.

    Raises:
        ValueError: There are none.
    """
    if part.incoming is None:
        raise ValueError(
            f"the metric of optax's {part.name} depends on the updates that come in: pass the "
            "gradients."
        )
    return part.incoming


def params_of(part: Part) -> PyTree:
    """The parameters.

    Raises:
        ValueError: There are none.
    """
    if part.params is None:
        raise ValueError(
            f"the metric of optax's {part.name} depends on the parameters: pass `params=`."
        )
    return part.params


def stepped(part: Part) -> Any:
    """The state after the coming step, of a part whose step takes the parameters."""
    if part.incoming is not None:
        params_of(part)
    return part.after


def refused_where(bad: Array, metric: PyTree, says: str) -> PyTree:
    """The metric; NaN where there is none, and an error where that can be seen."""
    if not is_concrete(bad):
        return tree_map(lambda x: jnp.where(bad, jnp.nan, x), metric)
    if bool(bad):
        raise ValueError(f"{says}: {WAY_OUT}")
    return metric
