"""An optimizer is a momentum rule over a preconditioner, with a schedule and decoupled decay."""

from __future__ import annotations

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from aeoskit.linalg import AbstractPreconditioner

from ._direction_rule import AbstractDirectionRule
from ._hyperparameters import as_hyperparameter, cast_to, is_concrete
from ._minimiser import AbstractOptimizer, as_minimiser
from ._momentum import AbstractMomentum, NoMomentum
from ._positive import positive
from ._powers import CORRECTS_FIRST
from ._preconditioning import (
    AbstractParameterRule,
    AbstractPreconditionerRule,
    Frozen,
    Identity,
)
from ._recursion import Recursion
from ._schedule_free import ScheduleFree
from ._schedules import AbstractSchedule, as_schedule
from ._sign import Sign
from ._state import OptimizerState, check_kind, own_structure
from ._structure import check_floating, check_like

Order = Literal["precondition_last", "precondition_first"]
ORDERS = ("precondition_last", "precondition_first")


class Optimizer(AbstractOptimizer):
    """Momentum rule over preconditioner, with a schedule and decoupled weight decay.

    `order="precondition_last"` is Adam's: `x -= lr P⁻¹ momentum(g)`. `"precondition_first"` is
    that of optax's RMSProp: `x -= momentum(lr P⁻¹ g)`, the learning rate inside the buffer. With
    P constant both have the same threshold. Weight decay is decoupled, outside the buffer, and
    scaled by the learning rate, `x -= lr weight_decay x`, or not, `x -= weight_decay x` (as in
    optax's Adafactor). `ScheduleFree` alone takes it through its buffer.

    Hyperparameters are array leaves in JAX's default float type: float32, or float64 where x64
    was enabled when the optimizer was made. They are cast to each leaf's dtype, and every buffer
    and update has the dtype of its parameter. `jax.vmap` over an optimizer with stacked leaves is
    a sweep. It is an optimistix minimiser, too: `optimistix.minimise(fn, optimizer, y0)`.

    Args:
        schedule: a schedule, or a learning rate above 0.
        momentum_rule: an `AbstractMomentum`; None for `NoMomentum()`.
        preconditioner_rule: an `AbstractPreconditionerRule`; None for `Identity()`.
        weight_decay: decoupled, at least 0; None for none.
        order: `"precondition_last"` or `"precondition_first"`.
        decay_scaled: whether weight decay is scaled by the learning rate.

    Raises:
        TypeError: if a hyperparameter is no real number.
        ValueError: if one is outside its range, or `order` is unknown or does not go with the
            preconditioner's bias correction.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = Optimizer(0.1)  # gradient descent
        >>> params = {"w": jnp.array([1.0])}
        >>> updates, state = optimizer.update({"w": jnp.array([2.0])}, optimizer.init(params))
        >>> updates["w"].tolist(), float(optimizer.threshold(state))
        ([-0.200], 20.0)
    """

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
                "weight_decay", weight_decay, at_least=0, mend="take a number such as 1e-4, or None"
            )
        if order not in ORDERS:
            raise ValueError(
                f"order must be one of {', '.join(ORDERS)}, got {order!r}: take "
                f"precondition_last for Adam and its kin."
            )
        correction = getattr(self.preconditioner_rule, "correction", "none")
        if order == "precondition_first" and correction in CORRECTS_FIRST:
            raise ValueError(
                f'correction="{correction}" puts the correction of the momentum buffer into P, but '
                f'under order="precondition_first" P acts before the buffer: take '
                f'correction="second_moment" or order="precondition_last".'
            )
        rule = self.preconditioner_rule
        if order == "precondition_first" and isinstance(rule, AbstractDirectionRule):
            raise ValueError(
                f"{type(rule).__name__} makes P of the direction of momentum, but under "
                f'order="precondition_first" P acts before momentum: take '
                f'order="precondition_last".'
            )
        if order == "precondition_last" and isinstance(self.momentum_rule, ScheduleFree):
            raise ValueError(
                'ScheduleFree averages steps, and under order="precondition_last" momentum acts '
                'on gradients: take order="precondition_first".'
            )
        self.order = order
        self.decay_scaled = decay_scaled

    def init(self, params: Any, *minimization: Any) -> Any:
        """The state before the first step.

        Args:
            params: a tree of real floating-point arrays (and `None`s).
            minimization: nothing; `optimistix.minimise`, which calls its own `init` by position,
                hands over its function first, then the parameters and the rest.

        Returns:
            An `OptimizerState` with count 0; for optimistix, a state of its own that holds one.

        Raises:
            TypeError: if a leaf is not a real floating-point array, with its path.
        """
        if minimization:
            return as_minimiser(self).init(params, *minimization)
        check_floating(params)
        numpy = np.ndarray | np.generic  # of any precision: the state has JAX's
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
            params: the parameters; needed for weight decay, and by a rule whose P has them in it.

        Returns:
            The pair `(updates, state)`: updates in the parameters' dtypes, for `apply_updates`.

        Raises:
            ValueError: if the state is not this optimizer's, a tree does not match the state, or
                `params` lack where they are needed.
        """
        structure = own_structure(self.momentum_rule, self.preconditioner_rule, state)
        check_like("grads", grads, structure)
        grads = jax.tree.map(lambda g, s: g.astype(s.dtype), grads, structure)
        lr = self.learning_rate(state)
        rule, rule_state = self.preconditioner_rule, self._seen(grads, state, params)
        if isinstance(rule, Sign):
            precondition = rule.apply
        else:
            precondition = self._operator(rule_state, state.count + 1).inv_mv

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

        momentum = state.momentum
        if self.order == "precondition_last":
            direction, momentum = self.momentum_rule.update(grads, momentum)
            updates = decayed(_scale(-lr, precondition(direction)))
        elif isinstance(self.momentum_rule, ScheduleFree):
            # The rate of the step after this one, as optax has it, for the average's weights.
            momentum = self.momentum_rule.weigh(self.schedule(state.count + 1), momentum)
            moved = decayed(_scale(-lr, precondition(grads)))
            updates, momentum = self.momentum_rule.update(moved, momentum)
        else:
            scaled = _scale(-lr, precondition(grads))
            updates, momentum = self.momentum_rule.update(scaled, momentum)
            updates = decayed(updates)
        return updates, OptimizerState(state.count + 1, momentum, rule_state)

    def preconditioner(
        self, state: OptimizerState, grads: PyTree | None = None, params: PyTree | None = None
    ) -> AbstractPreconditioner:
        """The metric P: a symmetric positive definite operator with its square roots.

        Args:
            state: the optimizer's state.
            grads: the gradients at the present parameters. With them it is the P of the coming
                step, which is what belongs to `threshold`; without them that of the last step,
                which has not seen these gradients.
            params: the present parameters, for a rule whose P has them in it (`Adafactor`).

        Returns:
            An `AbstractPreconditioner` over the structure of the parameters.

        Raises:
            ValueError: without gradients before the first step (inside a traced function that
                cannot be seen: a corrected P is then NaN); without `params` where P needs them;
                for `Sign` descent, which has no P; where the state is not this optimizer's, or P
                has an entry that is not positive (a value inside a traced function is not looked
                at), with the leaf's path.
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
        """The value of `λ₁(P⁻¹H)` above which the coming step's recursion diverges, P constant.

        Closed form, from the momentum rule, the coming step's learning rate and the decay.

        Args:
            state: the optimizer's state: its step count.
            params: of no effect; an optimizer of optax may ask for them.

        Returns:
            A scalar; NaN for `Sign` descent, which has none.
        """
        lr = self.learning_rate(state)
        if isinstance(self.preconditioner_rule, Sign):
            return jnp.full_like(lr, jnp.nan)
        return self.momentum_rule.threshold(lr, self.decay_over_lr(lr))

    def recursion(self, state: OptimizerState, params: PyTree | None = None) -> Recursion:
        """The linear recurrence of the coming step, P constant: what a multiplier is read with.

        Args:
            state: the optimizer's state: its step count.
            params: of no effect; an optimizer of optax may ask for them.

        Returns:
            A `Recursion`: the momentum rule, the learning rate and the decay.
        """
        lr = self.learning_rate(state)
        return Recursion(self.momentum_rule, lr, self.decay_over_lr(lr))

    def decay_over_lr(self, lr: Float[Array, ""]) -> Float[Array, ""]:
        """The decay w for which a step of learning rate lr shrinks x by `lr w x`.

        Args:
            lr: the learning rate of the step.

        Returns:
            A scalar: `weight_decay`, or that over lr where decay is not scaled; 0 for none, and
            where lr is 0, at which it has no finite one.
        """
        if self.weight_decay is None:
            return jnp.zeros_like(lr)
        if self.decay_scaled:
            return self.weight_decay
        return jnp.where(lr == 0, 0.0, self.weight_decay / jnp.where(lr == 0, 1.0, lr))

    def learning_rate(
        self, state: OptimizerState, params: PyTree | None = None
    ) -> Float[Array, ""]:
        """The learning rate of the coming step.

        Args:
            state: the optimizer's state: its step count.
            params: of no effect; an optimizer of optax may ask for them.

        Returns:
            A scalar.
        """
        check_kind(state)
        return self.schedule(state.count)

    def _seen(self, grads: PyTree, state: OptimizerState, params: PyTree | None) -> PyTree:
        """The preconditioner rule's state that belongs to the coming step."""
        rule, before = self.preconditioner_rule, state.preconditioner
        if isinstance(rule, AbstractParameterRule):
            if params is not None:
                check_like("params", params, rule.structure(before))
            before = rule.at(params, before)
        if isinstance(rule, AbstractDirectionRule):
            # The same again where the step is taken: compiled, the two are one.
            direction, _ = self.momentum_rule.update(grads, state.momentum)
            return rule.follow(grads, direction, before)
        return rule.update(grads, before)

    def _operator(self, rule_state: PyTree, count: Int[Array, ""]) -> AbstractPreconditioner:
        bias = self.momentum_rule.bias_correction(count)
        return self.preconditioner_rule.operator(rule_state, count, bias)


def _scale(factor: Array, tree: PyTree) -> PyTree:
    return jax.tree.map(lambda leaf: cast_to(factor, leaf) * leaf, tree)


def freeze(
    optimizer: Optimizer, state: OptimizerState, grads: PyTree, params: PyTree | None = None
) -> tuple[Optimizer, OptimizerState]:
    """The same optimizer with P held at that of the coming step.

    Momentum rule, buffer, step count, schedule, decay and order are kept, so that the coming step
    is the one that the live optimizer would take. This is the frozen branch of arXiv 2207.14484.

    Args:
        optimizer: the live optimizer.
        state: its state.
        grads: the gradients at the present parameters.
        params: the present parameters, for a rule whose P has them in it (`Adafactor`).

    Returns:
        The frozen optimizer and its state.

    Raises:
        ValueError: if `grads` does not match the state, or the optimizer has no preconditioner.

    Example:
        >>> import jax.numpy as jnp
        >>> from aeoskit.optimizers import adam
        >>> optimizer, grads = adam(0.1), jnp.array([3.0])
        >>> frozen, state = freeze(optimizer, optimizer.init(jnp.zeros(1)), grads)
        >>> frozen.update(grads, state)[0].tolist()
        [-0.100]
    """
    rule = Frozen(optimizer.preconditioner(state, grads, params))
    frozen = Optimizer(
        optimizer.schedule,
        optimizer.momentum_rule,
        rule,
        optimizer.weight_decay,
        optimizer.order,
        optimizer.decay_scaled,
    )
    return frozen, OptimizerState(state.count, state.momentum, None)


def apply_updates(params: PyTree, updates: PyTree) -> PyTree:
    """`params + updates`, leaf by leaf, in the parameters' dtypes.

    Args:
        params: the parameters.
        updates: what `Optimizer.update` returned, with the structure of `params`.

    Returns:
        The new parameters.

    Raises:
        ValueError: if the two trees have different structures.

    Example:
        >>> import jax.numpy as jnp
        >>> apply_updates(jnp.array([1.0]), jnp.array([-0.25])).tolist()
        [0.75]
    """
    return jax.tree.map(lambda p, u: jnp.asarray(p + u.astype(p.dtype), p.dtype), params, updates)
