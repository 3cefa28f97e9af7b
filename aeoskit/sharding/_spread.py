"""Partition specs: which axes of a mesh shard which dimensions of an array."""

import functools
import itertools
import math
from collections.abc import Mapping

from jax.sharding import PartitionSpec


def spread_spec(shape: tuple[int, ...], axes: Mapping[str, int]) -> PartitionSpec:
    """The spec that shards an array over as many devices of a mesh as its dimensions allow.

    Each axis goes to one dimension or to none. Among the choices that use the most devices, axes go
    to different dimensions, then to the longest ones: a dimension that two axes share is sent
    around where only one of them is to be gathered.

    Args:
        shape: the shape of the array.
        axes: the mesh's axes and their sizes, in order.

    Returns:
        The spec; an empty one for an array that no axis divides.

    Example:
        >>> tuple(spread_spec((6, 8), {"data": 4, "model": 2}))
        ('model', 'data')
        >>> tuple(spread_spec((3,), {"data": 4}))
        ()
    """
    return _spread(shape, tuple((name, size) for name, size in axes.items() if size > 1))


@functools.lru_cache(maxsize=4096)
def _spread(shape: tuple[int, ...], axes: tuple[tuple[str, int], ...]) -> PartitionSpec:
    best: tuple[tuple[int, int, int], tuple[int | None, ...]] | None = None
    # Few axes and few dimensions: all choices are looked at.
    for choice in itertools.product((None, *range(len(shape))), repeat=len(axes)):
        shares = [1] * len(shape)
        for (_, size), dimension in zip(axes, choice, strict=True):
            if dimension is not None:
                shares[dimension] *= size
        if any(extent % share for extent, share in zip(shape, shares, strict=True)):
            continue
        used = {dimension for dimension in choice if dimension is not None}
        longest = sum(shape[d] for d in choice if d is not None)
        score = (math.prod(shares), len(used), longest)
        if math.prod(shape) and (best is None or score > best[0]):
            best = (score, choice)
    if best is None:
        return PartitionSpec()
    names: list[tuple[str, ...]] = [
        tuple(name for (name, _), where in zip(axes, best[1], strict=True) if where == dimension)
        for dimension in range(len(shape))
    ]
    return trimmed(names)


def trimmed(names: list[tuple[str, ...]]) -> PartitionSpec:
    """A spec from the axes of each dimension, in the form that jax prints."""
    parts = [None if not n else n[0] if len(n) == 1 else n for n in names]
    while parts and parts[-1] is None:
        parts.pop()
    return PartitionSpec(*parts)


def axes_of(spec: PartitionSpec, rank: int) -> list[tuple[str, ...]]:
    """The axes of each dimension of a spec.

    Args:
        spec: the spec.
        rank: the number of dimensions, those that the spec leaves out included.

    Returns:
        For each dimension the names of its axes.

    Example:
        >>> axes_of(PartitionSpec("data"), 2)
        [('data',), ()]
    """
    parts = [*spec, *[None] * (rank - len(spec))]
    return [() if p is None else (p,) if isinstance(p, str) else tuple(p) for p in parts]


def keep_axes(spec: PartitionSpec, axes: tuple[str, ...], rank: int) -> PartitionSpec:
    """A spec restricted to some axes.

    Args:
        spec: the spec.
        axes: the axes to keep.
        rank: the number of dimensions.

    Returns:
        The spec over these axes.

    Example:
        >>> tuple(keep_axes(PartitionSpec("data", "model"), ("model",), 2))
        (None, 'model')
    """
    return trimmed([tuple(a for a in names if a in axes) for names in axes_of(spec, rank)])
