"""Optimizers: a momentum rule, which sets the threshold, over a preconditioner, the metric."""

from ._momentum import EMA as EMA
from ._momentum import AbstractMomentum as AbstractMomentum
from ._momentum import EMANesterov as EMANesterov
from ._momentum import Nesterov as Nesterov
from ._momentum import NoMomentum as NoMomentum
from ._momentum import Polyak as Polyak
from ._nadam import NAdamMomentum as NAdamMomentum
from ._named import adam as adam
from ._named import adamw as adamw
from ._named import gradient_descent as gradient_descent
from ._named import momentum as momentum
from ._named import nadam as nadam
from ._named import nesterov as nesterov
from ._named import rmsprop as rmsprop
from ._optimizer import Optimizer as Optimizer
from ._optimizer import OptimizerState as OptimizerState
from ._optimizer import apply_updates as apply_updates
from ._optimizer import freeze as freeze
from ._preconditioning import RMS as RMS
from ._preconditioning import AbstractPreconditionerRule as AbstractPreconditionerRule
from ._preconditioning import Frozen as Frozen
from ._preconditioning import Identity as Identity
from ._schedules import AbstractSchedule as AbstractSchedule
from ._schedules import Constant as Constant
from ._schedules import LinearWarmup as LinearWarmup
