"""aeoskit: neural network training at the adaptive edge of stability, measured in JAX.

What a user's own training code needs is here, loaded when it is first used, so that `import
aeoskit`, and each room by itself, costs what it uses. `aeoskit.record` and `aeoskit.figures` are
imported by name, and come with `aeoskit[experiments]`.
"""

import importlib as _importlib
import importlib.util as _util
import typing as _typing
from importlib.metadata import version as _version

__version__ = _version("aeoskit")

_NAMES = {
    "linalg": "Dense Lanczos Tracking eigensolve",
    "objective": "Objective",
    "optimizers": """
        EMA RMS Cosine LinearWarmup Optimizer adam adamw apply_updates as_optax freeze
        from_optax gradient_descent lion momentum muon nadam nesterov preconditioner_of
        rmsprop shampoo soap threshold_of with_threshold
    """,
    "probes": """
        AbstractProbe Evaluation FlipMultiplier LossAndGradient PreconditionedSharpness
        ProbeContext Sharpness StabilityThreshold preconditioned_sharpness sharpness
    """,
    "sharding": "",
    "stability": "equivalent_ratio flip_multiplier",
    "trajectory": "FreezePreconditioner SwitchOptimizer Trajectory branch stack_lanes stream",
}
"""The public names of each room that stand here too."""

_ROOMS = {name: room for room, names in _NAMES.items() for name in names.split()}

if _typing.TYPE_CHECKING:
    from . import linalg as linalg
    from . import objective as objective
    from . import optimizers as optimizers
    from . import probes as probes
    from . import sharding as sharding
    from . import stability as stability
    from . import trajectory as trajectory
    from .linalg import Dense as Dense
    from .linalg import Lanczos as Lanczos
    from .linalg import Tracking as Tracking
    from .linalg import eigensolve as eigensolve
    from .objective import Objective as Objective
    from .optimizers import EMA as EMA
    from .optimizers import RMS as RMS
    from .optimizers import Cosine as Cosine
    from .optimizers import LinearWarmup as LinearWarmup
    from .optimizers import Optimizer as Optimizer
    from .optimizers import adam as adam
    from .optimizers import adamw as adamw
    from .optimizers import apply_updates as apply_updates
    from .optimizers import as_optax as as_optax
    from .optimizers import freeze as freeze
    from .optimizers import from_optax as from_optax
    from .optimizers import gradient_descent as gradient_descent
    from .optimizers import lion as lion
    from .optimizers import momentum as momentum
    from .optimizers import muon as muon
    from .optimizers import nadam as nadam
    from .optimizers import nesterov as nesterov
    from .optimizers import preconditioner_of as preconditioner_of
    from .optimizers import rmsprop as rmsprop
    from .optimizers import shampoo as shampoo
    from .optimizers import soap as soap
    from .optimizers import threshold_of as threshold_of
    from .optimizers import with_threshold as with_threshold
    from .probes import AbstractProbe as AbstractProbe
    from .probes import Evaluation as Evaluation
    from .probes import FlipMultiplier as FlipMultiplier
    from .probes import LossAndGradient as LossAndGradient
    from .probes import PreconditionedSharpness as PreconditionedSharpness
    from .probes import ProbeContext as ProbeContext
    from .probes import Sharpness as Sharpness
    from .probes import StabilityThreshold as StabilityThreshold
    from .probes import preconditioned_sharpness as preconditioned_sharpness
    from .probes import sharpness as sharpness
    from .stability import equivalent_ratio as equivalent_ratio
    from .stability import flip_multiplier as flip_multiplier
    from .trajectory import FreezePreconditioner as FreezePreconditioner
    from .trajectory import SwitchOptimizer as SwitchOptimizer
    from .trajectory import Trajectory as Trajectory
    from .trajectory import branch as branch
    from .trajectory import stack_lanes as stack_lanes
    from .trajectory import stream as stream
else:

    def __getattr__(name: str) -> object:
        if name in _NAMES:
            return _importlib.import_module(f"{__name__}.{name}")
        if name in _ROOMS:
            globals()[name] = getattr(_importlib.import_module(f"{__name__}.{_ROOMS[name]}"), name)
            return globals()[name]
        if name[0] != "_" and _util.find_spec(f"{__name__}.{name}") is None:
            _refuse_moved(name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")

    def _refuse_moved(name: str) -> None:
        """For one version, names the room of what stood here."""
        for room in _NAMES:
            if hasattr(_importlib.import_module(f"{__name__}.{room}"), name):
                from ._renamed import renamed

                renamed(__name__, {name: f"{__name__}.{room}.{name}"})(name)

    def __dir__() -> list[str]:
        return sorted({*globals(), *_NAMES, *_ROOMS})
