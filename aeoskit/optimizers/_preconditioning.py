"""Preconditioner rules: which metric P the gradients seen so far make."""

from __future__ import annotations

import abc
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int, PyTree

from aeoskit.linalg import (
    AbstractPreconditioner,
    DiagonalPreconditioner,
    IdentityPreconditioner,
)

from ._hyperparameters import as_decay_rate, cast_to, one_minus_power
from ._momentum import blend, zeros_like
from ._positive import positive
from ._powers import (
    CORRECTS_FIRST,
    CORRECTS_SECOND,
    Correction,
    as_correction,
    as_epsilons,
    as_power,
    root_of,
)
from ._structure import check_like

Scalar = Float[Array, ""]


class AbstractPreconditionerRule(eqx.Module):
    """Which metric P the gradients seen so far make.

    Example:
        >>> import jax.numpy as jnp
        >>> rule = Identity()
        >>> isinstance(rule, AbstractPreconditionerRule)
        True
        >>> rule.structure(rule.init(jnp.zeros(2))).shape
        (2,)
    """

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
        """The state that has seen these gradients.

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
        """P of the step number `count`, whose gradients the state has seen.

        Args:
            state: the rule's state, the step's gradients included.
            count: the number of the step; the first is 1.
            bias: the momentum rule's `bias_correction(count)`, for the conventions that put
                momentum's correction into P.

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
    """A rule whose P depends on the parameters as well: Adafactor, for its step relative to them.

    Example:
        >>> from aeoskit.optimizers import RMS, Adafactor
        >>> isinstance(Adafactor(), AbstractParameterRule), isinstance(RMS(), AbstractParameterRule)
        (True, False)
    """

    @abc.abstractmethod
    def at(self, params: PyTree | None, state: PyTree) -> PyTree:
        """The state that has seen the parameters at which the coming gradients are taken.

        Args:
            params: the parameters; None where the caller has none.
            state: the rule's state.

        Returns:
            The state, to be handed to `update`.

        Raises:
            ValueError: if the parameters are needed and there are none.
        """


class Identity(AbstractPreconditionerRule):
    """`P = I`: gradient descent and momentum.

    Example:
        >>> import jax.numpy as jnp
        >>> rule = Identity()
        >>> state = rule.update(jnp.array([3.0]), rule.init(jnp.zeros(1)))
        >>> P = rule.operator(state, jnp.asarray(1), jnp.asarray(1.0))
        >>> P.mv(jnp.array([2.0])).tolist()
        [2.0]
    """

    def init(self, params: PyTree) -> IdentityPreconditioner:
        return IdentityPreconditioner(params)

    def update(self, grads: PyTree, state: IdentityPreconditioner) -> IdentityPreconditioner:
        del grads
        return state

    def operator(
        self, state: IdentityPreconditioner, count: Int[Array, ""], bias: Scalar
    ) -> AbstractPreconditioner:
        del count, bias
        return state

    def structure(self, state: IdentityPreconditioner) -> PyTree[jax.ShapeDtypeStruct]:
        return state.in_structure()


class Frozen(AbstractPreconditionerRule):
    """A preconditioner that does not change: with it, an optimizer is linear in the gradients.

    Args:
        preconditioner: any `AbstractPreconditioner` over the parameters' structure.

    Raises:
        TypeError: for anything else.
        ValueError: if P has an entry that is zero, negative or not finite, with its leaf's path
            (traced values are not looked at); from `init`, where P lives on another structure.

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


class RMS(AbstractPreconditionerRule):
    """The root of a moving average of squared gradients: RMSProp, Adam, NAdam, Padam.

    `ν = beta2 ν + (1 - beta2) g²` from zero, and, with t the number of gradients seen,

    - `correction="none"`: `P = (ν + eps_root)^power + eps`;
    - `"second_moment"`: `P = (ν / (1 - beta2^t) + eps_root)^power + eps`, as the paper's authors
      (arXiv 2207.14484);
    - `"adam"`: that times momentum's correction, `1 - beta1^t` for `EMA(beta1)`. Both of Adam's
      corrections are then in P, and Adam is `x -= lr P⁻¹ m`;
    - `"first_moment"`: momentum's correction without that of ν.

    A coordinate whose gradient was always zero has `P = eps_root^power + eps` (times the
    correction), hence `eps = eps_root = 0` is refused: P would not be positive there.

    Args:
        beta2: the decay rate of the second moments, in [0, 1).
        eps: added to the root, at least 0.
        eps_root: added inside the root, at least 0; not 0 together with `eps`.
        power: above 0, 0.5 for the square root. A fixed number and no array leaf, since one takes
            `sqrt` and the others do not.
        correction: `"adam"`, `"first_moment"`, `"second_moment"` or `"none"`, as above.

    Raises:
        TypeError: if a hyperparameter is no real number, or `power` is traced.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> rule = RMS(0.9, eps=1e-8, correction="second_moment")
        >>> state = rule.update(jnp.array([3.0]), rule.init(jnp.zeros(1)))
        >>> rule.operator(state, jnp.asarray(1), jnp.asarray(1.0)).diagonal.tolist()
        [3.000]
    """

    beta2: Scalar
    eps: Scalar
    eps_root: Scalar
    power: float = eqx.field(static=True)
    correction: str = eqx.field(static=True)

    def __init__(
        self,
        beta2: Any = 0.999,
        eps: Any = 1e-8,
        eps_root: Any = 0.0,
        power: float | int = 0.5,
        correction: Correction | str = "adam",
    ):
        self.beta2 = as_decay_rate("beta2", beta2)
        self.eps, self.eps_root = as_epsilons(eps, eps_root)
        self.power = as_power(power)
        self.correction = as_correction(correction)

    def init(self, params: PyTree) -> PyTree:
        return zeros_like(params)

    def update(self, grads: PyTree, state: PyTree) -> PyTree:
        squares = jax.tree.map(lambda g, nu: jnp.square(g.astype(nu.dtype)), grads, state)
        return blend(1 - self.beta2, squares, self.beta2, state)

    def operator(
        self, state: PyTree, count: Int[Array, ""], bias: Scalar
    ) -> AbstractPreconditioner:
        def diagonal(nu: Array) -> Array:
            if self.correction in CORRECTS_SECOND:
                nu = nu / cast_to(one_minus_power(self.beta2, count), nu)
            root = root_of(nu, self.eps_root, self.power, self.eps)
            return root * cast_to(bias, nu) if self.correction in CORRECTS_FIRST else root

        return DiagonalPreconditioner(jax.tree.map(diagonal, state))

    def structure(self, state: PyTree) -> PyTree[jax.ShapeDtypeStruct]:
        return jax.tree.map(lambda nu: jax.ShapeDtypeStruct(nu.shape, nu.dtype), state)
