"""Hyperparameters: numbers converted to array leaves and checked."""

from __future__ import annotations

from typing import Any, cast

import jax.core
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float


def is_concrete(value: Any) -> bool:
    """True if the value is concrete: it can be read, outside of a traced function."""
    return not isinstance(value, jax.core.Tracer)


def as_hyperparameter(
    name: str,
    value: Any,
    *,
    at_least: float | int | None = None,
    above: float | int | None = None,
    below: float | int | None = None,
    fix: str,
) -> Float[Array, ""]:
    """A scalar array in JAX's default float type (float64 under x64), checked against bounds.

    The default type, not a weak one and not the parameters': powers such as `1 - beta2**t` are
    then computed at full precision whatever the parameters are, and each is cast to a leaf's own
    dtype in operations with the leaf, so that parameters keep theirs. Traced values are not
    checked.
    """
    if not is_concrete(value):
        if jnp.shape(value) != ():
            raise ValueError(
                f"{name} has shape {jnp.shape(value)}, but one optimizer has one value: {fix}."
            )
        return jnp.asarray(value).astype(float)
    if isinstance(value, (str, bytes, bool)) or value is None:
        raise TypeError(f"{name} must be a real number, got {value!r}: {fix}.")
    try:
        given = np.asarray(value)
        number = given.astype(np.float64, casting="same_kind")
    except (TypeError, ValueError):
        raise TypeError(f"{name} must be a real number, got {value!r}: {fix}.") from None
    if given.shape != ():
        raise ValueError(
            f"{name} has shape {given.shape}, but one optimizer has one value: build a sweep by "
            f"`eqx.filter_vmap` over the function that makes the optimizer."
        )
    # The rounded number is checked: 1 - 1e-9 is 1 in float32.
    with np.errstate(over="ignore", under="ignore"):
        used = float(number.astype(jnp.result_type(float)))
    shown = f"{float(number)!r}" + ("" if used == number or used not in (0, 1) else f" (= {used})")
    if not np.isfinite(used):
        raise ValueError(f"{name} must be finite, got {shown}: {fix}.")
    if at_least is not None and used < at_least:
        raise ValueError(f"{name} must be at least {at_least:g}, got {shown}: {fix}.")
    if above is not None and used <= above:
        raise ValueError(f"{name} must be greater than {above:g}, got {shown}: {fix}.")
    if below is not None and used >= below:
        raise ValueError(f"{name} must be less than {below:g}, got {shown}: {fix}.")
    return jnp.asarray(used, dtype=float)


def as_lr(value: Any) -> Float[Array, ""]:
    return as_hyperparameter("lr", value, above=0, fix="take a step size such as 1e-3")


def as_decay_rate(name: str, value: Any) -> Float[Array, ""]:
    return as_hyperparameter(
        name, value, at_least=0, below=1, fix=f"take a decay rate in [0, 1), such as {name}=0.9"
    )


def one_minus_power(beta: Float[Array, ""], exponent: Array) -> Float[Array, ""]:
    """`1 - beta**exponent`, without the cancellation that costs float32 four digits at .999."""
    return -jnp.expm1(exponent.astype(beta.dtype) * jnp.log(beta))


def cast_to(scalar: Array, leaf: Array) -> Array:
    """The scalar in the leaf's dtype, so that products keep the dtype of the leaf."""
    return cast(Array, scalar.astype(leaf.dtype))


def as_length(name: str, value: Any, fix: str) -> int:
    """Check a whole number of at least one, which decides the shapes of a program."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise TypeError(f"{name} must be a whole number, got {value!r}: {fix}.")
    if value < 1:
        raise ValueError(f"{name} must be at least 1, got {value}: {fix}.")
    return value
