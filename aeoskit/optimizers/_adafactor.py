"""Adafactor: second moments of a matrix by their row and column means."""

from __future__ import annotations

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, PyTree

from aeoskit.linalg import (
    AbstractPreconditioner,
    DiagonalPreconditioner,
    IdentityPreconditioner,
)

from ._hyperparameters import as_hyperparameter, cast_to
from ._preconditioning import AbstractParameterRule

Scalar = Float[Array, ""]


class FactoredMoment(eqx.Module):
    """Means of second moments along the longest axis, and along the second longest."""

    row: Array
    col: Array


class AdafactorState(eqx.Module):
    """The moments, leaf by leaf full or factored, and what scales P, one number a leaf."""

    moments: PyTree
    clip: PyTree
    scale: PyTree
    count: Int[Array, ""]
    identity: IdentityPreconditioner


def factored_axes(shape: tuple[int, ...], least: int) -> tuple[int, int] | None:
    """The two longest axes, the longest last; None where the second longest is too short."""
    if len(shape) < 2:
        return None
    order = np.argsort(shape)  # as optax, so that ties are resolved alike
    second, first = int(order[-2]), int(order[-1])
    return (second, first) if shape[second] >= least else None


class Adafactor(AbstractParameterRule):
    """Factored second moments, clipped updates, and steps relative to the parameters' size.

    At step number t, with r the `decay_rate`, `v = (1 - t^-r) v + t^-r (g² + eps)`, `u = g / √v`:

    `P = diag(√v) · max(1, rms(u) / clipping_threshold) / max(rms(p), least_scale)`, leaf by leaf.

    A leaf whose two longest axes both have at least `min_dim_size_to_factor` entries keeps only the
    means of v along each, and v is their outer product over the mean. Both factors behind the root
    are numbers, one a leaf, so P is a diagonal, and is positive since eps is. All of optax's
    `adafactor` is in P then, in optax's order of operations, under `order="precondition_first"`.

    Three things to know. rms(p) is that of the parameters at which the gradient was taken: `update`
    and `preconditioner` want `params` (without `parameter_scale` they do not). The clipping
    depends on the *coming* gradient: with P held, as the threshold has it, the clipping is held as
    well. And as `t^-r` goes to zero P forgets ever more slowly: late in training it is nearly held.

    Where it does not fit: optax computes `t^-r` in float32 whatever the parameters, this rule in
    JAX's default float; there is no `decay_offset` and no learning rate out of t; a momentum
    buffer has the parameters' dtype.

    Source: Shazeer, Stern, *Adafactor* (arXiv 1804.04235), as optax writes it.

    Args:
        decay_rate: r, above 0.
        eps: added to the squared gradients, above 0.
        clipping_threshold: the largest root mean square of a leaf's u, above 0; None for no limit.
        parameter_scale: whether steps are relative to rms(p).
        least_scale: what rms(p) is at least, above 0.
        min_dim_size_to_factor: the shortest axis that is factored.
        factored: whether anything is.

    Raises:
        TypeError: if a hyperparameter is no real number.
        ValueError: if one is outside its range; from `at` without parameters.

    Example:
        >>> import jax.numpy as jnp
        >>> rule = Adafactor(min_dim_size_to_factor=2, parameter_scale=False)
        >>> state = rule.init(jnp.zeros((2, 2)))
        >>> state = rule.update(jnp.array([[1.0, 2.0], [3.0, 6.0]]), state)  # of rank one: exact
        >>> rule.operator(state, jnp.asarray(1), jnp.asarray(1.0)).diagonal.tolist()
        [[1.00, 2.00], [3.00, 6.00]]
    """

    decay_rate: Scalar
    eps: Scalar
    clipping_threshold: Scalar | None
    least_scale: Scalar
    parameter_scale: bool = eqx.field(static=True)
    min_dim_size_to_factor: int = eqx.field(static=True)
    factored: bool = eqx.field(static=True)

    def __init__(
        self,
        decay_rate: Any = 0.8,
        eps: Any = 1e-30,
        clipping_threshold: Any = 1.0,
        parameter_scale: bool = True,
        least_scale: Any = 1e-3,
        min_dim_size_to_factor: int = 128,
        factored: bool = True,
    ):
        self.decay_rate = as_hyperparameter(
            "decay_rate", decay_rate, above=0, mend="take 0.8, the power of the step number"
        )
        self.eps = as_hyperparameter("eps", eps, above=0, mend="take a number such as 1e-30")
        self.clipping_threshold = None
        if clipping_threshold is not None:
            self.clipping_threshold = as_hyperparameter(
                "clipping_threshold", clipping_threshold, above=0, mend="take 1.0, or None"
            )
        self.least_scale = as_hyperparameter(
            "least_scale", least_scale, above=0, mend="take a number such as 1e-3"
        )
        as_hyperparameter(
            "min_dim_size_to_factor", min_dim_size_to_factor, at_least=1, mend="take 128"
        )
        self.parameter_scale = parameter_scale
        self.min_dim_size_to_factor = int(min_dim_size_to_factor)
        self.factored = factored

    def _axes(self, shape: tuple[int, ...]) -> tuple[int, int] | None:
        return factored_axes(shape, self.min_dim_size_to_factor) if self.factored else None

    def init(self, params: PyTree) -> AdafactorState:
        def moment(leaf: Array) -> Array | FactoredMoment:
            axes = self._axes(leaf.shape)
            zeros = jnp.zeros_like(leaf, dtype=leaf.dtype)
            if axes is None:
                return zeros
            return FactoredMoment(jnp.sum(zeros, axis=axes[1]), jnp.sum(zeros, axis=axes[0]))

        ones = jax.tree.map(lambda leaf: jnp.ones((), leaf.dtype), params)
        return AdafactorState(
            moments=jax.tree.map(moment, params),
            clip=ones,
            scale=ones,
            count=jnp.zeros((), jnp.int32),
            identity=IdentityPreconditioner(params),
        )

    def at(self, params: PyTree | None, state: AdafactorState) -> AdafactorState:
        if not self.parameter_scale:
            return state
        if params is None:
            raise ValueError(
                "the P of this optimizer has the size of the parameters in it: call `update(grads, "
                "state, params)`, `preconditioner(state, grads, params)`."
            )

        def scale(leaf: Array, one: Array) -> Array:
            return jnp.maximum(_rms(leaf.astype(one.dtype)), cast_to(self.least_scale, one))

        scales = jax.tree.map(scale, jax.tree.map(jnp.asarray, params), state.scale)
        return AdafactorState(state.moments, state.clip, scales, state.count, state.identity)

    def update(self, grads: PyTree, state: AdafactorState) -> AdafactorState:
        count = state.count + 1
        # `1 - t^-r` without cancellation: it is 0 at the first step.
        exponent = -self.decay_rate * jnp.log(count.astype(self.decay_rate.dtype))
        new, old = jnp.exp(exponent), -jnp.expm1(exponent)

        def moment(g: Array, before: Array | FactoredMoment) -> Array | FactoredMoment:
            square = jnp.square(g) + cast_to(self.eps, g)
            axes = self._axes(g.shape)
            if not isinstance(before, FactoredMoment):
                return cast_to(old, g) * before + cast_to(new, g) * square
            assert axes is not None
            row, col = (jnp.mean(square, axis=axis) for axis in (axes[1], axes[0]))
            return FactoredMoment(
                cast_to(old, g) * before.row + cast_to(new, g) * row,
                cast_to(old, g) * before.col + cast_to(new, g) * col,
            )

        def clip(g: Array, after: Array | FactoredMoment) -> Array:
            one = jnp.ones((), g.dtype)
            if self.clipping_threshold is None:
                return one
            size = _rms(g / self._root(after, g.shape))
            return jnp.maximum(one, size / cast_to(self.clipping_threshold, g))

        moments = jax.tree.map(moment, grads, state.moments)
        clips = jax.tree.map(clip, grads, moments)
        return AdafactorState(moments, clips, state.scale, count, state.identity)

    def _root(self, moment: Array | FactoredMoment, shape: tuple[int, ...]) -> Array:
        axes = self._axes(shape)
        if not isinstance(moment, FactoredMoment):
            return jnp.sqrt(moment)
        assert axes is not None
        second, first = axes
        mean = jnp.mean(moment.row, axis=second - (second > first), keepdims=True)
        row = jnp.expand_dims(jnp.sqrt(moment.row / mean), first)
        col = jnp.expand_dims(jnp.sqrt(moment.col), second)
        return row * col

    def operator(
        self, state: AdafactorState, count: Int[Array, ""], bias: Scalar
    ) -> AbstractPreconditioner:
        del count, bias

        def diagonal(
            like: jax.ShapeDtypeStruct, moment: Array | FactoredMoment, clip: Array, scale: Array
        ) -> Array:
            return self._root(moment, like.shape) * (clip / scale)

        return DiagonalPreconditioner(
            jax.tree.map(diagonal, self.structure(state), state.moments, state.clip, state.scale)
        )

    def structure(self, state: AdafactorState) -> PyTree[jax.ShapeDtypeStruct]:
        return state.identity.in_structure()


def _rms(leaf: Array) -> Array:
    return jnp.sqrt(jnp.mean(jnp.square(leaf)))
