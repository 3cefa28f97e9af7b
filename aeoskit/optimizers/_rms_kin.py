"""Kin of `RMS`: one second moment for all parameters, and one that starts at the gradient."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int, PyTree

from aeoskit.linalg import (
    AbstractPreconditioner,
    DiagonalPreconditioner,
    IdentityPreconditioner,
)

from ._hyperparameters import as_decay_rate, cast_to, one_minus_power
from ._powers import (
    CORRECTS_FIRST,
    CORRECTS_SECOND,
    Correction,
    as_correction,
    as_epsilons,
    root_of,
)
from ._preconditioning import RMS, AbstractPreconditionerRule

Scalar = Float[Array, ""]


class ScalarRMSState(eqx.Module):
    """The one second moment; the identity that knows the parameters' structure."""

    nu: Scalar
    identity: IdentityPreconditioner


class ScalarRMS(AbstractPreconditionerRule):
    """One second moment for all parameters: `ν = beta2 ν + (1 - beta2) ‖g‖²`, `P = (√ν + eps) I`.

    Gradient descent with a learning rate that adapts to the size of the gradient. ‖g‖² is the sum
    over all leaves, not the mean.

    Source: Cohen, Damian, Talwalkar, Kolter, Lee, *Understanding optimization in deep learning
    with central flows* (arXiv 2410.24206).

    Args:
        beta2: the decay rate of the second moment, in [0, 1).
        eps: added to the root, at least 0.
        eps_root: added inside the root, at least 0; not 0 together with `eps`.
        correction: `"adam"`, `"first_moment"`, `"second_moment"` or `"none"`, see `RMS`.

    Raises:
        TypeError: if a hyperparameter is no real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> rule = ScalarRMS(0.0)
        >>> state = rule.update(jnp.array([3.0, 4.0]), rule.init(jnp.zeros(2)))
        >>> rule.operator(state, jnp.asarray(1), jnp.asarray(1.0)).diagonal.tolist()
        [5.000, 5.000]
    """

    beta2: Scalar
    eps: Scalar
    eps_root: Scalar
    correction: str = eqx.field(static=True)

    def __init__(
        self,
        beta2: Any = 0.99,
        eps: Any = 1e-8,
        eps_root: Any = 0.0,
        correction: Correction | str = "none",
    ):
        self.beta2 = as_decay_rate("beta2", beta2)
        self.eps, self.eps_root = as_epsilons(eps, eps_root)
        self.correction = as_correction(correction)

    def init(self, params: PyTree) -> ScalarRMSState:
        return ScalarRMSState(jnp.zeros_like(self.beta2), IdentityPreconditioner(params))

    def update(self, grads: PyTree, state: ScalarRMSState) -> ScalarRMSState:
        nu = self.beta2 * state.nu
        for leaf in jax.tree.leaves(grads):
            nu = nu + (1 - self.beta2) * jnp.sum(jnp.square(leaf.astype(nu.dtype)))
        return ScalarRMSState(nu, state.identity)

    def operator(
        self, state: ScalarRMSState, count: Int[Array, ""], bias: Scalar
    ) -> AbstractPreconditioner:
        nu = state.nu
        if self.correction in CORRECTS_SECOND:
            nu = nu / one_minus_power(self.beta2, count)
        root = root_of(nu, self.eps_root, 0.5, self.eps)
        if self.correction in CORRECTS_FIRST:
            root = root * cast_to(bias, root)
        return DiagonalPreconditioner(
            jax.tree.map(
                lambda leaf: jnp.broadcast_to(root.astype(leaf.dtype), leaf.shape),
                self.structure(state),
            )
        )

    def structure(self, state: ScalarRMSState) -> PyTree[jax.ShapeDtypeStruct]:
        return state.identity.in_structure()


class GradientStartState(eqx.Module):
    """The second moments, and whether they have seen a gradient."""

    nu: PyTree
    started: Bool[Array, ""]


class GradientStart(AbstractPreconditionerRule):
    """`RMS` whose second moments start at the first squared gradient, `ν₀ = g₀²`: GI-Adam.

    The first step then has `ν = g₀²` whatever `beta2`. The corrections are those of the `RMS`:
    under `"adam"` the division by `1 - beta2^t` stays, though no longer called for, and makes the
    first steps shorter by `√(1 - beta2^t)`: a warmup by itself. `"first_moment"` leaves it out.

    Source: Kalra, Barkeshli, *Why warmup the learning rate?* (arXiv 2406.09405).

    Args:
        rms: the `RMS` to start so.

    Raises:
        TypeError: for anything else.

    Example:
        >>> import jax.numpy as jnp
        >>> rule = GradientStart(RMS(0.999, correction="first_moment"))
        >>> state = rule.update(jnp.array([3.0]), rule.init(jnp.zeros(1)))
        >>> rule.operator(state, jnp.asarray(1), jnp.asarray(1.0)).diagonal.tolist()
        [3.000]
    """

    rms: RMS

    def __init__(self, rms: RMS):
        if not isinstance(rms, RMS):
            raise TypeError(
                f"GradientStart starts the second moments of an RMS, got {type(rms).__name__}: "
                f"pass GradientStart(RMS(beta2))."
            )
        self.rms = rms

    @property
    def correction(self) -> str:
        """That of the `RMS`."""
        return self.rms.correction

    def init(self, params: PyTree) -> GradientStartState:
        return GradientStartState(self.rms.init(params), jnp.zeros((), bool))

    def update(self, grads: PyTree, state: GradientStartState) -> GradientStartState:
        nu = jax.tree.map(
            lambda g, nu: jnp.where(state.started, nu, jnp.square(g.astype(nu.dtype))),
            grads,
            state.nu,
        )
        return GradientStartState(self.rms.update(grads, nu), jnp.ones_like(state.started))

    def operator(
        self, state: GradientStartState, count: Int[Array, ""], bias: Scalar
    ) -> AbstractPreconditioner:
        return self.rms.operator(state.nu, count, bias)

    def structure(self, state: GradientStartState) -> PyTree[jax.ShapeDtypeStruct]:
        return self.rms.structure(state.nu)
