"""A script that runs a command line and records its CPU seconds by phase; run by its path.

It imports nothing of aeoskit before it times imports, so it is not a module of the package.
"""

import itertools
import json
import runpy
import sys
import threading
import time
from collections import Counter, defaultdict
from collections.abc import Sequence
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

PERIOD = 0.004
"""Seconds between samples of the process's CPU time."""

# In order of priority: a module that is imported while a program is traced counts as an import.
PHASES = {
    "imports": "imports",
    "compile": "/jax/core/compile/backend_compile_duration",
    "lower": "/jax/core/compile/jaxpr_to_mlir_module_duration",
    "trace": "/jax/core/compile/jaxpr_trace_duration",
    "draw": "/aeoskit/draw",
    "build": "/aeoskit/build",
    "run": "/aeoskit/train",
}
Interval = tuple[float, float]


class Clock(threading.Thread):
    """CPU time of the process as a function of the time of day, from samples of both."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.samples: list[tuple[float, float]] = [(time.perf_counter(), 0.0)]
        self.look()

    def look(self) -> None:
        """Record the present time."""
        self.samples.append((time.perf_counter(), time.process_time()))

    def run(self) -> None:
        """Sample until the process ends."""
        while True:
            time.sleep(PERIOD)
            self.look()


class Imports:
    """A finder in front of all others, which times the execution of modules."""

    def __init__(self) -> None:
        self.whole: list[Interval] = []
        self.own: dict[str, float] = defaultdict(float)
        self.modules: Counter[str] = Counter()
        self._stack = threading.local()

    def find_spec(
        self, name: str, path: Sequence[str] | None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        """The spec of the other finders, with a timed loader."""
        for finder in sys.meta_path:
            if finder is self:
                continue
            spec = finder.find_spec(name, path, target)
            if spec is not None:
                self._watch(name.partition(".")[0], spec.loader)
                return spec
        return None

    def _watch(self, package: str, loader: Any) -> None:
        if isinstance(loader, type) or not hasattr(loader, "exec_module"):
            return  # built in, or a namespace package
        execute = loader.exec_module

        def timed(module: ModuleType) -> None:
            stack = self._stack.__dict__.setdefault("inner", [])
            stack.append(0.0)
            begun, cpu = time.perf_counter(), time.thread_time()
            try:
                execute(module)
            finally:
                spent = time.thread_time() - cpu
                self.own[package] += spent - stack.pop()
                self.modules[package] += 1
                if stack:
                    stack[-1] += spent
                elif threading.current_thread() is threading.main_thread():
                    # Other threads import beside the main thread.
                    self.whole.append((begun, time.perf_counter()))

        loader.exec_module = timed


def main(result: str, words: list[str]) -> None:
    """Run `aeoskit` with these arguments and write the result, a JSON file."""
    clock, imports = Clock(), Imports()
    sys.meta_path.insert(0, imports)  # pyright: ignore[reportArgumentType]
    clock.start()
    import jax.monitoring

    intervals: dict[str, list[Interval]] = defaultdict(list)
    programs: list[tuple[str, Interval]] = []
    events: Counter[str] = Counter()

    def heard(event: str, duration_secs: float, **kwargs: str | int) -> None:
        now = time.perf_counter()
        intervals[event].append((now - duration_secs, now))
        if event == PHASES["compile"]:
            programs.append((str(kwargs.get("fun_name", "?")), intervals[event][-1]))

    jax.monitoring.register_event_duration_secs_listener(heard)
    jax.monitoring.register_event_listener(lambda event, **kwargs: events.update([event]))
    sys.argv = ["aeoskit", *words]
    code: Any = 0
    try:
        runpy.run_module("aeoskit_cli", run_name="__main__", alter_sys=True)
    except SystemExit as end:
        code = end.code
    clock.look()
    if code:
        sys.exit(code)
    intervals["imports"] = imports.whole
    read = events["/jax/compilation_cache/cache_hits"]
    compiled: dict[str, list[float]] = defaultdict(lambda: [0.0, 0])
    cpu = interpolation(clock.samples)
    for name, (begin, end) in programs:
        compiled[name][0] += cpu(end) - cpu(begin)
        compiled[name][1] += 1
    found = {
        "phases": phases([intervals[event] for event in PHASES.values()], clock.samples),
        "programs": compiled,
        "imports": {name: (own, imports.modules[name]) for name, own in imports.own.items()},
        "compiled": len(programs) - read,
        "read": read,
    }
    Path(result).write_text(json.dumps(found))


def phases(kinds: list[list[Interval]], samples: list[tuple[float, float]]) -> dict[str, float]:
    """CPU seconds of each phase; a moment counts for the first phase that contains it."""
    cpu = interpolation(samples)
    first, last = samples[1][0], samples[-1][0]
    edges = sorted({first, last, *(t for kind in kinds for pair in kind for t in pair)})
    seconds = dict.fromkeys([*PHASES, "other"], 0.0)
    events = sorted(
        (time, change, place)
        for place, kind in enumerate(kinds)
        for begin, end in kind
        for time, change in ((begin, 1), (end, -1))
    )
    open_ = [0] * len(kinds)
    names, at = list(seconds), 0
    for begin, end in itertools.pairwise(edges):
        while at < len(events) and events[at][0] <= begin:
            open_[events[at][2]] += events[at][1]
            at += 1
        place = next((i for i, count in enumerate(open_) if count > 0), len(kinds))
        seconds[names[place]] += cpu(end) - cpu(begin)
    seconds["other"] += samples[1][1]  # before the first sample: the interpreter
    return seconds


def interpolation(samples: list[tuple[float, float]]) -> Any:
    """CPU time at a moment, linear between samples."""
    import numpy as np

    times, values = np.array(samples[1:]).T
    return lambda moment: float(np.interp(moment, times, values))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2:])
