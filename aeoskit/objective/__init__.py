"""The mean loss over a data set: its value, its gradient, and its curvature as operators.

A *product* is a matrix-vector product with such an operator, as `H v`.
"""

from ._anatomy import Anatomy as Anatomy
from ._anatomy import anatomy as anatomy
from ._anatomy import loss_anatomy as loss_anatomy
from ._differences import Comparison as Comparison
from ._differences import compare_derivative as compare_derivative
from ._differences import directions as directions
from ._differences import quotient as quotient
from ._differences import relative_step as relative_step
from ._kinds import LossKind as LossKind
from ._kronecker import kronecker_fisher as kronecker_fisher
from ._objective import Objective as Objective
from ._operators import GaussNewtonOperator as GaussNewtonOperator
from ._operators import HessianOperator as HessianOperator
from ._operators import Linearization as Linearization
from ._operators import LinearizedOperator as LinearizedOperator
from ._output_losses import AbstractOutputLoss as AbstractOutputLoss
from ._output_losses import SoftmaxCrossEntropy as SoftmaxCrossEntropy
from ._output_losses import SquaredError as SquaredError
from ._product_error import product_error as product_error
from ._product_error import with_product_error as with_product_error
