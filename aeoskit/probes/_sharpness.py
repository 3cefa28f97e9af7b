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
)
from aeoskit.objective import HessianOperator, Linearization, Objective
from aeoskit.optimizers import as_optimizer

from ._base import AbstractProbe, Measurement, ProbeContext, check_every, check_k
from ._budget import check_overhead
from ._criterion import criterion
from ._top import top_of


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
        TypeError: the solver is none.
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
    return top_of(
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
    """The Hessian, and a refusal of one that was made elsewhere (outside of transformations)."""
    if linearization is None:
        return objective.hessian(params)
    both = jax.tree.leaves((linearization.hessian.params, params))
    if not any(isinstance(x, Tracer) for x in both) and not eqx.tree_equal(
        linearization.hessian.params, jax.tree.map(jnp.asarray, params)
    ):
        raise ValueError(
            "linearization is that of other parameters than params: make it anew after each step, "
            "linearization=objective.linearize(params)"
        )
    return linearization.hessian


class PreconditionedSharpnessSolution(eqx.Module):
    """What `preconditioned_sharpness` returns.

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
    linearization: Linearization | None = None,
) -> PreconditionedOperator:
    """The symmetric operator `P^{-1/2} H P^{-1/2}`, with the P of the coming step.

    It has the eigenvalues of `P⁻¹H` (arXiv 2207.14484, section 2).

    Args:
        objective: the mean loss over the data.
        params: where to take the Hessian.
        optimizer: the optimizer whose metric it is.
        optimizer_state: its state before the coming step.
        grads: the gradient that the coming step uses.
        linearization: `objective.linearize(params)`, where it is there.

    Returns:
        A lineax operator; its `to_original` takes an eigenvector back to the coordinates of params.

    Example:
        >>> import jax.numpy as jnp
        >>> import aeoskit as ak
        >>> objective = ak.Objective(lambda w, x: 0.5 * (x @ w - 1.0) ** 2, jnp.eye(2))
        >>> params, optimizer = jnp.zeros(2), ak.gradient_descent(0.1)
        >>> operator = ak.preconditioned_operator(
        ...     objective, params, optimizer, optimizer.init(params), objective.gradient(params))
        >>> operator.mv(jnp.array([1.0, 2.0])).tolist()
        [0.5, 1.0]
    """
    preconditioner = _ours(optimizer).preconditioner(optimizer_state, grads, params)
    return PreconditionedOperator(_hessian(objective, params, linearization), preconditioner)


_jitted_preconditioned_operator = eqx.filter_jit(preconditioned_operator)


@eqx.filter_jit
def _jitted_gradient(objective, params):
    return objective.gradient(params)


@eqx.filter_jit
def _jitted_threshold(optimizer, optimizer_state, params):
    return optimizer.threshold(optimizer_state, params)


def _ours(optimizer: Any) -> Any:
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
        TypeError: the solver is none, or the optimizer is not known.
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
    optimizer = _ours(optimizer)
    _hessian(objective, params, linearization)  # checked here: inside of jit no one can
    if grads is None and linearization is not None:
        grads = linearization.grads
    if grads is None:
        grads = _jitted_gradient(objective, params)
    operator = _jitted_preconditioned_operator(
        objective, params, optimizer, optimizer_state, grads, linearization
    )
    solution = top_of(
        operator,
        solver,
        k=k,
        start=start,
        max_matvecs=max_matvecs,
        driver=driver,
    )
    threshold = _jitted_threshold(optimizer, optimizer_state, params)
    threshold = threshold.astype(solution.residuals.dtype)
    top = solution.values[0]
    if jnp.iscomplexobj(top):  # thresholds are those of real eigenvalues
        top = jnp.where(top.imag == 0, top.real, jnp.nan)
    return PreconditionedSharpnessSolution(
        values=solution.values,
        threshold=threshold,
        ratio=top / threshold,
        bounds=solution.bounds,
        solution=solution,
    )


def probe_solver() -> Tracking:
    """The solver of a probe: it ends when the estimated error of the value is under a per cent.

    The estimate covers the error in nine of ten measurements along most trainings, and most errors
    are a hundredth of it; at a tightly clustered edge (label noise, `β₂ = .99`) it covered half
    (`aeoskit bench accuracy`): pass `solver=Tracking()` for residuals of 1e-3 there.

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


def _named(prefix: str, solution: EigenSolution, solver: AbstractEigenSolver) -> Measurement:
    measured = (
        solution.values.real,
        solution.residuals,
        solution.converged,
        jnp.asarray(solution.stats["matvecs"]),
        criterion(solution, solver),
    )
    return dict(zip(_names(prefix), measured, strict=True))


def _budget(
    solver: AbstractEigenSolver, max_matvecs: int | None, context: ProbeContext
) -> Int[Array, ""]:
    if max_matvecs is None:
        dimension = sum(leaf.size for leaf in jax.tree.leaves(context.params))
        max_matvecs = solver.default_max_matvecs(dimension)
    return jnp.where(context.going, max_matvecs, 1)


def _first_state(solver: AbstractEigenSolver, k: int, params: PyTree, key: PRNGKeyArray) -> Any:
    """A cold start; a probe that can never measure is refused here, before the run begins."""
    structure = jax.eval_shape(lambda: params)
    dimension = sum(leaf.size for leaf in jax.tree.leaves(structure))
    if k > dimension:
        raise ValueError(
            f"k is {k}, but the model has {dimension} parameters, and its Hessian as many "
            f"eigenvalues; track at most {dimension}."
        )
    return solver.initial_state(params, k, key)


class Sharpness(AbstractProbe):
    """Tracks the largest eigenvalues of the Hessian, each solve warm-started by the last.

    Args:
        k: how many eigenvalues.
        every: period in steps.
        solver: an eigen-solver; `Tracking(value_rtol=0.01)` by default.
        max_matvecs: budget of products for one measurement.
        objective: whose Hessian it is: a fixed probe batch, say, as `objective.on_batch(indices)`
            makes it; None for all of the trajectory's data.
        overhead: budget of time along a trajectory: the probe's seconds over those of the training
            steps, compilation and the first measurement excluded. `every` is then the shortest
            period, the solver's `value_rtol` the tightest tolerance, and `stream` adapts both.
            None: neither changes.

    Measures `sharpness` (k,), `sharpness_residual` (k,), `sharpness_converged` (k,),
    `sharpness_matvecs` (the products spent) and `sharpness_criterion` (k,), which says what was
    met: 0 nothing, 1 the residual's tolerance, 2 the value's. With `overhead` a trajectory adds
    `sharpness_period`, `sharpness_value_rtol` and `sharpness_overhead`, what it came to lately.

    Example:
        >>> import aeoskit as ak
        >>> ak.Sharpness(k=2, every=50).every
        50
    """

    k: int = eqx.field(static=True, default=1, converter=check_k)
    every: int = eqx.field(static=True, default=1, converter=check_every)
    solver: AbstractEigenSolver = eqx.field(default_factory=probe_solver)
    max_matvecs: int | None = eqx.field(static=True, default=None)
    objective: Objective | None = None
    overhead: float | None = eqx.field(static=True, default=None, converter=check_overhead)

    @property
    def measures(self) -> tuple[str, ...]:
        return _names("sharpness")

    @property
    def solves(self) -> bool:
        return True

    @property
    def linearizes(self) -> bool:
        return self.objective is None

    def init(self, params: PyTree, key: PRNGKeyArray) -> Any:
        return _first_state(self.solver, self.k, params, key)

    def measure(self, context: ProbeContext, state: Any) -> tuple[Measurement, Any]:
        solution = sharpness(
            context.objective if self.objective is None else self.objective,
            context.params,
            k=self.k,
            solver=self.solver,
            start=state,
            max_matvecs=_budget(self.solver, self.max_matvecs, context),
            driver=context.driver,
            linearization=context.linearization if self.objective is None else None,
        )
        return _named("sharpness", solution, self.solver), solution.state


class PreconditionedSharpness(AbstractProbe):
    """Tracks the largest eigenvalues of `P⁻¹H` and their threshold, each solve warm-started.

    Args:
        k: how many eigenvalues.
        every: period in steps.
        solver: an eigen-solver; `Tracking(value_rtol=0.01)` by default.
        max_matvecs: budget of products for one measurement.
        objective: whose Hessian it is: a fixed probe batch, say, as `objective.on_batch(indices)`
            makes it; None for all of the trajectory's data.
        overhead: budget of time along a trajectory: the probe's seconds over those of the training
            steps, compilation and the first measurement excluded. `every` is then the shortest
            period, the solver's `value_rtol` the tightest tolerance, and `stream` adapts both.
            None: neither changes.

    Measures `preconditioned_sharpness` (k,) with `_residual` (k,), `_converged` (k,), `_matvecs`
    and `_criterion` (k,), and with `overhead` more, as `Sharpness` does; and `ratio` (the largest
    eigenvalue over the optimizer's threshold; 1 is the edge).

    Example:
        >>> import aeoskit as ak
        >>> ak.PreconditionedSharpness(every=10).k
        1
    """

    k: int = eqx.field(static=True, default=1, converter=check_k)
    every: int = eqx.field(static=True, default=1, converter=check_every)
    solver: AbstractEigenSolver = eqx.field(default_factory=probe_solver)
    max_matvecs: int | None = eqx.field(static=True, default=None)
    objective: Objective | None = None
    overhead: float | None = eqx.field(static=True, default=None, converter=check_overhead)

    @property
    def measures(self) -> tuple[str, ...]:
        return (*_names("preconditioned_sharpness"), "ratio")

    @property
    def solves(self) -> bool:
        return True

    @property
    def linearizes(self) -> bool:
        return self.objective is None

    def init(self, params: PyTree, key: PRNGKeyArray) -> Any:
        return _first_state(self.solver, self.k, params, key)

    def measure(self, context: ProbeContext, state: Any) -> tuple[Measurement, Any]:
        edge = preconditioned_sharpness(
            context.objective if self.objective is None else self.objective,
            context.params,
            context.optimizer,
            context.optimizer_state,
            grads=context.grads,
            k=self.k,
            solver=self.solver,
            start=state,
            max_matvecs=_budget(self.solver, self.max_matvecs, context),
            driver=context.driver,
            linearization=context.linearization if self.objective is None else None,
        )
        measurement = _named("preconditioned_sharpness", edge.solution, self.solver)
        return measurement | {"ratio": edge.ratio}, edge.solution.state
