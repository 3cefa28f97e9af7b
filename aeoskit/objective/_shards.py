"""Sums over data that are split over the devices of a mesh: each adds its own, then all together.

The examples are a *head*, as many as the shards divide, and a *tail* of fewer than there are
shards. Each shard runs through its rows of the head, and the first ones take one example of the
tail each. Nothing is padded, so that the sum is exact; only the weights of shards that have no
example of the tail are zero there.
"""

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.sharding import PartitionSpec
from jaxtyping import PyTree

from aeoskit.sharding import Placement, axes_of, keep_axes, put

from ._accumulate import accumulate, add, num_examples, part_loop, parts_of, wide
from ._kinds import loss_kind

# (loss, batch, *operands) -> (a tree like the parameters or None, all else)
Part = Callable[..., tuple[PyTree, PyTree]]
Layout = Literal["params", "basis"]

_REPLICATED = PartitionSpec()


def split_data(data: PyTree, placement: Placement) -> tuple[PyTree, PyTree | None]:
    """Head and tail, where they belong."""
    n, shards = num_examples(data), placement.data_shards
    end = n - n % shards
    if end == n:
        return placement.put_data(data), None

    def rows(leaf: Any, start: int, stop: int) -> Any:
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return jax.ShapeDtypeStruct((stop - start, *leaf.shape[1:]), leaf.dtype)
        return leaf[start:stop]

    head = jax.tree.map(lambda leaf: rows(leaf, 0, end), data)
    tail = jax.tree.map(lambda leaf: rows(leaf, end, n), data)
    return placement.put_data(head), placement.put_replicated(tail)


def take(head: PyTree, tail: PyTree | None, indices: Any) -> PyTree:
    """Some examples, by number; head and tail are read where they are placed."""
    n = num_examples(head)
    if tail is None:
        return jax.tree.map(lambda x: jnp.take(x, indices, axis=0), head)
    total = n + num_examples(tail)
    indices = jnp.where(indices < 0, indices + total, indices)
    # Negative still: beyond the end, as without a tail, and not from the end once more.
    indices = jnp.where(indices < 0, total, indices)
    late = jax.tree.map(lambda x: jnp.take(x, jnp.maximum(indices - n, 0), axis=0), tail)
    if n == 0:
        return late

    def choose(x: Any, y: Any) -> Any:
        early = jnp.take(x, jnp.minimum(indices, n - 1), axis=0)
        return jnp.where((indices < n).reshape(-1, *[1] * (y.ndim - 1)), early, y)

    return jax.tree.map(choose, head, late)


def needs_all_data(objective: Any, params: PyTree) -> bool:
    """True for a scalar mean that is to see all of the data at once, on all devices.

    Raises:
        ValueError: if it is a scalar mean and the data do not divide.
    """
    data, shards = objective.data, objective.placement.data_shards
    if not objective.placement.data_axes:
        return True
    size, tail = num_examples(data) // shards, objective.tail
    kind = _kind(objective, params, min(objective.microbatch or size, size) or 1)
    if kind != "mean":
        return False
    if tail is not None:
        raise ValueError(
            f"the loss returns a scalar mean, and {objective.n} examples do not divide over "
            f"{shards} devices: return per-example losses (n,) or (sum, weight), or take a number "
            f"of examples (or a batch) that {shards} divides"
        )
    return objective.microbatch is None


def _kind(objective: Any, params: PyTree, size: int) -> str:
    def batch_of(x: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype)

    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), params)
    batch = jax.tree.map(batch_of, objective.data)
    return loss_kind(jax.eval_shape(objective.loss, shapes, batch), size)


def sum_over(
    objective: Any, function: Part, params: PyTree, *others: PyTree, layout: Layout = "basis"
) -> tuple[PyTree, PyTree]:
    """The sum of `function(loss, batch, params, *others)` over the objective's data.

    Args:
        objective: the objective.
        function: a part of the sum: a tree like the parameters (or None), and all else. It is to
            close over no array.
        params: the parameters.
        others: vectors like them.
        layout: the placement of the first half of the sum on a mesh.

    Returns:
        The sum; on a mesh its first half is placed as `layout`, and its second one replicated.
    """
    placement, data, loss = objective.placement, objective.data, objective.loss
    if placement is None or needs_all_data(objective, params):
        if placement is not None:
            params, others = placement.for_compute((params, others))
        size, _, _ = parts_of(num_examples(data), objective.microbatch)
        total, rest = accumulate(
            lambda batch: function(loss, batch, params, *others),
            data,
            objective.microbatch,
            lambda: part_loop(loss, params, data, size),
        )
        return (total if placement is None else place_as(placement, total, layout)), rest
    arrays, static = eqx.partition(loss, eqx.is_array)
    return sum_of_shards(
        placement,
        lambda batch, arrays, operands: function(eqx.combine(arrays, static), batch, *operands),
        (data, objective.tail),
        objective.microbatch,
        lambda size: part_loop(loss, params, data, size),
        arrays,
        placement.for_compute((params, *others)),
        layout,
    )


def sum_of_shards(
    placement: Placement,
    function: Callable[..., tuple[PyTree, PyTree]],
    data: tuple[PyTree, PyTree | None],
    microbatch: int | None,
    mode: Callable[[int], Literal["scan", "host"]],
    arrays: PyTree,
    operands: tuple[PyTree, ...],
    layout: Layout = "basis",
) -> tuple[PyTree, PyTree]:
    """The sum of `function(batch, arrays, operands)`, each shard over its own microbatches."""
    head, tail = data
    axes = placement.data_axes
    rows = num_examples(head) // placement.data_shards
    size, full, _ = parts_of(rows, min(microbatch or rows, rows)) if rows else (1, 1, 0)
    loop = mode(size) if full > 1 else "scan"
    like = operands[0]
    wanted = _local_specs(placement, like, layout)
    shapes = jax.eval_shape(function, _one_example(head), arrays, operands)

    def local(head: PyTree, tail: PyTree, arrays: PyTree, operands: PyTree) -> PyTree:
        # Marked as varying over devices, so that a derivative is this shard's own: it would
        # be summed over the devices otherwise, and once more below.
        arrays, operands = _mark_varying((arrays, operands), axes)
        total: Any = None
        if rows:
            total = accumulate(
                lambda batch: function(batch, arrays, operands),
                head,
                size,
                lambda: loop,
                lambda tree: _mark_varying(tree, axes),
            )
        if tail is not None:
            count, shard = num_examples(tail), jax.lax.axis_index(axes)
            example = jax.tree.map(
                lambda x: jax.lax.dynamic_slice_in_dim(x, jnp.minimum(shard, count - 1), 1), tail
            )
            part = wide(function(example, arrays, operands))
            part = jax.tree.map(lambda x: jnp.where(shard < count, x, 0), part)
            total = part if total is None else add(total, part)
        vectors, rest = total
        if vectors is not None:
            vectors = jax.tree.map(lambda x, spec: _reduced(x, spec, axes), vectors, wanted)
        return vectors, jax.lax.psum(rest, axes)

    specs = (None if shapes[0] is None else wanted, jax.tree.map(lambda _: _REPLICATED, shapes[1]))
    rows_of = PartitionSpec(axes)
    total, rest = jax.shard_map(
        local,
        mesh=placement.mesh,
        in_specs=(rows_of, _REPLICATED, _REPLICATED, _REPLICATED),
        out_specs=specs,
        # A vmap over the lanes of a sweep may split them here over no axis that the compiler has.
        axis_names={*axes, *(() if placement.sweep is None else (placement.sweep,))},
        check_vma=placement.check_vma,
    )(head, tail, arrays, operands)
    return place_as(placement, total, layout), rest


def sum_numbered(
    objective: Any,
    function: Callable[..., tuple[None, PyTree]],
    arrays: PyTree,
    operands: tuple[PyTree, ...],
    microbatch: int,
) -> tuple[None, PyTree]:
    """The sum of `function((batch, numbers), arrays, operands)`; examples know their numbers."""
    params, placement, tail = operands[0], objective.placement, objective.tail
    n = num_examples(objective.data)

    def mode(size: int) -> Literal["scan", "host"]:
        return part_loop(objective.loss, params, objective.data, size)

    data = (objective.data, jnp.arange(n))
    if placement is None or not placement.data_axes:
        return accumulate(
            lambda batch: function(batch, arrays, operands),
            data,
            microbatch,
            lambda: mode(microbatch),
        )
    if tail is not None:
        tail = (tail, n + jnp.arange(num_examples(tail)))
    operands = (placement.for_compute(params), *operands[1:])
    split_over = (data, tail)
    return sum_of_shards(placement, function, split_over, microbatch, mode, arrays, operands)


def _one_example(data: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct((1, *x.shape[1:]), x.dtype), data)


def _mark_varying(tree: PyTree, axes: tuple[str, ...]) -> PyTree:
    def cast(x: Any) -> Any:
        # Keys are not differentiated.
        if jnp.issubdtype(x.dtype, jax.dtypes.extended):
            return x
        return jax.lax.pcast(x, axes, to="varying")

    return jax.tree.map(cast, tree)


def _spec(placement: Placement, shape: tuple[int, ...], layout: Layout) -> PartitionSpec:
    return placement.params_spec(shape) if layout == "params" else placement.basis_spec(shape)


def _local_specs(placement: Placement, like: PyTree, layout: Layout) -> PyTree:
    """The specs of a sum that comes out of the shards: split over the data axes only."""
    return jax.tree.map(
        lambda x: keep_axes(_spec(placement, x.shape, layout), placement.data_axes, x.ndim), like
    )


def _reduced(x: Any, spec: PartitionSpec, axes: tuple[str, ...]) -> Any:
    """The sum over all shards: each keeps the part of it that the spec assigns."""
    used: list[str] = []
    for dimension, names in enumerate(axes_of(spec, x.ndim)):
        for name in names:
            x = jax.lax.psum_scatter(x, name, scatter_dimension=dimension, tiled=True)
            used.append(name)
    left = tuple(name for name in axes if name not in used)
    return jax.lax.psum(x, left) if left else x


def place_as(placement: Placement, tree: PyTree, layout: Layout) -> PyTree:
    """The tree, placed on the mesh as parameters or as the vectors of a basis are."""
    return jax.tree.map(
        lambda x: put(x, placement.sharding(_spec(placement, x.shape, layout))), tree
    )
