"""Preconditioners and the operators that they make."""

import abc

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, PyTree

from aeoskit.sharding import lie_like

from ..operators._protocol import (
    always,
    dense_matrix,
    itself,
    linearised_part,
    of_part,
    register_operator,
    structure_of,
)
from ..operators._restriction import Where, restrict
from ..vectors._tree import tree_dtype, tree_size, vector_structure


class AbstractPreconditioner(lx.AbstractLinearOperator):
    """A symmetric positive definite operator P with its inverse and its square roots."""

    @abc.abstractmethod
    def inv_mv(self, vector: PyTree[Array]) -> PyTree[Array]:
        """`P⁻¹ v`."""

    @abc.abstractmethod
    def sqrt_mv(self, vector: PyTree[Array]) -> PyTree[Array]:
        """`P^{1/2} v`."""

    @abc.abstractmethod
    def inv_sqrt_mv(self, vector: PyTree[Array]) -> PyTree[Array]:
        """`P^{-1/2} v`."""

    def transpose(self) -> lx.AbstractLinearOperator:
        """Itself: P is symmetric."""
        return self

    def out_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        """That of the input."""
        return self.in_structure()

    def as_matrix(self) -> Float[Array, "n n"]:
        """The dense matrix (small operators only): n products."""
        return dense_matrix(self)


class DiagonalPreconditioner(AbstractPreconditioner):
    """`P = diag(d)` with positive d: that of Adam, RMSProp, Adagrad.

    Args:
        diagonal: A pytree of the parameters' structure, every entry positive.

    Example:
        >>> P = DiagonalPreconditioner({"w": jnp.array([4.0, 9.0])})
        >>> P.inv_sqrt_mv({"w": jnp.array([2.0, 3.0])})["w"].tolist()
        [1.0, 1.0]
    """

    diagonal: PyTree[Array]

    def mv(self, vector: PyTree[Array]) -> PyTree[Array]:
        """`P v`."""
        return jax.tree.map(lambda d, v: (d * v).astype(v.dtype), self.diagonal, vector)

    def inv_mv(self, vector: PyTree[Array]) -> PyTree[Array]:
        """`P⁻¹ v`."""
        return jax.tree.map(lambda d, v: (v / d).astype(v.dtype), self.diagonal, vector)

    def sqrt_mv(self, vector: PyTree[Array]) -> PyTree[Array]:
        """`P^{1/2} v`."""
        return jax.tree.map(lambda d, v: (jnp.sqrt(d) * v).astype(v.dtype), self.diagonal, vector)

    def inv_sqrt_mv(self, vector: PyTree[Array]) -> PyTree[Array]:
        """`P^{-1/2} v`."""
        return jax.tree.map(lambda d, v: (v / jnp.sqrt(d)).astype(v.dtype), self.diagonal, vector)

    def in_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        """The structure of the diagonal."""
        return structure_of(self.diagonal)

    def restricted(self, where: Where) -> "DiagonalPreconditioner":
        """P on a part of the parameters (see `restrict`): goes with `RestrictedOperator`."""
        return DiagonalPreconditioner(restrict(self.diagonal, where))


class IdentityPreconditioner(AbstractPreconditioner):
    """`P = I`: that of gradient descent and momentum.

    Args:
        structure: The parameters, or their structure.

    Example:
        >>> IdentityPreconditioner(jnp.zeros(2)).inv_mv(jnp.array([2.0, 3.0])).tolist()
        [2.0, 3.0]
    """

    structure: PyTree[jax.ShapeDtypeStruct] = eqx.field(static=True)

    def __init__(self, structure: PyTree):
        # A structure is hashable only without its containers: keep leaves and treedef apart.
        leaves, treedef = jax.tree.flatten(structure_of(structure))
        self.structure = (tuple(leaves), treedef)

    def mv(self, vector: PyTree[Array]) -> PyTree[Array]:
        """`v`."""
        return vector

    def inv_mv(self, vector: PyTree[Array]) -> PyTree[Array]:
        """`v`."""
        return vector

    def sqrt_mv(self, vector: PyTree[Array]) -> PyTree[Array]:
        """`v`."""
        return vector

    def inv_sqrt_mv(self, vector: PyTree[Array]) -> PyTree[Array]:
        """`v`."""
        return vector

    def in_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        """The structure it was given."""
        leaves, treedef = self.structure
        return jax.tree.unflatten(treedef, leaves)

    def restricted(self, where: Where) -> "IdentityPreconditioner":
        """The identity on a part of the parameters (see `restrict`)."""
        return IdentityPreconditioner(restrict(self.in_structure(), where))


class PreconditionedOperator(lx.AbstractLinearOperator):
    """`P^{-1/2} A P^{-1/2}`: symmetric, with the eigenvalues of `P⁻¹ A`.

    A product costs one product of A. Eigenvectors live in the symmetrized coordinates;
    `to_original` brings them back.

    Args:
        operator: A, symmetric.
        preconditioner: P.

    Example:
        >>> A = lx.MatrixLinearOperator(jnp.diag(jnp.array([8.0, 9.0])), lx.symmetric_tag)
        >>> operator = PreconditionedOperator(A, DiagonalPreconditioner(jnp.array([4.0, 9.0])))
        >>> operator.mv(jnp.array([1.0, 1.0])).tolist()
        [2.0, 1.0]
    """

    operator: lx.AbstractLinearOperator
    preconditioner: AbstractPreconditioner

    def mv(self, vector: PyTree[Array]) -> PyTree[Array]:
        """`P^{-1/2} A P^{-1/2} v`."""
        inner = self.operator.mv(self.preconditioner.inv_sqrt_mv(vector))
        return lie_like(self.preconditioner.inv_sqrt_mv(inner), vector_structure(self))

    def to_original(self, vector: PyTree[Array]) -> PyTree[Array]:
        """From an eigenvector of this operator to one of `P⁻¹ A`: `P^{-1/2} v`."""
        return self.preconditioner.inv_sqrt_mv(vector)

    def from_original(self, vector: PyTree[Array]) -> PyTree[Array]:
        """From an eigenvector of `P⁻¹ A` to one of this operator: `P^{1/2} v`, not normalized."""
        return self.preconditioner.sqrt_mv(vector)

    def as_matrix(self) -> Float[Array, "n n"]:
        """The dense matrix (small operators only): n products."""
        return dense_matrix(self)

    def transpose(self) -> lx.AbstractLinearOperator:
        """`P^{-1/2} Aᵀ P^{-1/2}`."""
        return PreconditionedOperator(self.operator.transpose(), self.preconditioner)

    def in_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        """That of A."""
        return self.operator.in_structure()

    def out_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        """That of A."""
        return self.operator.out_structure()


register_operator(
    AbstractPreconditioner, linearise=itself, symmetric=always, positive_semidefinite=always
)
for _class in (DiagonalPreconditioner, IdentityPreconditioner):
    for _query in (
        lx.is_diagonal,
        lx.is_tridiagonal,
        lx.is_lower_triangular,
        lx.is_upper_triangular,
    ):
        _query.register(_class, always)
lx.has_unit_diagonal.register(IdentityPreconditioner, always)
lx.materialise.register(DiagonalPreconditioner, itself)
lx.materialise.register(IdentityPreconditioner, itself)


@lx.diagonal.register(DiagonalPreconditioner)
def _(operator):
    return jnp.concatenate([x.reshape(-1) for x in jax.tree.leaves(operator.diagonal)])


@lx.diagonal.register(IdentityPreconditioner)
def _(operator):
    structure = operator.in_structure()
    return jnp.ones(tree_size(structure), tree_dtype(structure))


register_operator(
    PreconditionedOperator,
    linearise=linearised_part,
    symmetric=of_part(lx.is_symmetric),
    positive_semidefinite=of_part(lx.is_positive_semidefinite),
    negative_semidefinite=of_part(lx.is_negative_semidefinite),
)
