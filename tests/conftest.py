"""What holds for every test: devices, promotion, precision, and a folder for runs."""

from __future__ import annotations

import gc
import os
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

# Before pyplot is imported by anyone: no window, on no machine.
os.environ["MPLBACKEND"] = "Agg"
# Most of the suite's time is the compiler's, and this takes three quarters of it away: the programs
# are the same, their machine code is less polished. What a built wheel does is tried with the full
# compiler. JAX_DISABLE_MOST_OPTIMIZATIONS=0 runs the suite as users' programs run.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
# No test finds programs that another one compiled, nor leaves any among the user's.
os.environ["AEOSKIT_CACHE"] = "off"

import hypothesis
import jax
import pytest

from aeoskit_experiments import add_xla_flag

if os.environ["JAX_DISABLE_MOST_OPTIMIZATIONS"] == "1":
    add_xla_flag("--xla_cpu_use_fusion_emitters=false")

# Eight would cover more meshes, but even programs on one device slow down by a third then
# (four: by a sixth; on two cores), since the thread pool is shared.
CPU_DEVICES = 4

jax.config.update("jax_num_cpu_devices", CPU_DEVICES)
jax.config.update("jax_numpy_rank_promotion", "raise")

# A new shape compiles for about a second, so that a deadline would measure the compiler.
hypothesis.settings.register_profile(
    "aeoskit",
    max_examples=15,
    deadline=None,
    derandomize=True,
    database=None,
    suppress_health_check=[hypothesis.HealthCheck.too_slow],
)
hypothesis.settings.load_profile("aeoskit")


# Jaxprs are millions of small objects that live long: looking through them for garbage after every
# 700 new ones is a tenth of the suite's time.
gc.set_threshold(200_000, 20, 100)


def part_of(count: int, cases: Sequence[Mapping[str, Any]]) -> set[int]:
    """The indices of `count` cases, whose parameters together have as many values as possible.

    Cases at equal distances in a grid could all have the same value of a parameter.
    """
    values = [[(name, repr(value)) for name, value in case.items()] for case in cases]
    # Of equally good ones, those at equal distances.
    left = sorted(range(len(cases)), key=lambda i: -i * count % len(cases) >= count)
    taken: Counter[tuple[str, str]] = Counter()
    kept = set()
    for _ in range(min(count, len(cases))):
        best = min(left, key=lambda i: sum(taken[value] for value in values[i]))
        left.remove(best)
        kept.add(best)
        taken.update(values[best])
    return kept


@pytest.hookimpl(tryfirst=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Leaves a test marked `part(n)` n of its cases; the others are nightly."""
    cases: dict[str, list[Any]] = {}
    for item in items:
        if item.get_closest_marker("part"):
            cases.setdefault(item.nodeid.partition("[")[0], []).append(item)
    for found in cases.values():
        marker = found[0].get_closest_marker("part")
        assert marker is not None
        kept = part_of(marker.args[0], [item.callspec.params for item in found])
        for index, item in enumerate(found):
            if index not in kept:
                item.add_marker(pytest.mark.nightly)


@pytest.fixture(scope="session", autouse=True)
def cpu_devices() -> list[Any]:
    """The CPU devices, asserted to be there: a plugin that starts jax too early would hide them."""
    devices = jax.devices("cpu")
    assert len(devices) == CPU_DEVICES, "jax was started before conftest.py could ask for devices"
    return devices


def _memory_maps() -> int:
    """How many pieces of memory this process has mapped; 0 where no one says."""
    try:
        return len(Path("/proc/self/maps").read_bytes().splitlines())
    except OSError:
        return 0


@pytest.fixture(scope="module", autouse=True)
def room_for_programs() -> Iterator[None]:
    """Forgets compiled programs before there are too many.

    Each keeps some memory mapped, Linux allows a process 65,530 maps, and the compiler crashes
    beyond: the suite, on two workers, came there.
    """
    yield
    if _memory_maps() > 15_000:
        jax.clear_caches()
        gc.collect()


@pytest.fixture
def x64() -> Iterator[None]:
    """Computes this test in double precision."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def strict_promotion() -> Iterator[None]:
    """Refuses mixed dtypes in this test. Not for optax, whose adam mixes them."""
    with jax.numpy_dtype_promotion("strict"):
        yield


@pytest.fixture
def runs(tmp_path: Path) -> Path:
    """An empty folder for runs."""
    folder = tmp_path / "runs"
    folder.mkdir()
    return folder
