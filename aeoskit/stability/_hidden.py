"""Checks the derivative of an update map against its steps, along a random direction."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool

from aeoskit.objective import anatomy, compare_derivative, directions

from ._analysis import MapAnalysis
from ._update_map import HeldMap, Leaves

_checked: set[Any] = set()


class _Change(eqx.Module):
    """The change of the leaves by a step, which may be small beside them."""

    map: HeldMap

    def __call__(self, moved: Leaves) -> Leaves:
        return jax.tree.map(jnp.subtract, self.map(moved), moved)


@eqx.filter_jit
def _tangents(held: HeldMap) -> tuple[Leaves, Leaves]:
    tangent = tuple(
        t if is_param else jnp.zeros_like(t)
        for t, is_param in zip(directions(held.point), held.is_param, strict=True)
    )
    return tangent, jax.jvp(_Change(held), (held.point,), (tangent,))[1]


def _compared(analysis: MapAnalysis) -> Any:
    tangent, image = _tangents(analysis.map)
    return compare_derivative(
        _Change(analysis.map), analysis.map.point, tangent, image, analysis.alive
    )


def hides_derivative(held: HeldMap, analysis: MapAnalysis) -> Bool[Array, ""]:
    """True if the map's derivative differs from that of its steps; eager calls raise.

    A map that computes with an objective is looked at only where its loss may hide something.
    Outside of transformations it is compared once for each map and shapes: a derivative and
    eleven steps.

    Args:
        held: the map and the point.
        analysis: what was found of it.

    Returns:
        A boolean, false for what was not looked at.

    Raises:
        ValueError: it is, and the call is eager.
    """
    none = jnp.zeros((), bool)
    if not held.may_hide:
        return none
    leaves, treedef = jax.tree.flatten(held)
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((held, analysis))):
        return jnp.any(_compared(analysis).differs(anatomy(held, held.point).kinks))
    key = (treedef, tuple((x.shape, x.dtype) for x in leaves))
    if key in _checked:
        return none
    found = _compared(analysis)
    off = np.asarray(found.differs())
    if off.any():
        off = np.asarray(found.differs(anatomy(held, held.point).kinks))
    if off.any():
        worst = int(np.argmax(np.where(off, np.asarray(found.shares()), 0)))
        others = int(off.sum()) - 1
        where = held.names[worst] + (f" and {others} other leaves" if others else "")
        share = float(found.shares()[worst])
        raise ValueError(
            f"the derivative of the update map is not what its steps do: at {where} they differ by "
            f"{100 * share:.2g} %, so that something hides a part of it (stop_gradient, a custom "
            'derivative); pass product="difference" for the multipliers of the steps themselves'
        )
    if len(_checked) >= 1024:
        _checked.clear()
    _checked.add(key)
    return none
