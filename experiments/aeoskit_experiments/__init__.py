"""Experiments of aeoskit: data, models, pipelines, recipes and what runs them.

Subpackages are imported when one of their names is used: the list of recipes needs no jax.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

# Imports of the extra `experiments`: all of them, or one sentence now in place of a failed import
# in the middle of a run.
_NEEDED = (
    "PIL",
    "docstring_parser",
    "filelock",
    "jinja2",
    "matplotlib",
    "msgspec",
    "optax",
    "orbax",
    "pyarrow",
    "rich",
    "sklearn",
    "xarray",
)
if _absent := [name for name in _NEEDED if importlib.util.find_spec(name) is None]:
    raise ImportError(
        f"the command line and experiments need {', '.join(_absent)}, not installed here: "
        "pip install 'aeoskit[experiments]'",
        name=__name__,
    )

if TYPE_CHECKING:
    from aeoskit_experiments._errors import UserError as UserError
    from aeoskit_experiments._errors import unknown as unknown
    from aeoskit_experiments._xla_flags import add_xla_flag as add_xla_flag
    from aeoskit_experiments.cache import cache_state as cache_state
    from aeoskit_experiments.cache import clear_cache as clear_cache
    from aeoskit_experiments.cache import follow_cache as follow_cache
    from aeoskit_experiments.execution import Outcome as Outcome
    from aeoskit_experiments.execution import execute as execute
    from aeoskit_experiments.pipelines import Pipeline as Pipeline
    from aeoskit_experiments.pipelines import pipe as pipe
    from aeoskit_experiments.sweeps import read_sweep as read_sweep
    from aeoskit_experiments.sweeps import resume_sweep as resume_sweep
    from aeoskit_experiments.sweeps import sweep as sweep

# Listed here so that a list of them imports none of their dependencies.
BENCHMARKS = {
    "loop": "cost of aeoskit's loops around a small CNN: steps, microbatches, products",
    "eigen": "products of eigen-solvers, aeoskit's and others', against the optimum",
    "accuracy": "error of a probe's eigenvalue along training against its products",
    "overhead": "cost of a probe every ten steps beside the training",
    "budget": "overhead and error of a probe with a time budget",
    "compile": "compile time of a solve, in units of one product",
    "hard": "claims of eigen-solvers on hard operators, against dense float64",
    "gauss-newton": "memory and time of Gauss-Newton products over a large vocabulary",
    "startup": "CPU seconds of a command by phase: imports, trace, lower, compile, run, draw",
    "scale": "memory and communication per device as devices are added",
}

_HOMES = {
    "cache_state": "cache",
    "clear_cache": "cache",
    "follow_cache": "cache",
    "UserError": "_errors",
    "unknown": "_errors",
    "add_xla_flag": "_xla_flags",
    "execute": "execution",
    "Outcome": "execution",
    "Pipeline": "pipelines",
    "pipe": "pipelines",
    "sweep": "sweeps",
    "resume_sweep": "sweeps",
    "read_sweep": "sweeps",
    "rerun": "_rerun",
    "examine": "_doctor",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *_HOMES})
