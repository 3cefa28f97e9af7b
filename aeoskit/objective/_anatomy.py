"""The parts of a loss or a training step, read off its trace: nothing is computed."""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.extend import core as jex_core
from jaxtyping import PyTree

from aeoskit.linalg.extend import inner_jaxprs

from ._accumulate import num_examples

# Where a first derivative jumps, or a function does.
_KINKS = frozenset(
    {
        *("max", "min", "abs", "sign", "clamp", "select_n", "floor", "ceil", "round"),
        *("reduce_max", "reduce_min", "cummax", "cummin", "argmax", "argmin", "sort", "top_k"),
        *("reduce_window_max", "reduce_window_min", "select_and_scatter_add"),
    }
)
_HIDING = frozenset({"stop_gradient", "custom_jvp_call", "custom_vjp_call"})
# Functions of jax's own with derivatives of their own, which are right.
_KNOWN = frozenset({"relu", "relu6", "softmax", "_softmax", "logaddexp", "logaddexp2", "xlogy"})
_SUMS = frozenset({"add", "reduce_sum", "broadcast_in_dim", "reshape", "squeeze"})
# What moves numbers and makes none.
_CARRIES = frozenset(
    {"broadcast_in_dim", "reshape", "squeeze", "select_n", "convert_element_type", "max"}
)


def _floating(variable: Any) -> bool:
    dtype = getattr(variable.aval, "dtype", None)
    return dtype is not None and jnp.issubdtype(dtype, jnp.floating)


def _kinks(jaxpr: Any) -> float:
    total = 0.0
    for equation in jaxpr.eqns:
        if equation.primitive.name in _KINKS:
            total += sum(v.aval.size for v in equation.invars if _floating(v))
        # A loop without a length counts once: it is no part of a loss that has a gradient.
        length = equation.params.get("length", 1)
        total += sum(_kinks(inner) for inner in inner_jaxprs(equation)) * length
    return total


def _narrow(jaxpr: Any) -> float:
    """The relative rounding of the narrowest floating format under 32 bits; 0 for none."""
    worst = 0.0
    for equation in jaxpr.eqns:
        for variable in (*equation.invars, *equation.outvars):
            if _floating(variable) and jnp.finfo(variable.aval.dtype).bits < 32:
                worst = max(worst, float(jnp.finfo(variable.aval.dtype).eps))
        worst = max(worst, *(_narrow(inner) for inner in inner_jaxprs(equation)), 0.0)
    return worst


def _not_squared(jaxpr: Any) -> set[int] | None:
    """The inputs of which the first result is a sum that has to be squares for it to be one.

    None if it is no sum of squares, whatever they are.
    """
    producers = {v: e for e in jaxpr.eqns for v in e.outvars}
    front, found = [jaxpr.outvars[0]], set()
    while front:
        variable = front.pop()
        if isinstance(variable, jex_core.Literal):
            return None
        if variable in jaxpr.invars:
            found.add(jaxpr.invars.index(variable))
            continue
        equation = producers.get(variable)
        if equation is None:
            return None
        name, inputs = equation.primitive.name, equation.invars
        inner = list(inner_jaxprs(equation))
        if (
            name == "square"
            or (name == "integer_pow" and equation.params["y"] == 2)
            or (name == "mul" and inputs[0] is inputs[1])
        ):
            continue
        if inner:
            sides = _not_squared(inner[0]) if equation.outvars[0] is variable else None
            if sides is None or len(inner) > 1 or len(inner[0].invars) != len(inputs):
                return None
            front += [inputs[i] for i in sides]
        elif name in ("mul", "div"):
            constants = [v.val for v in inputs if isinstance(v, jex_core.Literal)]
            made = [v for v in inputs if not isinstance(v, jex_core.Literal) and v in producers]
            if len(made) != 1 or np.any(np.asarray(constants) < 0):
                return None
            # Weights and counts are numbers: an array may have any sign, or be a parameter.
            if len(constants) + len(made) != len(inputs) or (
                name == "div" and made[0] is inputs[1]
            ):
                return None
            front += made
        elif name in _SUMS:
            front += [v for v in inputs if _floating(v)]
        else:
            return None
    return found


def _is_shift(equation: Any, jaxpr: Any) -> bool:
    """True if a stopped maximum is subtracted from what it is the maximum of, as in softmax."""
    producers = {v: e for e in jaxpr.eqns for v in e.outvars}
    (stopped,) = equation.outvars
    front = {v for v in equation.invars if not isinstance(v, jex_core.Literal)}
    source = None
    while front:
        producer = producers.get(front.pop())
        if producer is None:
            continue
        inputs = [v for v in producer.invars if not isinstance(v, jex_core.Literal)]
        if producer.primitive.name == "reduce_max":
            source = inputs[0]
        elif producer.primitive.name in _CARRIES:
            front.update(v for v in inputs if _floating(v))
        else:
            return False
    if source is None:
        return False
    spread = {stopped}
    for e in jaxpr.eqns:
        names = e.invars[1:2] if e.primitive.name == "sub" else ()
        if e.primitive.name in _CARRIES and any(
            not isinstance(v, jex_core.Literal) and v in spread for v in e.invars
        ):
            spread.update(e.outvars)
        elif any(v in spread for v in names) and e.invars[0] is source:
            return True
    return False


def _hiding(jaxpr: Any) -> set[str]:
    found: set[str] = set()
    for equation in jaxpr.eqns:
        name = equation.primitive.name
        if name in _HIDING and not (
            _is_shift(equation, jaxpr)
            if name == "stop_gradient"
            else equation.params.get("name") in _KNOWN
        ):
            found.add(name.removesuffix("_call"))
        for inner in inner_jaxprs(equation):
            found |= _hiding(inner)
    return found


class Anatomy(eqx.Module):
    """The parts of a traced function that matter to its derivatives.

    Attributes:
        kinks: how many numbers pass through primitives whose derivative jumps.
        hiding: names of primitives that may hide a part of the derivative.
        narrow: the relative rounding of the narrowest format under 32 bits; 0 for none.
        squares: whether the first result is seen to be a sum of squares.

    Example:
        >>> import jax.numpy as jnp
        >>> seen = anatomy(lambda x: jnp.abs(x) + jax.lax.stop_gradient(x), jnp.ones(3))
        >>> seen.kinks, sorted(seen.hiding), seen.narrow
        (3.0, ['stop_gradient'], 0.0)
    """

    kinks: float = eqx.field(static=True)
    hiding: frozenset[str] = eqx.field(static=True)
    narrow: float = eqx.field(static=True)
    squares: bool = eqx.field(static=True)


def trace(function: Callable[..., Any], *args: PyTree) -> Any:
    """The trace of `function(*args)`, made anew: jax remembers traces by function."""
    arrays, static = eqx.partition(
        function, lambda x: isinstance(x, jax.ShapeDtypeStruct) or eqx.is_array(x)
    )

    def call(arrays: PyTree, args: Any) -> Any:
        return eqx.combine(arrays, static)(*args)

    return jax.make_jaxpr(call)(arrays, args)


@functools.lru_cache(maxsize=256)
def _cached_anatomy(treedef: Any, shapes: tuple[Any, ...], x64: bool) -> Anatomy:
    del x64  # part of the key
    function, args = jax.tree.unflatten(
        treedef, [jax.ShapeDtypeStruct(*s) if isinstance(s, tuple) else s for s in shapes]
    )
    jaxpr = trace(function, *args).jaxpr
    return Anatomy(
        kinks=_kinks(jaxpr),
        hiding=frozenset(_hiding(jaxpr)),
        narrow=_narrow(jaxpr),
        squares=_not_squared(jaxpr) == set(),
    )


def lacks_forward(jaxpr: Any) -> bool:
    """True if a traced derivative stands for one that a `custom_vjp` function does not have.

    jax raises when it compiles, and not when it traces.
    """
    return any(
        equation.primitive.name == "custom_lin" or any(map(lacks_forward, inner_jaxprs(equation)))
        for equation in jaxpr.eqns
    )


def same_trace(one: Any, two: Any) -> bool:
    """True if two traces are the same, their constants included."""
    return (
        str(one) == str(two)
        and len(one.consts) == len(two.consts)
        and all(same_numbers(a, b) for a, b in zip(one.consts, two.consts, strict=True))
    )


def same_numbers(one: Any, two: Any) -> bool:
    """True if two arrays are equal; PRNG keys are compared by what is in them."""
    if not hasattr(one, "dtype"):
        return one is two or bool(one == two)
    if jnp.issubdtype(one.dtype, jax.dtypes.extended):
        one, two = jax.random.key_data(one), jax.random.key_data(two)
    return np.array_equal(np.asarray(one), np.asarray(two))


def anatomy(function: Callable[..., Any], *args: PyTree) -> Anatomy:
    """Reads the trace of `function(*args)`; one trace for each new function and shapes.

    Args:
        function: hashable, or a module whose arrays are leaves.
        args: pytrees of arrays or their structures.

    Returns:
        Its `Anatomy`.

    Example:
        >>> import jax.numpy as jnp
        >>> anatomy(jnp.abs, jnp.ones(3)).kinks
        3.0
    """
    leaves, treedef = jax.tree.flatten((function, args))
    x64 = bool(jax.config.jax_enable_x64)  # pyright: ignore
    shapes = tuple((x.shape, x.dtype) if hasattr(x, "shape") else x for x in leaves)
    return _cached_anatomy(treedef, shapes, x64)


def loss_anatomy(objective: Any, params: PyTree) -> Anatomy:
    """The anatomy of an objective's loss; nothing is computed, and it works inside `jit`.

    Args:
        objective: the objective.
        params: the parameters, or their shapes.

    Returns:
        That of the loss, for as many examples as it is given at a time.

    Example:
        >>> import jax.numpy as jnp
        >>> from aeoskit.objective import Objective
        >>> objective = Objective(lambda w, x: jnp.abs(x - w), jnp.arange(5.0))
        >>> loss_anatomy(objective, jnp.array(0.0)).kinks
        5.0
    """
    n = num_examples(objective.data)
    size = min(objective.microbatch or n, n) or 1

    def batch_of(x: Any) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct((size, *x.shape[1:]), x.dtype)

    return anatomy(objective.loss, params, jax.tree.map(batch_of, objective.data))
