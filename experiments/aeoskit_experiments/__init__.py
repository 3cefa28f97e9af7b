"""Experiments of aeoskit: data, models, pipelines, recipes and what runs them.

The rooms are imported when a name of theirs is asked for: the list of recipes needs no jax.
"""

import importlib
import importlib.util
from typing import TYPE_CHECKING, Any

# What the extra `experiments` brings, by the names of imports: all of it, or one sentence now in
# place of a failed import in the middle of a run.
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

# Named here so that they can be listed without importing what they time.
BENCHMARKS = {
    "loop": "what our loops cost around a small CNN: steps, microbatches, Hessian products",
    "eigen": "how many products eigen-solvers need, ours and others', against the optimum",
    "accuracy": "how near a probe's eigenvalue is along training, for how many products",
    "overhead": "what a probe every ten steps costs beside the training",
    "budget": "what a probe with a budget of time comes to, and at which error",
    "compile": "what it takes to compile a solve, in units of one product",
    "hard": "what eigen-solvers claim where they are known to err, against the truth",
    "gauss-newton": "memory and time of Gauss-Newton products over a large vocabulary",
    "startup": "CPU seconds of a command by phase: imports, trace, lower, compile, run, draw",
    "scale": "what a device needs and sends, as there are more of them",
}

_HOMES = {
    "cache_state": "cache",
    "clear_cache": "cache",
    "follow_cache": "cache",
    "UserError": "_errors",
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
