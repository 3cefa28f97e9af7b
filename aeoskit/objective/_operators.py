"""Curvature of an objective, as lineax operators of our own."""

import abc
import dataclasses
import functools
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, Float, PyTree

from aeoskit._paths import check_like
from aeoskit.linalg import vector_structure
from aeoskit.linalg.extend import always, identity, register_operator

from . import _fields, _gauss_newton
from ._abstract import AbstractObjective
from ._finite import one_or_nan, scale_by, with_factor


def _structure(tree: PyTree) -> PyTree[jax.ShapeDtypeStruct]:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


@eqx.filter_jit
def _apply(operator: Any, vector: PyTree) -> PyTree:
    return operator._product(vector)


@eqx.filter_jit
def _factor(operator: Any) -> Array:
    """1, or NaN where the loss or, of a Hessian, its gradient are not finite."""
    objective, params = jax.tree.map(
        lambda x: jax.lax.stop_gradient(x) if eqx.is_inexact_array(x) else x,
        (operator.objective, operator.params),
    )
    # A Gauss-Newton product goes through the model in reverse as a gradient does, and an output
    # loss that knows its Hessian need not have a derivative.
    hessian = isinstance(operator, HessianOperator)
    seen = _fields.value_and_gradient if hessian else _fields.value
    return one_or_nan(seen(objective, params))


def _linear_map(operator: Any) -> Any:
    return operator._linearized()


_linear = eqx.filter_jit(_linear_map)


@eqx.filter_jit
def _as_matrix(operator: Any) -> Array:
    """The dense matrix, a product per column, in the order of the leaves."""
    leaves, treedef = jax.tree.flatten(operator.in_structure())
    ends = np.cumsum([0, *(leaf.size for leaf in leaves)])

    def column(index: Array) -> Array:
        basis = [
            (jnp.arange(start, start + leaf.size) == index).astype(leaf.dtype).reshape(leaf.shape)
            for start, leaf in zip(ends[:-1], leaves, strict=True)
        ]
        image = operator._product(jax.tree.unflatten(treedef, basis))
        return jnp.concatenate([jnp.reshape(x, (-1,)) for x in jax.tree.leaves(image)])

    # A few columns at a time: all at once would multiply the memory by the dimension.
    size = int(ends[-1])
    return jax.lax.map(column, jnp.arange(size), batch_size=min(size, 16)).T


class _AbstractCurvatureOperator(lx.AbstractLinearOperator):
    """A curvature matrix of an objective: compiled products, and what is made of them."""

    @abc.abstractmethod
    def _product(self, vector: PyTree) -> PyTree:
        """The product, as a part of a program."""

    def mv(self, vector: PyTree) -> PyTree:
        """The product with a vector."""
        who = ("the point", "has", "have")
        check_like("vector", vector, self.in_structure(), who, "pass a vector like the parameters")
        return _apply(self, vector)

    def as_matrix(self) -> Float[Array, "size size"]:
        """The dense matrix; costs a product per parameter."""
        return _as_matrix(self)

    def transpose(self) -> lx.AbstractLinearOperator:
        """Itself: the matrix is symmetric.

        Raises:
            ValueError: it is the Jacobian of a field that is no gradient.
        """
        if not lx.is_symmetric(self):
            raise ValueError(
                "the field that trains is not the gradient of its loss, and products with the "
                "transpose of its Jacobian are not made: use a solver that needs none, "
                "aeoskit.linalg.Arnoldi()"
            )
        return self

    def out_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        """The structure of the parameters."""
        return self.in_structure()


class HessianOperator(_AbstractCurvatureOperator):
    """The Hessian `∇²L(w)` of an objective: symmetric, matrix-free, with `params` as leaves.

    A product, of two to three gradients' cost, runs the primal pass again, by forward-over-reverse
    differentiation of one microbatch after the other. `lineax.linearise` runs it once for many
    products (`Objective(reuse=...)`). `Objective(product=...)` has other ways. Where the objective
    is not `symmetric`, it is the Jacobian of the field that trains, and not tagged symmetric.

    Args:
        objective: the objective; its data are leaves.
        params: the parameters `w`.
        factor: what products are multiplied by, 1 or NaN; `lineax.linearise` finds it out.
        linearized: itself, where `Objective.linearize` has made that already.

    Example:
        >>> import jax.numpy as jnp, lineax as lx
        >>> from aeoskit.objective import Objective
        >>> objective = Objective(lambda w, x: jnp.mean(x) * jnp.sum(w**4), jnp.ones(5))
        >>> hessian = objective.hessian(jnp.array([1.0, 2.0]))
        >>> hessian.mv(jnp.array([1.0, 1.0]))
        Array([12., 48.], dtype=float32)
        >>> lx.is_symmetric(hessian)
        True
    """

    objective: AbstractObjective
    params: PyTree
    # NaN where the loss or its gradient is not finite; None before it is computed.
    factor: Float[Array, ""] | None = None
    linearized: "LinearizedOperator | None" = None

    def _product(self, vector: PyTree) -> PyTree:
        if self.linearized is not None:
            return self.linearized._product(vector)
        field = _fields.gradient_field()
        return scale_by(self.factor, _fields.product(field, self.objective, self.params, vector))

    def _linearized(self) -> Any:
        return _fields.linearize(self.objective, self.params)[2]

    def in_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        """The structure of the parameters."""
        return _structure(self.params)


class GaussNewtonOperator(_AbstractCurvatureOperator):
    """The generalized Gauss-Newton matrix `JᵀHJ` of an objective made by `Objective.from_model`.

    `J` is the Jacobian of the outputs in the parameters, `H` the Hessian of the output loss in the
    outputs, and a product is a jvp of the model, a product with `H`, a vjp of the model, together
    about one and a half gradients. It is positive semidefinite where the output loss is convex in
    the outputs.

    Source: Schraudolph, *Fast curvature matrix-vector products* (2002).

    Args:
        objective: the objective; its data are leaves.
        params: the parameters `w`.
        factor: what products are multiplied by, 1 or NaN; `lineax.linearise` finds it out.

    Example:
        >>> import jax.numpy as jnp, lineax as lx
        >>> from aeoskit.objective import Objective
        >>> data = (jnp.array([1.0, 2.0]), jnp.zeros(2))
        >>> objective = Objective.from_model(
        ...     lambda w, x: x * w**2, lambda f, y: 0.5 * (f - y) ** 2, data)
        >>> operator = objective.gauss_newton(jnp.array(1.0))
        >>> operator.mv(jnp.array(1.0))  # the mean of (2 x)²
        Array(10., dtype=float32)
        >>> lx.is_positive_semidefinite(operator)
        True
    """

    objective: AbstractObjective
    params: PyTree
    # NaN where the loss or its gradient is not finite; None before it is computed.
    factor: Float[Array, ""] | None = None

    def _product(self, vector: PyTree) -> PyTree:
        return scale_by(self.factor, _gauss_newton.product(self.objective, self.params, vector))

    def _linearized(self) -> Any:
        return with_factor(_factor(self), _gauss_newton.linearize(self.objective, self.params))

    def in_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        """The structure of the parameters."""
        return _structure(self.params)


class LinearizedOperator(_AbstractCurvatureOperator):
    """A curvature operator whose primal pass is behind it: `lineax.linearise` makes it.

    Its leaves are the residuals of the linearization, so that it can leave one compiled program and
    enter another. A product costs about two gradients (of a Gauss-Newton matrix, one).

    Args:
        linear: the linear map, a pytree (`jax.linearize` returns one).
        structure: the structure of its vectors; with shardings on a mesh.
        positive_semidefinite: whether it is.
        symmetric: whether it is.

    Example:
        >>> import jax.numpy as jnp, lineax as lx
        >>> from aeoskit.objective import Objective
        >>> objective = Objective(lambda w, x: jnp.mean(x) * jnp.sum(w**4), jnp.ones(5))
        >>> linearized = lx.linearise(objective.hessian(jnp.array([1.0, 2.0])))
        >>> type(linearized).__name__, linearized.mv(jnp.array([1.0, 1.0])).tolist()
        ('LinearizedOperator', [12.0, 48.0])
    """

    linear: PyTree
    structure: Any = eqx.field(static=True)
    positive_semidefinite: bool = eqx.field(static=True)
    symmetric: bool = eqx.field(static=True)

    def __init__(
        self,
        linear: PyTree,
        structure: PyTree,
        positive_semidefinite: bool,
        symmetric: bool = True,
    ):
        leaves, treedef = jax.tree.flatten(structure)
        self.linear = linear
        self.structure = (tuple(leaves), treedef)
        self.positive_semidefinite = positive_semidefinite
        self.symmetric = symmetric

    def _product(self, vector: PyTree) -> PyTree:
        return self.linear(vector)

    def in_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        """The structure of the parameters."""
        leaves, treedef = self.structure
        return _structure(jax.tree.unflatten(treedef, leaves))


@functools.lru_cache(maxsize=256)
def residual_bytes(treedef: Any, shapes: tuple[Any, ...]) -> int:
    """Bytes that a linearization would hold on a device, over all microbatches: shapes alone."""
    operator = jax.tree.unflatten(treedef, [jax.ShapeDtypeStruct(*shape) for shape in shapes])
    leaves = jax.tree.leaves(jax.eval_shape(_linear_map, operator))
    total = sum(leaf.size * jnp.dtype(leaf.dtype).itemsize for leaf in leaves)
    # Of a sum over shards each device holds its own.
    placement = operator.objective.placement
    return total if placement is None else total // placement.data_shards


def _reuse(operator: "HessianOperator | GaussNewtonOperator") -> Literal["linearize", "recompute"]:
    objective = operator.objective
    if isinstance(operator, HessianOperator) and (
        objective.product == "difference"
        # Of what is split over devices a reverse pass would be summed over them again.
        or (objective.product == "reverse" and objective.placement is not None)
        or not objective.symmetric
    ):
        return "recompute"
    if objective.reuse != "auto":
        return objective.reuse
    leaves, treedef = jax.tree.flatten(operator)
    needed = residual_bytes(treedef, tuple((x.shape, x.dtype) for x in leaves))
    return "linearize" if needed <= objective.residual_budget else "recompute"


def _linearised(operator: Any) -> lx.AbstractLinearOperator:
    if isinstance(operator, HessianOperator) and operator.linearized is not None:
        return operator.linearized
    if _reuse(operator) == "recompute":
        known = operator.factor is not None
        return operator if known else dataclasses.replace(operator, factor=_factor(operator))
    return _as_linearized(operator, _linear(operator))


def _as_linearized(
    operator: "HessianOperator | GaussNewtonOperator", linear: Any
) -> LinearizedOperator:
    semidefinite = lx.is_positive_semidefinite(operator)
    return LinearizedOperator(
        linear, vector_structure(operator), semidefinite, lx.is_symmetric(operator)
    )


class Linearization(eqx.Module):
    """Loss, gradient and Hessian at a point, from one pass: `Objective.linearize` makes it.

    Attributes:
        value: the mean loss.
        grads: its gradient, with the structure of the parameters.
        hessian: its Hessian, with a primal pass behind it where that fits (`Objective(reuse=...)`).

    Example:
        >>> import jax.numpy as jnp
        >>> from aeoskit.objective import Objective
        >>> objective = Objective(lambda w, x: jnp.mean(x) * jnp.sum(w**4), jnp.ones(5))
        >>> point = objective.linearize(jnp.array([1.0, 2.0]))
        >>> float(point.value), point.grads.tolist(), point.hessian.mv(jnp.ones(2)).tolist()
        (17.0, [4.0, 32.0], [12.0, 48.0])
    """

    value: Float[Array, ""]
    grads: PyTree
    hessian: HessianOperator


@eqx.filter_jit
def linearization(objective: AbstractObjective, params: PyTree) -> Linearization:
    operator = HessianOperator(objective, params)
    if _reuse(operator) == "recompute":
        value, grads = _fields.value_and_gradient(objective, params)
        return Linearization(
            value, grads, dataclasses.replace(operator, factor=one_or_nan((value, grads)))
        )
    value, grads, linear = _fields.linearize(objective, params)
    linearized = _as_linearized(operator, linear)
    return Linearization(value, grads, dataclasses.replace(operator, linearized=linearized))


@vector_structure.register(HessianOperator)
@vector_structure.register(GaussNewtonOperator)
def _(operator: Any) -> PyTree[jax.ShapeDtypeStruct]:
    placement = operator.objective.placement
    structure = operator.in_structure()
    return structure if placement is None else placement.basis_structure(structure)


@vector_structure.register(LinearizedOperator)
def _(operator: Any) -> PyTree[jax.ShapeDtypeStruct]:
    leaves, treedef = operator.structure
    return jax.tree.unflatten(treedef, leaves)


register_operator(
    HessianOperator, linearise=_linearised, symmetric=lambda operator: operator.objective.symmetric
)
register_operator(
    GaussNewtonOperator, linearise=_linearised, symmetric=always, positive_semidefinite=always
)
register_operator(
    LinearizedOperator,
    linearise=identity,
    symmetric=lambda operator: operator.symmetric,
    positive_semidefinite=lambda operator: operator.positive_semidefinite,
)
