"""The known elementary updates of optax, by the name of their factory function."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import jax.numpy as jnp
from jaxtyping import Array, PyTree

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
from . import _metrics as metrics
from ._parts import AEOSKIT, Part


class KnownUpdate(NamedTuple):
    """The effect of an elementary update; by default it is linear in the gradient of a quadratic.

    Args:
        metric: makes the diagonal of its metric; None for the identity.
        momentum: makes its momentum rule, or None.
        factor: makes its scale factor in the coming step.
        decay: makes its weight decay, and whether that goes through its own momentum buffer; None
            instead of a bool where the part has no buffer.
        needs: further arguments of its update: "params", or "value", the loss.
    """

    metric: Callable[[Part], PyTree | None] | None = None
    momentum: Callable[[Part], AbstractMomentum | None] | None = None
    factor: Callable[[Part], Any] | None = None
    decay: Callable[[Part], tuple[Any, bool | None]] | None = None
    needs: str = ""


DECAY = "add_decayed_weights"
# Piecewise constant: they have no P, and their derivative is zero.
SIGNS = frozenset({"scale_by_sign", "scale_by_lion", "scale_by_rprop"})


def diagonal_of(part: Part) -> PyTree[Array] | None:
    """The diagonal of the part's metric, over the leaves that it acts on; None for the identity.

    Raises:
        ValueError: If it needs gradients or parameters that were not given.
    """
    metric = KNOWN_UPDATES[part.name].metric
    count = getattr(part.after, "count", getattr(part.after, "t", None))
    last = metric is not None and part.incoming is None
    if last and isinstance(count, Array) and is_concrete(count) and not bool(jnp.all(count > 0)):
        raise ValueError(
            "no step was taken yet, so that there is no P of a last step: pass the gradients for "
            "the P of the coming one."
        )
    return None if metric is None else metric(part)


def _own_rule(part: Part) -> AbstractMomentum | None:
    rule = part.options["optimizer"].momentum_rule
    return None if isinstance(rule, NoMomentum) else rule


def _moments(part: Part) -> AbstractMomentum:
    nesterov = part.options.get("nesterov", False)
    return (NAdamMomentum if nesterov else EMA)(part.options["b1"])


def _adopt(part: Part) -> AbstractMomentum:
    return (EMANesterov if part.options["nesterov"] else EMA)(part.options["b1"])


def _trace(part: Part) -> AbstractMomentum:
    return (Nesterov if part.options["nesterov"] else Polyak)(part.options["decay"])


def _ademamix(part: Part) -> AbstractMomentum:
    options, count = part.options, part.before.count_m2
    b3, alpha = (x(count) if callable(x) else x for x in (options["b3"], options["alpha"]))
    return ademamix(options["b1"], b3, alpha)


def _simplified(part: Part) -> AbstractMomentum:
    alpha = part.options["alpha"]
    alpha = alpha(part.before.t) if callable(alpha) else alpha
    return simplified_ademamix(part.options["b1"], alpha)


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


def optimism(alpha: Any, beta: Any) -> LinearMomentum:
    """The step `(alpha + beta) u_t - beta u_{t-1}` along incoming steps u.

    It divides the threshold at -1 of the rule of these steps by `alpha + 2 beta`.

    Args:
        alpha: the weight of the step, above 0.
        beta: the weight of its difference to the step before, at least 0: a negative one is
            momentum rather than optimism.

    Returns:
        A rule.

    Raises:
        ValueError: if alpha or beta is outside its range.

    Example:
        >>> rule = optimism(1.0, 1.0)
        >>> round(float(rule.threshold(jnp.asarray(1.0), jnp.asarray(0.0))), 3)
        0.667
    """
    fix = "aeoskit.flip_multiplier measures the stability of any update"
    alpha = as_hyperparameter("alpha of optimistic gradients", alpha, above=0, fix=fix)
    beta = as_hyperparameter("beta of optimistic gradients", beta, at_least=0, fix=fix)
    if not (is_concrete(alpha) and is_concrete(beta)):
        alpha = jnp.where((alpha > 0) & (beta >= 0), alpha, jnp.nan)
    return LinearMomentum(alpha + beta, [-beta], [0.0])


def adan(b1: Any, b2: Any) -> LinearMomentum:
    """Adan's: an average of directions, and one of their differences, bias corrections at 1.

    Threshold `2 / (lr ((1 - b1) / (1 + b1) + 2 (1 - b2)² / (1 + b2)))`, 119.3/lr at (.98, .92).

    Source: Xie et al., *Adan: Adaptive Nesterov Momentum Algorithm* (arXiv 2208.06677).

    Args:
        b1: the decay rate of the average of directions.
        b2: the decay rate of the average of differences, whose weight is `1 - b2`.

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
        b3: the decay rate of the slow average.
        alpha: the weight of the slow average, at least 0.

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


KNOWN_UPDATES: dict[str, KnownUpdate] = {
    "adaptive_grad_clip": KnownUpdate(metric=metrics.adaptive, needs="params"),
    "add_decayed_weights": KnownUpdate(
        decay=lambda part: (part.options["weight_decay"], None), needs="params"
    ),
    "add_noise": KnownUpdate(),
    "clip": KnownUpdate(metric=metrics.entries),
    "clip_by_block_rms": KnownUpdate(metric=metrics.block_rms),
    "clip_by_global_norm": KnownUpdate(metric=metrics.global_norm),
    "dadapt_adamw": KnownUpdate(
        metric=metrics.dadapt,
        momentum=lambda part: EMA(first_rate(part.options)),
        factor=lambda part: -estimated_rate(part),
        decay=lambda part: (part.options["weight_decay"], False),
        needs="params",
    ),
    "ema": KnownUpdate(metric=metrics.debias, momentum=lambda part: EMA(part.options["decay"])),
    "identity": KnownUpdate(),
    "monitor": KnownUpdate(),
    "normalize": KnownUpdate(metric=metrics.own_norm),
    "normalize_by_update_norm": KnownUpdate(
        metric=metrics.update_norm, factor=lambda part: part.options["scale_factor"]
    ),
    "prodigy": KnownUpdate(
        metric=metrics.prodigy,
        momentum=lambda part: EMA(first_rate(part.options)),
        factor=lambda part: -estimated_rate(part),
        decay=lambda part: (part.options["weight_decay"], False),
        needs="params",
    ),
    # The present value: the loss of the coming step, which may lower it, is not known here.
    "reduce_on_plateau": KnownUpdate(factor=lambda part: part.before.scale, needs="value"),
    "scale": KnownUpdate(factor=lambda part: part.options["step_size"]),
    "scale_by_acprop": KnownUpdate(metric=metrics.acprop),
    "scale_by_adadelta": KnownUpdate(metric=metrics.adadelta),
    "scale_by_adam": KnownUpdate(metric=metrics.adam, momentum=_moments),
    "scale_by_adamax": KnownUpdate(metric=metrics.adamax, momentum=_moments),
    "scale_by_adan": KnownUpdate(
        metric=metrics.adan, momentum=lambda part: adan(part.options["b1"], part.options["b2"])
    ),
    "scale_by_ademamix": KnownUpdate(metric=metrics.ademamix, momentum=_ademamix),
    "scale_by_adopt": KnownUpdate(metric=metrics.adopt, momentum=_adopt),
    "scale_by_amsgrad": KnownUpdate(metric=metrics.amsgrad, momentum=_moments),
    "scale_by_belief": KnownUpdate(metric=metrics.adam, momentum=_moments),
    "scale_by_distance_over_gradients": KnownUpdate(
        metric=metrics.layer_dog, factor=lambda part: part.options["global_scale"], needs="params"
    ),
    "scale_by_dog": KnownUpdate(metric=metrics.dog, needs="params"),
    "scale_by_dowg": KnownUpdate(metric=metrics.dowg, needs="params"),
    "scale_by_factored_rms": KnownUpdate(metric=metrics.factored, needs="params"),
    "scale_by_madgrad": KnownUpdate(
        metric=metrics.madgrad,
        momentum=lambda part: EMA(part.options["momentum"]),
        factor=lambda part: -dual_rate(part),
        needs="params",
    ),
    "scale_by_novograd": KnownUpdate(
        metric=metrics.novograd,
        momentum=lambda part: Polyak(part.options["b1"]),
        decay=lambda part: (part.options["weight_decay"], True),
        needs="params",
    ),
    "scale_by_optimistic_gradient": KnownUpdate(
        momentum=lambda part: optimism(part.options["alpha"], part.options["beta"])
    ),
    "scale_by_param_block_norm": KnownUpdate(metric=metrics.param_norm, needs="params"),
    "scale_by_param_block_rms": KnownUpdate(metric=metrics.param_rms, needs="params"),
    "scale_by_radam": KnownUpdate(metric=metrics.radam, momentum=_moments),
    "scale_by_rms": KnownUpdate(metric=metrics.rms),
    "scale_by_rss": KnownUpdate(metric=metrics.rss),
    "scale_by_schedule": KnownUpdate(
        factor=lambda part: part.options["step_size_fn"](part.before.count)
    ),
    "scale_by_simplified_ademamix": KnownUpdate(metric=metrics.simplified, momentum=_simplified),
    "scale_by_sm3": KnownUpdate(metric=metrics.sm3, momentum=lambda part: EMA(part.options["b1"])),
    "scale_by_stddev": KnownUpdate(metric=metrics.rms),
    "scale_by_trust_ratio": KnownUpdate(metric=metrics.trust_ratio, needs="params"),
    "scale_by_yogi": KnownUpdate(metric=metrics.adam, momentum=_moments),
    "schedule_free": KnownUpdate(),
    "snapshot": KnownUpdate(),
    "trace": KnownUpdate(momentum=_trace),
    "zero_nans": KnownUpdate(),
    AEOSKIT: KnownUpdate(
        metric=metrics.ours,
        momentum=_own_rule,
        factor=lambda part: -part.options["optimizer"].learning_rate(part.before),
    ),
}
