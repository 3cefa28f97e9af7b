"""Muon: orthogonalized momentum, which is momentum in the metric `(M Mᵀ)^{1/2}` that it makes."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from einops import rearrange
from jaxtyping import Array, Float, Int, PyTree

from aeoskit.linalg import (
    AbstractPreconditioner,
    AxisFactor,
    BlockPreconditioner,
    KroneckerPreconditioner,
    restrict,
)

from ._direction_rule import AbstractDirectionRule
from ._hyperparameters import as_hyperparameter, cast_to
from ._preconditioning import RMS, AbstractParameterRule, AbstractPreconditionerRule
from ._statistics import (
    Structure,
    as_length,
    static_structure,
    statistics_dtype,
    tree_of,
    widened,
)

Scalar = Float[Array, ""]
Scale = Literal["width", "rms", "none"]
Matrices = str | Sequence[str] | Callable[[str], bool] | None
SCALES = ("width", "rms", "none")
# Of the published iteration `x (a + b x² + c x⁴)`: steep at zero, and about one at one.
NEWTON_SCHULZ = (3.4445, -4.7750, 2.0315)
# What an update of Adam has as the root of its mean square (arXiv 2502.16982).
ADAM_RMS = 0.2


class MuonState(eqx.Module):
    """The factor of each matrix's P, and the state of the rule for the other leaves."""

    factors: tuple[AxisFactor, ...]
    others: PyTree
    structure: Structure = eqx.field(static=True)
    matrices: tuple[bool, ...] = eqx.field(static=True)


class Muon(AbstractDirectionRule):
    """`P = (M Mᵀ)^{1/2} ⊗ I` on matrices, from the direction M that momentum makes.

    With the singular value decomposition `M = U S Vᵀ` the step `P⁻¹ M` is `U Vᵀ`. P acts on the
    smaller side, and has there the eigenvalues

    - `S + eps`, exactly orthogonal but for eps, with `newton_schulz=None`. Directions that M does
      not have are then all but free in the metric: where the Hessian has curvature along them,
      `λ₁(P⁻¹H)` is of the order of `1 / eps`.
    - `S / f(S)` with f the published iteration, `newton_schulz` times from `S / (‖M‖_F + eps)`:
      the step of the published code, `U f(S) Vᵀ`. They are at least `‖M‖_F / 3.4445^k`.

    divided by the scale of the update. Leaves that are not matrices have the P of `others`. One
    momentum rule serves all leaves, so that there is one threshold.

    With P held constant that threshold is exact. With P live it does not bound `λ₁(P⁻¹H)`, which
    goes far above it while training goes on: P forgets as fast as momentum does.

    Source: Jordan et al., *Muon: an optimizer for hidden layers in neural networks* (2024); the
    scale "rms" from Liu et al., arXiv 2502.16982. Each step costs one singular value
    decomposition a matrix.

    Args:
        newton_schulz: the number of iterations, 5 in the published code. None for the exact root.
        eps: as above, greater than 0.
        scale: what an update is multiplied by. `"width"`: `max(1, n / m)^{1/2}` for a matrix of
            shape `(m, n)`, n outputs; `"rms"`: `0.2 max(m, n)^{1/2}`; `"none"`: 1.
        others: the rule for other leaves. None for `RMS()`, hence Adam's P.
        where: which matrices: a path such as "layers/*", paths, or a predicate on a path, as in
            `aeoskit.linalg.restrict`. None for all leaves with two axes.

    Raises:
        TypeError: if a hyperparameter is no real number, or `others` needs the parameters.
        ValueError: if one is outside its range; from `init`, where `where` names a leaf that is
            no matrix.

    Example:
        >>> import jax.numpy as jnp
        >>> rule, M = Muon(newton_schulz=None, scale="none"), jnp.array([[3.0, 4.0]])
        >>> state = rule.follow(M, M, rule.init(jnp.zeros((1, 2))))
        >>> P = rule.operator(state, jnp.asarray(1), jnp.asarray(1.0))
        >>> P.inv_mv(M).tolist()
        [[0.60, 0.80]]
    """

    eps: Scalar
    others: AbstractPreconditionerRule
    newton_schulz: int | None = eqx.field(static=True)
    scale: str = eqx.field(static=True)
    where: Any = eqx.field(static=True)

    def __init__(
        self,
        newton_schulz: int | None = 5,
        eps: Any = 1e-8,
        scale: Scale | str = "width",
        others: AbstractPreconditionerRule | None = None,
        where: Matrices = None,
    ):
        self.eps = as_hyperparameter("eps", eps, above=0, mend="take a number such as 1e-8")
        if newton_schulz is not None:
            newton_schulz = as_length("newton_schulz", newton_schulz, "take 5, or None")
        self.newton_schulz = newton_schulz
        if scale not in SCALES:
            raise ValueError(
                f'scale must be one of {", ".join(SCALES)}, got {scale!r}: take "width" for the '
                f"published one."
            )
        self.scale = scale
        if isinstance(others, AbstractParameterRule):
            raise TypeError(
                f"others is {type(others).__name__}, whose P has the parameters in it, which Muon "
                f"does not hand on: take RMS()."
            )
        self.others = RMS() if others is None else others
        # Hashable, as a static field must be.
        self.where = tuple(where) if isinstance(where, list) else where

    def init(self, params: PyTree) -> MuonState:
        structure = static_structure(params)
        matrices = self._matrices(structure)

        def one(leaf: Any) -> AxisFactor:
            size, dtype = min(leaf.shape), statistics_dtype(leaf.dtype)
            return AxisFactor(jnp.ones(size, dtype), jnp.eye(size, dtype=dtype))

        chosen = [x for x, is_matrix in zip(structure[0], matrices, strict=True) if is_matrix]
        others = self.others.init(_masked(params, matrices, False))
        return MuonState(tuple(map(one, chosen)), others, structure, matrices)

    def follow(self, grads: PyTree, direction: PyTree, state: MuonState) -> MuonState:
        factors = tuple(
            self._factor(widened(leaf))
            for leaf in jax.tree.leaves(_masked(direction, state.matrices, True))
        )
        others = self.others.update(_masked(grads, state.matrices, False), state.others)
        return MuonState(factors, others, state.structure, state.matrices)

    def operator(
        self, state: MuonState, count: Int[Array, ""], bias: Scalar
    ) -> AbstractPreconditioner:
        leaves, treedef = state.structure
        factors = iter(state.factors)

        def axes(leaf: Any) -> tuple[AxisFactor | None, AxisFactor | None]:
            factor = next(factors)
            return (factor, None) if leaf.shape[0] <= leaf.shape[1] else (None, factor)

        sides = [
            axes(leaf) if is_matrix else None
            for leaf, is_matrix in zip(leaves, state.matrices, strict=True)
        ]
        like = _masked(tree_of(state.structure), state.matrices, True)
        parts: list[AbstractPreconditioner] = [
            KroneckerPreconditioner(jax.tree.unflatten(treedef, sides), like, eps=0.0, check=False)
        ]
        if all(state.matrices):
            return parts[0]
        return BlockPreconditioner(parts=[*parts, self.others.operator(state.others, count, bias)])

    def structure(self, state: MuonState) -> PyTree[jax.ShapeDtypeStruct]:
        return tree_of(state.structure)

    def _factor(self, matrix: Array) -> AxisFactor:
        rows, columns = matrix.shape
        wide = matrix if rows <= columns else rearrange(matrix, "i j -> j i")
        # Not the eigenvalues of M Mᵀ, whose roots know small singular values to half the digits.
        vectors, singular, _ = jnp.linalg.svd(wide, full_matrices=False)
        eps = cast_to(self.eps, matrix)
        if self.newton_schulz is None:
            values = singular + eps
        else:
            norm = jnp.linalg.norm(singular) + eps
            a, b, c = NEWTON_SCHULZ
            x, gain = singular / norm, jnp.ones_like(singular)
            # The gain f(x) / x as a product of factors, none of which is 0 / 0 at x = 0.
            for _ in range(self.newton_schulz):
                factor = a + b * x**2 + c * x**4
                x, gain = x * factor, gain * factor
            values = norm / gain
        scale = {
            "width": max(1.0, columns / rows) ** 0.5,
            "rms": ADAM_RMS * max(rows, columns) ** 0.5,
            "none": 1.0,
        }[self.scale]
        return AxisFactor(values / scale, vectors)

    def _matrices(self, structure: Structure) -> tuple[bool, ...]:
        leaves, treedef = structure
        if self.where is None:
            return tuple(len(leaf.shape) == 2 for leaf in leaves)
        where = list(self.where) if isinstance(self.where, tuple) else self.where
        chosen = restrict(tree_of(structure), where)
        for path, leaf in jax.tree_util.tree_leaves_with_path(chosen):
            if len(leaf.shape) != 2:
                raise ValueError(
                    f"params{jax.tree_util.keystr(path)} has shape {leaf.shape}, but Muon takes "
                    f"matrices: leave it out of `where`, so that it has the P of `others`."
                )
        return tuple(leaf is not None for leaf in treedef.flatten_up_to(chosen))


def _masked(tree: PyTree, matrices: tuple[bool, ...], keep: bool) -> PyTree:
    leaves, treedef = jax.tree.flatten(tree)
    kept = [x if flag == keep else None for x, flag in zip(leaves, matrices, strict=True)]
    return jax.tree.unflatten(treedef, kept)
