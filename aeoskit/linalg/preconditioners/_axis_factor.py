"""A symmetric positive definite matrix along one axis of an array."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
from einops import einsum
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
    return AxisFactor(floored(values, eps), vectors)


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


def alike(a: Array, b: Array) -> tuple[Array, Array]:
    """Both in the finer of their dtypes: vectors in 16 bits meet factors in 32."""
    dtype = max(a.dtype, b.dtype, key=lambda dtype: jnp.finfo(dtype).bits)
    return a.astype(dtype), b.astype(dtype)


def floored(values: Array, eps: Any) -> Array:
    rounding = len(values) * float(jnp.finfo(values.dtype).eps) * jnp.max(values)
    floor = jnp.maximum(jnp.asarray(eps, values.dtype), rounding.astype(values.dtype))
    return jnp.maximum(values, floor)
