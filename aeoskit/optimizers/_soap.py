"""SOAP: Adam in the eigenbasis of Shampoo's statistics."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from aeoskit.linalg import AbstractPreconditioner, RotatedDiagonalPreconditioner, multiply_along

from ._hyperparameters import as_decay_rate, as_hyperparameter, cast_to, one_minus_power
from ._momentum import EMA
from ._optimizer import Optimizer
from ._powers import CORRECTS_FIRST, CORRECTS_SECOND, Correction, as_correction
from ._preconditioning import AbstractPreconditionerRule
from ._statistics import (
    Structure,
    as_length,
    axes_of,
    second_moment,
    static_structure,
    statistics_dtype,
    tree_of,
    widened,
)

Scalar = Float[Array, ""]
# For each leaf and each of its axes; None where an axis is not rotated.
Axes = tuple[tuple[Array | None, ...], ...]


class SOAPState(eqx.Module):
    """Statistics and basis of each axis, second moments in that basis, the gradients seen."""

    statistics: Axes
    rotations: Axes
    moments: tuple[Array, ...]
    count: Int[Array, ""]
    structure: Structure = eqx.field(static=True)


class SOAP(AbstractPreconditionerRule):
    """Adam in a rotated basis: `P V = Q_L (d * (Q_Lᵀ V Q_R)) Q_Rᵀ` on a matrix.

    `Q_L` and `Q_R` follow the eigenvectors of moving averages of `G Gᵀ` and `Gᵀ G`: every
    `frequency` steps by one orthogonal iteration, `Q = QR(L Q)`, on what was seen before the
    step. `d = √ν̂ + eps` from the second moments ν of the gradients in that basis. The basis of
    the first step is that of its own gradient.

    Where that gradient is of lower rank, the basis of its null space is whichever the decomposition
    returns, another one in another program: two runs of the same numbers may then differ by more
    than rounding.

    Source: Vyas et al., arXiv 2409.11321, Algorithm 3. The authors' code differs: it takes no
    step at the first gradient, keeps ν sorted by the eigenvalues, and has ε under the correction.

    Args:
        beta2: the decay rate of ν, in [0, 1).
        eps: added to the root, above 0.
        frequency: steps from one change of the basis to the next.
        shampoo_beta: the decay rate of the statistics, in [0, 1); None for `beta2`.
        max_dimension: an axis that is longer is not rotated.
        rotate_vectors: whether leaves of one axis are rotated; if not, theirs is Adam's P.
        correction: `"adam"`, `"first_moment"`, `"second_moment"` or `"none"`, as in `RMS`.

    Raises:
        TypeError: if a hyperparameter is no real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> rule = SOAP()
        >>> state = rule.update(jnp.array([[3.0, 4.0]]), rule.init(jnp.zeros((1, 2))))
        >>> P = rule.operator(state, jnp.asarray(1), jnp.asarray(1.0))
        >>> P.inv_mv(jnp.array([[3.0, 4.0]])).tolist()
        [[0.60, 0.80]]
    """

    beta2: Scalar
    eps: Scalar
    shampoo_beta: Scalar | None
    frequency: int = eqx.field(static=True)
    max_dimension: int = eqx.field(static=True)
    rotate_vectors: bool = eqx.field(static=True)
    correction: str = eqx.field(static=True)

    def __init__(
        self,
        beta2: Any = 0.95,
        eps: Any = 1e-8,
        frequency: int = 10,
        shampoo_beta: Any = None,
        max_dimension: int = 10000,
        rotate_vectors: bool = False,
        correction: Correction | str = "adam",
    ):
        self.beta2 = as_decay_rate("beta2", beta2)
        self.eps = as_hyperparameter("eps", eps, above=0, mend="take a number such as 1e-8")
        self.shampoo_beta = (
            None if shampoo_beta is None else as_decay_rate("shampoo_beta", shampoo_beta)
        )
        self.frequency = as_length("frequency", frequency, "take 10")
        self.max_dimension = as_length("max_dimension", max_dimension, "take 10000")
        self.rotate_vectors = rotate_vectors
        self.correction = as_correction(correction)

    def init(self, params: PyTree) -> SOAPState:
        structure = static_structure(params)

        def for_axes(make: Any) -> Axes:
            return tuple(
                tuple(
                    make(n, n, dtype=statistics_dtype(leaf.dtype))
                    if self._rotated(leaf, n)
                    else None
                    for n in axes_of(leaf)
                )
                for leaf in structure[0]
            )

        return SOAPState(
            statistics=for_axes(lambda m, n, dtype: jnp.zeros((m, n), dtype)),
            rotations=for_axes(jnp.eye),
            moments=tuple(jnp.zeros_like(widened(p)) for p in jax.tree.leaves(params)),
            count=jnp.zeros((), jnp.int32),
            structure=structure,
        )

    def update(self, grads: PyTree, state: SOAPState) -> SOAPState:
        leaves = [widened(leaf) for leaf in jax.tree.leaves(grads)]
        beta = self.beta2 if self.shampoo_beta is None else self.shampoo_beta
        statistics = tuple(
            tuple(
                None
                if s is None
                else cast_to(beta, s) * s + cast_to(1 - beta, s) * second_moment(leaf, axis, True)
                for axis, s in enumerate(axes)
            )
            for leaf, axes in zip(leaves, state.statistics, strict=True)
        )
        # The basis of this step has not seen its gradient, but for that of the first.
        due = jnp.where(state.count == 0, 2, jnp.where(state.count % self.frequency == 0, 1, 0))
        rotations = jax.lax.switch(
            due,
            [
                lambda: state.rotations,
                lambda: jax.tree.map(_iterated, state.statistics, state.rotations),
                lambda: jax.tree.map(_eigenvectors, statistics),
            ],
        )
        moments = []
        for leaf, axes, nu in zip(leaves, rotations, state.moments, strict=True):
            for axis, rotation in enumerate(axes):
                if rotation is not None:
                    leaf = multiply_along(rotation, leaf, axis, transpose=True)
            moments.append(
                cast_to(self.beta2, nu) * nu + cast_to(1 - self.beta2, nu) * jnp.square(leaf)
            )
        return SOAPState(statistics, rotations, tuple(moments), state.count + 1, state.structure)

    def operator(
        self, state: SOAPState, count: Int[Array, ""], bias: Scalar
    ) -> AbstractPreconditioner:
        def diagonal(nu: Array, leaf: jax.ShapeDtypeStruct) -> Array:
            if self.correction in CORRECTS_SECOND:
                nu = nu / cast_to(one_minus_power(self.beta2, count), nu)
            root = jnp.sqrt(nu) + cast_to(self.eps, nu)
            root = root * cast_to(bias, nu) if self.correction in CORRECTS_FIRST else root
            return root.reshape(leaf.shape)

        leaves, treedef = state.structure
        diagonals = [diagonal(nu, leaf) for nu, leaf in zip(state.moments, leaves, strict=True)]
        return RotatedDiagonalPreconditioner(
            jax.tree.unflatten(treedef, diagonals),
            jax.tree.unflatten(treedef, state.rotations),
            like=tree_of(state.structure),
            check=False,
        )

    def structure(self, state: SOAPState) -> PyTree[jax.ShapeDtypeStruct]:
        return tree_of(state.structure)

    def _rotated(self, leaf: Any, size: int) -> bool:
        return size <= self.max_dimension and (self.rotate_vectors or len(leaf.shape) > 1)


def _eigenvectors(matrix: Array) -> Array:
    # Largest first: orthogonal iteration keeps that order.
    return jnp.linalg.eigh(matrix)[1][:, ::-1]


def _iterated(matrix: Array, rotation: Array) -> Array:
    return jnp.linalg.qr(multiply_along(matrix, rotation, 0))[0]


def soap(
    lr: Any,
    beta1: Any = 0.95,
    beta2: Any = 0.95,
    eps: Any = 1e-8,
    *,
    frequency: int = 10,
    shampoo_beta: Any = None,
    max_dimension: int = 10000,
    rotate_vectors: bool = False,
    correction: Correction | str = "adam",
    weight_decay: Any = None,
) -> Optimizer:
    """SOAP: Adam in the eigenbasis of Shampoo; threshold 78/lr on its P at `beta1=0.95`.

    Optax has none. Source: Vyas et al., arXiv 2409.11321.

    Args:
        lr: Learning rate. A number above 0, or a schedule.
        beta1: Decay rate of the momentum, in [0, 1).
        beta2: Decay rate of the second moments, in [0, 1).
        eps: Added to the root of the second moments, above 0.
        frequency: Steps from one change of the basis to the next.
        shampoo_beta: Decay rate of the statistics, in [0, 1). None for `beta2`.
        max_dimension: An axis that is longer is not rotated.
        rotate_vectors: Whether vectors and scalars have a basis too; if not, theirs is Adam's P.
        correction: "adam", "first_moment", "second_moment" or "none": see `RMS`.
        weight_decay: Decoupled weight decay, at least 0. None for none.

    Returns:
        An `Optimizer`, with optax's `init` and `update`, its P and its threshold.

    Raises:
        TypeError: if a hyperparameter is no real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = soap(0.1)
        >>> float(optimizer.threshold(optimizer.init(jnp.zeros((2, 3)))))
        780.0
    """
    rule = SOAP(beta2, eps, frequency, shampoo_beta, max_dimension, rotate_vectors, correction)
    return Optimizer(lr, EMA(beta1), rule, weight_decay)
