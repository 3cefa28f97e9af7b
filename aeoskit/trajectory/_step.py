"""One training step of one lane, with the probes that are due: the same code in both modes."""

from collections.abc import Callable
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Int, PyTree

from aeoskit.linalg import lane_by_lane, tree_norm
from aeoskit.probes import (
    AbstractProbe,
    Measurement,
    ProbeBudget,
    ProbeContext,
    is_due,
    with_budget,
)

from ._carry import Lane, Trajectory, edge_probe, is_free, is_full_batch


def batch_indices(
    key: Array,
    step: Int[Array, ""],
    examples: int,
    batch: int,
    sampling: str = "shuffle",
) -> Int[Array, " batch"]:
    """The examples of a step: of a shuffled epoch, or each of them drawn from all.

    A pure function of key and step, so that a resumed run draws the same batches. Where the batch
    does not divide the data, an epoch's last few examples are left out (another few each epoch).
    """
    if sampling == "replacement":
        return jax.random.randint(jax.random.fold_in(key, step), (batch,), 0, examples)
    steps_per_epoch = examples // batch
    epoch, position = jnp.divmod(step, steps_per_epoch)
    order = jax.random.permutation(jax.random.fold_in(key, epoch), examples)
    return jax.lax.dynamic_slice_in_dim(order, position * batch, batch)


def linearizing_probes(trajectory: Trajectory) -> dict[str, AbstractProbe]:
    """The probes of the Hessian of what the step trains on: its gradient is in their linearization.

    Where one of them is due, gradient and products come from one pass.
    """
    if not is_full_batch(trajectory):
        return {}
    return {name: probe for name, probe in trajectory.probes.items() if probe.linearizes}


LOSS_OF_STEP = "_loss_of_step"
"""A row of the program: the loss before each step, from which the host has the realized edge."""


def measure_step(
    trajectory: Trajectory, context: ProbeContext, after: Lane, measurement: Measurement
) -> Measurement:
    """Adds to the measurements of a point what the realized edge needs of the step out of it."""
    probe = edge_probe(trajectory)
    if probe is None:
        return measurement
    if is_free(trajectory, probe):
        measured = probe.measure_step(context, after.params)
        return measurement | measured | {LOSS_OF_STEP: context.value}
    # The step at which a lane is found to have diverged is not taken.
    taken = after.diverged_at < 0
    return measurement | {
        name: jnp.where(taken, measurement[name], jnp.nan) for name in probe.measures
    }


def make_context(
    trajectory: Trajectory,
    lane: Lane,
    step: Int[Array, ""],
    driver: Literal["compiled", "host"],
    *,
    linearize: bool = False,
    known: tuple[Array, PyTree] | None = None,
) -> ProbeContext:
    """The lane's point. Costs one gradient, or less than two with a linearization.

    Args:
        trajectory: the run.
        lane: its state.
        step: how many steps were taken.
        driver: how solves loop.
        linearize: whether a probe of `linearizing_probes` is due.
        known: loss and gradient, if they are known: nothing is evaluated then.
    """
    batch_key, probe_key = jax.random.split(lane.key)
    objective, linearization, training = trajectory.objective, None, None
    if not is_full_batch(trajectory):
        n, batch, sampling = objective.n, trajectory.batch, trajectory.sampling
        assert batch is not None
        training = objective.on_batch(batch_indices(batch_key, step, n, batch, sampling))
    if known is not None:
        value, grads = known
    elif linearize:
        linearization = objective.linearize(lane.params)
        value, grads = linearization.value, linearization.grads
    else:
        trained = objective if training is None else training
        value, grads = trained.value_and_gradient(lane.params)
    return ProbeContext(
        objective=objective,
        params=lane.params,
        optimizer=trajectory.optimizer,
        optimizer_state=lane.optimizer_state,
        value=value,
        grads=grads,
        step=step,
        key=jax.random.fold_in(probe_key, step),
        active=lane.diverged_at < 0,
        driver=driver,
        linearization=linearization,
        batch=training,
    )


def blanks(shapes: dict[str, jax.ShapeDtypeStruct], *rows: int) -> Measurement:
    """Rows where nothing was measured: NaN where the type has one, otherwise zero."""
    return {
        name: jnp.full(
            (*rows, *leaf.shape),
            jnp.nan if jnp.issubdtype(leaf.dtype, jnp.inexact) else 0,
            leaf.dtype,
        )
        for name, leaf in shapes.items()
    }


def is_always_due(probe: AbstractProbe, budget: ProbeBudget | None) -> bool:
    """True for a probe that measures before each step."""
    return probe.every == 1 and budget is None


def _per_lane(lanes: bool, function: Callable[..., Any], *args: Any) -> Any:
    return lane_by_lane(function, *args) if lanes else function(*args)


def measure_due(
    probes: dict[str, AbstractProbe],
    lane: Lane,
    context: ProbeContext,
    budgets: dict[str, ProbeBudget],
    *,
    known: bool = False,
    lanes: bool = False,
) -> tuple[Measurement, dict]:
    """Runs the probes that are due. The predicate is unbatched under `vmap`.

    Args:
        probes: those that may be due.
        lane: its state.
        context: the point.
        budgets: those of the probes that have one.
        known: whether all of the probes are known to be due.
        lanes: whether this is one of several lanes under `vmap`.

    Returns:
        What was measured, and the states of these probes.
    """
    measurement: Measurement = {}
    states = {}
    for name, probe in probes.items():
        state, budget = lane.probe_states[name], budgets.get(name)
        probe = with_budget(probe, budget)
        if known or is_always_due(probe, budget):
            new, states[name] = _per_lane(lanes, probe.measure, context, state)
        else:
            # Traced once, for its shapes and for the program. What stands in a row where the probe
            # was not due is dropped by the reader, by the period.
            measure = eqx.filter_closure_convert(probe.measure, context, state)
            skipped = blanks(measure.out_struct[0])
            new, states[name] = jax.lax.cond(
                is_due(probe, budget, context.step),
                lambda measure=measure, state=state: _per_lane(lanes, measure, context, state),
                lambda skipped=skipped, state=state: (skipped, state),
            )
        if {*new} != {*probe.measures}:
            raise ValueError(
                f"probe {name} declares the measurements {sorted(probe.measures)}, but measured "
                f"{sorted(new)}: return what `measures` names."
            )
        measurement |= new
    return measurement, states


def advance_lane(
    trajectory: Trajectory, lane: Lane, context: ProbeContext, probe_states: dict
) -> Lane:
    """Takes the step, unless the lane has diverged: then it stays as it is and is marked."""
    step = context.step
    initial_loss = jnp.where(
        jnp.isinf(lane.initial_loss) & jnp.isfinite(context.value),
        context.value.astype(lane.initial_loss.dtype),
        lane.initial_loss,
    )
    # The limit is never below one, so that a loss that starts near zero may still move.
    limit = trajectory.divergence_factor * jnp.maximum(initial_loss, 1.0)
    is_finite = (
        jnp.isfinite(context.value)
        & (context.value <= limit)
        & jnp.isfinite(tree_norm(context.grads))
    )
    active = (lane.diverged_at < 0) & is_finite
    stepped = trajectory.optimizer.step(
        trajectory.objective.value, lane.params, lane.optimizer_state, context.grads
    )
    params, optimizer_state = jax.tree.map(
        lambda new, old: jnp.where(active, new, old),
        stepped,
        (lane.params, lane.optimizer_state),
    )
    diverged_at = jnp.where(
        (lane.diverged_at < 0) & ~is_finite, step.astype(lane.diverged_at.dtype), lane.diverged_at
    )
    return Lane(
        params=params,
        optimizer_state=optimizer_state,
        probe_states=probe_states,
        key=lane.key,
        diverged_at=diverged_at,
        initial_loss=initial_loss,
    )


def _evaluate(
    trajectory: Trajectory,
    lane: Lane,
    step: Int[Array, ""],
    budgets: dict[str, ProbeBudget],
    lanes: bool,
) -> tuple[tuple[Array, PyTree], Measurement, dict]:
    """Loss and gradient, and what the probes that share their linearization measure."""
    shared = linearizing_probes(trajectory)
    together = len(shared) == 1 or (
        len({probe.every for probe in shared.values()}) == 1 and not shared.keys() & budgets.keys()
    )

    def with_probes(lane: Lane, step: Int[Array, ""]):
        context = make_context(trajectory, lane, step, "compiled", linearize=True)
        measured = measure_due(shared, lane, context, budgets, known=together)
        return (context.value, context.grads), *measured

    def without(measured: Measurement):
        context = make_context(trajectory, lane, step, "compiled")
        states = {name: lane.probe_states[name] for name in shared}
        return (context.value, context.grads), measured, states

    if not shared:
        return without({})
    if any(is_always_due(probe, budgets.get(name)) for name, probe in shared.items()):
        return _per_lane(lanes, with_probes, lane, step)
    # Traced once, for its shapes and for the program.
    measure = eqx.filter_closure_convert(with_probes, lane, step)
    skipped = blanks(measure.out_struct[1])
    due = [is_due(probe, budgets.get(name), step) for name, probe in shared.items()]
    due = jnp.any(jnp.stack(due))
    return jax.lax.cond(
        due, lambda: _per_lane(lanes, measure, lane, step), lambda: without(skipped)
    )


def step_with_probes(
    trajectory: Trajectory,
    lane: Lane,
    step: Int[Array, ""],
    budgets: dict[str, ProbeBudget],
    *,
    lanes: bool = False,
) -> tuple[Lane, Measurement]:
    """One step of one lane, probes inside the program (scan mode); `lanes`: of several, by vmap."""
    known, measurement, states = _evaluate(trajectory, lane, step, budgets, lanes)
    context = make_context(trajectory, lane, step, "compiled", known=known)
    shared = linearizing_probes(trajectory)
    others = {
        name: probe
        for name, probe in trajectory.probes.items()
        if name not in shared and not is_free(trajectory, probe)
    }
    more, other_states = measure_due(others, lane, context, budgets, lanes=lanes)
    after = advance_lane(trajectory, lane, context, lane.probe_states | states | other_states)
    return after, measure_step(trajectory, context, after, measurement | more)
