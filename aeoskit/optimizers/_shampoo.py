"""Shampoo: one matrix an axis, a root of the second moments of the gradients along it."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from aeoskit.linalg import (
    AbstractPreconditioner,
    AxisFactor,
    KroneckerPreconditioner,
    symmetric_factor,
)

from ._hyperparameters import (
    as_decay_rate,
    as_hyperparameter,
    cast_to,
    is_concrete,
    one_minus_power,
)
from ._momentum import EMA
from ._optimizer import Optimizer, Order
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


class ShampooState(eqx.Module):
    """For each leaf the second moments along each axis: matrices, or diagonals of long axes."""

    statistics: tuple[tuple[Array, ...], ...]
    structure: Structure = eqx.field(static=True)


class Shampoo(AbstractPreconditionerRule):
    """One factor an axis: `P = (L + eps I)^{1/4} ⊗ (R + eps I)^{1/4}` on a matrix.

    `L` is the sum of `G Gᵀ` and `R` that of `Gᵀ G` over the steps or, given `beta2`, their moving
    averages. A leaf with k axes has k factors with the exponent `1 / (2k)`: 1/2 for a vector,
    which is Adagrad with a full matrix, and a scalar counts as a vector.

    Each step decomposes every factor anew: `O(n³)` for an axis of length n.

    Source: Gupta, Koren, Singer, arXiv 1802.09568, Algorithms 1 and 2. Their ε is in the initial
    statistics; of sums that is the same as here, where it is added to what was seen.

    Args:
        beta2: the decay rate of the statistics, in [0, 1). None for sums, as published.
        eps: added to every factor's eigenvalues, above 0.
        exponent: that of each factor of P, above 0. None for `1 / (2k)`. A fixed number and no
            array leaf.
        max_dimension: an axis that is longer has the diagonal of its statistics only.
        correction: with `beta2`, divides the averages by `1 - beta2^t`.

    Raises:
        TypeError: if a hyperparameter is no real number, or `exponent` is traced.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> rule = Shampoo(eps=1e-8)
        >>> state = rule.update(jnp.array([[4.0, 0.0]]), rule.init(jnp.zeros((1, 2))))
        >>> P = rule.operator(state, jnp.asarray(1), jnp.asarray(1.0))
        >>> P.inv_mv(jnp.array([[4.0, 0.0]])).tolist()
        [[1.000, 0.0]]
    """

    beta2: Scalar | None
    eps: Scalar
    exponent: float | None = eqx.field(static=True)
    max_dimension: int = eqx.field(static=True)
    correction: bool = eqx.field(static=True)

    def __init__(
        self,
        beta2: Any = None,
        eps: Any = 1e-4,
        exponent: float | int | None = None,
        max_dimension: int = 1024,
        correction: bool = False,
    ):
        self.beta2 = None if beta2 is None else as_decay_rate("beta2", beta2)
        self.eps = as_hyperparameter("eps", eps, above=0, mend="take a number such as 1e-4")
        if not is_concrete(exponent):
            raise TypeError(
                "exponent is traced, but it decides which program is compiled: pass a Python "
                "float, and sweep it as a group of runs."
            )
        if exponent is not None:
            as_hyperparameter("exponent", exponent, above=0, mend="take 0.25, or None")
        self.exponent = None if exponent is None else float(exponent)
        self.max_dimension = as_length("max_dimension", max_dimension, "take 1024")
        if correction and beta2 is None:
            raise ValueError(
                "correction=True divides moving averages by 1 - beta2**t, but without beta2 the "
                "statistics are sums: pass beta2, or leave correction out."
            )
        self.correction = correction

    def init(self, params: PyTree) -> ShampooState:
        structure = static_structure(params)

        def zeros(leaf: Any, size: int) -> Array:
            shape = (size, size) if self._full(size) else (size,)
            return jnp.zeros(shape, statistics_dtype(leaf.dtype))

        return ShampooState(
            tuple(tuple(zeros(leaf, n) for n in axes_of(leaf)) for leaf in structure[0]), structure
        )

    def update(self, grads: PyTree, state: ShampooState) -> ShampooState:
        def next_of(leaf: Array, before: tuple[Array, ...]) -> tuple[Array, ...]:
            leaf = widened(leaf)
            seen = [
                second_moment(leaf, axis, self._full(size)) for axis, size in enumerate(leaf.shape)
            ]
            if self.beta2 is None:
                return tuple(a + b for a, b in zip(before, seen, strict=True))
            return tuple(
                cast_to(self.beta2, b) * a + cast_to(1 - self.beta2, b) * b
                for a, b in zip(before, seen, strict=True)
            )

        leaves = jax.tree.leaves(grads)
        statistics = tuple(map(next_of, leaves, state.statistics))
        return ShampooState(statistics, state.structure)

    def operator(
        self, state: ShampooState, count: Int[Array, ""], bias: Scalar
    ) -> AbstractPreconditioner:
        del bias

        def factor(statistics: Array, exponent: float) -> AxisFactor:
            if self.correction and self.beta2 is not None:
                statistics = statistics / cast_to(one_minus_power(self.beta2, count), statistics)
            whole = AxisFactor(statistics) if statistics.ndim == 1 else symmetric_factor(statistics)
            eps = cast_to(self.eps, statistics)
            return AxisFactor(whole.values + eps, whole.vectors).power(exponent)

        factors = [
            tuple(factor(s, self.exponent or 1 / (2 * len(axes))) for s in axes)
            for axes in state.statistics
        ]
        _, treedef = state.structure
        return KroneckerPreconditioner(
            jax.tree.unflatten(treedef, factors), tree_of(state.structure), eps=0.0, check=False
        )

    def structure(self, state: ShampooState) -> PyTree[jax.ShapeDtypeStruct]:
        return tree_of(state.structure)

    def _full(self, size: int) -> bool:
        return size <= self.max_dimension


def shampoo(
    lr: Any,
    beta2: Any = None,
    eps: Any = 1e-4,
    *,
    beta1: Any = None,
    exponent: float | int | None = None,
    max_dimension: int = 1024,
    correction: bool = False,
    order: Order | str = "precondition_last",
    weight_decay: Any = None,
) -> Optimizer:
    """Shampoo: threshold `2 / lr` on its P, 38/lr with EMA momentum 0.9.

    Optax has none. Source: Gupta, Koren, Singer, arXiv 1802.09568.

    Args:
        lr: Learning rate. A number above 0, or a schedule.
        beta2: Decay rate of the statistics, in [0, 1). None for sums, as published.
        eps: Added to the eigenvalues of every factor, above 0.
        beta1: EMA momentum, in [0, 1). None for none.
        exponent: That of each factor of P. None for `1 / (2k)` on a leaf with k axes.
        max_dimension: An axis that is longer has a diagonal factor.
        correction: With `beta2`, divides the averages by `1 - beta2^t`.
        order: `"precondition_last"` has the momentum of gradients, `"precondition_first"` that of
            preconditioned ones.
        weight_decay: Decoupled weight decay, at least 0. None for none.

    Returns:
        An `Optimizer`, with optax's `init` and `update`, its P and its threshold.

    Raises:
        TypeError: if a hyperparameter is no real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = shampoo(0.1)
        >>> float(optimizer.threshold(optimizer.init(jnp.zeros((2, 3)))))
        20.0
    """
    rule = Shampoo(beta2, eps, exponent, max_dimension, correction)
    momentum = None if beta1 is None else EMA(beta1)
    return Optimizer(lr, momentum, rule, weight_decay, order)
