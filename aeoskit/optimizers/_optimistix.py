"""The bridge to optimistix: its minimisers as reference trajectories."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Float, PyTree

from ._optax import OptaxOptimizer
from ._optimizer import Optimizer

LARGEST_DENSE = 10_000
"""Parameters up to which a minimiser may keep a matrix of their number squared (400 MB)."""


class OptimistixOptimizer(eqx.Module):
    """An optimistix minimiser that a trajectory can follow step by step, as a reference.

    A step is one evaluation of the loss and, where it is accepted, of its gradient: the point that
    the last step proposed is taken or, by the line search, refused, and then the parameters stay
    where they are. Once its own test of convergence is met it stays there.

    It has no preconditioner in the sense of `λ₁(P⁻¹H)` and no threshold: a line search accepts no
    step that grows. The raw sharpness along its way is what it is compared by.

    Args:
        minimiser: An `optimistix.AbstractMinimiser`.

    Raises:
        TypeError: for anything else.

    Example:
        >>> import jax.numpy as jnp
        >>> import optimistix as optx
        >>> optimizer = OptimistixOptimizer(optx.BFGS(rtol=1e-6, atol=1e-6))
        >>> params = jnp.array([1.0, 1.0])
        >>> state, loss = optimizer.init(params), lambda w: jnp.sum(jnp.array([1.0, 5.0]) * w**2)
        >>> for _ in range(12):
        ...     params, state = optimizer.step(loss, params, state)
        >>> bool(jnp.all(jnp.abs(params) < 1e-3))
        True
    """

    minimiser: Any

    def __init__(self, minimiser: Any):
        if not isinstance(minimiser, optx.AbstractMinimiser):
            raise TypeError(
                f"from_optimistix takes an optimistix minimiser, such as optimistix.BFGS(rtol, "
                f"atol), got {type(minimiser).__name__}."
            )
        self.minimiser = minimiser

    def init(self, params: PyTree) -> Any:
        """The minimiser's state before its first step.

        Args:
            params: the parameters.

        Returns:
            The state.

        Raises:
            ValueError: for a BFGS or DFP of more than 10,000 parameters, whose matrix would have
                as many rows.
        """
        size = sum(leaf.size for leaf in jax.tree.leaves(params))
        dense = isinstance(self.minimiser, optx.AbstractBFGS | optx.AbstractDFP)
        if dense and size > LARGEST_DENSE:
            raise ValueError(
                f"{type(self.minimiser).__name__} keeps a matrix of {size} × {size} entries "
                f"for {size} parameters: take optimistix.LBFGS or NonlinearCG, or a network of "
                f"at most {LARGEST_DENSE} parameters."
            )
        dtype = jnp.result_type(*jax.tree.leaves(params))
        struct = jax.ShapeDtypeStruct((), dtype)
        state = self.minimiser.init(_unused, params, None, {}, struct, None, frozenset())
        return _State(*_parts(state))

    def step(
        self, function: Callable[[PyTree], Float[Array, ""]], params: PyTree, state: Any
    ) -> tuple[PyTree, Any]:
        """One step of the minimiser: an evaluation of the function, and perhaps of its gradient.

        Args:
            function: what is minimized; the same one at every step.
            params: the parameters.
            state: the state.

        Returns:
            The pair `(params, state)`.
        """

        def evaluated(y: PyTree, args: None) -> tuple[Float[Array, ""], None]:
            del args
            return function(y), None

        whole = state.whole()
        arguments = (evaluated, params, None, {}, whole, frozenset())
        ended, _ = self.minimiser.terminate(*arguments)
        moved, after, _ = self.minimiser.step(*arguments)
        stepped = (moved, _parts(after)[0])
        kept = jax.tree.map(
            lambda new, old: jnp.where(ended, old, new), stepped, (params, state.arrays)
        )
        return kept[0], _State(kept[1], state.rest, state.treedef)

    def preconditioner(self, *arguments: Any) -> Any:
        """Refused: there is no P.

        Args:
            arguments: of no effect.

        Raises:
            ValueError: always.
        """
        del arguments
        raise ValueError(
            f"{type(self.minimiser).__name__} of optimistix has no preconditioner that a threshold "
            "belongs to: measure `sharpness` along its way."
        )

    def recursion(self, *arguments: Any) -> Any:
        """Refused: a line search is no linear recurrence.

        Args:
            arguments: of no effect.

        Raises:
            ValueError: always.
        """
        del arguments
        raise ValueError(
            f"{type(self.minimiser).__name__} of optimistix is no linear recurrence: measure "
            "`sharpness` along its way."
        )

    def threshold(self, state: PyTree, params: PyTree | None = None) -> Float[Array, ""]:
        """NaN: a line search has no threshold.

        Args:
            state: of no effect.
            params: of no effect.

        Returns:
            NaN.
        """
        del state, params
        return jnp.asarray(jnp.nan)

    def learning_rate(self, state: PyTree, params: PyTree | None = None) -> Float[Array, ""]:
        """NaN: each step has a length of its own.

        Args:
            state: of no effect.
            params: of no effect.

        Returns:
            NaN.
        """
        del state, params
        return jnp.asarray(jnp.nan)


def as_optimizer(optimizer: Any) -> Optimizer | OptaxOptimizer | OptimistixOptimizer:
    """Whatever trains, as what a trajectory follows.

    Args:
        optimizer: one of ours, an optax transformation or an optimistix minimiser.

    Returns:
        It, or the bridge to it.

    Raises:
        TypeError: for anything else.

    Example:
        >>> import optax
        >>> type(as_optimizer(optax.adam(1e-3))).__name__
        'OptaxOptimizer'
    """
    if isinstance(optimizer, Optimizer | OptaxOptimizer | OptimistixOptimizer):
        return optimizer
    if isinstance(optimizer, optx.AbstractMinimiser):
        return OptimistixOptimizer(optimizer)
    if not all(callable(getattr(optimizer, name, None)) for name in ("init", "update")):
        raise TypeError(
            f"the optimizer is a {type(optimizer).__name__}: pass an aeoskit optimizer such as "
            "adam(1e-3), an optax transformation or an optimistix minimiser."
        )
    return OptaxOptimizer(optimizer)


def _unused(y: PyTree, args: Any) -> tuple[Float[Array, ""], None]:
    raise AssertionError("a minimiser evaluated its function before its first step")


class _State(eqx.Module):
    """A minimiser's state as arrays alone, so that loops can carry it.

    What else there is (jaxprs, of LBFGS) is that of the first step: it depends on shapes only.
    """

    arrays: list[Any]
    rest: tuple[Any, ...] = eqx.field(static=True)
    treedef: Any = eqx.field(static=True)

    def whole(self) -> Any:
        arrays = iter(self.arrays)
        leaves = [next(arrays) if leaf is None else leaf for leaf in self.rest]
        return jax.tree.unflatten(self.treedef, leaves)


def _parts(state: Any) -> tuple[list[Array], tuple[Any, ...], Any]:
    leaves, treedef = jax.tree.flatten(state)
    # Members of an enumeration are numpy's arrays.
    arrays = [jnp.asarray(leaf) for leaf in leaves if eqx.is_array(leaf)]
    return arrays, tuple(None if eqx.is_array(leaf) else leaf for leaf in leaves), treedef


def from_optimistix(minimiser: Any) -> OptimistixOptimizer:
    """An optimistix minimiser as the optimizer of a trajectory: a reference to compare with.

    Args:
        minimiser: An `optimistix.AbstractMinimiser`: BFGS, LBFGS, NonlinearCG, …

    Returns:
        An `OptimistixOptimizer`.

    Raises:
        TypeError: for anything else.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import optimistix as optx
        >>> import aeoskit as ak
        >>> objective = ak.Objective(lambda w, x: 0.5 * (x @ w - 1.0) ** 2, jnp.eye(2))
        >>> trajectory = ak.Trajectory(
        ...     objective,
        ...     from_optimistix(optx.NonlinearCG(1e-6, 1e-6)),
        ...     {"loss": ak.LossAndGradient()})
        >>> carry = trajectory.init(jnp.zeros(2), jax.random.key(0))
        >>> chunk, = ak.stream(trajectory, carry, 15)
        >>> bool(chunk.measurements["loss"][-1, 0] < 1e-6)
        True
    """
    return OptimistixOptimizer(minimiser)
