"""`aeoskit bench compile`: compile time of a solve, in units of one product."""

import contextlib
import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.monitoring
import jax.numpy as jnp
import numpy as np
from jax.experimental.compilation_cache import compilation_cache
from jax.experimental.sparse.linalg import lobpcg_standard
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float, PyTree

from aeoskit.linalg import Lanczos, Tracking
from aeoskit.objective import Objective
from aeoskit.probes import sharpness
from aeoskit_experiments._errors import UserError

_COMPILED = "/jax/core/compile/backend_compile_duration"
Params = dict[str, Float[Array, "width width"]]


def run_compile_benchmark(
    *,
    leaves: tuple[int, ...] = (3, 24, 100),
    width: int | None = None,
    examples: int = 32,
    progress: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """Measure the CPU seconds to trace, lower and compile a solve for a Hessian's top eigenvalue.

    Each compilation starts from empty JAX caches, in memory and on disk. The networks are tanh
    layers without biases, one leaf each.

    Args:
        leaves: Numbers of layers.
        width: Width of a layer; none for 64, or 12 from 10 leaves on.
        examples: Number of examples.
        progress: Called with the name of each part as it begins.

    Returns:
        `rows`, one per network and program: `seconds`, of which `lower_seconds` are tracing and
        lowering, CPU seconds of the process; `per_product` and `per_lobpcg`, the same in units of
        one product's and of jax's `lobpcg_standard`; `lines` of StableHLO; the number of
        `programs`. A first probe in an eager loop compiles as it runs: its seconds include the run.
        `second probe` is the next one, from its state.

    Raises:
        UserError: For networks without leaves, or with fewer parameters than `lobpcg_standard`
            takes.
    """
    counts = leaves if isinstance(leaves, tuple) else (leaves,)
    if min(counts) < 1:
        raise UserError(f"bench compile: leaves is {counts}: give 1 or more")
    if width is not None and width < 3:
        raise UserError(f"bench compile: width is {width}: lobpcg_standard needs 3 or more")
    rows = []
    with _nothing_kept():
        jax.block_until_ready(jax.jit(jnp.sin)(1.0))  # starts the backend
        for count in counts:
            net = _net(count, width or (64 if count < 10 else 12), examples)
            progress(f"{count} leaves")
            rows += _rows(*net)
    return {"rows": rows}


@contextlib.contextmanager
def _nothing_kept() -> Iterator[None]:
    """A context without the compilation cache on disk."""
    config: Any = jax.config  # its flags are defined at run time, unknown to type checkers
    before = config.jax_enable_compilation_cache
    config.update("jax_enable_compilation_cache", False)
    compilation_cache.reset_cache()  # it has read the setting already
    try:
        yield
    finally:
        config.update("jax_enable_compilation_cache", before)
        compilation_cache.reset_cache()


def _net(leaves: int, width: int, examples: int) -> tuple[Objective, Params]:
    rng = np.random.default_rng(0)
    params = {
        f"w{i:03d}": jnp.asarray(rng.normal(size=(width, width)) / width**0.5, jnp.float32)
        for i in range(leaves)
    }
    inputs, targets = jnp.asarray(rng.normal(size=(2, examples, width)), jnp.float32)
    return Objective(_squares, (inputs, targets)), params


def _squares(params: Params, batch: tuple[Array, Array]) -> Array:
    hidden, targets = batch
    for name in sorted(params):
        hidden = jnp.tanh(hidden @ params[name])
    return jnp.sum((hidden - targets) ** 2, axis=-1)


def _rows(objective: Objective, params: Params) -> list[dict[str, Any]]:
    flat, unravel = ravel_pytree(params)
    programs: dict[str, tuple[Callable[..., Any], tuple[Any, ...]]] = {
        "product": (lambda p, v: objective.hessian(p).mv(v), (params, params)),
        "jax lobpcg_standard": (
            lambda f, x: _lobpcg(objective, unravel, f, x),
            (flat, jnp.ones((flat.size, 1))),
        ),
    }
    for solver in (Lanczos(), Tracking()):
        programs[type(solver).__name__] = (
            lambda p, state, solver=solver: _solve(objective, p, solver, state),
            (params, solver.initial_state(params)),
        )
    rows: list[dict[str, Any]] = []
    rows += [{"program": name} | _compiled(*what) for name, what in programs.items()]
    rows += _eager_rows(objective, params)
    totals = {row["program"]: row["seconds"] for row in rows}
    for row in rows:
        row["per_product"] = row["seconds"] / totals["product"]
        row["per_lobpcg"] = row["seconds"] / totals["jax lobpcg_standard"]
    return [{"leaves": len(params)} | row for row in rows]


def _lobpcg(objective: Objective, unravel: Callable, flat: Array, block: Array) -> Any:
    hessian = objective.hessian(unravel(flat))

    def product(column: Array) -> Array:
        return ravel_pytree(hessian.mv(unravel(column)))[0]

    return lobpcg_standard(jax.vmap(product, in_axes=1, out_axes=1), block)


def _solve(objective: Objective, params: PyTree, solver: Any, state: Any) -> Any:
    solution = sharpness(objective, params, solver=solver, start=state)
    return solution.values, solution.residuals, solution.state


def _compiled(function: Callable[..., Any], inputs: tuple[Any, ...]) -> dict[str, Any]:
    jax.clear_caches()
    begun = time.process_time()
    lowered = jax.jit(function).lower(*inputs)
    between = time.process_time()
    lowered.compile()
    ended = time.process_time()
    return {
        "seconds": ended - begun,
        "lower_seconds": between - begun,
        "lines": len(lowered.as_text().splitlines()),
        "programs": 1,
    }


def _eager_rows(objective: Objective, params: Params) -> list[dict[str, Any]]:
    """The first probes of a user's own loop."""
    rows, state, solver = [], None, Tracking()
    jax.clear_caches()
    for name in ("first probe", "second probe"):
        with _counted() as programs:
            begun = time.process_time()
            solution = sharpness(objective, params, solver=solver, start=state)
            jax.block_until_ready(solution.values)
            spent = time.process_time() - begun
        state = solution.state
        rows.append(
            {
                "program": name,
                "seconds": spent,
                "lower_seconds": None,
                "lines": None,
                "programs": len(programs),
            }
        )
    return rows


@contextlib.contextmanager
def _counted() -> Iterator[list[float]]:
    """A context that collects the seconds of each compilation."""
    found: list[float] = []

    def heard(event: str, duration_secs: float, **kwargs: Any) -> None:
        if event == _COMPILED:
            found.append(duration_secs)

    jax.monitoring.register_event_duration_secs_listener(heard)
    try:
        yield found
    finally:
        jax.monitoring.unregister_event_duration_listener(heard)
