"""Adagrad: a metric that only grows."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from aeoskit.linalg import AbstractPreconditioner, DiagonalPreconditioner

from ._hyperparameters import as_hyperparameter, cast_to, is_concrete
from ._powers import as_epsilons, as_power, root_of
from ._preconditioning import AbstractPreconditionerRule

Scalar = Float[Array, ""]


class Adagrad(AbstractPreconditionerRule):
    """The root of the sum of all squared gradients: `P = (Σg² + eps_root)^power + eps`.

    The sum starts at `initial_accumulator`, and P is positive since one of the three is. P never
    falls, so `λ₁(P⁻¹H)` drifts below the threshold. optax's `scale_by_rss` is
    `Adagrad(0.0, eps, initial_accumulator)`, with its eps inside the root.

    Source: Duchi, Hazan, Singer, *Adaptive subgradient methods* (2011).

    Args:
        eps: added to the root, at least 0.
        eps_root: added inside the root, at least 0.
        initial_accumulator: where the sum starts, at least 0; not 0 together with both epsilons.
        power: above 0, 0.5 for the square root; a fixed number and no array leaf.

    Raises:
        TypeError: if a hyperparameter is no real number, or `power` is traced.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> rule = Adagrad(eps=0.0, initial_accumulator=0.25)
        >>> state = rule.init(jnp.zeros(1))
        >>> for gradient in (1.0, -1.0):
        ...     state = rule.update(jnp.array([gradient]), state)
        >>> rule.operator(state, jnp.asarray(2), jnp.asarray(1.0)).diagonal.tolist()
        [1.5]
    """

    eps: Scalar
    eps_root: Scalar
    initial_accumulator: Scalar
    power: float = eqx.field(static=True)

    def __init__(
        self,
        eps: Any = 0.0,
        eps_root: Any = 1e-7,
        initial_accumulator: Any = 0.1,
        power: float | int = 0.5,
    ):
        initial = as_hyperparameter(
            "initial_accumulator", initial_accumulator, at_least=0, mend="take 0 or 0.1"
        )
        floor = not is_concrete(initial) or float(initial) > 0
        self.eps, self.eps_root = as_epsilons(eps, eps_root, floor=floor)
        self.initial_accumulator = initial
        self.power = as_power(power)

    def init(self, params: PyTree) -> PyTree:
        return jax.tree.map(
            lambda leaf: (
                jnp.zeros_like(leaf, dtype=leaf.dtype) + cast_to(self.initial_accumulator, leaf)
            ),
            params,
        )

    def update(self, grads: PyTree, state: PyTree) -> PyTree:
        return jax.tree.map(
            lambda g, total: total + jnp.square(g.astype(total.dtype)), grads, state
        )

    def operator(
        self, state: PyTree, count: Int[Array, ""], bias: Scalar
    ) -> AbstractPreconditioner:
        del count, bias
        return DiagonalPreconditioner(
            jax.tree.map(lambda s: root_of(s, self.eps_root, self.power, self.eps), state)
        )

    def structure(self, state: PyTree) -> PyTree[jax.ShapeDtypeStruct]:
        return jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype), state)
