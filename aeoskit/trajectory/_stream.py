"""The loop: chunks of steps on the device, the host in between."""

import dataclasses
import functools
import time
from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Int, PyTree

from aeoskit.linalg import loop_mode
from aeoskit.probes import Measurement, ProbeBudget, is_due, with_budget

from ._budgets import BudgetController, Clock, with_budgets
from ._carry import (
    AnyOptimizer,
    Carry,
    Lane,
    Trajectory,
    is_free,
    lane_axes,
    place,
    strong_types,
    take_lane,
)
from ._edges import complete_edges
from ._padding import pad_lanes, padded_lanes, trim_lanes
from ._rows import Rows, concatenate_rows, due_masks
from ._step import (
    advance_lane,
    blanks,
    linearizing_probes,
    make_context,
    measure_due,
    measure_step,
    step_with_probes,
)

Mode = Literal["scan", "host"]


class Chunk(NamedTuple):
    """The measurements of one chunk of steps, on the host.

    Attributes:
        steps: the step numbers, (steps,).
        measurements: name to values, (steps, lanes, ...); a single run has one lane. A quantity
            that was not due in this chunk is left out; where it was due at some steps only, the
            other rows are NaN (zero for counts). Those of a probe with `overhead` are always
            there, since their due steps are not known beforehand.
        measured: name to a mask over `steps`: when that quantity was measured.
        diverged_at: per lane, the step of its divergence so far, or -1; (lanes,).
        carry: the state after the chunk, on the device. The next chunk donates its buffers: copy it
            (`copy_tree`) to keep it.
        previous: name to values, (lanes,), of the step before `steps[0]` that only this chunk's
            first loss completes: its realized edge. Empty where there is none.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import aeoskit as ak
        >>> objective = ak.Objective(lambda w, x: 0.5 * (x @ w - 1.0) ** 2, jnp.eye(2))
        >>> trajectory = ak.Trajectory(objective, ak.adam(0.1), {"loss": ak.LossAndGradient()})
        >>> carry = trajectory.init(jnp.zeros(2), jax.random.key(0))
        >>> chunk = next(ak.stream(trajectory, carry, 4))
        >>> chunk.steps.tolist(), sorted(chunk.measurements)
        ([0, 1, 2, 3], ['gradient_norm', 'loss'])
    """

    steps: np.ndarray
    measurements: dict[str, np.ndarray]
    measured: dict[str, np.ndarray]
    diverged_at: np.ndarray
    carry: Carry
    previous: dict[str, np.ndarray]


def choose_mode(trajectory: Trajectory, carry: Carry) -> Mode:
    """Chooses between compiled loops (`"scan"`) and steps dispatched from the host (`"host"`).

    A rule on the primitives of the loss, never a timing: convolutions on the CPU backend run many
    times slower inside a compiled loop (see `aeoskit.linalg.loop_mode`).

    Args:
        trajectory: the run.
        carry: its state (only shapes are read).

    Returns:
        `"scan"` or `"host"`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import aeoskit as ak
        >>> objective = ak.Objective(lambda w, x: 0.5 * (x @ w - 1.0) ** 2, jnp.eye(2))
        >>> trajectory = ak.Trajectory(objective, ak.gradient_descent(0.5), {})
        >>> ak.trajectory.choose_mode(trajectory, trajectory.init(jnp.zeros(2), jax.random.key(0)))
        'scan'
    """
    params = carry.lane.params
    if trajectory.lanes is not None:
        params = jax.eval_shape(lambda tree: take_lane(tree, 0), params)
    return loop_mode(
        lambda objective, params: objective.value(params), trajectory.objective, params
    )


def stream(
    trajectory: Trajectory,
    carry: Carry,
    steps: int,
    *,
    chunk: int = 100,
    mode: str = "auto",
    clock: Clock = time.perf_counter,
) -> Iterator[Chunk]:
    """Trains, yielding each chunk of steps as soon as it is done.

    Nothing is read from the device inside a chunk. In host mode the same compiled step is
    dispatched for each step, lanes one after the other, and a probe's solve reads one scalar a
    product. Without a budget the numbers do not depend on `chunk`, nor on where a run was
    interrupted.

    A realized edge on all of the data is known once the loss after its step is: that of a chunk's
    last step is the next chunk's `previous`.

    A probe with `overhead` is kept to its budget: chunks are then taken in parts, some of which are
    timed where the host waits for their rows in any case, and the probe's period and tolerance
    follow (`adapt_budget`; the states are the carry's `budgets`). When such a probe measures, and
    how exactly, depends on the machine. The training depends on it by rounding alone: where a due
    probe linearizes the loss the step takes its gradient from there, which is another program than
    that of the other steps. It takes a few timings, of a measurement and some steps without one
    each, so a chunk should have 20 steps or more.

    Args:
        trajectory: the run.
        carry: where to start: `trajectory.init(...)`, or a branch, or a checkpoint. It is copied.
        steps: how many steps to take.
        chunk: steps between two visits of the host.
        mode: `"auto"` follows `choose_mode`.
        clock: a function that returns seconds, for probes with a budget; `time.process_time` is
            that of the CPU.

    Yields:
        `Chunk`s; rows are what was measured *before* each step.

    Raises:
        ValueError: `steps` or `chunk` is not a positive whole number, or an unknown mode.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import aeoskit as ak
        >>> objective = ak.Objective(lambda w, x: 0.5 * (x @ w - 1.0) ** 2, jnp.eye(2))
        >>> trajectory = ak.Trajectory(
        ...     objective, ak.gradient_descent(0.5), {"edge": ak.Sharpness(every=2)})
        >>> carry = trajectory.init(jnp.zeros(2), jax.random.key(0))
        >>> [int(chunk.measured["sharpness"].sum()) for chunk in ak.stream(trajectory, carry, 5)]
        [3]
    """
    for name, value in (("steps", steps), ("chunk", chunk)):
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise ValueError(f"{name} is {value!r}; pass a whole number, at least 1.")
    if mode not in ("auto", "scan", "host"):
        raise ValueError(f"mode is {mode!r}; pass 'auto', 'scan' or 'host'.")
    if mode == "auto":
        mode = choose_mode(trajectory, carry)
    chunk = chunk_length(steps, chunk)
    carry = _strong_copy(carry)
    pending, carry = carry.pending, dataclasses.replace(carry, pending=None)
    carry = _committed(trajectory, with_budgets(trajectory, carry))
    carry = place(trajectory, carry, trajectory.lanes)
    first = int(carry.step)

    def advance(carry: Carry, start: int, length: int) -> tuple[Carry, Rows]:
        if mode == "scan":
            carry, rows = _scan_chunk((trajectory, chunk), carry, jnp.asarray(length))
            rows = jax.device_get(rows)
        else:
            carry, rows = _host_chunk(trajectory, carry, start, length)
        if trajectory.lanes is None:
            rows = {name: value[:, None] for name, value in rows.items()}
        return carry, {name: np.asarray(value[:length]) for name, value in rows.items()}

    together = mode == "scan"
    controller = (
        BudgetController(trajectory, carry, advance, clock, lanes_together=together)
        if carry.budgets
        else None
    )
    always_measured = set() if controller is None else controller.always_measured()
    for start in range(first, first + steps, chunk):
        length = min(chunk, first + steps - start)
        numbers = np.arange(start, start + length)
        if controller is None:
            carry, rows = advance(carry, start, length)
            masks = due_masks(trajectory.probes, {}, numbers)
        else:
            carry, rows, masks = controller.chunk(carry, start, length)
        previous, pending = complete_edges(
            trajectory, numbers, rows, masks, pending, carry.lane.params
        )
        kept = {name for name, mask in masks.items() if name in always_measured or mask.any()}
        yield Chunk(
            steps=numbers,
            measurements={name: value for name, value in rows.items() if name in kept},
            measured={name: mask for name, mask in masks.items() if name in kept},
            diverged_at=np.atleast_1d(np.asarray(carry.lane.diverged_at)),
            carry=dataclasses.replace(carry, pending=pending),
            previous=previous,
        )


def chunk_length(steps: int, chunk: int) -> int:
    """The number of steps of a chunk; the last chunk may be shorter.

    Rows are kept for a whole chunk, so none is much longer than the run; a power of two, so that
    runs of many lengths share one program.

    Args:
        steps: how many are taken.
        chunk: what was asked for.

    Returns:
        The steps of a chunk.

    Example:
        >>> chunk_length(1000, 100), chunk_length(5, 100)
        (100, 16)
    """
    return min(chunk, max(16, 1 << (steps - 1).bit_length()))


@eqx.filter_jit
def _strong_copy(carry: Carry) -> Carry:
    """A copy with the types that chunks return: one from a checkpoint or a user may have others."""
    return strong_types(jax.tree.map(jnp.copy, carry))


def _committed(trajectory: Trajectory, carry: Carry) -> Carry:
    """The carry committed to a device where the data are, as chunks return it.

    Otherwise the first chunk would be another program than those after it.
    """
    if trajectory.objective.placement is not None:
        return carry
    for leaf in jax.tree.leaves((trajectory.objective, carry)):
        if isinstance(leaf, jax.Array) and leaf.committed and len(leaf.devices()) == 1:
            return jax.device_put(carry, leaf.sharding)
    return carry


def _lane_step(
    trajectory: Trajectory,
    optimizer: AnyOptimizer,
    budgets: dict[str, ProbeBudget],
    lane: Lane,
    step: Int[Array, ""],
):
    """`step_with_probes`, vmapped over the lanes if there are any."""
    if trajectory.lanes is None:
        return step_with_probes(trajectory, lane, step, budgets)
    placement = trajectory.objective.placement
    axis = None if placement is None else placement.sweep
    over: dict[str, Any] = {} if axis is None else {"spmd_axis_name": axis}
    return eqx.filter_vmap(
        lambda optimizer, lane, step: step_with_probes(
            trajectory.single(optimizer), lane, step, budgets, lanes=True
        ),
        in_axes=(lane_axes(optimizer), 0, None),
        **over,
    )(optimizer, lane, step)


@eqx.filter_jit(donate="all-except-first")
def _scan_chunk(
    static: tuple[Trajectory, int], carry: Carry, length: Int[Array, ""]
) -> tuple[Carry, Measurement]:
    """A chunk as one program. `length` is traced, so that a last, shorter chunk does not retrace;
    rows beyond it stay blank.
    """
    trajectory, capacity = static
    lanes, run = trajectory.lanes, padded_lanes(trajectory)
    extra = 0 if lanes is None or run is None else run - lanes
    optimizer = pad_lanes(trajectory.optimizer, extra)
    padded = Carry(step=carry.step, lane=pad_lanes(carry.lane, extra))
    # Traced once, for the rows' shapes and for the loop.
    step = eqx.filter_closure_convert(
        lambda lane, step: _lane_step(trajectory, optimizer, carry.budgets, lane, step),
        padded.lane,
        padded.step,
    )
    rows = blanks(step.out_struct[1], capacity)

    def body(index, state):
        now, rows = state
        lane, measurement = step(now.lane, now.step)
        rows = {
            name: jax.lax.dynamic_update_index_in_dim(rows[name], value, index, 0)
            for name, value in measurement.items()
        }
        return place(trajectory, Carry(step=now.step + 1, lane=lane), run), rows

    padded, rows = jax.lax.fori_loop(0, length, body, (place(trajectory, padded, run), rows))
    carry = Carry(padded.step, trim_lanes(padded.lane, lanes), carry.budgets)
    if lanes is not None:
        rows = {name: value[:, :lanes] for name, value in rows.items()}
    placement = trajectory.objective.placement
    # Every process of a run reads the rows, wherever they were measured.
    rows = rows if placement is None else placement.put_replicated(rows)
    return place(trajectory, carry, lanes), rows


def scan_chunk(
    trajectory: Trajectory, carry: Carry, length: Int[Array, ""], *, chunk: int
) -> tuple[Carry, Measurement]:
    """A chunk of steps as `stream` compiles it in scan mode: what a plan hands to the compiler.

    Args:
        trajectory: the run.
        carry: where to start; outside of `jit` its buffers are donated.
        length: how many steps to take.
        chunk: rows that are kept: at least `length`.

    Returns:
        The carry after the chunk, and name to rows (chunk, lanes, ...), blank beyond `length`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import aeoskit as ak
        >>> objective = ak.Objective(lambda w, x: 0.5 * (x @ w - 1.0) ** 2, jnp.eye(2))
        >>> trajectory = ak.Trajectory(
        ...     objective, ak.gradient_descent(1.0), {"loss": ak.LossAndGradient()})
        >>> carry = trajectory.init(jnp.zeros(2), jax.random.key(0))
        >>> carry, rows = scan_chunk(trajectory, carry, jnp.asarray(2), chunk=3)
        >>> int(carry.step), rows["loss"]
        (2, Array([0.5  , 0.125,   nan], dtype=float32))
    """
    return _scan_chunk((trajectory, chunk), dataclasses.replace(carry, pending=None), length)


def _host_chunk(
    trajectory: Trajectory, carry: Carry, start: int, length: int
) -> tuple[Carry, dict[str, np.ndarray]]:
    """A chunk as a host loop of compiled steps, lane by lane."""
    if trajectory.lanes is None:
        lane, rows = _host_lane(trajectory, carry, start, length)
        return Carry(carry.step + length, lane, carry.budgets), rows
    lanes, columns = [], []
    for index in range(trajectory.lanes):
        single = trajectory.single(take_lane(trajectory.optimizer, index))
        single_carry = Carry(carry.step, take_lane(carry.lane, index), carry.budgets)
        lane, rows = _host_lane(single, single_carry, start, length)
        lanes.append(lane)
        columns.append(rows)
    stacked = jax.tree.map(lambda *leaves: jnp.stack(leaves), *lanes)
    rows = {name: np.stack([rows[name] for rows in columns], axis=1) for name in columns[0]}
    return Carry(carry.step + length, stacked, carry.budgets), rows


@eqx.filter_jit
def _host_context(trajectory: Trajectory, lane: Lane, step: Int[Array, ""], linearize: bool):
    return make_context(trajectory, lane, step, "host", linearize=linearize)


class _StaticParts:
    """All of a trajectory and a lane that is not an array: what a compiled step depends on.

    Its hash is computed once a chunk. Handing modules to a compiled function step by step costs
    more than a small network's step: their flattening and hashing is Python.
    """

    def __init__(self, trajectory: Trajectory, lane: Lane):
        leaves, self.trajectory = jax.tree.flatten(trajectory)
        self.static = tuple(None if eqx.is_array(leaf) else leaf for leaf in leaves)
        self.lane = jax.tree.structure(lane)
        self._hash = hash((self.static, self.trajectory, self.lane))

    def __hash__(self) -> int:
        return self._hash

    def __eq__(self, other: object) -> bool:
        return self is other or (
            isinstance(other, _StaticParts)
            and (self.static, self.trajectory, self.lane)
            == (other.static, other.trajectory, other.lane)
        )

    def rebuild(
        self, trajectory_arrays: list[Array], lane_arrays: list[Array]
    ) -> tuple[Trajectory, Lane]:
        arrays = iter(trajectory_arrays)
        leaves = [next(arrays) if leaf is None else leaf for leaf in self.static]
        return jax.tree.unflatten(self.trajectory, leaves), jax.tree.unflatten(
            self.lane, lane_arrays
        )


@functools.partial(jax.jit, static_argnums=0, donate_argnums=2)
def _host_step(
    static_parts: _StaticParts,
    trajectory_arrays: list[Array],
    lane_arrays: list[Array],
    step: Int[Array, ""],
    known: tuple[Array, PyTree] | None,
) -> tuple[list[Array], Int[Array, ""], Measurement]:
    """One step of one lane; the probes that solve nothing are part of the program."""
    trajectory, lane = static_parts.rebuild(trajectory_arrays, lane_arrays)
    context = make_context(trajectory, lane, step, "host", known=known)
    cheap = {
        name: probe
        for name, probe in trajectory.probes.items()
        if not probe.solves and not is_free(trajectory, probe)
    }
    measurement, states = measure_due(cheap, lane, context, {})
    after = advance_lane(trajectory, lane, context, lane.probe_states | states)
    measurement = measure_step(trajectory, context, after, measurement)
    carry = place(trajectory, Carry(step=step + 1, lane=after), None)
    return jax.tree.leaves(carry.lane), carry.step, measurement


def _host_lane(
    trajectory: Trajectory, carry: Carry, start: int, length: int
) -> tuple[Lane, dict[str, np.ndarray]]:
    """A chunk of one lane; results stay on the device until its end."""
    budgets: dict[str, ProbeBudget] = jax.device_get(carry.budgets)
    solving = {
        name: with_budget(probe, carry.budgets.get(name))
        for name, probe in trajectory.probes.items()
        if probe.solves
    }
    shared = linearizing_probes(trajectory)
    lane, static_parts = carry.lane, _StaticParts(trajectory, carry.lane)
    trajectory_arrays = [leaf for leaf in jax.tree.leaves(trajectory) if eqx.is_array(leaf)]
    lane_arrays = jax.tree.leaves(lane)
    # On the device from step to step: a Python int would be static, and compile for each.
    number = carry.step
    rows: list[Measurement] = []
    for step in range(start, start + length):
        row: Measurement = {}
        known = None
        due = [name for name, probe in solving.items() if is_due(probe, budgets.get(name), step)]
        if due:
            lane = jax.tree.unflatten(static_parts.lane, lane_arrays)
            linearize = any(name in shared for name in due)
            context = _host_context(trajectory, lane, number, linearize)
            known = (context.value, context.grads)
            states = dict(lane.probe_states)
            for name in due:
                measurement, states[name] = solving[name].measure(context, states[name])
                row |= measurement
            lane_arrays = jax.tree.leaves(dataclasses.replace(lane, probe_states=states))
            del context  # its linearization is as large as a pass through the model
        lane_arrays, number, cheap = _host_step(
            static_parts, trajectory_arrays, lane_arrays, number, known
        )
        rows.append(row | cheap)
    parts: list[tuple[int, Rows]] = [
        (1, {name: np.asarray(value)[None] for name, value in row.items()})
        for row in jax.device_get(rows)
    ]
    return jax.tree.unflatten(static_parts.lane, lane_arrays), concatenate_rows(parts)
