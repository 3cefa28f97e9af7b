"""AMSGrad: second moments that are not forgotten."""

from __future__ import annotations

from typing import Any, Literal

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
    as_power,
    root_of,
)
from ._preconditioning import AbstractPreconditionerRule

Scalar = Float[Array, ""]
Maximum = Literal["running", "previous"]
MAXIMA = ("running", "previous")


class AMSGradState(eqx.Module):
    """The moving average, the maximum that P is made of, and the number of gradients seen."""

    nu: PyTree
    maximum: PyTree
    count: Int[Array, ""]


class AMSGrad(AbstractPreconditionerRule):
    """The root of the largest moving average of squared gradients so far: AMSGrad, Padam.

    `ν = beta2 ν + (1 - beta2) g²` from zero, `P = (max + eps_root)^power + eps`, where max is

    - `maximum="running"`: the largest ν of all steps, as published. Under `correction="adam"` or
      `"second_moment"` each ν is divided by its `1 - beta2^t` *before* the maximum is taken, as
      optax's `scale_by_amsgrad` does by default;
    - `maximum="previous"`: `max(ν_t, ν_{t-1})`, without a correction of ν, as the code of arXiv
      2207.14484 has it. This P forgets as that of `RMS` does.

    P is positive since one of the epsilons is. A running maximum never falls, so `λ₁(P⁻¹H)` stays
    below the threshold once a large gradient has passed.

    Source: Reddi, Kale, Kumar, *On the convergence of Adam and beyond* (2018).

    Args:
        beta2: the decay rate of the second moments, in [0, 1).
        eps: added to the root, at least 0.
        eps_root: added inside the root, at least 0; not 0 together with `eps`.
        power: above 0, 0.5 for the square root; a fixed number and no array leaf.
        correction: `"adam"`, `"first_moment"`, `"second_moment"` or `"none"`, see `RMS`.
        maximum: `"running"` or `"previous"`, as above.

    Raises:
        TypeError: if a hyperparameter is no real number, or `power` is traced.
        ValueError: if one is outside its range, or `maximum="previous"` meets a correction of ν.

    Example:
        >>> import jax.numpy as jnp
        >>> rule = AMSGrad(0.5, correction="none")
        >>> state = rule.init(jnp.zeros(1))
        >>> for gradient in (4.0, 0.0, 0.0):
        ...     state = rule.update(jnp.array([gradient]), state)
        >>> rule.operator(state, jnp.asarray(3), jnp.asarray(1.0)).diagonal.tolist()  # √(16 / 2)
        [2.828]
    """

    beta2: Scalar
    eps: Scalar
    eps_root: Scalar
    power: float = eqx.field(static=True)
    correction: str = eqx.field(static=True)
    maximum: str = eqx.field(static=True)

    def __init__(
        self,
        beta2: Any = 0.999,
        eps: Any = 1e-8,
        eps_root: Any = 0.0,
        power: float | int = 0.5,
        correction: Correction | str = "adam",
        maximum: Maximum | str = "running",
    ):
        self.beta2 = as_decay_rate("beta2", beta2)
        self.eps, self.eps_root = as_epsilons(eps, eps_root)
        self.power = as_power(power)
        self.correction = as_correction(correction)
        if maximum not in MAXIMA:
            raise ValueError(
                f"maximum must be one of {', '.join(MAXIMA)}, got {maximum!r}: "
                f'take "running" for AMSGrad as published.'
            )
        if maximum == "previous" and correction in CORRECTS_SECOND:
            raise ValueError(
                f'maximum="previous" is defined without a correction of the second moments, got '
                f'correction={correction!r}: take correction="none".'
            )
        self.maximum = maximum

    def init(self, params: PyTree) -> AMSGradState:
        return AMSGradState(zeros_like(params), zeros_like(params), jnp.zeros((), jnp.int32))

    def update(self, grads: PyTree, state: AMSGradState) -> AMSGradState:
        squares = jax.tree.map(lambda g, nu: jnp.square(g.astype(nu.dtype)), grads, state.nu)
        nu = blend(1 - self.beta2, squares, self.beta2, state.nu)
        count = state.count + 1
        seen = nu
        if self.correction in CORRECTS_SECOND:
            weight = one_minus_power(self.beta2, count)
            seen = jax.tree.map(lambda leaf: leaf / cast_to(weight, leaf), nu)
        other = state.maximum if self.maximum == "running" else state.nu
        return AMSGradState(nu, jax.tree.map(jnp.maximum, seen, other), count)

    def operator(
        self, state: AMSGradState, count: Int[Array, ""], bias: Scalar
    ) -> AbstractPreconditioner:
        del count

        def diagonal(largest: Array) -> Array:
            root = root_of(largest, self.eps_root, self.power, self.eps)
            return root * cast_to(bias, root) if self.correction in CORRECTS_FIRST else root

        return DiagonalPreconditioner(jax.tree.map(diagonal, state.maximum))

    def structure(self, state: AMSGradState) -> PyTree[jax.ShapeDtypeStruct]:
        return jax.tree.map(lambda nu: jax.ShapeDtypeStruct(nu.shape, nu.dtype), state.nu)
