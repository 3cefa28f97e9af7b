"""The operators of which linear systems are solved: a shift, on the complement of known vectors."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, PyTree

from ._operators import dense_matrix
from ._tree import block_combine, block_dots


def widen(tree: PyTree) -> PyTree:
    """The tree (arrays or their structures) with leaves of at least float32."""

    def wide(x: Any) -> Any:
        dtype = jnp.result_type(x.dtype, jnp.float32)
        return x.astype(dtype) if eqx.is_array(x) else jax.ShapeDtypeStruct(x.shape, dtype)

    return jax.tree.map(wide, tree)


class ComplementOperator(lx.AbstractLinearOperator):
    """`c P (A - σ) P + (I - P)`, where P projects away from the rows of a block: symmetric.

    A right-hand side in the complement has its solution there. Vectors are of float32 at least,
    whatever the operator's are. `lineax.linearise` leaves it alone: linearise A beforehand.

    Args:
        operator: A, symmetric.
        shift: σ.
        factor: c, of either sign.
        block: Orthonormal rows (zero rows are allowed), or None.
        definite: Whether the caller vouches that it is positive definite (lineax's CG asks).
    """

    operator: lx.AbstractLinearOperator
    shift: Float[Array, ""]
    factor: Float[Array, ""]
    block: PyTree[Array] | None
    definite: bool = eqx.field(static=True)

    def _split(self, vector: PyTree) -> tuple[PyTree, PyTree]:
        inside = block_combine(self.block, block_dots(self.block, vector))
        return jax.tree.map(jnp.subtract, vector, inside), inside

    def project(self, vector: PyTree) -> PyTree:
        """`P v`."""
        return vector if self.block is None else self._split(vector)[0]

    def mv(self, vector: PyTree[Array]) -> PyTree[Array]:
        """One product of A."""
        inside = None
        if self.block is not None:
            vector, inside = self._split(vector)
        narrow = jax.tree.map(lambda v, s: v.astype(s.dtype), vector, self.operator.in_structure())
        image = jax.tree.map(
            lambda w, v: (self.factor * (w.astype(v.dtype) - self.shift * v)).astype(v.dtype),
            self.operator.mv(narrow),
            vector,
        )
        if inside is None:
            return image
        return jax.tree.map(jnp.add, self._split(image)[0], inside)

    def as_matrix(self) -> Float[Array, "n n"]:
        """The dense matrix (small operators only): n products."""
        return dense_matrix(self)

    def transpose(self) -> lx.AbstractLinearOperator:
        """Itself."""
        return self

    def in_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        """That of A, widened."""
        return widen(self.operator.in_structure())

    def out_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        """That of A, widened."""
        return self.in_structure()


def _itself(operator: Any) -> Any:
    return operator


def _no(operator: Any) -> bool:
    return False


def _materialise(operator: Any) -> lx.AbstractLinearOperator:
    function = lx.FunctionLinearOperator(operator.mv, operator.in_structure(), lx.symmetric_tag)
    return lx.materialise(function)


def _diagonal(operator: Any) -> Array:
    return jnp.diagonal(operator.as_matrix())


def _tridiagonal(operator: Any) -> tuple[Array, Array, Array]:
    matrix = operator.as_matrix()
    return jnp.diagonal(matrix), jnp.diagonal(matrix, -1), jnp.diagonal(matrix, 1)


lx.linearise.register(ComplementOperator, _itself)
lx.conj.register(ComplementOperator, _itself)
lx.materialise.register(ComplementOperator, _materialise)
lx.diagonal.register(ComplementOperator, _diagonal)
lx.tridiagonal.register(ComplementOperator, _tridiagonal)
for _query in (
    lx.is_diagonal,
    lx.is_tridiagonal,
    lx.has_unit_diagonal,
    lx.is_lower_triangular,
    lx.is_upper_triangular,
    lx.is_negative_semidefinite,
):
    _query.register(ComplementOperator, _no)


@lx.is_symmetric.register(ComplementOperator)
def _(operator: Any) -> bool:
    return True


@lx.is_positive_semidefinite.register(ComplementOperator)
def _(operator: Any) -> bool:
    return operator.definite
