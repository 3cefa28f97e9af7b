"""Benchmarks: ratios measured side by side in one run, or counts."""

from collections.abc import Callable
from typing import Any

from ._loop import run_loop_benchmark as run_loop_benchmark

# The names are repeated in the package's `BENCHMARK_NAMES`, which lists them without importing jax.
BENCHMARKS: dict[str, Callable[[], dict[str, Any]]] = {"loop": run_loop_benchmark}
