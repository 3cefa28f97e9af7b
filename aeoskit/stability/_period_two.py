"""The orbit of period two that an update map has past the edge of stability."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Bool, Float, Int, PyTree

from aeoskit.linalg import tree_dtype

from ._update_map import HeldMap, Leaves, check_pair

# Two points count as two where they are further apart than this many tolerances.
_APART = 30.0


class PeriodTwoOrbit(eqx.Module):
    """Two points that an update map takes to each other, if there are two.

    Attributes:
        first: one of them, `(params, state)`, held leaves as they were.
        second: the point that one step takes it to.
        center: the mean of the two params.
        amplitude: half of the distance between the two params, in their Euclidean norm.
        residual: distance of the params from those two steps later.
        converged: whether the solver met its tolerance, and two steps lead back within thirty
            times that.
        is_orbit: `converged`, and the two points are two: they are apart by more than thirty
            times what the tolerance and the residual could hide. False at a fixed point.
        steps: iterations of the solver.
        result: optimistix's.

    Example:
        >>> flip = lambda params, state: (-params, state)
        >>> orbit = period_two_orbit(flip, (jnp.array([3.0, 4.0]), ()))
        >>> bool(orbit.is_orbit), float(orbit.amplitude), orbit.center.tolist()
        (True, 5.0, [0.0, 0.0])
    """

    first: PyTree
    second: PyTree
    center: PyTree
    amplitude: Float[Array, ""]
    residual: Float[Array, ""]
    converged: Bool[Array, ""]
    is_orbit: Bool[Array, ""]
    steps: Int[Array, ""]
    result: optx.RESULTS


def _twice(point: Leaves, held: HeldMap) -> Leaves:
    return held(held(point))


def _distance(held: HeldMap, a: Leaves, b: Leaves) -> Array:
    """Between the params of two points."""
    dtype = tree_dtype(a)
    parts = [
        jnp.sum(jnp.square(x.astype(dtype) - y.astype(dtype)))
        for x, y, is_param in zip(a, b, held.is_param, strict=True)
        if is_param
    ]
    return jnp.sqrt(jnp.sum(jnp.stack(parts)))


@eqx.filter_jit
def _solve(held: HeldMap, solver: Any, begin: Leaves, max_steps: int) -> PeriodTwoOrbit:
    solution = optx.fixed_point(_twice, solver, begin, args=held, max_steps=max_steps, throw=False)
    first: Leaves = solution.value
    second = held(first)
    third = held(second)
    residual = _distance(held, first, third)
    apart = _distance(held, first, second)
    zero = tuple(jnp.zeros_like(x) for x in first)
    size = _distance(held, first, zero)
    tolerance = solver.rtol * size + solver.atol
    converged = (solution.result == optx.RESULTS.successful) & (residual <= _APART * tolerance)
    center = tuple(x / 2 + y / 2 for x, y in zip(first, second, strict=True))
    return PeriodTwoOrbit(
        first=held.at(first),
        second=held.at(second),
        center=held.at(center)[0],
        amplitude=apart / 2,
        residual=residual,
        converged=converged,
        is_orbit=converged & (apart > _APART * (tolerance + residual)),
        steps=jnp.asarray(solution.stats["num_steps"], jnp.int32),
        result=solution.result,
    )


def period_two_orbit(
    update_map: Any,
    state: Any,
    *,
    args: tuple[Any, ...] = (),
    hold: Any = None,
    displacement: Any = None,
    solver: Any = None,
    max_steps: int = 10_000,
) -> PeriodTwoOrbit:
    """The orbit of period two of an update map near a point, as a fixed point of the map twice.

    Past the edge, where the flip multiplier is under -1, a step may settle into an oscillation
    between two points (gradient descent on a loss that grows less than quadratically), or blow up.
    Of a network in training the orbit drifts with the rest, so that there often is none.

    Costs two steps of the map an iteration. By default the map is iterated (`optimistix.
    FixedPointIteration`), which finds orbits that attract; `optimistix.Newton` finds others, and
    takes a dense Jacobian unless its linear solver is an iterative one.

    Args:
        update_map: one step, `(params, state, *args) -> (params, state)`.
        state: the pair `(params, state)` to begin at.
        args: more arguments of the map.
        hold: leaves to hold, as in `flip_multiplier`; integers, booleans and keys always are.
        displacement: what to add to the point first, as from a fixed point nothing moves: a pair
            of trees, such as the real part of `Multipliers.vector` times a small number; None
            leaves do not move. None for none.
        solver: an optimistix fixed-point solver or root finder, with `rtol` and `atol`. By
            default `FixedPointIteration` with the 0.7th power of the format's epsilon for both.
        max_steps: how many iterations at most.

    Returns:
        A `PeriodTwoOrbit`: look at `is_orbit` first, since a fixed point is one of the map twice.

    Raises:
        TypeError: as `flip_multiplier`.
        ValueError: as `flip_multiplier`, and for a displacement of another structure.

    Example:
        >>> def step(x, state):  # gradient descent on 1.1 x² - x⁴ / 4
        ...     return x - (2.2 * x - x**3), state
        >>> orbit = period_two_orbit(step, (jnp.asarray(0.1), ()))
        >>> bool(orbit.is_orbit), round(float(orbit.amplitude) ** 2, 4)  # 2.2 - 2
        (True, 0.2)
    """
    held = HeldMap(update_map, *check_pair("period_two_orbit", state), args, hold)
    begin = held.point
    if displacement is not None:
        moves = check_pair("displacement", displacement)
        named = jax.tree_util.tree_leaves_with_path({"params": moves[0], "state": moves[1]})
        by = {jax.tree_util.keystr(p, simple=True, separator="/"): x for p, x in named}
        for name, x in zip(held.names, begin, strict=True):
            if name in by and jnp.shape(by[name]) != x.shape:
                raise ValueError(
                    f"displacement of {name} has shape {jnp.shape(by[name])}, but the leaf has "
                    f"{x.shape}: pass a pair of trees like (params, state)."
                )
        begin = tuple(
            x + jnp.real(jnp.asarray(by[name])).astype(x.dtype) if name in by else x
            for name, x in zip(held.names, begin, strict=True)
        )
    if solver is None:
        tolerance = float(jnp.finfo(tree_dtype(begin)).eps) ** 0.7
        solver = optx.FixedPointIteration(rtol=tolerance, atol=tolerance)
    return _solve(held, solver, begin, max_steps)
