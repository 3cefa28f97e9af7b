"""The training of one group: its main run, then its branches; each chunk goes to the record."""

import dataclasses
from typing import Any

import numpy as np
import xarray as xr

from aeoskit.objective import Objective
from aeoskit.probes import RealizedEdge, budget_columns, missed_budget, start_budget
from aeoskit.trajectory import (
    AbstractBranch,
    Carry,
    Chunk,
    FreezePreconditioner,
    SwitchOptimizer,
    Trajectory,
    branch,
    copy_tree,
    stream,
)
from aeoskit_experiments.pipelines import Branch, Train

from ._build import Setup, UnknownThreshold, unmeasurable, why_unknown, with_data
from ._edges import Columns, StatesSoFar
from ._follower import AnyWriter
from ._interrupt import Interrupt
from ._listener import Listener
from ._processes import any_process
from ._rewind import Start
from ._room import limit_memory_maps
from ._summary import downhill_curve, measured, ratio_curve
from ._windows import edge_step

STOP_WINDOW = 50
"""Steps in the median that `stop_loss` compares: at the edge a single loss may jump."""


Ends = dict[tuple[str, int], dict[str, dict[str, Any]]]
"""Final results of time budgets, by branch and number of the group, then by probe."""


@dataclasses.dataclass(frozen=True)
class RunContext:
    """The names of a run in the record, and the settings of its checkpoints.

    Args:
        name: the branch's name in the record.
        label: the branch's name for the listener, with the group's values.
        lane_offset: the first lane's number in the record.
        group: the group's number, for the names of its checkpoints; None if there is one group.
        checkpoints: whether states are stored.
        checkpoint_every: the period of the main run's checkpoints in steps; None for none.
        interrupt: the user's request to stop, which takes effect between chunks.
        warnings: receives what the summary must say beside its numbers.
    """

    name: str
    label: str
    lane_offset: int
    group: int | None
    checkpoints: bool
    checkpoint_every: int | None
    interrupt: Interrupt
    warnings: list[str]

    @property
    def checkpoint(self) -> str:
        """The name of a checkpoint; several groups share a branch's name."""
        return self.name if self.group is None else f"{self.name}-group{self.group}"


_AWAITED = {
    "edge": "it was at the edge",
    "threshold": "its ratio to the threshold had risen to 0.9 from below",
}


class _Checkpoints:
    """The checkpoints of a run, each stored once."""

    def __init__(self, writer: AnyWriter, context: RunContext, step: int):
        self._writer, self._context = writer, context
        self._kept: set[int] = set()
        self._passed = step

    def keep(self, step: int, carry: Carry) -> None:
        if self._context.checkpoints and step not in self._kept:
            # Its row is in this record; a run that starts here has none for the step before.
            stored = dataclasses.replace(carry, pending=None)
            self._writer.checkpoint(self._context.checkpoint, step, stored)
            self._kept.add(step)

    def passing(self, step: int, carry: Carry) -> None:
        """Store the state if a multiple of the period was passed since the last chunk."""
        every = self._context.checkpoint_every
        if every is not None and step // every > self._passed // every:
            self.keep(step, carry)
        self._passed = step


def length(train: Train) -> int:
    """The number of steps of a training whose setup was built."""
    assert train.steps is not None  # `build` has converted epochs to steps
    return train.steps


def run_group(
    setup: Setup,
    train: Train,
    branches: tuple[Branch, ...],
    *,
    writer: AnyWriter,
    listener: Listener,
    context: RunContext,
    ends: Ends,
) -> None:
    """Train the main run, with a copy of the carry where a branch begins; then the branches.

    Args:
        setup: the trajectory and its start.
        train: the length in steps, chunk, mode and stopping rule.
        branches: the branches; one at "edge" begins after the first chunk in which every lane has
            been at the edge, by its realized edge, one at "threshold" where each ratio has risen.
        writer: the record's writer.
        listener: receives each chunk.
        context: the run's names.
        ends: receives the final results of probes with a time budget.
    """
    end = length(train)
    starts: dict[str, tuple[int, Carry]] = {}
    waiting = list(branches)
    begin, carry = 0, setup.carry
    if setup.start is not None:
        begin = setup.start.source.at
        carry = _rewound(setup, setup.start, train, listener, context)
    checkpoints = _Checkpoints(writer, context, begin)

    def keep(carry: Carry, step: int, history: "_History") -> None:
        if step >= end:
            return  # Every lane has ended.
        for item in list(waiting):
            # A rewound run starts at the step to which it is rewound.
            if isinstance(item.at, int):
                due = max(item.at, begin) == step
            else:
                due = history.at_edge() if item.at == "edge" else history.at_threshold()
            if due:
                starts[item.name] = (step, copy_tree(carry))
                waiting.remove(item)
                checkpoints.keep(step, carry)

    if context.checkpoint_every is not None:
        checkpoints.keep(begin, carry)
    fixed = [item.at for item in branches if isinstance(item.at, int)]
    history = _History(setup.trajectory, carry)
    if setup.start is not None:
        history.prepend(setup.start.source.rows)
    for warning in _by_ratio(setup.start, branches, history):
        listener.noted(f"{warning}.")
        if warning not in context.warnings:  # by an earlier group
            context.warnings.append(warning)
    _train(
        setup.trajectory,
        carry,
        begin,
        train,
        fixed,
        keep,
        writer,
        listener,
        context,
        history,
        checkpoints,
        ends,
    )
    for item in waiting:
        listener.noted(
            f"branch {item.name} did not start: the main run ended before "
            + (f"step {item.at}." if isinstance(item.at, int) else f"{_AWAITED[item.at]}.")
        )
    for item in branches:
        if item.name not in starts:
            continue
        step, carry = starts.pop(item.name)
        limit_memory_maps()
        started = branch(
            setup.trajectory, carry, {item.name: _branch_of(item, setup.trajectory.objective)}
        )
        way, start = _measurable(*started[item.name], item.name, listener)
        label = context.label.replace("main", item.name, 1)
        branch_context = dataclasses.replace(context, name=item.name, label=label)
        _train(
            way,
            start,
            step,
            train,
            [],
            None,
            writer,
            listener,
            branch_context,
            _History(way, start),
            _Checkpoints(writer, dataclasses.replace(branch_context, checkpoint_every=None), step),
            ends,
        )


def _by_ratio(start: Start | None, branches: tuple[Branch, ...], history: "_History") -> list[str]:
    """The warnings where the ratio decides on the edge, for want of a realized edge."""
    found = []
    if start is not None and start.source.by_ratio:
        found.append(
            f"the run {start.source.run.path} has no realized edges: it is rewound to step "
            f"{start.source.at}, by which its ratio to the threshold had risen to 0.9"
        )
    if not history.has_zeta and any(item.at == "edge" for item in branches):
        found.append(
            "no realized edge is known of the whole run: a branch at the edge begins when the "
            "ratio to the threshold has risen to 0.9"
        )
    return found


def _rewound(
    setup: Setup, start: Start, train: Train, listener: Listener, context: RunContext
) -> Carry:
    """The state at the start of a rewound run.

    From the checkpoint on the other run is repeated, measurements included, since a solve starts
    from the last one; nothing of it is written.
    """
    carry, step, at = start.carry, start.source.checkpoint, start.source.at
    if step < at:
        label = f"{context.label}, again from step {step} to {at}"
        listener.started(label, at - step)
        for chunk in stream(start.trajectory, carry, at - step, chunk=train.chunk, mode=train.mode):
            carry = chunk.carry
            listener.advanced(label, int(chunk.steps[-1]) + 1 - step, {})
            context.interrupt.accepted = any_process(context.interrupt.requested)
            context.interrupt.raise_if_accepted()
        listener.finished(label)
    new, old = setup.carry.lane.probe_states, carry.lane.probe_states
    states = {name: old[name] if name in start.kept else new[name] for name in new}
    lane = dataclasses.replace(carry.lane, probe_states=states)
    # The states of the old run's probes; new probes begin here.
    budgets = setup.carry.budgets | {
        name: budget for name, budget in carry.budgets.items() if name in start.kept
    }
    return Carry(carry.step, lane, budgets)


def _branch_of(item: Branch, objective: Objective) -> AbstractBranch:
    if item.optimizer is None:
        return FreezePreconditioner(item.ratio)
    return SwitchOptimizer(with_data(item.optimizer.build(), objective), item.ratio)


def _measurable(
    trajectory: Trajectory, carry: Carry, name: str, listener: Listener
) -> tuple[Trajectory, Carry]:
    """The branch without the probes that are undefined for its optimizer."""
    dropped, reason = unmeasurable(trajectory.optimizer), "no preconditioner"
    unknown = why_unknown(trajectory.optimizer, carry.lane.params)
    if unknown is not None:
        dropped, reason = dropped | {"preconditioned_sharpness"}, "no known threshold"
    unmeasured = sorted(dropped & set(trajectory.probes))
    if unknown is None and not unmeasured:
        return trajectory, carry
    if unmeasured:
        listener.noted(
            f"branch {name} has {reason}: {', '.join(unmeasured)} is not measured there."
        )
    probes = {
        # The metric that it takes is that of the preconditioned sharpness.
        key: RealizedEdge(every=probe.every)
        if isinstance(probe, RealizedEdge) and "preconditioned_sharpness" in unmeasured
        else probe
        for key, probe in trajectory.probes.items()
        if key not in unmeasured
    }
    if unknown is not None:
        probes["threshold"] = UnknownThreshold()
    states = {key: state for key, state in carry.lane.probe_states.items() if key not in unmeasured}
    lane = dataclasses.replace(carry.lane, probe_states=states)
    start = dataclasses.replace(carry, lane=lane)
    return dataclasses.replace(trajectory, probes=probes), start


def _train(
    trajectory: Trajectory,
    carry: Carry,
    step: int,
    train: Train,
    pauses: list[int],
    keep: Any,
    writer: AnyWriter,
    listener: Listener,
    context: RunContext,
    history: "_History",
    checkpoints: _Checkpoints,
    ends: Ends,
) -> None:
    """Train one run from a step to the end, in segments between the starts of branches."""
    end = length(train)
    listener.started(context.label, end - step)
    for lane, at in history.diverged():
        # It diverged before this branch began: recorded, but not announced again.
        writer.mark_diverged(context.name, context.lane_offset + lane, at)
    begun = step
    if keep is not None:
        keep(carry, step, history)
    stops = [pause for pause in sorted(set(pauses)) if step < pause < end]
    done = not history.active()
    for stop in [*stops, end]:
        if done:
            break
        for chunk in stream(trajectory, carry, stop - step, chunk=train.chunk, mode=train.mode):
            carry = chunk.carry
            for lane, at in _write(writer, chunk, history, context):
                listener.noted(f"{context.label}: lane {lane} diverged at step {at}.")
            history.add(chunk)
            step = int(chunk.steps[-1]) + 1
            listener.advanced(context.label, step - begun, history.shown())
            checkpoints.passing(step, carry)
            if keep is not None:
                keep(carry, step, history)
            context.interrupt.accepted = any_process(context.interrupt.requested)
            fitted = train.stop_loss is not None and history.fitted(train.stop_loss)
            done = not history.active() or fitted or context.interrupt.accepted
            if done:
                break
    checkpoints.keep(step, carry)
    steps, codes = history.states.rest()
    known = np.isfinite(codes)
    if known.any():
        writer.append(
            context.name,
            {"edge_state": codes},
            steps,
            measured={"edge_state": known},
            lane_offset=context.lane_offset,
        )
    listener.finished(context.label)
    results = ends.setdefault((context.name, context.group or 0), {})
    kept: dict[str, Any] = {
        name: probe for name, probe in trajectory.probes.items() if budget_columns(probe)
    }
    for name, probe in kept.items():
        budget = start_budget(probe, carry.budgets.get(name))
        missed = missed_budget(probe, budget)
        if missed:
            listener.noted(f"{context.label}: {missed}")
        numbers = {key: float(getattr(budget, key)) for key in ("overhead", "value_rtol")}
        results[probe.measures[0]] = {
            "asked": probe.overhead,
            "reached": missed is None,
            "period": int(budget.period),
            **{key: None if np.isnan(value) else value for key, value in numbers.items()},
        }
    context.interrupt.raise_if_accepted()


def _write(
    writer: AnyWriter, chunk: Chunk, history: "_History", context: RunContext
) -> list[tuple[int, int]]:
    """Write the chunk's rows up to each lane's divergence; return the lanes that diverged."""
    steps, measurements, measured = with_previous(chunk)
    # A sentinel for "never" would overflow the lanes' int32.
    sound = (chunk.diverged_at < 0) | (steps[:, None] <= chunk.diverged_at)
    codes = history.states.add(steps, measurements, measured, sound)
    masks = {name: mask[:, None] & sound for name, mask in measured.items()}
    writer.append(
        context.name,
        {**measurements, "edge_state": codes},
        steps,
        measured={**masks, "edge_state": np.isfinite(codes)},
        lane_offset=context.lane_offset,
    )
    before = dict(history.diverged())
    newly = [
        (lane, int(at))
        for lane, at in enumerate(chunk.diverged_at)
        if at >= 0 and lane not in before
    ]
    for lane, at in newly:
        writer.mark_diverged(context.name, context.lane_offset + lane, at)
    return [(context.lane_offset + lane, at) for lane, at in newly]


def with_previous(chunk: Chunk) -> tuple[np.ndarray, Columns, Columns]:
    """The steps of a chunk, its measurements and their masks, with what completes the step before.

    Returns:
        The three, as in the chunk; with a row for the step before it, if there is anything for it.
    """
    previous = chunk.previous
    if not previous:
        return chunk.steps, chunk.measurements, chunk.measured
    rows, masks = dict(chunk.measurements), dict(chunk.measured)
    for name, value in previous.items():
        rows.setdefault(name, np.full((chunk.steps.size, *value.shape), np.nan, value.dtype))
        masks.setdefault(name, np.zeros(chunk.steps.size, bool))
    return (
        np.concatenate([chunk.steps[:1] - 1, chunk.steps]),
        {
            # What is not completed is masked in that row.
            name: np.concatenate([previous[name][None] if name in previous else value[:1], value])
            for name, value in rows.items()
        },
        {name: np.append(name in previous, mask) for name, mask in masks.items()},
    )


class _History:
    """The host's history of a run, for its decisions: ratios, losses, divergence."""

    def __init__(self, trajectory: Trajectory, carry: Carry):
        self._raw = trajectory.optimizer.is_euclidean
        self.has_zeta = any(isinstance(x, RealizedEdge) for x in trajectory.probes.values())
        self._steps: list[np.ndarray] = []
        self._ratios: list[np.ndarray] = []
        self._losses: list[np.ndarray] = []
        self._last: dict[str, float] = {}
        self._diverged_at = np.atleast_1d(np.asarray(carry.lane.diverged_at))
        self.states = StatesSoFar(self._diverged_at.size)

    def prepend(self, rows: xr.Dataset) -> None:
        """Add the rows that another run measured before this one."""
        steps, ratio = ratio_curve(rows, self._raw)
        self._steps.append(steps)
        self._ratios.append(ratio[:, None])
        self._losses.append(measured(rows, "loss")[1][:, None])
        steps, zeta = downhill_curve(rows)
        self.has_zeta &= steps.size > 0
        self.states.prepend(steps, zeta)

    def add(self, chunk: Chunk) -> None:
        values = chunk.measurements
        ratio = None
        if "ratio" in values:
            name, ratio = "ratio", values["ratio"]
        elif self._raw and "sharpness" in values:
            name = "sharpness"
            ratio = values["sharpness"][..., 0] / values["threshold"]
        if ratio is not None:
            due = chunk.measured[name]
            self._steps.append(chunk.steps[due])
            self._ratios.append(ratio[due])
            last = ratio[due][-1:]
            if np.isfinite(last).any():
                self._last["ratio"] = float(np.median(last[np.isfinite(last)]))
        self._losses.append(values["loss"])
        self._last["loss"] = float(np.median(values["loss"][-1]))
        self._diverged_at = chunk.diverged_at

    def active(self) -> list[int]:
        """The lanes that have not diverged."""
        return np.flatnonzero(self._diverged_at < 0).tolist()

    def diverged(self) -> list[tuple[int, int]]:
        """The lanes that have diverged, each with its step."""
        return [(lane, int(at)) for lane, at in enumerate(self._diverged_at) if at >= 0]

    def at_edge(self) -> bool:
        """True if every active lane has been at the edge, by its realized edge.

        In a run without one, or one that is rewound to a run without one, by its ratio.
        """
        if not self.active():
            return False
        if self.has_zeta:
            return self.states.have_been(self.active())
        return self.at_threshold()

    def at_threshold(self) -> bool:
        """True if the ratio of every active lane has risen to the threshold, or nearly so."""
        if not self._steps or not self.active():
            return False
        steps, ratios = np.concatenate(self._steps), np.concatenate(self._ratios)
        return all(edge_step(steps, ratios[:, lane]) is not None for lane in self.active())

    def fitted(self, loss: float) -> bool:
        """True if the median loss of the last steps is below a value in every active lane."""
        losses = np.concatenate(self._losses)[-STOP_WINDOW:]
        return all(np.median(losses[:, lane]) < loss for lane in self.active())

    def shown(self) -> dict[str, float | str]:
        """A few numbers for a progress line, medians over the lanes, and the states."""
        several = self._diverged_at.size > 1
        state = self.states.shown(self.active())
        return {
            **{f"median {x}" if several else x: value for x, value in self._last.items()},
            **({} if state is None else {"state": state}),
        }
