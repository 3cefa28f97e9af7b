"""From a multiplier back to the ratio of `λ₁(P⁻¹H)` to its threshold."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optimistix as optx
from jaxtyping import Array, Float, Num

from aeoskit.optimizers import AbstractMomentum, Recursion

Scalar = Float[Array, ""]
Number = Num[Array, ""] | float | int
# Where a rule has more than two multipliers a mode, from this many curvatures the first bracket.
_GRID = 65


def _of_polynomial(polynomial: Any) -> tuple[Array, Array]:
    """The companion matrices of `a(μ) + s b(μ)` at s zero, and at the s for which -1 is a root."""
    a, b = (jnp.atleast_1d(jnp.asarray(part, dtype=float)) for part in polynomial)
    if a.ndim != 1 or b.ndim != 1 or a.size < 2 or b.size >= a.size:
        raise ValueError(
            "equivalent_ratio: a threshold polynomial is a pair (a, b) of coefficient lists, the "
            "highest power first, of a(μ) + s b(μ) with b of lower degree than a; got lengths "
            f"{a.size} and {b.size}."
        )
    b = jnp.concatenate([jnp.zeros(a.size - b.size), b])
    below = jnp.eye(a.size - 2, a.size - 1)
    minus = jnp.asarray(-1.0)
    threshold = -jnp.polyval(a, minus) / jnp.polyval(b, minus)
    firsts = (-((a + s * b) / a[0])[None, 1:] for s in (0 * threshold, threshold))
    zero, one = (jnp.concatenate([first, below]) for first in firsts)
    return zero, one


def equivalent_ratio(
    multiplier: Num[Array, ""] | complex | float,
    rule: AbstractMomentum | Any,
    lr: Number = 1.0,
    weight_decay: Number = 0.0,
) -> Scalar:
    """The ratio `λ / threshold` at which the recurrence with P frozen has this flip multiplier.

    It makes multipliers comparable: for `EMA(0.9)` the multiplier is -1 at the ratio 1, but
    -1.166 at 1.01 and -1.345 at 1.03. A real multiplier is inserted into the characteristic
    polynomial, which is linear in the curvature; of a complex pair the real part is taken, which
    for two multipliers a mode is half of their sum, and linear too. The modulus is of no use:
    it is `√β` for a whole range of ratios.

    A flip multiplier at or above the β of the rule means that the ratio is too small to be seen
    (under 0.03 for `EMA(0.9)`): what other modes do is then smaller than what the top one does.

    Args:
        multiplier: the eigenvalue of smallest real part, real or complex.
        rule: the momentum rule; or a threshold polynomial, a pair of coefficient lists `(a, b)`,
            the highest power first, such that a mode of curvature s has the multipliers
            `a(μ) + s b(μ) = 0`; or the `optimizer.recursion(state)`, which has the learning
            rate and the decay in it.
        lr: the learning rate; only its product with `weight_decay` matters, and nothing to a
            polynomial.
        weight_decay: decoupled weight decay, 0 for none; nothing to a polynomial.

    Returns:
        A scalar. NaN for NaN, and where a rule of more than two multipliers a mode has no
        curvature between zero and twice the threshold at which the smallest real part is that.

    Raises:
        ValueError: a pair that is no polynomial.

    Example:
        >>> from aeoskit.optimizers import EMA
        >>> round(float(equivalent_ratio(-1.166, EMA(0.9))), 3)
        1.010
        >>> gradient_descent = ([1.0, -1.0], [1.0])  # μ - 1 + s
        >>> float(equivalent_ratio(0.5, gradient_descent))
        0.25
    """
    if isinstance(rule, Recursion):
        own = rule.rule.threshold(*(jnp.asarray(x, float) for x in (rule.lr, rule.weight_decay)))
        ratio = equivalent_ratio(multiplier, rule.rule, rule.lr, rule.weight_decay)
        return (ratio * own - rule.shift) / (own - rule.shift)
    value = jnp.asarray(multiplier)
    value = value.astype(jnp.result_type(value.dtype, jnp.complex64))
    if isinstance(rule, AbstractMomentum):
        lr, decay = (jnp.asarray(x, dtype=float) for x in (lr, weight_decay))
        unit, steps = jnp.ones_like(lr), lr * decay
        zero, one = (
            rule.recurrence(s, unit, steps) for s in (0 * unit, rule.threshold(unit, steps))
        )
    elif isinstance(rule, tuple | list) and len(rule) == 2:
        zero, one = _of_polynomial(rule)
    else:
        raise ValueError(
            f"equivalent_ratio: the rule is a {type(rule).__name__}, not a momentum rule such as "
            "EMA(0.9) nor a pair (a, b) of coefficient lists."
        )
    return _ratio_at(value, zero, one)


@eqx.filter_jit
def _ratio_at(value: Array, zero: Array, one: Array) -> Scalar:
    """The ratio at which `zero + ratio (one - zero)` has this multiplier."""
    identity = jnp.eye(zero.shape[0])
    at_zero, at_one = (jnp.linalg.det(value.real * identity - matrix) for matrix in (zero, one))
    real = at_zero / (at_zero - at_one)
    if zero.shape[0] == 1:
        return real
    if zero.shape[0] == 2:
        traces = jnp.trace(zero), jnp.trace(one)
        pair = (traces[0] - 2 * value.real) / (traces[0] - traces[1])
    else:
        pair = _of_real_part(value.real, zero, one)
    return jnp.where(value.imag == 0, real, pair)


def _of_real_part(real: Scalar, zero: Array, one: Array) -> Scalar:
    """The ratio at which the smallest real part among the eigenvalues falls to this value."""

    def excess(ratio: Scalar, args: Any = None) -> Scalar:
        del args
        return jnp.min(jnp.linalg.eigvals(zero + ratio * (one - zero)).real) - real

    grid = jnp.linspace(0, 2, _GRID)
    values = jax.vmap(excess)(grid)
    falls = (values[:-1] >= 0) & (values[1:] < 0)
    # The last fall: at small ratios the smallest multiplier may rise first.
    last = _GRID - 2 - jnp.argmax(falls[::-1])
    lower, upper = grid[last], grid[last + 1]
    tolerance = float(np.finfo(np.float32).eps)
    found = optx.root_find(
        excess,
        optx.Bisection(rtol=tolerance, atol=tolerance, flip=True),
        (lower + upper) / 2,
        options={"lower": lower, "upper": upper},
        max_steps=64,
        throw=False,
    )
    return jnp.where(jnp.any(falls), found.value, jnp.nan)
