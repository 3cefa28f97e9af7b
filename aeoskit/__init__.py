"""aeoskit: neural network training at the adaptive edge of stability, measured in JAX.

What a user's own training code needs is here; `aeoskit.record` and `aeoskit.figures` are imported
by name, since they bring pyarrow, xarray and matplotlib.
"""

from importlib.metadata import version as _version

from .linalg import RESULTS as RESULTS
from .linalg import AbstractEigenSolver as AbstractEigenSolver
from .linalg import AbstractPreconditioner as AbstractPreconditioner
from .linalg import BlockPreconditioner as BlockPreconditioner
from .linalg import Dense as Dense
from .linalg import DiagonalPreconditioner as DiagonalPreconditioner
from .linalg import EigenSolution as EigenSolution
from .linalg import IdentityPreconditioner as IdentityPreconditioner
from .linalg import KroneckerPreconditioner as KroneckerPreconditioner
from .linalg import Lanczos as Lanczos
from .linalg import PreconditionedOperator as PreconditionedOperator
from .linalg import RotatedDiagonalPreconditioner as RotatedDiagonalPreconditioner
from .linalg import Tracking as Tracking
from .linalg import eigensolve as eigensolve
from .objective import Objective as Objective
from .optimizers import EMA as EMA
from .optimizers import RMS as RMS
from .optimizers import SOAP as SOAP
from .optimizers import WSD as WSD
from .optimizers import Constant as Constant
from .optimizers import Cosine as Cosine
from .optimizers import EMANesterov as EMANesterov
from .optimizers import Frozen as Frozen
from .optimizers import Identity as Identity
from .optimizers import LinearWarmup as LinearWarmup
from .optimizers import Muon as Muon
from .optimizers import Nesterov as Nesterov
from .optimizers import NoMomentum as NoMomentum
from .optimizers import Optimizer as Optimizer
from .optimizers import OptimizerState as OptimizerState
from .optimizers import Polyak as Polyak
from .optimizers import Shampoo as Shampoo
from .optimizers import adabelief as adabelief
from .optimizers import adafactor as adafactor
from .optimizers import adagrad as adagrad
from .optimizers import adam as adam
from .optimizers import adamw as adamw
from .optimizers import amsgrad as amsgrad
from .optimizers import apply_updates as apply_updates
from .optimizers import as_minimiser as as_minimiser
from .optimizers import as_optax as as_optax
from .optimizers import freeze as freeze
from .optimizers import from_optax as from_optax
from .optimizers import gi_adam as gi_adam
from .optimizers import gradient_descent as gradient_descent
from .optimizers import lion as lion
from .optimizers import momentum as momentum
from .optimizers import muon as muon
from .optimizers import nadam as nadam
from .optimizers import nadamw as nadamw
from .optimizers import nesterov as nesterov
from .optimizers import padam as padam
from .optimizers import preconditioner_of as preconditioner_of
from .optimizers import rmsprop as rmsprop
from .optimizers import scalar_rmsprop as scalar_rmsprop
from .optimizers import shampoo as shampoo
from .optimizers import sign_descent as sign_descent
from .optimizers import soap as soap
from .optimizers import threshold_of as threshold_of
from .probes import AbstractProbe as AbstractProbe
from .probes import LossAndGradient as LossAndGradient
from .probes import PreconditionedSharpness as PreconditionedSharpness
from .probes import PreconditionedSharpnessSolution as PreconditionedSharpnessSolution
from .probes import ProbeContext as ProbeContext
from .probes import Sharpness as Sharpness
from .probes import StabilityThreshold as StabilityThreshold
from .probes import preconditioned_operator as preconditioned_operator
from .probes import preconditioned_sharpness as preconditioned_sharpness
from .probes import sharpness as sharpness
from .stability import Multipliers as Multipliers
from .stability import PeriodTwoOrbit as PeriodTwoOrbit
from .stability import equivalent_ratio as equivalent_ratio
from .stability import flip_multiplier as flip_multiplier
from .stability import leading_multipliers as leading_multipliers
from .stability import period_two_orbit as period_two_orbit
from .trajectory import Carry as Carry
from .trajectory import Chunk as Chunk
from .trajectory import Continue as Continue
from .trajectory import FreezePreconditioner as FreezePreconditioner
from .trajectory import SwitchOptimizer as SwitchOptimizer
from .trajectory import Trajectory as Trajectory
from .trajectory import branch as branch
from .trajectory import choose_mode as choose_mode
from .trajectory import stack_lanes as stack_lanes
from .trajectory import stream as stream

__version__ = _version("aeoskit")
