"""The contract that every optimizer keeps, as a test."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, NoReturn

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jaxtyping import Array, PyTree

from aeoskit._paths import containers
from aeoskit.linalg import dense_matrix

from ._interface import AbstractGradientOptimizer, AbstractOptimizer, apply_updates
from ._optimizer import freeze, with_threshold
from .bridges import as_optimizer

LARGEST = 256
"""Parameters up to which the metric is compared as a dense matrix."""
_FEW = 5
_SIMULATED = 1500


class _Check(NamedTuple):
    """An optimizer and the inputs of its checks."""

    optimizer: AbstractOptimizer
    params: PyTree
    key: Array
    steps: int
    rtol: float

    def refuse(self, what: str) -> NoReturn:
        raise ValueError(f"check_optimizer: {self.optimizer.name}: {what}")

    def random(self, number: Any, lead: tuple[int, ...] = ()) -> PyTree:
        """A tree of normal random numbers like the parameters, with leading axes."""
        leaves, treedef = jax.tree.flatten(self.params)
        keys = jax.random.split(jax.random.fold_in(self.key, number), len(leaves))
        drawn = [
            jax.random.normal(key, (*lead, *leaf.shape), leaf.dtype)
            for key, leaf in zip(keys, leaves, strict=True)
        ]
        return jax.tree.unflatten(treedef, drawn)

    def step(self, params: PyTree, state: Any, grads: PyTree) -> tuple[PyTree, Any]:
        return self.optimizer.step(_quadratic_gradient, params, state, grads)

    def close(self, a: PyTree, b: PyTree, rtol: float | None = None) -> bool:
        """True if two trees agree, relative to the largest entry."""
        x, y = (np.asarray(_flat(tree), np.float64) for tree in (a, b))
        scale = max(float(np.max(np.abs(x), initial=0)), float(np.max(np.abs(y), initial=0)))
        bound = (self.rtol if rtol is None else rtol) * scale
        return bool(np.all(np.isfinite(x)) and np.all(np.abs(x - y) <= bound))


def check_optimizer(
    optimizer: Any,
    params: PyTree | None = None,
    *,
    steps: int = 1000,
    key: Array | None = None,
    rtol: float | None = None,
) -> None:
    """Check that an optimizer keeps its contract.

    - `init` and `update` are a pair of pure functions of pytrees: the same under jit, vmap and scan
      as without, with states and updates of fixed structure, shapes and dtypes.
    - Its properties hold: declared quantities exist; missing ones are NaN or a `ValueError`.
    - P is symmetric positive definite, and its inverse and its square roots are those of P.
    - With P frozen an update is linear in the gradients, and `P u` is along them.
    - The learning rate is that of the step, and follows the schedule if there is one.
    - The threshold is where the spectral radius of its recurrence passes 1, and where a quadratic
      begins to diverge: simulated 3 % below and above it with P frozen; if P cannot be frozen, by
      the multipliers of the live update 5 % below and above.

    It runs on the host and takes some seconds, most of them compilation. A test on a few random
    numbers can miss errors elsewhere.

    Args:
        optimizer: an optimizer of aeoskit or your own, an optax transformation or an optimistix
            minimiser.
        params: parameters for the checks, a small tree; a vector and a square matrix if None.
        steps: the number of steps with random gradients before the threshold is checked, for rules
            that vary in time.
        key: the key of the random numbers; a fixed one if None.
        rtol: the tolerance for rounding; three times the square root of machine epsilon if None.

    Raises:
        TypeError: if it is not an optimizer.
        ValueError: if a check fails, with a sentence about it.

    Example:
        >>> from aeoskit.optimizers import gradient_descent
        >>> check_optimizer(gradient_descent(0.1))
    """
    optimizer = as_optimizer(optimizer)
    key = jax.random.key(0) if key is None else key
    if params is None:
        keys = jax.random.split(jax.random.fold_in(key, 0))
        params = {"b": jax.random.normal(keys[0], (3,)), "w": jax.random.normal(keys[1], (3, 3))}
    size = sum(leaf.size for leaf in jax.tree.leaves(params))
    if size > LARGEST:
        raise ValueError(
            f"check_optimizer compares dense matrices and takes at most {LARGEST} parameters, got "
            f"{size}: pass a smaller tree of the same kind."
        )
    rounding = 3 * float(jnp.finfo(jnp.result_type(*jax.tree.leaves(params))).eps) ** 0.5
    check = _Check(optimizer, params, key, steps, rounding if rtol is None else rtol)
    state = optimizer.init(params)
    _check_types(check, state)
    state = _check_steps(check, state)
    _check_properties(check, state)
    if optimizer.has_metric:
        _check_metric(check, state)
    if optimizer.freezable:
        _check_linear(check, state)
    if optimizer.has_threshold:
        _check_threshold(check, state)


def _quadratic_gradient(params: PyTree) -> Array:
    """The objective of optimizers that evaluate a function."""
    return sum(jnp.sum((leaf - 1) ** 2) for leaf in jax.tree.leaves(params))  # pyright: ignore[reportReturnType]


def _flat(tree: PyTree) -> Array:
    leaves = [jnp.reshape(leaf, (-1,)) for leaf in jax.tree.leaves(tree)]
    return jnp.concatenate(leaves) if leaves else jnp.zeros(0)


def _types(tree: PyTree) -> dict[str, str]:
    """The shape, dtype and weak type of each leaf, by path."""
    pairs = jax.tree_util.tree_leaves_with_path(tree)
    return {
        jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}"
        + (", weakly typed" if leaf.weak_type else "")
        for path, leaf in pairs
    }


def _check_same_types(check: _Check, what: str, got: PyTree, wanted: PyTree) -> None:
    before, after = _types(wanted), _types(got)
    for path in {**before, **after}:
        if before.get(path) != after.get(path):
            check.refuse(
                f"{what}{path} is {after.get(path, 'missing')} after a step and "
                f"{before.get(path, 'missing')} before it: keep each leaf's shape and dtype, so "
                "that a scan can carry it."
            )
    if jax.tree.structure(got) != jax.tree.structure(wanted):
        check.refuse(
            f"{what} has other containers after a step ({containers(got)}, not "
            f"{containers(wanted)}): return the structure that was given."
        )


def _check_types(check: _Check, state: Any) -> None:
    for path, leaf in jax.tree_util.tree_leaves_with_path(state):
        if not eqx.is_array(leaf):
            check.refuse(
                f"state{jax.tree_util.keystr(path)} is a {type(leaf).__name__}, not an array: "
                "store it in a jax array, or in a static field."
            )
    grads = check.random(1)
    before = jax.eval_shape(lambda *x: x, check.params, state)
    after = jax.eval_shape(check.step, check.params, state, grads)
    for what, got, wanted in zip(("params", "state"), after, before, strict=True):
        _check_same_types(check, what, got, wanted)
    if isinstance(check.optimizer, AbstractGradientOptimizer):
        update = check.optimizer.update
        updates = jax.eval_shape(lambda *x: update(*x)[0], grads, state, check.params)
        _check_same_types(check, "updates", updates, before[0])


def _check_steps(check: _Check, state: Any) -> Any:
    """Calls, a scan under vmap, stacked hyperparameters, the schedule; returns a later state."""
    optimizer, start, gradients = check.optimizer, check.params, check.random(2, (2, _FEW))

    @jax.jit
    def one(params: PyTree, state: Any, grads: PyTree) -> tuple[Any, Array]:
        return check.step(params, state, grads), optimizer.learning_rate(state, params)

    @jax.jit
    def scanned(state: Any, gradients: PyTree) -> PyTree:
        def lane(gradients: PyTree) -> PyTree:
            carry = (start, state)
            return jax.lax.scan(lambda c, g: (check.step(*c, g), None), carry, gradients)[0][0]

        return jax.vmap(lane)(gradients)

    ends, rates, first, last = [], [], start, state
    for lane in range(2):
        params, last = start, state
        for i in range(_FEW):
            grads = jax.tree.map(lambda leaf, at=(lane, i): leaf[at], gradients)
            (params, last), rate = one(params, last, grads)
            rates.append(rate)
            first = params if (lane, i) == (0, 0) else first
        ends.append(params)
    together = scanned(state, gradients)
    if not check.close(together, jax.tree.map(lambda *x: jnp.stack(x), *ends)):
        check.refuse(
            f"{_FEW} steps of two runs in one scan under vmap differ from call by call: "
            "`update` has to be a pure function, and may not mix the entries of a batch axis."
        )
    if jnp.shape(rates[0]) != ():
        check.refuse(f"learning_rate has shape {jnp.shape(rates[0])}: return a scalar.")
    if (schedule := getattr(optimizer, "schedule", None)) is not None:
        for count, rate in enumerate(rates[:_FEW]):
            wanted = float(schedule(jnp.asarray(count, jnp.int32)))
            if not np.isclose(float(rate), wanted, rtol=check.rtol):
                check.refuse(
                    f"the learning rate after {count} steps is {float(rate):.6g} and that of its "
                    f"schedule {wanted:.6g}: count the steps in the state."
                )
    if optimizer.stackable:
        if not any(map(eqx.is_array, jax.tree.leaves(optimizer))):
            check.refuse("stackable is True, but no hyperparameter is an array leaf: make them so.")
        stacked = jax.tree.map(lambda x: jnp.stack([x, x]) if eqx.is_array(x) else x, optimizer)
        grads = jax.tree.map(lambda leaf: leaf[0, 0], gradients)
        stepped = eqx.filter_jit(
            eqx.filter_vmap(
                lambda optimizer: optimizer.step(_quadratic_gradient, start, state, grads)[0],
                in_axes=eqx.if_array(0),
            )
        )(stacked)
        if not check.close(stepped, jax.tree.map(lambda x: jnp.stack([x, x]), first)):
            check.refuse("a lane of stacked optimizers differs from the optimizer alone.")
    return last


def _check_properties(check: _Check, state: Any) -> None:
    """Check that quantities declared as missing are not returned."""
    optimizer, grads = check.optimizer, check.random(4)
    threshold = optimizer.threshold(state, check.params)
    if not optimizer.has_threshold and not bool(jnp.isnan(threshold)):
        check.refuse(
            f"has_threshold is False, but threshold is {float(threshold):.4g}: make it True, or "
            "return NaN."
        )
    if optimizer.has_metric:
        return
    for name in ("freezable", "has_threshold"):
        if getattr(optimizer, name):
            check.refuse(f"{name} is True, but has_metric is not: there is no P for it.")
    try:
        optimizer.preconditioner(state, grads, check.params)
    except ValueError:
        return
    check.refuse("has_metric is False, but preconditioner returns one: make it True, or raise.")


def _check_metric(check: _Check, state: Any) -> None:
    """Check that P is symmetric positive definite, with its roots, and the first step's metric."""
    optimizer, grads = check.optimizer, check.random(5)

    @jax.jit
    def measured(state: Any) -> tuple[list[Array], PyTree]:
        metric = optimizer.preconditioner(state, grads, check.params)
        got, wanted = metric.in_structure(), jax.eval_shape(lambda x: x, check.params)
        if jax.tree.structure(got) != jax.tree.structure(wanted) or [
            (leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(got)
        ] != [(leaf.shape, leaf.dtype) for leaf in jax.tree.leaves(wanted)]:
            check.refuse("P is an operator on another structure than that of the parameters.")
        functions = (metric.mv, metric.inv_mv, metric.sqrt_mv, metric.inv_sqrt_mv)
        dense = [dense_matrix(lx.FunctionLinearOperator(f, got)) for f in functions]
        zero = jax.tree.map(jnp.zeros_like, check.params)  # no decay
        fresh = optimizer.init(zero)
        moved = check.step(zero, fresh, grads)[0]
        return dense, optimizer.preconditioner(fresh, grads, zero).mv(moved)

    matrices, image = measured(state)
    dense, inverse, root, inverse_root = (np.asarray(m, np.float64) for m in matrices)
    if not np.all(np.abs(dense - dense.T) <= check.rtol * np.abs(dense).max()):
        check.refuse("P is not symmetric, or not finite.")
    values = np.linalg.eigvalsh(dense)
    if not values[0] > 0:
        check.refuse(
            f"P is not positive definite, with an eigenvalue of {values[0]:.3g}: add an eps."
        )
    identity = np.eye(len(dense))
    if optimizer.is_euclidean and not np.allclose(dense, identity, atol=check.rtol):
        check.refuse("is_euclidean is True, but P is not the identity.")
    bound = check.rtol * (1 + check.rtol * values[-1] / values[0])
    for name, product in (
        ("inv_mv is not the inverse of mv", inverse @ dense),
        ("sqrt_mv twice is not mv", inverse @ root @ root),
        ("inv_sqrt_mv twice is not inv_mv", dense @ inverse_root @ inverse_root),
    ):
        error = float(np.abs(product - identity).max())
        if not error <= bound:
            check.refuse(f"of P, {name}: the error is {error:.2g}, above {bound:.2g}.")
    _along(check, image, grads, "P times the first step", 10 * check.rtol)


def _along(check: _Check, image: PyTree, grads: PyTree, what: str, rtol: float) -> float:
    """The factor of `image` along `-grads`; raises if it is not parallel to them."""
    v, u = np.asarray(_flat(grads), np.float64), np.asarray(_flat(image), np.float64)
    factor = -float(v @ u / (v @ v))
    if not factor > 0 or not check.close(-factor * v, u, rtol):
        check.refuse(
            f"{what} is not opposite to the gradients: P is not the metric of the step, which "
            "includes the step's own gradients."
        )
    return factor


def _check_linear(check: _Check, state: Any) -> None:
    """Check that with P frozen the coming step is the same, and linear in the gradients."""
    params, (grads, one, two) = check.params, (check.random(i) for i in (5, 6, 7))

    @jax.jit
    def measured(state: Any) -> tuple[PyTree, ...]:
        frozen, held = freeze(check.optimizer, state, grads, params)

        def update(grads: PyTree) -> PyTree:
            return frozen.update(grads, held, params)[0]

        live = check.step(params, state, grads)[0]
        still = update(jax.tree.map(jnp.zeros_like, grads))
        # u(a - 2 b) - u(0) beside u(a) - u(0) - 2 (u(b) - u(0)).
        mixed = update(jax.tree.map(lambda a, b: a - 2 * b, one, two))
        parts = jax.tree.map(lambda a, b, c: a - 2 * b + 2 * c, update(one), update(two), still)
        return apply_updates(params, update(grads)), live, mixed, parts

    held, live, mixed, parts = measured(state)
    if not check.close(held, live):
        check.refuse(
            "the coming step with P frozen at `preconditioner(state, grads)` is another one: P has "
            "to be that of the step, its gradients included."
        )
    if not check.close(mixed, parts):
        check.refuse(
            "with P frozen an update is not linear in the gradients, so that there is no threshold "
            "for it: momentum has to be a linear filter."
        )


class _Measurements(NamedTuple):
    """Measurements of one compiled program, at a state after steps with random gradients.

    Args:
        threshold: the optimizer's threshold.
        rate: its learning rate.
        tuned: the thresholds after `with_threshold` at one and two times that threshold.
        recursion: the learning rate of the recurrence and its matrices; None without one.
        response: the response of a step to `P v`, with the rest held.
        sizes: the sizes of the iterates on two quadratics, with P frozen.
        jacobians: the Jacobians of the live update on two quadratics.
    """

    threshold: Array
    rate: Array
    tuned: list[Array]
    recursion: tuple[Array, Array] | None
    response: PyTree
    sizes: Array | None
    jacobians: Array | None


# Close enough together that a band of instability below the threshold is seen.
_SHARES = (*np.linspace(0.02, 0.98, 49).tolist(), 0.999, 1.001)
_FROZEN_SHARES, _LIVE_SHARES = (0.97, 1.03), (0.95, 1.05)


def _measurements(check: _Check, state: Any) -> _Measurements:
    optimizer, params, v = check.optimizer, check.params, check.random(9)

    def settle(state: Any, number: Array) -> tuple[Any, None]:
        return check.step(params, state, check.random(100 + number))[1], None

    state = jax.lax.scan(settle, state, jnp.arange(check.steps))[0]
    threshold, rate = optimizer.threshold(state, params), optimizer.learning_rate(state, params)
    grads = zero = jax.tree.map(jnp.zeros_like, params)
    moving, held = optimizer, state
    if optimizer.freezable:
        grads = check.random(8)
        moving, held = freeze(optimizer, state, grads, params)
    tuned = [
        with_threshold(moving, share * threshold).threshold(held, params)
        for share in ((1, 2) if optimizer.tunable else ())
    ]
    metric = moving.preconditioner(held, grads, params)
    try:
        found = optimizer.recursion(state, params)
    except ValueError:
        recursion = None  # a threshold without a recurrence: the multipliers decide
    else:
        lr, decay = (jnp.asarray(x, dtype=float) for x in (found.lr, found.weight_decay))
        curvatures = jnp.asarray(_SHARES) * threshold + found.shift
        matrices = jax.vmap(lambda s: found.rule.recurrence(s, lr, decay))(
            jnp.concatenate([jnp.array([0.0, 1.0]), curvatures])
        )
        recursion = lr, matrices

    def bent(share: Array, params: PyTree) -> PyTree:
        image = metric.mv(params)
        return jax.tree.map(lambda leaf: (share * threshold).astype(leaf.dtype) * leaf, image)

    response = sizes = jacobians = None
    if isinstance(moving, AbstractGradientOptimizer):
        update = moving.update
        response = jax.jvp(lambda g: update(g, held, params)[0], (zero,), (metric.mv(v),))[1]
    if optimizer.freezable:
        steady = with_threshold(moving, threshold) if optimizer.tunable else moving

        def sizes_at(share: Array) -> Array:
            def step(carry: Any, _: None) -> tuple[Any, Array]:
                params, state = carry
                params, state = steady.step(_quadratic_gradient, params, state, bent(share, params))
                return (params, state), jnp.linalg.norm(_flat(params))

            return jax.lax.scan(step, (check.random(10), held), length=_SIMULATED)[1]

        sizes = jax.vmap(sizes_at)(jnp.asarray(_FROZEN_SHARES))
    elif optimizer.is_update_map:
        floats, rest = eqx.partition(state, eqx.is_inexact_array)

        def jacobian_at(share: Array) -> Array:
            return _jacobian(check, floats, rest, lambda away: bent(share, away))

        jacobians = jax.vmap(jacobian_at)(jnp.asarray(_LIVE_SHARES))
    return _Measurements(threshold, rate, tuned, recursion, response, sizes, jacobians)


def _jacobian(check: _Check, floats: PyTree, rest: PyTree, gradient: Callable) -> Array:
    """The Jacobian of a step as a map of parameters and state, at the minimum of a quadratic."""
    point = (check.params, floats)
    leaves, treedef = jax.tree.flatten(point)

    def update(point: tuple[PyTree, PyTree]) -> PyTree:
        params, floats = point
        grads = gradient(jax.tree.map(jnp.subtract, params, check.params))
        params, after = check.step(params, eqx.combine(floats, rest), grads)
        return params, eqx.filter(after, eqx.is_inexact_array)

    def column(unit: Array) -> Array:
        ends = np.cumsum([leaf.size for leaf in leaves])[:-1].tolist()
        parts = [
            jnp.reshape(part, leaf.shape).astype(leaf.dtype)
            for part, leaf in zip(jnp.split(unit, ends), leaves, strict=True)
        ]
        return _flat(jax.jvp(update, (point,), (jax.tree.unflatten(treedef, parts),))[1])

    return jax.vmap(column)(jnp.eye(sum(leaf.size for leaf in leaves)))


def _check_threshold(check: _Check, state: Any) -> None:
    """Check the threshold against the recurrence, the step, and a quadratic."""
    found = jax.jit(lambda state: _measurements(check, state))(state)
    threshold, rate = float(found.threshold), float(found.rate)
    if not 0 < threshold < np.inf:
        check.refuse(
            f"the threshold after {check.steps} steps is {threshold:.4g}, at a learning rate of "
            f"{rate:.4g}: it cannot be checked where nothing moves, or decay alone diverges; "
            "pass other `steps` or another schedule."
        )
    for share, tuned in enumerate(found.tuned, start=1):
        if not np.isclose(float(tuned), share * threshold, rtol=check.rtol):
            check.refuse(
                f"with_threshold gives it a threshold of {float(tuned):.6g} in place of "
                f"{share * threshold:.6g}: a threshold has to be A / lr - B w."
            )
    if found.recursion is not None:
        _check_recurrence(check, found)
    if found.sizes is not None:
        quarter = _SIMULATED // 4
        for share, sizes in zip(_FROZEN_SHARES, np.asarray(found.sizes), strict=True):
            before, after = sizes[quarter : 2 * quarter].max(), sizes[3 * quarter :].max()
            if (not np.isfinite(after) or after > before) != (share > 1):
                check.refuse(
                    f"with P frozen a quadratic {'converges' if share > 1 else 'diverges'} at "
                    f"{share} times the threshold {threshold:.6g}: the size of the iterate goes "
                    f"from {before:.2g} to {after:.2g}."
                )
    if found.jacobians is not None:
        for share, matrix in zip(_LIVE_SHARES, np.asarray(found.jacobians, float), strict=True):
            least = float(np.linalg.eigvals(matrix).real.min())
            if (least < -1) != (share > 1):
                check.refuse(
                    f"at {share} times the threshold {threshold:.6g} the smallest multiplier of "
                    f"its update on a quadratic is {least:.4g}: it has to pass -1 at the threshold."
                )


def _check_recurrence(check: _Check, found: _Measurements) -> None:
    """Check that the spectral radius passes 1 at the threshold, and the step's learning rate."""
    assert found.recursion is not None
    lr, matrices = float(found.recursion[0]), np.asarray(found.recursion[1], float)
    threshold, rate = float(found.threshold), float(found.rate)
    for share, matrix in zip(_SHARES, matrices[2:], strict=True):
        radius = float(np.abs(np.linalg.eigvals(matrix)).max())
        if radius > 1 + 1e-6 if share < 1 else not radius > 1:
            check.refuse(
                f"the spectral radius of its recurrence is {radius:.6g} at {share:.4g} times the "
                f"threshold {threshold:.6g}: it has to pass 1 at the threshold."
            )
    if not np.isclose(rate, lr, rtol=check.rtol):
        check.refuse(f"learning_rate is {rate:.6g}, and that of its recursion {lr:.6g}.")
    seen = _along(check, found.response, check.random(9), "the response to P v", 0.05)
    # A settled rule responds to `P v` by `lr now v`.
    wanted = float(matrices[0][0, 0] - matrices[1][0, 0])
    if not np.isclose(seen, wanted, rtol=0.03):
        check.refuse(
            f"a step responds to P v by -{seen:.4g} v, but by its recursion, at the learning rate "
            f"{rate:.4g}, it should respond by -{wanted:.4g} v: the learning rates differ."
        )
