"""Diagonal metrics: powers of second moments, per coordinate or one for all.

They differ in their averages; the power, the two epsilons and the bias corrections are shared.
"""

from __future__ import annotations

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, PyTree

from aeoskit.linalg import AbstractPreconditioner, DiagonalPreconditioner, IdentityPreconditioner

from ._hyperparameters import (
    as_decay_rate,
    as_hyperparameter,
    cast_to,
    is_concrete,
    one_minus_power,
)
from ._preconditioner import AbstractParameterRule, AbstractPreconditionerRule
from ._trees import blend, structure_of, zeros_like

Scalar = Float[Array, ""]
Correction = Literal["adam", "first_moment", "second_moment", "none"]
CORRECTIONS = ("adam", "first_moment", "second_moment", "none")
# The corrections with which P includes that of the second moments, and that of the momentum buffer.
CORRECTS_SECOND = ("adam", "second_moment")
CORRECTS_FIRST = ("adam", "first_moment")
Maximum = Literal["running", "previous"]
MAXIMA = ("running", "previous")


def as_epsilons(eps: Any, eps_root: Any, *, floor: bool = False) -> tuple[Scalar, Scalar]:
    """Convert both epsilons to array leaves; not both 0, unless the moments have a floor."""
    eps = as_hyperparameter("eps", eps, at_least=0, fix="take a number such as 1e-8")
    eps_root = as_hyperparameter(
        "eps_root", eps_root, at_least=0, fix="take 0 or a number such as 1e-16"
    )
    if not floor and all(is_concrete(e) and float(e) == 0 for e in (eps, eps_root)):
        raise ValueError(
            "eps and eps_root are both 0, so that P is singular wherever a gradient was "
            "always zero: take eps=1e-8."
        )
    return eps, eps_root


def as_power(power: Any) -> float:
    """Check the power, a Python number above 0, since 0.5 uses `sqrt` and others do not."""
    if not is_concrete(power):
        raise TypeError(
            "power is traced, but it decides which program is compiled: pass a Python float, "
            "and sweep it as a group of runs."
        )
    as_hyperparameter("power", power, above=0, fix="take 0.5 for the square root")
    return float(power)


def as_correction(correction: Any) -> str:
    """Check the name of a correction."""
    if correction not in CORRECTIONS:
        raise ValueError(
            f"correction must be one of {', '.join(CORRECTIONS)}, got {correction!r}: "
            f'take "adam" for the published one.'
        )
    return correction


def root_of(nu: Array, eps_root: Scalar | None, power: float, eps: Scalar) -> Array:
    """`(ν + eps_root)^power + eps`, in the dtype of ν."""
    nu = nu if eps_root is None else nu + cast_to(eps_root, nu)
    root = jnp.sqrt(nu) if power == 0.5 else nu ** jnp.asarray(power, nu.dtype)
    return root + cast_to(eps, nu)


class AbstractMoments(AbstractPreconditionerRule):
    """A rule over moving averages of second moments, with the bias corrections of `RMS`."""

    beta2: eqx.AbstractVar[Scalar]
    eps: eqx.AbstractVar[Scalar]
    correction: eqx.AbstractVar[str]

    @property
    def corrects_momentum(self) -> bool:
        return self.correction in CORRECTS_FIRST

    def debiased(self, nu: Array, count: Int[Array, ""]) -> Array:
        """The average, divided by its weight after `count` steps if that is corrected."""
        if self.correction not in CORRECTS_SECOND:
            return nu
        return nu / cast_to(one_minus_power(self.beta2, count), nu)

    def root(
        self, nu: Array, bias: Scalar, eps_root: Scalar | None = None, power: float = 0.5
    ) -> Array:
        """The power of a debiased average plus eps, times momentum's correction if P has that."""
        root = root_of(nu, eps_root, power, self.eps)
        return root * cast_to(bias, root) if self.corrects_momentum else root


def average_squares(beta2: Scalar, leaves: PyTree, nu: PyTree) -> PyTree:
    """`beta2 ν + (1 - beta2) x²`."""
    squares = jax.tree.map(lambda x, v: jnp.square(x.astype(v.dtype)), leaves, nu)
    return blend(1 - beta2, squares, beta2, nu)


class RMS(AbstractMoments):
    """The root of a moving average of squared gradients: RMSProp, Adam, NAdam, Padam.

    `ν = beta2 ν + (1 - beta2) g²` from zero, and, with t the number of gradients seen,

    - `correction="none"`: `P = (ν + eps_root)^power + eps`;
    - `"second_moment"`: `P = (ν / (1 - beta2^t) + eps_root)^power + eps`, as the paper's authors
      (arXiv 2207.14484);
    - `"adam"`: that times momentum's correction, `1 - beta1^t` for `EMA(beta1)`. Both of Adam's
      corrections are then in P, and Adam is `x -= lr P⁻¹ m`;
    - `"first_moment"`: momentum's correction without that of ν.

    A coordinate whose gradient was always zero has `P = eps_root^power + eps` (times the
    correction), hence `eps = eps_root = 0` is refused: P would not be positive there.

    Args:
        beta2: the decay rate of the second moments, in [0, 1).
        eps: added to the root, at least 0.
        eps_root: added inside the root, at least 0; not 0 together with `eps`.
        power: above 0, 0.5 for the square root. A fixed number, not an array leaf, since 0.5 uses
            `sqrt` and others do not.
        correction: `"adam"`, `"first_moment"`, `"second_moment"` or `"none"`, as above.

    Raises:
        TypeError: if a hyperparameter is not a real number, or `power` is traced.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> rule = RMS(0.9, eps=1e-8, correction="second_moment")
        >>> state = rule.update(jnp.array([3.0]), rule.init(jnp.zeros(1)))
        >>> rule.operator(state, jnp.asarray(1), jnp.asarray(1.0)).diagonal.tolist()
        [3.000]
    """

    beta2: Scalar
    eps: Scalar
    eps_root: Scalar
    power: float = eqx.field(static=True)
    correction: str = eqx.field(static=True)

    def __init__(
        self,
        beta2: Any = 0.999,
        eps: Any = 1e-8,
        eps_root: Any = 0.0,
        power: float | int = 0.5,
        correction: Correction | str = "adam",
    ):
        self.beta2 = as_decay_rate("beta2", beta2)
        self.eps, self.eps_root = as_epsilons(eps, eps_root)
        self.power = as_power(power)
        self.correction = as_correction(correction)

    def init(self, params: PyTree) -> PyTree:
        return zeros_like(params)

    def update(self, grads: PyTree, state: PyTree) -> PyTree:
        return average_squares(self.beta2, grads, state)

    def operator(
        self, state: PyTree, count: Int[Array, ""], bias: Scalar
    ) -> AbstractPreconditioner:
        def diagonal(nu: Array) -> Array:
            return self.root(self.debiased(nu, count), bias, self.eps_root, self.power)

        return DiagonalPreconditioner(jax.tree.map(diagonal, state))

    def structure(self, state: PyTree) -> PyTree[jax.ShapeDtypeStruct]:
        return structure_of(state)


class GradientStartState(eqx.Module):
    """The second moments, and whether they include a gradient."""

    nu: PyTree
    started: Bool[Array, ""]


class GradientStart(AbstractPreconditionerRule):
    """`RMS` whose second moments start at the first squared gradient, `ν₀ = g₀²`: GI-Adam.

    The first step then has `ν = g₀²` whatever `beta2`. The corrections are those of the `RMS`:
    under `"adam"` the division by `1 - beta2^t` stays, though it is no longer needed, and makes the
    first steps shorter by `√(1 - beta2^t)`: an implicit warmup. `"first_moment"` leaves it out.

    Source: Kalra, Barkeshli, *Why warmup the learning rate?* (arXiv 2406.09405).

    Args:
        rms: the `RMS` to initialize this way.

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
    def corrects_momentum(self) -> bool:
        return self.rms.corrects_momentum

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


class ScalarRMSState(eqx.Module):
    """The single second moment, and an identity with the parameters' structure."""

    nu: Scalar
    identity: IdentityPreconditioner


class ScalarRMS(AbstractMoments):
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
        TypeError: if a hyperparameter is not a real number.
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
        root = self.root(self.debiased(state.nu, count), bias, self.eps_root)
        return DiagonalPreconditioner(
            jax.tree.map(
                lambda leaf: jnp.broadcast_to(root.astype(leaf.dtype), leaf.shape),
                self.structure(state),
            )
        )

    def structure(self, state: ScalarRMSState) -> PyTree[jax.ShapeDtypeStruct]:
        return state.identity.in_structure()


class AMSGradState(eqx.Module):
    """The moving average, the maximum in P, and the number of gradients seen."""

    nu: PyTree
    maximum: PyTree
    count: Int[Array, ""]


class AMSGrad(AbstractMoments):
    """The root of the largest moving average of squared gradients so far: AMSGrad, Padam.

    `ν = beta2 ν + (1 - beta2) g²` from zero, `P = (max + eps_root)^power + eps`, where max is

    - `maximum="running"`: the largest ν of all steps, as published. Under `correction="adam"` or
      `"second_moment"` each ν is divided by its `1 - beta2^t` *before* the maximum is taken, as
      optax's `scale_by_amsgrad` does by default;
    - `maximum="previous"`: `max(ν_t, ν_{t-1})`, without a correction of ν, as in the code of arXiv
      2207.14484. This P forgets like that of `RMS`.

    P is positive, since one of the epsilons is. A running maximum never falls, so `λ₁(P⁻¹H)` stays
    below the threshold once a large gradient has passed.

    Source: Reddi, Kale, Kumar, *On the convergence of Adam and beyond* (2018).

    Args:
        beta2: the decay rate of the second moments, in [0, 1).
        eps: added to the root, at least 0.
        eps_root: added inside the root, at least 0; not 0 together with `eps`.
        power: above 0, 0.5 for the square root; a fixed number, not an array leaf.
        correction: `"adam"`, `"first_moment"`, `"second_moment"` or `"none"`, see `RMS`.
        maximum: `"running"` or `"previous"`, as above.

    Raises:
        TypeError: if a hyperparameter is not a real number, or `power` is traced.
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
        nu = average_squares(self.beta2, grads, state.nu)
        count = state.count + 1
        seen = jax.tree.map(lambda leaf: self.debiased(leaf, count), nu)
        other = state.maximum if self.maximum == "running" else state.nu
        return AMSGradState(nu, jax.tree.map(jnp.maximum, seen, other), count)

    def operator(
        self, state: AMSGradState, count: Int[Array, ""], bias: Scalar
    ) -> AbstractPreconditioner:
        del count

        return DiagonalPreconditioner(
            jax.tree.map(
                lambda largest: self.root(largest, bias, self.eps_root, self.power), state.maximum
            )
        )

    def structure(self, state: AMSGradState) -> PyTree[jax.ShapeDtypeStruct]:
        return structure_of(state.nu)


class AdaBeliefState(eqx.Module):
    """The average of the gradients, and that of their squared distances from it."""

    mean: PyTree
    nu: PyTree


class AdaBelief(AbstractMoments):
    """The root of a moving average of `(g - m)²`, m the average of the gradients.

    `m = beta1 m + (1 - beta1) g`, `ν = beta2 ν + (1 - beta2) (g - m)² + eps_root`, both from zero,
    and `P = √ν + eps` with the corrections of `RMS`. As published, and as optax has it,
    `eps_root` is added to ν at *every* step, so that it accumulates to `eps_root / (1 - beta2)`.

    The rule keeps its own m, beside the momentum rule's buffer: one more copy of the parameters, so
    that it works with any momentum rule in either order. Published AdaBelief has the same `beta1`
    in both.

    Source: Zhuang et al., *AdaBelief optimizer* (arXiv 2010.07468).

    Args:
        beta1: the decay rate of the rule's own average m, in [0, 1).
        beta2: the decay rate of the second moments, in [0, 1).
        eps: added to the root, at least 0.
        eps_root: added to ν at every step, at least 0; not 0 together with `eps`.
        correction: `"adam"`, `"first_moment"`, `"second_moment"` or `"none"`, see `RMS`.

    Raises:
        TypeError: if a hyperparameter is not a real number.
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
        distances = jax.tree.map(lambda g, m: g.astype(m.dtype) - m, grads, mean)
        nu = average_squares(self.beta2, distances, state.nu)
        return AdaBeliefState(mean, jax.tree.map(lambda n: n + cast_to(self.eps_root, n), nu))

    def operator(
        self, state: AdaBeliefState, count: Int[Array, ""], bias: Scalar
    ) -> AbstractPreconditioner:
        return DiagonalPreconditioner(
            jax.tree.map(lambda nu: self.root(self.debiased(nu, count), bias), state.nu)
        )

    def structure(self, state: AdaBeliefState) -> PyTree[jax.ShapeDtypeStruct]:
        return structure_of(state.nu)


class Adagrad(AbstractPreconditionerRule):
    """The root of the sum of all squared gradients: `P = (Σg² + eps_root)^power + eps`.

    The sum starts at `initial_accumulator`, and P is positive, since one of the three is. P never
    falls, so `λ₁(P⁻¹H)` drifts below the threshold. optax's `scale_by_rss` is `Adagrad(0.0, eps,
    initial_accumulator)`, with its eps inside the root.

    Source: Duchi, Hazan, Singer, *Adaptive subgradient methods* (2011).

    Args:
        eps: added to the root, at least 0.
        eps_root: added inside the root, at least 0.
        initial_accumulator: initial value of the sum, at least 0; not 0 together with both
            epsilons.
        power: above 0, 0.5 for the square root; a fixed number, not an array leaf.

    Raises:
        TypeError: if a hyperparameter is not a real number, or `power` is traced.
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
            "initial_accumulator", initial_accumulator, at_least=0, fix="take 0 or 0.1"
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
        return structure_of(state)


class FactoredMoment(eqx.Module):
    """Means of second moments along the longest axis, and along the second longest."""

    row: Array
    col: Array


class AdafactorState(eqx.Module):
    """The moments, full or factored per leaf, and the scale of P, one number per leaf."""

    moments: PyTree
    clip: PyTree
    scale: PyTree
    count: Int[Array, ""]
    identity: IdentityPreconditioner


def factored_axes(shape: tuple[int, ...], least: int) -> tuple[int, int] | None:
    """The two longest axes, the longest last; None if the second longest is too short."""
    if len(shape) < 2:
        return None
    order = np.argsort(shape)  # as in optax, so that ties are resolved the same way
    second, first = int(order[-2]), int(order[-1])
    return (second, first) if shape[second] >= least else None


class Adafactor(AbstractParameterRule):
    """Factored second moments, clipped updates, and steps relative to the parameters' size.

    At step number t, with r the `decay_rate`, `v = (1 - t^-r) v + t^-r (g² + eps)`, `u = g / √v`:

    `P = diag(√v) · max(1, rms(u) / clipping_threshold) / max(rms(p), least_scale)`, leaf by leaf.

    A leaf whose two longest axes both have at least `min_dim_size_to_factor` entries keeps only the
    means of v along each, and v is their outer product over the mean. Both factors after the root
    are numbers, one per leaf, so P is a diagonal, and is positive, since eps is. P then includes
    all of optax's `adafactor`, in optax's order of operations, under `order="precondition_first"`.

    Three remarks. rms(p) is that of the parameters at which the gradient was taken: `update` and
    `preconditioner` need `params` (not without `parameter_scale`). The clipping depends on the
    *coming* gradient: with P held, as the threshold assumes, the clipping is held as well. And as
    `t^-r` goes to zero P forgets more and more slowly: late in training it is nearly constant.

    Differences from optax: it computes `t^-r` in float32 whatever the parameters, this rule in
    JAX's default float; there is no `decay_offset` and no learning rate out of t; a momentum buffer
    has the parameters' dtype.

    Source: Shazeer, Stern, *Adafactor* (arXiv 1804.04235), as optax writes it.

    Args:
        decay_rate: r, above 0.
        eps: added to the squared gradients, above 0.
        clipping_threshold: the largest root mean square of a leaf's u, above 0; None for no limit.
        parameter_scale: whether steps are relative to rms(p).
        least_scale: the smallest value of rms(p), above 0.
        min_dim_size_to_factor: the shortest axis that is factored.
        factored: whether any second moments are factored.

    Raises:
        TypeError: if a hyperparameter is not a real number.
        ValueError: if one is outside its range; from `at` without parameters.

    Example:
        >>> import jax.numpy as jnp
        >>> rule = Adafactor(min_dim_size_to_factor=2, parameter_scale=False)
        >>> state = rule.init(jnp.zeros((2, 2)))
        >>> state = rule.update(jnp.array([[1.0, 2.0], [3.0, 6.0]]), state)  # of rank one: exact
        >>> rule.operator(state, jnp.asarray(1), jnp.asarray(1.0)).diagonal.tolist()
        [[1.00, 2.00], [3.00, 6.00]]
    """

    decay_rate: Scalar
    eps: Scalar
    clipping_threshold: Scalar | None
    least_scale: Scalar
    parameter_scale: bool = eqx.field(static=True)
    min_dim_size_to_factor: int = eqx.field(static=True)
    factored: bool = eqx.field(static=True)

    def __init__(
        self,
        decay_rate: Any = 0.8,
        eps: Any = 1e-30,
        clipping_threshold: Any = 1.0,
        parameter_scale: bool = True,
        least_scale: Any = 1e-3,
        min_dim_size_to_factor: int = 128,
        factored: bool = True,
    ):
        self.decay_rate = as_hyperparameter(
            "decay_rate", decay_rate, above=0, fix="take 0.8, the power of the step number"
        )
        self.eps = as_hyperparameter("eps", eps, above=0, fix="take a number such as 1e-30")
        self.clipping_threshold = None
        if clipping_threshold is not None:
            self.clipping_threshold = as_hyperparameter(
                "clipping_threshold", clipping_threshold, above=0, fix="take 1.0, or None"
            )
        self.least_scale = as_hyperparameter(
            "least_scale", least_scale, above=0, fix="take a number such as 1e-3"
        )
        as_hyperparameter(
            "min_dim_size_to_factor", min_dim_size_to_factor, at_least=1, fix="take 128"
        )
        self.parameter_scale = parameter_scale
        self.min_dim_size_to_factor = int(min_dim_size_to_factor)
        self.factored = factored

    def _axes(self, shape: tuple[int, ...]) -> tuple[int, int] | None:
        return factored_axes(shape, self.min_dim_size_to_factor) if self.factored else None

    def init(self, params: PyTree) -> AdafactorState:
        def moment(leaf: Array) -> Array | FactoredMoment:
            axes = self._axes(leaf.shape)
            zeros = jnp.zeros_like(leaf, dtype=leaf.dtype)
            if axes is None:
                return zeros
            return FactoredMoment(jnp.sum(zeros, axis=axes[1]), jnp.sum(zeros, axis=axes[0]))

        ones = jax.tree.map(lambda leaf: jnp.ones((), leaf.dtype), params)
        return AdafactorState(
            moments=jax.tree.map(moment, params),
            clip=ones,
            scale=ones,
            count=jnp.zeros((), jnp.int32),
            identity=IdentityPreconditioner(params),
        )

    def at(self, params: PyTree | None, state: AdafactorState) -> AdafactorState:
        if not self.parameter_scale:
            return state
        if params is None:
            raise ValueError(
                "the P of this optimizer depends on the size of the parameters: call "
                "`update(grads, state, params)`, `preconditioner(state, grads, params)`."
            )

        def scale(leaf: Array, one: Array) -> Array:
            return jnp.maximum(_rms(leaf.astype(one.dtype)), cast_to(self.least_scale, one))

        scales = jax.tree.map(scale, jax.tree.map(jnp.asarray, params), state.scale)
        return AdafactorState(state.moments, state.clip, scales, state.count, state.identity)

    def update(self, grads: PyTree, state: AdafactorState) -> AdafactorState:
        count = state.count + 1
        # `1 - t^-r` without cancellation: it is 0 at the first step.
        exponent = -self.decay_rate * jnp.log(count.astype(self.decay_rate.dtype))
        new, old = jnp.exp(exponent), -jnp.expm1(exponent)

        def moment(g: Array, before: Array | FactoredMoment) -> Array | FactoredMoment:
            square = jnp.square(g) + cast_to(self.eps, g)
            axes = self._axes(g.shape)
            if not isinstance(before, FactoredMoment):
                return cast_to(old, g) * before + cast_to(new, g) * square
            assert axes is not None
            row, col = (jnp.mean(square, axis=axis) for axis in (axes[1], axes[0]))
            return FactoredMoment(
                cast_to(old, g) * before.row + cast_to(new, g) * row,
                cast_to(old, g) * before.col + cast_to(new, g) * col,
            )

        def clip(g: Array, after: Array | FactoredMoment) -> Array:
            one = jnp.ones((), g.dtype)
            if self.clipping_threshold is None:
                return one
            size = _rms(g / self._root(after, g.shape))
            return jnp.maximum(one, size / cast_to(self.clipping_threshold, g))

        moments = jax.tree.map(moment, grads, state.moments)
        clips = jax.tree.map(clip, grads, moments)
        return AdafactorState(moments, clips, state.scale, count, state.identity)

    def _root(self, moment: Array | FactoredMoment, shape: tuple[int, ...]) -> Array:
        axes = self._axes(shape)
        if not isinstance(moment, FactoredMoment):
            return jnp.sqrt(moment)
        assert axes is not None
        second, first = axes
        mean = jnp.mean(moment.row, axis=second - (second > first), keepdims=True)
        row = jnp.expand_dims(jnp.sqrt(moment.row / mean), first)
        col = jnp.expand_dims(jnp.sqrt(moment.col), second)
        return row * col

    def operator(
        self, state: AdafactorState, count: Int[Array, ""], bias: Scalar
    ) -> AbstractPreconditioner:
        del count, bias

        def diagonal(
            like: jax.ShapeDtypeStruct, moment: Array | FactoredMoment, clip: Array, scale: Array
        ) -> Array:
            return self._root(moment, like.shape) * (clip / scale)

        return DiagonalPreconditioner(
            jax.tree.map(diagonal, self.structure(state), state.moments, state.clip, state.scale)
        )

    def structure(self, state: AdafactorState) -> PyTree[jax.ShapeDtypeStruct]:
        return state.identity.in_structure()


def _rms(leaf: Array) -> Array:
    return jnp.sqrt(jnp.mean(jnp.square(leaf)))
