"""The cost of aeoskit's loops around a small CNN: steps, microbatches and Hessian products."""

import time
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from aeoskit.linalg import Lanczos, eigensolve
from aeoskit.objective import Objective
from aeoskit.optimizers import Optimizer, adam, apply_updates
from aeoskit.trajectory import Trajectory, choose_mode, stream
from aeoskit_experiments.data import digits
from aeoskit_experiments.losses import cross_entropy
from aeoskit_experiments.models import cnn

GOALS = {"shifted": 2.0, "lax": 1.2}


def run_loop_benchmark(
    *,
    examples: int = 512,
    channels: int = 16,
    steps: int = 50,
    products: int = 20,
    repeats: int = 15,
) -> dict[str, Any]:
    """Time a training step and a Hessian product in aeoskit's loops against plain compiled ones.

    The baseline is what a user writes: XLA's own convolution, one compiled program, no loop, no
    microbatches. Against it stand the convolution as shifted matrix products in compiled loops, and
    XLA's under the host driver. All timings are interleaved in one run; a time is the smallest of
    the repeats, the loop's whole time per step or product.

    Args:
        examples: Digits in the full batch.
        channels: Channels of the two convolutions.
        steps: Training steps in a loop.
        products: Hessian products in a solve.
        repeats: Number of timings.

    Returns:
        `{"rows": [...]}`, one per case and convolution: `case`, `convolution`, `mode` of the loop,
        `plain_seconds` and `loop_seconds` of a step or product, their `ratio`, its `goal`; and
        `own_ratio`, against the same convolution in a plain compiled program.
    """
    timed: dict[Any, Callable[[], float]] = {}
    modes: dict[Any, str] = {}
    for convolution in GOALS:
        loops, plain = _cases(convolution, examples, channels, steps, products, modes)
        timed |= {("loop", case, convolution): run for case, run in loops.items()}
        timed |= {("plain", case, convolution): run for case, run in plain.items()}
    for run in timed.values():
        run()  # compiles
    seconds = {key: np.inf for key in timed}
    for _ in range(repeats):
        for key, run in timed.items():
            seconds[key] = min(seconds[key], run())

    rows = []
    for kind, case, convolution in timed:
        if kind == "loop":
            base = "product" if case == "product in a solve" else "step"
            loop = seconds[kind, case, convolution]
            plain_seconds = seconds["plain", base, "lax"]
            rows.append(
                {
                    "case": case,
                    "convolution": convolution,
                    "mode": modes[case, convolution],
                    "plain_seconds": plain_seconds,
                    "loop_seconds": loop,
                    "ratio": loop / plain_seconds,
                    "goal": GOALS[convolution],
                    "own_ratio": loop / seconds["plain", base, convolution],
                }
            )
    return {"rows": rows}


def _plain_step(objective: Objective, optimizer: Optimizer, params: Any, state: Any) -> Any:
    value, grads = objective.value_and_gradient(params)
    updates, state = optimizer.update(grads, state, params)
    return apply_updates(params, updates), state, value


def _cases(
    convolution: Any, examples: int, channels: int, steps: int, products: int, modes: dict
) -> tuple[dict[str, Callable[[], float]], dict[str, Callable[[], float]]]:
    data, model = digits(examples=examples), cnn(channels=channels, convolution=convolution)
    params = model.init(jax.random.key(0), data)
    optimizer = adam(1e-3)

    def objective_of(microbatch: int | None = None) -> Objective:
        return Objective.from_model(
            model.apply, cross_entropy, (data.inputs, data.targets), microbatch=microbatch
        )

    def training(case: str, objective: Objective) -> Callable[[], float]:
        trajectory = Trajectory(objective, optimizer, {})
        carry = trajectory.init(params, jax.random.key(0))
        modes[case, convolution] = choose_mode(trajectory, carry)

        def run() -> float:
            begin = time.perf_counter()
            for chunk in stream(trajectory, carry, steps, chunk=steps):
                jax.block_until_ready(chunk.carry.lane.params)
            return (time.perf_counter() - begin) / steps

        return run

    def solving() -> Callable[[], float]:
        operator = objective_of().hessian(params)
        case = "product in a solve"
        modes[case, convolution] = "host" if convolution == "lax" else "scan"
        solver = Lanczos(basis=max(products, 6), rtol=0.0)

        def run() -> float:
            begin = time.perf_counter()
            solution = eigensolve(operator, solver, max_matvecs=products)
            matvecs = int(solution.stats["matvecs"])
            return (time.perf_counter() - begin) / matvecs

        return run

    def plain(function: Callable[..., Any], *args: Any) -> Callable[[], float]:
        compiled = jax.jit(function)

        def run() -> float:
            begin = time.perf_counter()
            for _ in range(steps):
                jax.block_until_ready(compiled(*args))
            return (time.perf_counter() - begin) / steps

        return run

    whole = objective_of()
    vector = jax.tree.map(jnp.ones_like, params)
    loops = {
        "step": training("step", whole),
        "4 microbatches": training("4 microbatches", objective_of(-(-examples // 4))),
        "product in a solve": solving(),
    }
    plains = {
        "step": plain(_plain_step, whole, optimizer, params, optimizer.init(params)),
        "product": plain(lambda objective, w, v: objective.hessian(w).mv(v), whole, params, vector),
    }
    return loops, plains
