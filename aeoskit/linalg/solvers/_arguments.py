"""The arguments of `eigensolve`: their checks, a solver's numbers, the start."""

import dataclasses
import operator as operator_module
from collections.abc import Callable
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Int, PyTree, UInt32

from ..operators._layout import is_packed, unpack
from ..vectors._tree import tree_size

Scalar: TypeAlias = float | Array


def check_numbers(solver: Any, names: tuple[str, ...], defaults: str) -> None:
    """Refuses tolerances and weights that no solve can use; those under a trace are unknown."""
    for name in names:
        value = getattr(solver, name)
        if isinstance(value, int | float) and not 0 <= value < float("inf"):
            raise ValueError(
                f"{type(solver).__name__}({name}={value}): a tolerance is finite and not "
                f"negative; the defaults are {defaults}."
            )


def from_host(tree: Any, dtype: Any = None) -> Any:
    """Numbers of the host as arrays of JAX's, for which nothing is compiled; arrays as they are."""

    def array(x: Any) -> Array:
        return x if isinstance(x, jax.Array) else jax.device_put(np.asarray(x, dtype))

    return jax.tree.map(array, tree)


def with_numbers(solver: Any, array: Callable[[Any], Any]) -> Any:
    """The solver with its numbers as arrays, so that another value is no other program."""
    names = [
        field.name
        for field in dataclasses.fields(solver)
        if not field.metadata.get("static", False)
        and isinstance(getattr(solver, field.name), int | float)
    ]
    arrays = [array(getattr(solver, name)) for name in names]
    return eqx.tree_at(lambda s: [getattr(s, name) for name in names], solver, arrays)


def check_is_solver(solver: Any) -> Any:
    """Refuses what is not a solver.

    Args:
        solver: What a caller gave for one.

    Returns:
        The same.

    Raises:
        TypeError: A class, a name, or something else.

    Example:
        >>> from aeoskit.linalg import Lanczos
        >>> check_is_solver(Lanczos).rtol
        Traceback (most recent call last):
        ...
        TypeError: the solver is the class Lanczos; make one: Lanczos().
    """
    if isinstance(solver, type):
        name = solver.__name__
        raise TypeError(f"the solver is the class {name}; make one: {name}().")
    if not hasattr(solver, "ends"):
        raise TypeError(
            f"the solver is {solver!r}, no eigen-solver; pass Lanczos(), Tracking() or another one "
            "of aeoskit.linalg, or None."
        )
    return solver


def check_arguments(operator: Any, solver: Any, k: Any, which: str, max_matvecs: Any) -> int:
    """Refuses arguments that make no sense, before any work; returns k."""
    check_is_solver(solver)
    if not isinstance(operator, lx.AbstractLinearOperator):
        raise TypeError(
            f"eigensolve: the operator is of type {type(operator).__name__}, no "
            "lineax.AbstractLinearOperator; wrap a matrix as lineax.MatrixLinearOperator(matrix, "
            "lineax.symmetric_tag), a function as lineax.FunctionLinearOperator(function, "
            "structure, lineax.symmetric_tag)."
        )
    if which not in solver.ends:
        near = [end for end in solver.ends if str(which).removesuffix("_real") in end]
        default = ", the default" if which == "largest" else ""
        raise ValueError(
            f"eigensolve(which={which!r}{default}): {type(solver).__name__} finds "
            f"{', '.join(solver.ends)}; choose {near[0] if near else 'one of these'}, or another "
            "solver."
        )
    structure = operator.in_structure()
    leaves = jax.tree.leaves(structure)
    if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
        dtypes = sorted({str(leaf.dtype) for leaf in leaves})
        raise ValueError(
            f"eigensolve: the operator acts on {', '.join(dtypes)} leaves; it works on real "
            "floating-point vectors only, so filter the others out of the parameters first."
        )
    dimension, columns = tree_size(structure), operator.out_structure()
    if jax.tree.map(lambda s: s.shape, structure) != jax.tree.map(lambda s: s.shape, columns):
        raise ValueError(
            "eigensolve: the operator is not square: it takes "
            f"{jax.tree.map(lambda s: s.shape, structure)} to "
            f"{jax.tree.map(lambda s: s.shape, columns)}; singular values are square roots of the "
            "eigenvalues of `A.T @ A`."
        )
    count = _as_integer(k)
    if count is None or not 1 <= count <= dimension:
        raise ValueError(
            f"eigensolve(k={k!r}): k is a whole number between 1 and the operator's dimension, "
            f"{dimension}."
        )
    if solver.symmetric and not lx.is_symmetric(operator):
        raise ValueError(
            f"eigensolve: the operator is not tagged symmetric and {type(solver).__name__} is "
            "for symmetric operators; if it is symmetric, tag it: "
            "lineax.TaggedLinearOperator(operator, lineax.symmetric_tag); if it is not, use "
            "Arnoldi()."
        )
    budget = max_matvecs
    if isinstance(budget, jax.Array):
        if budget.ndim or not jnp.issubdtype(budget.dtype, jnp.integer):
            raise ValueError(
                "eigensolve(max_matvecs=...): one whole number, not an array of shape "
                f"{budget.shape} and dtype {budget.dtype}."
            )
        budget = None if isinstance(budget, Tracer) else int(budget)
    if budget is not None and (_as_integer(budget) is None or budget < 1):
        raise ValueError(
            f"eigensolve(max_matvecs={max_matvecs}): a whole number of products, 1 at least."
        )
    return count


def _as_integer(number: Any) -> int | None:
    if isinstance(number, bool):
        return None
    try:
        return operator_module.index(number)
    except TypeError:
        return None


class Start(eqx.Module):
    """The start of a solve: a block of vectors and a key. The `state` of a solution is one.

    Attributes:
        block: Leaves `(p, *leaf)`, or None for a random start.
        key: Raw key data, so that it survives every kind of serialization.
        fresh: The block holds nothing yet (a warm start that no solve has filled).
        age: How many solves ago the last one looked in a wholly fresh direction.
        memory: What a solver remembers beside vectors; other solvers ignore it.

    Example:
        >>> start = Start(None, jnp.zeros(2, jnp.uint32), jnp.asarray(True), jnp.asarray(0))
        >>> start.memory is None
        True
    """

    block: PyTree[Array] | None
    key: UInt32[Any, "2"]
    fresh: Bool[Any, ""]
    age: Int[Any, ""]
    memory: PyTree = None


def leafwise(start: Start, structure: PyTree) -> Start:
    """The start with its vectors leaf by leaf, as the operator has them.

    The state of a solution may hold them packed into one array a dtype.

    Args:
        start: The state of a solution.
        structure: The operator's `in_structure()`.

    Returns:
        A start.

    Example:
        >>> block = (jnp.ones((1, 5)),)
        >>> packed = Start(block, jnp.zeros(2, jnp.uint32), jnp.asarray(True), jnp.asarray(0))
        >>> structure = jax.eval_shape(lambda: {"a": jnp.zeros(2), "b": jnp.zeros(3)})
        >>> leafwise(packed, structure).block["b"].shape
        (1, 3)
    """
    if start.block is None or not is_packed(start.block, structure):
        return start
    return dataclasses.replace(start, block=unpack(start.block, structure))


def zero_age() -> Int[Array, ""]:
    """The age of a start that has just looked everywhere."""
    return from_host(0, np.int32)


def key_data(key: Array | None) -> UInt32[Array, "2"]:
    """The raw data of a key: two words, whatever generator the caller's key belongs to."""
    if key is None:
        return from_host(np.zeros(2, np.uint32))
    given: Any = key
    if not jnp.issubdtype(given.dtype, jax.dtypes.prng_key):
        given = jax.random.wrap_key_data(given)
    if jax.random.key_data(given).shape != (2,):
        return jax.random.bits(given, (2,), jnp.uint32)
    return jax.random.key_data(given)


def _is_key(start: Any) -> bool:
    if not isinstance(start, jax.Array):
        return False
    if jnp.issubdtype(start.dtype, jax.dtypes.prng_key):
        return start.ndim == 0
    return start.dtype == jnp.uint32 and start.shape == (2,)


def _is_real(x: Any) -> bool:
    if not isinstance(x, jax.Array | np.ndarray | float | int):
        return False
    dtype = jnp.result_type(x)
    return jnp.issubdtype(dtype, jnp.floating) or jnp.issubdtype(dtype, jnp.signedinteger)


# The number of leaves of a tree that an error names.
_NAMED = 3


def _named(tree: Any) -> str:
    """A caller's tree, in a few words."""
    pairs = jax.tree_util.tree_leaves_with_path(tree)
    if len(pairs) > 1 and not isinstance(tree, dict | list | tuple):
        return type(tree).__name__
    words = [f"{jax.tree_util.keystr(p)} {_shape(x)}".strip() for p, x in pairs[:_NAMED]]
    more = f" and {len(pairs) - _NAMED} more leaves" if len(pairs) > _NAMED else ""
    return (", ".join(words) or type(tree).__name__) + more


def _shape(x: Any) -> str:
    if not hasattr(x, "shape"):
        return type(x).__name__
    return f"{x.dtype}[{','.join(map(str, x.shape))}]"


def _refuse(start: Any, structure: PyTree) -> ValueError:
    inner = getattr(start, "solution", None)
    for path, holder in ((".state", start), (".solution.state", inner)):
        if isinstance(getattr(holder, "state", None), Start):
            return ValueError(
                f"eigensolve(start=...): got a whole {type(start).__name__}, which holds more than "
                f"the start of the next solve: pass its `{path}`."
            )
    return ValueError(
        "eigensolve(start=...): expected None, a PRNG key, a vector with the operator's input "
        "structure, a block of such vectors (leaves (p, *leaf)), or the state of a solution; got "
        f"{_named(start)} for an operator on {_named(structure)}."
    )


def as_start(start: Any, structure: PyTree) -> Start:
    """Makes a start of `eigensolve(start=...)`, for an operator of that structure.

    Args:
        start: As in `eigensolve`.
        structure: The operator's `in_structure()`, of 32 bits at least.

    Returns:
        A start.

    Raises:
        ValueError: It is not a start, or one of another structure.

    Example:
        >>> as_start(jnp.ones(3), jax.ShapeDtypeStruct((3,), jnp.float32)).block.shape
        (1, 3)
    """
    if isinstance(start, Start):
        shapes = start.block
        flat = shapes is not None and is_packed(shapes, structure)
        if shapes is not None and not flat and not _is_block(shapes, structure):
            raise ValueError(
                "eigensolve(start=...): the state belongs to an operator of another structure, on "
                f"blocks {_named(shapes)}, and this one is on {_named(structure)}; pass a state of "
                "the same operator shapes, or a PRNG key."
            )
        if shapes is None or flat:
            return start
        block = jax.tree.map(lambda x, s: x.astype(s.dtype), shapes, structure)
        return dataclasses.replace(start, block=block)
    if start is None or _is_key(start):
        return Start(block=None, key=key_data(start), fresh=from_host(True), age=zero_age())
    cold = from_host(False)
    if is_packed(start, structure):  # the block of a state
        return Start(block=start, key=key_data(None), fresh=cold, age=zero_age())
    leaves, treedef = jax.tree.flatten(start)
    wanted, wanted_def = jax.tree.flatten(structure)
    if treedef == wanted_def and all(_is_real(x) for x in leaves):
        leaves = [jnp.asarray(x, s.dtype) for x, s in zip(leaves, wanted, strict=True)]
        block = jax.tree.unflatten(treedef, leaves)
        if all(x.shape == s.shape for x, s in zip(leaves, wanted, strict=True)):
            block = jax.tree.map(lambda x: x[None], block)
            return Start(block=block, key=key_data(None), fresh=cold, age=zero_age())
        if _is_block(block, structure):
            return Start(block=block, key=key_data(None), fresh=cold, age=zero_age())
    raise _refuse(start, structure)


def _is_block(block: PyTree, structure: PyTree) -> bool:
    if jax.tree.structure(block) != jax.tree.structure(structure):
        return False
    leaves = list(zip(jax.tree.leaves(block), jax.tree.leaves(structure), strict=True))
    rows = {x.shape[:1] for x, _ in leaves}
    return len(rows) == 1 and all(x.ndim > 0 and x.shape[1:] == s.shape for x, s in leaves)
