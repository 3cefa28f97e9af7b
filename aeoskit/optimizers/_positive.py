"""Whether P is positive definite: refused outside of compiled functions, made NaN inside."""

from __future__ import annotations

from typing import NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array

from aeoskit.linalg import (
    AbstractPreconditioner,
    AxisFactor,
    BlockPreconditioner,
    DiagonalPreconditioner,
    KroneckerPreconditioner,
    RotatedDiagonalPreconditioner,
)

from ._hyperparameters import is_concrete

P = TypeVar("P", bound=AbstractPreconditioner)


class _Entries(NamedTuple):
    """Numbers of P that belong to one leaf: eigenvalues, or a rotation, which may be negative."""

    what: str
    array: Array
    positive: bool


def positive(preconditioner: P) -> P:
    """P itself, refused where it is not positive definite.

    Inside a traced function, which cannot refuse, P is NaN there, and so is what is measured with
    it: second moments that overflow (of gradients above 1.8e19 in float32) would make `P⁻¹` and all
    eigenvalues zero.

    Args:
        preconditioner: P. Of a kind that is not known here, nothing is looked at.

    Returns:
        The same.

    Raises:
        ValueError: naming the leaf's path.
    """
    structure = preconditioner.in_structure()
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(structure)]
    for path, entries in zip(paths, _entries_of(preconditioner, len(paths)), strict=True):
        for what, array, wants_positive in entries:
            # Tracers, and the structures of an abstract evaluation, have no values.
            if not is_concrete(array) or not isinstance(array, jax.Array | np.ndarray):
                continue
            good = jnp.isfinite(array)
            if bool(jnp.all(good & (array > 0) if wants_positive else good)):
                continue
            name = jax.tree_util.keystr(path, simple=True, separator="/") or "the only leaf"
            raise ValueError(
                f"the metric has entries that are zero, negative or not finite, in {name}{what} "
                f"(the least is {float(jnp.min(array)):.3g}), and no P^(-1/2): give the optimizer "
                "an eps above 0 in the precision of that leaf, or P positive entries, and look at "
                "the gradients if it is NaN or infinite."
            )
    return _marked(preconditioner)


def _marked(preconditioner: P) -> P:
    """P with NaN in place of traced entries that no P has."""
    if isinstance(preconditioner, BlockPreconditioner):
        parts = tuple(_marked(part) for part in preconditioner.parts)
        return eqx.tree_at(lambda block: block.parts, preconditioner, parts)
    if isinstance(preconditioner, DiagonalPreconditioner | RotatedDiagonalPreconditioner):
        diagonal = jax.tree.map(_marked_entries, preconditioner.diagonal)
        return eqx.tree_at(lambda P: P.diagonal, preconditioner, diagonal)
    if isinstance(preconditioner, KroneckerPreconditioner):
        factors = jax.tree.map(
            lambda factor: AxisFactor(_marked_entries(factor.values), factor.vectors),
            preconditioner.factors,
            is_leaf=lambda node: isinstance(node, AxisFactor),
        )
        return eqx.tree_at(lambda P: P.factors, preconditioner, factors)
    return preconditioner


def _marked_entries(entries: Array) -> Array:
    if is_concrete(entries) or not isinstance(entries, jax.Array):
        return entries
    return jnp.where(jnp.isfinite(entries) & (entries > 0), entries, jnp.nan)


def _entries_of(preconditioner: AbstractPreconditioner, size: int) -> list[list[_Entries]]:
    """For each leaf of the structure, in order, the numbers that P has there."""
    if isinstance(preconditioner, DiagonalPreconditioner):
        return [[_Entries("", leaf, True)] for leaf in jax.tree.leaves(preconditioner.diagonal)]
    if isinstance(preconditioner, KroneckerPreconditioner):
        return [
            [
                _Entries(f", in {part} of the factor of axis {axis}", array, is_values)
                for axis, factor in enumerate(factors)
                if factor is not None
                for part, array, is_values in (
                    ("the eigenvalues", factor.values, True),
                    ("the eigenvectors", factor.vectors, False),
                )
                if array is not None
            ]
            for factors in preconditioner.factors
        ]
    if isinstance(preconditioner, RotatedDiagonalPreconditioner):
        return [
            [_Entries("", diagonal, True)]
            + [
                _Entries(f", in the rotation of axis {axis}", rotation, False)
                for axis, rotation in enumerate(rotations)
                if rotation is not None
            ]
            for diagonal, rotations in zip(
                preconditioner.diagonal, preconditioner.rotations, strict=True
            )
        ]
    found: list[list[_Entries]] = [[] for _ in range(size)]
    if isinstance(preconditioner, BlockPreconditioner):
        for part, positions in zip(preconditioner.parts, preconditioner.positions, strict=True):
            inner = _entries_of(part, len(positions))
            for position, entries in zip(positions, inner, strict=True):
                found[position] = entries
    return found
