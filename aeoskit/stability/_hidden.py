"""Is the derivative of an update map what its steps do? A random direction of the params tells."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool

from aeoskit.objective import anatomy, compare_derivative, directions

from ._probe import Probe
from ._update_map import HeldMap, Leaves

_checked: set[Any] = set()


class _Change(eqx.Module):
    """By how much a step moves the leaves: next to what they are it may be small."""

    map: HeldMap

    def __call__(self, moved: Leaves) -> Leaves:
        return jax.tree.map(jnp.subtract, self.map(moved), moved)


@eqx.filter_jit
def _tangents(held: HeldMap) -> tuple[Leaves, Leaves]:
    tangent = tuple(
        t if ours else jnp.zeros_like(t)
        for t, ours in zip(directions(held.point), held.of_params, strict=True)
    )
    return tangent, jax.jvp(_Change(held), (held.point,), (tangent,))[1]


def _compared(seen: Probe) -> Any:
    tangent, image = _tangents(seen.map)
    return compare_derivative(_Change(seen.map), seen.map.point, tangent, image, seen.alive)


def hides_derivative(held: HeldMap, seen: Probe) -> Bool[Array, ""]:
    """Whether the map's derivative is another one than that of its steps; eager calls raise.

    A map that computes with an objective is looked at only where its loss may hide something.
    Outside of transformations it is compared once for each map and shapes: a derivative and
    eleven steps.

    Args:
        held: the map and the point.
        seen: what was found of it.

    Returns:
        A boolean, false for what was not looked at.

    Raises:
        ValueError: it is, and the call is eager.
    """
    none = jnp.zeros((), bool)
    if not held.may_hide:
        return none
    leaves, treedef = jax.tree.flatten(held)
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((held, seen))):
        return jnp.any(_compared(seen).differs(anatomy(held, held.point).kinks))
    key = (treedef, tuple((x.shape, x.dtype) for x in leaves))
    if key in _checked:
        return none
    found = _compared(seen)
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
