"""How second moments become a diagonal: the power, the two epsilons and the bias corrections."""

from __future__ import annotations

from typing import Any, Literal

import jax.numpy as jnp
from jaxtyping import Array, Float

from ._hyperparameters import as_hyperparameter, cast_to, is_concrete

Scalar = Float[Array, ""]
Correction = Literal["adam", "first_moment", "second_moment", "none"]
CORRECTIONS = ("adam", "first_moment", "second_moment", "none")
# By which correction P holds that of the second moments, and that of the momentum buffer.
CORRECTS_SECOND = ("adam", "second_moment")
CORRECTS_FIRST = ("adam", "first_moment")


def as_epsilons(eps: Any, eps_root: Any, *, floor: bool = False) -> tuple[Scalar, Scalar]:
    """Both as array leaves; not both 0, unless the second moments have a floor of their own."""
    eps = as_hyperparameter("eps", eps, at_least=0, mend="take a number such as 1e-8")
    eps_root = as_hyperparameter(
        "eps_root", eps_root, at_least=0, mend="take 0 or a number such as 1e-16"
    )
    if not floor and all(is_concrete(e) and float(e) == 0 for e in (eps, eps_root)):
        raise ValueError(
            "eps and eps_root are both 0, so that P is singular wherever a gradient was "
            "always zero: take eps=1e-8."
        )
    return eps, eps_root


def as_power(power: Any) -> float:
    """A Python number above 0: one takes `sqrt` and the others do not."""
    if not is_concrete(power):
        raise TypeError(
            "power is traced, but it decides which program is compiled: pass a Python float, "
            "and sweep it as a group of runs."
        )
    as_hyperparameter("power", power, above=0, mend="take 0.5 for the square root")
    return float(power)


def as_correction(correction: Any, known: tuple[str, ...] = CORRECTIONS) -> str:
    """One of the names."""
    if correction not in known:
        raise ValueError(
            f"correction must be one of {', '.join(known)}, got {correction!r}: "
            f'take "{known[0]}" for the published one.'
        )
    return correction


def root_of(nu: Array, eps_root: Scalar, power: float, eps: Scalar) -> Array:
    """`(ν + eps_root)^power + eps`, in the dtype of ν."""
    nu = nu + cast_to(eps_root, nu)
    root = jnp.sqrt(nu) if power == 0.5 else nu ** jnp.asarray(power, nu.dtype)
    return root + cast_to(eps, nu)
