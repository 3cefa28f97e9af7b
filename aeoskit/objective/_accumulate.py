"""Sums over microbatches, exact for uneven ends, in memory that does not grow with the data."""

from collections.abc import Callable
from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from aeoskit.linalg import loop_mode

from ._kinds import accumulator


def num_examples(data: PyTree) -> int:
    """The common length of the leading axes of the leaves of `data`."""
    return jax.tree.leaves(data)[0].shape[0]


def wide(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: x.astype(accumulator(x.dtype)), tree)


def add(total: PyTree, part: PyTree) -> PyTree:
    return jax.tree.map(jnp.add, total, wide(part))


def parts_of(n: int, microbatch: int | None) -> tuple[int, int, int]:
    """The number of full microbatches, their size, and what is left over."""
    size = n if microbatch is None else microbatch
    full, rest = divmod(n, size)
    return size, full, rest


def part_loop(
    loss: Callable[..., Any], params: PyTree, data: PyTree, size: int
) -> Literal["scan", "host"]:
    """The kind of loop over microbatches: a rule on primitives and the backend, never a timing."""
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype), data)
    params = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    return loop_mode(loss, params, shapes)


def accumulate(
    function: Callable[[PyTree], PyTree],
    data: PyTree,
    microbatch: int | None,
    mode: Callable[[], Literal["scan", "host"]],
    vary: Callable[[PyTree], PyTree] = lambda tree: tree,
) -> PyTree:
    """The sum of `function(batch)` over the microbatches of `data`.

    Full microbatches run in one `lax.scan` and the remainder is one more call at its own shape,
    so that nothing is padded. Where a compiled loop is slow (`mode() == "host"`, convolutions on
    CPU), the loop is unrolled into the program. Sums are kept in at least single precision.

    Args:
        function: maps a batch to a pytree of floating arrays.
        data: pytree with leaves `(n, ...)`.
        microbatch: examples in a microbatch; None for all of them at once.
        mode: asked only where there is a loop.
        vary: marks zeros as varying over devices.

    Returns:
        The sum, in the accumulator's dtype.
    """
    size, full, rest = parts_of(num_examples(data), microbatch)

    def batch_at(start: Any, length: int) -> PyTree:
        # Slices of the whole, not a reshaped copy of it: a copy would grow with the data.
        return jax.tree.map(lambda x: jax.lax.dynamic_slice_in_dim(x, start, length), data)

    if full == 1:
        first = function(data) if rest == 0 else function(batch_at(0, size))
        total = wide(first)
    elif mode() == "host":
        total = wide(function(batch_at(0, size)))
        for i in range(1, full):
            total = add(total, function(batch_at(i * size, size)))
    else:
        shapes = jax.eval_shape(lambda: function(batch_at(0, size)))
        zeros = vary(jax.tree.map(lambda x: jnp.zeros(x.shape, accumulator(x.dtype)), shapes))

        def body(total: PyTree, i: Any) -> tuple[PyTree, None]:
            return add(total, function(batch_at(i * size, size))), None

        total, _ = jax.lax.scan(body, zeros, jnp.arange(full))
    if rest:
        total = add(total, function(batch_at(full * size, rest)))
    return total
