"""The three shapes that a loss may have, and what each contributes to a weighted mean."""

from typing import Any, Literal

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, PyTree

LossKind = Literal["per_example", "weighted", "mean"]


def accumulator(dtype: Any) -> Any:
    """The dtype that sums are kept in: at least single precision."""
    return jnp.promote_types(dtype, jnp.float32)


def _describe(output: PyTree) -> str:
    shapes = jax.tree.map(lambda x: f"{x.dtype}{list(x.shape)}", output)
    return str(shapes).replace("'", "")


def _is_scalar_pair(output: PyTree) -> bool:
    return (
        isinstance(output, tuple)
        and len(output) == 2
        and all(hasattr(x, "shape") and x.shape == () for x in output)
    )


def loss_kind(output: PyTree, size: int) -> LossKind:
    """The kind of loss, of three, that returned `output` for a batch of `size` examples.

    Args:
        output: what the loss returned: arrays, tracers or `jax.ShapeDtypeStruct`s.
        size: the number of examples in the batch.

    Returns:
        `"per_example"` for a shape `(size,)`, `"weighted"` for a pair of scalars `(sum, weight)`,
        `"mean"` for a scalar.

    Raises:
        ValueError: for any other shape, or for a loss that is not real and floating.
    """
    if _is_scalar_pair(output):
        total, kind = output[0], "weighted"
    elif hasattr(output, "shape") and output.shape in ((size,), ()):
        total, kind = output, ("per_example" if output.shape else "mean")
    else:
        raise ValueError(
            f"the loss returned {_describe(output)} for a batch of {size} examples: return "
            f"per-example losses of shape ({size},), a pair of scalars (sum, weight), "
            "or a scalar mean"
        )
    if not jnp.issubdtype(total.dtype, jnp.floating):
        raise ValueError(
            f"the loss returned {_describe(output)}: its values must be real floating-point numbers"
        )
    return kind


def sum_and_weight(output: PyTree, size: int) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The sum of the losses of a batch and its weight, whatever the kind of the loss.

    The weight is a constant to differentiation: a number of tokens does not depend on parameters.
    """
    kind = loss_kind(output, size)
    if kind == "weighted":
        total, weight = output
        total = jnp.asarray(total)
        wide = accumulator(total.dtype)
        return total.astype(wide), jax.lax.stop_gradient(jnp.asarray(weight)).astype(wide)
    wide = accumulator(output.dtype)
    weight = jnp.asarray(size, wide)
    output = output.astype(wide)
    return (jnp.sum(output) if kind == "per_example" else output * weight), weight
