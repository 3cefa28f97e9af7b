"""Multipliers: eigenvalues of the Jacobian of a whole update map, for any optimizer."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Int

from aeoskit.linalg import Arnoldi, eigensolve
from aeoskit.objective import with_product_error

from ._analysis import MapAnalysis, analyze_map
from ._hidden import hides_derivative
from ._left import right_start, solve_left
from ._multipliers import MULTIPLIER_RESULTS as MULTIPLIER_RESULTS
from ._multipliers import Multipliers as Multipliers
from ._multipliers import finish
from ._scaling import given_scale
from ._update_map import HeldMap, MapJacobian, Product, Reuse, check_pair

Condition = Literal["left", "search_space"]

_analyze = eqx.filter_jit(analyze_map)


def _refuse(held: HeldMap, analysis: MapAnalysis) -> None:
    """Raises where the update is known to be piecewise constant; a traced one is not known."""
    if isinstance(analysis.constant, Tracer) or not bool(jnp.any(analysis.constant)):
        return
    flags = zip(held.names, analysis.constant.tolist(), strict=True)
    where = ", ".join(name for name, flag in flags if flag)
    raise ValueError(
        f"the update of {where} is piecewise constant: its derivative does not see the gradient, "
        "yet steps from points further away differ (Lion, sign descent, Adam's first step with "
        "eps=0). No multiplier is defined; for these optimizers look at the curvature in their "
        "own norm."
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
    condition: str,
    product: str | None,
) -> Multipliers:
    if condition not in ("left", "search_space"):
        raise ValueError(f"{name}(condition={condition!r}): choose left or search_space.")
    if reuse not in ("linearize", "recompute"):
        raise ValueError(f"{name}(reuse={reuse!r}): choose linearize or recompute.")
    if product not in (None, "forward", "difference"):
        raise ValueError(f"{name}(product={product!r}): choose forward or difference.")
    if isinstance(scale, str) and scale != "auto":
        raise ValueError(f'{name}(scale={scale!r}): "auto", None, or a prefix of (params, state).')
    params, optimizer_state = check_pair(name, state)
    held = HeldMap(update_map, params, optimizer_state, args, hold)
    given = None
    if not isinstance(scale, str):
        given = given_scale(held, check_pair("scale", (1.0, 1.0) if scale is None else scale))
    product_kind: Any = product or held.product
    with _explain_missing_derivative(held, product_kind):
        analysis = _analyze(held, given, product_kind)
    _refuse(held, analysis)
    hidden = (
        jnp.zeros((), bool) if product_kind == "difference" else hides_derivative(held, analysis)
    )
    held = analysis.map
    operator = MapJacobian(held, analysis.scale, analysis.alive, fill, reuse, product=product_kind)  # pyright: ignore
    if solver is None:
        # A difference of two steps is not known to more digits.
        tolerance = 1e-4 if product_kind == "forward" else 3e-3
        solver = Arnoldi(basis=max(40, 2 * k + 20), rtol=tolerance, atol=tolerance)
    options: Any = dict(k=k, which=which, max_matvecs=max_matvecs, driver=driver)
    solution = eigensolve(operator, solver, start=right_start(start, analysis), **options)
    solution = with_product_error(solution, operator, solver)
    left = transposed = None
    if condition == "left" and product_kind == "forward":
        transposed, left = solve_left(operator, analysis, solution, start, solver, options)
    single, refused = which != "largest_magnitude", jnp.any(analysis.constant)
    return finish(held, analysis, solution, left, transposed, single, refused, hidden)


@contextlib.contextmanager
def _explain_missing_derivative(held: HeldMap, product: str) -> Iterator[None]:
    """Explains the error of a step without a forward derivative, with the fix."""
    try:
        yield
    except (TypeError, ValueError, NotImplementedError) as error:
        try:
            jax.eval_shape(held, held.point)
        except Exception:  # it is not the derivative that is missing
            raise error from None
        if product == "difference":
            raise
        reason = " ".join(str(error).split())[:120]
        raise ValueError(
            "the update map has no forward derivative, as with custom_vjp, a callback or an "
            f'attention kernel in it (jax: {reason}): pass product="difference"'
        ) from error


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
    condition: Condition | str = "left",
    product: Product | str | None = None,
) -> Multipliers:
    """The eigenvalue of smallest real part of the Jacobian of a whole update map, at a point.

    It crosses -1 where the training step loses stability to an oscillation of period two: the edge
    of stability, without knowing the optimizer, its P or its threshold. It misses an oscillation of
    another period, which two momentum buffers can have: see `oscillating_multiplier`. A bare number
    is hard to compare: `Multipliers.equivalent_ratio(rule)` gives the ratio to the threshold that
    belongs to it. The map of a live optimizer differs from that of a frozen P by O(1 - β₂).

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

    **Hidden derivatives.** `stop_gradient` (targets of TD learning, BYOL, straight-through) hides
    from jax a part of what a step does. So one derivative along a random direction of the params is
    compared with differences of steps, once for a map and shapes (eleven steps more), under `jit`
    in each call. Where ReLUs and the like are many, their kinks scatter these differences, and
    a part that is small beside that is not seen. With product="difference" there is no left solve,
    the default tolerance is 3e-3, and `residual` includes what the differences are off by.

    **Scaling.** Arnoldi works with `D⁻¹ J D`, which has the same eigenvalues. "auto" reads D from
    the state: parameters in units of the step's root mean square, first moments in units of √ν,
    second moments of ν, and all else in units of the leaf's root mean square. Without it the
    Jacobian of Adam has a norm of 1e5, and a solve ends at once in `RESULTS.stagnation`.

    **Zeros of its own.** A state that forgets (AMSGrad's maximum at a new maximum, a buffer that
    each step overwrites) has eigenvalues 0, which hide a top mode until its real part is negative:
    hold such leaves where it matters.

    **Condition.** The search space of the solve sees next to nothing of the left eigenvector (for
    Adam on a network at the edge it gives 1.0 in place of 10), so that by default the transposed
    Jacobian is solved too, for the same value. Where it is not found (no convergence, another
    eigenvalue, a map without a derivative in reverse such as a while loop, infinite derivatives
    that do not come apart) `left_found` is false, and `condition` as with "search_space".

    **Warm starts.** The `state` of the solve at the step before spares a third to a half of the
    products at the edge, and few where the pair turns from complex to real.

    Costs `jvps` derivatives of the map (20 to 80 for a network at the edge), usually two of which
    have the price of a step's gradient, and as many `vjps`, unless condition="search_space". A new
    function is a new compilation: define `update_map` once, and hand data over by `args`.

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
            takes no memory (but for the transpose, that of one reverse pass).
        driver: as in `eigensolve`.
        condition: "left" solves for the left eigenvector; "search_space" spares its cost, and has a
            condition that is too low, and a `bound` that does not hold.
        product: "forward", or "difference": derivatives in the params are then central differences
            of two steps, for a step that hides them (`stop_gradient`) or has none (`custom_vjp`).
            None asks the map's attribute `product`, and is "forward" without one.

    Returns:
        `Multipliers` of shape ().

    Raises:
        TypeError: the map is not callable, or a leaf that moves is complex.
        ValueError: the point is no pair, nothing is left to move, the map returns another
            structure; the update is piecewise constant, or its derivative is not what its steps
            do. Under `jit` the last two cannot be raised: `result` is then `not_differentiable` or
            `hidden_derivative`, and the value NaN.

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
        condition,
        product,
    )


def oscillating_multiplier(
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
    condition: Condition | str = "left",
    product: Product | str | None = None,
) -> Multipliers:
    """The multiplier of largest modulus among those that are not real and positive.

    Its modulus passes 1 wherever a training step starts to oscillate: at the angle π with a single
    momentum buffer, where it is the flip multiplier; at a small angle with two, which
    `flip_multiplier` misses. Real multipliers above 1 belong to negative curvature, are there at
    almost every step of a network, and are no oscillation: the largest one seen is `positive`.

    **What is found.** Directions of no curvature crowd next to 1 (and second moments at β₂), and
    hide a pair that is near to them in modulus from `leading_multipliers`. The solve keeps what is
    away from the positive axis, so that restarts filter the crowd out. A pair counts as found once
    its imaginary part is ten times its error, residual × condition as the search space shows it,
    and four roots of epsilon (.0014 in single precision). If a full basis has none, as in descent
    below the edge, `result` is `no_oscillation` and the value NaN. A larger one at an angle under
    `resolved_angle` may be hidden in the crowd. With a live metric there are such, of negative
    curvature: on a network trained by Adam a pair at the angle .03 with the modulus 1.03. As for
    any solve, `converged` means that it is a multiplier, not that there is no larger one.

    What holds for `flip_multiplier` holds here. Its `state` is a good `start`, and costs less
    than a cold solve.

    Costs `jvps` derivatives of the map, as `flip_multiplier`; a basis of them (40) where nothing
    oscillates.

    Args:
        update_map: one step, `(params, state, *args) -> (params, state)`.
        state: the pair `(params, state)`.
        args: more arguments of the map.
        hold: leaves to hold.
        scale: D.
        solver: an `Arnoldi`; by default with a basis of 40 and tolerances of 1e-4.
        start: where the solve begins.
        max_matvecs: budget of products.
        reuse: "linearize" or "recompute".
        driver: as in `eigensolve`.
        condition: "left" or "search_space".
        product: "forward" or "difference".

    Returns:
        `Multipliers` of shape ().

    Raises:
        TypeError: as `flip_multiplier`.
        ValueError: as `flip_multiplier`.

    Source: Kuznetsov, *Elements of Applied Bifurcation Theory*, chapter 4 (the flip and the
    Neimark-Sacker bifurcation).

    Example:
        >>> turn = jnp.array([[0.0, -1.2], [1.2, 0.0]])
        >>> step = lambda params, state: (jnp.append(turn @ params[:2], 1.5 * params[2]), state)
        >>> found = oscillating_multiplier(step, (jnp.ones(3), ()))
        >>> round(float(found.modulus), 3), round(float(found.angle), 3)
        (1.2, 1.571)
        >>> round(float(found.positive), 3)
        1.5
    """
    return _solve(
        "oscillating_multiplier",
        update_map,
        state,
        "largest_oscillating",
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
        condition,
        product,
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
    condition: Condition | str = "left",
    product: Product | str | None = None,
) -> Multipliers:
    """The k eigenvalues of largest modulus of the Jacobian of a whole update map.

    Above 1: perturbations grow. Near 1 there are many of a network in training (directions of no
    curvature), and a cluster is found slowly: a `result` other than successful is common then.
    What holds for `flip_multiplier` holds here; dead coordinates, and state that a step hands on
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
        condition: "left" or "search_space".
        product: "forward" or "difference".

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
        condition,
        product,
    )
