"""Convolutions, two ways."""

import functools
import operator
from typing import Literal

import jax
import jax.numpy as jnp
from einops import einsum
from jaxtyping import Array, Float

from aeoskit_experiments._errors import UserError

Convolution = Literal["shifted", "lax"]


def shifted_convolution(
    x: Float[Array, "n height width cin"],
    kernel: Float[Array, "size size cin cout"],
    stride: int = 1,
) -> Float[Array, "n rows columns cout"]:
    """A convolution with zero padding, as the sum of (of 3×3, nine) shifted matrix products.

    XLA's CPU backend runs a convolution's gradient inside a compiled loop 20 to 50 times slower
    than outside; matrix products it runs alike.

    Args:
        x: images.
        kernel: the weights, row and column first; an odd number of both.
        stride: step between kept pixels, from the first on, in both directions.

    Returns:
        Images of the same size, divided by the stride and rounded up.

    >>> shifted_convolution(jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1, 1)))[0, :, :, 0]
    Array([[4., 6., 4.],
           [6., 9., 6.],
           [4., 6., 4.]], dtype=float32)
    """
    _, height, width, _ = x.shape
    size, beyond = kernel.shape[0], kernel.shape[0] // 2
    padded = jnp.pad(x, ((0, 0), (beyond, beyond), (beyond, beyond), (0, 0)))
    products = (
        einsum(
            padded[:, i : i + height : stride, j : j + width : stride],
            kernel[i, j],
            "n height width cin, cin cout -> n height width cout",
        )
        for i in range(size)
        for j in range(size)
    )
    return functools.reduce(operator.add, products)


def lax_convolution(
    x: Float[Array, "n height width cin"],
    kernel: Float[Array, "size size cin cout"],
    stride: int = 1,
) -> Float[Array, "n rows columns cout"]:
    """The same by XLA's convolution, as users write it.

    >>> lax_convolution(jnp.ones((1, 3, 3, 1)), jnp.ones((3, 3, 1, 1)))[0, 1, 1, 0]
    Array(9., dtype=float32)
    """
    beyond = (kernel.shape[0] // 2, kernel.shape[0] // 2)
    return jax.lax.conv_general_dilated(
        x, kernel, (stride, stride), (beyond, beyond), dimension_numbers=("NHWC", "HWIO", "NHWC")
    )


CONVOLUTIONS = {"shifted": shifted_convolution, "lax": lax_convolution}


def check_convolution(convolution: str) -> None:
    """Raise a `UserError` for an unknown name."""
    if convolution not in CONVOLUTIONS:
        raise UserError(
            f"convolution is {convolution!r}: it is one of {', '.join(sorted(CONVOLUTIONS))}"
        )
