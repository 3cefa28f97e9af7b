"""The mean loss over a data set: its value, its gradient, and its curvature as operators."""

from ._kinds import LossKind as LossKind
from ._kronecker import kronecker_fisher as kronecker_fisher
from ._objective import Objective as Objective
from ._operators import GaussNewtonOperator as GaussNewtonOperator
from ._operators import HessianOperator as HessianOperator
from ._operators import LinearizedOperator as LinearizedOperator
from ._output_losses import AbstractOutputLoss as AbstractOutputLoss
from ._output_losses import SoftmaxCrossEntropy as SoftmaxCrossEntropy
from ._output_losses import SquaredError as SquaredError
