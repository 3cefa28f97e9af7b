"""Preconditioner rules: the metric P from the gradients so far."""

from __future__ import annotations

import abc
from collections.abc import Callable
from typing import NamedTuple, TypeVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from aeoskit._paths import check_like
from aeoskit.linalg import (
    AbstractPreconditioner,
    AxisFactor,
    BlockPreconditioner,
    DiagonalPreconditioner,
    IdentityPreconditioner,
    KroneckerPreconditioner,
    RotatedDiagonalPreconditioner,
)

from ._hyperparameters import is_concrete

Scalar = Float[Array, ""]


class AbstractPreconditionerRule(eqx.Module):
    """A rule for the metric P from the gradients so far.

    Your own rule has `init`, `update`, `operator` and `structure`, and `check_optimizer` tests it.
    `Optimizer` calls `observe` and `precondition`, which use these.

    Attributes:
        has_metric: whether there is a P; false for `Sign`.
        needs_direction: whether P depends on momentum's direction.
        corrects_momentum: whether P includes the bias correction of the momentum buffer.
        is_identity: whether P is the identity, or there is none.

    Example:
        >>> import jax.numpy as jnp
        >>> rule = Identity()
        >>> isinstance(rule, AbstractPreconditionerRule)
        True
        >>> rule.structure(rule.init(jnp.zeros(2))).shape
        (2,)
    """

    # Not annotated: a subclass sets them as attributes or properties.
    has_metric = True
    needs_direction = False
    corrects_momentum = False
    is_identity = False

    def observe(
        self, grads: PyTree, state: PyTree, params: PyTree | None, direction: Callable[[], PyTree]
    ) -> PyTree:
        """The state that includes the coming step.

        Args:
            grads: the gradients, with the structure of the parameters.
            state: the rule's state.
            params: the parameters at which they were taken; None if the caller has none.
            direction: a function that returns the momentum rule's direction.

        Returns:
            The next state; by default that of `update`.
        """
        del params, direction
        return self.update(grads, state)

    def precondition(
        self, direction: PyTree, state: PyTree, count: Int[Array, ""], bias: Scalar
    ) -> PyTree:
        """The direction of a step: `P⁻¹ direction`.

        Args:
            direction: a tree with the structure of the parameters.
            state: the rule's state, the step's gradients included.
            count: the number of the step; the first is 1.
            bias: the momentum rule's `bias_correction(count)`.

        Returns:
            A tree of the same structure.
        """
        return self.operator(state, count, bias).inv_mv(direction)

    @abc.abstractmethod
    def init(self, params: PyTree) -> PyTree:
        """The state before the first step.

        Args:
            params: the parameters: their shapes and dtypes are read.

        Returns:
            The rule's state.
        """

    @abc.abstractmethod
    def update(self, grads: PyTree, state: PyTree) -> PyTree:
        """The state that includes these gradients.

        Args:
            grads: the gradients, with the structure of the parameters.
            state: the rule's state.

        Returns:
            The next state.
        """

    @abc.abstractmethod
    def operator(
        self, state: PyTree, count: Int[Array, ""], bias: Scalar
    ) -> AbstractPreconditioner:
        """P of step number `count`, whose gradients the state includes.

        Args:
            state: the rule's state, the step's gradients included.
            count: the number of the step; the first is 1.
            bias: the momentum rule's `bias_correction(count)`, for the conventions with momentum's
                correction in P.

        Returns:
            An `AbstractPreconditioner`.
        """

    @abc.abstractmethod
    def structure(self, state: PyTree) -> PyTree[jax.ShapeDtypeStruct]:
        """The structure of the parameters.

        Args:
            state: the rule's state.

        Returns:
            A tree of `jax.ShapeDtypeStruct`s.
        """


class AbstractParameterRule(AbstractPreconditionerRule):
    """A rule whose P depends on the parameters as well, such as Adafactor's relative steps.

    Example:
        >>> from aeoskit.optimizers import RMS, Adafactor
        >>> isinstance(Adafactor(), AbstractParameterRule), isinstance(RMS(), AbstractParameterRule)
        (True, False)
    """

    @abc.abstractmethod
    def at(self, params: PyTree | None, state: PyTree) -> PyTree:
        """The state with the parameters at which the coming gradients are taken.

        Args:
            params: the parameters; None if the caller has none.
            state: the rule's state.

        Returns:
            The state to pass to `update`.

        Raises:
            ValueError: if the parameters are needed and there are none.
        """

    def observe(
        self, grads: PyTree, state: PyTree, params: PyTree | None, direction: Callable[[], PyTree]
    ) -> PyTree:
        """The state after `update`, with the parameters from `at`."""
        del direction
        if params is not None:
            check_like("params", params, self.structure(state))
        return self.update(grads, self.at(params, state))


class AbstractDirectionRule(AbstractPreconditionerRule):
    """A rule whose P depends on the momentum rule's direction: momentum first, then its metric.

    It requires `order="precondition_last"`.

    Example:
        >>> from aeoskit.optimizers import RMS, AbstractDirectionRule, Muon
        >>> isinstance(Muon(), AbstractDirectionRule), isinstance(RMS(), AbstractDirectionRule)
        (True, False)
    """

    needs_direction = True

    def observe(
        self, grads: PyTree, state: PyTree, params: PyTree | None, direction: Callable[[], PyTree]
    ) -> PyTree:
        """The state after `follow` with the direction."""
        del params
        return self.follow(grads, direction(), state)

    @abc.abstractmethod
    def follow(self, grads: PyTree, direction: PyTree, state: PyTree) -> PyTree:
        """The state that includes these gradients and momentum's direction.

        Args:
            grads: the gradients, with the structure of the parameters.
            direction: the momentum rule's direction for them.
            state: the rule's state.

        Returns:
            The next state.
        """

    def update(self, grads: PyTree, state: PyTree) -> PyTree:
        """The state without momentum: the direction is the gradient."""
        return self.follow(grads, grads, state)


class _AbstractIdentityState(AbstractPreconditionerRule):
    """A rule that learns nothing of the gradients: its state is the identity."""

    is_identity = True

    def init(self, params: PyTree) -> IdentityPreconditioner:
        return IdentityPreconditioner(params)

    def update(self, grads: PyTree, state: IdentityPreconditioner) -> IdentityPreconditioner:
        del grads
        return state

    def structure(self, state: IdentityPreconditioner) -> PyTree[jax.ShapeDtypeStruct]:
        return state.in_structure()


class Identity(_AbstractIdentityState):
    """The identity, `P = I`: gradient descent and momentum.

    Example:
        >>> import jax.numpy as jnp
        >>> rule = Identity()
        >>> state = rule.update(jnp.array([3.0]), rule.init(jnp.zeros(1)))
        >>> P = rule.operator(state, jnp.asarray(1), jnp.asarray(1.0))
        >>> P.mv(jnp.array([2.0])).tolist()
        [2.0]
    """

    def operator(
        self, state: IdentityPreconditioner, count: Int[Array, ""], bias: Scalar
    ) -> AbstractPreconditioner:
        del count, bias
        return state


class Frozen(AbstractPreconditionerRule):
    """A constant preconditioner: with it, an optimizer is linear in the gradients.

    Args:
        preconditioner: any `AbstractPreconditioner` over the parameters' structure.

    Raises:
        TypeError: for anything else.
        ValueError: if P has an entry that is zero, negative or not finite, with its leaf's path
            (traced values are not checked); from `init`, if P has another structure.

    Example:
        >>> import jax.numpy as jnp
        >>> from aeoskit.linalg import DiagonalPreconditioner
        >>> from aeoskit.optimizers import EMA, Constant, Optimizer
        >>> P = DiagonalPreconditioner(jnp.array([2.0, 4.0]))
        >>> optimizer = Optimizer(Constant(1.0), EMA(0.9), Frozen(P))
        >>> float(optimizer.threshold(optimizer.init(jnp.zeros(2))))
        38.00
    """

    preconditioner: AbstractPreconditioner

    def __init__(self, preconditioner: AbstractPreconditioner):
        if not isinstance(preconditioner, AbstractPreconditioner):
            raise TypeError(
                f"Frozen holds an AbstractPreconditioner, got {type(preconditioner).__name__}: "
                f"wrap a tree of positive numbers as DiagonalPreconditioner(tree)."
            )
        self.preconditioner = positive(preconditioner)

    @property
    def is_identity(self) -> bool:
        return isinstance(self.preconditioner, IdentityPreconditioner)

    def init(self, params: PyTree) -> PyTree:
        check_like("params", params, self.preconditioner.in_structure())

    def update(self, grads: PyTree, state: PyTree) -> PyTree:
        del grads
        return state

    def operator(
        self, state: PyTree, count: Int[Array, ""], bias: Scalar
    ) -> AbstractPreconditioner:
        del state, count, bias
        return self.preconditioner

    def structure(self, state: PyTree) -> PyTree[jax.ShapeDtypeStruct]:
        del state
        return self.preconditioner.in_structure()


class Sign(_AbstractIdentityState):
    """The sign of each coordinate as the step, in place of a preconditioner.

    A step that is piecewise constant in the gradient has no metric P, and no curvature at which it
    begins to diverge: on any quadratic it ends in a cycle whose size is the learning rate.
    `Optimizer.preconditioner` then raises, for there is nothing to measure, and
    `Optimizer.threshold` is NaN rather than an error, so that such an optimizer can be trained with
    the probes that log a threshold at every step. (The quantity that hovers at `2 / lr` in arXiv
    2603.05002 is another one: the sharpness in the ℓ∞ norm over `‖g‖₁`.)

    Example:
        >>> import jax.numpy as jnp
        >>> from aeoskit.optimizers import Optimizer
        >>> optimizer = Optimizer(0.5, None, Sign())
        >>> optimizer.update(jnp.array([3.0, 0.0, -1e-3]), optimizer.init(jnp.zeros(3)))[0].tolist()
        [-0.5, 0.0, 0.5]
    """

    has_metric = False

    def precondition(
        self,
        direction: PyTree,
        state: IdentityPreconditioner,
        count: Int[Array, ""],
        bias: Scalar,
    ) -> PyTree:
        """The signs; the sign of zero is zero."""
        del state, count, bias
        return jax.tree.map(jnp.sign, direction)

    def operator(
        self, state: IdentityPreconditioner, count: Int[Array, ""], bias: Scalar
    ) -> AbstractPreconditioner:
        raise ValueError(
            "sign descent and Lion have no preconditioner, since their step is piecewise constant "
            "in the gradient: measure the sharpness of the loss itself, or take another optimizer."
        )


P = TypeVar("P", bound=AbstractPreconditioner)


class _Entries(NamedTuple):
    """Numbers of P that belong to one leaf: eigenvalues, or a rotation, which may be negative."""

    what: str
    array: Array
    positive: bool


def positive(preconditioner: P) -> P:
    """P itself, after a check that it is positive definite.

    A traced function cannot raise: P is NaN instead, and so is every measurement with it: second
    moments that overflow (of gradients above 1.8e19 in float32) would make `P⁻¹` and all
    eigenvalues zero.

    Args:
        preconditioner: P. Unknown kinds are not checked.

    Returns:
        The same P.

    Raises:
        ValueError: naming the leaf's path.
    """
    structure = preconditioner.in_structure()
    paths = [path for path, _ in jax.tree_util.tree_leaves_with_path(structure)]
    for path, entries in zip(paths, _entries_of(preconditioner, len(paths)), strict=True):
        for what, array, wants_positive in entries:
            # Tracers, and the structures of an abstract evaluation, have no values.
            if not is_concrete(array) or not isinstance(array, jax.Array | np.ndarray):
                continue
            good = jnp.isfinite(array)
            if bool(jnp.all(good & (array > 0) if wants_positive else good)):
                continue
            name = jax.tree_util.keystr(path, simple=True, separator="/") or "the only leaf"
            raise ValueError(
                f"the metric has entries that are zero, negative or not finite, in {name}{what} "
                f"(the least is {float(jnp.min(array)):.3g}), and no P^(-1/2): give the optimizer "
                "an eps above 0 in the precision of that leaf, or P positive entries, and look at "
                "the gradients if it is NaN or infinite."
            )
    return _marked(preconditioner)


def _marked(preconditioner: P) -> P:
    """P with NaN in place of traced entries that are not positive."""
    if isinstance(preconditioner, BlockPreconditioner):
        parts = tuple(_marked(part) for part in preconditioner.parts)
        return eqx.tree_at(lambda block: block.parts, preconditioner, parts)
    if isinstance(preconditioner, DiagonalPreconditioner | RotatedDiagonalPreconditioner):
        diagonal = jax.tree.map(_marked_entries, preconditioner.diagonal)
        return eqx.tree_at(lambda P: P.diagonal, preconditioner, diagonal)
    if isinstance(preconditioner, KroneckerPreconditioner):
        factors = jax.tree.map(
            lambda factor: AxisFactor(_marked_entries(factor.values), factor.vectors),
            preconditioner.factors,
            is_leaf=lambda node: isinstance(node, AxisFactor),
        )
        return eqx.tree_at(lambda P: P.factors, preconditioner, factors)
    return preconditioner


def _marked_entries(entries: Array) -> Array:
    if is_concrete(entries) or not isinstance(entries, jax.Array):
        return entries
    return jnp.where(jnp.isfinite(entries) & (entries > 0), entries, jnp.nan)


def _entries_of(preconditioner: AbstractPreconditioner, size: int) -> list[list[_Entries]]:
    """The numbers of P for each leaf of the structure, in order."""
    if isinstance(preconditioner, DiagonalPreconditioner):
        return [[_Entries("", leaf, True)] for leaf in jax.tree.leaves(preconditioner.diagonal)]
    if isinstance(preconditioner, KroneckerPreconditioner):
        return [
            [
                _Entries(f", in {part} of the factor of axis {axis}", array, is_values)
                for axis, factor in enumerate(factors)
                if factor is not None
                for part, array, is_values in (
                    ("the eigenvalues", factor.values, True),
                    ("the eigenvectors", factor.vectors, False),
                )
                if array is not None
            ]
            for factors in preconditioner.factors
        ]
    if isinstance(preconditioner, RotatedDiagonalPreconditioner):
        return [
            [_Entries("", diagonal, True)]
            + [
                _Entries(f", in the rotation of axis {axis}", rotation, False)
                for axis, rotation in enumerate(rotations)
                if rotation is not None
            ]
            for diagonal, rotations in zip(
                preconditioner.diagonal, preconditioner.rotations, strict=True
            )
        ]
    found: list[list[_Entries]] = [[] for _ in range(size)]
    if isinstance(preconditioner, BlockPreconditioner):
        for part, positions in zip(preconditioner.parts, preconditioner.positions, strict=True):
            inner = _entries_of(part, len(positions))
            for position, entries in zip(positions, inner, strict=True):
                found[position] = entries
    return found
