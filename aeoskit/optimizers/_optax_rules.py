"""What each elementary update of optax does besides having a metric: momentum, factor, decay."""

from __future__ import annotations

from typing import Any

from ._linear_momentum import adan, ademamix, optimistic, simplified_ademamix
from ._momentum import EMA, AbstractMomentum, EMANesterov, Nesterov, NoMomentum, Polyak
from ._nadam import NAdamMomentum
from ._optax_contrib import dual_rate, estimated_rate, first_rate
from ._optax_parts import OURS, Part

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


def with_optimism(rule: AbstractMomentum, part: Part) -> AbstractMomentum | None:
    """The rule after, or before, a part of optimistic gradients; None if that is not known."""
    return optimistic(rule, part.options["alpha"], part.options["beta"])
