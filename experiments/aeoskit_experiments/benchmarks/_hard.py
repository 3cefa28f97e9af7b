"""`aeoskit bench hard`: what eigen-solvers claim where they are known to err, against the truth."""

import dataclasses
from collections.abc import Callable
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

from aeoskit import linalg
from aeoskit.linalg import RESULTS, AbstractEigenSolver, eigensolve
from aeoskit_experiments._errors import unknown

from ._hard_kinds import DIMENSION, KINDS, SPIKE_AT, Sequences, draw

# The questions, k and which, from 1 to 10 and at every end, the most informative first.
QUESTIONS: dict[str, tuple[tuple[int, str], ...]] = {
    "Lanczos": (
        (3, "largest"),
        (10, "both"),
        (5, "smallest"),
        (1, "largest"),
        (4, "both"),
        (2, "largest_magnitude"),
    ),
    "Tracking": ((3, "largest"), (1, "largest"), (6, "smallest"), (2, "largest"), (10, "smallest")),
    "LOBPCG": ((5, "largest"), (3, "smallest"), (6, "both"), (1, "largest"), (10, "largest")),
    "JacobiDavidson": ((2, "nearest"), (4, "smallest"), (1, "largest")),
    "Arnoldi": ((4, "largest_real"), (6, "smallest_real"), (3, "largest_magnitude")),
    "Dense": ((7, "both"), (5, "largest"), (3, "largest_magnitude")),
}
# Sequences in one call of a compiled program.
LANES = 16
# The default of every solver.
_RTOL = 1e-3
# Sequences in memory at a time.
_BLOCK = 650
# A value counts as wrong from five times its tolerance on, since a residual of one tolerance does
# not resolve less, and from the rounding of a float32 product on, this fraction of the norm.
_WRONG = 5.0
_ROUNDING = 1e-5
# The reference is float64, from the same float32 numbers: one unit in the last place of the norm.
_UNIT = 1.2e-7
# After a spike: the first measurement at which all pairs have to be claimed again.
_RECOVERED = SPIKE_AT + 2


def run_hard_benchmark(
    *,
    count: int = 10_000,
    kinds: str | None = None,
    solvers: str | None = None,
    questions: int = 6,
    seed: int = 0,
    progress: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """Compare the claims of eigen-solvers on hard sequences of operators with dense float64.

    A sequence is eight operators of dimension 64, with a cold solve of the first and warm ones of
    the others, at the default tolerance. Every solver meets all of them, with k from 1 to 10 and at
    all ends in turn. The rule: no pair that is `converged` and `is_top` has another value than the
    one asked for; no residual or bound is below the true one; no symmetric operator is called
    asymmetric; two measurements after a spike or NaN the pairs are claimed again.

    Args:
        count: Total number of sequences, split over the kinds.
        kinds: Kinds of sequences; none for all.
        solvers: Names of solvers; none for all.
        questions: Largest number of pairs of k and end per solver; each compiles a program.
        seed: The same seed draws the same sequences.
        progress: Called with the name of each part as it begins.

    Returns:
        `{"rows", "failed"}`. `rows`: one per kind and solver, with the number of `pairs`, the
        `claims` (converged and is_top), `false` ones, the `worst` error among claims in units of
        the smallest wrong one, `small_bars` (residuals or bounds below the true ones), the
        `worst_bar` (true over reported), `alarms` (symmetric called asymmetric), `late` recoveries
        and `products` per solve. `failed`: whether the rule was broken anywhere.

    Raises:
        UserError: For an unknown kind or solver.
    """
    chosen = _chosen("kind", kinds, KINDS)
    ours = _chosen("solver", solvers, tuple(QUESTIONS))
    found: dict[tuple[str, str], list[dict[str, Any]]] = {}
    for block, begin in enumerate(range(0, count, _BLOCK)):
        size = min(_BLOCK, count - begin)
        names = [chosen[i % len(chosen)] for i in range(begin, begin + size)]
        drawn = {kind: draw(kind, names.count(kind), (seed, block)) for kind in chosen}
        sequences = Sequences(*map(np.concatenate, zip(*drawn.values(), strict=True)))
        kind_of = np.repeat(chosen, [names.count(kind) for kind in chosen])
        # Questions rotate within each kind, so that every question meets every kind.
        place = np.concatenate([np.arange(names.count(kind)) for kind in chosen])
        spectra = _spectra(sequences)
        for solver in ours:
            asked = QUESTIONS[solver][:questions]
            for turn, (k, which) in enumerate(asked):
                progress(f"{begin + size} of {count}: {solver}, k={k}, {which}")
                subset = np.flatnonzero(place % len(asked) == turn)
                if not subset.size:  # fewer sequences of a kind than questions
                    continue
                part = Sequences(*(field[subset] for field in sequences))
                answers = _answers(solver, k, which, part, seed)
                for kind in chosen:
                    of_kind = np.flatnonzero(kind_of[subset] == kind)
                    verdict = _verdict(
                        Sequences(*(field[of_kind] for field in part)),
                        spectra[subset[of_kind]],
                        {name: x[of_kind] for name, x in answers.items()},
                        which,
                    )
                    found.setdefault((kind, solver), []).append(verdict)
    rows = [
        {"kind": kind, "solver": solver} | _sum(found[kind, solver])
        for kind in chosen
        for solver in ours
    ]
    broken = ("false", "small_bars", "alarms", "late")
    return {"rows": rows, "failed": any(row[name] for row in rows for name in broken)}


def _chosen(what: str, given: str | None, known: tuple[str, ...]) -> tuple[str, ...]:
    names = known if given is None else tuple(x.strip() for x in given.split(",") if x.strip())
    for name in names:
        if name not in known:
            raise unknown(what, name, known, where="bench hard")
    return names


def _spectra(sequences: Sequences) -> np.ndarray:
    """All eigenvalues, ascending; NaN where the operator is not finite."""
    finite = np.all(np.isfinite(sequences.matrices), axis=(2, 3))
    matrices = np.where(finite[..., None, None], sequences.matrices, 0).astype(np.float64)
    return np.where(finite[..., None], np.linalg.eigvalsh(matrices), np.nan)


def _measure(
    solver: AbstractEigenSolver, k: int, which: str, lane: tuple[Any, ...]
) -> dict[str, Any]:
    matrices, atol, shift, key = lane
    solver = dataclasses.replace(solver, atol=atol)
    if which == "nearest":
        solver = dataclasses.replace(solver, shift=shift)

    def one(state: Any, matrix: jax.Array) -> tuple[Any, dict[str, Any]]:
        operator = lx.MatrixLinearOperator(matrix, lx.symmetric_tag)
        solution = eigensolve(operator, solver, k=k, which=which, start=state)
        names = ("values", "vectors", "residuals", "bounds", "converged", "is_top")
        return solution.state, {name: getattr(solution, name) for name in names} | {
            "asymmetric": solution.result == RESULTS.asymmetric,
            "matvecs": solution.stats["matvecs"],
        }

    state = solver.initial_state(jax.ShapeDtypeStruct((DIMENSION,), jnp.float32), k, key)
    return jax.lax.scan(one, state, matrices)[1]


@eqx.filter_jit
def _measure_all(
    solver: AbstractEigenSolver, k: int, which: str, lanes: tuple[Any, ...]
) -> dict[str, Any]:
    # On a CPU one lane after another, so that none waits for the slowest; on an accelerator
    # together.
    size = 1 if jax.default_backend() == "cpu" else LANES
    with jax.default_matmul_precision("highest"):
        return jax.lax.map(
            lambda lane: _measure(solver, k, which, lane),
            lanes,
            batch_size=None if size == 1 else size,
        )


def _answers(
    name: str, k: int, which: str, sequences: Sequences, seed: int
) -> dict[str, np.ndarray]:
    # Ten pairs do not fit into its smallest default basis.
    solver = linalg.Lanczos(basis=30) if (name, k) == ("Lanczos", 10) else getattr(linalg, name)()
    count = len(sequences.matrices)
    keys = jax.random.split(jax.random.key(seed), count)
    lanes = (
        sequences.matrices,
        sequences.atol.astype(np.float32),
        sequences.shift.astype(np.float32),
        np.asarray(jax.random.key_data(keys)),
    )

    parts = []
    for begin in range(0, count, LANES):
        # The last call is padded, so that there is one program.
        lanes_now = tuple(x[np.arange(begin, begin + LANES) % count] for x in lanes)
        parts.append(jax.tree.map(np.asarray, _measure_all(solver, k, which, lanes_now)))
    return {key: np.concatenate([part[key] for part in parts])[:count] for key in parts[0]}


def _wanted(eigenvalues: np.ndarray, k: int, which: str, shift: np.ndarray) -> np.ndarray:
    """The k wanted eigenvalues (by magnitude or distance where those are wanted), in order."""
    if which == "largest_magnitude":
        return np.sort(np.abs(eigenvalues), axis=-1)[..., ::-1][..., :k]
    if which == "nearest":
        return np.sort(np.abs(eigenvalues - shift), axis=-1)[..., :k]
    if which == "both":
        top = (k + 1) // 2
        descending = eigenvalues[..., ::-1]
        return np.concatenate([descending[..., :top], eigenvalues[..., : k - top]], axis=-1)
    upward = which in ("smallest", "smallest_real")
    return (eigenvalues if upward else eigenvalues[..., ::-1])[..., :k]


def _verdict(
    sequences: Sequences, eigenvalues: np.ndarray, answers: dict[str, np.ndarray], which: str
) -> dict[str, Any]:
    """The claims about finite operators, and which of them are false."""
    finite = np.all(np.isfinite(eigenvalues), axis=-1)[..., None]
    norm = np.where(finite, np.abs(eigenvalues).max(axis=-1, keepdims=True), 1)
    values, vectors = (
        x.astype(np.result_type(x.dtype, np.float64))
        for x in (answers["values"], answers["vectors"])
    )
    shift = sequences.shift.astype(np.float32)[:, None, None]
    asked = {"largest_magnitude": np.abs, "nearest": lambda x: np.abs(x - shift)}
    measured = asked.get(which, np.real)(values)
    truth = _wanted(eigenvalues, values.shape[-1], which, shift)
    tolerance = _WRONG * (_RTOL * np.abs(values) + sequences.atol[:, None, None]) + _ROUNDING * norm
    claimed = answers["converged"] & answers["is_top"]
    with np.errstate(invalid="ignore", over="ignore"):
        error = np.where(claimed, np.abs(measured - truth) / tolerance, 0)
        # Not finite: any claim is false, since there are no eigenvalues.
        error = np.where(claimed & ~np.isfinite(error), np.inf, error)
        units = norm[..., None]
        matrices = sequences.matrices.astype(np.float64) / units
        vectors = vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)
        # Symmetric: rows times the matrix are images.
        distances = vectors @ matrices - (values / norm)[..., None] * vectors
        residuals = np.linalg.norm(distances, axis=-1)
        nearest = np.abs(values[..., None] - eigenvalues[..., None, :]).min(axis=-1) / norm
        known = finite & np.isfinite(values)
        bars = [(answers["residuals"] / norm, residuals), (answers["bounds"] / norm, nearest)]
        if np.iscomplexobj(answers["values"]):
            bars = bars[:1]  # there the bounds are estimates
        small = [known & ~(true <= 1.01 * bar + _UNIT) for bar, true in bars]
        short = [np.where(known, true / (bar + _UNIT), 0) for bar, true in bars]
    spiked = sequences.spiked.any(axis=1)
    recovered = claimed[spiked, _RECOVERED:].all(axis=(1, 2))
    return {
        "solves": values.shape[0] * values.shape[1],
        "pairs": int(finite.sum()) * values.shape[-1],
        "claims": int(claimed.sum()),
        "false": int((error > 1).sum()),
        "worst_error": float(error.max(initial=0)),
        "small_bars": int(np.any(small, axis=0).sum()),
        "worst_bar": float(np.max(short, initial=0)),
        "alarms": int((answers["asymmetric"] & finite[..., 0]).sum()),
        "late": int((~recovered).sum()),
        "products": int(answers["matvecs"].sum()),
    }


def _sum(parts: list[dict[str, Any]]) -> dict[str, Any]:
    largest = ("worst_error", "worst_bar")
    row = {x: (max if x in largest else sum)(part[x] for part in parts) for x in parts[0]}
    row["products"] /= max(row.pop("solves"), 1)
    return row
