"""Preconditioners and the operators that they make."""

import abc
from collections.abc import Callable, Sequence
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, PyTree

from aeoskit.sharding import place_like

from ..operators._protocol import (
    AbstractWrappedOperator,
    always,
    dense_matrix,
    identity,
    register_operator,
    structure_of,
)
from ..operators._restriction import LeafSelector, restrict
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

    def restricted(self, where: LeafSelector) -> "DiagonalPreconditioner":
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

    def restricted(self, where: LeafSelector) -> "IdentityPreconditioner":
        """The identity on a part of the parameters (see `restrict`)."""
        return IdentityPreconditioner(restrict(self.in_structure(), where))


class PreconditionedOperator(AbstractWrappedOperator):
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
        return place_like(self.preconditioner.inv_sqrt_mv(inner), vector_structure(self))

    def to_original(self, vector: PyTree[Array]) -> PyTree[Array]:
        """From an eigenvector of this operator to one of `P⁻¹ A`: `P^{-1/2} v`."""
        return self.preconditioner.inv_sqrt_mv(vector)

    def from_original(self, vector: PyTree[Array]) -> PyTree[Array]:
        """From an eigenvector of `P⁻¹ A` to one of this operator: `P^{1/2} v`, not normalized."""
        return self.preconditioner.sqrt_mv(vector)


register_operator(
    AbstractPreconditioner, linearise=identity, symmetric=always, positive_semidefinite=always
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
lx.materialise.register(DiagonalPreconditioner, identity)
lx.materialise.register(IdentityPreconditioner, identity)


@lx.diagonal.register(DiagonalPreconditioner)
def _(operator):
    return jnp.concatenate([x.reshape(-1) for x in jax.tree.leaves(operator.diagonal)])


@lx.diagonal.register(IdentityPreconditioner)
def _(operator):
    structure = operator.in_structure()
    return jnp.ones(tree_size(structure), tree_dtype(structure))


class BlockPreconditioner(AbstractPreconditioner):
    """Block diagonal: each subtree or group of the parameters has a preconditioner of its own.

    Args:
        blocks: A pytree of preconditioners that is a prefix of the parameters: each lives on the
            subtree at its place. Give this or `parts`.
        parts: Preconditioners on the structure of the parameters with None for the leaves of
            others (see `restrict`), for groups that are scattered over the tree.

    Raises:
        ValueError: None or both of the two were given, or two parts share a leaf, with its path.
        TypeError: One of them is no preconditioner.

    Example:
        >>> import jax.numpy as jnp
        >>> from aeoskit.linalg import DiagonalPreconditioner, IdentityPreconditioner
        >>> P = BlockPreconditioner({"a": IdentityPreconditioner({"w": jnp.zeros(2)}),
        ...                          "b": DiagonalPreconditioner(jnp.array([4.0]))})
        >>> v = P.inv_mv({"a": {"w": jnp.ones(2)}, "b": jnp.ones(1)})
        >>> v["a"]["w"].tolist(), v["b"].tolist()
        ([1.0, 1.0], [0.25])
    """

    parts: tuple[AbstractPreconditioner, ...]
    # Which leaves of the whole each part has, in the order of the part's.
    positions: tuple[tuple[int, ...], ...] = eqx.field(static=True)
    treedef: Any = eqx.field(static=True)

    def __init__(
        self, blocks: PyTree = None, *, parts: Sequence[AbstractPreconditioner] | None = None
    ):
        if (blocks is None) == (parts is None):
            raise ValueError(
                "BlockPreconditioner takes either blocks, a tree of preconditioners that is a "
                "prefix of the parameters, or parts, preconditioners on masked trees."
            )
        chosen = jax.tree.leaves(blocks, is_leaf=_is_part) if parts is None else list(parts)
        for part in chosen:
            if not isinstance(part, AbstractPreconditioner):
                raise TypeError(
                    f"BlockPreconditioner is made of preconditioners, got {type(part).__name__}: "
                    f"wrap a tree of positive numbers as DiagonalPreconditioner(tree)."
                )
        self.parts = tuple(chosen)
        if parts is None:
            structures = jax.tree.map(lambda part: part.in_structure(), blocks, is_leaf=_is_part)
            self.treedef = jax.tree.structure(structures)
            sizes = [len(jax.tree.leaves(part.in_structure())) for part in self.parts]
            ends = [sum(sizes[: i + 1]) for i in range(len(sizes))]
            self.positions = tuple(
                tuple(range(end - size, end)) for end, size in zip(ends, sizes, strict=True)
            )
        else:
            self.treedef, self.positions = _overlay(self.parts)

    def _each(
        self, product: Callable[[AbstractPreconditioner, PyTree], PyTree], vector: PyTree
    ) -> PyTree:
        leaves = self.treedef.flatten_up_to(vector)
        for part, positions in zip(self.parts, self.positions, strict=True):
            treedef = jax.tree.structure(part.in_structure())
            image = product(part, jax.tree.unflatten(treedef, [leaves[i] for i in positions]))
            for i, leaf in zip(positions, jax.tree.leaves(image), strict=True):
                leaves[i] = leaf
        return jax.tree.unflatten(self.treedef, leaves)

    def mv(self, vector: PyTree[Array]) -> PyTree[Array]:
        """`P v`."""
        return self._each(lambda part, v: part.mv(v), vector)

    def inv_mv(self, vector: PyTree[Array]) -> PyTree[Array]:
        """`P⁻¹ v`."""
        return self._each(lambda part, v: part.inv_mv(v), vector)

    def sqrt_mv(self, vector: PyTree[Array]) -> PyTree[Array]:
        """`P^{1/2} v`."""
        return self._each(lambda part, v: part.sqrt_mv(v), vector)

    def inv_sqrt_mv(self, vector: PyTree[Array]) -> PyTree[Array]:
        """`P^{-1/2} v`."""
        return self._each(lambda part, v: part.inv_sqrt_mv(v), vector)

    def in_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        """The parts' structures, put together."""
        leaves: list[Any] = [None] * self.treedef.num_leaves
        for part, positions in zip(self.parts, self.positions, strict=True):
            for i, leaf in zip(positions, jax.tree.leaves(part.in_structure()), strict=True):
                leaves[i] = leaf
        return jax.tree.unflatten(self.treedef, leaves)


def _is_part(node: Any) -> bool:
    return isinstance(node, AbstractPreconditioner)


def _overlay(
    parts: tuple[AbstractPreconditioner, ...],
) -> tuple[Any, tuple[tuple[int, ...], ...]]:
    """The structure of the whole, and where in it the leaves of each part are."""
    if not parts:
        raise ValueError("BlockPreconditioner was given no parts: pass at least one.")
    trees = [part.in_structure() for part in parts]
    pairs = [jax.tree_util.tree_flatten_with_path(t, is_leaf=lambda x: x is None) for t in trees]
    containers = {treedef for _, treedef in pairs}
    if len(containers) > 1:
        raise ValueError(
            "the parts of a BlockPreconditioner live in different containers "
            f"({', '.join(map(str, containers))}): each has the structure of all parameters, with "
            "None for the leaves of others."
        )
    whole: list[Any] = [None] * len(pairs[0][0])
    owned: list[list[int]] = [[] for _ in parts]
    for number, (leaves, _) in enumerate(pairs):
        for i, (path, leaf) in enumerate(leaves):
            if leaf is None:
                continue
            if whole[i] is not None:
                raise ValueError(
                    f"two parts of a BlockPreconditioner have the leaf "
                    f"{jax.tree_util.keystr(path)}: each leaf belongs to one."
                )
            whole[i] = leaf
            owned[number].append(i)
    # Places that are None in every part are None in the parameters, hence no leaves.
    rank = {i: n for n, i in enumerate(i for i, leaf in enumerate(whole) if leaf is not None)}
    treedef = jax.tree.structure(jax.tree.unflatten(containers.pop(), whole))
    return treedef, tuple(tuple(rank[i] for i in indices) for indices in owned)
