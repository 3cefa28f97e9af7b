"""AdaBelief: how far the gradients are from their own average."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from aeoskit.linalg import AbstractPreconditioner, DiagonalPreconditioner

from ._hyperparameters import as_decay_rate, cast_to, one_minus_power
from ._momentum import blend, zeros_like
from ._powers import (
    CORRECTS_FIRST,
    CORRECTS_SECOND,
    Correction,
    as_correction,
    as_epsilons,
)
from ._preconditioning import AbstractPreconditionerRule

Scalar = Float[Array, ""]


class AdaBeliefState(eqx.Module):
    """The average of the gradients, and that of their squared distances from it."""

    mean: PyTree
    nu: PyTree


class AdaBelief(AbstractPreconditionerRule):
    """The root of a moving average of `(g - m)²`, m the average of the gradients.

    `m = beta1 m + (1 - beta1) g`, `ν = beta2 ν + (1 - beta2) (g - m)² + eps_root`, both from zero,
    and `P = √ν + eps` with the corrections of `RMS`. As published, and as optax has it,
    `eps_root` is added to ν at *every* step, so that it accumulates to `eps_root / (1 - beta2)`.

    The rule keeps its own m, beside the momentum rule's buffer: one more copy of the parameters,
    for which it goes with any momentum rule in either order. Published AdaBelief has the same
    `beta1` in both.

    Source: Zhuang et al., *AdaBelief optimizer* (arXiv 2010.07468).

    Args:
        beta1: the decay rate of the rule's own average m, in [0, 1).
        beta2: the decay rate of the second moments, in [0, 1).
        eps: added to the root, at least 0.
        eps_root: added to ν at every step, at least 0; not 0 together with `eps`.
        correction: `"adam"`, `"first_moment"`, `"second_moment"` or `"none"`, see `RMS`.

    Raises:
        TypeError: if a hyperparameter is no real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> rule = AdaBelief(0.5, 0.9, correction="second_moment")
        >>> state = rule.update(jnp.array([3.0]), rule.init(jnp.zeros(1)))
        >>> rule.operator(state, jnp.asarray(1), jnp.asarray(1.0)).diagonal.tolist()  # 3 - 3 / 2
        [1.500]
    """

    beta1: Scalar
    beta2: Scalar
    eps: Scalar
    eps_root: Scalar
    correction: str = eqx.field(static=True)

    def __init__(
        self,
        beta1: Any = 0.9,
        beta2: Any = 0.999,
        eps: Any = 1e-16,
        eps_root: Any = 1e-16,
        correction: Correction | str = "adam",
    ):
        self.beta1 = as_decay_rate("beta1", beta1)
        self.beta2 = as_decay_rate("beta2", beta2)
        self.eps, self.eps_root = as_epsilons(eps, eps_root)
        self.correction = as_correction(correction)

    def init(self, params: PyTree) -> AdaBeliefState:
        return AdaBeliefState(zeros_like(params), zeros_like(params))

    def update(self, grads: PyTree, state: AdaBeliefState) -> AdaBeliefState:
        mean = blend(1 - self.beta1, grads, self.beta1, state.mean)
        squares = jax.tree.map(lambda g, m: jnp.square(g.astype(m.dtype) - m), grads, mean)
        nu = blend(1 - self.beta2, squares, self.beta2, state.nu)
        return AdaBeliefState(mean, jax.tree.map(lambda n: n + cast_to(self.eps_root, n), nu))

    def operator(
        self, state: AdaBeliefState, count: Int[Array, ""], bias: Scalar
    ) -> AbstractPreconditioner:
        def diagonal(nu: Array) -> Array:
            if self.correction in CORRECTS_SECOND:
                nu = nu / cast_to(one_minus_power(self.beta2, count), nu)
            root = jnp.sqrt(nu) + cast_to(self.eps, nu)
            return root * cast_to(bias, nu) if self.correction in CORRECTS_FIRST else root

        return DiagonalPreconditioner(jax.tree.map(diagonal, state.nu))

    def structure(self, state: AdaBeliefState) -> PyTree[jax.ShapeDtypeStruct]:
        return jax.tree.map(lambda nu: jax.ShapeDtypeStruct(nu.shape, nu.dtype), state.nu)
