"""Benchmarks: ratios measured side by side in one run, or counts."""

from collections.abc import Callable
from typing import Any

from ._accuracy import run_accuracy_benchmark as run_accuracy_benchmark
from ._budget import run_budget_benchmark as run_budget_benchmark
from ._compile import run_compile_benchmark as run_compile_benchmark
from ._eigen import run_eigen_benchmark as run_eigen_benchmark
from ._gauss_newton import run_gauss_newton_benchmark as run_gauss_newton_benchmark
from ._hard import run_hard_benchmark as run_hard_benchmark
from ._loop import run_loop_benchmark as run_loop_benchmark
from ._overhead import run_overhead_benchmark as run_overhead_benchmark
from ._scale import run_scale_benchmark as run_scale_benchmark
from ._startup import run_startup_benchmark as run_startup_benchmark

# The names are repeated in the package's `BENCHMARKS`, which lists them without importing jax. A
# function's keyword arguments are the command's options; it returns `rows`, for a table.
BENCHMARKS: dict[str, Callable[..., dict[str, Any]]] = {
    "loop": run_loop_benchmark,
    "eigen": run_eigen_benchmark,
    "accuracy": run_accuracy_benchmark,
    "overhead": run_overhead_benchmark,
    "budget": run_budget_benchmark,
    "compile": run_compile_benchmark,
    "hard": run_hard_benchmark,
    "gauss-newton": run_gauss_newton_benchmark,
    "startup": run_startup_benchmark,
    "scale": run_scale_benchmark,
}
