"""Preconditioners and the operators that they make."""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from einops import rearrange
from jaxtyping import Array, Float, PyTree

from ._ritz import structure_dimension
from ._tree import tree_dtype


def _structure_of(tree: PyTree) -> PyTree:
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype), tree)


def dense_matrix(operator: lx.AbstractLinearOperator) -> Float[Array, "n n"]:
    """The matrix of a square operator, by one product a column (small operators only).

    The cost is n products.

    Args:
        operator: A square linear operator.

    Returns:
        `(n, n)`, coordinates in the order of the leaves.

    Example:
        >>> dense_matrix(lx.DiagonalLinearOperator(jnp.array([1.0, 2.0]))).tolist()
        [[1.0, 0.0], [0.0, 2.0]]
    """
    structure = operator.in_structure()
    leaves, treedef = jax.tree.flatten(structure)
    n = structure_dimension(structure)
    dtype = tree_dtype(structure)

    def column(unit: Array) -> Array:
        parts, begin = [], 0
        for leaf in leaves:
            end = begin + structure_dimension(leaf)
            parts.append(unit[begin:end].reshape(leaf.shape).astype(leaf.dtype))
            begin = end
        image = operator.mv(jax.tree.unflatten(treedef, parts))
        flat = [x.reshape(-1).astype(dtype) for x in jax.tree.leaves(image)]
        return jnp.concatenate(flat)

    return rearrange(jax.lax.map(column, jnp.eye(n, dtype=dtype)), "column row -> row column")


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
        return _structure_of(self.diagonal)


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
        leaves, treedef = jax.tree.flatten(_structure_of(structure))
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
        return self.preconditioner.inv_sqrt_mv(inner)

    def to_original(self, vector: PyTree[Array]) -> PyTree[Array]:
        """From an eigenvector of this operator to one of `P⁻¹ A`: `P^{-1/2} v`."""
        return self.preconditioner.inv_sqrt_mv(vector)

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


# The lineax protocol. `singledispatch` follows the class hierarchy, so that preconditioners
# defined elsewhere are covered by the abstract class.


def _yes(operator: Any) -> bool:
    return True


def _no(operator: Any) -> bool:
    return False


def _itself(operator: Any) -> Any:
    return operator


def _dense_diagonal(operator: lx.AbstractLinearOperator) -> Array:
    return jnp.diag(operator.as_matrix())


def _dense_tridiagonal(operator: lx.AbstractLinearOperator) -> tuple[Array, Array, Array]:
    matrix = operator.as_matrix()
    return jnp.diag(matrix), jnp.diag(matrix, -1), jnp.diag(matrix, 1)


def _materialise(operator: lx.AbstractLinearOperator) -> lx.AbstractLinearOperator:
    def column_product(matrix: Array, vector: PyTree) -> PyTree:
        leaves, treedef = jax.tree.flatten(vector)
        flat = jnp.concatenate([x.reshape(-1).astype(matrix.dtype) for x in leaves])
        image, begin, parts = matrix @ flat, 0, []
        for leaf in leaves:
            parts.append(image[begin : begin + leaf.size].reshape(leaf.shape).astype(leaf.dtype))
            begin += leaf.size
        return jax.tree.unflatten(treedef, parts)

    tags = lx.symmetric_tag if lx.is_symmetric(operator) else ()
    return lx.FunctionLinearOperator(
        eqx.Partial(column_product, operator.as_matrix()), operator.in_structure(), tags
    )


for _class in (AbstractPreconditioner, PreconditionedOperator):
    lx.conj.register(_class, _itself)
    lx.diagonal.register(_class, _dense_diagonal)
    lx.tridiagonal.register(_class, _dense_tridiagonal)
    lx.materialise.register(_class, _materialise)
    for _query in (
        lx.is_diagonal,
        lx.is_tridiagonal,
        lx.is_lower_triangular,
        lx.is_upper_triangular,
        lx.has_unit_diagonal,
        lx.is_negative_semidefinite,
    ):
        _query.register(_class, _no)

lx.linearise.register(AbstractPreconditioner, _itself)
lx.is_symmetric.register(AbstractPreconditioner, _yes)
lx.is_positive_semidefinite.register(AbstractPreconditioner, _yes)
for _class in (DiagonalPreconditioner, IdentityPreconditioner):
    for _query in (
        lx.is_diagonal,
        lx.is_tridiagonal,
        lx.is_lower_triangular,
        lx.is_upper_triangular,
    ):
        _query.register(_class, _yes)
lx.has_unit_diagonal.register(IdentityPreconditioner, _yes)
lx.materialise.register(DiagonalPreconditioner, _itself)
lx.materialise.register(IdentityPreconditioner, _itself)


@lx.diagonal.register(DiagonalPreconditioner)
def _(operator):
    return jnp.concatenate([x.reshape(-1) for x in jax.tree.leaves(operator.diagonal)])


@lx.diagonal.register(IdentityPreconditioner)
def _(operator):
    structure = operator.in_structure()
    return jnp.ones(structure_dimension(structure), tree_dtype(structure))


@lx.linearise.register(PreconditionedOperator)
def _(operator):
    return PreconditionedOperator(lx.linearise(operator.operator), operator.preconditioner)


@lx.is_symmetric.register(PreconditionedOperator)
def _(operator):
    return lx.is_symmetric(operator.operator)


@lx.is_positive_semidefinite.register(PreconditionedOperator)
def _(operator):
    return lx.is_positive_semidefinite(operator.operator)


@lx.is_negative_semidefinite.register(PreconditionedOperator)
def _(operator):
    return lx.is_negative_semidefinite(operator.operator)
