"""The bridge to optimistix: its minimisers as reference trajectories, optimizers as minimisers."""

from __future__ import annotations

import inspect
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import optimistix as optx
from jaxtyping import Array, Float, PyTree

from ..._interface import AbstractOptimizer, Function
from ...rules._hyperparameters import is_concrete

LARGEST_DENSE = 10_000
"""Parameters up to which a minimiser may keep a matrix of their number squared (400 MB)."""


class OptimistixOptimizer(AbstractOptimizer):
    """An optimistix minimiser that a trajectory can follow step by step, as a reference.

    A step is one evaluation of the loss and, where it is accepted, of its gradient: the point that
    the last step proposed is taken or rejected by the line search, in which case the parameters
    stay. Once its own convergence test is met it does not move.

    It has no preconditioner in the sense of `λ₁(P⁻¹H)` and no threshold: a line search accepts no
    step that increases the loss. Comparisons use the raw sharpness along its trajectory.

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

    @property
    def name(self) -> str:
        return f"{type(self.minimiser).__name__} of optimistix"

    def init(self, params: PyTree) -> Any:
        """The minimiser's state before its first step.

        Raises:
            ValueError: for BFGS or DFP with more than 10,000 parameters, whose matrix has one row
                per parameter.
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
        self, function: Function, params: PyTree, state: Any, grads: PyTree | None = None
    ) -> tuple[PyTree, Any]:
        """One evaluation of the function, the same at every step, and perhaps of its gradient.

        `grads` have no effect: they are needed at the proposed point.
        """
        del grads

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


def _unused(y: PyTree, args: Any) -> tuple[Float[Array, ""], None]:
    raise AssertionError("a minimiser evaluated its function before its first step")


class _State(eqx.Module):
    """A minimiser's state, arrays only, so that loops can carry it.

    Other leaves (jaxprs, of LBFGS) are those of the first step: they depend on shapes only.
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
    # Members of an equinox enumeration are numpy arrays.
    arrays = [jnp.asarray(leaf) for leaf in leaves if eqx.is_array(leaf)]
    return arrays, tuple(None if eqx.is_array(leaf) else leaf for leaf in leaves), treedef


def from_optimistix(minimiser: Any) -> OptimistixOptimizer:
    """Convert an optimistix minimiser to the optimizer of a trajectory: a reference for comparison.

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


class _Extra(eqx.Module):
    """The adapter called by `OptaxMinimiser`, which passes the value and the function as well.

    Optax's line searches and plateaus need them; other updates do not get them.
    """

    optimizer: Any

    def init(self, params: PyTree) -> PyTree:
        return self.optimizer.init(params)

    def update(
        self, grads: PyTree, state: PyTree, params: PyTree | None = None, **extra: Any
    ) -> tuple[PyTree, PyTree]:
        update = self.optimizer.update
        takes = inspect.signature(update).parameters.values()
        if not any(item.kind is inspect.Parameter.VAR_KEYWORD for item in takes):
            extra = {}
        return update(grads, state, params, **extra)


def as_minimiser(
    optimizer: Any, rtol: float = 1e-6, atol: float = 1e-6, **options: Any
) -> optx.AbstractMinimiser:
    """Convert an optimizer to an `optimistix.AbstractMinimiser`, for `optimistix.minimise`.

    The step is that of the optimizer, driven by optimistix's `OptaxMinimiser`; it ends when both
    the step and the change of the value are within the tolerances.

    Args:
        optimizer: An `Optimizer`, an `OptaxOptimizer` or an optax transformation.
        rtol: The relative tolerance of the step and of the value.
        atol: The absolute tolerance.
        options: `norm` and `verbose`, as in `optimistix.OptaxMinimiser`.

    Returns:
        A minimiser: differentiable and compiled as optimistix's others are. A schedule that reaches
        0 ends it; with weight decay, which cannot be seen in an optax transformation, its end is
        not a minimum, and the implicit derivative is wrong.

    Raises:
        TypeError: if it has no `init` and `update`.
        ValueError: if it is an aeoskit optimizer with weight decay.

    Example:
        >>> import jax.numpy as jnp
        >>> import optimistix as optx
        >>> from aeoskit.optimizers import adam
        >>> solver = as_minimiser(adam(0.1), rtol=1e-4, atol=1e-4)
        >>> found = optx.minimise(
        ...     lambda y, _: jnp.sum((y - 3.0) ** 2), solver, jnp.zeros(2), max_steps=2000)
        >>> [round(float(y), 2) for y in found.value]
        [3.0, 3.0]
    """
    if not all(callable(getattr(optimizer, name, None)) for name in ("init", "update")):
        raise TypeError(
            f"as_minimiser takes an optimizer, such as adam(1e-3), got {type(optimizer).__name__}."
        )
    decay = getattr(optimizer, "weight_decay", None)
    if decay is not None and not (is_concrete(decay) and bool((decay == 0).all())):
        # Within `minimise` its value is traced: zero decay is refused there, too.
        amount = f" of {decay}" if is_concrete(decay) else ""
        raise ValueError(
            f"the optimizer has weight decay{amount}, with which it ends where step and decay "
            "balance: not a minimum of the function, and optimistix's derivative would be wrong; "
            "make it with weight_decay=None, and add `0.5 * weight_decay * ‖y‖²` to the function."
        )
    optimizer = getattr(optimizer, "transform", optimizer)  # that of an OptaxOptimizer
    return optx.OptaxMinimiser(_Extra(optimizer), rtol=rtol, atol=atol, **options)
