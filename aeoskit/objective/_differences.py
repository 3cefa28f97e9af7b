"""A derivative against differences of the function itself, which see what derivatives may not.

`stop_gradient`, custom derivatives and rounding inside a function are hidden from `jax.jvp` and
`jax.vjp`, but not from the difference of two values of the function.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, PyTree

from aeoskit.linalg import tree_dtype, tree_norm, tree_random_like

# How many steps are tried, each a fraction of the one before, and half of the last one.
_STEPS = 4
_SHRINK = 8.0
# A derivative is off where differences of two steps agree with each other this much better than
# with it, and where it is off by more than this share of its size.
_APART = 10.0
_SHARE = 5e-3
# In roundings of the function's values at the longest step.
_ROUNDINGS = 8.0


def is_traced(tree: PyTree) -> bool:
    """True if any leaf has no value yet, inside a traced function."""
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def step_size(dtype: Any) -> float:
    """The relative step of a central difference: truncation and rounding are balanced there."""
    return float(jnp.finfo(dtype).eps) ** (1 / 3)


def _steps(dtype: Any) -> list[float]:
    # Narrow formats see no step under their rounding.
    shrink = _SHRINK if jnp.finfo(dtype).bits >= 32 else 2.0
    steps = [step_size(dtype) / shrink**i for i in range(_STEPS)]
    # Between the jumps of what is rounded to a grid a derivative is seen by short steps only.
    return [*steps, steps[-1] / 2]


def moved(point: PyTree, tangent: PyTree, h: Any) -> PyTree:
    """`x + h t`, in the formats of x."""
    return jax.tree.map(lambda x, t: (x + h * t).astype(x.dtype), point, tangent)


def quotient(function: Callable[[PyTree], PyTree], point: PyTree, tangent: PyTree, h: Any) -> Any:
    """The central difference `(f(x + h t) - f(x - h t)) / 2h`; costs two evaluations.

    Args:
        function: f, of a pytree to a pytree.
        point: x.
        tangent: t, of the structure of x.
        h: the step.

    Returns:
        A pytree like the function's values.

    Example:
        >>> import jax.numpy as jnp
        >>> float(quotient(jnp.square, jnp.array(3.0), jnp.array(1.0), 0.5))
        6.0
    """
    after, before = function(moved(point, tangent, h)), function(moved(point, tangent, -h))
    return jax.tree.map(lambda a, b: ((a - b) / (2 * h)).astype(a.dtype), after, before)


def directions(point: PyTree, number: int = 0) -> PyTree:
    """A random direction in which each leaf moves by its own root mean square.

    Leaves of zeros move by that of all leaves, or by 1 where all are zero.

    Args:
        point: a pytree of arrays.
        number: which direction.

    Returns:
        A pytree like it.

    Example:
        >>> import jax.numpy as jnp
        >>> directions({"a": jnp.ones(3)})["a"].shape
        (3,)
    """

    def mean_square(x: Array) -> Array:
        return jnp.mean(jnp.square(x.astype(float)))

    def usable(x: Array) -> Array:
        return (x > 0) & jnp.isfinite(x)

    leaves = jax.tree.leaves(point)
    total = sum((mean_square(x) * x.size for x in leaves), jnp.zeros(()))
    total = total / max(1, sum(x.size for x in leaves))
    total = jnp.where(usable(total), total, 1)

    def scaled(x: Array, t: Array) -> Array:
        square = mean_square(x)
        return (jnp.sqrt(jnp.where(usable(square), square, total)) * t).astype(x.dtype)

    return jax.tree.map(scaled, point, tree_random_like(jax.random.key(number), point))


class Comparison(eqx.Module):
    """Distances of a derivative along a direction from the differences along it, leaf by leaf.

    Attributes:
        gap: the distance to the nearest of the differences.
        spread: the smallest distance between differences of two steps.
        size: the larger of the two derivatives' norms.
        floor: what rounding of the function's values can make of the gap.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> f = lambda x: {"a": x**2, "b": x * jax.lax.stop_gradient(x)}
        >>> x = jnp.array([1.0, 2.0])
        >>> image = jax.jvp(f, (x,), (x,))[1]
        >>> compare_derivative(f, x, x, image).differs().tolist()
        [False, True]
    """

    gap: Float[Array, " leaves"]
    spread: Float[Array, " leaves"]
    size: Float[Array, " leaves"]
    floor: Float[Array, " leaves"]

    def differs(self, kinks: float = 0.0) -> Bool[Array, " leaves"]:
        """Marks the leaves that have another derivative than the function.

        Args:
            kinks: how many numbers in the function pass through kinks (`count_kinks`). Many kinks
                on the way, each a jump of the derivative, pass for one more derivative, but their
                differences scatter from step to step.

        Returns:
            A boolean a leaf.
        """
        step = step_size(self.gap.dtype) / _SHRINK**2
        apart = _APART * (1 + (2 * step * kinks) ** 0.5)
        off = (self.gap > apart * self.spread) & (self.gap > self.floor)
        return off & (self.gap > _SHARE * self.size)

    def shares(self) -> Float[Array, " leaves"]:
        """The gap in units of the size."""
        return self.gap / jnp.where(self.size > 0, self.size, 1)


def _norms(tree: PyTree, mask: PyTree | None) -> Array:
    leaves = jax.tree.leaves(tree)
    masks = [True] * len(leaves) if mask is None else jax.tree.leaves(mask)

    def norm(x: Array, keep: Any) -> Array:
        x = x.astype(float)
        return jnp.sqrt(jnp.sum(jnp.where(keep & jnp.isfinite(x), x, 0) ** 2))

    return jnp.stack([norm(x, keep) for x, keep in zip(leaves, masks, strict=True)])


def _minus(x: PyTree, y: PyTree) -> PyTree:
    return jax.tree.map(jnp.subtract, x, y)


@eqx.filter_jit
def _initial_comparison(
    function: Any, point: PyTree, image: PyTree, mask: PyTree | None
) -> tuple[Any, ...]:
    values = function(point)
    zeros = jax.tree.map(jnp.zeros_like, image)
    far = jnp.full(len(jax.tree.leaves(image)), jnp.inf)
    return zeros, far, far, _norms(image, mask), _norms(values, mask)


@eqx.filter_jit
def _compare_step(
    function: Any, point: PyTree, tangent: PyTree, image: PyTree, mask: Any, seen: Any, h: Any
) -> tuple[Any, ...]:
    last, gap, spread, size, values = seen
    found = quotient(function, point, tangent, h)
    near = jnp.minimum(gap, _norms(_minus(found, image), mask))
    # Before the first there is nothing to compare with.
    first = jnp.all(gap == jnp.inf)
    change = jnp.where(first, jnp.inf, _norms(_minus(found, last), mask))
    size = jnp.where(first, jnp.maximum(size, _norms(found, mask)), size)
    return found, near, jnp.minimum(spread, change), size, values


def compare_derivative(
    function: Callable[[PyTree], PyTree],
    point: PyTree,
    tangent: PyTree,
    image: PyTree,
    mask: PyTree | None = None,
) -> Comparison:
    """Compares a derivative of `function` along `tangent` with central differences of five steps.

    Costs eleven evaluations of the function; it works inside `jit` as well.

    Args:
        function: of a pytree, to a pytree; hashable, or a module.
        point: where.
        tangent: the direction, as long as `point` is large.
        image: the derivative along it that is in doubt, of the structure of the function's values.
        mask: booleans of that structure, the entries to be looked at.

    Returns:
        A `Comparison`.

    Example:
        >>> import jax.numpy as jnp
        >>> x = jnp.array([1.0, 2.0])
        >>> bool(compare_derivative(jnp.sin, x, x, x * jnp.cos(x)).differs()[0])
        False
    """
    dtype = tree_dtype(point)
    seen = _initial_comparison(function, point, image, mask)
    steps = _steps(dtype)
    if is_traced((function, point, tangent, image)):

        def body(seen: Any, h: Array) -> tuple[Any, None]:
            return _compare_step(function, point, tangent, image, mask, seen, h), None

        seen, _ = jax.lax.scan(body, seen, jnp.asarray(steps, dtype))
    else:
        for h in steps:
            seen = _compare_step(function, point, tangent, image, mask, seen, jnp.asarray(h, dtype))
    _, gap, spread, size, values = seen
    floor = _ROUNDINGS * float(jnp.finfo(dtype).eps) / steps[0] * values
    return Comparison(gap, spread, size, floor)


def relative_step(params: PyTree, vector: PyTree) -> Float[Array, ""]:
    """The h for which `h vector` is a small share of the parameters: 3e-4 of them in float32.

    Args:
        params: the parameters.
        vector: a vector of their structure.

    Returns:
        A scalar.

    Example:
        >>> import jax.numpy as jnp
        >>> bool(relative_step(jnp.ones(4), 2 * jnp.ones(4)) < 1e-3)
        True
    """
    size, length = tree_norm(params), tree_norm(vector)
    size = jnp.where((size > 0) & jnp.isfinite(size), size, 1)
    # A sixteenth of the balance for one variable: along the sharp directions of a network a step
    # relative to all of its parameters is a long one.
    return step_size(tree_dtype(params)) / 16 * size / jnp.where(length > 0, length, 1)
