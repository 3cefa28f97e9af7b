"""A symmetric positive definite matrix along one axis of an array, and checks of one."""

from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
from einops import einsum, rearrange
from jaxtyping import Array, Float


class AxisFactor(eqx.Module):
    """A symmetric positive definite matrix along one axis, by its eigendecomposition.

    Args:
        values: The eigenvalues, positive.
        vectors: The eigenvectors, one a column, orthonormal. None for a diagonal matrix.

    Example:
        >>> factor = AxisFactor(jnp.array([1.0, 16.0]))
        >>> factor.power(0.25).values.tolist()
        [1.0, 2.0]
    """

    values: Float[Array, " n"]
    vectors: Float[Array, "n n"] | None = None

    def power(self, exponent: float) -> "AxisFactor":
        """The factor raised to a power: its eigenvalues are."""
        return AxisFactor(power_of(self.values, exponent), self.vectors)


def symmetric_factor(matrix: Float[Array, "n n"], eps: Any = 0.0) -> AxisFactor:
    """The eigendecomposition of a positive semidefinite matrix, its eigenvalues floored.

    What rounding cannot tell from zero is raised to the rounding of the largest eigenvalue, and
    whatever is below `eps` to that: a root of a value that rounding made negative would be NaN.
    Nothing is checked.

    Args:
        matrix: The matrix; its symmetric part is taken. In 16 bits it is decomposed in float32.
        eps: The floor.

    Returns:
        An `AxisFactor`.

    Example:
        >>> symmetric_factor(jnp.array([[4.0, 0.0], [0.0, 0.0]]), 0.5).values.tolist()
        [0.5, 4.0]
    """
    matrix = matrix.astype(at_least_float32(matrix.dtype))
    values, vectors = jnp.linalg.eigh(matrix)
    return AxisFactor(apply_floor(values, eps), vectors)


def at_least_float32(dtype: Any) -> Any:
    """The dtype to decompose in: the decompositions know no 16-bit formats."""
    return dtype if jnp.finfo(dtype).bits >= 32 else jnp.dtype("float32")


def multiply_along(
    matrix: Float[Array, "m m"], array: Array, axis: int, transpose: bool = False
) -> Array:
    """The product of a square matrix with every vector along one axis of an array.

    Args:
        matrix: The matrix.
        array: An array of any shape, its axis of the matrix's size.
        axis: Which axis, from 0.
        transpose: Whether to take the matrix's transpose.

    Returns:
        An array of the same shape, computed at the highest precision of the device.

    Example:
        >>> swap = jnp.array([[0.0, 1.0], [1.0, 0.0]])
        >>> multiply_along(swap, jnp.array([[1.0, 2.0]]), 1).tolist()
        [[2.0, 1.0]]
    """
    names = [f"x{i}" for i in range(array.ndim)]
    target = [*names[:axis], "y", *names[axis + 1 :]]
    pair = f"{names[axis]} y" if transpose else f"y {names[axis]}"
    with jax.default_matmul_precision("highest"):
        return einsum(matrix, array, f"{pair}, {' '.join(names)} -> {' '.join(target)}")


def power_of(values: Array, exponent: float) -> Array:
    # The four that P is asked for, in fewer roundings than a power takes.
    if exponent == 1:
        return values
    if exponent == -1:
        return 1 / values
    if exponent == 0.5:
        return jnp.sqrt(values)
    if exponent == -0.5:
        return 1 / jnp.sqrt(values)
    return values ** jnp.asarray(exponent, values.dtype)


def common_dtype(a: Array, b: Array) -> tuple[Array, Array]:
    """Both in the finer of their dtypes: vectors in 16 bits meet factors in 32."""
    dtype = max(a.dtype, b.dtype, key=lambda dtype: jnp.finfo(dtype).bits)
    return a.astype(dtype), b.astype(dtype)


def apply_floor(values: Array, eps: Any) -> Array:
    rounding = len(values) * float(jnp.finfo(values.dtype).eps) * jnp.max(values)
    floor = jnp.maximum(jnp.asarray(eps, values.dtype), rounding.astype(values.dtype))
    return jnp.maximum(values, floor)


def _is_concrete(array: Array) -> bool:
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
    if not _is_concrete(matrix):
        return
    check_finite(name, matrix)
    gap = float(jnp.max(jnp.abs(matrix - rearrange(matrix, "i j -> j i"))))
    if gap > _rounding(matrix) * float(jnp.max(jnp.abs(matrix))):
        raise ValueError(
            f"{name} is not symmetric: entries differ from their mirror images by up to "
            f"{gap:.3g}; pass (A + A.T) / 2 if that is what is meant."
        )


def check_not_negative(name: str, values: Array) -> None:
    if not _is_concrete(values):
        return
    check_finite(name, values)
    least = float(jnp.min(values))
    if least < -_rounding(values) * float(jnp.max(jnp.abs(values))):
        raise ValueError(
            f"{name}: the least is {least:.3g}, but P must be positive definite; add a multiple "
            f"of the identity."
        )


def check_positive(name: str, diagonal: Array) -> None:
    if not _is_concrete(diagonal):
        return
    check_finite(name, diagonal)
    least = float(jnp.min(diagonal)) if diagonal.size else 1.0
    if least <= 0:
        raise ValueError(f"{name}: the least entry is {least:.3g}; every entry must be positive.")


def check_orthogonal(name: str, matrix: Array) -> None:
    if not _is_concrete(matrix):
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
