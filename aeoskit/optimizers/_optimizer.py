"""`Optimizer`: a momentum rule over a preconditioner, with a schedule and decoupled decay."""

from __future__ import annotations

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from aeoskit._paths import check_like
from aeoskit.linalg import AbstractPreconditioner

from ._interface import AbstractGradientOptimizer
from .rules._hyperparameters import as_hyperparameter, cast_to, is_concrete
from .rules._momentum import AbstractMomentum, NoMomentum, Recursion
from .rules._preconditioner import AbstractPreconditionerRule, Frozen, Identity, positive
from .rules._schedules import AbstractSchedule, Constant, as_schedule
from .rules._trees import check_floating, static_structure

Order = Literal["precondition_last", "precondition_first"]
ORDERS = ("precondition_last", "precondition_first")
FIX = "pass `optimizer.init(params)` of this optimizer"
OURS = ("aeoskit.linalg", "aeoskit.optimizers")
REMEMBERED = 128
# Structures only: nothing here is an array or a tracer.
_MADE: dict[Any, tuple[PyTree, PyTree]] = {}


class OptimizerState(eqx.Module):
    """The number of steps taken, the momentum rule's state, and the preconditioner rule's.

    Args:
        count: steps taken.
        momentum: the state of the momentum rule: its buffer.
        preconditioner: the state of the preconditioner rule: for `RMS`, the second moments ν.

    Example:
        >>> import jax.numpy as jnp
        >>> from aeoskit.optimizers import adam
        >>> state = adam(1e-3).init(jnp.zeros(2))
        >>> int(state.count), state.preconditioner.tolist()
        (0, [0.0, 0.0])
    """

    count: Int[Array, ""]
    momentum: PyTree
    preconditioner: PyTree


class Optimizer(AbstractGradientOptimizer):
    """Momentum rule over preconditioner, with a schedule and decoupled weight decay.

    `order="precondition_last"` is Adam's: `x -= lr P⁻¹ momentum(g)`. `"precondition_first"` is
    that of optax's RMSProp: `x -= momentum(lr P⁻¹ g)`, the learning rate inside the buffer. With
    P constant both have the same threshold. Weight decay is decoupled, outside the buffer, and
    scaled by the learning rate, `x -= lr weight_decay x`, or not, `x -= weight_decay x` (as in
    optax's Adafactor). `ScheduleFree` alone takes it through its buffer.

    Hyperparameters are array leaves in JAX's default float type: float32, or float64 if x64 was
    enabled when the optimizer was made. They are cast to each leaf's dtype, and every buffer and
    update has the dtype of its parameter. `jax.vmap` over an optimizer with stacked leaves is a
    sweep. `as_minimiser` converts it to an optimistix minimiser.

    Args:
        schedule: a schedule, or a learning rate above 0.
        momentum_rule: an `AbstractMomentum`; None for `NoMomentum()`.
        preconditioner_rule: an `AbstractPreconditionerRule`; None for `Identity()`.
        weight_decay: decoupled, at least 0; None for none.
        order: `"precondition_last"` or `"precondition_first"`.
        decay_scaled: whether weight decay is scaled by the learning rate.

    Raises:
        TypeError: if a hyperparameter is not a real number.
        ValueError: if one is outside its range, or `order` is unknown or incompatible with the
            preconditioner's bias correction.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = Optimizer(0.1)  # gradient descent
        >>> params = {"w": jnp.array([1.0])}
        >>> updates, state = optimizer.update({"w": jnp.array([2.0])}, optimizer.init(params))
        >>> updates["w"].tolist(), float(optimizer.threshold(state))
        ([-0.200], 20.0)
    """

    stackable = True
    schedule: AbstractSchedule
    momentum_rule: AbstractMomentum
    preconditioner_rule: AbstractPreconditionerRule
    weight_decay: Float[Array, ""] | None
    order: str = eqx.field(static=True)
    decay_scaled: bool = eqx.field(static=True)

    def __init__(
        self,
        schedule: Any,
        momentum_rule: AbstractMomentum | None = None,
        preconditioner_rule: AbstractPreconditionerRule | None = None,
        weight_decay: Any = None,
        order: Order | str = "precondition_last",
        decay_scaled: bool = True,
    ):
        self.schedule = as_schedule(schedule)
        self.momentum_rule = NoMomentum() if momentum_rule is None else momentum_rule
        self.preconditioner_rule = (
            Identity() if preconditioner_rule is None else preconditioner_rule
        )
        self.weight_decay = None
        if weight_decay is not None:
            self.weight_decay = as_hyperparameter(
                "weight_decay", weight_decay, at_least=0, fix="take a number such as 1e-4, or None"
            )
        if order not in ORDERS:
            raise ValueError(
                f"order must be one of {', '.join(ORDERS)}, got {order!r}: take "
                f"precondition_last for Adam and its variants."
            )
        rule, first = self.preconditioner_rule, order == "precondition_first"
        if first and rule.corrects_momentum:
            correction = getattr(rule, "correction", None)  # a user's rule may not have it
            what = f'correction="{correction}"' if correction else type(rule).__name__
            raise ValueError(
                f"{what} puts the correction of the momentum buffer into P, but "
                f'under order="precondition_first" P acts before the buffer: take '
                f'correction="second_moment" or order="precondition_last".'
            )
        if first and rule.needs_direction:
            raise ValueError(
                f"{type(rule).__name__} makes P from the direction of momentum, but under "
                f'order="precondition_first" P acts before momentum: take '
                f'order="precondition_last".'
            )
        if not first and self.momentum_rule.takes_steps:
            raise ValueError(
                f"{type(self.momentum_rule).__name__} averages steps, and under "
                'order="precondition_last" momentum acts on gradients: take '
                'order="precondition_first".'
            )
        self.order = order
        self.decay_scaled = decay_scaled

    @property
    def name(self) -> str:
        rules = (self.momentum_rule, self.preconditioner_rule)
        return f"Optimizer({', '.join(type(rule).__name__ for rule in rules)})"

    @property
    def has_metric(self) -> bool:
        return self.preconditioner_rule.has_metric

    @property
    def has_threshold(self) -> bool:
        return self.has_metric

    @property
    def is_update_map(self) -> bool:
        return self.has_metric  # the derivative of a sign is zero almost everywhere

    @property
    def is_euclidean(self) -> bool:
        return self.preconditioner_rule.is_identity

    @property
    def freezable(self) -> bool:
        return self.has_metric

    @property
    def tunable(self) -> bool:
        return self.has_threshold

    def init(self, params: PyTree) -> OptimizerState:
        """The state before the first step.

        Args:
            params: a tree of real floating-point arrays (and `None`s).

        Returns:
            A state with count 0.

        Raises:
            TypeError: if a leaf is not a real floating-point array, with its path.
        """
        check_floating(params)
        numpy = np.ndarray | np.generic  # of any precision: the state uses JAX's default
        params = jax.tree.map(lambda x: jnp.asarray(x) if isinstance(x, numpy) else x, params)
        return OptimizerState(
            count=jnp.zeros((), jnp.int32),
            momentum=self.momentum_rule.init(params),
            preconditioner=self.preconditioner_rule.init(params),
        )

    def update(
        self, grads: PyTree, state: OptimizerState, params: PyTree | None = None
    ) -> tuple[PyTree, OptimizerState]:
        """The updates to add to the parameters, and the next state.

        Args:
            grads: the gradients at the parameters, with their structure.
            state: the optimizer's state.
            params: the parameters; needed for weight decay, and by a rule whose P depends on them.

        Returns:
            The pair `(updates, state)`: updates in the parameters' dtypes, for `apply_updates`.

        Raises:
            ValueError: if the state is not this optimizer's, a tree does not match the state, or
                `params` are missing but needed.
        """
        structure = own_structure(self.momentum_rule, self.preconditioner_rule, state)
        check_like("grads", grads, structure)
        grads = jax.tree.map(lambda g, s: g.astype(s.dtype), grads, structure)
        lr = self.learning_rate(state)
        rule_state = self._seen(grads, state, params)
        count = state.count + 1
        bias = self.momentum_rule.bias_correction(count)

        def scaled(direction: PyTree) -> PyTree:
            ahead = self.preconditioner_rule.precondition(direction, rule_state, count, bias)
            return jax.tree.map(lambda leaf: cast_to(-lr, leaf) * leaf, ahead)

        def decayed(updates: PyTree) -> PyTree:
            if self.weight_decay is None:
                return updates
            if params is None:
                raise ValueError(
                    "the optimizer has weight decay, which needs the parameters: call "
                    "`update(grads, state, params)`."
                )
            check_like("params", params, structure)
            decay = lr * self.weight_decay if self.decay_scaled else self.weight_decay
            return jax.tree.map(
                lambda u, p: u - cast_to(decay, u) * p.astype(u.dtype), updates, params
            )

        if self.order == "precondition_last":
            direction, momentum = self.momentum_rule.update(grads, state.momentum)
            updates = decayed(scaled(direction))
        else:
            steps = scaled(grads)
            if self.momentum_rule.takes_steps:
                # The rate of the step after this one, as in optax.
                momentum = self.momentum_rule.weigh(self.schedule(count), state.momentum)
                updates, momentum = self.momentum_rule.update(decayed(steps), momentum)
            else:
                updates, momentum = self.momentum_rule.update(steps, state.momentum)
                updates = decayed(updates)
        return updates, OptimizerState(count, momentum, rule_state)

    def preconditioner(
        self, state: OptimizerState, grads: PyTree | None = None, params: PyTree | None = None
    ) -> AbstractPreconditioner:
        """The metric P: a symmetric positive definite operator with its square roots.

        Args:
            state: the optimizer's state.
            grads: the gradients at the present parameters. With them it is the P of the coming
                step, to which `threshold` applies; without them that of the last step, which does
                not include these gradients.
            params: the present parameters, for a rule whose P depends on them (`Adafactor`).

        Returns:
            An `AbstractPreconditioner` over the structure of the parameters.

        Raises:
            ValueError: without gradients before the first step (under tracing this is not detected:
                a corrected P is then NaN); without `params` if P needs them; for `Sign` descent,
                which has no P; if the state is not this optimizer's, or P has an entry that is not
                positive (traced values are not checked), with the leaf's path.
        """
        return positive(self._metric(state, grads, params))

    def _metric(
        self, state: OptimizerState, grads: PyTree | None, params: PyTree | None
    ) -> AbstractPreconditioner:
        structure = own_structure(self.momentum_rule, self.preconditioner_rule, state)
        if grads is None:
            if is_concrete(state.count) and not bool((state.count > 0).all()):
                raise ValueError(
                    "no step was taken yet, so there is no P of a last step: pass the gradients, "
                    "`preconditioner(state, grads)`, for the P of the coming one."
                )
            return self._operator(state.preconditioner, state.count)
        check_like("grads", grads, structure)
        grads = jax.tree.map(jnp.asarray, grads)
        return self._operator(self._seen(grads, state, params), state.count + 1)

    def threshold(self, state: OptimizerState, params: PyTree | None = None) -> Float[Array, ""]:
        """The closed form, from the momentum rule, the coming step's learning rate and the decay.

        NaN for `Sign` descent, which has none.
        """
        lr = self.learning_rate(state)
        if not self.has_threshold:
            return jnp.full_like(lr, jnp.nan)
        return self.momentum_rule.threshold(lr, self.decay_over_lr(lr))

    def recursion(self, state: OptimizerState, params: PyTree | None = None) -> Recursion:
        """The momentum rule, the learning rate and the decay of the coming step."""
        lr = self.learning_rate(state)
        return Recursion(self.momentum_rule, lr, self.decay_over_lr(lr))

    def decay_over_lr(self, lr: Float[Array, ""]) -> Float[Array, ""]:
        """The decay w for which a step of learning rate lr shrinks x by `lr w x`.

        Args:
            lr: the learning rate of the step.

        Returns:
            A scalar: `weight_decay`, or `weight_decay / lr` if decay is not scaled; 0 for none, and
            where lr is 0, for which it is not finite.
        """
        if self.weight_decay is None:
            return jnp.zeros_like(lr)
        if self.decay_scaled:
            return self.weight_decay
        return jnp.where(lr == 0, 0.0, self.weight_decay / jnp.where(lr == 0, 1.0, lr))

    def learning_rate(
        self, state: OptimizerState, params: PyTree | None = None
    ) -> Float[Array, ""]:
        """The schedule's learning rate at the state's count."""
        check_kind(state)
        return self.schedule(state.count)

    def _seen(self, grads: PyTree, state: OptimizerState, params: PyTree | None) -> PyTree:
        """The preconditioner rule's state at the coming step."""
        return self.preconditioner_rule.observe(
            grads,
            state.preconditioner,
            params,
            # The step computes the same again: under jit the two are merged.
            lambda: self.momentum_rule.update(grads, state.momentum)[0],
        )

    def _operator(self, rule_state: PyTree, count: Int[Array, ""]) -> AbstractPreconditioner:
        bias = self.momentum_rule.bias_correction(count)
        return self.preconditioner_rule.operator(rule_state, count, bias)


def freeze(
    optimizer: Any, state: OptimizerState, grads: PyTree, params: PyTree | None = None
) -> tuple[Optimizer, OptimizerState]:
    """Freeze P at that of the coming step.

    Momentum rule, buffer, step count, schedule, decay and order are kept, so that the coming step
    is that of the live optimizer. This is the frozen branch of arXiv 2207.14484.

    Args:
        optimizer: the live optimizer.
        state: its state.
        grads: the gradients at the present parameters.
        params: the present parameters, for a rule whose P depends on them (`Adafactor`).

    Returns:
        The frozen optimizer and its state.

    Raises:
        TypeError: for an optimizer that is not aeoskit's.
        ValueError: if `grads` does not match the state, or the optimizer has no preconditioner.

    Example:
        >>> import jax.numpy as jnp
        >>> from aeoskit.optimizers import adam
        >>> optimizer, grads = adam(0.1), jnp.array([3.0])
        >>> frozen, state = freeze(optimizer, optimizer.init(jnp.zeros(1)), grads)
        >>> frozen.update(grads, state)[0].tolist()
        [-0.100]
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"freeze holds the P of aeoskit's own optimizers, and this is of type "
            f"{type(optimizer).__name__}: take aeoskit's version, such as adam(1e-3)."
        )
    rule = Frozen(optimizer.preconditioner(state, grads, params))
    frozen = _made(optimizer, optimizer.schedule, rule)
    return frozen, OptimizerState(state.count, state.momentum, None)


def _made(
    optimizer: Optimizer, schedule: AbstractSchedule, rule: AbstractPreconditionerRule
) -> Optimizer:
    """The optimizer with another schedule and preconditioner rule."""
    return Optimizer(
        schedule,
        optimizer.momentum_rule,
        rule,
        optimizer.weight_decay,
        optimizer.order,
        optimizer.decay_scaled,
    )


def with_threshold(optimizer: Any, threshold: Any) -> Optimizer:
    """The same optimizer at the constant learning rate with a given stability threshold.

    A threshold at the root -1 is `A / lr - B w` with a decay w, so that no search is needed.
    With P live the threshold does not depend on the state, and `λ₁(P⁻¹H)` will hover there at this
    learning rate; with P frozen, it sets a run's distance from the edge.

    Args:
        optimizer: an aeoskit optimizer, with any schedule, which the constant replaces.
        threshold: a value of `λ₁(P⁻¹H)`, above 0; it may be traced.

    Returns:
        The optimizer. If no learning rate has that threshold and the numbers are traced, its
        learning rate is NaN, and the run is reported as diverged.

    Raises:
        TypeError: for an optimizer that is not aeoskit's: its learning rate is in its own closures.
        ValueError: for sign descent, which has no threshold; if no learning rate has that
            threshold, or if with a decay w it is not `A / lr - B w`.

    Example:
        >>> import jax.numpy as jnp
        >>> from aeoskit.optimizers import adam
        >>> optimizer = with_threshold(adam(1e-3), 3800.0)
        >>> print(f"{optimizer.learning_rate(optimizer.init(jnp.zeros(2))):.3g}")
        0.01
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"with_threshold sets the learning rate of aeoskit's own optimizers, and this is of "
            f"type {type(optimizer).__name__}: take aeoskit's version, such as adam(1e-3)."
        )
    if not optimizer.tunable:
        raise ValueError(
            "the step of sign descent is piecewise constant in the gradient, and has no threshold "
            "to set: take an optimizer with a preconditioner."
        )
    one, zero = jnp.asarray(1.0), jnp.asarray(0.0)
    free = optimizer.momentum_rule.threshold(one, zero)
    slope = free - optimizer.momentum_rule.threshold(one, one)
    threshold = jnp.asarray(threshold, dtype=float)
    decay = zero if optimizer.weight_decay is None else optimizer.weight_decay
    if optimizer.decay_scaled:
        numerator, denominator = free, threshold + slope * decay
    else:
        # Unscaled, the decay in units of the learning rate grows as the learning rate falls.
        numerator, denominator = free - slope * decay, threshold
    lr = jnp.where((numerator > 0) & (denominator > 0), numerator / denominator, jnp.nan)
    if is_concrete(lr) and lr.ndim == 0 and bool(jnp.isnan(lr)):
        raise ValueError(
            f"no learning rate has the threshold {float(threshold):.3g} with a weight decay of "
            f"{float(decay):.3g}: pass a threshold above 0, and a decay that does not diverge by "
            "itself."
        )
    in_steps = decay if optimizer.decay_scaled else decay / lr
    found = jnp.vectorize(optimizer.momentum_rule.threshold)(lr, in_steps)
    # Of a complex pair it need not be linear in the decay.
    rounding = 8 * jnp.finfo(lr.dtype).eps * free / lr
    linear = jnp.abs(found - threshold) <= 1e-3 * threshold + rounding
    if is_concrete(linear) and linear.ndim == 0 and not bool(linear):
        raise ValueError(
            f"the threshold of {type(optimizer.momentum_rule).__name__} with a weight decay of "
            f"{float(decay):.3g} is not A / lr - B w, so that the learning rate for "
            f"{float(threshold):.3g} is unknown: leave the decay out, or set the learning rate."
        )
    return _made(optimizer, Constant(jnp.where(linear, lr, jnp.nan)), optimizer.preconditioner_rule)


def check_kind(state: Any) -> None:
    """Raise a `TypeError` for anything but an `OptimizerState`.

    Raises:
        TypeError: with the state's type.
    """
    if not isinstance(state, OptimizerState):
        raise TypeError(
            f"the state is a {type(state).__name__}, not the OptimizerState of this optimizer: "
            "take `optimizer.init(params)`; a state of optax belongs to its own transformation, "
            "see `from_optax`."
        )


def own_structure(
    momentum: AbstractMomentum, preconditioner: AbstractPreconditionerRule, state: Any
) -> PyTree[jax.ShapeDtypeStruct]:
    """The structure of the parameters, from a state that fits these two rules.

    Only shapes are compared: it costs microseconds, and nothing once compiled.

    Raises:
        TypeError: if it is not an `OptimizerState`.
        ValueError: if it has other leaves or shapes than `init` gives, naming the leaf's path.
    """
    check_kind(state)
    held = state.preconditioner
    try:
        structure = preconditioner.structure(held)
    except (AttributeError, TypeError):  # The state of another rule has another class.
        structure = None
    # Parameters that are a state or a metric, which a rule may have mapped over, are excluded too.
    if structure is None or type(structure).__module__.startswith(OURS):
        raise ValueError(
            f"state.preconditioner is a {type(held).__name__}, which is not what "
            f"{type(preconditioner).__name__} keeps: {FIX}."
        )
    rules = (momentum, preconditioner)
    made = _made_by(rules, structure)
    for name, rule, expected in zip(("momentum", "preconditioner"), rules, made, strict=True):
        who = (type(rule).__name__, "keeps", "keep")
        check_like(f"state.{name}", getattr(state, name), expected, who, FIX)
    return structure


def _made_by(
    rules: tuple[AbstractMomentum, AbstractPreconditionerRule], structure: PyTree
) -> tuple[PyTree, PyTree]:
    """The structures of the two rules' initial states, cached, since they depend on shapes only."""
    key = (jax.tree.structure(rules), static_structure(structure))
    try:
        found = _MADE.get(key)
    except TypeError:  # A user's rule with an unhashable static field.
        key, found = None, None
    if found is None:
        found = jax.eval_shape(lambda p: (rules[0].init(p), rules[1].init(p)), structure)
        if key is not None:
            if len(_MADE) >= REMEMBERED:
                _MADE.clear()
            _MADE[key] = found
    return found
