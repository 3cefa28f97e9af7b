"""Multipliers: eigenvalues of the Jacobian of a whole update map, for any optimizer."""

from __future__ import annotations

import warnings
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Bool, Complex, Float, Int, PyTree

from aeoskit.linalg import RESULTS, Arnoldi, EigenSolution, block_row, eigensolve

from ._equivalent import equivalent_ratio
from ._probe import Probe, probe
from ._scaling import given_scale
from ._update_map import HeldMap, MapJacobian, Reuse, check_pair

with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)

    class MULTIPLIER_RESULTS(RESULTS):  # pyright: ignore
        """How a solve for multipliers ended: `RESULTS`, and what only an update map can be.

        Example:
            >>> print(MULTIPLIER_RESULTS[MULTIPLIER_RESULTS.not_differentiable])
            The update is piecewise constant in the gradient (Lion, sign descent), so that its ...
        """

        not_differentiable = (
            "The update is piecewise constant in the gradient (Lion, sign descent), so that its "
            "derivative does not see the loss and no multiplier is defined. Look at the curvature "
            "in the optimizer's own norm instead."
        )


class Multipliers(eqx.Module):
    """Eigenvalues of the Jacobian of an update map, each with what it is worth.

    All arrays have the shape `()` from `flip_multiplier`, `(k,)` from `leading_multipliers`.

    Attributes:
        value: the eigenvalue; of a conjugate pair that of positive imaginary part. NaN where
            `result` is `nonfinite` or `not_differentiable`.
        residual: upper estimate of `||D⁻¹JD v - θ v||` for unit v, D the scale.
        condition: `1/|yᴴx|` of the unit left and right eigenvectors, in the scaled coordinates and
            as far as the solve saw the left one: never too high, and often low (see `Arnoldi`).
        bound: `residual * condition`, the first-order error of a simple eigenvalue: an estimate.
        converged: whether the residual meets the solver's tolerance. It says that the value is an
            eigenvalue, not that there is none beyond it.
        result: a member of `MULTIPLIER_RESULTS`, for all values together.
        vector: the eigenvector in the coordinates of `(params, state)`, complex, its part in the
            params of unit norm (all of it where that part is zero); None for leaves that were
            held. Of `leading_multipliers`, leaves `(k, *leaf)`.
        jvps: products with the Jacobian, those of the probe included.
        dead: parameters whose derivative is not finite: held fixed with their state, and left out.
        state: the warm start of the next solve: pass it as `start`.

    Example:
        >>> halve = lambda params, state: (0.5 * params, state)
        >>> found = flip_multiplier(halve, (jnp.ones(3), ()))
        >>> complex(found.value), int(found.dead), bool(found.converged)
        ((0.5+0j), 0, True)
    """

    value: Complex[Array, ...]
    residual: Float[Array, ...]
    condition: Float[Array, ...]
    bound: Float[Array, ...]
    converged: Bool[Array, ...]
    result: MULTIPLIER_RESULTS
    vector: PyTree
    jvps: Int[Array, ""]
    dead: Int[Array, ""]
    state: Any

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


_probe = eqx.filter_jit(probe)


def _refuse(held: HeldMap, seen: Probe) -> None:
    """Raises where the update is known to be piecewise constant; a traced one is not known."""
    if isinstance(seen.constant, Tracer) or not bool(jnp.any(seen.constant)):
        return
    flags = zip(held.names, seen.constant.tolist(), strict=True)
    where = ", ".join(name for name, flag in flags if flag)
    raise ValueError(
        f"the update of {where} is piecewise constant: its derivative does not see the gradient, "
        "yet steps from points further away differ (Lion, sign descent, Adam's first step with "
        "eps=0). No multiplier is defined; for these optimizers look at the curvature in their "
        "own norm."
    )


@eqx.filter_jit
def _finish(
    held: HeldMap, seen: Probe, solution: EigenSolution, single: bool, refused: Array
) -> Multipliers:
    sound = seen.usable & ~refused
    member = MULTIPLIER_RESULTS
    result = member.where(
        seen.usable, member.promote(solution.result), member.promote(RESULTS.nonfinite)
    )
    result = member.where(refused, member.not_differentiable, result)

    def one(number: Int[Array, ""]) -> tuple[Any, ...]:
        vector = block_row(solution.vectors, number)
        vector = tuple(
            jnp.where(a, d * v, 0) for d, v, a in zip(seen.scale, vector, seen.alive, strict=True)
        )

        def norm(mine: bool) -> Array:
            parts = [
                jnp.sum(jnp.abs(v) ** 2)
                for v, of_params in zip(vector, held.of_params, strict=True)
                if of_params or not mine
            ]
            return jnp.sqrt(jnp.sum(jnp.stack(parts)))

        size = jnp.where(norm(True) > 0, norm(True), norm(False))
        return tuple(v / jnp.where(size > 0, size, 1) for v in vector)

    count = solution.values.shape[0]
    vectors = jax.vmap(one)(jnp.arange(count))
    values = solution.values
    values = values.astype(jnp.result_type(values.dtype, jnp.complex64))
    pick = (lambda x: x[0]) if single else (lambda x: x)
    return Multipliers(
        value=pick(jnp.where(sound, values, jnp.nan)),
        residual=pick(jnp.where(sound, solution.residuals, jnp.inf)),
        condition=pick(jnp.where(sound, solution.stats["condition"], jnp.inf)),
        bound=pick(jnp.where(sound, solution.bounds, jnp.inf)),
        converged=pick(solution.converged & sound),
        result=result,
        vector=held.embed(jax.tree.map(pick, vectors)),
        jvps=solution.stats["matvecs"] + seen.products,
        dead=seen.dead,
        state=solution.state,
    )


def _solve(
    name: str,
    update_map: Any,
    state: Any,
    which: str,
    k: int,
    fill: float,
    args: tuple[Any, ...],
    hold: Any,
    scale: Any,
    solver: Arnoldi | None,
    start: Any,
    max_matvecs: Any,
    reuse: str,
    driver: Any,
) -> Multipliers:
    if reuse not in ("linearize", "recompute"):
        raise ValueError(f"{name}(reuse={reuse!r}): choose linearize or recompute.")
    if isinstance(scale, str) and scale != "auto":
        raise ValueError(f'{name}(scale={scale!r}): "auto", None, or a prefix of (params, state).')
    params, optimizer_state = check_pair(name, state)
    held = HeldMap(update_map, params, optimizer_state, args, hold)
    given = None
    if not isinstance(scale, str):
        given = given_scale(held, check_pair("scale", (1.0, 1.0) if scale is None else scale))
    seen = _probe(held, given)
    _refuse(held, seen)
    held = seen.map
    operator = MapJacobian(held, seen.scale, seen.alive, fill, reuse)  # pyright: ignore
    solution = eigensolve(
        operator,
        Arnoldi(basis=max(40, 2 * k + 20), rtol=1e-4, atol=1e-4) if solver is None else solver,
        k=k,
        which=which,
        start=start,
        max_matvecs=max_matvecs,
        driver=driver,
    )
    return _finish(held, seen, solution, which == "smallest_real", jnp.any(seen.constant))


def flip_multiplier(
    update_map: Any,
    state: Any,
    *,
    args: tuple[Any, ...] = (),
    hold: Any = None,
    scale: Any = "auto",
    solver: Arnoldi | None = None,
    start: Any = None,
    max_matvecs: int | Int[Array, ""] | None = None,
    reuse: Reuse | str = "linearize",
    driver: Literal["compiled", "host", "auto"] = "auto",
) -> Multipliers:
    """The eigenvalue of smallest real part of the Jacobian of a whole update map, at a point.

    It crosses -1 where the training step loses stability to an oscillation of period two: the edge
    of stability, without knowing the optimizer, its P or its threshold. A bare number is hard to
    compare: `Multipliers.equivalent_ratio(rule)` gives the ratio to the threshold that belongs to
    it. The map of a live optimizer differs from that of a frozen P by O(1 - β₂).

    **What is held.** Integer, boolean and key leaves never move: the map is that of the coming
    step, whatever its number. `hold` adds to them. To hold the second moments of Adam is not to
    freeze P, which sees the gradient of the step itself: `aeoskit.optimizers.freeze` does that.

    **Dead coordinates.** Where the derivative of a coordinate is not finite (stock Adam where a
    gradient was always zero: the root of ν = 0), that coordinate is held fixed and counted in
    `dead`. One infinite derivative inside a norm of a whole leaf kills the whole leaf.

    **Piecewise constant updates** (Lion, sign descent) have no multiplier. An update is taken for
    one where the derivative of a leaf is a multiple of the identity here and at a point as far
    away as the leaves are large, but the difference between the two updates is not what that
    derivative makes. It may go unseen where the step is under some hundred roundings of the
    parameters, and where no sign flips on the way. Quantized updates are not looked for.

    **Scaling.** Arnoldi works with `D⁻¹ J D`, which has the same eigenvalues. "auto" reads D from
    the state: parameters in units of the step's root mean square, first moments in units of √ν,
    second moments of ν, and all else in units of the leaf's root mean square. Without it the
    Jacobian of Adam has a norm of 1e5, and a solve ends at once in `RESULTS.stagnation`.

    **Zeros of its own.** A state that forgets (AMSGrad's maximum at a new maximum, a buffer that
    each step overwrites) has eigenvalues 0, which hide a top mode until its real part is negative:
    hold such leaves where it matters.

    Costs `jvps` derivatives of the map (20 to 80 for a network at the edge), usually two of which
    have the price of a step's gradient. A new function is a new compilation: define `update_map`
    once, and hand data over by `args`.

    Args:
        update_map: one step, `(params, state, *args) -> (params, state)`. A function, a jitted one,
            or a module whose arrays are leaves.
        state: the pair `(params, state)` at which the derivative is taken, before the step.
        args: more arguments of the map, such as data.
        hold: leaves to hold beside those without derivatives: a path or glob such as
            "state/*/nu" or "state" (then only the params move), a list of them, a predicate on
            the path, or a prefix of booleans of `(params, state)`.
        scale: D: "auto"; None for none; or a prefix of `(params, state)` of positive arrays.
        solver: an `Arnoldi`; by default with a basis of 40 and tolerances of 1e-4.
        start: where the solve begins, as in `eigensolve`; `Multipliers.state` of an earlier step.
        max_matvecs: budget of products; 20 for each basis vector by default.
        reuse: "linearize" the map once for the solve, or "recompute" it in each product, which
            takes no memory.
        driver: as in `eigensolve`.

    Returns:
        `Multipliers` of shape ().

    Raises:
        TypeError: the map is not callable, or a leaf that moves is complex.
        ValueError: the point is no pair, nothing is left to move, the map returns another
            structure; or the update is piecewise constant. Under `jit` the last cannot be raised:
            `result` is then `not_differentiable` and the value NaN.

    Source: Kuznetsov, *Elements of Applied Bifurcation Theory*, chapter 4 (the flip); its use on
    whole optimizers is ours.

    Example:
        >>> def step(params, state):  # gradient descent on 2 x² + y² / 2
        ...     return params - 0.5 * jnp.array([4.0, 1.0]) * params, state
        >>> found = flip_multiplier(step, (jnp.ones(2), ()))
        >>> from aeoskit.optimizers import NoMomentum
        >>> float(found.value.real), float(found.equivalent_ratio(NoMomentum()))
        (-1.0, 1.0)
    """
    return _solve(
        "flip_multiplier",
        update_map,
        state,
        "smallest_real",
        1,
        1.0,
        args,
        hold,
        scale,
        solver,
        start,
        max_matvecs,
        reuse,
        driver,
    )


def leading_multipliers(
    update_map: Any,
    state: Any,
    k: int = 4,
    *,
    args: tuple[Any, ...] = (),
    hold: Any = None,
    scale: Any = "auto",
    solver: Arnoldi | None = None,
    start: Any = None,
    max_matvecs: int | Int[Array, ""] | None = None,
    reuse: Reuse | str = "linearize",
    driver: Literal["compiled", "host", "auto"] = "auto",
) -> Multipliers:
    """The k eigenvalues of largest modulus of the Jacobian of a whole update map.

    Above 1: perturbations grow. Near 1 there are many of a network in training (directions of no
    curvature), and a cluster is found slowly: a `result` other than successful is common then.
    Everything said of `flip_multiplier` holds; dead coordinates, and state that a step hands on
    unchanged (hyperparameters), count as zeros here.

    Args:
        update_map: one step, `(params, state, *args) -> (params, state)`.
        state: the pair `(params, state)`.
        k: how many.
        args: more arguments of the map.
        hold: leaves to hold.
        scale: D.
        solver: an `Arnoldi`; by default with a basis of 40, or 2k + 20, and tolerances of 1e-4.
        start: where the solve begins.
        max_matvecs: budget of products.
        reuse: "linearize" or "recompute".
        driver: as in `eigensolve`.

    Returns:
        `Multipliers` of shape `(k,)`, the largest modulus first, conjugate pairs side by side.

    Raises:
        TypeError: as `flip_multiplier`.
        ValueError: as `flip_multiplier`, and for a k that is no number of eigenvalues.

    Example:
        >>> step = lambda params, state: (jnp.array([-1.5, 0.5, 0.25]) * params, state)
        >>> leading_multipliers(step, (jnp.ones(3), ()), k=2).value.real.tolist()
        [-1.5, 0.5]
    """
    return _solve(
        "leading_multipliers",
        update_map,
        state,
        "largest_magnitude",
        k,
        0.0,
        args,
        hold,
        scale,
        solver,
        start,
        max_matvecs,
        reuse,
        driver,
    )
