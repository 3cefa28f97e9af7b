"""Compiled programs on disk, so that a second run need not compile: JAX's own cache, managed.

JAX's key of a program covers the compiler's input, including the processor's features, but not the
number of threads that it is compiled for, which changes the machine code and so perhaps a run's
last digits. So each number of threads has a folder of its own.
"""

import contextlib
import os
import shutil
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.catalog import cache_home, expanded

VARIABLE = "AEOSKIT_CACHE"
"""Name of the variable that holds the folder, or `off`; child processes inherit it."""

OFF = "off"
LIMIT = 256 * 2**20
"""Largest size of a folder in bytes; JAX drops the least recently used programs."""

_ROOM = 64 * 2**20
"""Free bytes that a disk must have."""

_SETTINGS = {
    "jax_compilation_cache_max_size": LIMIT,
    # Shorter compilations cost no more than a search through a folder that is nearly full.
    "jax_persistent_cache_min_compile_time_secs": 0.1,
    # They do not count towards the limit, and make a program's key depend on the folder.
    "jax_persistent_cache_enable_xla_caches": "none",
}
_ENTRY, _MARK, _LOCK = "-cache", "-atime", ".lockfile"


@contextlib.contextmanager
def cache_for_command(*, off: bool = False) -> Iterator[None]:
    """Enable the cache of a command line, unless the user or the environment disables it.

    Args:
        off: Whether the user disables it.
    """
    before = os.environ.get(VARIABLE)
    if off or before is None:
        os.environ[VARIABLE] = OFF if off else str(_default() or OFF)
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(VARIABLE, None)
        else:
            os.environ[VARIABLE] = before


def follow_cache() -> str | None:
    """Let JAX keep compiled programs in the folder `AEOSKIT_CACHE`; do nothing if it is not set.

    A folder that JAX was given (`JAX_COMPILATION_CACHE_DIR`) stays in use.

    Returns:
        A sentence for the user if nothing can be kept, None otherwise.

    Raises:
        UserError: If `AEOSKIT_CACHE` is in the home of an unknown user.

    Example:
        >>> follow_cache()  # here, it is off
    """
    setting = os.environ.get(VARIABLE)
    if setting is None:
        return None
    import jax
    from jax.experimental.compilation_cache import compilation_cache

    config: Any = jax.config  # its flags are defined at run time, unknown to type checkers
    if setting in ("", OFF):
        if config.jax_enable_compilation_cache:
            config.update("jax_enable_compilation_cache", False)
            compilation_cache.reset_cache()  # it has read the setting already
        return None
    if config.jax_compilation_cache_dir or not config.jax_enable_compilation_cache:
        return None
    folder = _for_threads(Path(setting))
    why = _prepare(folder)
    if why is not None:
        config.update("jax_enable_compilation_cache", False)  # so that the sentence appears once
        return f"compiled programs are not kept: {folder}: {why}"
    for name, value in _SETTINGS.items():
        if name.upper() not in os.environ:
            config.update(name, value)
    config.update("jax_compilation_cache_dir", str(folder))
    # A program that cannot be read is compiled, and one that cannot be written is not kept.
    warnings.filterwarnings("ignore", "Error (read|writ)ing persistent compilation cache")
    warnings.filterwarnings("ignore", "Cache value for key .* exceeds the maximum cache size")
    return None


def cache_state() -> dict[str, Any]:
    """The folder of compiled programs, and their number.

    Returns:
        `folder` (None if nothing is kept), `programs`, `bytes`, and `limit` per number of threads.

    Raises:
        UserError: If `AEOSKIT_CACHE` is in the home of an unknown user.

    Example:
        >>> cache_state()["folder"] is None  # here, it is off
        True
    """
    root = _root()
    sizes = [] if root is None else [entry.stat().st_size for entry in _entries(root)]
    return {
        "folder": None if root is None else str(root),
        "programs": len(sizes),
        "bytes": sum(sizes),
        "limit": LIMIT,
    }


def clear_cache() -> int:
    """Delete all compiled programs; present runs compile again what they need.

    Returns:
        Their size in bytes.

    Raises:
        UserError: If a file cannot be deleted.

    Example:
        >>> clear_cache()  # here, it is off
        0
    """
    root, freed = _root(), 0
    for folder in [] if root is None else sorted({entry.parent for entry in _entries(root)}):
        try:
            with _locked(folder):
                for entry in folder.glob(f"*{_ENTRY}"):
                    freed += entry.stat().st_size
                    _delete(entry)
        except Exception as error:
            raise UserError(f"{folder} cannot be cleared: {_words(error)}") from error
    return freed


def _default() -> Path | None:
    try:
        return cache_home() / "aeoskit" / "programs"
    except RuntimeError:  # a user without a home
        return None


def _root() -> Path | None:
    setting = os.environ.get(VARIABLE)
    if setting is None:
        return _default()
    return None if setting in ("", OFF) else expanded(setting, VARIABLE).absolute()


def _for_threads(root: Path) -> Path:
    """The folder for programs of as many threads as XLA takes in this process."""
    try:
        cores = len(os.sched_getaffinity(0))
    except AttributeError:  # not available on this system
        cores = os.cpu_count() or 1
    return expanded(root, VARIABLE).absolute() / f"threads-{os.environ.get('NPROC') or cores}"


def _entries(root: Path) -> list[Path]:
    return list(root.glob(f"threads-*/*{_ENTRY}"))


def _prepare(folder: Path) -> str | None:
    """Make the folder, and remove the partial files of killed processes.

    Returns:
        The reason why it cannot be used, or None.
    """
    try:
        # Its files are executed: nobody else may write to it.
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        with _locked(folder):
            # JAX writes the mark last, and does not rewrite existing files.
            for entry in folder.glob(f"*{_ENTRY}"):
                if not _mark(entry).exists():
                    _delete(entry)
            if shutil.disk_usage(folder).free < _ROOM:
                return "its disk is full"
    except Exception as error:  # a run without a cache is better than none
        return _words(error)
    return None


def _locked(folder: Path) -> Any:
    """The lock that JAX takes for each program that it reads or writes."""
    import filelock

    return filelock.FileLock(folder / _LOCK, timeout=10)


def _mark(entry: Path) -> Path:
    return entry.with_name(entry.name.removesuffix(_ENTRY) + _MARK)


def _delete(entry: Path) -> None:
    entry.unlink()
    _mark(entry).unlink(missing_ok=True)


def _words(error: Exception) -> str:
    """The error in one line, without the path, which the caller adds."""
    return getattr(error, "strerror", None) or " ".join(str(error).split())
