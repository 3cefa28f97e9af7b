"""`aeoskit bench startup`: what a command costs before, beside and after what it computes."""

import os
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from aeoskit_experiments._cache import VARIABLE
from aeoskit_experiments._errors import UserError

_CHILD = Path(__file__).with_name("_startup_child.py")
_OURS = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")
_LISTED = 12


def run_startup_benchmark(
    *, command: str = "run adam-edge", progress: Callable[[str], None] = lambda what: None
) -> dict[str, Any]:
    """CPU seconds of a command by phase, without and with the programs of an earlier run.

    The command runs twice in a process of its own, in an empty folder: the first time nothing is
    compiled, the second time its programs are read from the cache of the first. Seconds are the
    process's, all threads together. Each is counted once, in the first that holds of: imports,
    compile (or reading a program), lower, trace; and draw, build (data, model, checks), run.

    Args:
        command: What stands after `aeoskit`.
        progress: Is told what begins.

    Returns:
        `rows`, one a phase, with the CPU seconds `cold` and `from_cache`; `programs`, those that
        took longest to compile, with how often each was; `imports`, the packages that took longest;
        `counts`, how many programs each of the two runs compiled and read from disk; `notes`.

    Raises:
        UserError: If the command fails.
    """
    words = shlex.split(command)
    with tempfile.TemporaryDirectory(prefix="aeoskit-") as place:
        progress(f"{command}: cold")
        cold = _measured(words, Path(place), "cold")
        progress(f"{command}: from the cache")
        cached = _measured(words, Path(place), "cached")
    phases = [*cold["phases"], "all"]
    for found in (cold, cached):
        found["phases"]["all"] = sum(found["phases"].values())
    return {
        "rows": [
            {
                "phase": name,
                "cold": round(cold["phases"][name], 2),
                "from_cache": round(cached["phases"][name], 2),
            }
            for name in phases
        ],
        "programs": _pairs(cold, cached, "programs", "compiled"),
        "imports": _pairs(cold, cached, "imports", "modules"),
        "counts": [
            {"programs": name, "cold": cold[name], "from_cache": cached[name]}
            for name in ("compiled", "read")
        ],
        "notes": ["CPU seconds of the process, all threads together"],
    }


def _pairs(
    cold: dict[str, Any], cached: dict[str, Any], kind: str, count: str
) -> list[dict[str, Any]]:
    """The largest of both, side by side."""
    names = sorted(cold[kind], key=lambda name: -cold[kind][name][0])[:_LISTED]
    return [
        {
            kind[:-1]: name,
            count: cold[kind][name][1],
            "cold": round(cold[kind][name][0], 2),
            "from_cache": round(cached[kind].get(name, (0.0, 0))[0], 2),
        }
        for name in names
    ]


def _measured(words: list[str], place: Path, name: str) -> dict[str, Any]:
    folder, result = place / name, place / f"{name}.json"
    folder.mkdir()
    environment = {key: value for key, value in os.environ.items() if key not in _OURS}
    environment[VARIABLE] = str(place / "programs")
    environment["PYTHONPATH"] = os.pathsep.join(os.path.abspath(path) for path in sys.path if path)
    done = subprocess.run(
        [sys.executable, "-P", str(_CHILD), str(result), *words],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )
    if done.returncode != 0 or not result.exists():
        said = done.stderr.strip().splitlines()
        why = f": {said[-1]}" if said else ""
        raise UserError(f"bench startup: {shlex.join(words)} ended with {done.returncode}{why}")
    return msgspec.json.decode(result.read_bytes())
