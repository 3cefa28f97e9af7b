"""What each elementary update of optax does besides having a metric: momentum, factor, decay."""

from __future__ import annotations

from typing import Any

import jax.numpy as jnp
from jaxtyping import Array

from ...rules._hyperparameters import as_hyperparameter, is_concrete
from ...rules._momentum import (
    EMA,
    AbstractMomentum,
    EMANesterov,
    LinearMomentum,
    NAdamMomentum,
    Nesterov,
    NoMomentum,
    Polyak,
)
from ._parts import OURS, Part

# Updates that hand on the gradient of a quadratic as it is.
PLAIN = frozenset({"identity", "add_noise", "zero_nans", "snapshot", "monitor"})
_ESTIMATED = frozenset({"dadapt_adamw", "prodigy"})
FACTORS = _ESTIMATED | {
    "normalize_by_update_norm",
    "reduce_on_plateau",
    "scale",
    "scale_by_distance_over_gradients",
    "scale_by_madgrad",
    "scale_by_schedule",
    OURS,
}
DECAY = "add_decayed_weights"
OPTIMISTIC = "scale_by_optimistic_gradient"
# Piecewise constant: no P is in them, and their derivative is zero.
SIGNS = frozenset({"scale_by_sign", "scale_by_lion", "scale_by_rprop"})
_MOMENTS = frozenset(
    {
        "scale_by_adam",
        "scale_by_adamax",
        "scale_by_amsgrad",
        "scale_by_belief",
        "scale_by_radam",
        "scale_by_yogi",
    }
)
MOMENTA = (
    _MOMENTS
    | _ESTIMATED
    | {
        "ema",
        "scale_by_adan",
        "scale_by_ademamix",
        "scale_by_adopt",
        "scale_by_madgrad",
        "scale_by_novograd",
        "scale_by_simplified_ademamix",
        "scale_by_sm3",
        "trace",
    }
)


def factor_of(part: Part) -> Any:
    """The number by which the part scales, in the coming step."""
    if part.name == OURS:
        return -part.options["optimizer"].learning_rate(part.before)
    if part.name in _ESTIMATED:
        return -estimated_rate(part)
    if part.name == "scale_by_madgrad":
        return -dual_rate(part)
    if part.name == "scale":
        return part.options["step_size"]
    if part.name == "normalize_by_update_norm":
        return part.options["scale_factor"]
    if part.name == "scale_by_distance_over_gradients":
        return part.options["global_scale"]
    if part.name == "reduce_on_plateau":
        # As it stands: the loss of the coming step, which may lower it, is not known here.
        return part.before.scale
    return part.options["step_size_fn"](part.before.count)


def decay_of(part: Part) -> tuple[Any, bool | None] | None:
    """The part's weight decay, and whether a momentum buffer of its own has it.

    None instead of a truth where that depends on the order of the parts.
    """
    if part.name == DECAY:
        return part.options["weight_decay"], None
    if part.name in _ESTIMATED:
        return part.options["weight_decay"], False
    if part.name == "scale_by_novograd":
        return part.options["weight_decay"], True
    return None


def rule_of(part: Part) -> AbstractMomentum | None:
    """The part's momentum rule, if it has one."""
    options, name = part.options, part.name
    if name == OURS:
        rule = options["optimizer"].momentum_rule
        return None if isinstance(rule, NoMomentum) else rule
    if name == "trace":
        return (Nesterov if options["nesterov"] else Polyak)(options["decay"])
    if name == "ema":
        return EMA(options["decay"])
    if name in _MOMENTS:
        nesterov = options.get("nesterov", False)
        return (NAdamMomentum if nesterov else EMA)(options["b1"])
    if name == "scale_by_adopt":
        return (EMANesterov if options["nesterov"] else EMA)(options["b1"])
    if name == "scale_by_sm3":
        return EMA(options["b1"])
    if name == "scale_by_novograd":
        return Polyak(options["b1"])
    if name in _ESTIMATED:
        return EMA(first_rate(options))
    if name == "scale_by_madgrad":
        return EMA(options["momentum"])
    if name == "scale_by_adan":
        return adan(options["b1"], options["b2"])
    if name == "scale_by_ademamix":
        count = part.before.count_m2
        b3, alpha = (x(count) if callable(x) else x for x in (options["b3"], options["alpha"]))
        return ademamix(options["b1"], b3, alpha)
    if name == "scale_by_simplified_ademamix":
        alpha = options["alpha"]
        alpha = alpha(part.before.t) if callable(alpha) else alpha
        return simplified_ademamix(options["b1"], alpha)
    return None


def estimated_rate(part: Part) -> Array:
    """The learning rate of the coming step of D-Adaptation and Prodigy, corrections included."""
    o, state = part.options, part.before
    rate, count = o["learning_rate"], state.count + 1
    rate = rate(state.count) if callable(rate) else rate
    b1, b2 = o["betas"] if "betas" in o else (o["beta1"], o["beta2"])
    b1, b2 = jnp.asarray(b1, dtype=float), jnp.asarray(b2, dtype=float)
    return state.estim_lr * rate * jnp.sqrt(1 - b2**count) / (1 - b1**count)


def dual_rate(part: Part) -> Array:
    """MADGRAD's learning rate of the coming step."""
    rate, count = part.options["learning_rate"], part.before.count
    rate = rate(count) if callable(rate) else rate
    return (rate + part.options["eps"]) * jnp.sqrt(count + 1.0)


def first_rate(options: dict[str, Any]) -> Any:
    """`b1` of a pair of decay rates."""
    return options["betas"][0] if "betas" in options else options["beta1"]


def optimistic(rule: AbstractMomentum, alpha: Any, beta: Any) -> LinearMomentum | None:
    """The step `(alpha + beta) u_t - beta u_{t-1}` along what another rule makes of directions.

    Threshold: the rule's over `alpha + 2 beta`.

    Args:
        rule: the rule whose steps u are those.
        alpha: the weight of the step, above 0.
        beta: that of its difference to the one before, at least 0: with a negative one, which is
            momentum and no optimism, other roots may leave first.

    Returns:
        A rule; None if the other one is of another kind than those of the module of momentum.

    Raises:
        ValueError: if alpha or beta is outside of that.

    Example:
        >>> rule = optimistic(NoMomentum(), 1.0, 1.0)
        >>> round(float(rule.threshold(jnp.asarray(1.0), jnp.asarray(0.0))), 3)
        0.667
    """
    fix = "aeoskit.flip_multiplier measures the stability of any update"
    alpha = as_hyperparameter("alpha of optimistic gradients", alpha, above=0, fix=fix)
    beta = as_hyperparameter("beta of optimistic gradients", beta, at_least=0, fix=fix)
    if not (is_concrete(alpha) and is_concrete(beta)):
        alpha = jnp.where((alpha > 0) & (beta >= 0), alpha, jnp.nan)
    both = alpha + beta
    if isinstance(rule, NoMomentum):
        return LinearMomentum(both, [-beta], [0.0])
    if not isinstance(rule, Polyak | EMA | Nesterov | EMANesterov | NAdamMomentum):
        return None
    decay = rule.beta1
    gain = 1.0 if isinstance(rule, Polyak | Nesterov) else 1 - decay
    # Partial fractions of the product of both gains.
    if isinstance(rule, Polyak | EMA):
        return LinearMomentum(gain * both, [gain * (decay * both - beta)], [decay])
    return LinearMomentum(
        gain * (1 + decay) * both,
        [gain * decay * (decay * both - beta), -gain * beta],
        [decay, 0.0],
    )


def adan(b1: Any, b2: Any) -> LinearMomentum:
    """Adan's: an average of directions, and one of their differences, bias corrections at 1.

    Threshold `2 / (lr ((1 - b1) / (1 + b1) + 2 (1 - b2)² / (1 + b2)))`, 119.3/lr at (.98, .92).

    Source: Xie et al., *Adan: Adaptive Nesterov Momentum Algorithm* (arXiv 2208.06677).

    Args:
        b1: the decay rate of the average of directions.
        b2: that of the average of differences, whose weight is `1 - b2`.

    Returns:
        A rule.

    Example:
        >>> round(float(adan(0.98, 0.92).threshold(jnp.asarray(1.0), jnp.asarray(0.0))), 1)
        119.3
    """
    b1, b2 = jnp.asarray(b1, dtype=float), jnp.asarray(b2, dtype=float)
    rest = 1 - b2
    return LinearMomentum((1 - b1) + rest**2, [(1 - b1) * b1, -(rest**3)], [b1, b2])


def ademamix(b1: Any, b3: Any, alpha: Any) -> LinearMomentum:
    """AdEMAMix's: a fast average of directions and alpha times a slow one.

    Threshold `2 / (lr ((1 - b1) / (1 + b1) + alpha (1 - b3) / (1 + b3)))`, 37.82/lr at
    (.9, .9999, 5).

    Source: Pagliardini et al., *The AdEMAMix Optimizer* (arXiv 2409.03137).

    Args:
        b1: the decay rate of the fast average.
        b3: that of the slow one.
        alpha: the weight of the slow one, at least 0.

    Returns:
        A rule.

    Example:
        >>> round(float(ademamix(0.9, 0.9, 1.0).threshold(jnp.asarray(1.0), jnp.asarray(0.0))), 2)
        19.0
    """
    b1, b3, alpha = (jnp.asarray(x, dtype=float) for x in (b1, b3, alpha))
    slow = alpha * (1 - b3)
    return LinearMomentum((1 - b1) + slow, [(1 - b1) * b1, slow * b3], [b1, b3])


def simplified_ademamix(b1: Any, alpha: Any) -> LinearMomentum:
    """Polyak's buffer with alpha times the direction added.

    Threshold `2 / (lr (alpha + 1 / (1 + b1)))`.

    Source: Morwani et al., arXiv 2502.02431.

    Args:
        b1: the decay rate of the buffer.
        alpha: the weight of the direction, at least 0.

    Returns:
        A rule.

    Example:
        >>> rule = simplified_ademamix(0.9, 0.0)
        >>> round(float(rule.threshold(jnp.asarray(1.0), jnp.asarray(0.0))), 2)
        3.8
    """
    b1, alpha = jnp.asarray(b1, dtype=float), jnp.asarray(alpha, dtype=float)
    return LinearMomentum(1 + alpha, [b1], [b1])
