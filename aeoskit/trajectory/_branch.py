"""Branches: runs that continue from one point, each with a change of its own."""

import abc
import math

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

from aeoskit.linalg import Lanczos
from aeoskit.optimizers import Optimizer, as_optimizer, freeze, with_threshold
from aeoskit.probes import ProbeContext, preconditioned_sharpness

from ._carry import AnyOptimizer, Carry, Lane, Trajectory, lane_axes
from ._step import make_context

RATIO_RTOL = 1e-4
"""The residual of the eigenvalue that sets a ratio, whose error is of its square."""


class AbstractBranch(eqx.Module):
    """A change with which a run continues from a point of a trajectory."""

    @abc.abstractmethod
    def apply(self, trajectory: Trajectory, carry: Carry) -> tuple[Trajectory, Carry]:
        """The trajectory and carry with which the branch starts.

        Args:
            trajectory: the run so far.
            carry: its state at the branching point.
        """


class Continue(AbstractBranch):
    """Continues unchanged: the control of a branching experiment.

    Example:
        >>> import aeoskit as ak
        >>> ak.trajectory.Continue()
        Continue()
    """

    def apply(self, trajectory: Trajectory, carry: Carry) -> tuple[Trajectory, Carry]:
        return trajectory, carry


class FreezePreconditioner(AbstractBranch):
    """Freezes P as of the coming step; the momentum rule and its buffer continue (E3, E9).

    Args:
        ratio: If given, the learning rate is fixed such that this is the ratio of `λ₁(P⁻¹H)` at
            this point to the threshold: runs just below and just above 1 test a threshold (E15).
            None keeps the learning rate and its schedule.

    Raises:
        ValueError: a ratio that is not above 0.

    Costs one gradient, and with a ratio the products of a cold Lanczos run.

    Example:
        >>> import aeoskit as ak
        >>> ak.FreezePreconditioner(0.99)
        FreezePreconditioner(ratio=0.99)
    """

    ratio: float | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        _check_ratio(self.ratio)

    def apply(self, trajectory: Trajectory, carry: Carry) -> tuple[Trajectory, Carry]:
        ratio = None if self.ratio is None else _as_array(self.ratio)
        optimizer, state = _frozen(trajectory, carry, ratio)
        lane = eqx.tree_at(lambda lane: lane.optimizer_state, carry.lane, state)
        return trajectory.with_optimizer(optimizer), Carry(carry.step, lane, carry.budgets)


class SwitchOptimizer(AbstractBranch):
    """Continues with another optimizer and a fresh state (in a sweep, the same for each lane).

    Args:
        optimizer: the next optimizer, without a lane axis; where the run has no lanes also
            an optax transformation or an optimistix minimiser.
        ratio: As for `FreezePreconditioner`: the learning rate is set such that this is the ratio
            of `λ₁(P⁻¹H)` to the threshold at the switch, with the P of the first step to come;
            that of `optimizer` has no effect then.

    Raises:
        ValueError: a ratio that is not above 0, or one for an optimizer that is not aeoskit's.

    Costs nothing; with a ratio one gradient and the products of a cold Lanczos run.

    Example:
        >>> import aeoskit as ak
        >>> ak.SwitchOptimizer(ak.momentum(2.0, beta1=0.9)).optimizer.order
        'precondition_last'
    """

    optimizer: AnyOptimizer = eqx.field(converter=as_optimizer)
    ratio: float | None = eqx.field(static=True, default=None)

    def __check_init__(self):
        _check_ratio(self.ratio)
        if self.ratio is not None and not self.optimizer.tunable:
            raise ValueError(
                f"ratio is {self.ratio}, but the learning rate of {self.optimizer.name} cannot be "
                "set to a threshold: build one that has a threshold from aeoskit.optimizers, or "
                "leave ratio out."
            )

    def apply(self, trajectory: Trajectory, carry: Carry) -> tuple[Trajectory, Carry]:
        optimizer = self.optimizer
        if trajectory.lanes is None:
            state = optimizer.init(carry.lane.params)
        else:
            lanes = trajectory.lanes
            optimizer = jax.tree.map(
                lambda leaf: jnp.stack([leaf] * lanes) if eqx.is_array(leaf) else leaf, optimizer
            )
            state = eqx.filter_vmap(
                lambda optimizer, params: optimizer.init(params),
                in_axes=(lane_axes(optimizer), 0),
            )(optimizer, carry.lane.params)
        lane = Lane(
            params=carry.lane.params,
            optimizer_state=state,
            probe_states=carry.lane.probe_states,
            key=carry.lane.key,
            diverged_at=carry.lane.diverged_at,
            initial_loss=carry.lane.initial_loss,
        )
        switched = trajectory.with_optimizer(optimizer)
        start = Carry(carry.step, lane, carry.budgets)
        if self.ratio is not None:
            optimizer = _at_ratio(switched, start, _as_array(self.ratio))
            switched = trajectory.with_optimizer(optimizer)
        return switched, start


def branch(
    trajectory: Trajectory, carry: Carry, branches: dict[str, AbstractBranch]
) -> dict[str, tuple[Trajectory, Carry]]:
    """Starts several branches from one point; `stream` gives each its own copy of the carry.

    Args:
        trajectory: the run so far.
        carry: its state at the branching point; it stays usable.
        branches: the branches, by name.

    Returns:
        For each name a trajectory and a carry for `stream`.

    Raises:
        ValueError: no branch was given.

    Costs what its branches cost: one gradient for `FreezePreconditioner`, a solve where a ratio is
    asked for, nothing otherwise.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import aeoskit as ak
        >>> objective = ak.Objective(lambda w, x: 0.5 * (x @ w - 1.0) ** 2, jnp.eye(2))
        >>> trajectory = ak.Trajectory(objective, ak.adam(0.1), {"loss": ak.LossAndGradient()})
        >>> carry = trajectory.init(jnp.zeros(2), jax.random.key(0))
        >>> branches = ak.branch(
        ...     trajectory, carry,
        ...     {"go on": ak.trajectory.Continue(), "frozen": ak.FreezePreconditioner()})
        >>> for name, (run, start) in branches.items():
        ...     chunk, = ak.stream(run, start, 2)
        ...     print(name, chunk.measurements["loss"].shape)
        go on (2, 1)
        frozen (2, 1)
    """
    if not branches:
        raise ValueError("branches is empty; pass one at least, such as {'control': Continue()}.")
    return {name: change.apply(trajectory, carry) for name, change in branches.items()}


def _check_ratio(ratio: float | None) -> None:
    if ratio is not None and not 0 < ratio < math.inf:
        raise ValueError(
            f"ratio is {ratio}, but it is one of an eigenvalue to a threshold: pass a "
            "number above 0, such as 0.99, or None to keep the learning rate."
        )


def _as_array(ratio: float) -> Float[Array, ""]:
    """An array, so that branches at several ratios are one program."""
    return jnp.asarray(ratio, dtype=float)


def _with_ratio(
    context: ProbeContext, optimizer: Optimizer, state: PyTree, ratio: Float[Array, ""]
) -> Optimizer:
    """The optimizer at the learning rate that has this ratio at the point."""
    edge = preconditioned_sharpness(
        context.objective,
        context.params,
        optimizer,
        state,
        grads=context.grads,
        solver=Lanczos(rtol=RATIO_RTOL),
        start=context.key,
        driver="compiled",
    )
    return with_threshold(optimizer, edge.values[0] / ratio)


@eqx.filter_jit
def _at_ratio(trajectory: Trajectory, carry: Carry, ratio: Float[Array, ""]) -> Optimizer:
    """The trajectory's optimizer at the learning rate that has this ratio, lane by lane."""

    def one(optimizer: Optimizer, lane: Lane) -> Optimizer:
        context = make_context(trajectory.single(optimizer), lane, carry.step, "compiled")
        return _with_ratio(context, optimizer, lane.optimizer_state, ratio)

    if trajectory.lanes is None:
        return one(trajectory.optimizer, carry.lane)  # pyright: ignore[reportArgumentType]
    return eqx.filter_vmap(one, in_axes=(lane_axes(trajectory.optimizer), 0))(
        trajectory.optimizer, carry.lane
    )


@eqx.filter_jit
def _frozen(trajectory: Trajectory, carry: Carry, ratio: Float[Array, ""] | None) -> PyTree:
    """The frozen optimizer and its state, lane by lane."""

    def one(optimizer: AnyOptimizer, lane: Lane):
        if not optimizer.freezable:
            raise ValueError(
                f"FreezePreconditioner holds P, and that of {optimizer.name} cannot be held: build "
                "an optimizer that has one from aeoskit.optimizers."
            )
        single = trajectory.single(optimizer)
        context = make_context(single, lane, carry.step, "compiled")
        frozen, state = freeze(optimizer, lane.optimizer_state, context.grads, context.params)
        if ratio is not None:
            frozen = _with_ratio(context, frozen, state, ratio)
        return frozen, state

    if trajectory.lanes is None:
        return one(trajectory.optimizer, carry.lane)
    return eqx.filter_vmap(one, in_axes=(lane_axes(trajectory.optimizer), 0))(
        trajectory.optimizer, carry.lane
    )
