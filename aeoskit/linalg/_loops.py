"""The place where a loop should run: inside the compiled program, or on the host."""

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
from jax.extend import core as jex_core

from ._platform import target_platform

_SLOW_IN_LOOPS = frozenset({"conv_general_dilated"})
_CACHE_LIMIT = 256
_cache: dict[Any, Literal["scan", "host"]] = {}


def loop_mode(function: Callable[..., Any], *args: Any) -> Literal["scan", "host"]:
    """Chooses the compiled program or the host for a loop around `function(*args)`.

    XLA's CPU backend runs a convolution inside a loop 20 to 50 times slower than outside. The
    rule looks at primitives and shapes only, never at a clock: "host" on the CPU backend where
    the traced function holds a convolution at any depth, otherwise "scan".

    It costs one trace for each new function and shapes, and no computation.

    Args:
        function: The body of the loop.
        args: Its arguments: arrays, `jax.ShapeDtypeStruct`s, or modules of them.

    Returns:
        "scan" or "host".

    Example:
        >>> import jax.numpy as jnp
        >>> loop_mode(jnp.sin, jnp.ones(3))
        'scan'
    """
    if target_platform() != "cpu":
        return "scan"
    is_array = lambda x: eqx.is_array(x) or isinstance(x, jax.ShapeDtypeStruct)  # noqa: E731
    dynamic, static = eqx.partition(args, is_array)
    shapes = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), dynamic)
    key = None
    try:
        leaves, treedef = jax.tree.flatten((shapes, static))
        key = (function, tuple(leaves), treedef, jax.config.jax_enable_x64)  # pyright: ignore
        if key in _cache:
            return _cache[key]
    except TypeError:  # something static is not hashable: trace anew
        key = None
    jaxpr = jax.make_jaxpr(lambda d: jax.tree.leaves(_arrays(function, eqx.combine(d, static))))(
        shapes
    )
    mode = "host" if _holds(jaxpr.jaxpr) else "scan"
    if key is not None:
        if len(_cache) >= _CACHE_LIMIT:
            _cache.clear()
        _cache[key] = mode
    return mode


def _arrays(function: Callable[..., Any], args: Any) -> Any:
    return eqx.filter(function(*args), eqx.is_array)


def _holds(jaxpr: Any) -> bool:
    for equation in jaxpr.eqns:
        if equation.primitive.name in _SLOW_IN_LOOPS:
            return True
        for value in jax.tree.leaves(
            list(equation.params.values()),
            is_leaf=lambda x: isinstance(x, jex_core.Jaxpr | jex_core.ClosedJaxpr),
        ):
            if isinstance(value, jex_core.ClosedJaxpr):
                value = value.jaxpr
            if isinstance(value, jex_core.Jaxpr) and _holds(value):
                return True
    return False
