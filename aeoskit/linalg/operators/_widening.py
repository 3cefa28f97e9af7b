"""Operators on vectors of fewer than 32 bits, for solvers that keep their books in float32."""

import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, PyTree

from ._protocol import dense_matrix, linearised_part, of_part, register_operator


def widen(tree: PyTree) -> PyTree:
    """The tree with leaves of at least float32.

    Args:
        tree: Of arrays, or of their structures.

    Returns:
        A tree of the same.

    Example:
        >>> widen(jnp.ones(2, jnp.bfloat16)).dtype
        dtype('float32')
    """

    def wide(x: Any) -> Any:
        dtype = jnp.result_type(x.dtype, jnp.float32)
        if eqx.is_array(x):
            return x.astype(dtype)
        return jax.ShapeDtypeStruct(x.shape, dtype, sharding=x.sharding)

    return jax.tree.map(wide, tree)


def narrow_unit(structure: PyTree) -> float:
    """The relative rounding of the leaves under 32 bits: 0 if there are none."""
    units = [float(jnp.finfo(x.dtype).eps) for x in jax.tree.leaves(structure)]
    return max((unit for unit in units if unit > jnp.finfo(jnp.float32).eps), default=0.0)


class WidenedOperator(lx.AbstractLinearOperator):
    """A, with vectors of at least float32: they are rounded on their way into A.

    A product costs one of A.

    Args:
        operator: A, square.
    """

    operator: lx.AbstractLinearOperator

    def mv(self, vector: PyTree[Array]) -> PyTree[Array]:
        """`A round(v)`."""
        rounded = jax.tree.map(lambda v, s: v.astype(s.dtype), vector, self.operator.in_structure())
        return widen(self.operator.mv(rounded))

    def as_matrix(self) -> Float[Array, "n n"]:
        """The dense matrix (small operators only)."""
        return dense_matrix(self)

    def transpose(self) -> lx.AbstractLinearOperator:
        """That of A, widened."""
        return WidenedOperator(self.operator.transpose())

    def in_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        """That of A, widened."""
        return widen(self.operator.in_structure())

    def out_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        """That of A, widened."""
        return widen(self.operator.out_structure())


register_operator(
    WidenedOperator,
    linearise=linearised_part,
    symmetric=of_part(lx.is_symmetric),
    positive_semidefinite=of_part(lx.is_positive_semidefinite),
    negative_semidefinite=of_part(lx.is_negative_semidefinite),
)


@functools.singledispatch
def product_error(operator: lx.AbstractLinearOperator) -> float:
    """The relative error of an operator's products beyond rounding, in units of its norm.

    Residuals hold it, whatever the solver. An operator with products that are not exact
    (differences of gradients, say) registers what they may be off by; one that is made of another
    has that one's.

    Args:
        operator: A square operator.

    Returns:
        A share of the operator's norm; 0 for products that are exact but for rounding.

    Example:
        >>> product_error(lx.DiagonalLinearOperator(jnp.ones(2)))
        0.0
    """
    parts = (getattr(operator, name, None) for name in ("operator", "operator1", "operator2"))
    return sum((product_error(p) for p in parts if isinstance(p, lx.AbstractLinearOperator)), 0.0)


@product_error.register(WidenedOperator)
def _(operator: WidenedOperator) -> float:
    return narrow_unit(operator.operator.in_structure()) + product_error(operator.operator)
