"""Products of curvature are NaN where the loss or its gradient is not finite.

A derivative does not see that a loss is NaN: the Hessian of one with a label out of range, with a
`jnp.where` that has NaN in the branch not taken, or with one infinite example is often finite.
`lineax.linearise`, which every solver calls once, looks at loss and gradient, and makes all
products NaN where these are not finite.
"""

from typing import Any

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree


def one_or_nan(tree: PyTree) -> Float[Array, ""]:
    """1 where all of the tree is finite, otherwise NaN."""
    finite = [jnp.all(jnp.isfinite(leaf)) for leaf in jax.tree.leaves(tree)]
    return jnp.where(jnp.all(jnp.stack(finite)), 1.0, jnp.nan)


def scale_by(factor: Float[Array, ""] | None, vector: PyTree) -> PyTree:
    """The vector, or NaN, in its dtypes: linear in it, unlike a choice between the two."""
    if factor is None:
        return vector
    return jax.tree.map(lambda x: factor.astype(x.dtype) * x, vector)


def _product(factor: Array, linear: Any, vector: PyTree) -> PyTree:
    return scale_by(factor, linear(vector))


def with_factor(factor: Float[Array, ""], linear: Any) -> Any:
    """A linear map times the factor: a pytree, as the map is."""
    return jax.tree_util.Partial(_product, factor, linear)
