"""The cost of a solve beyond its products: seconds, compilation and memory."""

import time
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

from aeoskit.linalg import AbstractEigenSolver, Lanczos, eigensolve

from ._eigen_peers import BASIS


@eqx.filter_jit
def _linearised(operator: lx.AbstractLinearOperator) -> lx.AbstractLinearOperator:
    return lx.linearise(operator)


@eqx.filter_jit
def _product(linear: lx.AbstractLinearOperator, vector: Any) -> Any:
    return linear.mv(vector)


@eqx.filter_jit
def _whole(operator: lx.AbstractLinearOperator, solver: AbstractEigenSolver) -> Any:
    return eigensolve(operator, solver)


def _seconds(run: Callable[[], Any]) -> tuple[Any, float]:
    begin = time.perf_counter()
    out = jax.block_until_ready(run())
    return out, time.perf_counter() - begin


def wall_row(
    name: str,
    operator: lx.AbstractLinearOperator,
    solver: AbstractEigenSolver | None = None,
    repeats: int = 5,
    gradient: Callable[[], Any] | None = None,
) -> dict[str, Any]:
    """A cold solve for the top pair against its own products, run one by one from the host.

    Args:
        name: The problem's name.
        operator: The operator.
        solver: `Lanczos()` with 20 vectors if None.
        repeats: Number of timings, interleaved; the smallest counts.
        gradient: Computes the gradient, for reference.

    Returns:
        A row: `matvecs`; `solve_seconds`, `product_seconds`, `linearize_seconds`; `ratio`, of the
        solve to its products and one linearization (`ratio_goal` 1.2); the `gradient_seconds` of
        one gradient, and `gradients`, the solve in units of it. `bytes`, the peak of temporaries of
        the compiled solve, and `bytes_goal`: basis, vectors kept at a restart and four more, and
        what the linearization holds.
    """
    if solver is None:
        solver = Lanczos(basis=BASIS)
    vector = jax.tree.map(lambda s: jnp.ones(s.shape, s.dtype), operator.in_structure())

    def solve() -> Any:
        return eigensolve(operator, solver)

    solution = jax.block_until_ready(solve())
    matvecs = int(solution.stats["matvecs"])
    linear = _linearised(operator)
    _product(linear, vector)
    if gradient is not None:
        gradient()
    best = np.full(4, np.inf)
    for _ in range(repeats):
        solving = _seconds(solve)[1]
        begin = time.perf_counter()
        for _ in range(matvecs):
            jax.block_until_ready(_product(linear, vector))
        products = (time.perf_counter() - begin) / matvecs
        linearizing = _seconds(lambda: _linearised(operator))[1]
        differentiating = np.nan if gradient is None else _seconds(gradient)[1]
        best = np.minimum(best, [solving, products, linearizing, differentiating])
    solving, product, linearizing, differentiating = (float(x) for x in best)

    lowered = _whole.lower(operator, solver)  # pyright: ignore[reportFunctionMemberAccess]
    compiled = lowered.compile()
    analysis = compiled.compiled.memory_analysis()
    size = sum(4 * x.size for x in jax.tree.leaves(operator.in_structure()))
    held = eqx.filter_eval_shape(lx.linearise, operator)
    residuals = sum(
        x.size * x.dtype.itemsize
        for x in jax.tree.leaves(held)
        if isinstance(x, jax.ShapeDtypeStruct)
    )
    kept = 1 + (BASIS - 1) // 2
    return {
        "problem": name,
        "matvecs": matvecs,
        "solve_seconds": solving,
        "product_seconds": product,
        "linearize_seconds": linearizing,
        "ratio": solving / (matvecs * product + linearizing),
        "ratio_goal": 1.2,
        "gradient_seconds": differentiating,
        "gradients": solving / differentiating,
        "bytes": None if analysis is None else int(analysis.temp_size_in_bytes),
        "bytes_goal": (BASIS + kept + 4) * size + residuals,
    }
