"""`aeoskit bench eigen`: eigen-solvers in matrix-vector products, side by side with the optimum."""

import itertools
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import lineax as lx
import numpy as np

from aeoskit.linalg import LOBPCG, AbstractEigenSolver, Lanczos, Tracking, eigensolve
from aeoskit_experiments._errors import UserError, unknown

from ._eigen_optimum import optimum
from ._eigen_peers import BASIS, FlatOperator, Peer, PeerSolution, find_peers
from ._eigen_problems import MATRICES, matrix_problem, training_problem
from ._eigen_tracking import tracking_rows
from ._eigen_wall import wall_row

PROBLEMS = ("A", "B", "B2", "C", "D", "matrices")
DEFAULT = ("A", "B", "C", "matrices")
_KINDS: dict[str, Callable[..., AbstractEigenSolver]] = {
    "Lanczos": Lanczos,
    "LOBPCG": LOBPCG,
    "Tracking": lambda rtol: Tracking(rtol=rtol, value_rtol=0.0),
}
SOLVERS = tuple(_KINDS)
# The eigenvalue's error is compared with what the optimum found at this tolerance.
_TRUTH = 1e-5


def run_eigen_benchmark(
    *,
    problems: str | None = None,
    solvers: str | None = None,
    ks: tuple[int, ...] = (1, 6),
    rtols: tuple[float, ...] | None = None,
    steps: int | None = None,
    limit: int = 300,
    seeds: int = 1,
    peers: bool = True,
    full: bool = False,
    progress: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """Count the products of eigen-solvers, aeoskit's and others', against the optimum.

    The optimum is unrestarted Lanczos with full reorthogonalization, tested after every product,
    from the same start vector.

    Args:
        problems: Any of A, B, B2, C, D, matrices; none for A,B,C,matrices, with --full all.
        solvers: Any of Lanczos, LOBPCG, Tracking; none for Lanczos, with --full all.
        ks: Numbers of the largest eigenvalues.
        rtols: Relative residuals; none for 1e-3, with --full 1e-2,1e-3,1e-5.
        steps: Training steps that are tracked; none for 25, with --full 500.
        limit: Products that a solver may spend.
        seeds: Start vectors; counts are their means, residuals and errors the worst.
        peers: Whether scipy's, jax's and matfree's solvers run too.
        full: Run everything, which takes most of an hour on two cores.
        progress: Called with the name of each part as it begins.

    Returns:
        `{"rows", "tracking", "wall", "notes"}`. `rows`: one per problem, k, tolerance and solver,
        with `matvecs`, `optimum`, the true relative `residual`, the `error` of the values, the
        `seconds` of a second solve (nothing compiles) and whether it reports `converged`.
        `tracking`: see `tracking_rows`. `wall`: see `wall_row`.

    Raises:
        UserError: For an unknown problem, or an invalid number.
    """
    names = _names("problem", problems, PROBLEMS, PROBLEMS if full else DEFAULT)
    ours = _names("solver", solvers, SOLVERS, SOLVERS if full else SOLVERS[:1])
    ks = ks if isinstance(ks, tuple) else (ks,)
    given = rtols if isinstance(rtols, tuple | None) else (rtols,)
    tolerances = given or ((1e-2, 1e-3, 1e-5) if full else (1e-3,))
    if min(ks) < 1 or max(ks) > BASIS - 3 or not all(0 < rtol < 1 for rtol in tolerances):
        raise UserError(
            f"bench eigen: k is from 1 to {BASIS - 3} and rtol between 0 and 1, got "
            f"{ks} and {tolerances}"
        )
    found, notes = find_peers() if peers else ({}, [])
    if not full and "jax lobpcg" in found:
        del found["jax lobpcg"]
        notes.append("jax lobpcg is left out, since it takes long to compile: add --full")
    rows: list[dict[str, Any]] = []
    tracking: list[dict[str, Any]] = []
    wall: list[dict[str, Any]] = []
    setting = Setting(ks, tolerances, limit, seeds, ours, found)
    # Full float32 products, also on accelerators.
    with jax.default_matmul_precision("float32"):
        for name in names:
            if name == "matrices":
                for matrix in MATRICES:
                    progress(matrix)
                    rows += cold_rows(matrix, "matrix", matrix_problem(matrix), setting)
                continue
            for label, options in _variants(name):
                progress(f"{label}: training and cold solves")
                problem = training_problem(name, **options)
                operator = problem.operator()
                rows += cold_rows(label, problem.operator_name, operator, setting)
                if name in ("C", "D"):
                    progress(f"{label}: wall time")
                    wall.append(wall_row(label, operator, gradient=problem.gradient))
                else:
                    count = steps or (500 if full else 25)
                    progress(f"{label}: tracking over {count} steps")
                    tracking += tracking_rows(
                        problem, _tracking_solvers(), count, peers="scipy eigsh" in found
                    )
    return {"rows": rows, "tracking": tracking, "wall": wall, "notes": notes}


def _names(
    what: str, given: str | None, known: tuple[str, ...], default: tuple[str, ...]
) -> tuple[str, ...]:
    names = default if given is None else tuple(x.strip() for x in given.split(",") if x.strip())
    for name in names:
        if name not in known:
            raise unknown(what, name, known, where="bench eigen")
    return names


def _variants(name: str) -> list[tuple[str, dict[str, Any]]]:
    if name == "D":
        return [(f"D {kind}", {"convolution": kind}) for kind in ("lax", "shifted")]
    return [(name, {})]


def _solvers(names: tuple[str, ...], k: int, rtol: float) -> dict[str, AbstractEigenSolver]:
    """The rows of aeoskit's solvers; for several pairs also without the search for copies."""
    made: dict[str, AbstractEigenSolver] = {name: _KINDS[name](rtol=rtol) for name in names}
    if k > 1 and "Lanczos" in made:
        made["Lanczos copies=False"] = Lanczos(rtol=rtol, copies=False)
    return made


def _tracking_solvers() -> dict[str, AbstractEigenSolver]:
    return {
        "Lanczos warm": Lanczos(basis=BASIS, rtol=1e-3),
        "Tracking": Tracking(rtol=1e-3, value_rtol=0.0),
        "Tracking 1e-2": Tracking(value_rtol=1e-2),
        "Tracking 1e-4": Tracking(value_rtol=1e-4),
    }


def _ours(
    operator: lx.AbstractLinearOperator,
    solver: AbstractEigenSolver,
    k: int,
    limit: int,
    key: jax.Array,
) -> PeerSolution:
    for _ in range(2):  # the first compiles
        begin = time.perf_counter()
        solution = eigensolve(operator, solver, k=k, start=key, max_matvecs=limit)
        jax.block_until_ready(solution.values)
        seconds = time.perf_counter() - begin
    leaves = [np.asarray(x).reshape(k, -1) for x in jax.tree.leaves(solution.vectors)]
    return PeerSolution(
        np.asarray(solution.values),
        np.concatenate(leaves, axis=1),
        int(solution.stats["matvecs"]),
        bool(np.all(solution.converged)),
        seconds,
    )


@dataclass(frozen=True)
class Setting:
    """The settings of the cold solves.

    Args:
        ks: Numbers of pairs.
        rtols: Relative residuals.
        limit: Products at most.
        seeds: Number of start vectors.
        solvers: Names of aeoskit's solvers.
        peers: Solvers of other packages.
    """

    ks: tuple[int, ...]
    rtols: tuple[float, ...]
    limit: int
    seeds: int
    solvers: tuple[str, ...]
    peers: dict[str, Peer]


def cold_rows(
    name: str, operator_name: str, operator: lx.AbstractLinearOperator, setting: Setting
) -> list[dict[str, Any]]:
    """Every solver on one operator, from random starts.

    Args:
        name: The problem's name.
        operator_name: The operator's name.
        operator: The operator, symmetric.
        setting: The settings of the solves.

    Returns:
        The rows.
    """
    limit = setting.limit
    flat = FlatOperator(operator, limit)
    keys = [jax.random.key(seed, impl="threefry2x32") for seed in range(setting.seeds)]
    asked = sorted({*setting.rtols, min(_TRUTH, *setting.rtols)})
    best = [optimum(flat.uncounted, flat.start(key), setting.ks, asked, limit) for key in keys]
    truth = best[0][1]
    rows = []
    for k, rtol in itertools.product(setting.ks, setting.rtols):
        counts = [found[k, rtol] for found, _ in best]
        fewest = None if None in counts else _mean(counts)
        runs: dict[str, list[PeerSolution]] = {}
        for solver_name, solver in _solvers(setting.solvers, k, rtol).items():
            runs[solver_name] = [_ours(operator, solver, k, limit, key) for key in keys]
        for peer_name, peer in setting.peers.items():
            answers = [peer(flat, k, rtol, key, abs(truth[k - 1])) for key in keys]
            runs[peer_name] = [answer for answer in answers if answer is not None]
        for solver_name, answers in runs.items():
            if answers:
                rows.append(
                    {
                        "problem": name,
                        "operator": operator_name,
                        "k": k,
                        "rtol": rtol,
                        "solver": solver_name,
                        "matvecs": _mean([answer.matvecs for answer in answers]),
                        "optimum": fewest,
                        "residual": max(_residual(flat, answer, k) for answer in answers),
                        "error": max(_error(answer, truth[:k]) for answer in answers),
                        "seconds": min(answer.seconds for answer in answers),
                        "converged": all(answer.converged for answer in answers),
                    }
                )
    return rows


def _mean(counts: list[Any]) -> int | float:
    mean = sum(counts) / len(counts)
    return int(mean) if mean == int(mean) else mean


def _residual(flat: FlatOperator, answer: PeerSolution, k: int) -> float:
    if len(answer.values) < k or not np.isfinite(answer.values).all():
        return float("inf")
    return flat.residual(answer.values, answer.vectors)


def _error(answer: PeerSolution, truth: np.ndarray) -> float:
    if len(answer.values) < len(truth) or not np.isfinite(answer.values).all():
        return float("inf")
    return float(np.max(np.abs(answer.values - truth) / np.abs(truth)))
