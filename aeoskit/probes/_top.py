"""The top of a curvature operator's spectrum, symmetric or not."""

from typing import Any

import lineax as lx

from aeoskit.linalg import AbstractEigenSolver, Arnoldi, EigenSolution, Lanczos, eigensolve
from aeoskit.linalg.extend import check_is_solver
from aeoskit.objective import with_product_error


def solve_top(
    operator: lx.AbstractLinearOperator, solver: AbstractEigenSolver | None, **options: Any
) -> EigenSolution:
    """The largest eigenvalues, with error bars that include what the operator's products lack.

    Raises:
        TypeError: the solver is not one.
        ValueError: the operator is not symmetric, and the solver is for those that are.
    """
    symmetric = lx.is_symmetric(operator)
    if solver is None:
        solver = Lanczos() if symmetric else Arnoldi()
    elif check_is_solver(solver).symmetric and not symmetric:
        raise ValueError(
            f"solver is {type(solver).__name__}, for symmetric operators, but the field that "
            "trains is not known to be the gradient of its loss, so that its Jacobian may not be "
            "symmetric: pass solver=aeoskit.linalg.Arnoldi(), or, if you know that it is, make the "
            "objective with symmetric=True"
        )
    which = "largest" if "largest" in solver.ends else "largest_real"
    solution = eigensolve(operator, solver, which=which, **options)
    return with_product_error(solution, operator, solver)
