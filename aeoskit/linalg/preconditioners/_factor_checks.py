"""Refusals, in words, of factors, rotations and diagonals that make no positive definite P.

Values are looked at outside of tracing only.
"""

import jax
import jax.core
import jax.numpy as jnp
from einops import einsum, rearrange
from jaxtyping import Array


def _seen(array: Array) -> bool:
    return not isinstance(array, jax.core.Tracer)


def _rounding(array: Array) -> float:
    return 100 * array.shape[-1] * float(jnp.finfo(array.dtype).eps)


def check_shape(name: str, array: Array, shape: tuple[int, ...]) -> None:
    if array.shape != shape:
        raise ValueError(
            f"{name} has shape {array.shape}, expected {shape}: an axis of length n takes an n × n "
            f"matrix, or n numbers for a diagonal one."
        )


def check_finite(name: str, array: Array) -> None:
    if not bool(jnp.isfinite(array).all()):
        raise ValueError(
            f"{name}: there are entries that are not finite; look at the gradients that made them."
        )


def check_symmetric(name: str, matrix: Array) -> None:
    if not _seen(matrix):
        return
    check_finite(name, matrix)
    gap = float(jnp.max(jnp.abs(matrix - rearrange(matrix, "i j -> j i"))))
    if gap > _rounding(matrix) * float(jnp.max(jnp.abs(matrix))):
        raise ValueError(
            f"{name} is not symmetric: entries differ from their mirror images by up to "
            f"{gap:.3g}; pass (A + A.T) / 2 if that is what is meant."
        )


def check_not_negative(name: str, values: Array) -> None:
    if not _seen(values):
        return
    check_finite(name, values)
    least = float(jnp.min(values))
    if least < -_rounding(values) * float(jnp.max(jnp.abs(values))):
        raise ValueError(
            f"{name}: the least is {least:.3g}, but P must be positive definite; add a multiple "
            f"of the identity."
        )


def check_positive(name: str, diagonal: Array) -> None:
    if not _seen(diagonal):
        return
    check_finite(name, diagonal)
    least = float(jnp.min(diagonal)) if diagonal.size else 1.0
    if least <= 0:
        raise ValueError(f"{name}: the least entry is {least:.3g}; every entry must be positive.")


def check_orthogonal(name: str, matrix: Array) -> None:
    if not _seen(matrix):
        return
    check_finite(name, matrix)
    with jax.default_matmul_precision("highest"):
        gram = einsum(matrix, matrix, "k i, k j -> i j")
    gap = float(jnp.max(jnp.abs(gram - jnp.eye(matrix.shape[0], dtype=matrix.dtype))))
    if gap > _rounding(matrix):
        raise ValueError(
            f"{name} is not orthogonal: its Gram matrix differs from the identity by {gap:.3g}; "
            f"take the eigenvectors of a symmetric matrix, or the Q of a QR decomposition."
        )
