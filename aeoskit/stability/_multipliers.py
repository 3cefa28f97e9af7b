"""The result of a solve for multipliers, from the right and the left solution."""

from __future__ import annotations

import warnings
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import Array, Bool, Complex, Float, Int, PyTree

from aeoskit.linalg import RESULTS, EigenSolution, block_row

from ._analysis import MapAnalysis
from ._equivalent import equivalent_ratio
from ._left import left_conditions, warm_start
from ._update_map import HeldMap, TransposedJacobian

with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)

    class MULTIPLIER_RESULTS(RESULTS):  # pyright: ignore
        """The ways in which a solve for multipliers ends: `RESULTS` and three more.

        Example:
            >>> print(MULTIPLIER_RESULTS[MULTIPLIER_RESULTS.not_differentiable])
            The update is piecewise constant in the gradient (Lion, sign descent), so that its ...
        """

        not_differentiable = (
            "The update is piecewise constant in the gradient (Lion, sign descent), so that its "
            "derivative does not see the loss and no multiplier is defined. Look at the curvature "
            "in the optimizer's own norm instead."
        )
        hidden_derivative = (
            "The derivative of the update map is not what its steps do: stop_gradient or a custom "
            'derivative hides a part of it. Pass product="difference".'
        )
        no_oscillation = (
            "No multiplier was found that is not real and positive, beyond its error: as far as "
            "the search space shows there is no oscillation."
        )


class Multipliers(eqx.Module):
    """Eigenvalues of the Jacobian of an update map, each with its error bar.

    All arrays have the shape `()`, but for `leading_multipliers` `(k,)`.

    Attributes:
        value: the eigenvalue; of a conjugate pair that of positive imaginary part. NaN where
            `result` is `nonfinite`, `not_differentiable`, `hidden_derivative` or `no_oscillation`.
        residual: upper estimate of `||D⁻¹JD v - θ v||` for unit v, D the scale.
        condition: `1/|yᴴx|` of the unit left and right eigenvectors, in the scaled coordinates. It
            is that number where `left_found`; elsewhere it is only what the search space sees of
            it, which is never too high and often low by ten times.
        bound: `residual * condition`: where `left_found`, what the residual can make of the error
            to first order, of a simple eigenvalue.
        left_found: whether the transposed solve has converged to the same value (within a tenth of
            it: for two eigenvalues as near as that, taken for one, `bound` is about their
            distance).
        left_value: the value that the transposed solve found, as a check: one beyond `value`
            means that `value` is not the last. NaN where there was no such solve.
        converged: whether the residual meets the solver's tolerance. It means that the value is an
            eigenvalue, not that there is none beyond it.
        result: a member of `MULTIPLIER_RESULTS`, for all values together.
        vector: the eigenvector in the coordinates of `(params, state)`, complex, its part in the
            params of unit norm (all of it where that part is zero); None for leaves that were
            held. Of `leading_multipliers`, leaves `(k, *leaf)`.
        jvps: products with the Jacobian, those of the probe included.
        vjps: products with its transpose.
        dead: parameters whose derivative is not finite: held fixed with their state, and left out.
        state: the warm start of the next solve, also at another point: pass it as `start`.
        positive: of `oscillating_multiplier`, the largest real and positive multiplier seen beside
            it: above 1 it belongs to negative curvature. None of the other functions.
        positive_residual: its residual; not tested against a tolerance.
        resolved_angle: of `oscillating_multiplier`, the angle under which a multiplier of larger
            modulus may be hidden among those next to the positive axis, to first order.

    Example:
        >>> import jax.numpy as jnp
        >>> from aeoskit.stability import flip_multiplier
        >>> halve = lambda params, state: (0.5 * params, state)
        >>> found = flip_multiplier(halve, (jnp.ones(3), ()))
        >>> complex(found.value), int(found.dead), bool(found.converged)
        ((0.5+0j), 0, True)
    """

    value: Complex[Array, ...]
    residual: Float[Array, ...]
    condition: Float[Array, ...]
    bound: Float[Array, ...]
    left_found: Bool[Array, ...]
    left_value: Complex[Array, ...]
    converged: Bool[Array, ...]
    result: MULTIPLIER_RESULTS
    vector: PyTree
    jvps: Int[Array, ""]
    vjps: Int[Array, ""]
    dead: Int[Array, ""]
    state: Any
    positive: Float[Array, ""] | None = None
    positive_residual: Float[Array, ""] | None = None
    resolved_angle: Float[Array, ""] | None = None

    @property
    def modulus(self) -> Float[Array, ...]:
        """The factor by which a perturbation along it grows (above 1) or decays a step."""
        return jnp.abs(self.value)

    @property
    def angle(self) -> Float[Array, ...]:
        """The angle by which it turns a step, in radians: π for an oscillation of period two."""
        return jnp.abs(jnp.angle(self.value))

    def equivalent_ratio(
        self, rule: Any, lr: Any = 1.0, weight_decay: Any = 0.0
    ) -> Float[Array, ...]:
        """`equivalent_ratio` of each value: the arguments are those of that function.

        Args:
            rule: the momentum rule, or a threshold polynomial.
            lr: the learning rate.
            weight_decay: decoupled weight decay.

        Returns:
            Ratios of `λ₁(P⁻¹H)` to its threshold.
        """
        if self.value.ndim == 0:
            return equivalent_ratio(self.value, rule, lr, weight_decay)
        ratios = [equivalent_ratio(value, rule, lr, weight_decay) for value in self.value]
        return jnp.stack(ratios)


@eqx.filter_jit
def finish(
    held: HeldMap,
    analysis: MapAnalysis,
    solution: EigenSolution,
    left: EigenSolution | None,
    transposed: TransposedJacobian | None,
    single: bool,
    refused: Array,
    hidden: Array,
) -> Multipliers:
    """The solutions in the users' coordinates, with NaN where there is no multiplier.

    Args:
        held: the map and the point.
        analysis: the probe.
        solution: of the scaled Jacobian.
        left: of its transpose, if that was solved.
        transposed: the transpose.
        single: whether the arrays have the shape ().
        refused: whether the update is piecewise constant.
        hidden: whether its derivative is not that of its steps.
    """
    sound = analysis.usable & ~refused & ~hidden
    member = MULTIPLIER_RESULTS
    result = member.where(
        analysis.usable, member.promote(solution.result), member.promote(RESULTS.nonfinite)
    )
    oscillates = solution.stats.get("oscillates")
    if oscillates is not None:
        result = member.where(oscillates[0] | ~sound, result, member.no_oscillation)
    result = member.where(hidden, member.hidden_derivative, result)
    result = member.where(refused, member.not_differentiable, result)

    def one(number: Int[Array, ""]) -> tuple[Any, ...]:
        vector = block_row(solution.vectors, number)
        vector = tuple(
            jnp.where(a, d * v, 0)
            for d, v, a in zip(analysis.scale, vector, analysis.alive, strict=True)
        )

        def norm(params_only: bool) -> Array:
            parts = [
                jnp.sum(jnp.abs(v) ** 2)
                for v, is_param in zip(vector, held.is_param, strict=True)
                if is_param or not params_only
            ]
            return jnp.sqrt(jnp.sum(jnp.stack(parts)))

        size = jnp.where(norm(True) > 0, norm(True), norm(False))
        return tuple(v / jnp.where(size > 0, size, 1) for v in vector)

    positive = [solution.stats.get(f"largest_positive{part}") for part in ("", "_residual")]
    positive = [None if x is None else jnp.where(sound, x, jnp.nan) for x in positive]
    if oscillates is not None:
        sound &= oscillates[0]
    count = solution.values.shape[0]
    vectors = jax.vmap(one)(jnp.arange(count))
    values = solution.values
    values = values.astype(jnp.result_type(values.dtype, jnp.complex64))
    pick = (lambda x: x[0]) if single else (lambda x: x)
    condition, left_values = solution.stats["condition"], jnp.full_like(values, jnp.nan)
    found = jnp.zeros(count, bool)
    if left is not None and transposed is not None:
        conditions = left_conditions(solution, left, transposed.agrees())
        found, left_values = conditions.found & sound, jnp.where(sound, conditions.value, jnp.nan)
        condition = jnp.where(found, conditions.condition, condition)
    return Multipliers(
        value=pick(jnp.where(sound, values, jnp.nan)),
        residual=pick(jnp.where(sound, solution.residuals, jnp.inf)),
        condition=pick(jnp.where(sound, condition, jnp.inf)),
        bound=pick(jnp.where(sound, solution.residuals * condition, jnp.inf)),
        left_found=pick(found),
        left_value=pick(left_values),
        converged=pick(solution.converged & sound),
        result=result,
        vector=held.embed(jax.tree.map(pick, vectors)),
        jvps=solution.stats["matvecs"] + analysis.products,
        vjps=jnp.zeros((), jnp.int32) if left is None else left.stats["matvecs"],
        dead=analysis.dead,
        state=warm_start(solution, left, analysis),
        positive=positive[0],
        positive_residual=positive[1],
        resolved_angle=solution.stats.get("resolved_angle"),
    )
