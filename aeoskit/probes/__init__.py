"""Probes: measurements along a trajectory."""

from ._base import AbstractProbe as AbstractProbe
from ._base import Measurement as Measurement
from ._base import ProbeContext as ProbeContext
from ._evaluation import Evaluation as Evaluation
from ._loss import LossAndGradient as LossAndGradient
from ._loss import StabilityThreshold as StabilityThreshold
from ._multiplier import FlipMultiplier as FlipMultiplier
from ._sharpness import PreconditionedSharpness as PreconditionedSharpness
from ._sharpness import PreconditionedSharpnessSolution as PreconditionedSharpnessSolution
from ._sharpness import Sharpness as Sharpness
from ._sharpness import preconditioned_operator as preconditioned_operator
from ._sharpness import preconditioned_sharpness as preconditioned_sharpness
from ._sharpness import sharpness as sharpness
