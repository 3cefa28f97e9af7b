"""Preconditioners that are matrices on each leaf: Kronecker factors, and rotated diagonals.

A leaf of shape `(m, n)` has `P = L ⊗ R`, which takes `V` to `L V R`; a leaf of any shape has one
factor an axis. Factors are held as eigendecompositions, so that every power of P costs the same
and is exact, and P is positive definite since its eigenvalues are.
"""

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, PyTree

from ..operators._protocol import structure_of
from ..operators._restriction import LeafSelector, select
from ._base import AbstractPreconditioner
from ._factor import (
    AxisFactor,
    apply_floor,
    at_least_float32,
    check_not_negative,
    check_orthogonal,
    check_positive,
    check_shape,
    check_symmetric,
    common_dtype,
    multiply_along,
    power_of,
)

# An axis: an AxisFactor, a symmetric matrix, the vector of a diagonal, or None for the identity.
Axis = Any
Structure = tuple[tuple[jax.ShapeDtypeStruct, ...], Any]


class AbstractRotatedPreconditioner(AbstractPreconditioner):
    """A diagonal in a basis that is a product of one rotation an axis; any power of it.

    Example:
        >>> from aeoskit.linalg import KroneckerPreconditioner
        >>> P = KroneckerPreconditioner((jnp.array([1.0, 4.0]), None), jnp.zeros((2, 1)))
        >>> P.power_mv(jnp.ones((2, 1)), 2.0).tolist()
        [[1.0], [16.0]]
    """

    structure: eqx.AbstractVar[Structure]

    @abc.abstractmethod
    def rotations_of(self, index: int) -> tuple[Array | None, ...]:
        """The rotation of each axis of a leaf, None where there is none."""

    @abc.abstractmethod
    def scaled(self, index: int, leaf: Array, exponent: float) -> Array:
        """A leaf in the rotated basis, times a power of the eigenvalues."""

    def power_mv(self, vector: PyTree[Array], exponent: float) -> PyTree[Array]:
        """`P^exponent v`, in the vector's dtypes."""
        leaves, treedef = jax.tree.flatten(vector)
        images = [self._leaf(i, leaf, exponent) for i, leaf in enumerate(leaves)]
        return jax.tree.unflatten(treedef, images)

    def _leaf(self, index: int, leaf: Array, exponent: float) -> Array:
        rotations = self.rotations_of(index)
        # A scalar is a vector of one entry.
        x = leaf.reshape(leaf.shape or (1,))
        for axis, rotation in enumerate(rotations):
            if rotation is not None:
                x = multiply_along(*common_dtype(rotation, x), axis, transpose=True)
        x = self.scaled(index, x, exponent)
        for axis, rotation in enumerate(rotations):
            if rotation is not None:
                x = multiply_along(*common_dtype(rotation, x), axis)
        return x.reshape(leaf.shape).astype(leaf.dtype)

    def mv(self, vector: PyTree[Array]) -> PyTree[Array]:
        """`P v`."""
        return self.power_mv(vector, 1.0)

    def inv_mv(self, vector: PyTree[Array]) -> PyTree[Array]:
        """`P⁻¹ v`."""
        return self.power_mv(vector, -1.0)

    def sqrt_mv(self, vector: PyTree[Array]) -> PyTree[Array]:
        """`P^{1/2} v`."""
        return self.power_mv(vector, 0.5)

    def inv_sqrt_mv(self, vector: PyTree[Array]) -> PyTree[Array]:
        """`P^{-1/2} v`."""
        return self.power_mv(vector, -0.5)

    def in_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        """The structure that it was given."""
        leaves, treedef = self.structure
        return jax.tree.unflatten(treedef, leaves)


class KroneckerPreconditioner(AbstractRotatedPreconditioner):
    """One symmetric positive definite factor an axis: `P = L ⊗ R`, `P V = L V R` on a matrix.

    That of Shampoo and K-FAC, and with one side the identity that of Muon. An eigenvalue of a
    factor that is below `eps`, or that rounding cannot tell from zero, is raised to that floor.

    A product costs, for a leaf of shape `(m, n)`, two products with the eigenvectors of each side:
    `4 m n (m + n)` operations.

    Args:
        factors: For each leaf of `like` a tuple with an entry for each of its axes (one entry for
            a scalar): an `AxisFactor`, a symmetric matrix, the vector of a diagonal matrix, or
            None for the identity.
        like: The parameters, or their structure.
        eps: The floor of the factors' eigenvalues.
        check: Whether to look at the factors' values, outside of tracing.

    Raises:
        ValueError: Factors that are not those of `like`'s leaves, not finite, not symmetric or
            with a negative eigenvalue, with the leaf's path.

    Example:
        >>> from aeoskit.linalg import KroneckerPreconditioner
        >>> L = jnp.array([[2.0, 1.0], [1.0, 2.0]])
        >>> P = KroneckerPreconditioner({"w": (L, None), "b": (jnp.array([4.0]),)},
        ...                             {"w": jnp.zeros((2, 3)), "b": jnp.zeros(1)})
        >>> v = P.mv({"w": jnp.ones((2, 3)), "b": jnp.ones(1)})
        >>> v["w"][0].tolist(), v["b"].tolist()
        ([3.00, 3.00, 3.00], [4.0])
    """

    factors: tuple[tuple[AxisFactor | None, ...], ...]
    structure: Structure = eqx.field(static=True)

    def __init__(self, factors: PyTree, like: PyTree, *, eps: Any = 1e-12, check: bool = True):
        self.structure = _static(like)
        entries = _entries("factors", factors, self.structure)
        self.factors = tuple(
            tuple(
                _as_factor(f"the factor of axis {axis} of {path}", entry, size, eps, check)
                for axis, (entry, size) in enumerate(zip(axes, shape, strict=True))
            )
            for path, shape, axes in entries
        )

    def rotations_of(self, index: int) -> tuple[Array | None, ...]:
        """The eigenvectors of each axis of a leaf."""
        return tuple(None if factor is None else factor.vectors for factor in self.factors[index])

    def scaled(self, index: int, leaf: Array, exponent: float) -> Array:
        """A leaf in the eigenbasis, times a power of the eigenvalues."""
        for axis, factor in enumerate(self.factors[index]):
            if factor is not None:
                values, leaf = common_dtype(factor.values, leaf)
                ones = ["1"] * leaf.ndim
                ones[axis] = "n"
                leaf = rearrange(power_of(values, exponent), f"n -> {' '.join(ones)}") * leaf
        return leaf

    def restricted(self, where: LeafSelector) -> "KroneckerPreconditioner":
        """P on a part of the parameters (see `restrict`): goes with `RestrictedOperator`."""
        kept, structure, factors = _part(self.in_structure(), where, self.factors)
        del kept
        return KroneckerPreconditioner(factors, structure, eps=0.0, check=False)


class RotatedDiagonalPreconditioner(AbstractRotatedPreconditioner):
    """A diagonal in a rotated basis: `P V = Q_L (d * (Q_Lᵀ V Q_R)) Q_Rᵀ` on a matrix. SOAP's.

    Args:
        diagonal: A pytree of the parameters' shapes, every entry positive: that of P in the
            rotated basis.
        rotations: For each leaf a tuple with an orthogonal matrix or None for each axis, or None
            for a leaf whose basis is not rotated.
        like: The parameters, or their structure; None for that of `diagonal`.
        check: Whether to look at the values, outside of tracing.

    Raises:
        ValueError: A diagonal that is not finite and positive, rotations that are not those of
            its leaves or not orthogonal, with the leaf's path.

    Example:
        >>> Q = jnp.array([[0.6, -0.8], [0.8, 0.6]])
        >>> P = RotatedDiagonalPreconditioner(jnp.array([1.0, 4.0]), (Q,))
        >>> P.sqrt_mv(jnp.array([-0.8, 0.6])).tolist()
        [-1.600, 1.200]
    """

    diagonal: tuple[Array, ...]
    rotations: tuple[tuple[Array | None, ...], ...]
    structure: Structure = eqx.field(static=True)

    def __init__(
        self, diagonal: PyTree, rotations: PyTree, *, like: PyTree = None, check: bool = True
    ):
        self.structure = _static(diagonal if like is None else like)
        leaves, treedef = self.structure
        diagonals = _flatten_up_to("diagonal", treedef, diagonal)
        self.diagonal = tuple(jnp.asarray(d) for d in diagonals)
        entries = _entries("rotations", rotations, self.structure)
        self.rotations = tuple(
            tuple(None if entry is None else jnp.asarray(entry) for entry in axes)
            for _, _, axes in entries
        )
        for (path, shape, _), leaf, d, axes in zip(
            entries, leaves, self.diagonal, self.rotations, strict=True
        ):
            if d.shape != leaf.shape:
                raise ValueError(
                    f"diagonal{path} has shape {d.shape}, but its leaf has {leaf.shape}: there is "
                    f"one number for each parameter."
                )
            if check:
                check_positive(f"diagonal{path}", d)
            for axis, (rotation, size) in enumerate(zip(axes, shape, strict=True)):
                if rotation is not None:
                    name = f"the rotation of axis {axis} of {path or 'the only leaf'}"
                    check_shape(name, rotation, (size, size))
                    if check:
                        check_orthogonal(name, rotation)

    def rotations_of(self, index: int) -> tuple[Array | None, ...]:
        """The rotation of each axis of a leaf."""
        return self.rotations[index]

    def scaled(self, index: int, leaf: Array, exponent: float) -> Array:
        """A leaf in the rotated basis, times a power of the diagonal."""
        diagonal, leaf = common_dtype(self.diagonal[index], leaf)
        return power_of(diagonal, exponent).reshape(leaf.shape) * leaf

    def restricted(self, where: LeafSelector) -> "RotatedDiagonalPreconditioner":
        """P on a part of the parameters (see `restrict`): goes with `RestrictedOperator`."""
        kept, structure, rotations = _part(self.in_structure(), where, self.rotations)
        chosen = [d for d, keep in zip(self.diagonal, kept, strict=True) if keep]
        diagonal = jax.tree.unflatten(jax.tree.structure(structure), chosen)
        return RotatedDiagonalPreconditioner(diagonal, rotations, like=structure, check=False)


def _static(like: PyTree) -> Structure:
    # A structure is hashable only without its containers: keep leaves and treedef apart.
    leaves, treedef = jax.tree.flatten(structure_of(like))
    return tuple(leaves), treedef


def _part(
    structure: PyTree, where: LeafSelector, entries: tuple
) -> tuple[tuple[bool, ...], Any, Any]:
    """The part of a structure that `where` names, and the entries of its leaves."""
    leaves, treedef = jax.tree.flatten(structure)
    kept = select(structure, where)
    part = [x if keep else None for x, keep in zip(leaves, kept, strict=True)]
    chosen = [e if keep else None for e, keep in zip(entries, kept, strict=True)]
    return kept, jax.tree.unflatten(treedef, part), jax.tree.unflatten(treedef, chosen)


def _flatten_up_to(name: str, treedef: Any, tree: PyTree) -> list[Any]:
    try:
        return treedef.flatten_up_to(tree)
    except ValueError as error:
        raise ValueError(
            f"{name} must have the containers of the parameters, {treedef}, with one entry at each "
            f"leaf: {error}"
        ) from None


def _entries(name: str, tree: PyTree, structure: Structure) -> list[tuple[str, tuple, tuple]]:
    """For each leaf its path, its shape (a scalar's is `(1,)`) and the entry of each axis."""
    leaves, treedef = structure
    paths, _ = jax.tree_util.tree_flatten_with_path(jax.tree.unflatten(treedef, leaves))
    found = []
    for (path, leaf), entry in zip(paths, _flatten_up_to(name, treedef, tree), strict=True):
        at = jax.tree_util.keystr(path)
        shape = leaf.shape or (1,)
        axes = (None,) * len(shape) if entry is None else entry
        if not isinstance(axes, tuple | list) or len(axes) != len(shape):
            what = f"{len(axes)} entries" if isinstance(axes, tuple | list) else type(axes).__name__
            raise ValueError(
                f"{name}{at} has {what}, but the leaf has shape {leaf.shape}: pass a tuple with "
                f"one entry for each of {len(shape)} axes, None for the identity."
            )
        found.append((at, shape, tuple(axes)))
    return found


def _as_factor(name: str, entry: Axis, size: int, eps: Any, check: bool) -> AxisFactor | None:
    if entry is None:
        return None
    if isinstance(entry, AxisFactor):
        check_shape(f"the eigenvalues of {name}", entry.values, (size,))
        if entry.vectors is not None:
            check_shape(f"the eigenvectors of {name}", entry.vectors, (size, size))
            if check:
                check_orthogonal(f"the matrix of eigenvectors of {name}", entry.vectors)
        values, vectors = entry.values, entry.vectors
    else:
        array = jnp.asarray(entry)
        array = array.astype(at_least_float32(jnp.result_type(array.dtype, float)))
        if array.ndim != 1:
            check_shape(name, array, (size, size))
            if check:
                check_symmetric(name, array)
            values, vectors = jnp.linalg.eigh(array)
        else:
            check_shape(name, array, (size,))
            values, vectors = array, None
    if check:
        check_not_negative(f"the eigenvalues of {name}", values)
    return AxisFactor(apply_floor(values, eps), vectors)
