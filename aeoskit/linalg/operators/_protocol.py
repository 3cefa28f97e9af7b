"""The protocol of lineax's operators, written once for all of ours."""

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from einops import rearrange
from jaxtyping import Array, Float, PyTree

from ..vectors._tree import from_flat, tree_dtype, tree_size


def structure_of(tree: PyTree) -> PyTree:
    """Shapes and dtypes of a pytree of arrays.

    Args:
        tree: Of arrays (NumPy's count as JAX would take them), or of structures.

    Returns:
        A pytree of `jax.ShapeDtypeStruct`.

    Example:
        >>> structure_of({"w": jnp.ones((2, 3))})["w"].shape
        (2, 3)
    """
    return jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape, jax.dtypes.canonicalize_dtype(x.dtype)), tree
    )


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
    dtype = tree_dtype(structure)

    def column(unit: Array) -> Array:
        image = operator.mv(from_flat(unit, structure))
        return jnp.concatenate([x.reshape(-1).astype(dtype) for x in jax.tree.leaves(image)])

    unit_vectors = jnp.eye(tree_size(structure), dtype=dtype)
    return rearrange(jax.lax.map(column, unit_vectors), "column row -> row column")


def always(operator: Any) -> bool:
    """True: a property that every operator of a class has.

    Args:
        operator: Any.

    Returns:
        True.

    Example:
        >>> always(lx.DiagonalLinearOperator(jnp.ones(2)))
        True
    """
    return True


def never(operator: Any) -> bool:
    """False: a property that no operator of a class is known to have.

    Args:
        operator: Any.

    Returns:
        False.

    Example:
        >>> never(lx.DiagonalLinearOperator(jnp.ones(2)))
        False
    """
    return False


def identity(operator: Any) -> Any:
    """Returns the operator: `lineax.linearise` of one that is linear already.

    Args:
        operator: Any.

    Returns:
        The same.

    Example:
        >>> identity(3)
        3
    """
    return operator


def of_part(query: Callable[[Any], bool]) -> Callable[[Any], bool]:
    """The property of an operator that its `operator` field has.

    Args:
        query: The property.

    Returns:
        That of the field.

    Example:
        >>> class Wrapped:
        ...     operator = 3
        >>> of_part(lambda part: part > 2)(Wrapped())
        True
    """
    return lambda operator: query(operator.operator)


def linearised_part(operator: Any) -> Any:
    """Linearizes the `operator` field of an operator.

    Args:
        operator: One with such a field.

    Returns:
        The operator, with that linearized.

    Example:
        >>> part = lx.DiagonalLinearOperator(jnp.ones(2))
        >>> linearised_part(lx.TaggedLinearOperator(part, lx.symmetric_tag)).in_size()
        2
    """
    return eqx.tree_at(lambda o: o.operator, operator, lx.linearise(operator.operator))


def _dense_diagonal(operator: lx.AbstractLinearOperator) -> Array:
    return jnp.diag(operator.as_matrix())


def _dense_tridiagonal(operator: lx.AbstractLinearOperator) -> tuple[Array, Array, Array]:
    matrix = operator.as_matrix()
    return jnp.diag(matrix), jnp.diag(matrix, -1), jnp.diag(matrix, 1)


def _matrix_product(matrix: Array, vector: PyTree) -> PyTree:
    flat = [x.reshape(-1).astype(matrix.dtype) for x in jax.tree.leaves(vector)]
    return from_flat(matrix @ jnp.concatenate(flat), vector)


def _materialise(operator: lx.AbstractLinearOperator) -> lx.AbstractLinearOperator:
    tags = lx.symmetric_tag if lx.is_symmetric(operator) else ()
    product = eqx.Partial(_matrix_product, operator.as_matrix())
    return lx.FunctionLinearOperator(product, operator.in_structure(), tags)


def register_operator(
    cls: type,
    *,
    linearise: Callable[[Any], Any],
    symmetric: Callable[[Any], bool],
    positive_semidefinite: Callable[[Any], bool] = never,
    negative_semidefinite: Callable[[Any], bool] = never,
) -> None:
    """Teaches lineax a class of real square operators on pytrees.

    Without this, `lx.linearise`, `A + B` and lineax's solvers refuse the class. `singledispatch`
    follows the class hierarchy, so that an abstract class covers those defined elsewhere.

    Args:
        cls: The class.
        linearise: The operator with what is not linear done once, for many products: `identity` or
            `linearised_part`, for instance.
        symmetric: Whether an operator is: `always`, `never`, `of_part(lineax.is_symmetric)`, ...
        positive_semidefinite: Likewise.
        negative_semidefinite: Likewise.

    Example:
        >>> class Mine(lx.MatrixLinearOperator):
        ...     pass
        >>> register_operator(Mine, linearise=identity, symmetric=always)
        >>> lx.is_symmetric(Mine(jnp.eye(2)))
        True
    """
    lx.linearise.register(cls, linearise)
    lx.conj.register(cls, identity)
    lx.diagonal.register(cls, _dense_diagonal)
    lx.tridiagonal.register(cls, _dense_tridiagonal)
    lx.materialise.register(cls, _materialise)
    lx.is_symmetric.register(cls, symmetric)
    lx.is_positive_semidefinite.register(cls, positive_semidefinite)
    lx.is_negative_semidefinite.register(cls, negative_semidefinite)
    for query in (
        lx.is_diagonal,
        lx.is_tridiagonal,
        lx.is_lower_triangular,
        lx.is_upper_triangular,
        lx.has_unit_diagonal,
    ):
        query.register(cls, never)


class AbstractWrappedOperator(lx.AbstractLinearOperator):
    """A square operator made of another, as symmetric as that one.

    A subclass has `mv`, and what differs. `lineax.linearise` is handed on, and so is what the other
    knows of its sign, unless the subclass is registered by itself.

    Attributes:
        operator: The other one.

    Example:
        >>> class Doubled(AbstractWrappedOperator):
        ...     operator: lx.AbstractLinearOperator
        ...     def mv(self, vector):
        ...         return jax.tree.map(lambda x: 2 * x, self.operator.mv(vector))
        >>> twice = Doubled(lx.DiagonalLinearOperator(jnp.array([1.0, 3.0])))
        >>> twice.as_matrix().tolist(), lx.is_symmetric(twice)
        ([[2.0, 0.0], [0.0, 6.0]], True)
    """

    operator: eqx.AbstractVar[lx.AbstractLinearOperator]

    def as_matrix(self) -> Float[Array, "n n"]:
        """The dense matrix (small operators only): n products."""
        return dense_matrix(self)

    def transpose(self) -> lx.AbstractLinearOperator:
        """The same of the other's transpose."""
        return eqx.tree_at(lambda o: o.operator, self, self.operator.transpose())

    def in_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        """That of the other."""
        return self.operator.in_structure()

    def out_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        """The same."""
        return self.in_structure()


register_operator(
    AbstractWrappedOperator,
    linearise=linearised_part,
    symmetric=of_part(lx.is_symmetric),
    positive_semidefinite=of_part(lx.is_positive_semidefinite),
    negative_semidefinite=of_part(lx.is_negative_semidefinite),
)
