"""Sharpness and preconditioned sharpness, as functions and as probes."""

from typing import Any, Literal

import equinox as eqx
import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import Array, Float, Inexact, Int, PRNGKeyArray, PyTree

from aeoskit.linalg import (
    AbstractEigenSolver,
    EigenSolution,
    PreconditionedOperator,
    Tracking,
    tree_dot,
)
from aeoskit.linalg.extend import check_is_solver
from aeoskit.objective import HessianOperator, Linearization, Objective
from aeoskit.optimizers import as_optimizer

from ._base import AbstractProbe, Measurement, ProbeContext, check_every, check_k
from ._budget import check_overhead
from ._criterion import criterion
from ._top import solve_top


def sharpness(
    objective: Objective,
    params: PyTree,
    *,
    k: int = 1,
    solver: AbstractEigenSolver | None = None,
    start: Any = None,
    max_matvecs: int | Int[Array, ""] | None = None,
    driver: Literal["compiled", "host", "auto"] = "auto",
    linearization: Linearization | None = None,
) -> EigenSolution:
    """The largest eigenvalues of the loss's Hessian, `λ₁(H) ≥ λ₂(H) ≥ …`.

    Args:
        objective: the mean loss over the data.
        params: where to take the Hessian: any pytree of floating arrays.
        k: how many eigenvalues.
        solver: an eigen-solver; by default `Lanczos()`, and `Arnoldi()` if the field that trains is
            no gradient (`Objective(symmetric=...)`).
        start: a PRNG key, a vector, a block or the `state` of the previous solution (warm start).
        max_matvecs: budget of Hessian-vector products.
        driver: `"compiled"`, `"host"` or `"auto"`, as in `eigensolve`.
        linearization: `objective.linearize(params)`, where a training step has it.

    Returns:
        An `EigenSolution`: `values` (k,), with `residuals`, `bounds`, `result`, and `state` for the
        next call's `start`. Where the field that trains is no gradient they are the eigenvalues of
        largest real part of its Jacobian, complex: gradient descent along it is stable in the mode
        of an eigenvalue μ up to the learning rate `2 Re(μ) / |μ|²`. Where loss or gradient are not
        finite, values are NaN and `result` is `nonfinite`.

    Raises:
        TypeError: the solver is not one.
        ValueError: the linearization is that of other params; or the solver is for symmetric
            operators, and the field that trains is no gradient.

    Costs `stats["matvecs"]` Hessian-vector products.

    Example:
        >>> import jax.numpy as jnp
        >>> import aeoskit as ak
        >>> def loss(params, batch):
        ...     return 0.5 * (batch @ params["w"]) ** 2
        >>> objective = ak.Objective(loss, jnp.diag(jnp.array([1.0, 2.0, 3.0])))
        >>> solution = ak.sharpness(objective, {"w": jnp.zeros(3)})
        >>> print(f"{solution.values[0]:.3f}")
        3.000
    """
    return solve_top(
        _hessian(objective, params, linearization),
        solver,
        k=k,
        start=start,
        max_matvecs=max_matvecs,
        driver=driver,
    )


def _hessian(
    objective: Objective, params: PyTree, linearization: Linearization | None
) -> HessianOperator:
    """The Hessian there, of a linearization that is shown to be that of objective and params."""
    if linearization is None:
        return objective.hessian(params)
    if not isinstance(linearization, Linearization):
        raise TypeError(
            f"linearization is a {type(linearization).__name__}: pass objective.linearize(params)"
        )
    hessian = linearization.hessian
    remedy = "pass linearization=objective.linearize(params), made anew after each step"
    if _is_traced(params) and not _is_traced(hessian.params):
        raise ValueError(
            "params are traced and linearization is not, so that it would be a constant under the "
            f"transformation: {remedy}, inside of it"
        )
    for name, linearized, given in (
        ("params", hessian.params, params),
        ("objective", hessian.objective, objective),
    ):
        if not _is_same(linearized, given):
            raise ValueError(f"linearization was made with other {name} than those here: {remedy}")
    return hessian


def _is_traced(tree: PyTree) -> bool:
    return any(isinstance(x, Tracer) for x in jax.tree.leaves(tree))


def _is_same(one: PyTree, two: PyTree) -> bool:
    """True if two trees are equal, NaN included; traced arrays are taken to be."""
    (leaves, treedef), (others, other) = jax.tree.flatten(one), jax.tree.flatten(two)
    return treedef == other and all(map(_is_equal, leaves, others))


def _is_equal(x: Any, y: Any) -> bool:
    if x is y or isinstance(x, Tracer) or isinstance(y, Tracer):
        return True
    x, y = jnp.asarray(x), jnp.asarray(y)
    if (x.shape, x.dtype) != (y.shape, y.dtype):
        return False
    if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
        x, y = jax.random.key_data(x), jax.random.key_data(y)
    return bool(jnp.array_equal(x, y, equal_nan=True))


class PreconditionedSharpnessSolution(eqx.Module):
    """The preconditioned sharpness, its threshold and their ratio.

    Attributes:
        values: the largest eigenvalues of `P⁻¹H`, (k,); complex, by falling real part, where the
            field that trains is no gradient.
        threshold: the optimizer's stability threshold in the same units (`38/η` for Adam).
        ratio: `values[0] / threshold`; 1 is the edge of stability. NaN if that value is complex,
            of which the threshold does not speak: `leading_multipliers` of the step does.
        bounds: error bar of each value, (k,).
        solution: the whole `EigenSolution`: residuals, result, products spent, warm start.

    Example:
        >>> import jax.numpy as jnp
        >>> import aeoskit as ak
        >>> objective = ak.Objective(lambda w, x: 0.5 * (x @ w - 1.0) ** 2, jnp.eye(2))
        >>> params, optimizer = jnp.zeros(2), ak.gradient_descent(1.0)
        >>> edge = ak.preconditioned_sharpness(objective, params, optimizer, optimizer.init(params))
        >>> print(f"{edge.ratio:.2f}")
        0.25
    """

    values: Inexact[Array, " k"]
    threshold: Float[Array, ""]
    ratio: Float[Array, ""]
    bounds: Float[Array, " k"]
    solution: EigenSolution


def preconditioned_operator(
    objective: Objective,
    params: PyTree,
    optimizer: Any,
    optimizer_state: Any,
    grads: PyTree,
) -> PreconditionedOperator:
    """The symmetric operator `P^{-1/2} H P^{-1/2}`, with the P of the coming step.

    It has the eigenvalues of `P⁻¹H` (arXiv 2207.14484, section 2).

    Args:
        objective: the mean loss over the data.
        params: where to take the Hessian.
        optimizer: the optimizer whose metric it is.
        optimizer_state: its state before the coming step.
        grads: the gradient that the coming step uses.

    Returns:
        A lineax operator; its `to_original` takes an eigenvector back to the coordinates of params.

    Example:
        >>> import jax.numpy as jnp
        >>> import aeoskit as ak
        >>> objective = ak.Objective(lambda w, x: 0.5 * (x @ w - 1.0) ** 2, jnp.eye(2))
        >>> params, optimizer = jnp.zeros(2), ak.gradient_descent(0.1)
        >>> operator = ak.probes.preconditioned_operator(
        ...     objective, params, optimizer, optimizer.init(params), objective.gradient(params))
        >>> operator.mv(jnp.array([1.0, 2.0])).tolist()
        [0.5, 1.0]
    """
    return _operator(objective.hessian(params), optimizer, optimizer_state, grads)


def _operator(
    hessian: HessianOperator, optimizer: Any, optimizer_state: Any, grads: PyTree
) -> PreconditionedOperator:
    preconditioner = _with_metric(optimizer).preconditioner(optimizer_state, grads, hessian.params)
    return PreconditionedOperator(hessian, preconditioner)


_jitted_operator = eqx.filter_jit(_operator)


@eqx.filter_jit
def _jitted_gradient(objective, params):
    return objective.gradient(params)


@eqx.filter_jit
def _jitted_threshold(optimizer, optimizer_state, params):
    return optimizer.threshold(optimizer_state, params)


def _with_metric(optimizer: Any) -> Any:
    """The optimizer with a metric and a threshold: those of others through their bridges."""
    return optimizer if hasattr(optimizer, "preconditioner") else as_optimizer(optimizer)


def preconditioned_sharpness(
    objective: Objective,
    params: PyTree,
    optimizer: Any,
    optimizer_state: Any,
    *,
    grads: PyTree | None = None,
    k: int = 1,
    solver: AbstractEigenSolver | None = None,
    start: Any = None,
    max_matvecs: int | Int[Array, ""] | None = None,
    driver: Literal["compiled", "host", "auto"] = "auto",
    linearization: Linearization | None = None,
) -> PreconditionedSharpnessSolution:
    """The largest eigenvalues of `P⁻¹H` and the stability threshold that they meet at the edge.

    P is the preconditioner that the step out of `params` uses: it has already seen the gradient
    there. The eigenvalues are those of the symmetric `P^{-1/2} H P^{-1/2}` (arXiv 2207.14484).

    Args:
        objective: the mean loss over the data.
        params: any pytree of floating arrays.
        optimizer: for example `adam(1e-3)`, or an optax transformation that `from_optax` knows.
        optimizer_state: the optimizer's state before the coming step.
        grads: the gradient of the coming step; by default the full-batch gradient at `params`
            (pass the minibatch gradient in minibatch training).
        k: how many eigenvalues.
        solver: an eigen-solver; by default `Lanczos()`, and `Arnoldi()` if the field that trains is
            no gradient (`Objective(symmetric=...)`).
        start: a PRNG key, a vector, a block or the previous `solution.state` (warm start).
        max_matvecs: budget of Hessian-vector products.
        driver: `"compiled"`, `"host"` or `"auto"`, as in `eigensolve`.
        linearization: `objective.linearize(params)`, where a training step has it; its gradient is
            the default of `grads` then.

    Returns:
        `PreconditionedSharpnessSolution`: `values`, `threshold`, `ratio`, `bounds`, `solution`.
        Where the loss, its gradient or P are not finite, values are NaN and the solution's `result`
        is `nonfinite`. At learning rate 0 the threshold is infinite and the ratio 0.

    Raises:
        TypeError: the solver is not one, or the optimizer is not known.
        ValueError: as for `sharpness`.

    Costs `solution.stats["matvecs"]` Hessian-vector products, and one gradient if none was passed.

    Example:
        >>> import jax.numpy as jnp
        >>> import aeoskit as ak
        >>> objective = ak.Objective(lambda w, x: 0.5 * (x @ w - 1.0) ** 2, jnp.eye(2))
        >>> params, optimizer = jnp.zeros(2), ak.gradient_descent(4.0)
        >>> edge = ak.preconditioned_sharpness(objective, params, optimizer, optimizer.init(params))
        >>> print(f"{edge.values[0]:.2f} of {edge.threshold:.2f}: ratio {edge.ratio:.2f}")
        0.50 of 0.50: ratio 1.00
    """
    if grads is None and linearization is not None:
        grads = linearization.grads
    if grads is None:
        grads = _jitted_gradient(objective, params)
    hessian = _hessian(objective, params, linearization)
    options = {"k": k, "start": start, "max_matvecs": max_matvecs, "driver": driver}
    edge, _ = _edge(hessian, optimizer, optimizer_state, grads, solver, **options)
    return edge


def _edge(
    hessian: HessianOperator,
    optimizer: Any,
    optimizer_state: Any,
    grads: PyTree,
    solver: AbstractEigenSolver | None,
    **options: Any,
) -> tuple[PreconditionedSharpnessSolution, PreconditionedOperator]:
    optimizer = _with_metric(optimizer)
    operator = _jitted_operator(hessian, optimizer, optimizer_state, grads)
    solution = solve_top(operator, solver, **options)
    threshold = _jitted_threshold(optimizer, optimizer_state, hessian.params)
    threshold = threshold.astype(solution.residuals.dtype)
    top = solution.values[0]
    if jnp.iscomplexobj(top):  # thresholds are those of real eigenvalues
        top = jnp.where(top.imag == 0, top.real, jnp.nan)
    edge = PreconditionedSharpnessSolution(
        values=solution.values,
        threshold=threshold,
        ratio=top / threshold,
        bounds=solution.bounds,
        solution=solution,
    )
    return edge, operator


@eqx.filter_jit
def _metric_at_top(solution: EigenSolution, operator: PreconditionedOperator) -> Float[Array, ""]:
    """`vᵀPv` along the top direction v of `P⁻¹H`, of unit length in the parameters' own norm."""
    top = jax.tree.map(lambda block: block[0], solution.vectors)
    parts = (
        [jax.tree.map(part, top) for part in (jnp.real, jnp.imag)]
        if any(map(jnp.iscomplexobj, jax.tree.leaves(top)))
        else [top]
    )
    # v is P^{-1/2}u over its length, for a unit eigenvector u of P^{-1/2} H P^{-1/2}.
    originals = [operator.to_original(part) for part in parts]
    squared = sum(tree_dot(vector, vector) for vector in originals)
    return jnp.where(squared > 0, 1 / squared, jnp.nan)


def probe_solver() -> Tracking:
    """The solver of a probe: it ends when the estimated error of the value is under a per cent.

    The estimate covers the error in nine of ten measurements along most trainings, and most errors
    are a hundredth of it (`aeoskit bench accuracy`). `solver=Tracking()` asks for residuals, and
    `Tracking(value_rtol=0.01, explore_every=1)` sees sooner what else has risen to the top.

    Returns:
        `Tracking(value_rtol=0.01)`.

    Example:
        >>> probe_solver().value_rtol
        0.01
    """
    return Tracking(value_rtol=0.01)


def _names(prefix: str) -> tuple[str, ...]:
    parts = ("residual", "converged", "matvecs", "criterion")
    return (prefix, *(f"{prefix}_{part}" for part in parts))


def _measurement_of(
    prefix: str, solution: EigenSolution, solver: AbstractEigenSolver
) -> Measurement:
    measured = (
        solution.values.real,
        solution.residuals,
        solution.converged,
        jnp.asarray(solution.stats["matvecs"]),
        criterion(solution, solver),
    )
    return dict(zip(_names(prefix), measured, strict=True))


class _AbstractTop(AbstractProbe):
    """A probe of the largest eigenvalues of a curvature, each solve warm-started by the last."""

    k: int = eqx.field(static=True, default=1, converter=check_k)
    every: int = eqx.field(static=True, default=1, converter=check_every)
    solver: AbstractEigenSolver = eqx.field(default_factory=probe_solver, converter=check_is_solver)
    max_matvecs: int | None = eqx.field(static=True, default=None)
    objective: Objective | None = None
    overhead: float | None = eqx.field(static=True, default=None, converter=check_overhead)

    @property
    def solves(self) -> bool:
        return True

    @property
    def linearizes(self) -> bool:
        return self.objective is None

    def init(self, params: PyTree, key: PRNGKeyArray) -> Any:
        """A cold start; a probe that can never measure is refused here, before the run begins."""
        structure = jax.eval_shape(lambda: params)
        dimension = sum(leaf.size for leaf in jax.tree.leaves(structure))
        if self.k > dimension:
            raise ValueError(
                f"k is {self.k}, but the model has {dimension} parameters, and its Hessian as many "
                f"eigenvalues; track at most {dimension}."
            )
        return self.solver.initial_state(params, self.k, key)

    def _hessian(self, context: ProbeContext) -> HessianOperator:
        """The Hessian at the point, linearized where the step has done that."""
        if self.linearizes and context.linearization is not None:
            return context.linearization.hessian
        objective = context.objective if self.objective is None else self.objective
        return objective.hessian(context.params)

    def _options(self, context: ProbeContext, state: Any) -> dict[str, Any]:
        """The options of the solve; a lane that diverged gets one product."""
        budget = self.max_matvecs
        if budget is None:
            dimension = sum(leaf.size for leaf in jax.tree.leaves(context.params))
            budget = self.solver.default_max_matvecs(dimension)
        return {
            "k": self.k,
            "start": state,
            "max_matvecs": jnp.where(context.active, budget, 1),
            "driver": context.driver,
        }


class Sharpness(_AbstractTop):
    """Tracks the largest eigenvalues of the Hessian, each solve warm-started by the last.

    Args:
        k: how many eigenvalues.
        every: period in steps.
        solver: an eigen-solver; `Tracking(value_rtol=0.01)` by default.
        max_matvecs: budget of products for one measurement.
        objective: the objective whose Hessian it is, such as a fixed probe batch,
            `objective.on_batch(indices)`; None for all of the trajectory's data.
        overhead: budget of time along a trajectory: the probe's seconds over those of the training
            steps, compilation and the first measurement excluded. `every` is then the shortest
            period, the solver's `value_rtol` the tightest tolerance, and `stream` adapts both.
            None: neither changes.

    Measures `sharpness` (k,), `sharpness_residual` (k,), `sharpness_converged` (k,),
    `sharpness_matvecs` (the products spent) and `sharpness_criterion` (k,), the criterion that
    was met: 0 nothing, 1 the residual's tolerance, 2 the value's. With `overhead` a trajectory adds
    `sharpness_period`, `sharpness_value_rtol` and `sharpness_overhead`, what it came to lately.

    Example:
        >>> import aeoskit as ak
        >>> ak.Sharpness(k=2, every=50).every
        50
    """

    @property
    def measures(self) -> tuple[str, ...]:
        return _names("sharpness")

    def measure(self, context: ProbeContext, state: Any) -> tuple[Measurement, Any]:
        solution = solve_top(self._hessian(context), self.solver, **self._options(context, state))
        return _measurement_of("sharpness", solution, self.solver), solution.state


class PreconditionedSharpness(_AbstractTop):
    """Tracks the largest eigenvalues of `P⁻¹H` and their threshold, each solve warm-started.

    Args:
        k: how many eigenvalues.
        every: period in steps.
        solver: an eigen-solver; `Tracking(value_rtol=0.01)` by default.
        max_matvecs: budget of products for one measurement.
        objective: the objective whose Hessian it is, such as a fixed probe batch,
            `objective.on_batch(indices)`; None for all of the trajectory's data.
        overhead: budget of time along a trajectory: the probe's seconds over those of the training
            steps, compilation and the first measurement excluded. `every` is then the shortest
            period, the solver's `value_rtol` the tightest tolerance, and `stream` adapts both.
            None: neither changes.

    Measures `preconditioned_sharpness` (k,) with `_residual` (k,), `_converged` (k,), `_matvecs`
    and `_criterion` (k,), and with `overhead` more, as `Sharpness` does; `ratio` (the largest
    eigenvalue over the optimizer's threshold; 1 is the edge); and `metric_at_top`, `vᵀPv` for the
    top direction v of `P⁻¹H`, of unit length in the parameters' own norm: `vᵀHv` is the eigenvalue
    times that, so that at the edge P grows along v as the curvature does.

    Example:
        >>> import aeoskit as ak
        >>> ak.PreconditionedSharpness(every=10).k
        1
    """

    @property
    def measures(self) -> tuple[str, ...]:
        return (*_names("preconditioned_sharpness"), "ratio", "metric_at_top")

    def measure(self, context: ProbeContext, state: Any) -> tuple[Measurement, Any]:
        edge, operator = _edge(
            self._hessian(context),
            context.optimizer,
            context.optimizer_state,
            context.grads,
            self.solver,
            **self._options(context, state),
        )
        measurement = _measurement_of("preconditioned_sharpness", edge.solution, self.solver)
        measurement |= {
            "ratio": edge.ratio,
            "metric_at_top": _metric_at_top(edge.solution, operator),
        }
        return measurement, edge.solution.state
