"""Momentum rules: linear filters of the present direction and the ones before it.

The rule alone sets the stability threshold. On one mode of curvature s, with the identity as
preconditioner and decoupled decay w,

    x' = (1 - lr w) x - lr (now s x + Σ weights_i v_i)        v_i' = decays_i v_i + inputs_i s x,

whose multipliers z are the roots of

    z - 1 + lr w + lr s G(z) = 0,    G(z) = now + Σ weights_i inputs_i / (z - decays_i).
"""

from __future__ import annotations

import abc
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from ._hyperparameters import (
    as_decay_rate,
    as_hyperparameter,
    cast_to,
    is_concrete,
    one_minus_power,
)
from ._trees import blend, zeros_like

Scalar = Float[Array, ""]
_NUMBER = "take a finite number"


class AbstractMomentum(eqx.Module):
    """A momentum rule: the step as a function of this direction and the ones before it.

    A rule is linear in the directions and gives its own stability threshold, which
    `aeoskit.stability.threshold_from_recurrence` and `check_optimizer` compare with its recurrence.
    A rule with constant coefficients is an `AbstractLinearMomentum`: it gives its filter, and
    inherits everything else. Subclasses are final.

    Example:
        >>> import jax.numpy as jnp
        >>> isinstance(EMA(0.9), AbstractMomentum)
        True
        >>> step, buffer = EMA(0.5).update(jnp.ones(1), EMA(0.5).init(jnp.zeros(1)))
        >>> step.tolist(), buffer.tolist()
        ([0.5], [0.5])
    """

    # Whether its buffers are of steps, which include the learning rate and weight decay.
    takes_steps = False

    def weigh(self, lr: Scalar, state: PyTree) -> PyTree:
        """The state with the coming step's weight, for `update` of a rule over steps.

        Args:
            lr: the learning rate of the weight.
            state: the rule's state.

        Returns:
            The state to pass to `update`; by default the same.
        """
        del lr
        return state

    @abc.abstractmethod
    def init(self, params: PyTree) -> PyTree:
        """The state before the first step.

        Args:
            params: the parameters: their shapes and dtypes are read.

        Returns:
            Buffers of zeros, or None.
        """

    @abc.abstractmethod
    def update(self, direction: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        """The direction to step along (against, for the gradient), and the next state.

        Args:
            direction: the direction of this step, with the structure of the parameters.
            state: the rule's state.

        Returns:
            The pair `(step, state)`.
        """

    @abc.abstractmethod
    def threshold(self, lr: Scalar, weight_decay: Scalar) -> Scalar:
        """The curvature `λ₁(P⁻¹H)` above which the iterate diverges on a quadratic, P constant.

        Args:
            lr: the learning rate.
            weight_decay: the decoupled weight decay, 0 for none.

        Returns:
            The threshold; zero or negative where `lr * weight_decay >= 2`: then decay alone
            diverges.
        """

    @abc.abstractmethod
    def recurrence(
        self, curvature: Scalar, lr: Scalar, weight_decay: Scalar
    ) -> Float[Array, "size size"]:
        """The matrix from (x, buffers) of one mode to the next ones, with P the identity.

        Args:
            curvature: the mode's eigenvalue of `P⁻¹H`.
            lr: the learning rate.
            weight_decay: the decoupled weight decay, 0 for none.

        Returns:
            A square matrix with one more row than there are buffers.
        """

    @abc.abstractmethod
    def bias_correction(self, count: Int[Array, ""]) -> Scalar:
        """The direction's fraction of its final size at step number `count`.

        The sum of the step's weights of the directions so far, over the same sum after infinitely
        many steps: Adam divides by it.

        Args:
            count: the number of the step; the first is 1.

        Returns:
            A scalar in (0, 1].
        """


class LinearFilter(NamedTuple):
    """The filter `step = now g + Σ weights_i v_i`, then `v_i = decays_i v_i + inputs_i g`.

    Args:
        now: the weight of the direction g of this step.
        weights: the weight of each buffer, as it was before this direction.
        decays: the decay rate of each buffer, in [0, 1).
        inputs: the weight with which the direction enters each buffer.

    Example:
        >>> import jax.numpy as jnp
        >>> EMA(0.5).filter.now.tolist(), len(EMA(0.5).filter.decays)
        (0.5, 1)
    """

    now: Scalar
    weights: tuple[Scalar, ...] = ()
    decays: tuple[Scalar, ...] = ()
    inputs: tuple[Scalar, ...] = ()


class AbstractLinearMomentum(AbstractMomentum):
    """A momentum rule that is a filter with constant coefficients: a subclass gives the filter.

    The threshold is exact for any coefficients: the least curvature at which -1 is a root, or at
    which a complex pair has modulus 1. It exists if every buffer decays, and if the filter's
    response to a constant direction, `now + Σ weights_i inputs_i / (1 - decays_i)`, is positive:
    otherwise no curvature is stable (of a zero response, 1 is a root whatever the curvature).

    Raises:
        ValueError: if there is no stable curvature. With traced coefficients the threshold is NaN.

    Example:
        >>> import jax.numpy as jnp
        >>> class Half(AbstractLinearMomentum):
        ...     '''Half of this direction and half of the one before it.'''
        ...     @property
        ...     def filter(self):
        ...         half, one = jnp.asarray(0.5), jnp.asarray(1.0)
        ...         return LinearFilter(half, (half,), (0 * one,), (one,))
        >>> float(Half().threshold(jnp.asarray(1.0), jnp.asarray(0.0)))
        2.0
    """

    @property
    @abc.abstractmethod
    def filter(self) -> LinearFilter:
        """The coefficients, as scalar arrays."""

    def __check_init__(self) -> None:
        now, weights, decays, inputs = self.filter
        if not all(map(is_concrete, (now, *weights, *decays, *inputs))):
            return
        name = type(self).__name__
        if not all(abs(float(decay)) < 1 for decay in decays):
            raise ValueError(
                f"{name} has buffers with the decay rates {', '.join(f'{d:.6g}' for d in decays)}, "
                "and one that does not decay diverges at any curvature: take decay rates in [0, 1)."
            )
        response, rounding = _response(self.filter)
        if not response > rounding:
            raise ValueError(
                f"{name} responds to a constant direction by {float(response):.3g} times it, so "
                "that no curvature is stable: now + Σ weights inputs / (1 - decays) must be "
                "greater than 0, so change the sign or the size of a weight."
            )

    def init(self, params: PyTree) -> PyTree:
        """None without buffers, one tree for one buffer, a tuple of trees for several."""
        buffers = tuple(zeros_like(params) for _ in self.filter.decays)
        return buffers if len(buffers) > 1 else buffers[0] if buffers else None

    def update(self, direction: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        """The filter's step and its next buffers."""
        now, weights, decays, inputs = self.filter
        if not decays:
            return jax.tree.map(lambda g: cast_to(now, g) * g, direction), state
        buffers = state if len(decays) > 1 else (state,)
        one = jnp.ones_like(now)
        step = blend(now, direction, weights[0], buffers[0])
        for weight, buffer in zip(weights[1:], buffers[1:], strict=True):
            step = blend(weight, buffer, one, step)
        after = tuple(
            blend(gain, direction, decay, buffer)
            for gain, decay, buffer in zip(inputs, decays, buffers, strict=True)
        )
        return step, after if len(decays) > 1 else after[0]

    def threshold(self, lr: Scalar, weight_decay: Scalar) -> Scalar:
        """The filter's threshold, the least curvature at which a root is on the unit circle."""
        now, weights, decays, inputs = self.filter
        stay = 1 - lr * weight_decay
        gain = now
        for weight, decay, entering in zip(weights, decays, inputs, strict=True):
            gain = gain - weight * entering / (1 + decay)
        least = _quotient(1 + stay, lr, gain)
        if len(decays) == 1:
            # The product of both roots is 1 there; only rules such as Lion's reach it.
            among = weights[0] * inputs[0] - now * decays[0]
            least = jnp.minimum(least, _quotient(1 - decays[0] * stay, lr, among))
        elif decays:
            least = jnp.minimum(least, _least_turn(self.filter, lr * weight_decay) / lr)
        response, rounding = _response(self.filter)
        stable = response > rounding
        for decay in decays:
            stable &= jnp.abs(decay) < 1
        return jnp.where(stable, least, jnp.nan)

    def recurrence(
        self, curvature: Scalar, lr: Scalar, weight_decay: Scalar
    ) -> Float[Array, "size size"]:
        """The matrix of the equations at the top of the module."""
        now, weights, decays, inputs = self.filter
        matrix = jnp.diag(jnp.stack([1 - lr * weight_decay - lr * now * curvature, *decays]))
        for i, (weight, entering) in enumerate(zip(weights, inputs, strict=True), start=1):
            matrix = matrix.at[0, i].set(-lr * weight).at[i, 0].set(entering * curvature)
        return matrix

    def bias_correction(self, count: Int[Array, ""]) -> Scalar:
        """The sum of the filter's response up to `count`, over its total."""
        now, weights, decays, inputs = self.filter
        sums = [w * gain / (1 - d) for w, d, gain in zip(weights, decays, inputs, strict=True)]
        # The first step has no history: the general formula would be 0 ** 0 for a decay of 0.
        past = jnp.maximum(count - 1, 1)
        parts = [
            jnp.where(count > 1, one_minus_power(d, past), 0) * whole
            for d, whole in zip(decays, sums, strict=True)
        ]
        zero = jnp.zeros_like(now)
        return jnp.broadcast_to((now + sum(parts, zero)) / (now + sum(sums, zero)), count.shape)


def _quotient(a: Scalar, lr: Scalar, gain: Scalar) -> Scalar:
    """`a / (lr gain)`, infinite where the gain is not positive: no curvature is too large."""
    never = gain <= 0
    return jnp.where(never & (a > 0), jnp.inf, a / (lr * jnp.where(never, 1, gain)))


def _response(held: LinearFilter) -> tuple[Scalar, Scalar]:
    """The step that a constant direction of 1 ends in, G(1), and a bound of its rounding error."""
    now, weights, decays, inputs = held
    total, error = now, jnp.abs(now)
    for weight, decay, entering in zip(weights, decays, inputs, strict=True):
        part = weight * entering / (1 - decay)
        total, error = total + part, error + jnp.abs(part / (1 - decay))
    return total, 2 * jnp.finfo(total.dtype).eps * error


def _least_turn(held: LinearFilter, decay: Scalar) -> Scalar:
    """The least curvature, at the learning rate 1, at which a complex pair has modulus 1.

    At the angle ω and with `t = 1 - cos ω`, `|e^{iω} - d|² = (1 - d)² + 2 d t =: m(t)`. There

        now + Σ k_i (1 - d_i + decay - 2 t) / m_i(t) = 0,    k_i = weights_i inputs_i,

    is the imaginary part of `(1 - decay - z) / G(z)`, and its real part is `1 / Σ k_i / m_i(t)`.
    """
    now, weights, decays, inputs = held
    products = [weight * entering for weight, entering in zip(weights, inputs, strict=True)]
    moduli = [jnp.stack([2 * d, (1 - d) ** 2]) for d in decays]
    whole = now[None]
    for modulus in moduli:
        whole = _times(whole, modulus)
    for i, (k, d) in enumerate(zip(products, decays, strict=True)):
        part = jnp.stack([-2 * k, k * (1 - d + decay)])
        for modulus in moduli[:i] + moduli[i + 1 :]:
            part = _times(part, modulus)
        whole = whole + part
    t = _roots_between(whole, 0.0, 2.0)
    pull = sum(
        (k / jnp.polyval(m, t) for k, m in zip(products, moduli, strict=True)), jnp.zeros_like(t)
    )
    turns = (t > 0) & (t < 2) & (pull > 0)
    return jnp.min(jnp.where(turns, 1 / jnp.where(turns, pull, 1), jnp.inf))


def _times(polynomial: Array, linear: Array) -> Array:
    """A product of polynomials; `jnp.convolve` would have reduced precision on accelerators."""
    return jnp.pad(linear[0] * polynomial, (0, 1)) + jnp.pad(linear[1] * polynomial, (1, 0))


def _roots_between(polynomial: Array, low: float, high: float) -> Array:
    """The real roots inside an interval, by bisection between those of the derivative.

    Eigenvalues of a companion matrix would be shorter, but TPUs have none.

    Args:
        polynomial: coefficients, the highest power first, of degree 1 or more.
        low: the lower end.
        high: the upper end.

    Returns:
        As many numbers as the degree, `high` in place of those that are missing.
    """
    if len(polynomial) == 2:
        slope, offset = polynomial
        root = jnp.where(slope == 0, high, -offset / jnp.where(slope == 0, 1, slope))
        return jnp.where((low < root) & (root < high), root, high)[None]
    slopes = jnp.polyder(polynomial)
    inner = jnp.sort(_roots_between(slopes, low, high))
    ends = jnp.concatenate([jnp.full(1, low), inner, jnp.full(1, high)])
    rises = jnp.polyval(polynomial, ends[1:]) > 0
    crosses = (jnp.polyval(polynomial, ends[:-1]) > 0) != rises

    def halve(_: Any, bracket: tuple[Array, Array]) -> tuple[Array, Array]:
        left, right = bracket
        middle = (left + right) / 2
        beyond = (jnp.polyval(polynomial, middle) > 0) == rises
        return jnp.where(beyond, left, middle), jnp.where(beyond, middle, right)

    # Slow buffers turn at angles near 0: 30 bits more than the mantissa has.
    rounds = jnp.finfo(polynomial.dtype).nmant + 30
    root = jax.lax.stop_gradient(jax.lax.fori_loop(0, rounds, halve, (ends[:-1], ends[1:]))[1])
    # Adds nothing but the root's derivative in the coefficients.
    value, slope = jnp.polyval(polynomial, root), jnp.polyval(slopes, root)
    slope = jax.lax.stop_gradient(jnp.where(slope == 0, 1, slope))
    return jnp.where(crosses, root - (value - jax.lax.stop_gradient(value)) / slope, high)


class LinearMomentum(AbstractLinearMomentum):
    """Any filter `step = now g + Σ weights_i v_i`, then `v_i = decays_i v_i + inputs_i g`.

    Args:
        now: the weight of the direction of this step.
        weights: the weight of each buffer.
        decays: the decay rate of each buffer, in [0, 1).
        inputs: the weight with which a direction enters each buffer; None for ones.

    Raises:
        TypeError: if a coefficient is not a real number.
        ValueError: if a decay rate is outside [0, 1), there are not as many of each, or no
            curvature is stable, see `AbstractLinearMomentum`.

    Example:
        >>> rule = LinearMomentum(0.5, [0.25], [0.5])  # EMA(0.5)
        >>> round(float(rule.threshold(jnp.asarray(1.0), jnp.asarray(0.0))), 3)
        6.0
    """

    now: Scalar
    weights: tuple[Scalar, ...]
    decays: tuple[Scalar, ...]
    inputs: tuple[Scalar, ...]

    def __init__(
        self,
        now: Any,
        weights: Sequence[Any],
        decays: Sequence[Any],
        inputs: Sequence[Any] | None = None,
    ):
        inputs = [1.0] * len(weights) if inputs is None else inputs
        if not len(weights) == len(decays) == len(inputs):
            raise ValueError(
                f"a filter has as many weights as decays and inputs, got {len(weights)}, "
                f"{len(decays)} and {len(inputs)}: give one of each to each buffer."
            )
        self.now = as_hyperparameter("now", now, fix=_NUMBER)
        self.weights = tuple(as_hyperparameter("a weight", x, fix=_NUMBER) for x in weights)
        self.decays = tuple(as_decay_rate("a decay", x) for x in decays)
        self.inputs = tuple(as_hyperparameter("an input", x, fix=_NUMBER) for x in inputs)

    @property
    def filter(self) -> LinearFilter:
        """The given filter."""
        return LinearFilter(self.now, self.weights, self.decays, self.inputs)


class NoMomentum(AbstractLinearMomentum):
    """The direction itself: `x -= lr g`. Threshold `2 / lr`.

    Example:
        >>> import jax.numpy as jnp
        >>> float(NoMomentum().threshold(jnp.asarray(0.5), jnp.asarray(0.0)))
        4.0
    """

    @property
    def filter(self) -> LinearFilter:
        """The direction alone."""
        return LinearFilter(jnp.ones((), float))


class Polyak(AbstractLinearMomentum):
    """Heavy ball: `v = beta1 v + g`, `x -= lr v`. Threshold `(2 + 2 beta1) / lr`.

    Source: Cohen et al., arXiv 2103.00065.

    Args:
        beta1: the decay rate, in [0, 1).

    Raises:
        TypeError: if it is not a real number.
        ValueError: if it is outside [0, 1).

    Example:
        >>> import jax.numpy as jnp
        >>> float(Polyak(0.9).threshold(jnp.asarray(1.0), jnp.asarray(0.0)))
        3.80
    """

    beta1: Scalar

    def __init__(self, beta1: Any = 0.9):
        self.beta1 = as_decay_rate("beta1", beta1)

    @property
    def filter(self) -> LinearFilter:
        """The buffer after this direction."""
        beta, one = self.beta1, jnp.ones_like(self.beta1)
        return LinearFilter(one, (beta,), (beta,), (one,))


class EMA(AbstractLinearMomentum):
    """Exponential moving average: `m = beta1 m + (1 - beta1) g`, `x -= lr m`.

    Threshold `(2 + 2 beta1) / ((1 - beta1) lr)`, 38/lr at 0.9. It is `Polyak` with
    `lr_polyak = (1 - beta1) lr_ema`.

    Source: Cohen et al., arXiv 2207.14484.

    Args:
        beta1: the decay rate, in [0, 1).

    Raises:
        TypeError: if it is not a real number.
        ValueError: if it is outside [0, 1).

    Example:
        >>> import jax.numpy as jnp
        >>> float(EMA(0.9).threshold(jnp.asarray(1.0), jnp.asarray(0.0)))
        38.00
    """

    beta1: Scalar

    def __init__(self, beta1: Any = 0.9):
        self.beta1 = as_decay_rate("beta1", beta1)

    @property
    def filter(self) -> LinearFilter:
        """The average after this direction."""
        beta, rest = self.beta1, 1 - self.beta1
        return LinearFilter(rest, (beta,), (beta,), (rest,))


class Nesterov(AbstractLinearMomentum):
    """Nesterov's momentum in Polyak's form: `v = beta1 v + g`, `x -= lr (g + beta1 v)`.

    Threshold `(2 + 2 beta1) / ((1 + 2 beta1) lr)`, 1.357/lr at 0.9, derived here.

    Args:
        beta1: the decay rate, in [0, 1).

    Raises:
        TypeError: if it is not a real number.
        ValueError: if it is outside [0, 1).

    Example:
        >>> import jax.numpy as jnp
        >>> float(Nesterov(0.9).threshold(jnp.asarray(1.0), jnp.asarray(0.0)))
        1.357
    """

    beta1: Scalar

    def __init__(self, beta1: Any = 0.9):
        self.beta1 = as_decay_rate("beta1", beta1)

    @property
    def filter(self) -> LinearFilter:
        """The direction and `beta1` times the buffer after it."""
        beta, one = self.beta1, jnp.ones_like(self.beta1)
        return LinearFilter(1 + beta, (beta**2,), (beta,), (one,))


class EMANesterov(AbstractLinearMomentum):
    """Nesterov's momentum in the averaged form.

    `m = beta1 m + (1 - beta1) g`, `x -= lr ((1 - beta1) g + beta1 m)`; threshold
    `(2 + 2 beta1) / ((1 - beta1) (1 + 2 beta1) lr)`, 13.571/lr at 0.9, derived here.

    Args:
        beta1: the decay rate, in [0, 1).

    Raises:
        TypeError: if it is not a real number.
        ValueError: if it is outside [0, 1).

    Example:
        >>> import jax.numpy as jnp
        >>> float(EMANesterov(0.9).threshold(jnp.asarray(1.0), jnp.asarray(0.0)))
        13.571
    """

    beta1: Scalar

    def __init__(self, beta1: Any = 0.9):
        self.beta1 = as_decay_rate("beta1", beta1)

    @property
    def filter(self) -> LinearFilter:
        """The step of `Nesterov` with the average instead of the sum."""
        beta, rest = self.beta1, 1 - self.beta1
        return LinearFilter(rest * (1 + beta), (beta**2,), (beta,), (rest,))


class LionMomentum(AbstractLinearMomentum):
    """Lion's two rates: `step = beta1 m + (1 - beta1) g`, then `m = beta2 m + (1 - beta2) g`.

    Under `Sign` it is Lion. The rule itself is linear, and has the threshold
    `(1 + beta2) (2 - lr w) / ((1 + beta2 - 2 beta1) lr)`, or, where `beta1 > beta2`, that of the
    complex pair, whose product `beta2 (1 - lr w) + (beta1 - beta2) lr s` reaches 1, if it is lower:
    derived here.

    Source: Chen et al., *Symbolic discovery of optimization algorithms* (arXiv 2302.06675).

    Args:
        beta1: the share of m in the step, in [0, 1).
        beta2: the decay rate of m, in [0, 1).

    Raises:
        TypeError: if one is not a real number.
        ValueError: if one is outside [0, 1).

    Example:
        >>> import jax.numpy as jnp
        >>> rule = LionMomentum(0.9, 0.99)
        >>> step, buffer = rule.update(jnp.ones(1), rule.init(jnp.zeros(1)))
        >>> step.tolist(), buffer.tolist()
        ([0.100], [0.0100])
    """

    beta1: Scalar
    beta2: Scalar

    def __init__(self, beta1: Any = 0.9, beta2: Any = 0.99):
        self.beta1 = as_decay_rate("beta1", beta1)
        self.beta2 = as_decay_rate("beta2", beta2)

    @property
    def filter(self) -> LinearFilter:
        """The step: a share of the average before this direction, and the rest of the direction."""
        return LinearFilter(1 - self.beta1, (self.beta1,), (self.beta2,), (1 - self.beta2,))


class NAdamState(eqx.Module):
    """The average, and the number of steps that it has seen."""

    buffer: PyTree
    count: Int[Array, ""]


class NAdamMomentum(AbstractMomentum):
    """EMA Nesterov with NAdam's corrections: m by `1 - beta1**(t+1)`, g by `1 - beta1**t`.

    The step number t is the first step's 1. The rule varies in time and tends to `EMANesterov`,
    so `threshold` and `recurrence` are the limit's (13.571/lr at 0.9).

    Source: Dozat, *Incorporating Nesterov momentum into Adam* (2016), as optax writes it.

    Args:
        beta1: the decay rate, in [0, 1).

    Raises:
        TypeError: if it is not a real number.
        ValueError: if it is outside [0, 1).

    Example:
        >>> import jax.numpy as jnp
        >>> rule = NAdamMomentum(0.5)
        >>> step, state = rule.update(jnp.ones(1), rule.init(jnp.zeros(1)))
        >>> float(step[0])  # 0.5 * 0.5 / 0.75 + 0.5 * 1 / 0.5
        1.333
    """

    beta1: Scalar

    def __init__(self, beta1: Any = 0.9):
        self.beta1 = as_decay_rate("beta1", beta1)

    def init(self, params: PyTree) -> NAdamState:
        return NAdamState(zeros_like(params), jnp.zeros((), jnp.int32))

    def update(self, direction: PyTree, state: NAdamState) -> tuple[PyTree, NAdamState]:
        count = state.count + 1
        buffer = blend(1 - self.beta1, direction, self.beta1, state.buffer)
        step = blend(
            (1 - self.beta1) / one_minus_power(self.beta1, count),
            direction,
            self.beta1 / one_minus_power(self.beta1, count + 1),
            buffer,
        )
        return step, NAdamState(buffer, count)

    def threshold(self, lr: Scalar, weight_decay: Scalar) -> Scalar:
        return EMANesterov(self.beta1).threshold(lr, weight_decay)

    def recurrence(
        self, curvature: Scalar, lr: Scalar, weight_decay: Scalar
    ) -> Float[Array, "2 2"]:
        return EMANesterov(self.beta1).recurrence(curvature, lr, weight_decay)

    def bias_correction(self, count: Int[Array, ""]) -> Scalar:
        # The corrections are in the rule, so the preconditioner has none.
        return jnp.ones_like(count, dtype=float)


class Recursion(NamedTuple):
    """The linear recurrence of the coming step on a mode of `P⁻¹H`, with P constant.

    `aeoskit.equivalent_ratio` interprets a multiplier with it.

    Args:
        rule: The momentum rule.
        lr: The learning rate.
        weight_decay: The decoupled weight decay, in units of the learning rate.
        shift: Curvature that a decay inside the momentum buffer adds to every mode.

    Example:
        >>> import jax.numpy as jnp
        >>> from aeoskit.optimizers import adam
        >>> optimizer = adam(0.5)
        >>> recursion = optimizer.recursion(optimizer.init(jnp.zeros(2)))
        >>> type(recursion.rule).__name__, float(recursion.lr)
        ('EMA', 0.5)
    """

    rule: AbstractMomentum
    lr: Scalar
    weight_decay: Scalar
    shift: Scalar | float = 0.0
