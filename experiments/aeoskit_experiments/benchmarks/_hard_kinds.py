"""Sequences of symmetric operators on which eigen-solvers are known to err, drawn at random."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from jaxtyping import Bool, Float

# A square of 8 by 8, a ring of 64; divisible by many multiplicities.
DIMENSION = 64
# A cold solve, then warm ones.
MEASUREMENTS = 8
# The measurement that a spike or NaN replaces.
SPIKE_AT = 3
SPIKES = (1e2, 1e4, 1e6, 1e8, 1e12, 1e20, 1e30, 1e37)

Spectra = Float[np.ndarray, "lanes n"]
Matrices = Float[np.ndarray, "lanes n n"]


class Sequences(NamedTuple):
    """A batch of sequences of one kind.

    Args:
        matrices: Symmetric, rounded to float32.
        spiked: Where a spike or NaN replaces the operator.
        atol: An absolute tolerance for each sequence: zero eigenvalues need one.
        shift: A number inside each spectrum, for interior solvers.
    """

    matrices: Float[np.ndarray, "lanes measurements n n"]
    spiked: Bool[np.ndarray, "lanes measurements"]
    atol: Float[np.ndarray, " lanes"]
    shift: Float[np.ndarray, " lanes"]


# Each spectrum or matrix has a norm of about one.


def _bulk(rng: np.random.Generator, size: int) -> Float[np.ndarray, " size"]:
    return rng.uniform(-0.6, 0.6, size)


def _with_ends(rng: np.random.Generator, top: np.ndarray, bottom: np.ndarray) -> np.ndarray:
    return np.concatenate([top, bottom, _bulk(rng, DIMENSION - len(top) - len(bottom))])


def _repeated(rng: np.random.Generator) -> np.ndarray:
    """Both ends are repeated 2 to 10 times, and so are the next values."""
    ends = []
    for sign in (1.0, -1.0):
        first, second = sign * rng.uniform(0.9, 1.0), sign * rng.uniform(0.65, 0.85)
        times = rng.integers(2, 11, 2)
        ends.append(np.repeat([first, second], times))
    return _with_ends(rng, *ends)


def _copies(rng: np.random.Generator) -> np.ndarray:
    """Every value c times, as for a linear model with c outputs."""
    c = int(rng.integers(2, 11))
    few = DIMENSION // c
    values = np.concatenate([np.geomspace(1, 0.1, few) * rng.uniform(0.9, 1.0, few)])
    return np.concatenate([np.repeat(values, c), np.zeros(DIMENSION - c * few)])


def _few_values(rng: np.random.Generator) -> np.ndarray:
    """Three to eight distinct values: the Krylov space is exhausted early."""
    values = rng.uniform(-1, 1, int(rng.integers(3, 9)))
    return rng.choice(values, DIMENSION)


def _clustered(rng: np.random.Generator) -> np.ndarray:
    """Ten values at each end, with a spacing between 1e-5 and 1e-2."""
    spacing = 10 ** rng.uniform(-5, -2)
    steps = spacing * np.cumsum(rng.uniform(0.5, 1.5, 10))
    return _with_ends(rng, 1 - steps, -0.9 + steps)


def _triples(rng: np.random.Generator) -> np.ndarray:
    """Triples with a gap between 1e-8 and 1e-4 inside."""
    gap = 10 ** rng.uniform(-8, -4)
    centers = np.concatenate([np.linspace(1, 0.7, 3), np.linspace(-1, -0.7, 3)])
    triples = (centers[:, None] * (1 + gap * np.array([-1.0, 0.0, 1.0]))).reshape(-1)
    return np.concatenate([triples, _bulk(rng, DIMENSION - len(triples))])


def _low_rank(rng: np.random.Generator) -> np.ndarray:
    """Rank 1 to 12, semidefinite of either sign: one end is a zero repeated many times."""
    rank = int(rng.integers(1, 13))
    values = rng.chisquare(20, rank)
    return np.concatenate([values / values.max(), np.zeros(DIMENSION - rank)])


def _long(rng: np.random.Generator) -> np.ndarray:
    """Rank 50 and dense: many restarts before the budget ends; at the zeros no solve converges."""
    values = np.sort(rng.uniform(0, 1, 50)) ** rng.uniform(0.5, 2)
    return np.concatenate([values / values.max(), np.zeros(DIMENSION - 50)])


def _apart(rng: np.random.Generator) -> np.ndarray:
    """Ten well separated values at each end, to be found again after a spike."""
    top = 1 - 0.06 * np.cumsum(rng.uniform(0.5, 1.0, 8))
    return _with_ends(rng, np.append(1.0, top), np.append(-0.9, -0.9 * top))


def _from_spectrum(spectrum: Callable[[np.random.Generator], np.ndarray]):
    def draw(rng: np.random.Generator) -> np.ndarray:
        q = _rotations(rng, 1)[0]
        return (q * spectrum(rng)) @ q.T

    return draw


def _shuffled(rng: np.random.Generator, matrix: np.ndarray) -> np.ndarray:
    order = rng.permutation(DIMENSION)
    return matrix[np.ix_(order, order)] / np.abs(np.linalg.eigvalsh(matrix)).max()


def _ring(n: int) -> np.ndarray:
    return 2 * np.eye(n) - np.roll(np.eye(n), 1, axis=0) - np.roll(np.eye(n), -1, axis=0)


def _cycle(rng: np.random.Generator) -> np.ndarray:
    """A ring's Laplacian: all values but one or two in pairs."""
    n = int(rng.integers(40, DIMENSION + 1))
    matrix = np.eye(DIMENSION)
    matrix[:n, :n] = _ring(n)
    return _shuffled(rng, matrix)


def _square(rng: np.random.Generator) -> np.ndarray:
    """A square's Laplacian, with Dirichlet, Neumann or periodic boundaries."""
    side = 8
    line = 2 * np.eye(side) - np.eye(side, k=1) - np.eye(side, k=-1)
    edges = rng.integers(3)
    if edges == 1:
        line[0, 0] = line[-1, -1] = 1
    elif edges == 2:
        line = _ring(side)
    return _shuffled(rng, np.kron(line, np.eye(side)) + np.kron(np.eye(side), line))


def _wilkinson(rng: np.random.Generator) -> np.ndarray:
    """Wilkinson's: pairs at the top that agree to rounding."""
    n = 2 * int(rng.integers(12, DIMENSION // 2)) + 1
    matrix = np.zeros((DIMENSION, DIMENSION))
    matrix[:n, :n] = np.diag(np.abs(np.arange(n) - n // 2)) + np.eye(n, k=1) + np.eye(n, k=-1)
    return _shuffled(rng, matrix)


_DRAWS: dict[str, Callable[[np.random.Generator], np.ndarray]] = {
    "repeated": _from_spectrum(_repeated),
    "copies": _from_spectrum(_copies),
    "few-values": _from_spectrum(_few_values),
    "clustered": _from_spectrum(_clustered),
    "triples": _from_spectrum(_triples),
    "low-rank": _from_spectrum(_low_rank),
    "long": _from_spectrum(_long),
    "cycle": _cycle,
    "square": _square,
    "Wilkinson": _wilkinson,
    "spike": _from_spectrum(_apart),
    "NaN": _from_spectrum(_apart),
    "unrelated": _from_spectrum(_apart),
}
KINDS = tuple(_DRAWS)


def _rotations(rng: np.random.Generator, count: int, size: float | None = None) -> np.ndarray:
    """Orthogonal matrices: any, or those a `size` away from the identity."""
    g = rng.normal(size=(count, DIMENSION, DIMENSION))
    if size is None:
        return np.linalg.qr(g)[0]
    skew = size * (g - g.transpose(0, 2, 1)) / (4 * DIMENSION**0.5)
    eye = np.eye(DIMENSION)
    return np.linalg.solve(eye - skew, eye + skew)


def _drifting(rng: np.random.Generator, matrix: np.ndarray) -> np.ndarray:
    """The operator grows and rotates by up to a tenth per measurement; multiplicities stay."""
    turn = _rotations(rng, 1, 10 ** rng.uniform(-4, -1))[0]
    growth = 1 + rng.uniform(-0.05, 0.05)
    sequence = [matrix]
    for _ in range(MEASUREMENTS - 1):
        sequence.append(growth * turn @ sequence[-1] @ turn.T)
    return np.stack(sequence)


def draw(kind: str, count: int, seed: tuple[int, ...]) -> Sequences:
    """`count` sequences of a kind, of either sign and of sizes between 1e-3 and 1e3.

    Args:
        kind: One of `KINDS`.
        count: How many.
        seed: Seed of the sequences.

    Returns:
        The sequences.
    """
    rng = np.random.default_rng([*seed, KINDS.index(kind)])
    spiked = np.zeros((count, MEASUREMENTS), bool)
    lanes = []
    for i in range(count):
        if kind == "unrelated":
            sizes = 10 ** rng.uniform(-3, 3, MEASUREMENTS)
            lane = np.stack([_DRAWS[kind](rng) * size for size in sizes])
        else:
            lane = _drifting(rng, _DRAWS[kind](rng))
        if kind == "spike":
            other = lane[SPIKE_AT] if rng.integers(2) else _DRAWS[kind](rng)
            lane[SPIKE_AT] = other * rng.choice(SPIKES)
            # Spikes stay in float32's range: infinite entries are the next kind.
            size = 10 ** rng.uniform(-1, 1)
        else:
            size = 10 ** rng.uniform(-3, 3)
        if kind == "NaN":
            lane[SPIKE_AT] = rng.choice([np.nan, np.inf])
        spiked[i, SPIKE_AT] = kind in ("spike", "NaN")
        lanes.append(lane * size * rng.choice([-1, 1]))
    matrices = np.stack(lanes) if lanes else np.zeros((0, MEASUREMENTS, DIMENSION, DIMENSION))
    matrices = ((matrices + matrices.transpose(0, 1, 3, 2)) / 2).astype(np.float32)
    norms = np.sqrt(np.square(matrices[:, 0].astype(np.float64)).sum(axis=(1, 2)))
    # Zero eigenvalues are tested with and without an absolute tolerance.
    atol = 1e-4 * norms * (rng.integers(2, size=count) if kind == "low-rank" else 0)
    # Away from zero, where a relative tolerance can be met.
    shift = rng.choice([-1, 1], count) * rng.uniform(0.1, 0.3, count) * norms / 4
    return Sequences(matrices, spiked, atol, shift)
