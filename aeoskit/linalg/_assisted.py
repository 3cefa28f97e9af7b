"""Solvers whose small dense problem some backends cannot solve inside a compiled program."""

import abc
import functools
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jax.core import Tracer
from jaxtyping import PyTree

from ._platform import target_platform


class AbstractAssisted(eqx.Module):
    """What a solver offers beside its four functions, so that the host can do a part of a step."""

    @property
    @abc.abstractmethod
    def assisted(self) -> bool:
        """Whether the host driver has to call `assist` after every step."""

    @abc.abstractmethod
    def place(self, platform: str) -> "AbstractAssisted":
        """The solver, assisted where programs for that platform cannot do without."""

    @abc.abstractmethod
    def assist(
        self, operator: lx.AbstractLinearOperator, problem: Any, state: Any
    ) -> tuple[PyTree, bool]:
        """The part of the step that the compiled program left out, and whether all is done."""


@functools.cache
def has_eig(platform: str) -> bool:
    """Whether a compiled program can hold `eig` there: asked of the compiler, not of a list."""
    program = jax.jit(jax.lax.linalg.eig).trace(jax.ShapeDtypeStruct((2, 2), jnp.float32))
    try:
        program.lower(lowering_platforms=(platform,))
    except NotImplementedError:
        return False
    return True


def platform_of(operator: lx.AbstractLinearOperator) -> str:
    """Where the operator's arrays are; under a transformation, where its program will run."""
    for leaf in jax.tree.leaves(operator):
        if isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer):
            return next(iter(leaf.devices())).platform
    device: Any = jax.config.jax_default_device  # pyright: ignore
    if device is None:
        return target_platform()
    return device if isinstance(device, str) else device.platform


def place(solver: Any, operator: lx.AbstractLinearOperator, traced: bool, driver: str):
    """The solver and the driver for the operator's backend.

    Raises:
        ValueError: The host has to assist, and cannot.
    """
    if not isinstance(solver, AbstractAssisted):
        return solver, driver
    platform = platform_of(operator)
    solver = solver.place(platform)
    if not solver.assisted:
        return solver, driver
    if traced or driver == "compiled":
        raise ValueError(
            f"eigensolve: the small dense problem of {type(solver).__name__} is solved on the "
            f"host (programs for {platform} cannot hold it, or the solver's options say so), "
            "which a compiled solve cannot do: call eigensolve outside of jit, vmap and scan, "
            'with driver="auto" or "host", or run this part on the CPU (jax.default_device).'
        )
    return solver, "host"
