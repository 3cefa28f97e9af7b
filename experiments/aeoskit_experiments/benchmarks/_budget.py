"""`aeoskit bench budget`: overhead and error of a probe with a time budget."""

import time
from collections.abc import Callable, Iterator
from typing import Any

import equinox as eqx
import jax
import numpy as np

from aeoskit.linalg import Tracking
from aeoskit.probes import PreconditionedSharpness
from aeoskit.trajectory import Chunk, Trajectory, stream
from aeoskit_experiments._errors import UserError, unknown

from ._accuracy import Sequence
from ._eigen_problems import TrainingProblem
from ._overhead import NAMES, make_problem

_NAME = "preconditioned_sharpness"


def run_budget_benchmark(
    *,
    problems: str | None = None,
    overhead: float = 0.2,
    every: int = 10,
    warmup: int = 200,
    steps: int = 600,
    settle: int = 200,
    chunk: int = 100,
    measurements: int = 20,
    width: int | None = None,
    progress: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """Compare training with a budgeted probe of P⁻¹H with the same training without one.

    Both continue from the same step, in alternating chunks, so that other work on the machine
    affects both alike. The first chunks, in which programs compile and the probe adapts, do not
    count.

    Args:
        problems: 17k (digits) or 657k (problem C of `bench eigen`); none for both.
        overhead: The requested overhead.
        every: The shortest period.
        warmup: Training steps before the comparison.
        steps: Total number of steps, a multiple of `chunk`.
        settle: Number of first steps that do not count, a multiple of `chunk`.
        chunk: Steps between two visits of the host.
        measurements: Number of measurements behind the error, at the final period and tolerance.
        width: Width of the network's two hidden layers (for tests).
        progress: Called with the name of each part as it begins.

    Returns:
        `rows`, one per problem: `asked`; `estimated`, the probe's own estimate of its overhead at
        the end; `cpu_overhead` and `overhead`, seconds with over seconds without, less 1, by CPU
        seconds of the process and by wall time; `measured`, the number of measurements; `products`
        of each; `period`, `value_rtol`; `median_error` and `max_error` (relative).

    Raises:
        UserError: For an unknown problem, or steps that are not such multiples.
    """
    names = NAMES if problems is None else tuple(x.strip() for x in problems.split(","))
    for name in names:
        if name not in NAMES:
            raise unknown("problem", name, NAMES, where="bench budget")
    for what, count in (("steps", steps), ("settle", settle)):
        if count % chunk:
            raise UserError(f"bench budget: {what} is {count}: give a multiple of {chunk}, chunk")
    if not chunk <= settle < steps:
        raise UserError(f"bench budget: settle is {settle}: give {chunk} or more, below {steps}")
    rows = []
    for name in names:
        progress(f"{name}: training")
        problem = make_problem(name, width).advanced(warmup)
        progress(f"{name}: comparison")
        row = _row(problem, overhead, every, steps, settle, chunk)
        progress(f"{name}: errors")
        solver = Tracking(value_rtol=row["value_rtol"])
        at = problem.advanced(settle)
        # In float32 rounding exceeds a residual of 1e-5 for a network of this size.
        found = Sequence.of(at, measurements, row["period"], rtol=1e-4).row(solver)
        rows.append(row | {key: found[key] for key in ("median_error", "max_error")})
    return {"rows": rows}


def _row(
    problem: TrainingProblem, overhead: float, every: int, steps: int, settle: int, chunk: int
) -> dict[str, Any]:
    probe = PreconditionedSharpness(every=every, overhead=overhead)
    loops = [_loop(problem, probes, steps, chunk) for probes in ({}, {"edge": probe})]
    seconds, spent = np.zeros((2, 2)), []
    last: Any = None
    for number in range(steps // chunk):
        for place, loop in enumerate(loops):
            wall, cpu = time.perf_counter(), time.process_time()
            last = next(loop)
            jax.block_until_ready(last.carry.lane.params)
            if number * chunk >= settle:
                seconds[place] += time.perf_counter() - wall, time.process_time() - cpu
        if number * chunk >= settle and _NAME in last.measured:
            spent += last.measurements[f"{_NAME}_matvecs"][last.measured[_NAME], 0].tolist()
    budget = last.carry.budgets["edge"]
    share = seconds[1] / seconds[0] - 1
    return {
        "problem": problem.name,
        "parameters": sum(x.size for x in jax.tree.leaves(problem.params)),
        "asked": overhead,
        "estimated": float(budget.overhead),
        "cpu_overhead": float(share[1]),
        "overhead": float(share[0]),
        "measured": len(spent),
        "products": float(np.mean(spent)) if spent else float("nan"),
        "period": int(budget.period),
        "value_rtol": float(budget.value_rtol),
    }


def _loop(
    problem: TrainingProblem, probes: dict[str, Any], steps: int, chunk: int
) -> Iterator[Chunk]:
    trajectory = Trajectory(problem.objective, problem.optimizer, probes)
    carry = trajectory.init(problem.params, jax.random.key(0))
    carry = eqx.tree_at(lambda c: c.lane.optimizer_state, carry, problem.state)
    # CPU seconds, as in the comparison: wall time on a busy machine is noisy.
    return stream(trajectory, carry, steps, chunk=chunk, clock=time.process_time)
