"""Operators on a part of the parameters: a layer, a block, whatever a path names."""

import fnmatch
from typing import Any, TypeAlias

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, PyTree

from ..vectors._tree import vector_structure
from ._protocol import AbstractWrappedOperator

# A path, paths, a predicate on a path (a callable), or a prefix of booleans: see `restrict`.
LeafSelector: TypeAlias = Any


def _paths(tree: PyTree) -> list[str]:
    keys, _ = jax.tree_util.tree_flatten_with_path(tree)
    return [jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in keys]


def _matches(path: str, pattern: str) -> bool:
    # The path of the leaf, or of a container that holds it.
    parts = path.split("/")
    holders = ("/".join(parts[: i + 1]) for i in range(len(parts)))
    return any(fnmatch.fnmatchcase(holder, pattern) for holder in holders)


def _is_patterns(where: Any) -> bool:
    # An empty list is an empty prefix, not an empty list of patterns.
    return (
        isinstance(where, list | tuple) and bool(where) and all(isinstance(w, str) for w in where)
    )


def _is_booleans(where: Any) -> bool:
    # A module that is called as a network may hold booleans.
    leaves = jax.tree.leaves(where)
    return bool(leaves) and all(isinstance(leaf, bool) for leaf in leaves)


def select(tree: PyTree, where: LeafSelector) -> tuple[bool, ...]:
    """Marks the leaves that `where` names, in the order of the leaves."""
    paths = _paths(tree)
    if isinstance(where, str):
        chosen = [_matches(path, where) for path in paths]
    elif _is_patterns(where):
        missing = [w for w in where if not any(_matches(path, w) for path in paths)]
        if missing:
            raise ValueError(f"restriction: {_no_match(missing[0], paths)}")
        chosen = [any(_matches(path, w) for w in where) for path in paths]
    elif callable(where) and not _is_booleans(where):
        chosen = [bool(where(path)) for path in paths]
    else:
        chosen = _from_prefix(tree, where, paths)
    if not any(chosen):
        raise ValueError(f"restriction: {_no_match(where, paths)}")
    return tuple(chosen)


def _no_match(where: Any, paths: list[str]) -> str:
    return (
        f"{where!r} names no leaf of the operator's vectors; there are "
        f"{', '.join(map(repr, paths))}. A name matches a leaf or a container that holds leaves, "
        "and `*` also matches slashes."
    )


def _from_prefix(tree: PyTree, where: Any, paths: list[str]) -> list[bool]:
    flags: list[Any] = []
    try:
        jax.tree.map(
            lambda flag, part: flags.extend([flag] * len(jax.tree.leaves(part))), where, tree
        )
    except (ValueError, TypeError) as error:
        raise ValueError(
            "restriction: expected a path, paths, a predicate on a path, or a pytree of booleans "
            f"that is a prefix of the operator's vectors (leaves {', '.join(map(repr, paths))}); "
            f"got {where!r}."
        ) from error
    if not all(isinstance(flag, bool) for flag in flags):
        raise ValueError(
            f"restriction: the leaves of a prefix are True or False, not {where!r}; masks inside "
            "of a leaf are not supported."
        )
    return flags


def restrict(tree: PyTree, where: LeafSelector) -> PyTree:
    """The part of a pytree that `where` names: its structure, with None for all other leaves.

    Args:
        tree: A vector, a structure, or parameters.
        where: What to keep. A path such as "layers/0" (a leaf, or a container that holds leaves;
            shell wildcards allowed, and `*` also matches slashes: "layers/*/bias", "*bias"), a
            list of paths, a predicate on the path of a leaf, or a pytree of booleans that is a
            prefix of the tree.

    Returns:
        The same containers. None is an empty pytree to JAX: only the kept leaves are leaves.

    Raises:
        ValueError: `where` names no leaf; the message lists the leaves.

    Example:
        >>> restrict({"a": 1.0, "b": {"w": 2.0, "v": 3.0}}, "b/w")
        {'a': None, 'b': {'v': None, 'w': 2.0}}
    """
    leaves, treedef = jax.tree.flatten(tree)
    kept = select(tree, where)
    parts = [x if keep else None for x, keep in zip(leaves, kept, strict=True)]
    return jax.tree.unflatten(treedef, parts)


class RestrictedOperator(AbstractWrappedOperator):
    """A diagonal block `E^T A E` of an operator: that of some leaves of its vectors.

    E embeds by zeros. A product costs one product of A, whatever the size of the part. Vectors
    have the containers of A's, with None for the leaves that are left out.

    Args:
        operator: A, with equal input and output structures.
        where: Which leaves: a path or glob, several, a predicate on a path, or a pytree prefix of
            booleans, as in `restrict`.

    Raises:
        ValueError: `where` names no leaf; the message lists the leaves.

    Example:
        >>> from aeoskit.linalg import DiagonalPreconditioner, eigensolve
        >>> A = DiagonalPreconditioner({"a": jnp.array([9.0]), "b": jnp.array([1.0, 4.0])})
        >>> part = RestrictedOperator(A, "b")
        >>> solution = eigensolve(part)
        >>> solution.values.tolist()
        [4.0]
        >>> jax.vmap(part.embed)(solution.vectors)["a"].tolist()
        [[0.0]]
    """

    operator: lx.AbstractLinearOperator
    # Booleans in the order of the leaves: hashable, so that a call does not retrace.
    kept: tuple[bool, ...] = eqx.field(static=True)

    def __init__(self, operator: lx.AbstractLinearOperator, where: LeafSelector):
        self.operator = operator
        self.kept = select(operator.in_structure(), where)

    def restrict(self, vector: PyTree) -> PyTree:
        """The part of a full vector (or block, or structure)."""
        leaves, treedef = jax.tree.flatten(vector)
        parts = [x if keep else None for x, keep in zip(leaves, self.kept, strict=True)]
        return jax.tree.unflatten(treedef, parts)

    def embed(self, vector: PyTree[Array]) -> PyTree[Array]:
        """The full vector, with zeros elsewhere. For a block: `jax.vmap(operator.embed)`."""
        leaves, treedef = jax.tree.flatten(self.operator.in_structure())
        given = jax.tree.leaves(vector)
        if len(given) != sum(self.kept):
            raise ValueError(
                f"RestrictedOperator.embed: the part has {sum(self.kept)} leaves, the vector "
                f"{len(given)}."
            )
        rest = iter(given)
        parts = [
            next(rest) if keep else jnp.zeros(s.shape, s.dtype)
            for s, keep in zip(leaves, self.kept, strict=True)
        ]
        return jax.tree.unflatten(treedef, parts)

    def mv(self, vector: PyTree[Array]) -> PyTree[Array]:
        """`E^T A E v`; costs a product of A."""
        return self.restrict(self.operator.mv(self.embed(vector)))

    def in_structure(self) -> PyTree[jax.ShapeDtypeStruct]:
        """The part of A's."""
        return self.restrict(self.operator.in_structure())


def layers_of(operator: lx.AbstractLinearOperator, depth: int = 1) -> dict[str, RestrictedOperator]:
    """One operator for each layer: the diagonal blocks of an operator on parameters.

    Args:
        operator: A.
        depth: How far down the containers a layer sits: 1 for `{"dense0": ..., "dense1": ...}`,
            2 for `{"layers": [..., ...]}`. A leaf that is not so deep is a layer of its own.

    Returns:
        From the path of each layer to its `RestrictedOperator`, in the order of the leaves.

    Raises:
        ValueError: A depth under 1.

    Example:
        >>> from aeoskit.linalg import DiagonalPreconditioner
        >>> A = DiagonalPreconditioner({"layers": [jnp.ones(2), jnp.ones(3)], "out": jnp.ones(1)})
        >>> list(layers_of(A)), list(layers_of(A, depth=2))
        (['layers', 'out'], ['layers/0', 'layers/1', 'out'])
    """
    if isinstance(depth, bool) or not isinstance(depth, int) or depth < 1:
        raise ValueError(f"layers_of(depth={depth!r}): a whole number, 1 or more.")
    names: dict[str, list[str]] = {}
    for path in _paths(operator.in_structure()):
        names.setdefault("/".join(path.split("/")[:depth]), []).append(path)
    return {
        name: RestrictedOperator(operator, frozenset(paths).__contains__)
        for name, paths in names.items()
    }


@vector_structure.register(RestrictedOperator)
def _(operator: RestrictedOperator) -> PyTree[jax.ShapeDtypeStruct]:
    return operator.restrict(vector_structure(operator.operator))
