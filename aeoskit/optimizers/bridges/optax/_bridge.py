"""The bridge to optax: the metric and the threshold of its optimizers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from aeoskit.linalg import (
    AbstractPreconditioner,
    DiagonalPreconditioner,
    IdentityPreconditioner,
)

from ..._interface import AbstractGradientOptimizer
from ..._optimizer import Optimizer
from ...rules._hyperparameters import cast_to
from ...rules._momentum import Recursion
from ...rules._preconditioner import positive
from ._groups import Group, moving, quotient, read_groups, same_rule
from ._known import KNOWN_UPDATES, diagonal_of
from ._parts import WORKAROUND, parts_of


class GradientTransformation(NamedTuple):
    """The pair of `init` and `update` that optax's functions take, a named tuple like optax's.

    Args:
        init: a function from parameters to a state.
        update: a function from gradients, state and parameters to updates and the next state.

    Example:
        >>> init, update = as_optax(Optimizer(0.1))
        >>> callable(init)
        True
    """

    init: Callable[..., Any]
    update: Callable[..., Any]


def as_optax(optimizer: Any) -> GradientTransformation:
    """Convert an optimizer to the form of optax's combinators: `chain`, `MultiSteps`, `masked`.

    An optimizer has optax's `init` and `update` already and needs no bridge in a training loop;
    `optax.chain` unpacks its arguments as pairs.

    Args:
        optimizer: An `Optimizer`.

    Returns:
        A named tuple of `init` and `update`.

    Raises:
        TypeError: for anything else.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> from aeoskit.optimizers import adam
        >>> transform = optax.chain(optax.clip_by_global_norm(1.0), as_optax(adam(0.1)))
        >>> params = jnp.array([1.0])
        >>> updates, _ = transform.update(params, transform.init(params), params)
        >>> updates.tolist()
        [-0.100]
    """
    if not isinstance(optimizer, Optimizer):
        raise TypeError(
            f"as_optax takes an aeoskit optimizer, got {type(optimizer).__name__}; the other way "
            "is from_optax."
        )

    # Functions, not methods: `jax.jit(transform.update)` needs a hash.
    def init(params: PyTree) -> PyTree:
        return optimizer.init(params)

    def update(grads: PyTree, state: PyTree, params: PyTree | None = None) -> tuple:
        return optimizer.update(grads, state, params)

    return GradientTransformation(init, update)


class OptaxOptimizer(AbstractGradientOptimizer):
    """An optax transformation with the metric, threshold and learning rate of an `Optimizer`.

    The docs have a table of the known and unknown parts of optax. Wrappers are opened (`chain`,
    `named_chain`, `inject_hyperparams`, `masked`, `partition`, `MultiSteps`, `apply_if_finite`,
    `schedule_free`). Clipping by a norm is part of P, as a factor held fixed. With groups of
    parameters that differ only in learning rate, P is scaled so that one threshold holds for all:
    that of the first group that moves. For a group at learning rate 0, P is infinite and `P^{-1/2}`
    zero. If all are, P is that of equal rates, and the threshold is infinite.

    Args:
        transform: An optax `GradientTransformation`.

    Raises:
        TypeError: if it has no `init` and `update`.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> optimizer = OptaxOptimizer(optax.adam(1e-3))
        >>> state = optimizer.init(jnp.zeros(2))
        >>> round(float(optimizer.threshold(state)) / 100)
        380
        >>> optimizer.preconditioner(state, grads=jnp.array([1.0, -2.0])).diagonal.tolist()
        [0.10, 0.20]
    """

    # Its parts are only known with a state: the methods refuse unknown ones.
    has_metric = True
    has_threshold = True
    transform: Any = eqx.field(static=True)

    def __init__(self, transform: Any):
        if not callable(getattr(transform, "init", None)) or not callable(
            getattr(transform, "update", None)
        ):
            raise TypeError(
                f"from_optax takes an optax transformation, got {type(transform).__name__}, which "
                "has no `init` and `update`."
            )
        self.transform = transform

    def init(self, params: PyTree) -> PyTree:
        """Optax's own."""
        return self.transform.init(params)

    def update(
        self, grads: PyTree, state: PyTree, params: PyTree | None = None
    ) -> tuple[PyTree, PyTree]:
        """Optax's own."""
        return self.transform.update(grads, state, params)

    def preconditioner(
        self, state: PyTree, grads: PyTree | None = None, params: PyTree | None = None
    ) -> AbstractPreconditioner:
        """The metric P of the coming step; without gradients, that of the last step.

        Raises:
            ValueError: if the transformation has an unknown part (which is named), is a sign
                method, or needs a missing argument; if there is no P yet.
        """
        parts = parts_of(self.transform, state, KNOWN_UPDATES, grads, params)
        whole = params if grads is None else grads
        groups = read_groups(parts, whole)
        diagonal = None
        for part in parts:
            metric = diagonal_of(part)
            if metric is None:
                continue
            if part.on is not None:
                metric = part.embed(metric, jax.tree.map(jnp.ones_like, whole))
            diagonal = metric if diagonal is None else jax.tree.map(jnp.multiply, diagonal, metric)
        if diagonal is None:
            if whole is None:
                raise ValueError(
                    "the metric is the identity, on a structure that the state does not have: pass "
                    "the gradients or `params=`."
                )
            if len(groups) == 1:
                return IdentityPreconditioner(whole)
            diagonal = jax.tree.map(jnp.ones_like, whole)
        metric = positive(DiagonalPreconditioner(diagonal))
        if len(groups) == 1:
            return metric
        # After the check, since it is infinite where the learning rate is 0.
        leaves, treedef = jax.tree.flatten(metric.diagonal)
        unit = moving(groups).lr
        for group in groups:
            for i in group.leaves or ():
                leaves[i] = leaves[i] * cast_to(quotient(unit, group.lr), leaves[i])
        return DiagonalPreconditioner(jax.tree.unflatten(treedef, leaves))

    def threshold(self, state: PyTree, params: PyTree | None = None) -> Float[Array, ""]:
        """The value of `λ₁(P⁻¹H)` above which the coming step's recursion diverges, P constant.

        Where groups of parameters differ in weight decay, it is the smallest of their thresholds;
        infinite where nothing moves, at learning rate 0.

        Raises:
            ValueError: if the transformation is unknown, or its groups have different momentum
                rules.
        """
        groups = self._groups(state, params)
        first, unit = groups[0], moving(groups).lr
        found = first.threshold_in(unit)
        for group in groups[1:]:
            same = same_rule(first, group)
            if same is False:
                raise ValueError(
                    "the groups of parameters have different momentum rules, so that no single "
                    f"threshold holds for all: {WORKAROUND}"
                )
            found = jnp.where(same, jnp.minimum(found, group.threshold_in(unit)), jnp.nan)
        return found

    def learning_rate(self, state: PyTree, params: PyTree | None = None) -> Float[Array, ""]:
        """The learning rate of the first group of parameters that moves."""
        return moving(self._groups(state, params)).lr

    def _groups(self, state: PyTree, params: PyTree | None) -> list[Group]:
        return read_groups(parts_of(self.transform, state, KNOWN_UPDATES, None, params), params)

    def recursion(self, state: PyTree, params: PyTree | None = None) -> Recursion:
        """The recurrence of the first group of parameters that moves, in whose units P is.

        Raises:
            ValueError: if the transformation is unknown, its groups differ in their rules, it is
                schedule-free, whose step averages as well, or decay enters between two buffers.
        """
        groups = self._groups(state, params)
        first = groups[0]
        apart = any(same_rule(first, group) is False for group in groups[1:])
        if apart or first.averaging is not None or any(group.between for group in groups):
            raise ValueError(
                "no single momentum rule describes this transformation: pass `equivalent_ratio` "
                "the characteristic polynomial, or compare multipliers themselves."
            )
        first = moving(groups)
        return Recursion(first.rule, first.lr, first.decay, first.inside)


def from_optax(transform: Any) -> OptaxOptimizer:
    """Add a metric and a threshold to an optax optimizer, for probes.

    Args:
        transform: An optax `GradientTransformation`.

    Returns:
        An `OptaxOptimizer`.

    Raises:
        TypeError: if it has no `init` and `update`.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> import aeoskit as ak
        >>> objective = ak.Objective(lambda w, x: 0.5 * (x @ w) ** 2, jnp.eye(2))
        >>> params, transform = jnp.ones(2), optax.sgd(0.5, momentum=0.9)
        >>> edge = ak.preconditioned_sharpness(
        ...     objective, params, from_optax(transform), transform.init(params))
        >>> print(f"{edge.values[0]:.3f} of {edge.threshold:.3f}")
        0.500 of 7.600
    """
    return OptaxOptimizer(transform)


def preconditioner_of(
    transform: Any, state: PyTree, grads: PyTree | None = None, params: PyTree | None = None
) -> AbstractPreconditioner:
    """The metric P of an optax optimizer, from its state.

    Args:
        transform: An optax `GradientTransformation`.
        state: its state.
        grads: the gradients at the present parameters; with them it is the P of the coming step.
        params: the present parameters, for metrics that depend on them.

    Returns:
        A preconditioner.

    Raises:
        ValueError: if a part of it is unknown, or needs a missing argument.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> transform = optax.rmsprop(1e-2, decay=0.5, eps=0.0)
        >>> state, grads = transform.init(jnp.zeros(2)), jnp.array([2.0, 4.0])
        >>> (preconditioner_of(transform, state, grads).diagonal ** 2).tolist()
        [2.0, 8.0]
    """
    return OptaxOptimizer(transform).preconditioner(state, grads, params)


def threshold_of(transform: Any, state: PyTree, params: PyTree | None = None) -> Float[Array, ""]:
    """The stability threshold of an optax optimizer on `λ₁(P⁻¹H)`, at its coming step.

    Args:
        transform: An optax `GradientTransformation`.
        state: its state, whose counts set the schedules.
        params: the present parameters, if groups of them are treated separately.

    Returns:
        A scalar.

    Raises:
        ValueError: if a part of it is unknown.

    Example:
        >>> import jax.numpy as jnp
        >>> import optax
        >>> transform = optax.rmsprop(1.0, momentum=0.9)  # optax's momentum is Polyak's
        >>> float(threshold_of(transform, transform.init(jnp.zeros(2))))
        3.80
    """
    return OptaxOptimizer(transform).threshold(state, params)
