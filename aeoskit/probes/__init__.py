"""Probes: measurements along a trajectory.

A *product* is a matrix-vector product with a curvature operator, the cost that probes are measured
in; a *lane* is one run of a sweep.
"""

from ._base import AbstractProbe as AbstractProbe
from ._base import Measurement as Measurement
from ._base import ProbeContext as ProbeContext
from ._budget import LINEARIZATION_PRODUCTS as LINEARIZATION_PRODUCTS
from ._budget import ProbeBudget as ProbeBudget
from ._budget import adapt_budget as adapt_budget
from ._budget import budget_columns as budget_columns
from ._budget import is_due as is_due
from ._budget import missed_budget as missed_budget
from ._budget import start_budget as start_budget
from ._budget import with_budget as with_budget
from ._check import check_probe as check_probe
from ._criterion import CRITERIA as CRITERIA
from ._criterion import criterion as criterion
from ._evaluation import Evaluation as Evaluation
from ._loss import LossAndGradient as LossAndGradient
from ._loss import StabilityThreshold as StabilityThreshold
from ._midpoint import midpoint as midpoint
from ._multiplier import FlipMultiplier as FlipMultiplier
from ._realized import MAX_ERROR as MAX_ERROR
from ._realized import RealizedEdge as RealizedEdge
from ._realized import RealizedEdgeOfStep as RealizedEdgeOfStep
from ._realized import edge_factors as edge_factors
from ._realized import edge_of_losses as edge_of_losses
from ._realized import loss_rounding as loss_rounding
from ._realized import realized_edge as realized_edge
from ._sharpness import PreconditionedSharpness as PreconditionedSharpness
from ._sharpness import PreconditionedSharpnessSolution as PreconditionedSharpnessSolution
from ._sharpness import Sharpness as Sharpness
from ._sharpness import preconditioned_operator as preconditioned_operator
from ._sharpness import preconditioned_sharpness as preconditioned_sharpness
from ._sharpness import probe_solver as probe_solver
from ._sharpness import sharpness as sharpness
