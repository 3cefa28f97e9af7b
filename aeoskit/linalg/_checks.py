"""Contract tests of an operator and of a solver."""

import math
from typing import Any, NamedTuple, NoReturn

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.core import Tracer
from jaxtyping import Array, Float, PyTree

from ._results import RESULTS
from .solvers._arguments import check_is_solver
from .solvers._eigensolve import eigensolve
from .solvers._solver import AbstractEigenSolver
from .vectors._tree import tree_axpy, tree_dot, tree_norm, tree_random_like, tree_size

# For low precision, where the square root of epsilon would let everything pass.
_LOOSEST = 0.3


def _describe(structure: PyTree) -> str:
    keys, _ = jax.tree_util.tree_flatten_with_path(structure)
    return ", ".join(
        f"{jax.tree_util.keystr(path) or 'vector'}: {leaf.dtype}{list(leaf.shape)}"
        for path, leaf in keys
    )


def _refuse(what: str) -> NoReturn:
    raise ValueError(f"check_operator: {what}")


def check_operator(
    operator: lx.AbstractLinearOperator,
    *,
    key: Array | None = None,
    symmetric: bool | None = None,
    rtol: float | None = None,
) -> None:
    """Refuses an operator whose products are random, not finite, misshapen or not symmetric.

    Two products of one random vector have to agree: dropout, augmentation and batch statistics
    make an operator whose eigenvalues mean nothing. For a symmetric operator `<u, A v>` has to
    equal `<A u, v>`. It works on the host, outside of transformations, and costs 3 products (2 for
    an operator that is not symmetric). What it finds by random vectors is a difference that is
    spread out; a single wrong entry of a large matrix can pass.

    Args:
        operator: A, square.
        key: For the two vectors; a fixed one if None.
        symmetric: Whether A should be symmetric; None asks `lineax.is_symmetric`.
        rtol: What counts as rounding, relative to the size of the product (for symmetry, to the
            size that the difference would have if A had no symmetry at all); 10 times the square
            root of machine epsilon if None, and 0.3 at most.

    Raises:
        ValueError: A rule is broken; the message has the numbers and the fix.
        TypeError: Not a lineax operator.

    Example:
        >>> check_operator(lx.DiagonalLinearOperator(jnp.array([1.0, 2.0])))
        >>> matrix = jnp.array([[1.0, 2.0], [0.0, 1.0]])
        >>> check_operator(lx.MatrixLinearOperator(matrix, lx.symmetric_tag))
        Traceback (most recent call last):
        ...
        ValueError: check_operator: the operator should be symmetric, but ...
    """
    if not isinstance(operator, lx.AbstractLinearOperator):
        raise TypeError(
            f"check_operator: a {type(operator).__name__} is not a lineax.AbstractLinearOperator."
        )
    structure, image = operator.in_structure(), operator.out_structure()
    leaves = jax.tree.leaves(structure)
    if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
        _refuse(f"the operator acts on {_describe(structure)}; leaves have to be real floats.")
    if not leaves:
        _refuse("the operator has no leaves to act on.")
    eps = max(float(jnp.finfo(leaf.dtype).eps) for leaf in leaves)
    tolerance = min(10 * math.sqrt(eps), _LOOSEST) if rtol is None else rtol
    symmetric = lx.is_symmetric(operator) if symmetric is None else symmetric
    first, second = jax.random.split(jax.random.key(0) if key is None else key)
    u, v = tree_random_like(first, structure), tree_random_like(second, structure)
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((operator, u))):
        _refuse("it reads numbers on the host; call it outside of jit, vmap and scan.")
    # Not compiled here: a compiled product would draw its random numbers once.
    a, again = operator.mv(u), operator.mv(u)
    for declared, found in ((image, a), (structure, a)) if symmetric else ((image, a),):
        same = jax.tree.structure(declared) == jax.tree.structure(found) and all(
            s.shape == x.shape and s.dtype == x.dtype
            for s, x in zip(jax.tree.leaves(declared), jax.tree.leaves(found), strict=True)
        )
        if not same:
            _refuse(
                f"a product has the structure {_describe(found)}, where {_describe(declared)} is "
                "declared; return the structure of the operator's out_structure()."
            )
    size = _finite(a, "A u")
    _finite(again, "A u")
    change = float(tree_norm(tree_axpy(jnp.asarray(-1.0), a, again)))
    if change > tolerance * size:
        _refuse(
            f"two products of the same vector differ by {change:.2e}, {change / size:.1e} of the "
            "product. Fix the random keys, switch dropout and augmentation off, and put batch "
            "statistics into evaluation mode."
        )
    if not symmetric:
        return
    b = operator.mv(v)
    other = _finite(b, "A v")
    left, right = float(tree_dot(v, a)), float(tree_dot(b, u))
    # Independent random vectors: without any symmetry the two would differ by about this.
    natural = max(float(tree_norm(v)) * size, float(tree_norm(u)) * other)
    natural /= tree_size(structure) ** 0.5
    if abs(left - right) > tolerance * natural:
        _refuse(
            f"the operator should be symmetric, but <v, A u> = {left:.6e} and <A v, u> = "
            f"{right:.6e}, {abs(left - right) / natural:.1e} of what no symmetry at all would give "
            f"(rounding: {tolerance:.1e}). Drop the symmetric tag, or fix the product."
        )


def _finite(vector: Any, name: str) -> float:
    size = float(tree_norm(vector))
    if not jnp.isfinite(size):
        _refuse(
            f"the norm of the product {name} with a random vector is {size}. Look at the "
            "parameters, the data and the loss at which the operator was built."
        )
    return size


_STRUCTURE = {
    "matrix": jax.ShapeDtypeStruct((4, 5), jnp.float32),
    "vector": jax.ShapeDtypeStruct((4,), jnp.float32),
}
_DIMENSION = 24
_PAIRS = 2
_MEASUREMENTS = 4
_SPENT = 3
# Values count as wrong from this many tolerances on: residuals do not resolve less.
_WRONG = 5.0
# What products in float32 cannot tell, and one unit in the last place: shares of the norm.
_ROUNDING, _UNIT = 1e-5, 1.2e-7


class _Case(NamedTuple):
    """Operators that are solved one after the other, each from the state of the one before."""

    name: str
    matrices: Float[np.ndarray, "measurements n n"]
    budget: int = 4000
    symmetric: bool = True


def check_solver(
    solver: AbstractEigenSolver,
    *,
    which: str | None = None,
    overshoot: int = 0,
    seed: int = 0,
) -> None:
    """Refuses a solver that breaks the contract of `eigensolve`.

    It solves for two pairs of operators of known spectrum, in float32, on a pytree, cold and from
    the last state, under `jit`, `vmap` and `scan`: spectra apart, repeated, clustered and of low
    rank, zero, not finite, not symmetric, in one dimension, and with a budget that is too small.
    It checks:

    - shapes, unit vectors, orthogonal ones if the solver is for symmetric operators;
    - values in their order, and converged where the spectrum is easy;
    - residuals and bounds that are not under the true ones;
    - no pair that is `converged` and `is_top` where the value is another one;
    - a warm start of the same shapes after every solve, that `initial_state` has as well;
    - a product that is not finite ends in `nonfinite`, without a value, and the next one recovers;
    - an operator that is tagged symmetric and is not ends in `asymmetric`;
    - no more products than `max_matvecs`.

    It works on the host, compiles two programs, and takes seconds to a minute.

    Args:
        solver: With the tolerances that it is to be tried at.
        which: The end; the first that the solver knows if None.
        overshoot: The number of products by which a step may exceed the budget; 0 for a solver that
            checks it after each.
        seed: For the operators.

    Raises:
        ValueError: A rule is broken: the message has which, for which operator, and by how much.
        TypeError: It is not a solver.

    Example:
        >>> from aeoskit.linalg import Dense
        >>> check_solver(Dense(), overshoot=24)
    """
    check_is_solver(solver)
    which = solver.ends[0] if which is None else which
    if which not in solver.ends:
        _fail(solver, which, f"it finds {', '.join(solver.ends)} only; name one of these.")
    _check_states(solver, which)
    cases = _cases(solver, seed)
    matrices = np.stack([case.matrices for case in cases]).astype(np.float32)
    budgets = np.array([case.budget for case in cases], np.int32)
    keys = jax.random.key_data(jax.random.split(jax.random.key(seed), len(cases)))
    found = _solve_all(solver, which, (jnp.asarray(matrices), jnp.asarray(budgets), keys))
    answers = jax.tree.map(np.asarray, found)
    for i, case in enumerate(cases):
        for t in range(_MEASUREMENTS):
            answer = jax.tree.map(lambda x: x[i, t], answers)  # noqa: B023
            _check_answer(solver, which, case, t, matrices[i, t].astype(np.float64), answer)
            if answer["matvecs"] > case.budget + overshoot:
                _fail(
                    solver,
                    which,
                    f"{answer['matvecs']} products were made of a budget of {case.budget}; look at "
                    f"max_matvecs before each product, or pass overshoot="
                    f"{answer['matvecs'] - case.budget}.",
                )
    _check_one_dimension(solver, which)


def _fail(solver: AbstractEigenSolver, which: str, what: str) -> NoReturn:
    raise ValueError(f"check_solver: {type(solver).__name__} for {which}: {what}")


def _operator(matrix: Array, symmetric: bool) -> lx.AbstractLinearOperator:
    tags = lx.symmetric_tag if symmetric else frozenset()
    return lx.FunctionLinearOperator(eqx.Partial(_product, matrix), _STRUCTURE, tags)


def _product(matrix: Array, vector: PyTree) -> PyTree:
    flat = jnp.concatenate([vector["matrix"].reshape(-1), vector["vector"]])
    image = jnp.matmul(matrix, flat, precision=jax.lax.Precision.HIGHEST)
    return {"matrix": image[:20].reshape(4, 5), "vector": image[20:]}


@eqx.filter_jit
def _solve_all(
    solver: AbstractEigenSolver, which: str, lanes: tuple[Array, Array, Array]
) -> dict[str, Array]:
    def sequence(lane: tuple[Array, Array, Array]) -> dict[str, Array]:
        matrices, budget, key = lane

        def one(state: PyTree, matrix: Array) -> tuple[PyTree, dict[str, Array]]:
            solution = eigensolve(
                _operator(matrix, solver.symmetric),
                solver,
                k=_PAIRS,
                which=which,
                start=state,
                max_matvecs=budget,
            )
            names = ("values", "residuals", "bounds", "converged", "is_top")
            rows = [x.reshape(_PAIRS, -1) for x in jax.tree.leaves(solution.vectors)]
            floats = [x for x in jax.tree.leaves(solution.state) if eqx.is_inexact_array(x)]
            return solution.state, {name: getattr(solution, name) for name in names} | {
                "vectors": jnp.concatenate(rows, axis=1),
                "matvecs": solution.stats["matvecs"],
                "nonfinite": solution.result == RESULTS.nonfinite,
                "asymmetric": solution.result == RESULTS.asymmetric,
                "sound": jnp.stack([jnp.all(jnp.isfinite(x)) for x in floats]).all(),
            }

        state = solver.initial_state(_STRUCTURE, _PAIRS, key)
        return jax.lax.scan(one, state, matrices)[1]

    return jax.vmap(sequence)(lanes)


def _cases(solver: AbstractEigenSolver, seed: int) -> list[_Case]:
    rng = np.random.default_rng(seed)
    # In units that leave a shift of the solver's inside the spectrum.
    unit = 1 + 2 * float(np.abs(_shift(solver)))
    apart = np.linspace(-1, 1, _DIMENSION)
    cluster = 0.003 * np.arange(5)
    spectra = {
        "apart": apart,
        "repeated": np.repeat(np.linspace(-1, 1, _DIMENSION // 4), 4),
        "clustered": np.concatenate([1 - cluster, cluster - 1, 0.8 * apart[5:-5]]),
        "of rank three": np.concatenate([[1.0, 0.8, 0.6], np.zeros(_DIMENSION - 3)]),
        "zero": np.zeros(_DIMENSION),
    }
    cases = [_Case(name, _drifting_matrices(rng, unit * x)) for name, x in spectra.items()]
    (first, *_) = cases
    broken = first.matrices.copy()
    broken[1] = np.nan
    scaled = first.matrices * rng.uniform(0.7, 1.4, _DIMENSION)
    return [
        *cases,
        _Case("not finite once", broken),
        _Case("not symmetric", scaled, symmetric=False),
        _Case("apart, with a budget of three products", first.matrices, budget=_SPENT),
    ]


def _drifting_matrices(
    rng: np.random.Generator, spectrum: Float[np.ndarray, " n"]
) -> Float[np.ndarray, "measurements n n"]:
    q = np.linalg.qr(rng.normal(size=(_DIMENSION, _DIMENSION)))[0]
    skew = 0.01 * rng.normal(size=(_DIMENSION, _DIMENSION))
    turn = np.linalg.solve(np.eye(_DIMENSION) - skew + skew.T, np.eye(_DIMENSION) + skew - skew.T)
    sequence = []
    for _ in range(_MEASUREMENTS):
        matrix = (q * spectrum) @ q.T
        sequence.append((matrix + matrix.T) / 2)
        q = turn @ q
    return np.stack(sequence)


def _shift(solver: AbstractEigenSolver) -> np.ndarray:
    """The shift of an interior solver; 0 for the others."""
    shift = getattr(solver, "shift", None)
    return np.asarray(0.0 if shift is None else shift)


def _wanted(
    solver: AbstractEigenSolver, which: str, values: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """Values by what `which` orders, descending, and that measure of each."""
    shift = _shift(solver)
    measures = {
        "largest_magnitude": np.abs,
        "nearest": lambda x: -np.abs(x - shift),
        "smallest": lambda x: -np.real(x),
        "smallest_real": lambda x: -np.real(x),
    }
    measure = measures.get(which, np.real)(values)
    order = np.argsort(-measure, kind="stable")
    return values[order], measure[order]


def _check_answer(
    solver: AbstractEigenSolver,
    which: str,
    case: _Case,
    t: int,
    matrix: Float[np.ndarray, "n n"],
    answer: dict[str, Any],
) -> None:
    where = f"measurement {t + 1} of the operator '{case.name}'"
    values = answer["values"]
    if not answer["sound"]:
        _fail(solver, which, f"the state after {where} is not finite; leave out what is not.")
    if not np.isfinite(matrix).all():
        if not answer["nonfinite"] or answer["converged"].any() or np.isfinite(values).any():
            _fail(
                solver,
                which,
                f"products were NaN in {where}, and values are {values}; report nonfinite, and NaN "
                "for each value.",
            )
        return
    if solver.symmetric and not case.symmetric:
        if answer["converged"].any() or (case.budget > _SPENT and not answer["asymmetric"]):
            _fail(
                solver,
                which,
                f"{where} is tagged symmetric and is not, and the result is not asymmetric; "
                "compare <u, A v> with <A u, v>.",
            )
        return
    if answer["asymmetric"]:
        _fail(solver, which, f"{where} is symmetric and called asymmetric; allow for rounding.")
    spectrum = np.linalg.eigvalsh(matrix) if case.symmetric else np.linalg.eigvals(matrix)
    norm = max(float(np.linalg.norm(matrix, 2)), float(np.finfo(np.float32).tiny))
    known = np.isfinite(values)
    vectors = answer["vectors"]
    gram = vectors.conj() @ vectors.T - np.eye(_PAIRS)
    gram = gram if solver.symmetric else np.diag(np.diag(gram))
    if np.abs(gram[np.ix_(known, known)]).max(initial=0) > 1e-3:
        _fail(
            solver,
            which,
            f"the vectors of {where} are not orthonormal, by {np.abs(gram).max():.1e}; vectors "
            "are of unit norm, and of a symmetric operator orthogonal.",
        )
    true = np.linalg.norm(vectors @ matrix.T - values[:, None] * vectors, axis=1)
    nearest = np.abs(values[:, None] - spectrum).min(axis=1)
    bars = {"residual": (answer["residuals"], true)}
    if solver.symmetric:
        bars["bound"] = (answer["bounds"], nearest)
    for name, (bar, truth) in bars.items():
        small = known & ~(truth <= 1.01 * bar + _UNIT * norm)
        if small.any():
            _fail(
                solver,
                which,
                f"a {name} of {where} is {bar[small][0]:.3e} where the true one is "
                f"{truth[small][0]:.3e}; add what rounding and restarts lose, and see that values "
                "and vectors belong together.",
            )
    _check_values(solver, which, case, where, spectrum, norm, answer)
    easy = case.name == "apart" or (case.name == "not finite once" and t != 2)
    if easy and not answer["converged"].all():
        _fail(
            solver,
            which,
            f"{where} has values well apart, and {values} have not converged in "
            f"{answer['matvecs']} products; look at the residuals' allowance, and after a failure "
            "at what the state has kept.",
        )


def _check_values(
    solver: AbstractEigenSolver,
    which: str,
    case: _Case,
    where: str,
    spectrum: np.ndarray,
    norm: float,
    answer: dict[str, Any],
) -> None:
    values = answer["values"]
    if which == "both":
        truth = measure = np.array([spectrum.max(), spectrum.min()])
        measured = np.real(values)
    else:
        truth, measure = (x[:_PAIRS] for x in _wanted(solver, which, spectrum))
        measured = np.array([_wanted(solver, which, values[i : i + 1])[1][0] for i in range(2)])
    rtol, atol = float(getattr(solver, "rtol", 1e-3)), float(getattr(solver, "atol", 0.0))
    allowed = _WRONG * (rtol * np.abs(values) + atol) + _ROUNDING * norm
    if not case.symmetric:
        # A residual bounds the error only times the condition, which is about ten here.
        allowed = 20 * allowed
    claimed = answer["converged"] & answer["is_top"]
    wrong = claimed & ~(np.abs(measured - measure) <= allowed)
    if wrong.any():
        _fail(
            solver,
            which,
            f"{where} has the eigenvalues {truth}, and {values} are claimed, converged and "
            "is_top; is_top is for what could have seen a copy or a better one.",
        )


def _check_states(solver: AbstractEigenSolver, which: str) -> None:
    """Checks that every start leads to a state shaped as `initial_state`; compiles nothing."""
    blank = solver.initial_state(_STRUCTURE, _PAIRS)

    def after(matrix: Array, start: Any) -> Any:
        operator = _operator(matrix, solver.symmetric)
        solution = eigensolve(operator, solver, k=_PAIRS, which=which, start=start)
        if jax.tree.map(jnp.shape, solution.vectors) != _ROWS:
            shapes = jax.tree.map(jnp.shape, solution.vectors)
            _fail(solver, which, f"the vectors have shapes {shapes}, for {_ROWS}: (k, *leaf).")
        for name in ("values", "residuals", "bounds", "estimates", "converged", "is_top"):
            if jnp.shape(getattr(solution, name)) != (_PAIRS,):
                shape = jnp.shape(getattr(solution, name))
                _fail(solver, which, f"`{name}` has the shape {shape}, for {(_PAIRS,)}.")
        return solution.state

    matrix = jax.ShapeDtypeStruct((_DIMENSION, _DIMENSION), jnp.float32)
    for start in (None, blank):
        state = eqx.filter_eval_shape(after, matrix, start)
        # Without a state a solve in a process of several devices does not pack its vectors.
        wanted = blank if start is not None else eqx.filter_eval_shape(after, matrix, state)
        if _shapes(state) != _shapes(wanted):
            _fail(
                solver,
                which,
                f"the state after a solve from {'None' if start is None else 'a blank state'} "
                "differs from the next one's in structure, shapes or dtypes; scan carries a "
                "state only if they agree.",
            )


_ROWS = {name: (_PAIRS, *leaf.shape) for name, leaf in _STRUCTURE.items()}


def _shapes(state: PyTree) -> tuple[Any, Any]:
    leaves, treedef = jax.tree.flatten(eqx.filter(state, _is_array))
    return treedef, [(x.shape, jnp.dtype(x.dtype)) for x in leaves]


def _is_array(x: Any) -> bool:
    return eqx.is_array(x) or isinstance(x, jax.ShapeDtypeStruct)


def _check_one_dimension(solver: AbstractEigenSolver, which: str) -> None:
    operator = lx.MatrixLinearOperator(jnp.full((1, 1), -3.0, jnp.float32), lx.symmetric_tag)
    solution = eigensolve(operator, solver, k=1, which=which)
    if not solution.converged[0] or abs(complex(solution.values[0]) + 3) > 1e-4:
        _fail(
            solver,
            which,
            f"the operator -3 in one dimension has the value {solution.values[0]} after "
            f"{solution.stats['matvecs']} products, converged: {bool(solution.converged[0])}.",
        )
