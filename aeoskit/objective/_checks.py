"""Checks made once, so that numbers can be trusted later. Host side, on real numbers."""

import inspect
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from aeoskit.linalg import tree_norm

from ._accumulate import num_examples
from ._anatomy import same_trace, trace
from ._differences import directions, is_traced
from ._kinds import loss_kind

# How far whole and parts may be apart, relative to the loss: well above the rounding of float32
# sums (1e-6), well below what batch statistics do (1e-2).
TOLERANCE = 1e-4


def _path(root: str, path: Any) -> str:
    return root + jax.tree_util.keystr(path)


def check_arity(loss: Any) -> None:
    """Raises a `TypeError` for a loss that cannot be called with parameters and a batch."""
    try:
        signature = inspect.signature(loss)
    except (TypeError, ValueError):  # a builtin: its first call tells
        return
    try:
        signature.bind(None, None)
    except TypeError:
        raise TypeError(
            f"the loss takes {signature}, and is called with two arguments, (params, batch): wrap "
            "it, as in lambda params, batch: loss(params, *batch)"
        ) from None


def check_data(data: PyTree, convert: bool = True) -> PyTree:
    """The data as arrays with a common leading axis. Shapes only: it can be used inside jit.

    Without `convert` arrays of NumPy stay what they are, for a placement to put them where they
    belong: on one device they may not fit.
    """

    def array_of(path: Any, leaf: Any) -> Any:
        if isinstance(leaf, jax.ShapeDtypeStruct):
            return leaf
        # Kind V is that of bfloat16.
        numeric = isinstance(leaf, np.ndarray) and leaf.dtype.kind in "biufcV"
        if not convert and numeric and leaf.ndim:
            return leaf
        try:
            leaf = jnp.asarray(leaf)
        except (TypeError, ValueError):
            raise TypeError(
                f"{_path('data', path)} is of type {type(leaf).__name__}: the leaves of the data "
                "must be arrays"
            ) from None
        if leaf.ndim == 0 and any(isinstance(key, jax.tree_util.SequenceKey) for key in path[1:]):
            raise ValueError(
                f"{_path('data', path)} is a number in a list: pass arrays, jnp.asarray(...) of "
                "each list"
            )
        if leaf.ndim == 0:
            raise ValueError(
                f"{_path('data', path)} is a scalar: every leaf of the data needs a leading axis, "
                "its examples (constants belong in the loss, as an eqx.Module)"
            )
        return leaf

    data = jax.tree_util.tree_map_with_path(array_of, data)
    leaves = jax.tree_util.tree_leaves_with_path(data)
    if not leaves:
        raise ValueError("the data hold no array: pass a pytree whose leaves are (n, ...)")
    (first, leaf), *others = leaves
    n = leaf.shape[0]
    for path, other in others:
        if other.shape[0] != n:
            raise ValueError(
                f"leading axes disagree: {_path('data', first)} has {n} examples and "
                f"{_path('data', path)} has {other.shape[0]}"
            )
    if n == 0:
        raise ValueError(
            f"{_path('data', first)} is empty: an objective needs at least one example"
        )
    return data


def check_params(params: PyTree) -> PyTree:
    """The parameters, NumPy's as arrays of JAX in its precision; refuses what has no derivative."""
    leaves = jax.tree_util.tree_leaves_with_path(params)
    if not leaves:
        raise TypeError("the parameters hold no array: there is nothing to differentiate")
    for path, leaf in leaves:
        dtype = getattr(leaf, "dtype", None)
        if dtype is None or not jnp.issubdtype(dtype, jnp.floating):
            what = type(leaf).__name__ if dtype is None else f"an array of {dtype}"
            if isinstance(leaf, float):
                raise TypeError(
                    f"{_path('params', path)} is a number of Python, {leaf}, not an array: make it "
                    f"one, jnp.asarray({leaf}), or keep it in the loss if it is not trained"
                )
            raise TypeError(
                f"{_path('params', path)} is {what}, not a real floating array: keep the rest in "
                "the loss (for an equinox model, eqx.partition(model, eqx.is_inexact_array))"
            )
    numpy = np.ndarray | np.generic
    return jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, numpy) else x, params)


def _check_finite(data: PyTree) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(data):
        if not jnp.issubdtype(leaf.dtype, jnp.inexact):
            continue
        if not _all_finite(leaf):
            # Scalars only are read: of several processes each holds some of the rows.
            finite = jnp.isfinite(leaf)
            row = int(jnp.argmin(jnp.all(finite, axis=tuple(range(1, leaf.ndim)))))
            within = np.unravel_index(int(jnp.argmin(finite[row])), leaf.shape[1:])
            index = (row, *map(int, within))
            count = int(jnp.sum(~finite))
            raise ValueError(
                f"{_path('data', path)} is {float(leaf[index])} at index {list(index)} "
                f"({count} in all): remove or replace what is not finite"
            )


def _all_finite(leaf: Any) -> bool:
    """True if all is finite; NumPy looks at arrays of one device: no program is compiled."""
    if not isinstance(leaf, jax.Array) or len(leaf.sharding.device_set) == 1:
        return bool(np.isfinite(np.asarray(leaf)).all())
    return bool(jnp.all(jnp.isfinite(leaf)))


def check_objective(objective: Any, params: PyTree) -> None:
    """Finite data and loss, two evaluations agree, and the whole is the mean of its parts."""
    if is_traced((objective, params)):
        return
    _check_finite(objective.data)
    if objective.tail is not None:
        _check_finite(objective.tail)
    value = float(objective.value(params))
    if not np.isfinite(value):
        raise ValueError(
            f"the loss at the given parameters is {value}{_nonfinite_part(objective, params)}: "
            "start where it is finite (for a (sum, weight) loss, the weights must not sum to zero)"
        )
    _check_gradient(objective, params)
    data, n, parts = objective.data, objective.n, objective.microbatch is not None
    m = objective.microbatch or n
    if objective.placement is not None:
        # The split over devices is one into parts as well, unless a scalar mean sees them all.
        data = objective.tail if num_examples(data) == 0 else data
        n, shards = num_examples(data), objective.placement.data_shards
        parts = parts or (shards > 1 and objective.kind(params) != "mean")
        m = min(m, max(1, n // shards)) if parts else n
    head = jax.tree.map(lambda x: x[:m], data)
    check_deterministic(objective, params, head, value)
    if parts and n > m:
        _check_parts(objective, params, data, m)


def _nonfinite_part(objective: Any, params: PyTree) -> str:
    """Names the first example of a loss that is not finite, or the first leaf of its gradient."""
    if objective.kind(params) == "per_example":
        bad = jax.jit(lambda params, batch: ~jnp.isfinite(objective.loss(params, batch)))
        first, count, seen = None, 0, 0
        for batch in _batches(objective):
            # Scalars only are read: of several processes each holds some of the rows.
            found = bad(params, batch)
            inside = int(jnp.sum(found))
            if inside and first is None:
                first = seen + int(jnp.argmax(found))
            count, seen = count + inside, seen + num_examples(batch)
        if first is None:
            return " although that of each example is finite (their sum overflows)"
        return f", and that of example {first} is the first that is not finite ({count} in all)"
    for path, leaf in jax.tree_util.tree_leaves_with_path(objective.gradient(params)):
        if not _all_finite(leaf):
            return f", and its gradient is not finite at {_path('params', path)} first"
    return ""


def _batches(objective: Any) -> Iterator[PyTree]:
    """All of the examples in order, as many at a time as the objective takes."""
    for data in (objective.data, objective.tail):
        n = 0 if data is None else num_examples(data)
        m = objective.microbatch or n
        for begin in range(0, n, m or 1):
            yield jax.tree.map(lambda x, i=begin, m=m: x[i : i + m], data)


def _check_gradient(objective: Any, params: PyTree) -> None:
    gradient = objective.gradient(params)
    for path, leaf in jax.tree_util.tree_leaves_with_path(gradient):
        count = 0 if _all_finite(leaf) else int(jnp.sum(~jnp.isfinite(leaf)))
        if count:
            raise ValueError(
                f"the loss is finite, but {count} of {leaf.size} entries of its gradient at "
                f"{_path('params', path)} are not: inside jnp.where, keep the branch that is not "
                "taken finite as well (its derivative is multiplied by zero), and roots and "
                "norms away from zero"
            )


def check_deterministic(
    objective: Any, params: PyTree, batch: PyTree, value: float | None = None
) -> None:
    """Refuses a loss that draws random numbers; `value` is that of all data, if it is known."""
    # Numbers drawn by Python or NumPy are drawn at trace time.
    loss = objective.loss
    same = same_trace(trace(loss, params, batch), trace(loss, params, batch))
    again = value if value is None else float(objective.value(params))
    if same and again == value:
        return
    results = []
    for _ in range(2):
        evaluate = jax.jit(lambda params, batch: objective.loss(params, batch))
        results.append(jax.tree.leaves(evaluate(params, batch)))
    changed = again != value or any(
        not np.array_equal(np.asarray(a), np.asarray(b)) for a, b in zip(*results, strict=True)
    )
    if changed:
        raise ValueError(
            "two evaluations of the loss differ: it draws random numbers, so it is not a function "
            "of the parameters; pass the randomness as data (a key per example) or switch it off"
        )


def _perturbed(params: PyTree) -> PyTree:
    """Away from a start at which all losses are equal (zeros in the last layer)."""
    return jax.tree.map(lambda x, t: (x + 0.1 * t).astype(x.dtype), params, directions(params))


def _check_parts(objective: Any, params: PyTree, data: PyTree, m: int) -> None:
    # Two microbatches are enough to see a coupling; the whole data may not fit at once.
    rest = min(m, num_examples(data) - m)
    head = jax.tree.map(lambda x: x[:m], data)
    tail = jax.tree.map(lambda x: x[-rest:], data)
    both = jax.tree.map(lambda a, b: jnp.concatenate([a, b]), head, tail)
    evaluate = jax.jit(lambda params, batch: objective.loss(params, batch))
    kind = loss_kind(jax.eval_shape(objective.loss, params, both), m + rest)
    found, norms = [], (0.0, 0.0)
    for point in (params, _perturbed(params)):
        outputs = [evaluate(point, batch) for batch in (head, tail, both)]
        found.append(_parts_and_whole(outputs, kind, m, rest))
    if kind == "mean":
        # Means may agree where all losses are equal; their gradients do not.
        slope = jax.jit(jax.grad(lambda params, batch: objective.loss(params, batch)))
        one, two, whole = (slope(params, batch) for batch in (head, tail, both))
        share = m / (m + rest)
        expected = jax.tree.map(lambda a, b: share * a + (1 - share) * b, one, two)
        difference = jax.tree.map(jnp.subtract, whole, expected)
        gap, size, norm = (float(tree_norm(x)) for x in (difference, expected, whole))
        scale = share * float(tree_norm(one)) + (1 - share) * float(tree_norm(two))
        found.append((np.float64(size), np.float64(size + gap), np.float64(scale)))
        norms = norm, size
    unit = 10 * float(jnp.finfo(jax.tree.leaves(outputs)[0].dtype).eps)
    for number, (expected, whole, scale) in enumerate(found):
        # Gradients are sums in which much cancels.
        tolerance = max(TOLERANCE * (1 if number < 2 else 10), unit)
        if not np.all(np.isfinite(whole)) or not np.all(np.isfinite(expected)):
            continue
        if not np.any(np.abs(whole - expected) > tolerance * (np.abs(expected) + scale)):
            continue
        fix = "if its weights are uneven (a mask), return (sum, weight); " if kind == "mean" else ""
        what = ("loss", "loss at parameters nearby", "gradient of the loss")[number]
        if number < 2:
            norms = np.mean(whole), np.mean(expected)
        raise ValueError(
            f"the {what} of {m + rest} examples at once ({norms[0]:.6g}) is not that of its "
            f"microbatches of {m} together ({norms[1]:.6g}): it couples examples "
            f"(BatchNorm?); {fix}pass microbatch=None to evaluate it whole"
            + ("" if objective.placement is None else " (on a mesh, return the mean itself)")
        )


def _parts_and_whole(outputs: Any, kind: str, m: int, rest: int) -> tuple[Any, Any, Any]:
    """The whole by its parts, the whole itself, and the scale of their errors."""
    one, two, whole = jax.tree.map(lambda x: np.asarray(x, np.float64), outputs)
    if kind == "per_example":
        expected = np.concatenate([one, two])
        return expected, whole, np.mean(np.abs(expected))
    if kind == "weighted":
        one, two, whole = (np.stack(x) for x in (one, two, whole))
        return one + two, whole, np.abs(one) + np.abs(two)
    expected = np.average([one, two], weights=[m, rest], axis=0)
    return expected, whole, np.sqrt(np.mean(np.square([one, two])))
