"""For which backend programs are made: the one that is here, or one that is planned for."""

import contextlib
import contextvars
import functools
from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
from jax.core import Tracer
from jaxtyping import PyTree

_target: contextvars.ContextVar[str | None] = contextvars.ContextVar("target", default=None)


def target_platform() -> str:
    """The platform that programs are made for.

    Returns:
        `"cpu"`, `"gpu"` or `"tpu"`.

    Example:
        >>> target_platform() == jax.default_backend()
        True
    """
    return _target.get() or jax.default_backend()


def elsewhere() -> bool:
    """True if programs are made for other devices than those that are here."""
    return _target.get() is not None


@contextlib.contextmanager
def compiling_for(platform: str) -> Iterator[None]:
    """Lets what depends on the backend be decided for another one than is here.

    It is for programs that are lowered and compiled ahead of time and run elsewhere. Programs that
    were traced before keep what was decided for them, so that a process traces for one platform.

    Args:
        platform: `"cpu"`, `"gpu"` or `"tpu"`.

    Returns:
        A context.

    Example:
        >>> with compiling_for("tpu"):
        ...     target_platform()
        'tpu'
    """
    token = _target.set(platform)
    try:
        yield
    finally:
        _target.reset(token)


@functools.cache
def has_eig(platform: str) -> bool:
    """True if a compiled program can hold `eig` there: asked of the compiler, not of a list."""
    program = jax.jit(jax.lax.linalg.eig).trace(jax.ShapeDtypeStruct((2, 2), jnp.float32))
    try:
        program.lower(lowering_platforms=(platform,))
    except NotImplementedError:
        return False
    return True


def platform_of(tree: PyTree) -> str:
    """The platform of its arrays; under a transformation, that on which its program will run."""
    for leaf in jax.tree.leaves(tree):
        if isinstance(leaf, jax.Array) and not isinstance(leaf, Tracer):
            return next(iter(leaf.devices())).platform
    device: Any = jax.config.jax_default_device  # pyright: ignore
    if device is None:
        return target_platform()
    return device if isinstance(device, str) else device.platform
