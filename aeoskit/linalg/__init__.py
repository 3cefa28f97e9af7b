"""Eigenpairs of linear operators on pytrees, with an error bar on each value.

`eigensolve` takes a `lineax` operator and a solver: `Lanczos` by default, `Tracking` for an
operator that changes a little from solve to solve, `Arnoldi` for one that is not symmetric, and
others. Beside it: operators made of operators, and functions of the spectrum. Nothing here knows of
training.
"""

from ._algebra import DeflatedOperator as DeflatedOperator
from ._algebra import ShiftedOperator as ShiftedOperator
from ._axis_factor import AxisFactor as AxisFactor
from ._axis_factor import multiply_along as multiply_along
from ._axis_factor import symmetric_factor as symmetric_factor
from ._block_preconditioner import BlockPreconditioner as BlockPreconditioner
from ._check_solver import check_solver as check_solver
from ._dense import Dense as Dense
from ._density import SpectralDensity as SpectralDensity
from ._density import spectral_density as spectral_density
from ._determinism import check_operator as check_operator
from ._diagonal import diagonal as diagonal
from ._diagonal import frobenius_norm as frobenius_norm
from ._error_bars import random_start_excess as random_start_excess
from ._error_bars import ritz_gaps as ritz_gaps
from ._error_bars import temple_bound as temple_bound
from ._estimate import Estimate as Estimate
from ._loops import loop_mode as loop_mode
from ._matrix_preconditioners import (
    AbstractRotatedPreconditioner as AbstractRotatedPreconditioner,
)
from ._matrix_preconditioners import KroneckerPreconditioner as KroneckerPreconditioner
from ._matrix_preconditioners import RotatedDiagonalPreconditioner as RotatedDiagonalPreconditioner
from ._minres import MINRES as MINRES
from ._operators import AbstractPreconditioner as AbstractPreconditioner
from ._operators import DiagonalPreconditioner as DiagonalPreconditioner
from ._operators import IdentityPreconditioner as IdentityPreconditioner
from ._operators import PreconditionedOperator as PreconditionedOperator
from ._platform import compiling_for as compiling_for
from ._platform import target_platform as target_platform
from ._protocol import dense_matrix as dense_matrix
from ._restriction import RestrictedOperator as RestrictedOperator
from ._restriction import layers_of as layers_of
from ._restriction import restrict as restrict
from ._results import EVIDENCE as EVIDENCE
from ._results import RESULTS as RESULTS
from ._solution import EigenSolution as EigenSolution
from ._start import Start as Start
from ._trace import trace as trace
from ._tree import block_combine as block_combine
from ._tree import block_dots as block_dots
from ._tree import block_gram as block_gram
from ._tree import block_row as block_row
from ._tree import block_set_row as block_set_row
from ._tree import block_zeros as block_zeros
from ._tree import tree_axpy as tree_axpy
from ._tree import tree_dot as tree_dot
from ._tree import tree_dtype as tree_dtype
from ._tree import tree_norm as tree_norm
from ._tree import tree_random_like as tree_random_like
from ._tree import tree_scale as tree_scale
from ._tree import tree_size as tree_size
from ._tree import tree_where as tree_where
from ._vector_structure import vector_structure as vector_structure
from .solvers._arnoldi import Arnoldi as Arnoldi
from .solvers._davidson import JacobiDavidson as JacobiDavidson
from .solvers._eigensolve import AbstractEigenSolver as AbstractEigenSolver
from .solvers._eigensolve import EigenProblem as EigenProblem
from .solvers._eigensolve import eigensolve as eigensolve
from .solvers._lanczos import Lanczos as Lanczos
from .solvers._lobpcg import LOBPCG as LOBPCG
from .solvers._tracking import Tracking as Tracking
