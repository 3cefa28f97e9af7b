"""The environment of a run."""

import importlib.metadata
import os
import platform
import subprocess
from typing import Any

import jax

_PACKAGES = ("aeoskit", "jax", "jaxlib", "equinox", "lineax", "numpy")

# OPENBLAS_CORETYPE, for one, changes the last digits of LAPACK's eigenvalues. NPROC is how many
# threads XLA takes on CPU.
_VARIABLES = ("OPENBLAS_", "OMP_", "MKL_", "XLA_FLAGS", "JAX_", "NPROC")


def environment() -> dict[str, Any]:
    """The versions, devices and settings that a run depends on; never raises.

    Returns:
        `versions`, `python`, `platform`, `cpu_count`, `backend`, `devices`, `processes`,
        `default_matmul_precision`, `x64`, `variables` (the environment variables that change
        numbers, with their values) and `git` (commit and dirty of the working directory's
        repository, or `None`).

    Example:
        >>> sorted(environment()["versions"])
        ['aeoskit', 'equinox', 'jax', 'jaxlib', 'lineax', 'numpy']
    """
    config: Any = jax.config  # its flags are made at run time, unknown to type checkers
    return {
        "versions": {package: _version(package) for package in _PACKAGES},
        "python": platform.python_version(),
        "platform": platform.platform(),
        "cpu_count": os.cpu_count(),
        **_devices(),
        "default_matmul_precision": config.jax_default_matmul_precision,
        "x64": bool(config.jax_enable_x64),
        "variables": _variables(),
        "git": _git(),
    }


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except Exception:  # a record with a hole is better than a run that does not start
        return None


def _variables() -> dict[str, str]:
    return {name: os.environ[name] for name in sorted(os.environ) if name.startswith(_VARIABLES)}


def _devices() -> dict[str, Any]:
    try:
        devices = [str(device.device_kind) for device in jax.devices()]
        return {
            "backend": jax.default_backend(),
            "devices": devices,
            "processes": jax.process_count(),
        }
    except Exception as error:  # whatever a backend raises; its message is kept
        return {"backend": None, "devices": [], "processes": None, "device_error": str(error)}


def _git() -> dict[str, Any] | None:
    try:
        commit = _git_command("rev-parse", "HEAD")
        return {"commit": commit, "dirty": bool(_git_command("status", "--porcelain"))}
    # No git, no repository, no commit yet, or a slow disk.
    except (OSError, ValueError, subprocess.SubprocessError):
        return None


def _git_command(*arguments: str) -> str:
    done = subprocess.run(
        ["git", *arguments], capture_output=True, text=True, timeout=5, check=True
    )
    return done.stdout.strip()
