"""`aeoskit bench startup`: the CPU seconds of a command by phase."""

import shlex
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.cache import VARIABLE
from aeoskit_experiments.jobs import start_python

_CHILD = Path(__file__).with_name("_startup_child.py")
_OURS = ("JAX_COMPILATION_CACHE_DIR", "JAX_ENABLE_COMPILATION_CACHE")
_LISTED = 12


def run_startup_benchmark(
    *, command: str = "run adam-edge", progress: Callable[[str], None] = lambda what: None
) -> dict[str, Any]:
    """Measure the CPU seconds of a command by phase, without and with cached programs.

    The command runs twice, each time in its own process, in an empty folder: first with an empty
    cache, then with the cache of the first run. Seconds are those of the process, over all threads.
    Each counts once, in the first of these phases that applies: imports, compile (or reading a
    program), lower, trace; and draw, build (data, model, checks), run.

    Args:
        command: The arguments of `aeoskit`.
        progress: Called with the name of each part as it begins.

    Returns:
        `rows`, one per phase, with the CPU seconds `cold` and `from_cache`; `programs`, those that
        took longest to compile, with the number of times; `imports`, the packages that took
        longest; `counts`, the numbers of programs that each run compiled and read from disk;
        `notes`.

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
        "notes": ["CPU seconds of the process, over all threads"],
    }


def _pairs(
    cold: dict[str, Any], cached: dict[str, Any], kind: str, count: str
) -> list[dict[str, Any]]:
    """The largest entries of both runs, side by side."""
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
    child = start_python(
        [str(_CHILD), str(result), *words],
        environment={VARIABLE: str(place / "programs"), **dict.fromkeys(_OURS)},
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    _, printed = child.communicate()
    if child.returncode != 0 or not result.exists():
        lines = printed.strip().splitlines()
        why = f": {lines[-1]}" if lines else ""
        raise UserError(f"bench startup: {shlex.join(words)} ended with {child.returncode}{why}")
    return msgspec.json.decode(result.read_bytes())
