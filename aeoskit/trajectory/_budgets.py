"""Time budgets of probes along a run, by a clock that is read between two programs."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental import multihost_utils

from aeoskit.probes import (
    LINEARIZATION_PRODUCTS,
    ProbeBudget,
    adapt_budget,
    budget_columns,
    is_due,
    start_budget,
)

from ._carry import Carry, Trajectory, take_lane
from ._rows import Rows, blank, concatenate_rows, due_masks
from ._step import step_with_probes

Advance = Callable[[Carry, int, int], tuple[Carry, Rows]]
Clock = Callable[[], float]

# The least and the largest number of steps without a measurement after a timed one.
_MIN_GAP, _MAX_GAP = 8, 64
# Timings at the beginning of a stream, and chunks between two timings later.
_FIRST_TIMINGS, _CHUNKS_BETWEEN_TIMINGS = 3, 4
# A call of no steps costs what every call costs; the first one may compile.
_CALLS = 4


def with_budgets(trajectory: Trajectory, carry: Carry) -> Carry:
    """The carry with a state for each probe that has a budget, due at its step or later."""
    step, budgets = int(carry.step), {}
    for name, probe in trajectory.probes.items():
        if budget_columns(probe):
            budget = start_budget(probe, carry.budgets.get(name))
            late = max(0, -(-(step - int(budget.due)) // int(budget.period)))
            due = jnp.asarray(int(budget.due) + late * int(budget.period), int)
            budgets[name] = dataclasses.replace(budget, due=due)
    return dataclasses.replace(carry, budgets=budgets)


class BudgetController:
    """Runs chunks in parts, times some of them, and adapts periods and tolerances.

    The price of a product is timed in units of a training step: one step with a measurement, and
    the steps after it without one. It hardly changes, so a few timings will do; how many products
    were spent stands in the rows. Programs depend on none of it.

    Args:
        trajectory: the run.
        carry: its state.
        advance: takes steps from a number on, and returns the rows.
        clock: seconds.
        lanes_together: whether lanes are solved together, so that the slowest one counts.
    """

    def __init__(
        self,
        trajectory: Trajectory,
        carry: Carry,
        advance: Advance,
        clock: Clock,
        *,
        lanes_together: bool,
    ):
        probes, self._trajectory = trajectory.probes, trajectory
        self._probes: dict[str, Any] = {name: probes[name] for name in carry.budgets}
        self._fixed = {name: probe for name, probe in probes.items() if name not in self._probes}
        self._placement, self._lanes = trajectory.objective.placement, trajectory.lanes or 1
        self._budgets: dict[str, ProbeBudget] = jax.device_get(carry.budgets)
        self._advance, self._clock, self._side_by_side = advance, clock, lanes_together
        self._timed = dict.fromkeys(self._probes, -1)  # the first one compiles, and is cold
        self._chunks_since_timing = dict.fromkeys(self._probes, 0)
        # Due at the next step, and not to be put off (again) by the timing of another.
        step = int(carry.step)
        self._overdue = {name for name, budget in self._budgets.items() if budget.due <= step}
        self._call_seconds: float | None = None
        self._shapes: dict[str, Any] | None = None

    def chunk(self, carry: Carry, start: int, length: int) -> tuple[Carry, Rows, Rows]:
        """Takes a chunk of steps.

        Args:
            carry: the state before it.
            start: its step.
            length: how many to take.

        Returns:
            The carry after it, the rows, and for each name of them a mask: when it was measured.
        """
        if self._call_seconds is None:
            carry = self._time_empty_call(carry, start)
        self._parts: list[tuple[int, Rows, Rows]] = []
        step, end = start, start + length
        while step < end:
            found = self._next_timing(step, end)
            overdue, self._overdue = self._overdue, set()
            if found is None:
                carry, _ = self._run(carry, step, end)
                step = end
            elif overdue - {found[0]}:
                carry, _ = self._run(carry, step, step + 1)
                step += 1
            else:
                carry = self._time(carry, step, *found)
                step = found[-1]
            for name in self._probes:
                self._adapt(name)
        for name in self._probes:
            self._chunks_since_timing[name] += 1
        rows = concatenate_rows([(count, rows) for count, rows, _ in self._parts])
        masks = concatenate_rows([(count, masks) for count, _, masks in self._parts])
        for probe in self._probes.values():
            if any(name not in rows for name in probe.measures):
                rows |= self._blanks(carry, probe.measures, length)
        for name, probe in self._probes.items():
            # What is known at the end of a chunk holds for all of it.
            overhead = self._budgets[name].overhead
            rows[f"{probe.measures[0]}_overhead"] = np.full((length, self._lanes), overhead)
        return dataclasses.replace(carry, budgets=self._on_device()), rows, masks

    def always_measured(self) -> set[str]:
        """The quantities of every chunk: their due steps are not known beforehand."""
        return {
            name
            for probe in self._probes.values()
            for name in (*probe.measures, *budget_columns(probe))
        }

    def _blanks(self, carry: Carry, names: tuple[str, ...], length: int) -> Rows:
        """Rows of a probe that a chunk in host mode did not measure: their shapes are traced."""
        if self._shapes is None:
            lane, trajectory = carry.lane, self._trajectory
            if trajectory.lanes is not None:
                lane = take_lane(lane, 0)
                trajectory = trajectory.single(take_lane(trajectory.optimizer, 0))
            _, self._shapes = eqx.filter_eval_shape(
                step_with_probes, trajectory, lane, carry.step, carry.budgets
            )
        assert self._shapes is not None
        shapes = {name: self._shapes[name] for name in names}
        return {
            name: blank(like, length, self._lanes, *like.shape) for name, like in shapes.items()
        }

    def _time(self, carry: Carry, step: int, name: str, probe_step: int, after: int) -> Carry:
        """Takes the steps up to `after`; times a measurement at `probe_step`, and the rest."""
        self._postpone(name, probe_step)
        if probe_step > step:
            carry, _ = self._run(carry, step, probe_step)
        others = [other for other in self._probes if other != name]
        self._overdue |= {other for other in others if self._postpone(other, after)}
        carry, with_probe = self._run(carry, probe_step, probe_step + 1)
        if self._postpone(name, after):
            self._overdue.add(name)
        cost = self._budgets[name].costs[-1]
        carry, without = self._run(carry, probe_step + 1, after)
        self._record_price(name, with_probe, without / (after - probe_step - 1), float(cost))
        return carry

    def _next_timing(self, step: int, end: int) -> tuple[str, int, int] | None:
        """A probe whose price is to be timed, the step of its measurement, the end of the gap.

        Probes take turns: the one that was timed least comes first.
        """
        for name in sorted(self._budgets, key=lambda name: self._timed[name]):
            budget = self._budgets[name]
            full = np.isfinite(budget.prices).all()
            # Of steps that are too short for the clock no price is ever known.
            wanted = _FIRST_TIMINGS if full else 2 * len(budget.prices)
            if (
                self._timed[name] >= wanted
                and self._chunks_since_timing[name] < _CHUNKS_BETWEEN_TIMINGS
            ):
                continue
            gap = max(_MIN_GAP, min(int(budget.period) - 1, _MAX_GAP))
            least = min(_MIN_GAP, (end - step) // 2)
            first = max(step, int(budget.due))
            probe_steps = range(first, min(first + _MIN_GAP, end - least))
            # Where no other solve falls into either part, if there is such a place.
            undisturbed = [
                probe_step
                for probe_step in probe_steps
                if self._is_undisturbed(probe_step) and self._is_undisturbed(probe_step + 1)
            ]
            if not probe_steps or least < 1:
                continue
            probe_step = (undisturbed or probe_steps)[0]
            after = min(probe_step + 1 + gap, end)
            solves = [at for at in range(probe_step + 2, after) if not self._is_undisturbed(at)]
            after = min([after, *solves]) if undisturbed else after
            return name, probe_step, after
        return None

    def _is_undisturbed(self, step: int) -> bool:
        """True if no probe of a fixed period solves there that does not at every step."""
        return not any(
            probe.solves and probe.every > 1 and is_due(probe, None, step)
            for probe in self._fixed.values()
        )

    def _postpone(self, name: str, step: int) -> bool:
        """Makes a probe due at a step, if it is before; True if it was."""
        budget = self._budgets[name]
        earlier = int(budget.due) < step
        due = np.asarray(max(int(budget.due), step), budget.due.dtype)
        self._budgets[name] = dataclasses.replace(budget, due=due)
        return earlier

    def _on_device(self) -> dict[str, ProbeBudget]:
        """The states as programs take them."""
        budgets = jax.tree.map(jnp.asarray, self._budgets)
        return budgets if self._placement is None else self._placement.put_replicated(budgets)

    def _shared_seconds(self, seconds: float) -> float:
        """The time, the same for all processes of a run, since they have to do the same."""
        if self._placement is None or jax.process_count() == 1:
            return seconds
        return float(multihost_utils.broadcast_one_to_all(np.asarray(seconds)))

    def _timed_call(self, carry: Carry, step: int, length: int) -> tuple[Carry, Rows, float]:
        carry = dataclasses.replace(carry, budgets=self._on_device())
        begun = self._clock()
        carry, rows = self._advance(carry, step, length)
        return carry, rows, self._shared_seconds(self._clock() - begun)

    def _time_empty_call(self, carry: Carry, step: int) -> Carry:
        seconds = []
        for _ in range(_CALLS):
            carry, _, spent = self._timed_call(carry, step, 0)
            seconds.append(spent)
        self._call_seconds = min(seconds[1:])
        return carry

    def _run(self, carry: Carry, step: int, end: int) -> tuple[Carry, float]:
        """Takes the steps, keeps their rows, and notes what measurements cost."""
        numbers = np.arange(step, end)
        carry, rows, seconds = self._timed_call(carry, step, end - step)
        masks = due_masks(self._fixed | self._probes, self._budgets, numbers)
        for name, probe in self._probes.items():
            budget, columns = self._budgets[name], budget_columns(probe)
            mask = masks[probe.measures[0]]
            for column in columns:
                field = getattr(budget, column.removeprefix(f"{probe.measures[0]}_"))
                rows[column] = np.full((len(numbers), self._lanes), field)
                masks[column] = mask
            for place in np.flatnonzero(mask):
                spent = rows[f"{probe.measures[0]}_matvecs"][place] + LINEARIZATION_PRODUCTS
                cost = spent.max() if self._side_by_side else spent.sum()
                if self._timed[name] >= 0:
                    budget = budget.with_entry("costs", float(cost))
            if mask.any():
                last = numbers[np.flatnonzero(mask)[-1]]
                due = np.asarray(last + budget.period, budget.due.dtype)
                budget = dataclasses.replace(budget, due=due)
            self._budgets[name] = budget
        self._parts.append((len(numbers), rows, masks))
        return carry, seconds - (self._call_seconds or 0.0)

    def _record_price(self, name: str, with_probe: float, step: float, cost: float) -> None:
        """Keeps a price: what a measurement added to its step, over its products."""
        self._timed[name] += 1
        self._chunks_since_timing[name] = 0
        if self._timed[name] > 0 and step > 0 and cost > 0:
            price = max(with_probe - step, 0.0) / cost / step
            self._budgets[name] = self._budgets[name].with_entry("prices", price)

    def _adapt(self, name: str) -> None:
        probe, before = self._probes[name], self._budgets[name]
        after = adapt_budget(probe, before)
        # The next measurement comes sooner or later by as much, unless it was put off already.
        moved = 0 if name in self._overdue else int(after.period) - int(before.period)
        due = np.asarray(int(before.due) + moved, before.due.dtype)
        self._budgets[name] = dataclasses.replace(after, due=due)
