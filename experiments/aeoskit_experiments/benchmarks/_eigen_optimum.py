"""The fewest products that a Krylov space from one start vector needs: the optimum."""

from collections.abc import Callable, Sequence

import numpy as np

# Relative to the largest value seen: a remainder of this size is rounding, and the space is
# exhausted.
_BREAKDOWN = 1e-6


def optimum(
    product: Callable[[np.ndarray], np.ndarray],
    start: np.ndarray,
    ks: Sequence[int],
    rtols: Sequence[float],
    limit: int = 300,
) -> tuple[dict[tuple[int, float], int | None], np.ndarray]:
    """Count the products after which unrestarted Lanczos has its k largest pairs.

    Full reorthogonalization, an unbounded basis; if the space is exhausted before k pairs are
    found, it continues from a random direction. A pair is found when `||A v - θ v|| <= rtol |θ|`.

    Args:
        product: The matrix-vector product, on flat arrays.
        start: The start vector.
        ks: Numbers of pairs, each combined with each tolerance.
        rtols: The tolerances.
        limit: Largest number of products.

    Returns:
        The count for each `(k, rtol)`, None where the limit was too low; and the largest values at
        the end, as many as the largest k.
    """
    rng = np.random.default_rng(0)
    n = len(start)
    limit = min(limit, n)
    basis = np.empty((limit, n), np.float32)
    projected = np.zeros((limit, limit))
    found: dict[tuple[int, float], int | None] = {(k, rtol): None for k in ks for rtol in rtols}
    q = start / np.linalg.norm(start)
    values, scale = np.zeros(0), 0.0
    for j in range(limit):
        basis[j] = q
        w = product(basis[j]).astype(np.float32)
        h = np.zeros(j + 1)
        for _ in range(2):  # twice is enough
            c = basis[: j + 1] @ w
            w = w - c @ basis[: j + 1]
            h += c
        projected[j, : j + 1] = projected[: j + 1, j] = h
        values, vectors = np.linalg.eigh(projected[: j + 1, : j + 1])
        scale = max(scale, float(np.abs(values).max()))
        beta = float(np.linalg.norm(w))
        exhausted = beta <= _BREAKDOWN * scale
        # The remainder of this product is every pair's residual, up to the pair's last coefficient.
        residuals = beta * np.abs(vectors[-1])
        for k, rtol in found:
            met = j + 1 >= k and np.all(residuals[-k:] <= rtol * np.abs(values[-k:]))
            if found[k, rtol] is None and met:
                found[k, rtol] = j + 1
        if all(count is not None for count in found.values()):
            break
        if exhausted:
            w = rng.normal(size=n).astype(np.float32)
            for _ in range(2):
                w = w - (basis[: j + 1] @ w) @ basis[: j + 1]
            beta = float(np.linalg.norm(w))
        q = w / beta
    return found, values[::-1][: max(ks)]
