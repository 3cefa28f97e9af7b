"""Eigenpairs of linear operators on pytrees, with an error bar on each value.

`eigensolve` takes a `lineax` operator and a solver: `Lanczos` by default, `Tracking` for an
operator that changes a little from solve to solve, `Arnoldi` for one that is not symmetric, and
others. Beside it: operators made of operators, and functions of the spectrum. Nothing here knows of
training. A *product* is a matrix-vector product `A v`, the cost of all methods.
"""

from ._checks import check_operator as check_operator
from ._checks import check_solver as check_solver
from ._platform import compiling_for as compiling_for
from ._platform import lane_by_lane as lane_by_lane
from ._platform import loop_mode as loop_mode
from ._platform import target_platform as target_platform
from ._results import EVIDENCE as EVIDENCE
from ._results import RESULTS as RESULTS
from ._results import EigenSolution as EigenSolution
from .estimators._density import SpectralDensity as SpectralDensity
from .estimators._density import spectral_density as spectral_density
from .estimators._trace import Estimate as Estimate
from .estimators._trace import diagonal as diagonal
from .estimators._trace import trace as trace
from .operators._algebra import DeflatedOperator as DeflatedOperator
from .operators._algebra import ShiftedOperator as ShiftedOperator
from .operators._protocol import dense_matrix as dense_matrix
from .operators._restriction import RestrictedOperator as RestrictedOperator
from .operators._restriction import layers_of as layers_of
from .operators._restriction import restrict as restrict
from .preconditioners._base import AbstractPreconditioner as AbstractPreconditioner
from .preconditioners._base import BlockPreconditioner as BlockPreconditioner
from .preconditioners._base import DiagonalPreconditioner as DiagonalPreconditioner
from .preconditioners._base import IdentityPreconditioner as IdentityPreconditioner
from .preconditioners._base import PreconditionedOperator as PreconditionedOperator
from .preconditioners._factor import AxisFactor as AxisFactor
from .preconditioners._factor import multiply_along as multiply_along
from .preconditioners._factor import symmetric_factor as symmetric_factor
from .preconditioners._matrix import (
    AbstractRotatedPreconditioner as AbstractRotatedPreconditioner,
)
from .preconditioners._matrix import KroneckerPreconditioner as KroneckerPreconditioner
from .preconditioners._matrix import RotatedDiagonalPreconditioner as RotatedDiagonalPreconditioner
from .solvers._arguments import Start as Start
from .solvers._arnoldi import Arnoldi as Arnoldi
from .solvers._convergence import random_start_excess as random_start_excess
from .solvers._convergence import ritz_gaps as ritz_gaps
from .solvers._convergence import temple_bound as temple_bound
from .solvers._davidson import JacobiDavidson as JacobiDavidson
from .solvers._dense import Dense as Dense
from .solvers._eigensolve import eigensolve as eigensolve
from .solvers._lanczos import Lanczos as Lanczos
from .solvers._lobpcg import LOBPCG as LOBPCG
from .solvers._minres import MINRES as MINRES
from .solvers._solver import AbstractEigenSolver as AbstractEigenSolver
from .solvers._solver import EigenProblem as EigenProblem
from .solvers._tracking import Tracking as Tracking
from .vectors._tree import block_combine as block_combine
from .vectors._tree import block_dots as block_dots
from .vectors._tree import block_gram as block_gram
from .vectors._tree import block_row as block_row
from .vectors._tree import block_set_row as block_set_row
from .vectors._tree import block_zeros as block_zeros
from .vectors._tree import tree_axpy as tree_axpy
from .vectors._tree import tree_dot as tree_dot
from .vectors._tree import tree_dtype as tree_dtype
from .vectors._tree import tree_norm as tree_norm
from .vectors._tree import tree_random_like as tree_random_like
from .vectors._tree import tree_scale as tree_scale
from .vectors._tree import tree_size as tree_size
from .vectors._tree import tree_where as tree_where
from .vectors._tree import vector_structure as vector_structure
