"""`aeoskit bench overhead`: what a probe every ten steps costs beside the training."""

import dataclasses
import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

from aeoskit.linalg import Tracking
from aeoskit.objective import Objective
from aeoskit.optimizers import Optimizer, adam, apply_updates
from aeoskit.probes import (
    AbstractProbe,
    LossAndGradient,
    PreconditionedSharpness,
    RealizedEdge,
    preconditioned_sharpness,
)
from aeoskit.trajectory import Trajectory, stream
from aeoskit_experiments._errors import UserError, unknown
from aeoskit_experiments.data import digits
from aeoskit_experiments.losses import mse
from aeoskit_experiments.models import mlp

from ._eigen_problems import TrainingProblem, prepared, training_problem

# The cost of the gradient inside a linearization, in units of one gradient.
GRADIENTS = 0.7
# Gradients and products that are timed together.
_COUNT = 20
NAMES = ("17k", "657k")
Clock = tuple[float, float]


def run_overhead_benchmark(
    *,
    problems: str | None = None,
    steps: int = 50,
    every: int = 10,
    warmup: int = 200,
    repeats: int = 4,
    value_rtol: float = 1e-2,
    width: int | None = None,
    progress: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """Compare loops with a probe of P⁻¹H every ten steps with the same loops without it.

    All timings are interleaved in one run, and continue from the same step. A time is the smallest
    of the repeats: wall time, and CPU seconds of the process, which other work on the machine
    affects less.

    Args:
        problems: 17k (digits) or 657k (problem C of `bench eigen`); none for both.
        steps: Steps of a loop, a multiple of `every`.
        every: Steps between two probes.
        warmup: Training steps before the comparison.
        repeats: Number of timings.
        value_rtol: Tolerance on the value of the probe's `Tracking`; 0 for residuals only.
        width: Width of the network's two hidden layers (for tests).
        progress: Called with the name of each part as it begins.

    Returns:
        `rows`, one per problem and loop (`Trajectory`, or a user's own: a compiled step, and
        `preconditioned_sharpness` called from Python): `products` per probe; `ratio` of the loop
        with probes to that without, by wall time, and `cpu_ratio`; `steady` and `cpu_steady`, what
        a probe costs over its products × a linearized product + 0.7 gradients; `step_gradients`, a
        plain step in units of one gradient, and `product_gradients`, a linearized product (wall).
        `realized_edge`, one per problem: `ratio` and `cpu_ratio` of a loop that has the realized
        edge of every step to one that has only the losses.

    Raises:
        UserError: For an unknown problem, or steps that are not a multiple of `every`.
    """
    names = NAMES if problems is None else tuple(x.strip() for x in problems.split(","))
    for name in names:
        if name not in NAMES:
            raise unknown("problem", name, NAMES, where="bench overhead")
    if steps % every:
        raise UserError(f"bench overhead: steps is {steps}: give a multiple of {every}, the period")
    rows, edges = [], []
    for name in names:
        progress(f"{name}: training")
        problem = make_problem(name, width).advanced(warmup)
        progress(f"{name}: loops")
        rows += _rows(problem, steps, every, repeats, Tracking(value_rtol=value_rtol))
        progress(f"{name}: realized edge")
        edges.append(_edge_row(problem, steps, repeats))
    return {"rows": rows, "realized_edge": edges}


def make_problem(name: str, width: int | None) -> TrainingProblem:
    if name == "17k":
        model = mlp(width=width or 100)
        return prepared(name, digits(examples=1000), model, mse, adam(1e-3), True, seed=0)
    problem = training_problem("C", steps=0, width=width)
    return dataclasses.replace(problem, preconditioned=True)


@eqx.filter_jit
def _update(optimizer: Optimizer, params: Any, state: Any, grads: Any) -> Any:
    updates, state = optimizer.update(grads, state, params)
    return apply_updates(params, updates), state


@eqx.filter_jit
def _step(objective: Objective, optimizer: Optimizer, params: Any, state: Any) -> Any:
    value, grads = objective.value_and_gradient(params)
    return *_update(optimizer, params, state, grads), value


@eqx.filter_jit
def _gradient(objective: Objective, params: Any) -> Any:
    return objective.value_and_gradient(params)


@eqx.filter_jit
def _linear(operator: lx.AbstractLinearOperator) -> lx.AbstractLinearOperator:
    return lx.linearise(operator)


@eqx.filter_jit
def _product(linear: lx.AbstractLinearOperator, vector: Any) -> Any:
    return linear.mv(vector)


def _rows(
    problem: TrainingProblem, steps: int, every: int, repeats: int, solver: Tracking
) -> list[dict[str, Any]]:
    products: dict[str, float] = {}
    linear = _linear(problem.operator())
    vector = jax.tree.map(jnp.ones_like, problem.params)
    runs = {
        "Trajectory plain": _trajectory(problem, steps, {}, products),
        "Trajectory": _trajectory(
            problem, steps, {"edge": PreconditionedSharpness(every=every, solver=solver)}, products
        ),
        "own plain": _own(problem, steps, None, None, products),
        "own": _own(problem, steps, every, solver, products),
        "gradient": _again(_COUNT, lambda: _gradient(problem.objective, problem.params)),
        "product": _again(_COUNT, lambda: _product(linear, vector)),
    }
    least = _least(runs, repeats)
    gradient, product = least["gradient"] / _COUNT, least["product"] / _COUNT
    rows = []
    for loop in ("Trajectory", "own"):
        plain, probed = least[f"{loop} plain"], least[loop]
        ratio = probed / plain
        goal = products[loop] * product + GRADIENTS * gradient
        steady = (probed - plain) / (steps // every) / goal
        rows.append(
            {
                "problem": problem.name,
                "parameters": sum(x.size for x in jax.tree.leaves(problem.params)),
                "loop": loop,
                "products": products[loop],
                "ratio": float(ratio[0]),
                "cpu_ratio": float(ratio[1]),
                "steady": float(steady[0]),
                "cpu_steady": float(steady[1]),
                "step_gradients": float(plain[0] / steps / gradient[0]),
                "product_gradients": float(product[0] / gradient[0]),
            }
        )
    return rows


def _edge_row(problem: TrainingProblem, steps: int, repeats: int) -> dict[str, Any]:
    losses: dict[str, AbstractProbe] = {"loss": LossAndGradient()}
    runs = {
        "plain": _trajectory(problem, steps, losses, {}),
        "edge": _trajectory(problem, steps, losses | {"edge": RealizedEdge()}, {}),
    }
    least = _least(runs, repeats)
    ratio = least["edge"] / least["plain"]
    return {
        "problem": problem.name,
        "parameters": sum(x.size for x in jax.tree.leaves(problem.params)),
        "ratio": float(ratio[0]),
        "cpu_ratio": float(ratio[1]),
    }


def _least(runs: dict[str, Callable[[], Clock]], repeats: int) -> dict[str, np.ndarray]:
    """The smallest of several times of each, taken in turns."""
    for run in runs.values():
        run()  # compiles
    least: dict[str, np.ndarray] = {name: np.full(2, np.inf) for name in runs}
    for _ in range(repeats):
        for name, run in runs.items():
            least[name] = np.minimum(least[name], run())
    return least


def _timed(run: Callable[[], Any]) -> Clock:
    wall, cpu = time.perf_counter(), time.process_time()
    jax.block_until_ready(run())
    return time.perf_counter() - wall, time.process_time() - cpu


def _again(count: int, run: Callable[[], Any]) -> Callable[[], Clock]:
    def all_of_them() -> None:
        for _ in range(count):
            jax.block_until_ready(run())

    return lambda: _timed(all_of_them)


def _trajectory(
    problem: TrainingProblem,
    steps: int,
    probes: dict[str, AbstractProbe],
    products: dict[str, float],
) -> Callable[[], Clock]:
    trajectory = Trajectory(problem.objective, problem.optimizer, probes)
    carry = trajectory.init(problem.params, jax.random.key(0))
    carry = eqx.tree_at(lambda c: c.lane.optimizer_state, carry, problem.state)
    # The first probe is cold: it is not part of the loop that is timed.
    *_, last = stream(trajectory, carry, steps, chunk=steps)

    def run() -> Any:
        *_, chunk = stream(trajectory, last.carry, steps, chunk=steps)
        if "preconditioned_sharpness_matvecs" in chunk.measurements:
            spent = chunk.measurements["preconditioned_sharpness_matvecs"]
            measured = chunk.measured["preconditioned_sharpness_matvecs"]
            products["Trajectory"] = float(np.mean(np.asarray(spent)[np.asarray(measured)]))
        return chunk.carry.lane.params

    return lambda: _timed(run)


def _own(
    problem: TrainingProblem,
    steps: int,
    every: int | None,
    solver: Tracking | None,
    products: dict[str, float],
) -> Callable[[], Clock]:
    """A compiled step, and the probe called between two of them."""
    objective, optimizer = problem.objective, problem.optimizer

    def loop(params: Any, state: Any, memory: Any) -> Any:
        spent = []
        for i in range(steps):
            if every is not None and i % every == 0:
                point = objective.linearize(params)
                value = point.value
                edge = preconditioned_sharpness(
                    objective, params, optimizer, state,
                    solver=solver, start=memory, linearization=point,
                )  # fmt: skip
                memory = edge.solution.state
                spent.append(int(edge.solution.stats["matvecs"]))
                params, state = _update(optimizer, params, state, point.grads)
            else:
                params, state, value = _step(objective, optimizer, params, state)
            float(value)  # as loops do that print
        if spent:
            products["own"] = float(np.mean(spent))
        return params, state, memory

    begun = loop(problem.params, problem.state, None)
    return lambda: _timed(lambda: loop(*begun))
