"""Checks products against differences of the gradient that trains, and their symmetry."""

from __future__ import annotations

import dataclasses
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import PyTree

from aeoskit.linalg import tree_dot, tree_norm, tree_random_like, tree_size

from . import _fields
from ._accumulate import num_examples
from ._anatomy import Anatomy, loss_anatomy
from ._checks import check_deterministic
from ._differences import Comparison, compare_derivative, directions, is_traced
from ._kinds import loss_kind

# The number of examples that a check takes.
_FEW = 32
# The number of pairs of random vectors, and the largest difference of their products, in units of
# that of a random matrix of the same norm: above the rounding of differences, below what they miss.
_PAIRS = 4
_SYMMETRIC = 0.02
_checked: set[Any] = set()


class _Batch(eqx.Module):
    """A batch of an objective as one: what `_fields` needs to know of it."""

    loss: Any
    data: PyTree
    product: Literal["forward", "reverse", "difference"] = eqx.field(static=True)
    symmetric: bool = eqx.field(static=True)
    microbatch: None = eqx.field(static=True, default=None)
    placement: None = eqx.field(static=True, default=None)


class _Gradient(eqx.Module):
    batch: _Batch

    def __call__(self, point: PyTree) -> PyTree:
        return _fields.value_and_gradient(self.batch, point)[1]


class _Value(eqx.Module):
    batch: _Batch

    def __call__(self, point: PyTree) -> Any:
        return _fields.value(self.batch, point)


@eqx.filter_jit
def _product(batch: _Batch, params: PyTree, vector: PyTree) -> PyTree:
    return _fields.product(_fields.gradient_field(), batch, params, vector)


@eqx.filter_jit
def _gradient(batch: _Batch, params: PyTree) -> PyTree:
    return _fields.value_and_gradient(batch, params)[1]


@eqx.filter_jit
def _finite(batch: _Batch, params: PyTree) -> Any:
    sound = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(_gradient(batch, params))]
    return jnp.all(jnp.stack(sound))


def _shapes(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def _head(objective: Any) -> PyTree:
    """The examples that the loss is given at a time."""
    data, n = objective.data, num_examples(objective.data)
    if n == 0:
        return objective.tail
    return jax.tree.map(lambda x: x[: min(objective.microbatch or n, n)], data)


def _batch(objective: Any, params: PyTree) -> _Batch:
    """A few examples, if the loss takes fewer than all and has a gradient there."""
    head = _head(objective)
    size = num_examples(head)

    def of(data: PyTree) -> _Batch:
        return _Batch(objective.loss, data, objective.product, objective.symmetric)

    few = min(_FEW, size)
    if few == size:
        return of(head)
    part = jax.tree.map(lambda x: x[:few], head)
    try:
        kind = loss_kind(jax.eval_shape(objective.loss, params, _shapes(part)), few)
        sound = kind == objective.kind(params) and bool(_finite(of(part), params))
    except Exception:  # a loss of one batch size only: what it raises is its own
        sound = False
    return of(part if sound else head)


def check_product(objective: Any, params: PyTree) -> None:
    """Refuses an objective whose products are not what differences of gradients are.

    Raises:
        ValueError: they are not; or there are no such products.
    """
    if is_traced((objective, params)) or objective.product == "difference":
        return
    whole = loss_anatomy(objective, params)
    if objective.product == "forward" and not (whole.hiding or whole.narrow):
        return  # jax's own derivatives of its own functions: nothing can be hidden in them
    batch = _batch(objective, params)
    seen = loss_anatomy(batch, params)
    direction = directions(params)
    image = _product(batch, params, direction)
    gradient = _Gradient(batch)
    found = compare_derivative(gradient, params, direction, image)
    off = np.asarray(found.differs(seen.kinks))
    if off.any() and objective.product == "reverse":
        # A Jacobian that is not symmetric is the transpose of what one reverse pass makes.
        image = _product(dataclasses.replace(batch, symmetric=False), params, direction)
        off = np.asarray(compare_derivative(gradient, params, direction, image).differs(seen.kinks))
    if off.any():
        _refuse(objective, params, found, off, seen)


def _refuse(
    objective: Any, params: PyTree, found: Comparison, off: np.ndarray, seen: Anatomy
) -> None:
    paths = [jax.tree_util.keystr(p) for p, _ in jax.tree_util.tree_leaves_with_path(params)]
    shares = np.where(off, np.asarray(found.shares()), 0)
    worst = int(np.argmax(shares))
    others = int(off.sum()) - 1
    leaves = "1 other leaf" if others == 1 else f"{others} other leaves"
    where = f"params{paths[worst]}" + (f" and {leaves}" if others else "")
    # Two digits, and no power of ten.
    percent = np.format_float_positional(100 * shares[worst], 2, fractional=False, trim="-")
    names = ", ".join(sorted(seen.hiding))
    because = f" (it has {names} in it)" if names else ""
    raise ValueError(
        f"the {objective.product} derivative of the gradient is not what the gradient does: at "
        f"{where} they differ by {percent} %, so that something in the loss hides "
        f'a part of its derivative{because}; make the objective with product="difference" for '
        "the Jacobian of the field that trains, or take out what hides it"
    )


def has_symmetric_jacobian(objective: Any, params: PyTree) -> bool:
    """Asks whether the Jacobian of the field that trains is symmetric.

    It is if the field is the gradient of the loss, or if `<u, J v>` and `<v, J u>` agree for random
    u and v (as where `stop_gradient` scales a field). False for traced arguments, which have no
    values to try.
    """
    if is_traced((objective, params)):
        return False
    batch = _batch(objective, params)
    return _is_gradient(batch, params) or _commutes(batch, params)


def _is_gradient(batch: _Batch, params: PyTree) -> bool:
    """True if the loss changes as its gradient predicts, along two directions."""
    kinks = loss_anatomy(batch, params).kinks
    slope = _gradient(batch, params)
    for number in range(2):
        direction = directions(params, number)
        if number:
            sizes = jax.tree.map(lambda t: jnp.sqrt(jnp.mean(jnp.square(t))), direction)
            direction = jax.tree.map(
                lambda g, s: (s * g / jnp.maximum(jnp.sqrt(jnp.mean(g * g)), 1e-30)).astype(
                    g.dtype
                ),
                slope,
                sizes,
            )
        image = tree_dot(slope, direction)
        found = compare_derivative(_Value(batch), params, direction, image)
        if bool(found.differs(kinks)[0]):
            return False
    return True


def _commutes(batch: _Batch, params: PyTree) -> bool:
    plain = dataclasses.replace(batch, symmetric=False)
    for number in range(_PAIRS):
        u, v = (tree_random_like(jax.random.key(2 * number + i), params) for i in range(2))
        image_u, image_v = (_product(plain, params, x) for x in (u, v))
        gap = abs(float(tree_dot(u, image_v) - tree_dot(v, image_u)))
        size = float(tree_norm(u) * tree_norm(image_v) + tree_norm(v) * tree_norm(image_u))
        if not 2 * gap * tree_size(_shapes(params)) ** 0.5 <= _SYMMETRIC * size:
            return False
    return True


def check_hidden(objective: Any, params: PyTree) -> None:
    """`check_product` once for each loss and shapes, where the loss may hide something.

    Of traced values nothing can be compared.

    Raises:
        ValueError: as `check_product`; or two traces of the loss differ.
    """
    if is_traced((objective, params)) or num_examples(_head(objective)) == 0:
        return
    leaves, treedef = jax.tree.flatten((objective, params))
    key = (treedef, tuple((x.shape, x.dtype) for x in leaves))
    if key in _checked:
        return
    check_deterministic(objective, params, _head(objective))
    if loss_anatomy(objective, params).hiding:
        check_product(objective, params)
    if len(_checked) >= 1024:
        _checked.clear()
    _checked.add(key)
