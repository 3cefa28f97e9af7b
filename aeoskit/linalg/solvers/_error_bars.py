"""Error bars of eigenvalues: what a residual proves, and what it only suggests."""

import math
from typing import Any

import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float


def temple_bound(residuals: Float[Any, " k"], gap: Float[Any, " k"] | float) -> Float[Any, " k"]:
    """The quadratic error bound of a symmetric operator's Ritz values, from a gap that is known.

    `min(residual, residual² / gap)`. It is a bound only if `gap` is a lower bound of the distance
    from the Ritz value to every eigenvalue but the one that it approximates. With a gap between
    Ritz values it is an estimate, and is called so in `EigenSolution.estimates`.

    Args:
        residuals: `(k,)`, `||A v - θ v||` for unit v.
        gap: `(k,)` or a number, positive.

    Returns:
        `(k,)`, half-widths.

    Source: Kato 1949; Parlett, *The Symmetric Eigenvalue Problem*, theorem 11.7.1.

    Example:
        >>> temple_bound(jnp.array([0.5]), 2.0).tolist()
        [0.125]
    """
    xp = np if isinstance(residuals, np.ndarray) else jnp
    gap = xp.broadcast_to(xp.asarray(gap, residuals.dtype), residuals.shape)
    safe = xp.where(gap > 0, gap, 1)
    return xp.where(gap > 0, xp.minimum(residuals, residuals**2 / safe), residuals)


def ritz_gaps(
    wanted: Float[Any, " k"], seen: Float[Any, " m"], valid: Bool[Any, " m"]
) -> Float[Any, " k"]:
    """The distance from each wanted Ritz value to the nearest other one that was seen.

    Args:
        wanted: `(k,)`, each of them also among `seen`.
        seen: `(m,)`, all Ritz values.
        valid: `(m,)`, which of these count.

    Returns:
        `(k,)`, infinite where there is no other.

    Example:
        >>> values = jnp.array([5.0, 4.5, 1.0])
        >>> ritz_gaps(values[:2], values, jnp.array([True, True, True])).tolist()
        [0.5, 0.5]
    """
    xp = np if isinstance(wanted, np.ndarray) else jnp
    distance = xp.abs(wanted[:, None] - seen[None, :])
    distance = xp.where(valid[None, :], distance, xp.inf)
    # The nearest one is the value itself.
    itself = xp.arange(seen.shape[0])[None, :] == xp.argmin(distance, axis=1)[:, None]
    return xp.min(xp.where(itself, xp.inf, distance), axis=1)


def random_start_excess(products: int, dimension: int, probability: float = 0.99) -> float:
    """The excess of the top eigenvalue over its Ritz value that a random start leaves possible.

    For Lanczos from a uniformly random direction, with full reorthogonalization and no restart:
    with the given probability, `λ₁ - θ₁ <= excess (λ₁ - λ_min)`, whatever the spectrum.

    Args:
        products: How many products the solve made.
        dimension: The operator's.
        probability: Over the draw of the start.

    Returns:
        The excess; 1 where the products prove nothing.

    Raises:
        ValueError: Fewer than one product, a dimension under 2, or a probability outside (0, 1).

    Source: Kuczyński and Woźniakowski, SIAM J. Matrix Anal. Appl. 13 (1992), theorem 4.2.

    Example:
        >>> round(random_start_excess(40, 17_000), 3)
        0.016
    """
    if products < 1 or dimension < 2:
        raise ValueError(
            f"random_start_excess(products={products}, dimension={dimension}): it takes one "
            "product at least, and a dimension of 2 or more."
        )
    if not 0 < probability < 1:
        raise ValueError(
            f"random_start_excess(probability={probability}): a number between 0 and 1."
        )
    # P(excess > e) <= 1.648 sqrt(n) exp(-sqrt(e) (2 products - 1)), solved for e.
    root = math.log(1.648 * math.sqrt(dimension) / (1 - probability)) / (2 * products - 1)
    return min(1.0, max(0.0, root) ** 2)
