"""For which backend programs are made: the one that is here, or one that is planned for."""

import contextlib
import contextvars
from collections.abc import Iterator

import jax

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
