"""The operators of which linear systems are solved: a shift, on the complement of known vectors."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, PyTree

from ..vectors._tree import block_combine, block_dots
from ._protocol import always, dense_matrix, itself, register_operator
from ._widening import widen


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


register_operator(
    ComplementOperator,
    linearise=itself,
    symmetric=always,
    positive_semidefinite=lambda operator: operator.definite,
)
