"""Left eigenvectors of an update map: condition numbers, and warm starts of both solves."""

from __future__ import annotations

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Complex, Float

from aeoskit.linalg import EigenSolution, eigensolve
from aeoskit.linalg.extend import Start, as_start, leafwise, structure_of, widen

from ._analysis import MapAnalysis
from ._update_map import MapJacobian, TransposedJacobian

# A left and a right value this near to each other, in units of the value (1 for small ones), count
# as one eigenvalue. It need not be narrow: with `ρ` and `ρ'` their residuals, `|θ - θ'|` times the
# overlap is at most `ρ + ρ'`, so that for two eigenvalues taken for one `bound` is about their
# distance.
_NEAR = 0.1


class TwoSidedMemory(eqx.Module):
    """The memory of both solves, beside the right vectors."""

    right: Any
    left: Start


class LeftSolution(eqx.Module):
    """The results of the transposed solve for each value."""

    value: Complex[Array, " k"]
    condition: Float[Array, " k"]
    found: Bool[Array, " k"]


def _products(x: Any, y: Any) -> Complex[Array, "k k"]:
    """`x_i · y_j`, without conjugation, summed leaf by leaf."""
    total: Any = 0
    for a, b in zip(x, y, strict=True):
        axes = tuple(range(1, a.ndim))
        total = total + jnp.tensordot(a, b, (axes, axes), precision=jax.lax.Precision.HIGHEST)
    return total


def left_conditions(
    right: EigenSolution, left: EigenSolution, usable: Bool[Array, ""]
) -> LeftSolution:
    """The condition numbers `‖y‖ ‖x‖ / |yᴴx|` of the right solution's values.

    The left vectors are first made biorthogonal to the right ones, which for distinct values they
    are, and which takes copies of one value apart as the right vectors have them.

    Args:
        right: of the operator.
        left: of its transpose, for as many values.
        usable: whether the transpose is that of the operator.

    Returns:
        `LeftSolution`; `found` where the left solve has converged to the same value.
    """
    x, z = right.vectors, left.vectors
    overlap = _products(z, x)
    gram = _products(z, tuple(leaf.conj() for leaf in z))
    inverse = 1 / overlap if overlap.size == 1 else jnp.linalg.inv(overlap)
    squares = jnp.diagonal(inverse @ gram @ inverse.conj().T).real
    lengths = jnp.diagonal(_products(x, tuple(leaf.conj() for leaf in x))).real
    condition = jnp.sqrt(jnp.maximum(squares * lengths, 1))
    distance = jnp.abs(right.values[:, None] - left.values[None, :])
    nearest = jnp.argmin(jnp.where(jnp.isfinite(distance), distance, jnp.inf), axis=1)
    off = jnp.abs(right.values - left.values[nearest])
    near = off <= _NEAR * jnp.maximum(jnp.abs(right.values), 1)
    found = near & left.converged[nearest] & jnp.isfinite(condition) & usable
    return LeftSolution(value=left.values[nearest], condition=condition, found=found)


def _finite(x: Array) -> Array:
    return jnp.where(jnp.isfinite(x), x, 0)


def solve_left(
    operator: MapJacobian,
    analysis: MapAnalysis,
    right: EigenSolution,
    start: Any,
    solver: Any,
    options: Any,
) -> tuple[TransposedJacobian | None, EigenSolution | None]:
    """The transposed operator and its solution; None for a map without a derivative in reverse.

    Args:
        operator: the operator.
        analysis: the probe.
        right: its solution.
        start: as the user gave it.
        solver: of both.
        options: more arguments of `eigensolve`.
    """
    transposed = TransposedJacobian(operator)
    begin = left_start(start, analysis, right)
    try:
        return transposed, eigensolve(transposed, solver, start=begin, **options)
    except (ValueError, TypeError, NotImplementedError):
        # JAX raises while it traces (a while loop has no transpose); other errors are not hidden.
        if _has_transpose(transposed):
            raise
        return None, None


def _has_transpose(transposed: TransposedJacobian) -> bool:
    try:
        jax.eval_shape(transposed.mv, transposed.in_structure())
    except (ValueError, TypeError, NotImplementedError):
        return False
    return True


def _rescaled(start: Start, analysis: MapAnalysis, multiply: bool) -> Start:
    """Its vectors times D, or divided by it; nothing in coordinates that are not alive."""
    start = leafwise(start, widen(structure_of(analysis.map.point)))
    if start.block is None:
        return start
    block = tuple(
        _finite(jnp.where(a[None], b * d[None] if multiply else b / d[None], 0)).astype(b.dtype)
        for b, d, a in zip(start.block, analysis.scale, analysis.alive, strict=True)
    )
    return dataclasses.replace(start, block=block)


def right_start(start: Any, analysis: MapAnalysis) -> Any:
    """The start of the solve; states are in users' coordinates, as D changes with each step."""
    if not isinstance(start, Start):
        return start
    start = as_start(start, widen(structure_of(analysis.map.point)))
    own = start.memory.right if isinstance(start.memory, TwoSidedMemory) else start.memory
    return _rescaled(dataclasses.replace(start, memory=own), analysis, multiply=False)


def left_start(start: Any, analysis: MapAnalysis, right: Any) -> Any:
    """The start of the transposed solve: the end of the last one, or the right vectors."""
    if isinstance(start, Start) and isinstance(start.memory, TwoSidedMemory):
        left = as_start(start.memory.left, widen(structure_of(analysis.map.point)))
        return _rescaled(left, analysis, multiply=True)
    parts = tuple(jnp.concatenate([v.real, v.imag]) for v in right.vectors)
    return tuple(_finite(v) for v in parts)


def warm_start(right: EigenSolution, left: EigenSolution | None, analysis: MapAnalysis) -> Start:
    """The state of both solves in the users' coordinates, the left one in `memory`."""
    state = _rescaled(right.state, analysis, multiply=True)
    if left is None:
        return state
    memory = TwoSidedMemory(
        right=state.memory, left=_rescaled(left.state, analysis, multiply=False)
    )
    return dataclasses.replace(state, memory=memory)
