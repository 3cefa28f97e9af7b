"""Flags of XLA, set only where the XLA that is installed knows them.

XLA ends a process that names an unknown flag, before anything can be caught, and flags come and go
with its versions. A child process takes that risk in place of ours.
"""

import functools
import os
import subprocess
import sys

_VARIABLE = "XLA_FLAGS"


def add_xla_flag(flag: str) -> bool:
    """Add a flag to those that XLA reads when a backend starts, if XLA knows it.

    A flag that the user has set stays. The test runs once per process (0.4 s of a child's time);
    children inherit the flag.

    Args:
        flag: With its value, as in `--xla_name=false`.

    Returns:
        True if the flag is in force: already set, to any value, or added.
    """
    before = os.environ.get(_VARIABLE, "")
    name = flag.partition("=")[0]
    if name in {word.partition("=")[0] for word in before.split()}:
        return True
    if not _knows(flag):
        return False
    os.environ[_VARIABLE] = f"{before} {flag}".strip()
    return True


@functools.cache
def _knows(flag: str) -> bool:
    """True if a backend starts with this flag alone."""
    environment = os.environ | {_VARIABLE: flag, "JAX_PLATFORMS": "cpu"}
    command = [sys.executable, "-P", "-c", "import jax; jax.devices()"]
    try:
        return not subprocess.run(
            command, env=environment, stdin=subprocess.DEVNULL, capture_output=True, timeout=120
        ).returncode
    except (OSError, subprocess.TimeoutExpired):
        return False
