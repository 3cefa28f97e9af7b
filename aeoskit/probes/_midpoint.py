"""The midpoint of an iterate and its neighbors, at which an oscillation of period two cancels."""

import jax
from jaxtyping import PyTree

from ._realized import check_shapes


def midpoint(previous: PyTree, params: PyTree, new_params: PyTree) -> PyTree:
    """The midpoint `(w₋ + 2w + w₊) / 4` of three iterates in a row.

    At the edge iterates swing from one side of a valley to the other; what alternates from step to
    step cancels here. `sharpness(objective, midpoint(...))` is `λ₁(H)` there. For `λ₁(P⁻¹H)`, give
    `preconditioned_sharpness` the state and the gradient of the middle iterate: P is that of its
    step. The value belongs to that step, and is known one step later. There is no probe for it: a
    probe sees one iterate, and to keep two more would double the memory of a run's parameters.

    Args:
        previous: the parameters before `params`.
        params: those in the middle.
        new_params: those after `params`.

    Returns:
        A tree like `params`.

    Raises:
        ValueError: trees of different shapes.

    Costs nothing but the sum.

    Example:
        >>> import jax.numpy as jnp
        >>> import aeoskit as ak
        >>> up, down = jnp.array([1.5, 2.0]), jnp.array([0.5, 2.0])
        >>> ak.probes.midpoint(down, up, down).tolist()
        [1.0, 2.0]
    """
    check_shapes(params, "params", {"previous": previous, "new_params": new_params})
    # By differences, which are small: nothing of the middle is rounded away.
    return jax.tree.map(
        lambda before, w, after: w + ((before - w) + (after - w)) / 4, previous, params, new_params
    )
