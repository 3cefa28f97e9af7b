"""The interface of a solver: the problem, and the four functions that solve it."""

import abc
from typing import TYPE_CHECKING, Any, ClassVar

import equinox as eqx
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Bool, Float, Int, PyTree

from .._results import EigenSolution
from ..operators._layout import packable, packed_structure, widen
from ..operators._protocol import structure_of
from ..vectors._tree import block_zeros
from ._arguments import Start, from_host, key_data, zero_age


class EigenProblem(eqx.Module):
    """The problem: how many pairs, at which end, with which budget.

    Attributes:
        k: How many.
        which: One of the solver's `ends`.
        dimension: That of the operator.
        max_matvecs: The budget of products.

    Example:
        >>> EigenProblem(2, "largest", dimension=9, max_matvecs=jnp.asarray(400)).k
        2
    """

    k: int = eqx.field(static=True)
    which: str = eqx.field(static=True)
    dimension: int = eqx.field(static=True)
    max_matvecs: Int[Any, ""]


class AbstractEigenSolver(eqx.Module):
    """A solver is four pure functions; the drivers of `eigensolve` run them.

    `init`, `step` until `terminate`, `finish`. A step spends one product, or a block of them (for a
    direct solver, all); states have fixed shapes.

    Attributes:
        ends: The values of `which` that the solver understands.
        symmetric: Whether it is for operators tagged symmetric only.
        eager: Whether the functions run on the host as they are, with NumPy for all that is small,
            and call compiled programs for vectors only. Then `finish` has `product_error` in its
            residuals; to those of others the drivers add it.
    """

    ends: eqx.AbstractClassVar[tuple[str, ...]]
    symmetric: eqx.AbstractClassVar[bool]
    eager: ClassVar[bool] = False

    if not TYPE_CHECKING:
        # Equinox makes a pytree of a method whenever it is named, which takes longer than what most
        # of these do: a third of a small solve on the host.
        __getattribute__ = object.__getattribute__

    @abc.abstractmethod
    def default_max_matvecs(self, dimension: int) -> int:
        """The budget of products when the caller names none."""

    @abc.abstractmethod
    def block_size(self, structure: PyTree, k: int) -> int:
        """The number of vectors that `EigenSolution.state` holds."""

    @abc.abstractmethod
    def init(
        self, operator: lx.AbstractLinearOperator, problem: EigenProblem, start: Start
    ) -> PyTree:
        """The state before the first step. No products."""

    @abc.abstractmethod
    def step(
        self, operator: lx.AbstractLinearOperator, problem: EigenProblem, state: Any
    ) -> PyTree:
        """The state after one step."""

    @abc.abstractmethod
    def terminate(
        self, operator: lx.AbstractLinearOperator, problem: EigenProblem, state: Any
    ) -> Bool[Any, ""]:
        """True once the solve is over."""

    @abc.abstractmethod
    def finish(
        self, operator: lx.AbstractLinearOperator, problem: EigenProblem, state: Any, start: Start
    ) -> EigenSolution:
        """The solution."""

    def check_platform(self, platform: str) -> None:
        """Raises a ValueError where programs for a platform cannot hold the solver."""

    def norm_seen(self, state: Any) -> Float[Array, ""]:
        """The longest product of a unit vector that a state knows of: rounding is a share of it.

        By default `state.scale`. A state that does not know leaves the values returned, which may
        be small ones of a large operator.
        """
        return getattr(state, "scale", jnp.zeros(()))

    def blank_memory(self, structure: PyTree, k: int) -> PyTree:
        """`Start.memory` before the first solve; None for a solver that remembers vectors only."""
        return None

    def initial_state(self, structure: PyTree, k: int = 1, key: Array | None = None) -> Start:
        """A warm start that no solve has filled, with the shapes of `EigenSolution.state`.

        It lets a scan carry a warm start from the first solve on, which is then a cold one.

        Args:
            structure: The operator's `in_structure()`, or a vector such as the parameters.
            k: How many pairs the solves to come ask for.
            key: A PRNG key.

        Raises:
            TypeError: It is the operator itself.
        """
        if isinstance(structure, lx.AbstractLinearOperator):
            raise TypeError(
                "initial_state: this is an operator; pass what it acts on, operator.in_structure()."
            )
        arrays = structure
        structure = widen(structure_of(structure))
        if packable(structure, arrays):
            structure = packed_structure(structure)
        return Start(
            block=block_zeros(structure, self.block_size(structure, k)),
            key=key_data(key),
            fresh=from_host(True),
            age=zero_age(),
            memory=from_host(self.blank_memory(structure, k)),
        )
