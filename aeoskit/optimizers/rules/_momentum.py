"""Momentum rules: linear filters of the present direction and the ones before it.

The rule alone sets the stability threshold. On one mode of curvature s, with the identity as
preconditioner and decoupled decay w,

    x' = (1 - lr w) x - lr (now s x + Σ weights_i v_i)        v_i' = decays_i v_i + inputs_i s x,

whose multipliers z are the roots of

    z - 1 + lr w + lr s G(z) = 0,    G(z) = now + Σ weights_i inputs_i / (z - decays_i).
"""

from __future__ import annotations

import abc
import functools
import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
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
    `check_optimizer` compares with its recurrence.
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
        if not all(map(is_concrete, jax.tree.leaves(self))):
            return
        # In NumPy, since each operation on JAX's arrays would be a program to compile.
        held = jax.tree.map(lambda x: np.asarray(x) if eqx.is_array(x) else x, self).filter
        now, weights, decays, inputs = held
        if not all(map(is_concrete, (now, *weights, *decays, *inputs))):
            return
        name = type(self).__name__
        if not all(abs(float(decay)) < 1 for decay in decays):
            raise ValueError(
                f"{name} has buffers with the decay rates {', '.join(f'{d:.6g}' for d in decays)}, "
                "and one that does not decay diverges at any curvature: take decay rates in [0, 1)."
            )
        response, rounding = _response(held)
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
        return series_threshold((self.filter,), (), lr, weight_decay)

    def recurrence(
        self, curvature: Scalar, lr: Scalar, weight_decay: Scalar
    ) -> Float[Array, "size size"]:
        """The matrix of the equations at the top of the module."""
        return _series_recurrence((self.filter,), curvature, lr, weight_decay)

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


def _response(held: LinearFilter) -> tuple[Any, Any]:
    """The step that a constant direction of 1 ends in, G(1), and a bound of its rounding error."""
    now, weights, decays, inputs = held
    total, error = now, abs(now)
    for weight, decay, entering in zip(weights, decays, inputs, strict=True):
        part = weight * entering / (1 - decay)
        total, error = total + part, error + abs(part / (1 - decay))
    return total, 2 * jnp.finfo(total.dtype).eps * error


def _series_recurrence(
    filters: Sequence[LinearFilter], curvature: Scalar, lr: Scalar, weight_decay: Scalar
) -> Float[Array, "size size"]:
    """The matrix from (x, buffers) to the next ones, each filter taking the step of the one before.

    A direction is a row: its coefficients in x and the buffers.
    """
    unit = jnp.eye(1 + sum(len(held.decays) for held in filters))
    direction, rows, own = curvature * unit[0], [], 1
    for now, weights, decays, inputs in filters:
        step = now * direction
        for i, (weight, decay, entering) in enumerate(
            zip(weights, decays, inputs, strict=True), start=own
        ):
            rows.append(decay * unit[i] + entering * direction)
            step = step + weight * unit[i]
        direction, own = step, own + len(decays)
    return jnp.stack([(1 - lr * weight_decay) * unit[0] - lr * direction, *rows])


def series_threshold(
    filters: Sequence[LinearFilter], between: Sequence[Scalar], lr: Scalar, weight_decay: Scalar
) -> Scalar:
    """The curvature at which the first root of filters in series leaves the unit circle.

    With z = 1 + s the characteristic polynomial is `a(s) + lr curvature n(s)`, `n / d` the product
    of the filters, and `a = (s + lr weight_decay) d`, to which a decay between two filters adds
    what comes of it: `lr decay`, times the numerators after it and the denominators before it.

    Args:
        filters: the filters, in the order in which they are applied.
        between: weight decay that enters between two filters, one number less than there are
            filters; or none at all.
        lr: the learning rate.
        weight_decay: the decoupled weight decay, after the last filter.

    Returns:
        The threshold; NaN where a buffer does not decay, where the response to a constant direction
        is not positive, or where a decay between two filters diverges on its own.
    """
    a, n = jnp.stack([jnp.ones_like(lr), lr * weight_decay]), jnp.ones(1, lr.dtype)
    stable = jnp.asarray(True)
    for held, decay in itertools.zip_longest(reversed(filters), reversed(between)):
        over, under = _polynomials(held)
        a, n = _times(a, under), _times(n, over)
        response, rounding = _response(held)
        stable &= response > rounding
        for rate in held.decays:
            stable &= jnp.abs(rate) < 1
        if decay is not None:
            stable &= lr * decay < _first_exit(a, n)
            a = a + lr * decay * jnp.pad(n, (len(a) - len(n), 0))
    return jnp.where(stable, _first_exit(a, n) / lr, jnp.nan)


def _polynomials(held: LinearFilter) -> tuple[Array, Array]:
    """A filter's numerator and denominator, in powers of `z - 1`, the highest first."""
    now, weights, decays, inputs = held
    factors = [jnp.stack([jnp.ones_like(d), 1 - d]) for d in decays]
    under = functools.reduce(_times, factors, jnp.ones_like(now)[None])
    over = now * under
    for i, (weight, entering) in enumerate(zip(weights, inputs, strict=True)):
        part = functools.reduce(_times, factors[:i] + factors[i + 1 :], (weight * entering)[None])
        over = over + jnp.pad(part, (1, 0))
    return over, under


def _first_exit(a: Array, n: Array) -> Scalar:
    """The least k at which a root z of `a(z - 1) + k n(z - 1)`, other than 1, has modulus 1.

    At -1 k is negative where decay alone diverges. At the angle ω, with `t = 1 - cos ω`, the number
    `s = z - 1` has the square `-2 t s - 2 t`: there a polynomial of s is linear in s, its
    coefficients are polynomials of t, and none loses digits at the small angles of slow buffers.
    """
    buffers = len(n) - 1
    sign = (-1.0) ** buffers
    top, gain = -sign * jnp.polyval(a, -2.0), sign * jnp.polyval(n, -2.0)
    never = gain <= 0
    flip = jnp.where(never & (top > 0), jnp.inf, top / jnp.where(never, 1, gain))
    if not buffers:
        return flip
    products = a[::-1, None] * jnp.pad(n[::-1], (0, 1))[None, :]
    turns = jnp.asarray(_crossing(buffers), products.dtype)
    crossing = jnp.sum((products - products.T)[..., None] * turns, axis=(0, 1))
    t = _roots_between(crossing, 0.0, 2.0)
    (a1, a0), (n1, n0) = _on_circle(a, t), _on_circle(n, t)
    square = n0**2 + t * (2 - t) * n1**2
    k = -(a0 * n0 + t * (2 - t) * a1 * n1)
    small = (4 * jnp.finfo(n.dtype).eps * jnp.sum(jnp.abs(n))) ** 2
    # Where the filter itself is zero no curvature is enough.
    exits = (t > 0) & (t < 2) & (k > 0) & (square > small)
    return jnp.minimum(flip, jnp.min(jnp.where(exits, k / jnp.where(exits, square, 1), jnp.inf)))


def _on_circle(polynomial: Array, t: Array) -> tuple[Array, Array]:
    """A polynomial of s on the unit circle: its imaginary part over that of s, and its real one."""
    linear, constant = jnp.zeros_like(t), jnp.zeros_like(t)
    for coefficient in polynomial:
        linear, constant = constant - 2 * t * linear, coefficient - 2 * t * linear
    return linear, constant - t * linear


@functools.cache
def _crossing(buffers: int) -> np.ndarray:
    """For j > k the polynomial of t, highest power first, that is `Im(s^j s̄^k) / Im s`."""
    turns: list[np.ndarray] = [np.zeros(1), np.ones(1)]  # Im(s^m) / Im s
    for _ in range(buffers):
        turns.append(np.polymul([-2.0, 0.0], np.polyadd(turns[-1], turns[-2])))
    found = np.zeros((buffers + 2, buffers + 2, buffers + 1))
    for j in range(buffers + 2):
        for k in range(j):
            power = np.polymul(turns[j - k], np.append(2.0**k, np.zeros(k)))
            found[j, k, buffers + 1 - len(power) :] = power
    return found


def _times(a: Array, b: Array) -> Array:
    """A product of polynomials; `jnp.convolve` would have reduced precision on accelerators."""
    size = len(b)
    rows = [jnp.pad(b[i] * a, (i, size - 1 - i)) for i in range(size)]
    return functools.reduce(jnp.add, rows)


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


class Cascade(AbstractMomentum):
    """Momentum rules in series: each takes the step of the one before it as its direction.

    Two buffers turn: with `Cascade(EMA(0.9), EMA(0.9))` a complex pair leaves the unit circle at
    `lr λ = 0.2346`, long before -1 is a multiplier.

    Args:
        rules: linear rules, in the order in which they are applied.

    Raises:
        TypeError: if one is no linear rule.
        ValueError: if there is none.

    Example:
        >>> rule = Cascade(EMA(0.9), EMA(0.9))
        >>> round(float(rule.threshold(jnp.asarray(1.0), jnp.asarray(0.0))), 4)
        0.2346
    """

    rules: tuple[AbstractLinearMomentum, ...]

    def __init__(self, *rules: Any):
        if not rules:
            raise ValueError("Cascade got no rule: pass at least one, or take NoMomentum().")
        for rule in rules:
            if not isinstance(rule, AbstractLinearMomentum):
                raise TypeError(
                    "Cascade takes linear momentum rules such as EMA(0.9), got "
                    f"{type(rule).__name__}: of a rule that varies in time take its limit, such as "
                    "EMANesterov for NAdamMomentum."
                )
        self.rules = rules

    @property
    def filters(self) -> tuple[LinearFilter, ...]:
        """The filters of its rules."""
        return tuple(rule.filter for rule in self.rules)

    def init(self, params: PyTree) -> PyTree:
        return tuple(rule.init(params) for rule in self.rules)

    def update(self, direction: PyTree, state: PyTree) -> tuple[PyTree, PyTree]:
        after = []
        for rule, own in zip(self.rules, state, strict=True):
            direction, own = rule.update(direction, own)
            after.append(own)
        return direction, tuple(after)

    def threshold(self, lr: Scalar, weight_decay: Scalar) -> Scalar:
        return series_threshold(self.filters, (), lr, weight_decay)

    def recurrence(
        self, curvature: Scalar, lr: Scalar, weight_decay: Scalar
    ) -> Float[Array, "size size"]:
        return _series_recurrence(self.filters, curvature, lr, weight_decay)

    def bias_correction(self, count: Int[Array, ""]) -> Scalar:
        zero, one = jnp.zeros(()), jnp.ones(())
        # The parameter held at 1 is a constant direction.
        step = _series_recurrence(self.filters, one, zero, zero)
        read = _series_recurrence(self.filters, one, one, zero)[0] - step[0]
        buffers = _power(step, count - 1)[:, 0]
        total = functools.reduce(jnp.multiply, [_response(held)[0] for held in self.filters])
        return -jnp.sum(read * buffers) / total


def _power(matrix: Array, exponent: Int[Array, ""]) -> Array:
    """A matrix to a power of at least 0, by squaring."""
    multiply = functools.partial(jnp.matmul, precision=jax.lax.Precision.HIGHEST)

    def square(bit: Any, powers: tuple[Array, Array]) -> tuple[Array, Array]:
        found, base = powers
        return jnp.where((exponent >> bit) & 1, multiply(found, base), found), multiply(base, base)

    bits = jnp.iinfo(exponent.dtype).bits - 1
    return jax.lax.fori_loop(0, bits, square, (jnp.eye(len(matrix)), matrix))[0]


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
