"""The combined effect of the parts of an optax transformation, for each group of parameters."""

from __future__ import annotations

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, PyTree

from ...rules._hyperparameters import is_concrete
from ...rules._momentum import (
    AbstractLinearMomentum,
    AbstractMomentum,
    Cascade,
    EMANesterov,
    NAdamMomentum,
    NoMomentum,
    series_threshold,
)
from ._known import DECAY, KNOWN_UPDATES, SIGNS
from ._parts import AEOSKIT, WORKAROUND, Part

Scalar = Float[Array, ""]
_VALUE = "its step size depends on the value of the loss, which the bridge is not given"
_SEARCH = "its step size is that of a line search"
# By the name of the part; each reason continues a sentence about it.
REASONS: dict[str, str] = {
    "apply_every": "it moves in some steps and not in others",
    "centralize": "it projects, so that P⁻¹ is singular",
    "differentially_private_aggregate": "it clips the gradient of each example by itself",
    "flatten": "it joins all leaves into one vector",
    "keep_params_nonnegative": "it holds some parameters at zero",
    "mechanize": "it scales the total update so far by a learned number",
    "momo": _VALUE,
    "momo_adam": _VALUE,
    "sam": "it takes gradients at another point than the parameters",
    "scale_by_backtracking_linesearch": _SEARCH,
    "scale_by_cocob": "it bets: its step is not an average of gradients over a metric",
    "scale_by_galore": "it projects gradients, so that P⁻¹ is singular",
    "scale_by_lbfgs": "its metric is rebuilt in each step from the last steps",
    "scale_by_polyak": _VALUE,
    "scale_by_sophia": "it clips entry by entry, and clipped entries step by their signs",
    "scale_by_zoom_linesearch": _SEARCH,
}


class Group(NamedTuple):
    """A group of parameters with the same parts.

    Args:
        leaves: Their positions among the leaves; None for all.
        rule: The momentum rule.
        lr: The learning rate of the coming step.
        decay: The decoupled weight decay, in units of the learning rate.
        inside: Weight decay through all momentum buffers, in the same units.
        between: Weight decay between two rules of a cascade, for each but the first of them; empty
            without any.
        averaging: For schedule-free, the interpolation and the weight of the coming iterate in the
            average; None for others.
    """

    leaves: tuple[int, ...] | None
    rule: AbstractMomentum
    lr: Scalar
    decay: Scalar
    inside: Scalar
    between: tuple[Scalar, ...]
    averaging: tuple[Scalar, Scalar] | None

    def threshold(self) -> Scalar:
        """The threshold on `λ₁(P⁻¹H)`, with P constant."""
        if self.averaging is not None:
            # At y, where the gradient is taken: it moves by a share of a plain step, and the
            # average x, to which it is drawn, by another share, which tends to zero.
            b, c = self.averaging
            share = (1 - b) + c * b / (2 - c)
            return self.rule.threshold(self.lr, 0 * self.lr) / share - self.decay
        if self.between and isinstance(self.rule, Cascade):
            found = series_threshold(self.rule.filters, self.between, self.lr, self.decay)
            return found - self.inside
        return self.rule.threshold(self.lr, self.decay) - self.inside

    def threshold_in(self, unit: Scalar) -> Scalar:
        """The threshold with P in units of another learning rate; infinite where nothing moves."""
        own = self.threshold() * quotient(self.lr, unit)
        return jnp.where(self.lr == 0, jnp.inf, own)


def quotient(a: Array, b: Array) -> Array:
    """The ratio of two rates; 1 where both are equal, at zero too: the start of two warmups."""
    return jnp.where(a == b, 1.0, a / jnp.where(a == b, 1.0, b))


def moving(groups: list[Group]) -> Group:
    """The first group that moves, in whose units P is, or the first of all; with its leaves.

    Learning rates are known only when the program runs, so the numbers are selected then; the rule
    is that of the first group, which the others have to share.
    """
    found = groups[0]
    for group in groups[1:]:
        still = found.lr == 0
        lr, decay, inside = (
            jnp.where(still, b, a) for a, b in zip(found[2:5], group[2:5], strict=True)
        )
        found = found._replace(lr=lr, decay=decay, inside=inside)
    return found


def check_known(parts: list[Part]) -> None:
    """Raise a `ValueError` for a part without a known metric, by name."""
    for part in parts:
        ours = part.options["optimizer"] if part.name == AEOSKIT else None
        if part.name in SIGNS or (ours is not None and not ours.has_metric):
            raise ValueError(
                f"{part.name} steps by a sign: the update is piecewise constant in the "
                "gradient, so that it has no preconditioner, no threshold and no multiplier."
            )
        if part.name == "set_to_zero":
            raise ValueError(
                "some parameters are frozen by optax's set_to_zero, where P⁻¹ is zero: measure on "
                "those that are trained, with the others closed over by the loss."
            )
        if part.name not in KNOWN_UPDATES:
            why = f" ({REASONS[part.name]})" if part.name in REASONS else ""
            raise ValueError(
                f"the bridge does not know the transformation {part.name}, so that its metric and "
                f"threshold are unknown{why}: {WORKAROUND}"
            )


def read_groups(parts: list[Part], whole: PyTree | None) -> list[Group]:
    """The groups of parameters, each with the combined effect of its parts.

    Args:
        parts: The parts of the transformation.
        whole: The parameters, or a tree like them; None if no part treats leaves separately.

    Returns:
        At least one group.

    Raises:
        ValueError: If a part, or the order of the parts, is unknown.
    """
    check_known(parts)
    if all(part.on is None for part in parts):
        return [_group(None, parts)]
    members: dict[tuple[int, ...], list[int]] = {}
    for leaf in range(len(jax.tree.leaves(whole))):
        key = tuple(i for i, part in enumerate(parts) if part.on is None or part.on[leaf])
        members.setdefault(key, []).append(leaf)
    return [
        _group(tuple(leaves), [parts[i] for i in key]) for key, leaves in sorted(members.items())
    ]


def _group(leaves: tuple[int, ...] | None, parts: list[Part]) -> Group:
    rules = _rules(parts)
    # Numbers in closures stay Python numbers where they are, so that their sign is known under jit.
    product: Any = 1.0
    decays: list[tuple[int, Any, bool | None, Any]] = []
    averaging = None
    for i, part in enumerate(parts):
        if part.name == AEOSKIT:
            optimizer = part.options["optimizer"]
            if optimizer.weight_decay is not None:
                rate = optimizer.decay_over_lr(optimizer.learning_rate(part.before))
                decays.append((i, rate, False, product))
        known = KNOWN_UPDATES[part.name]
        if known.decay is not None:
            decays.append((i, *known.decay(part), product))
        if known.factor is not None:
            product = product * known.factor(part)
        if part.name == "schedule_free":
            averaging = (jnp.asarray(part.options["b1"], dtype=float), _share(part))
    if is_concrete(product) and float(product) > 0:
        raise ValueError(
            f"the updates of this transformation ascend the gradient (its factors multiply to "
            f"{float(product):.3g}): add optax.scale_by_learning_rate(lr), or optax.scale(-lr)."
        )
    lr = -jnp.asarray(product, dtype=float)
    # A schedule is known only when the program runs; at zero it has no sign.
    lr = jnp.where(lr < 0, jnp.nan, jnp.abs(lr))
    # By the number of rules that come before it.
    by_place: dict[int, Scalar] = {}
    for i, rate, buffered, before in decays:
        if is_concrete(rate) and not callable(rate) and float(rate) == 0:
            continue
        if callable(rate):
            raise ValueError(
                f"weight decay with a schedule is not known to the bridge: {WORKAROUND}"
            )
        later = [part.name for part in parts[i + 1 :] if _scales(part)]
        if later and any(_scales(part) for part in parts[: i + 1]):
            raise ValueError(
                f"weight decay by optax's {parts[i].name} between two metrics, the second one "
                f"being that of {later[0]}, is not known to the bridge: {WORKAROUND}"
            )
        if later:
            raise ValueError(
                f"optax's {DECAY} before {later[0]} is a term of the loss, seen through its "
                "metric: leave it out and put `0.5 * weight_decay * ‖w‖²` into the loss of the "
                "objective."
            )
        place = sum(j < i or (j == i and not buffered) for j, _ in rules)
        # In units of the learning rate, with the factors before or after it.
        by_place[place] = by_place.get(place, jnp.zeros_like(lr)) + _over(rate, before)
    none, count = jnp.zeros_like(lr), len(rules)
    decay = by_place.pop(count, none)
    inside = by_place.pop(0, none)
    between = tuple(by_place.get(place, none) for place in range(1, count)) if by_place else ()
    rule = _in_series([rule for _, rule in rules])
    if averaging is not None and isinstance(rule, Cascade):
        names = " and ".join(parts[i].name for i, _ in rules)
        raise ValueError(
            f"the threshold of schedule-free over two momentum buffers, {names}, is not known to "
            f"the bridge: {WORKAROUND}"
        )
    return Group(leaves, rule, lr, decay, inside, between, averaging)


def _rules(parts: list[Part]) -> list[tuple[int, AbstractMomentum]]:
    """The momentum rules of the parts, each with the number of its part."""
    makers = ((i, part, KNOWN_UPDATES[part.name].momentum) for i, part in enumerate(parts))
    made = ((i, make(part)) for i, part, make in makers if make is not None)
    return [(i, rule) for i, rule in made if rule is not None]


def _in_series(rules: list[AbstractMomentum]) -> AbstractMomentum:
    """One rule for all."""
    if len(rules) < 2:
        return rules[0] if rules else NoMomentum()
    # Nadam's corrections tend to 1.
    limits = [EMANesterov(r.beta1) if isinstance(r, NAdamMomentum) else r for r in rules]
    for rule in limits:
        if not isinstance(rule, AbstractLinearMomentum):
            raise ValueError(
                f"the transformation has {type(rule).__name__}, which is no linear filter, beside "
                f"another momentum buffer, so that its threshold is unknown: {WORKAROUND}"
            )
    return Cascade(*limits)


def _over(rate: Any, factor: Any) -> Scalar:
    """The quotient; 0 where a schedule is at zero, and nothing moves."""
    factor = jnp.asarray(factor, dtype=float)
    return jnp.where(factor == 0, 0.0, rate / jnp.where(factor == 0, 1.0, factor))


def _scales(part: Part) -> bool:
    """True if the part has a metric other than the identity."""
    if part.name == "ema":
        return bool(part.options.get("debias", False))
    return KNOWN_UPDATES[part.name].metric is not None


def _share(part: Part) -> Scalar:
    """The weight of schedule-free's coming iterate in its average."""
    state, rate = part.before, part.options["learning_rate"]
    rate = rate(state.step_count) if callable(rate) else rate
    largest = jnp.maximum(state.max_lr, jnp.asarray(rate))
    weight = largest ** part.options["weight_lr_power"]
    total = state.weight_sum + weight
    return jnp.where(total > 0, weight / jnp.where(total > 0, total, 1), 0)


def same_rule(a: Group, b: Group) -> bool | Bool[Array, ""]:
    """True if two groups have the same momentum rule; an array if the numbers are traced."""
    if (a.averaging is None) != (b.averaging is None):
        return False
    if jax.tree.structure(a.rule) != jax.tree.structure(b.rule):
        return False
    numbers = [jax.tree.leaves((group.rule, group.averaging)) for group in (a, b)]
    if [jnp.shape(x) for x in numbers[0]] != [jnp.shape(x) for x in numbers[1]]:
        return False
    same = jnp.asarray(True)
    for x, y in zip(*numbers, strict=True):
        same = same & jnp.all(x == y)
    return bool(same) if is_concrete(same) else same
