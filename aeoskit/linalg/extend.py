"""The interface for operators and solvers of your own.

An **operator** is a `lineax.AbstractLinearOperator` with `mv`, `as_matrix`, `transpose`,
`in_structure` and `out_structure`; `register_operator` registers the rest of its class with lineax.
`vector_structure` (in `aeoskit.linalg`) has the sharding of its vectors, and `product_error` the
error of its products: an operator that knows them registers itself there.

A **solver** is a final subclass of `AbstractEigenSolver`: `init`, `step`, `terminate`, `finish`.
One that grows a subspace by products is a subclass of `AbstractSubspaceSolver`, which has the loop,
the search for overlooked pairs, results and error bars; such a method defines where it begins,
which direction is next, when it is settled, and what a full basis keeps. One whose directions are
residuals, as those of Lanczos are, is a subclass of `AbstractResidualSolver` and defines no more
than the size of its basis and what a full one keeps. `aeoskit.linalg.check_solver` is the contract
test of all solvers.
"""

from .._renamed import renamed as _renamed
from ._platform import inner_jaxprs as inner_jaxprs
from .operators._layout import product_error as product_error
from .operators._layout import widen as widen
from .operators._protocol import AbstractWrappedOperator as AbstractWrappedOperator
from .operators._protocol import always as always
from .operators._protocol import identity as identity
from .operators._protocol import linearised_part as linearised_part
from .operators._protocol import never as never
from .operators._protocol import of_part as of_part
from .operators._protocol import register_operator as register_operator
from .operators._protocol import structure_of as structure_of
from .solvers._arguments import Start as Start
from .solvers._arguments import as_start as as_start
from .solvers._arguments import check_is_solver as check_is_solver
from .solvers._arguments import leafwise as leafwise
from .solvers._convergence import pair_status as pair_status
from .solvers._relation import Pairs as Pairs
from .solvers._relation import Relation as Relation
from .solvers._relation import compress as compress
from .solvers._relation import first_direction as first_direction
from .solvers._relation import kept_at_restart as kept_at_restart
from .solvers._residuals import AbstractResidualSolver as AbstractResidualSolver
from .solvers._solver import AbstractEigenSolver as AbstractEigenSolver
from .solvers._solver import EigenProblem as EigenProblem
from .solvers._subspace import AbstractSubspaceSolver as AbstractSubspaceSolver
from .solvers._subspace import SearchPlan as SearchPlan
from .solvers._subspace import SubspaceState as SubspaceState
from .vectors._directions import random_vector as random_vector

__getattr__ = _renamed(
    __name__,
    {
        "Search": "SearchPlan",
        "compressed": "compress",
        "draw": "random_vector",
        "itself": "identity",
        "standing": "pair_status",
    },
)
