"""Multiplications and additions of a program's matrix products, counted in its jaxpr.

The compiler's own count has the body of a loop once, so that a network with scanned layers would
count as a single layer.
"""

import math
from collections.abc import Iterator
from typing import Any

import jax
from jax.extend import core as jex_core


def matmul_flops(jaxpr: Any, devices: int) -> float:
    """The FLOP per device and call, with loops of known length in full, others once.

    Args:
        jaxpr: A closed jaxpr.
        devices: Number of devices that share the work outside of `shard_map`; inside, shapes are
            per device.

    Returns:
        Multiplications and additions, two for each pair, of matrix products and convolutions.

    >>> import jax.numpy as jnp
    >>> program = jax.make_jaxpr(lambda x: jax.lax.fori_loop(0, 3, lambda i, y: x @ y, x))
    >>> matmul_flops(program(jnp.ones((2, 2))), 1)
    48.0
    """
    return _count(jaxpr.jaxpr, devices)


def _count(jaxpr: Any, share: int) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name == "dot_general":
            (contracted, _), _ = equation.params["dimension_numbers"]
            sides = equation.invars[0].aval.shape
            total += 2 * _size(equation) * math.prod(sides[i] for i in contracted) / share
        elif name == "conv_general_dilated":
            kernel = equation.invars[1].aval.shape
            features = kernel[equation.params["dimension_numbers"].rhs_spec[0]]
            total += 2 * _size(equation) * math.prod(kernel) / features / share
        elif name == "scan":
            total += equation.params["length"] * _count(equation.params["jaxpr"].jaxpr, share)
        elif name == "cond":
            total += max(_count(branch.jaxpr, share) for branch in equation.params["branches"])
        elif name == "shard_map":
            params = equation.params
            manual = params.get("newly_manual_axes", params.get("manual_axes", ()))
            sizes = params["mesh"].shape.items()
            left = math.prod(size for axis, size in sizes if axis not in manual)
            total += _count(_plain(equation.params["jaxpr"]), left)
        else:
            total += sum(_count(inner, share) for inner in _inner(equation))
    return total


def _size(equation: Any) -> int:
    return math.prod(equation.outvars[0].aval.shape)


def _plain(jaxpr: Any) -> Any:
    return jaxpr.jaxpr if isinstance(jaxpr, jex_core.ClosedJaxpr) else jaxpr


def _inner(equation: Any) -> Iterator[Any]:
    """The jaxprs of an equation: a call's, a loop's condition and body."""
    kinds = (jex_core.Jaxpr, jex_core.ClosedJaxpr)
    for value in equation.params.values():
        for leaf in jax.tree.leaves(value, is_leaf=lambda x: isinstance(x, kinds)):
            if isinstance(leaf, kinds):
                yield _plain(leaf)
