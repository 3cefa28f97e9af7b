"""Eigen-solvers of other packages on aeoskit's operators, with their products counted.

They take flat arrays, so the operator is raveled for them, and only for them.
"""

import importlib
import importlib.util
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
from jax.flatten_util import ravel_pytree
from jaxtyping import PyTree

from aeoskit.linalg import Lanczos, eigensolve

BASIS = 20


@dataclass(frozen=True)
class PeerSolution:
    """The solution of a peer. Values best first, `vectors` `(k, n)`."""

    values: np.ndarray
    vectors: np.ndarray
    matvecs: int
    converged: bool
    seconds: float


class BudgetError(Exception):
    """A peer has exceeded its limit of products."""


@eqx.filter_jit
def _linearised(operator: lx.AbstractLinearOperator) -> lx.AbstractLinearOperator:
    return lx.linearise(operator)


@eqx.filter_jit
def _flat_product(operator: lx.AbstractLinearOperator, vector: jax.Array) -> jax.Array:
    return ravel_pytree(operator.mv(_unravel(operator, vector)))[0]


@eqx.filter_jit
def _flat_products(operator: lx.AbstractLinearOperator, rows: jax.Array) -> jax.Array:
    return jax.lax.map(lambda row: _flat_product(operator, row), rows)


def _unravel(operator: lx.AbstractLinearOperator, vector: jax.Array) -> PyTree:
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), operator.in_structure())
    return ravel_pytree(zeros)[1](vector)


class FlatOperator:
    """An operator on flat numpy arrays, linearized once, which counts its products.

    Args:
        operator: The operator.
        limit: Largest number of products until `reset`.
    """

    def __init__(self, operator: lx.AbstractLinearOperator, limit: int = 10**9):
        self.linear = _linearised(operator)
        self.structure = operator.in_structure()
        leaves = jax.tree.leaves(self.structure)
        self.n = sum(int(np.prod(leaf.shape)) for leaf in leaves)
        self.dtype = np.result_type(*(leaf.dtype for leaf in leaves))
        self.limit, self.count = limit, 0

    def reset(self) -> None:
        """Reset the count to zero."""
        self.count = 0

    def uncounted(self, vector: np.ndarray) -> np.ndarray:
        """A product that is not counted."""
        return np.asarray(_flat_product(self.linear, jnp.asarray(vector, self.dtype)))

    def product(self, vector: np.ndarray) -> np.ndarray:
        """A product with a vector `(n,)`, or with the columns of `(n, m)`."""
        if vector.ndim == 2:
            return np.stack([self.product(column) for column in vector.T], axis=1)
        self.count += 1
        if self.count > self.limit:
            raise BudgetError
        return self.uncounted(vector)

    def start(self, key: jax.Array) -> np.ndarray:
        """The start vector of aeoskit's cold solves for the same key."""
        # After one product it is the whole Krylov space.
        solution = eigensolve(self.linear, Lanczos(), start=key, max_matvecs=1)
        first = jax.tree.map(lambda x: x[0], solution.vectors)
        return np.asarray(ravel_pytree(first)[0])

    def residual(self, values: np.ndarray, vectors: np.ndarray) -> float:
        """The largest `||A v - θ v|| / |θ|`, by products that are not counted."""
        worst = 0.0
        for value, vector in zip(values, vectors, strict=True):
            v = vector.astype(np.float64) / np.linalg.norm(vector)
            left = self.uncounted(v) - value * v
            worst = max(worst, float(np.linalg.norm(left) / max(abs(value), 1e-300)))
        return worst


def scipy_solvers() -> Any:
    """Scipy's module, untyped, since its stubs are wrong."""
    return importlib.import_module("scipy.sparse.linalg")


Peer = Callable[[FlatOperator, int, float, jax.Array, float], PeerSolution | None]


def _timed(flat: FlatOperator, run: Callable[[], Any]) -> tuple[Any, float]:
    flat.reset()
    begin = time.perf_counter()
    with warnings.catch_warnings():  # whether it converged is in the table
        warnings.simplefilter("ignore")
        try:
            out = run()
        except (BudgetError, np.linalg.LinAlgError):
            out = None
    return out, time.perf_counter() - begin


def _eigsh(
    flat: FlatOperator, k: int, rtol: float, key: jax.Array, scale: float
) -> PeerSolution | None:
    sparse = scipy_solvers()

    if k >= flat.n:
        return None
    operator = sparse.LinearOperator((flat.n, flat.n), matvec=flat.product, dtype=flat.dtype)
    v0 = flat.start(key)
    out, seconds = _timed(
        flat, lambda: sparse.eigsh(operator, k, which="LA", ncv=min(BASIS, flat.n), tol=rtol, v0=v0)
    )
    if out is None:
        return PeerSolution(np.zeros(0), np.zeros((0, flat.n)), flat.count - 1, False, seconds)
    return PeerSolution(out[0][::-1], out[1].T[::-1], flat.count, True, seconds)


def _lobpcg(
    flat: FlatOperator, k: int, rtol: float, key: jax.Array, scale: float
) -> PeerSolution | None:
    sparse = scipy_solvers()

    if 5 * k >= flat.n:  # it would form the dense matrix
        return None
    operator = sparse.LinearOperator(
        (flat.n, flat.n), matvec=flat.product, matmat=flat.product, dtype=flat.dtype
    )
    block = _block(flat, k, key)
    # Its tolerance is absolute: it gets the scale, which a user would not know.
    tolerance = rtol * scale
    out, seconds = _timed(
        flat,
        lambda: sparse.lobpcg(operator, block, largest=True, tol=tolerance, maxiter=flat.limit),
    )
    if out is None:
        return PeerSolution(np.zeros(0), np.zeros((0, flat.n)), flat.count - 1, False, seconds)
    values, vectors = np.asarray(out[0]), np.asarray(out[1]).T
    order = np.argsort(-values)
    matvecs = flat.count
    values, vectors = values[order], vectors[order]
    converged = bool(flat.residual(values, vectors) * np.abs(values).min() <= 1.1 * tolerance)
    return PeerSolution(values, vectors, matvecs, converged, seconds)


def _block(flat: FlatOperator, k: int, key: jax.Array) -> np.ndarray:
    """`(n, k)`, its first column the start vector of the others."""
    rest = jax.random.normal(jax.random.fold_in(key, 1), (flat.n, k - 1), flat.dtype)
    return np.concatenate([flat.start(key)[:, None], np.asarray(rest)], axis=1)


@eqx.filter_jit
def _jax_lobpcg_solve(linear: Any, block: jax.Array, steps: int, tolerance: jax.Array) -> Any:
    from jax.experimental.sparse.linalg import lobpcg_standard

    def product(columns: jax.Array) -> jax.Array:
        return jax.vmap(lambda x: _flat_product(linear, x), in_axes=1, out_axes=1)(columns)

    return lobpcg_standard(product, block, steps, tolerance)


def _jax_lobpcg(
    flat: FlatOperator, k: int, rtol: float, key: jax.Array, scale: float
) -> PeerSolution | None:
    if 5 * k >= flat.n:
        return None
    block = jnp.asarray(_block(flat, k, key))
    # Its test is `||r|| < tol * 10 n (θ + ||A v||)`.
    tolerance = jnp.asarray(rtol / (20 * flat.n), flat.dtype)
    # Each iteration multiplies its 3k directions and then the k vectors again.
    steps = max(1, (flat.limit - k) // (4 * k))
    for _ in range(2):  # the first compiles
        begin = time.perf_counter()
        out = jax.block_until_ready(_jax_lobpcg_solve(flat.linear, block, steps, tolerance))
        seconds = time.perf_counter() - begin
    values, vectors, iterations = (np.asarray(x) for x in out)
    converged = bool(np.isfinite(values).all() and iterations < steps)
    return PeerSolution(values, vectors.T, k + 4 * k * int(iterations), converged, seconds)


@eqx.filter_jit
def _matfree_solve(linear: Any, start: jax.Array, depth: int) -> Any:
    decomp: Any = importlib.import_module("matfree.decomp")
    eig: Any = importlib.import_module("matfree.eig")
    solve = eig.eigh_partial(decomp.tridiag_sym(depth))
    return solve(lambda v: _flat_product(linear, v), start)


def _matfree(
    flat: FlatOperator, k: int, rtol: float, key: jax.Array, scale: float
) -> PeerSolution | None:
    # It takes a number of products and has no stopping test: the number is doubled until it
    # suffices.
    start = jnp.asarray(flat.start(key))
    depth, spent, seconds = BASIS // 2, 0, 0.0
    while depth <= min(flat.n, flat.limit - spent):
        for _ in range(2):
            begin = time.perf_counter()
            out = jax.block_until_ready(_matfree_solve(flat.linear, start, depth))
            last = time.perf_counter() - begin
        spent, seconds = spent + depth, seconds + last
        values, vectors = (np.asarray(x)[::-1][:k] for x in out)
        if flat.residual(values, vectors) <= rtol:
            return PeerSolution(values, vectors, spent, True, seconds)
        depth *= 2
    return PeerSolution(np.zeros(0), np.zeros((0, flat.n)), spent, False, seconds)


def _power(
    flat: FlatOperator, k: int, rtol: float, key: jax.Array, scale: float
) -> PeerSolution | None:
    """Power iteration: the largest in modulus, tested after every product."""
    if k > 1:
        return None

    def run() -> tuple[np.ndarray, np.ndarray, bool]:
        vector, answer, value, converged = flat.start(key), np.zeros(flat.n), 0.0, False
        while flat.count < flat.limit and not converged:
            vector = vector / np.linalg.norm(vector)
            image = flat.product(vector)
            value = vector @ image
            converged = bool(np.linalg.norm(image - value * vector) <= rtol * abs(value))
            answer, vector = vector, image
        return np.array([value]), answer[None], converged

    (values, vectors, converged), seconds = _timed(flat, run)
    return PeerSolution(values, vectors, flat.count, converged, seconds)


# Name, the module that it needs, and the function.
_ALL: dict[str, tuple[str, Peer]] = {
    "scipy eigsh": ("scipy", _eigsh),
    "scipy lobpcg": ("scipy", _lobpcg),
    "jax lobpcg": ("jax", _jax_lobpcg),
    "matfree": ("matfree", _matfree),
    "power iteration": ("numpy", _power),
}


def find_peers() -> tuple[dict[str, Peer], list[str]]:
    """The peers that are installed, and a line about each that is not."""
    found, notes = {}, []
    for name, (module, peer) in _ALL.items():
        if importlib.util.find_spec(module) is None:
            notes.append(f"{name} is left out: pip install 'aeoskit[bench]' brings {module}")
        else:
            found[name] = peer
    return found, notes
