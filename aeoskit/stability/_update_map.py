"""An update map with some of its leaves held, and the Jacobian of it as a lineax operator.

A vector here is a tuple of the leaves that move, in the order of the leaves of
`{"params": params, "state": state}`: a user's containers may refuse what is no state of theirs.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Bool, Float, PyTree

from aeoskit.linalg import dense_matrix, restrict, tree_random_like, vector_structure
from aeoskit.linalg.extend import never, register_operator, structure_of
from aeoskit.objective import product_error, quotient, relative_step
from aeoskit.sharding import Placement, place_like

Leaves = tuple[Array, ...]
Reuse = Literal["linearize", "recompute"]
Product = Literal["forward", "difference"]
# In units of epsilon times the largest entry: products that differ by less are the same.
_SAME = 64.0


def _is_array(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array | np.ndarray | np.generic)


def _dtype(leaf: Any) -> Any:
    return leaf.dtype if isinstance(leaf, jax.Array) else np.asarray(leaf).dtype


def check_pair(name: str, state: Any) -> tuple[PyTree, PyTree]:
    """The `(params, state)` that the user gave, or a `ValueError`."""
    if not isinstance(state, tuple | list) or len(state) != 2:
        raise ValueError(
            f"{name}: the point is a {type(state).__name__}, not a pair: pass "
            "`(params, optimizer_state)`, with () for an update without state."
        )
    return state[0], state[1]


def _held_numbers(point: PyTree, hold: Any) -> set[int]:
    """The numbers of the leaves that `hold` names."""
    if hold is None:
        return set()
    leaves, treedef = jax.tree.flatten(point)
    if isinstance(hold, tuple) and not all(isinstance(h, str) for h in hold):
        if len(hold) != 2:
            raise ValueError(
                f"hold={hold!r} has {len(hold)} parts: a prefix of booleans is a pair, such as "
                "(False, True) for params that move and a state that does not."
            )
        if not any(jax.tree.leaves(hold)):
            return set()
        hold = {"params": hold[0], "state": hold[1]}
    elif isinstance(hold, str) and hold in ("params", "state") and not jax.tree.leaves(point[hold]):
        return set()
    numbers = jax.tree.unflatten(treedef, list(range(len(leaves))))
    try:
        return set(jax.tree.leaves(restrict(numbers, hold)))
    except ValueError as error:
        raise ValueError(
            f"hold={hold!r}: {error} Here the leaves are those of (params, state), and what is "
            'named is held fixed, as in hold="state/*/nu" or hold=lambda path: "nu" in path.'
        ) from error


class HeldMap(eqx.Module):
    """An update map as a function of the leaves that move; all others keep their values.

    Integer, boolean and key leaves never move, so that a step count does not count: the map is
    the one of the coming step, again and again.

    Args:
        update_map: `(params, state, *args) -> (params, state)`.
        params: the parameters.
        state: the optimizer's state.
        args: more arguments of the map.
        hold: which leaves are held, see `flip_multiplier`.

    Raises:
        TypeError: the map is no function, or a leaf that moves is complex.
        ValueError: nothing is left to move.
    """

    arrays: list[Array | None]
    # Functions and Python numbers; hashable, so that a call does not retrace.
    others: tuple[Any, ...] = eqx.field(static=True)
    treedef: Any = eqx.field(static=True)
    moving: tuple[int, ...] = eqx.field(static=True)
    paths: tuple[str, ...] = eqx.field(static=True)

    def __init__(
        self, update_map: Any, params: PyTree, state: PyTree, args: Any = (), hold: Any = None
    ):
        if not callable(update_map):
            raise TypeError(
                f"update_map is a {type(update_map).__name__}: pass the function of one step, "
                "`(params, state) -> (params, state)`."
            )
        point = {"params": params, "state": state}
        held = _held_numbers(point, hold)
        first = len(jax.tree.leaves((update_map, tuple(args))))
        leaves, self.treedef = jax.tree.flatten((update_map, tuple(args), point))
        self.arrays = [jnp.asarray(x) if _is_array(x) else None for x in leaves]
        self.others = tuple(None if _is_array(x) else x for x in leaves)
        named, moving = jax.tree_util.tree_leaves_with_path(point), []
        self.paths = tuple(jax.tree_util.keystr(p, simple=True, separator="/") for p, _ in named)
        for number, (path, (_, leaf)) in enumerate(zip(self.paths, named, strict=True)):
            if number in held or not _is_array(leaf):
                continue
            if jnp.issubdtype(_dtype(leaf), jnp.complexfloating):
                raise TypeError(
                    f"{path} is complex, and the Jacobian is taken over real leaves: hold it "
                    f'(hold="{path}"), or split it into its real and imaginary part.'
                )
            if jnp.issubdtype(_dtype(leaf), jnp.floating) and leaf.size:
                moving.append(first + number)
        if not any(self._path(i, first).startswith("params") for i in moving):
            raise ValueError(
                "no floating-point leaf of the parameters is left to move: there is no Jacobian "
                "to speak of; hold less."
            )
        self.moving = tuple(moving)

    def _path(self, number: int, first: int | None = None) -> str:
        first = len(self.arrays) - len(self.paths) if first is None else first
        return self.paths[number - first]

    @property
    def placement(self) -> Placement | None:
        """The update map's attribute `placement`, if it has one."""
        return getattr(self._tree()[0], "placement", None)

    @property
    def product(self) -> Product:
        """The kind of derivatives, from the map's attribute `product`; "forward" without one."""
        declared = getattr(self._tree()[0], "product", "forward")
        return declared if declared == "difference" else "forward"

    @property
    def may_hide(self) -> bool:
        """True unless the map's `may_hide` knows that nothing hides a part of the derivative."""
        return getattr(self._tree()[0], "may_hide", lambda params: True)(self.at(self.point)[0])

    @property
    def names(self) -> tuple[str, ...]:
        """The paths of the leaves that move."""
        return tuple(self._path(i) for i in self.moving)

    @property
    def is_param(self) -> tuple[bool, ...]:
        """For each leaf that moves, True if it is a parameter."""
        return tuple(name.partition("/")[0] == "params" for name in self.names)

    @property
    def point(self) -> Leaves:
        """The values of the leaves that move."""
        found = [self.arrays[i] for i in self.moving]
        return tuple(x for x in found if x is not None)

    def _tree(self, moved: Leaves | None = None) -> PyTree:
        leaves = [o if a is None else a for a, o in zip(self.arrays, self.others, strict=True)]
        for number, leaf in zip(self.moving, self.point if moved is None else moved, strict=True):
            leaves[number] = leaf
        return jax.tree.unflatten(self.treedef, leaves)

    def embed(self, vector: tuple[Any, ...]) -> tuple[PyTree, PyTree]:
        """The `(params, state)` with these leaves, and None for those that are held."""
        leaves: list[Any] = [None] * len(self.others)
        for number, leaf in zip(self.moving, vector, strict=True):
            leaves[number] = leaf
        point = jax.tree.unflatten(self.treedef, leaves)[2]
        return point["params"], point["state"]

    def at(self, moved: Leaves) -> tuple[PyTree, PyTree]:
        """The `(params, state)` with these leaves, and the others as they were."""
        point = self._tree(moved)[2]
        return point["params"], point["state"]

    def moved(self, leaves: Leaves) -> HeldMap:
        """The map at another point."""
        arrays = list(self.arrays)
        for number, leaf in zip(self.moving, leaves, strict=True):
            arrays[number] = leaf
        return eqx.tree_at(lambda m: m.arrays, self, arrays, is_leaf=lambda x: x is None)

    def __call__(self, moved: Leaves) -> Leaves:
        """The leaves that move, after one step."""
        update_map, args, point = self._tree(moved)
        new = update_map(point["params"], point["state"], *args)
        params, state = check_pair("what update_map returned", new)
        after = {"params": params, "state": state}
        found = jax.tree_util.tree_leaves_with_path(after)
        at = {jax.tree_util.keystr(p, simple=True, separator="/"): leaf for p, leaf in found}
        out = []
        for name, leaf in zip(self.names, moved, strict=True):
            if name not in at or jnp.shape(at[name]) != leaf.shape:
                got = f"shape {jnp.shape(at[name])}" if name in at else "no such leaf"
                raise ValueError(
                    f"update_map takes {name} of shape {leaf.shape} and returns {got}: it has to "
                    "return (params, state) of the structure that it takes."
                )
            out.append(jnp.asarray(at[name]).astype(leaf.dtype))
        return tuple(out)


def derivative(
    held: HeldMap, point: Leaves, tangent: Leaves, product: Product
) -> tuple[Leaves, Leaves]:
    """The map at a point, and its derivative along a tangent.

    By "difference" that in the parameters is a central difference of two steps; the optimizer's own
    derivative in its state is taken as it is, since no gradient of a loss is in it.
    """
    if product == "forward":
        return jax.jvp(held, (point,), (tangent,))

    def of_state(state: Leaves) -> Leaves:
        rest = iter(state)
        return held(
            tuple(
                x if is_param else next(rest)
                for x, is_param in zip(point, held.is_param, strict=True)
            )
        )

    def state(leaves: Leaves) -> Leaves:
        return tuple(x for x, is_param in zip(leaves, held.is_param, strict=True) if not is_param)

    def only(leaves: Leaves) -> Leaves:
        pairs = zip(leaves, held.is_param, strict=True)
        return tuple(x if is_param else jnp.zeros_like(x) for x, is_param in pairs)

    after, image = jax.jvp(of_state, (state(point),), (state(tangent),))
    along = only(tangent)
    by_params = quotient(held, point, along, relative_step(only(point), along))
    return after, jax.tree.map(jnp.add, image, by_params)


class MapJacobian(lx.AbstractLinearOperator):
    """`D⁻¹ J D`, J the Jacobian of an update map at its point: the eigenvalues of J.

    A product is one `jax.jvp` of the map; after `lineax.linearise`, one of its linearization.
    Coordinates that are not `alive` are taken out of J, and stand on the diagonal with `fill`.

    Args:
        map: the map and the point.
        scale: D, a positive array for each leaf that moves.
        alive: booleans of the same shapes.
        fill: the eigenvalue of coordinates that are not alive.
        reuse: "linearize", or "recompute" where a linearization would not fit into memory.
        linear: the linearization; `lineax.linearise` makes it.
        product: "forward", or "difference" for derivatives in the params by two steps.
    """

    map: HeldMap
    scale: tuple[Float[Array, ...], ...]
    alive: tuple[Bool[Array, ...], ...]
    fill: float = eqx.field(static=True, default=1.0)
    reuse: Reuse = eqx.field(static=True, default="linearize")
    linear: Callable[..., Leaves] | None = None
    product: Product = eqx.field(static=True, default="forward")

    def mv(self, vector: Leaves) -> Leaves:
        """`D⁻¹ J D v`: one derivative of the map."""
        point = self.map.point
        tangent = tuple(
            jnp.where(a, (d * v).astype(x.dtype), jnp.zeros((), x.dtype))
            for v, d, a, x in zip(vector, self.scale, self.alive, point, strict=True)
        )
        if self.linear is None:
            image = derivative(self.map, point, tangent, self.product)[1]
        else:
            image = self.linear(tangent)
        image = tuple(
            jnp.where(a, (y / d).astype(v.dtype), (self.fill * v).astype(v.dtype))
            for y, d, a, v in zip(image, self.scale, self.alive, vector, strict=True)
        )
        return place_like(image, vector_structure(self))

    def as_matrix(self) -> Float[Array, "n n"]:
        """The dense matrix (small maps only): a product a column."""
        return dense_matrix(self)

    def transpose(self) -> lx.AbstractLinearOperator:
        """`D Jᵀ D⁻¹`, for a map that JAX can differentiate in reverse."""
        return TransposedJacobian(self)

    def in_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        """The leaves that move."""
        return structure_of(self.map.point)

    def out_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        """The leaves that move."""
        return structure_of(self.map.point)


def _linearised(operator: MapJacobian) -> MapJacobian:
    if operator.reuse == "recompute" or operator.linear is not None:
        return operator
    if operator.product == "difference":
        return operator
    _, linear = jax.linearize(operator.map, operator.map.point)
    return eqx.tree_at(lambda o: o.linear, operator, linear, is_leaf=lambda x: x is None)


class TransposedJacobian(lx.AbstractLinearOperator):
    """`(D⁻¹ J D)ᵀ` of a `MapJacobian`, with the same coordinates taken out.

    **Infinite derivatives.** `0 ∞` in one coordinate is NaN in all that a transposed product sums
    it into. So the linearization is taken apart, and its coefficients that are not finite become
    zeros. A row that is alive has no share in them, or it would not be finite itself; `agrees`
    compares forward products all the same.

    Args:
        operator: the operator.
        linear: the linearization, with zeros for what is not finite; `lineax.linearise` makes it.
    """

    operator: MapJacobian
    linear: Callable[..., Leaves] | None = None

    def _finite_linear(self) -> Callable[..., Leaves]:
        if self.linear is not None:
            return self.linear
        _, linear = jax.linearize(self.operator.map, self.operator.map.point)
        return jax.tree.map(_finite, linear)

    def mv(self, vector: Leaves) -> Leaves:
        """`D Jᵀ D⁻¹ v`: one derivative of the map, in reverse."""
        inner = self.operator
        point = inner.map.point
        cotangent = tuple(
            jnp.where(a, (v / d).astype(x.dtype), jnp.zeros((), x.dtype))
            for v, d, a, x in zip(vector, inner.scale, inner.alive, point, strict=True)
        )
        (image,) = jax.linear_transpose(self._finite_linear(), point)(cotangent)
        return tuple(
            jnp.where(a, (d * y).astype(v.dtype), (inner.fill * v).astype(v.dtype))
            for y, d, a, v in zip(image, inner.scale, inner.alive, vector, strict=True)
        )

    def agrees(self) -> Bool[Array, ""]:
        """True if the finite coefficients alone make the same forward product."""
        inner, point = self.operator, self.operator.map.point
        _, linear = jax.linearize(inner.map, point)
        random_tangent = tree_random_like(jax.random.key(1), point)
        tangent = tuple(
            jnp.where(a, (d * t).astype(x.dtype), jnp.zeros((), x.dtype))
            for t, d, a, x in zip(random_tangent, inner.scale, inner.alive, point, strict=True)
        )

        def compare() -> Array:
            same = []
            images = linear(tangent), jax.tree.map(_finite, linear)(tangent)
            for x, y, a in zip(*images, inner.alive, strict=True):
                far = jnp.where(a, jnp.abs(x - y), 0)
                size = jnp.max(jnp.where(a, jnp.abs(x), 0))
                same.append(jnp.all(far <= _SAME * jnp.finfo(x.dtype).eps * size))
            return jnp.all(jnp.stack(same))

        sound = [
            jnp.all(jnp.isfinite(x))
            for x in jax.tree.leaves(linear)
            if jnp.issubdtype(x.dtype, jnp.inexact)
        ]
        whole = jnp.all(jnp.stack(sound)) if sound else jnp.asarray(True)
        return jax.lax.cond(whole, lambda: jnp.asarray(True), compare)

    def as_matrix(self) -> Float[Array, "n n"]:
        """The dense matrix (small maps only): a product a column."""
        return dense_matrix(self)

    def transpose(self) -> lx.AbstractLinearOperator:
        """The operator itself."""
        return self.operator

    def in_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        """The leaves that move."""
        return self.operator.in_structure()

    def out_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        """The leaves that move."""
        return self.operator.in_structure()


def _finite(x: Any) -> Any:
    if not _is_array(x) or not jnp.issubdtype(x.dtype, jnp.inexact):
        return x
    return jnp.where(jnp.isfinite(x), x, jnp.zeros((), x.dtype))


def _transpose_linearised(operator: TransposedJacobian) -> TransposedJacobian:
    if operator.operator.reuse == "recompute" or operator.linear is not None:
        return operator
    linear = operator._finite_linear()
    return eqx.tree_at(lambda o: o.linear, operator, linear, is_leaf=lambda x: x is None)


register_operator(MapJacobian, linearise=_linearised, symmetric=never)
register_operator(TransposedJacobian, linearise=_transpose_linearised, symmetric=never)


@vector_structure.register(MapJacobian)
def _(operator: MapJacobian) -> PyTree[jax.ShapeDtypeStruct]:
    structure, placement = operator.in_structure(), operator.map.placement
    return structure if placement is None else placement.basis_structure(structure)


@product_error.register(MapJacobian)
def _(operator: MapJacobian, vector: Leaves) -> Leaves | None:
    """The difference between the central differences of one step and of two."""
    if operator.product == "forward":
        return None
    held, parts = operator.map, (vector, operator.scale, operator.alive, operator.map.is_param)
    along = tuple(
        jnp.where(a & is_param, (d * v).astype(x.dtype), 0).astype(x.dtype)
        for v, d, a, is_param, x in zip(*parts, held.point, strict=True)
    )
    own = tuple(
        x if is_param else jnp.zeros_like(x)
        for x, is_param in zip(held.point, held.is_param, strict=True)
    )
    h = relative_step(own, along)
    near, far = (quotient(held, held.point, along, step) for step in (h, 2 * h))
    return tuple(
        jnp.where(a, ((x - y) / d).astype(v.dtype), jnp.zeros((), v.dtype))
        for x, y, v, d, a in zip(near, far, vector, operator.scale, operator.alive, strict=True)
    )
