"""For whoever writes an operator or a solver of their own.

An **operator** is a `lineax.AbstractLinearOperator` with `mv`, `as_matrix`, `transpose`,
`in_structure` and `out_structure`; `register_operator` tells lineax the rest about its class.
`vector_structure` (in `aeoskit.linalg`) and `product_error` are asked where its vectors lie, and by
how much its products err: an operator that knows registers itself there.

A **solver** is a final subclass of `AbstractEigenSolver`: `init`, `step`, `terminate`, `finish`.
One that grows a subspace by products is a subclass of `AbstractSubspaceSolver`, which has the loop,
the search for what was overlooked, verdicts and error bars; such a method says where it begins,
which direction is next, when it is settled, and what a full basis keeps. One whose directions are
residuals, as those of Lanczos are, is a subclass of `AbstractResidualSolver` and says no more than
how large its basis is and what a full one keeps. `aeoskit.linalg.check_solver` holds any solver to
what `eigensolve` promises.
"""

from .operators._layout import product_error as product_error
from .operators._layout import widen as widen
from .operators._protocol import AbstractWrappedOperator as AbstractWrappedOperator
from .operators._protocol import always as always
from .operators._protocol import itself as itself
from .operators._protocol import linearised_part as linearised_part
from .operators._protocol import never as never
from .operators._protocol import of_part as of_part
from .operators._protocol import register_operator as register_operator
from .operators._protocol import structure_of as structure_of
from .solvers._question import Start as Start
from .solvers._question import as_start as as_start
from .solvers._question import check_is_solver as check_is_solver
from .solvers._question import leafwise as leafwise
from .solvers._relation import Pairs as Pairs
from .solvers._relation import Relation as Relation
from .solvers._relation import compressed as compressed
from .solvers._relation import first_direction as first_direction
from .solvers._relation import kept_at_restart as kept_at_restart
from .solvers._residuals import AbstractResidualSolver as AbstractResidualSolver
from .solvers._solver import AbstractEigenSolver as AbstractEigenSolver
from .solvers._solver import EigenProblem as EigenProblem
from .solvers._subspace import AbstractSubspaceSolver as AbstractSubspaceSolver
from .solvers._subspace import Search as Search
from .solvers._subspace import SubspaceState as SubspaceState
from .solvers._verdict import standing as standing
from .vectors._directions import draw as draw
