"""The platform that programs are compiled for, and the placement of their loops."""

import contextlib
import contextvars
import functools
from collections.abc import Callable, Iterator
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jax.extend import core as jex_core
from jaxtyping import PyTree

_target: contextvars.ContextVar[str | None] = contextvars.ContextVar("target", default=None)


def target_platform() -> str:
    """The platform that programs are compiled for.

    Returns:
        `"cpu"`, `"gpu"` or `"tpu"`.

    Example:
        >>> target_platform() == jax.default_backend()
        True
    """
    return _target.get() or jax.default_backend()


def compiles_ahead() -> bool:
    """True if programs are compiled for devices that this process does not have."""
    return _target.get() is not None


@contextlib.contextmanager
def compiling_for(platform: str) -> Iterator[None]:
    """Sets the platform that backend-dependent choices are made for.

    It is for programs that are lowered and compiled ahead of time and run elsewhere. Programs that
    were traced before keep what was decided for them, so that a process traces for one platform.

    Args:
        platform: `"cpu"`, `"gpu"` or `"tpu"`.

    Returns:
        A context.

    Example:
        >>> with compiling_for("tpu"):
        ...     target_platform()
        'tpu'
    """
    token = _target.set(platform)
    try:
        yield
    finally:
        _target.reset(token)


@functools.cache
def has_eig(platform: str) -> bool:
    """True if a program for the platform can contain `eig`, by a trial lowering."""
    program = jax.jit(jax.lax.linalg.eig).trace(jax.ShapeDtypeStruct((2, 2), jnp.float32))
    try:
        program.lower(lowering_platforms=(platform,))
    except NotImplementedError:
        return False
    return True


def platform_of(tree: PyTree) -> str:
    """The platform of its arrays; under a transformation, that on which its program will run."""
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer):
            return next(iter(leaf.devices())).platform
    device: Any = jax.config.jax_default_device  # pyright: ignore
    if device is None:
        return target_platform()
    return device if isinstance(device, str) else device.platform


def lane_by_lane(function: Callable[..., Any], *args: Any) -> Any:
    """`function(*args)`; under `vmap`, on a CPU, for one lane after another.

    A vectorized loop goes on for all lanes until the last one has ended, and copies what each lane
    carries at every turn. An accelerator is busy only with many lanes at once, and where there are
    several devices a loop over lanes would gather them: there it stays vectorized.

    On a CPU with one device the result can be differentiated in forward mode only.

    Args:
        function: Of the arguments, and of what it closes over.
        args: Pytrees.

    Returns:
        What the function returns, numbers as arrays.

    Example:
        >>> def halved(x):
        ...     return jax.lax.while_loop(lambda x: x > 1, lambda x: x / 2, x)
        >>> jax.vmap(lambda x: lane_by_lane(halved, x))(jnp.array([3.0, 8.0])).tolist()
        [0.75, 1.0]
    """
    # What it closes over may have lanes too, and is an argument from here on (once, for it takes as
    # long as to trace the function).
    if not hasattr(function, "out_struct"):
        function = eqx.filter_closure_convert(function, *args)
    arrays, rest = eqx.partition((function, args), eqx.is_array)
    others: list[Any] = []

    def run(arrays: PyTree) -> PyTree:
        function, args = eqx.combine(arrays, rest)
        found, other = eqx.partition(function(*args), eqx.is_array_like)
        others.append(other)
        return found

    if target_platform() == "cpu" and not compiles_ahead() and jax.device_count() == 1:
        run = jax.custom_batching.sequential_vmap(run)
    # What is constant may come back as a number; of a weak type it would compile a loop twice.
    found = jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), run(arrays))
    return eqx.combine(found, others[0])


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
    mode = "host" if _contains_slow_primitive(jaxpr.jaxpr) else "scan"
    if key is not None:
        if len(_cache) >= _CACHE_LIMIT:
            _cache.clear()
        _cache[key] = mode
    return mode


def _arrays(function: Callable[..., Any], args: Any) -> Any:
    return eqx.filter(function(*args), eqx.is_array)


def inner_jaxprs(equation: Any) -> Iterator[Any]:
    """The programs within an equation of a jaxpr: of a loop, a branch, a call.

    Args:
        equation: The equation.

    Yields:
        Jaxprs.

    Example:
        >>> (call,) = jax.make_jaxpr(jax.jit(jnp.sin))(1.0).eqns
        >>> [inner.eqns[0].primitive.name for inner in inner_jaxprs(call)]
        ['sin']
    """
    for value in jax.tree.leaves(
        list(equation.params.values()),
        is_leaf=lambda x: isinstance(x, jex_core.Jaxpr | jex_core.ClosedJaxpr),
    ):
        if isinstance(value, jex_core.ClosedJaxpr):
            value = value.jaxpr
        if isinstance(value, jex_core.Jaxpr):
            yield value


def _contains_slow_primitive(jaxpr: Any) -> bool:
    return any(
        equation.primitive.name in _SLOW_IN_LOOPS
        or any(map(_contains_slow_primitive, inner_jaxprs(equation)))
        for equation in jaxpr.eqns
    )


def apply_if(predicate: Any, function: Callable[[Any], Any], value: Any) -> Any:
    """`function(value)` if the predicate holds, else `value`; on the host or traced.

    Traced, it is a loop of at most one turn, and not `lax.cond`: under `vmap` a `cond` runs both
    sides at every step, a loop only while some lane asks for it, and it updates the basis in place.
    """
    if isinstance(predicate, bool | np.bool_ | np.ndarray):
        return function(value) if predicate else value
    flat, restore = bundle_scalars(value)

    def turn(carry: Any) -> Any:
        return jnp.zeros_like(carry[0]), bundle_scalars(function(restore(carry[1])))[0]

    return restore(jax.lax.while_loop(lambda carry: carry[0], turn, (predicate, flat))[1])


def bundle_scalars(tree: PyTree) -> tuple[PyTree, Any]:
    """The tree with its scalars in one array a dtype, and the inverse function.

    A loop that carries them so compiles faster: the backend makes a kernel of every array.
    """
    leaves, treedef = jax.tree.flatten(tree)
    small = [i for i, x in enumerate(leaves) if jnp.ndim(x) == 0]
    dtypes = sorted({jnp.result_type(leaves[i]) for i in small}, key=str)
    groups = [[i for i in small if jnp.result_type(leaves[i]) == d] for d in dtypes]
    flat = (
        [jnp.stack([leaves[i] for i in g]) for g in groups],
        [x for i, x in enumerate(leaves) if i not in set(small)],
    )

    def restore(flat: Any) -> PyTree:
        out: list[Any] = [None] * len(leaves)
        for group, values in zip(groups, flat[0], strict=True):
            for j, i in enumerate(group):
                out[i] = values[j]
        rest = iter(flat[1])
        return jax.tree.unflatten(treedef, [next(rest) if x is None else x for x in out])

    return flat, restore
