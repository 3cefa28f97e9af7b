"""`eigensolve`, and the two drivers that every solver shares."""

import dataclasses
from typing import Any, Literal, SupportsIndex

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Bool, Float, Int, PyTree

from aeoskit.sharding import place_like

from .._platform import bundle_scalars, loop_mode, platform_of
from .._results import RESULTS, EigenSolution
from ..operators._layout import (
    PackedOperator,
    WidenedOperator,
    is_packed,
    narrow_unit,
    pack,
    packable,
    packed_structure,
    product_error,
    unpack,
)
from ..vectors._tree import block_zeros, tree_dtype, tree_size, vector_structure
from ._arguments import Start, as_start, check_arguments, from_host, with_numbers
from ._derivatives import with_derivatives, without_tangents
from ._lanczos import Lanczos
from ._solver import AbstractEigenSolver, EigenProblem

# The compiled program: everything in one while loop.


def _solve(
    operator: lx.AbstractLinearOperator,
    solver: AbstractEigenSolver,
    problem: EigenProblem,
    start: Start,
) -> EigenSolution:
    operator, state = _begin(operator, solver, problem, start)
    flat, restore = bundle_scalars(state)
    flat = jax.lax.while_loop(
        lambda s: ~solver.terminate(operator, problem, restore(s)),
        lambda s: bundle_scalars(solver.step(operator, problem, restore(s)))[0],
        flat,
    )
    state = restore(flat)
    return _end(operator, solver, problem, state, start)


def _begin(
    operator: lx.AbstractLinearOperator,
    solver: AbstractEigenSolver,
    problem: EigenProblem,
    start: Start,
) -> tuple[lx.AbstractLinearOperator, PyTree]:
    operator = lx.linearise(operator)
    if start.block is not None:
        block = place_like(start.block, vector_structure(operator), rows=True)
        start = dataclasses.replace(start, block=block)
    return operator, solver.init(operator, problem, start)


def _end(
    operator: lx.AbstractLinearOperator,
    solver: AbstractEigenSolver,
    problem: EigenProblem,
    state: PyTree,
    start: Start,
) -> EigenSolution:
    solution = solver.finish(operator, problem, state, start)
    error = 0.0 if solver.eager else product_error(operator)
    if error:
        solution = _with_error(solution, solver, error, solver.norm_seen(state))
    return _unpacked(operator, solution)


def _with_error(
    solution: EigenSolution, solver: Any, error: float, norm_seen: Float[Array, ""]
) -> EigenSolution:
    """The solution with what products are off by in residuals and verdict: the solver saw none."""
    size = jnp.where(jnp.isfinite(solution.values), jnp.abs(solution.values), 0)
    off = error * jnp.maximum(norm_seen, jnp.max(size))
    residuals = solution.residuals + off
    allowed = getattr(solver, "rtol", jnp.inf) * size + getattr(solver, "atol", 0.0)
    converged = solution.converged & (residuals <= allowed)
    missed = (solution.result == RESULTS.successful) & ~jnp.all(converged)
    return dataclasses.replace(
        solution,
        residuals=residuals,
        bounds=solution.bounds + off,
        estimates=solution.estimates + off,
        converged=converged,
        is_top=solution.is_top & converged,
        result=RESULTS.where(missed, RESULTS.stagnation, solution.result),
    )


def _unpacked(operator: lx.AbstractLinearOperator, solution: EigenSolution) -> EigenSolution:
    if not isinstance(operator, PackedOperator):
        return solution
    vectors = unpack(solution.vectors, operator.operator.in_structure())
    return dataclasses.replace(solution, vectors=vectors)


_compiled_solve = eqx.filter_jit(_solve)


# The host driver: the same functions, a dispatch a product. A solver that is eager runs as it is;
# for the others a step is compiled as a whole.


_linearise = eqx.filter_jit(lambda operator: lx.linearise(operator))
_host_begin = eqx.filter_jit(_begin)


@eqx.filter_jit(donate="all-except-first")
def _host_step(
    inputs: tuple[lx.AbstractLinearOperator, AbstractEigenSolver, EigenProblem], state: PyTree
) -> tuple[PyTree, Bool[Array, ""]]:
    operator, solver, problem = inputs
    state = solver.step(operator, problem, state)
    return state, solver.terminate(operator, problem, state)


@eqx.filter_jit
def _host_finish(
    inputs: tuple[lx.AbstractLinearOperator, AbstractEigenSolver, EigenProblem, Start],
    state: PyTree,
) -> EigenSolution:
    operator, solver, problem, start = inputs
    return _end(operator, solver, problem, state, start)


def _host_solve(
    operator: lx.AbstractLinearOperator,
    solver: AbstractEigenSolver,
    problem: EigenProblem,
    start: Start,
) -> EigenSolution:
    if solver.eager:
        return _eager_solve(operator, solver, problem, start)
    operator, state = _host_begin(operator, solver, problem, start)
    inputs = (operator, solver, problem)
    done = False
    while not done:
        state, flag = _host_step(inputs, state)
        done = bool(flag)
    return _host_finish((*inputs, start), state)


def _eager_solve(
    operator: lx.AbstractLinearOperator,
    solver: AbstractEigenSolver,
    problem: EigenProblem,
    start: Start,
) -> EigenSolution:
    operator = _linearise(operator)
    solver, problem, small = jax.device_get(
        (solver, problem, dataclasses.replace(start, block=None))
    )
    start = dataclasses.replace(small, block=start.block)
    # As in a compiled program: non-finite numbers are results, not warnings.
    with np.errstate(all="ignore"):
        state = solver.init(operator, problem, start)
        while not solver.terminate(operator, problem, state):
            state = solver.step(operator, problem, state)
        solution = solver.finish(operator, problem, state, start)
    return _unpacked(operator, solution)


def _traced(tree: PyTree) -> bool:
    return any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(tree))


def eigensolve(
    operator: lx.AbstractLinearOperator,
    solver: AbstractEigenSolver | None = None,
    *,
    k: SupportsIndex = 1,
    which: str = "largest",
    start: Any = None,
    max_matvecs: int | Int[Array, ""] | None = None,
    throw: bool = False,
    driver: Literal["compiled", "host", "auto"] = "auto",
    linear_solver: lx.AbstractLinearSolver | None = None,
) -> EigenSolution:
    """Eigenpairs of a linear operator, each with its residual.

    The cost is `solution.stats["matvecs"]` products, and one `lineax.linearise`.

    **Derivatives.** `values` and `vectors` are differentiable in every floating-point leaf of a
    symmetric operator, in both modes and repeatedly; all else has zero tangents. A value costs the
    derivative of one product (`vᵀ(dA)v`), a vector one linear solve on the complement of the pairs
    found (by `jax.jvp` outside of jit even if only `values` are used), and is NaN where that fails.
    The error is of first order in the residual: use a tight `rtol`. Pairs whose error bars touch
    are one group: each value has the derivative of the group's mean, and vectors do not turn inside
    it. Ask for all of a repeated eigenvalue: copies that were not asked for are not seen.

    **Formats.** Vectors, values and all bookkeeping are of float32 at least. An operator whose own
    leaves are bfloat16 or float16 gets them rounded, and every residual includes that: it has the
    format's relative rounding (8e-3, 1e-3) times the largest value found, so that a smaller `rtol`
    ends in `RESULTS.stagnation`.

    Args:
        operator: A `lineax.AbstractLinearOperator` on any pytree of real floating-point leaves,
            tagged symmetric (all solvers but `Arnoldi` ask for that).
        solver: `Lanczos()` if None.
        k: How many pairs.
        which: "largest" or "smallest" (algebraic), "both" (half from each end, the odd one from
            the top), "largest_magnitude"; each solver's docstring names its own.
        start: None (a fixed key), a PRNG key, a vector, a block of vectors (leaves
            `(p, *leaf)`), or the `state` of an earlier solution (a warm start).
        max_matvecs: Budget of matrix-vector products; None asks the solver (`20 * basis` for
            Lanczos).
        throw: Raise on the host if the solve did not succeed. Not under a transformation.
        driver: "compiled" (one while loop), "host" (one dispatch a product), "auto": see
            `loop_mode`; under a transformation always compiled.
        linear_solver: A lineax solver for derivatives of vectors (and second ones of values);
            its tolerances are relative. By default `lineax.CG`, since at an end of the spectrum
            the system is definite; for interior values `MINRES`.

    Returns:
        An `EigenSolution`; `converged` means that a pair is an eigenpair, not that it is the top.

    Raises:
        ValueError: The question is malformed (before any work).
        TypeError: The operator is not a lineax operator.
        equinox.EquinoxRuntimeError: `throw`, and the solve failed.

    Example:
        >>> matrix = jnp.diag(jnp.array([3.0, 1.0, -5.0]))
        >>> operator = lx.MatrixLinearOperator(matrix, lx.symmetric_tag)
        >>> solution = eigensolve(operator)
        >>> float(solution.values[0])
        3.0
    """
    solver = Lanczos() if solver is None else solver
    count = check_arguments(operator, solver, k, which, max_matvecs)
    if narrow_unit(operator.in_structure()):
        operator = WidenedOperator(operator)
    structure = operator.in_structure()
    if max_matvecs is None:
        max_matvecs = solver.default_max_matvecs(tree_size(structure))
    begin = as_start(start, structure)
    traced = _traced((operator, solver, max_matvecs, begin))
    if driver not in ("compiled", "host", "auto"):
        raise ValueError(f"eigensolve(driver={driver!r}): choose compiled, host or auto.")
    if traced and (throw or driver == "host"):
        option = "throw=True" if throw else 'driver="host"'
        raise ValueError(
            f"eigensolve({option}) works on the host, not under jit, vmap or scan: leave it out "
            "and look at `solution.result`."
        )
    where = driver
    if where == "auto" and not traced:
        several = jax.process_count() > 1
        where = "host" if solver.eager and not several else _mode(operator, structure)
    # Numbers stay on the host for a solver that runs there.
    array = np.asarray if where == "host" and solver.eager else from_host
    placed = with_numbers(solver, lambda x: array(x, tree_dtype(structure)))
    on_device = isinstance(max_matvecs, jax.Array)
    problem = EigenProblem(
        k=count,
        which=which,
        dimension=tree_size(structure),
        max_matvecs=max_matvecs.astype(jnp.int32) if on_device else array(max_matvecs, np.int32),
    )
    if where != "host":
        solver.check_platform(platform_of(operator))
    flat, begin = _prepare(operator, solver, problem, begin, isinstance(start, Start))
    run = _host_solve if where == "host" else _compiled_solve
    if not traced:
        solution = run(flat, placed, problem, begin)
    else:
        constant = without_tangents((flat, placed, problem, begin))
        solution = with_derivatives(operator, run(*constant), which, linear_solver)
    if throw and not any(bool(solution.result == x) for x in _SUCCESSFUL):
        raise eqx.EquinoxRuntimeError(RESULTS[solution.result])
    return solution


_SUCCESSFUL = (RESULTS.successful, RESULTS.estimate_met)


def _product(operator: lx.AbstractLinearOperator, vector: PyTree) -> PyTree:
    return operator.mv(vector)


def _mode(operator: lx.AbstractLinearOperator, structure: PyTree) -> str:
    zeros = jax.tree.map(lambda s: jax.ShapeDtypeStruct(s.shape, s.dtype), structure)
    return loop_mode(_product, operator, zeros)


def _prepare(
    operator: lx.AbstractLinearOperator,
    solver: AbstractEigenSolver,
    problem: EigenProblem,
    start: Start,
    is_state: bool,
) -> tuple[lx.AbstractLinearOperator, Start]:
    """The operator and the start, packed where that gathers nothing; a start that is never empty.

    A start for which there is no state yet has the shapes of one: cold and warm are one program.
    """
    structure = operator.in_structure()
    memory = solver.blank_memory(structure, problem.k)
    if type(start.memory) is not type(memory):
        # Of another solver's state only the block is used, and nothing of a blank one.
        blank = not isinstance(start.fresh, Tracer) and bool(start.fresh)
        start = dataclasses.replace(start, memory=None, block=None if blank else start.block)
    flat = start.block is not None and is_packed(start.block, structure)
    layout = vector_structure(operator)
    packs = packable(layout, operator)
    if start.block is not None and is_state:
        # A state keeps its layout, so that a scan can carry it, unless its vectors are sharded.
        packs = flat and packable(layout, ())
    if start.block is None and memory is not None:
        block = block_zeros(
            packed_structure(structure) if packs else layout,
            solver.block_size(structure, problem.k),
        )
        start = dataclasses.replace(start, block=block, memory=from_host(memory))
    elif start.block is not None and flat != packs:
        move = (
            (lambda b: pack(b, structure, rows=True)) if packs else lambda b: unpack(b, structure)
        )
        start = dataclasses.replace(start, block=move(start.block))
    if start.memory is not None and _shapes(start.memory) != _shapes(memory):
        raise ValueError(
            f"eigensolve(start=...): the state is that of a solve for another k, or of "
            f"{type(solver).__name__} with other options: pass its `block`, or a PRNG key."
        )
    return (PackedOperator(operator) if packs else operator), start


def _shapes(memory: PyTree) -> Any:
    leaves, treedef = jax.tree.flatten(memory)
    return [x.shape for x in leaves], treedef
