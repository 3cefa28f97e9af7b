"""Operators made of operators: shifts and deflation.

Sums, differences, multiples and quotients by a scalar are lineax's own: `A + B`, `A - B`,
`2.0 * A`, `A / 2.0`, `-A` know whether they are symmetric, hand `lineax.linearise` on to their
parts, and neither retrace nor ravel. (An operator of your own has to register
`lineax.is_diagonal` and `lineax.is_tridiagonal` for that.) Shifts are ours: `lineax`'s identity
compares the shardings of its vectors, and a shift that is an array would promote
lower-precision leaves.
"""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree

from ..vectors._tree import block_combine, block_dots, block_gram, tree_dtype
from ._layout import widen
from ._protocol import (
    AbstractWrappedOperator,
    always,
    identity,
    linearised_part,
    of_part,
    register_operator,
)


class ShiftedOperator(AbstractWrappedOperator):
    """`A - σ I`.

    A product costs one product of A. The shift is data: another value does not retrace.

    Args:
        operator: A, square.
        shift: σ, a scalar.

    Raises:
        ValueError: The shift is not a scalar.

    Example:
        >>> A = lx.DiagonalLinearOperator(jnp.array([3.0, 5.0]))
        >>> ShiftedOperator(A, 4.0).mv(jnp.ones(2)).tolist()
        [-1.0, 1.0]
    """

    operator: lx.AbstractLinearOperator
    shift: Float[Array, ""]

    def __init__(self, operator: lx.AbstractLinearOperator, shift: Array | float | int):
        self.operator = operator
        self.shift = jnp.asarray(shift, tree_dtype(operator.in_structure()))
        if self.shift.ndim:
            raise ValueError(
                "ShiftedOperator: the shift is a scalar, not an array of shape "
                f"{self.shift.shape}; for several shifts use jax.vmap."
            )

    def mv(self, vector: PyTree[Array]) -> PyTree[Array]:
        """`A v - σ v`."""
        image = self.operator.mv(vector)
        return jax.tree.map(lambda y, v: (y - self.shift * v).astype(y.dtype), image, vector)

    def as_matrix(self) -> Float[Array, "n n"]:
        """The dense matrix (small operators only)."""
        matrix = self.operator.as_matrix()
        return matrix - self.shift.astype(matrix.dtype) * jnp.eye(len(matrix), dtype=matrix.dtype)


register_operator(ShiftedOperator, linearise=linearised_part, symmetric=of_part(lx.is_symmetric))


class DeflatedOperator(AbstractWrappedOperator):
    """`(I - V^T V) A (I - V^T V) + V^T diag(μ) V`: A without the eigenvectors that are found.

    The rows of V become eigenvectors with the eigenvalues μ, and the rest of the spectrum of A is
    left as it is, if they are eigenvectors of A; otherwise this is A on their complement. It is
    symmetric where A is, however inexact they are. A product costs one product of A. To find what
    comes next, put μ where it is not looked for: zero hides the found ones from the top of an
    operator with positive eigenvalues left, a value under the spectrum hides them always.

    Args:
        operator: A, square.
        vectors: V, a block of k orthonormal vectors (leaves `(k, *leaf)`), as
            `EigenSolution.vectors` is.
        values: μ, a scalar or `(k,)`; None for zero.

    Raises:
        ValueError: V is not a block of A's vectors, or (outside of transformations) not
            orthonormal; μ has another shape.

    Example:
        >>> from aeoskit.linalg import eigensolve
        >>> A = lx.DiagonalLinearOperator(jnp.array([3.0, 5.0, 1.0]))
        >>> top = eigensolve(A)
        >>> round(float(eigensolve(DeflatedOperator(A, top.vectors)).values[0]), 5)
        3.0
    """

    operator: lx.AbstractLinearOperator
    vectors: PyTree[Array]
    values: Float[Array, " k"] | None

    def __init__(
        self,
        operator: lx.AbstractLinearOperator,
        vectors: PyTree[Array],
        values: Array | float | int | None = None,
    ):
        structure = operator.in_structure()
        leaves, wanted = jax.tree.leaves(vectors), jax.tree.leaves(structure)
        rows = {x.shape[0] if x.ndim else None for x in leaves}
        fits = jax.tree.structure(vectors) == jax.tree.structure(structure) and len(rows) == 1
        if not fits or any(x.shape[1:] != s.shape for x, s in zip(leaves, wanted, strict=True)):
            raise ValueError(
                "DeflatedOperator: the vectors are a block with leaves (k, *leaf), as "
                f"EigenSolution.vectors; got {jax.tree.map(jnp.shape, vectors)} for "
                f"{jax.tree.map(lambda s: s.shape, structure)}."
            )
        (k,) = rows
        self.operator = operator
        self.vectors = jax.tree.map(lambda x, s: x.astype(s.dtype), vectors, structure)
        self.values = None
        if values is not None:
            values = jnp.asarray(values, tree_dtype(structure))
            if values.shape not in ((), (k,)):
                raise ValueError(
                    f"DeflatedOperator: the values are a scalar or one for each of the {k} "
                    f"vectors, not of shape {values.shape}."
                )
            self.values = jnp.broadcast_to(values, (k,))

    def __check_init__(self):
        leaves = jax.tree.leaves(self.vectors)
        gram = block_gram(self.vectors, self.vectors)
        if isinstance(gram, Tracer):  # no values under a transformation
            return
        error = np.max(np.abs(np.asarray(gram) - np.eye(len(gram))))
        eps = max(float(jnp.finfo(x.dtype).eps) for x in leaves)
        if not error <= 10 * eps**0.5:
            raise ValueError(
                f"DeflatedOperator: the vectors are not orthonormal (their inner products differ "
                f"from the identity by {error:.1e}), so that this is no projection; orthonormalize "
                "them, or take the vectors of a solution that converged."
            )

    def _project_out(self, vector: PyTree[Array]) -> tuple[PyTree[Array], Float[Array, " k"]]:
        dots = block_dots(self.vectors, vector)
        inside = block_combine(self.vectors, dots)
        return jax.tree.map(lambda v, x: (v - x).astype(v.dtype), vector, inside), dots

    def mv(self, vector: PyTree[Array]) -> PyTree[Array]:
        """The product; costs one of A."""
        outside, dots = self._project_out(vector)
        image, _ = self._project_out(self.operator.mv(outside))
        if self.values is None:
            return image
        inside = block_combine(self.vectors, self.values * dots)
        return jax.tree.map(lambda y, x: (y + x).astype(y.dtype), image, inside)


def _positive(operator: DeflatedOperator) -> bool:
    return operator.values is None and lx.is_positive_semidefinite(operator.operator)


def _negative(operator: DeflatedOperator) -> bool:
    return operator.values is None and lx.is_negative_semidefinite(operator.operator)


register_operator(
    DeflatedOperator,
    linearise=linearised_part,
    symmetric=of_part(lx.is_symmetric),
    positive_semidefinite=_positive,
    negative_semidefinite=_negative,
)


class ComplementOperator(AbstractWrappedOperator):
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

    def transpose(self) -> lx.AbstractLinearOperator:
        """Itself."""
        return self

    def in_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        """That of A, widened."""
        return widen(self.operator.in_structure())


register_operator(
    ComplementOperator,
    linearise=identity,
    symmetric=always,
    positive_semidefinite=lambda operator: operator.definite,
)
