"""Compiled programs on disk: they change no number, and no run fails for their sake."""

import json
import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache

from aeoskit.record import read_run
from aeoskit_cli import main
from aeoskit_experiments import cache_state, clear_cache, follow_cache

Capture = pytest.CaptureFixture[str]
CONFIG: Any = jax.config
SETTINGS = (
    "jax_compilation_cache_dir",
    "jax_compilation_cache_max_size",
    "jax_enable_compilation_cache",
    "jax_persistent_cache_enable_xla_caches",
    "jax_persistent_cache_min_compile_time_secs",
)
RUN = (
    "pipe data digits --examples 20 model mlp --width 4 --depth 1 loss mse optimizer adam --lr 1e-2"
    " track preconditioned_sharpness --every 2 --solver dense train --steps 4"
)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A folder for programs, which this process uses, of any size, until the test has ended."""
    before = {name: getattr(CONFIG, name) for name in SETTINGS}
    monkeypatch.setenv("AEOSKIT_CACHE", str(tmp_path / "programs"))
    monkeypatch.setenv("NPROC", "3")
    monkeypatch.setenv("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
    CONFIG.update("jax_persistent_cache_min_compile_time_secs", 0.0)
    CONFIG.update("jax_enable_compilation_cache", True)
    compilation_cache.reset_cache()
    with warnings.catch_warnings():
        yield tmp_path / "programs" / "threads-3"
    for name, value in before.items():
        CONFIG.update(name, value)
    compilation_cache.reset_cache()


def compiled(number: int) -> float:
    """What a program returns that no one has compiled in this process."""
    return float(jax.jit(lambda x: jnp.sum(x * number))(np.arange(3.0)))


def programs(folder: Path) -> set[str]:
    return {entry.name for entry in folder.glob("*-cache")}


def environment(cache: Path) -> dict[str, str]:
    paths = os.pathsep.join(path for path in sys.path if path)
    keep = {"JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0", "AEOSKIT_CACHE": str(cache)}
    return {**os.environ, **keep, "PYTHONPATH": paths}


def start(words: list[str], cache: Path) -> "subprocess.Popen[str]":
    command = [sys.executable, "-P", "-m", "aeoskit_cli", *words, "--json"]
    pipe = subprocess.PIPE
    return subprocess.Popen(command, stdout=pipe, stderr=pipe, text=True, env=environment(cache))


def ended(process: "subprocess.Popen[str]") -> tuple[dict[str, Any], str]:
    out, message = process.communicate(timeout=300)
    assert process.returncode == 0, message
    return json.loads(out), message


@pytest.mark.slow
def test_a_run_from_the_cache_is_the_run_without_one(runs: Path, tmp_path: Path) -> None:
    words = [*RUN.split(), "store", "--no-checkpoints", "--root", str(runs)]
    cache = tmp_path / "programs"
    # Two at once write the same programs.
    cold = [start(words, cache) for _ in range(2)]
    found = [ended(process) for process in cold]
    (folder,) = cache.iterdir()
    kept = programs(folder)
    marks = {mark: mark.read_bytes() for mark in folder.glob("*-atime")}
    assert len(kept) > 5
    assert {mark.name.removesuffix("-atime") for mark in marks} == {
        name.removesuffix("-cache") for name in kept
    }
    found.append(ended(start(words, cache)))
    assert programs(folder) == kept
    assert all(mark.read_bytes() != before for mark, before in marks.items())
    found.append(ended(start(["--no-cache", *words], cache)))
    assert all(mark.read_bytes() for mark in marks)
    first = read_run(found[0][0]["folder"]).metrics
    assert np.isfinite(first["ratio"].values).any()
    for summary, message in found:
        assert "cache" not in message
        assert read_run(summary["folder"]).metrics.identical(first)


def test_programs_are_kept_for_each_number_of_threads(
    cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert follow_cache() is None
    assert compiled(2) == 6
    assert programs(cache)
    assert CONFIG.jax_compilation_cache_dir == str(cache)
    assert CONFIG.jax_compilation_cache_max_size == cache_state()["limit"] > 0
    monkeypatch.setenv("NPROC", "2")
    CONFIG.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    assert follow_cache() is None
    assert compiled(2) == 6
    assert programs(cache.with_name("threads-2"))


def test_what_a_killed_process_left_is_compiled_again(cache: Path) -> None:
    assert follow_cache() is None
    assert compiled(4) == 12
    (entry,) = cache.glob("*lambda*-cache")
    whole = entry.read_bytes()
    # The mark is written last.
    entry.write_bytes(whole[: len(whole) // 2])
    entry.with_name(entry.name.replace("-cache", "-atime")).unlink()
    CONFIG.update("jax_compilation_cache_dir", None)
    compilation_cache.reset_cache()
    assert follow_cache() is None
    assert not entry.exists()
    assert compiled(4) == 12
    assert entry.stat().st_size > len(whole) // 2
    # Nor does it matter when no one has noticed.
    entry.write_bytes(b"nonsense")
    assert compiled(4) == 12


def test_without_a_folder_programs_are_not_kept_and_it_is_reported_once(cache: Path) -> None:
    cache.parent.write_text("a file")
    message = follow_cache()
    assert message is not None
    assert message == f"compiled programs are not kept: {cache}: Not a directory"
    assert follow_cache() is None
    assert compiled(5) == 15


def test_a_full_disk_keeps_no_programs(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Full:
        free = 1000

    monkeypatch.setattr("shutil.disk_usage", lambda path: Full())
    message = follow_cache()
    assert message is not None
    assert message.endswith("its disk is full")
    assert compiled(6) == 18
    assert not programs(cache)


def test_only_who_asks_gets_it(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("AEOSKIT_CACHE")
    before = {name: getattr(CONFIG, name) for name in SETTINGS}
    assert follow_cache() is None
    assert {name: getattr(CONFIG, name) for name in SETTINGS} == before
    monkeypatch.setenv("AEOSKIT_CACHE", str(cache.parent))
    own = cache.with_name("own")
    CONFIG.update("jax_compilation_cache_dir", str(own))
    assert follow_cache() is None
    assert compiled(7) == 21
    assert programs(own)
    assert not cache.exists()
    monkeypatch.setenv("AEOSKIT_CACHE", "off")
    assert follow_cache() is None
    count = len(programs(own))
    assert compiled(8) == 24
    assert len(programs(own)) == count


def test_a_command_asks_for_it_and_leaves_the_environment_as_it_was(
    cache: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(cache.parent))
    monkeypatch.delenv("AEOSKIT_CACHE")
    assert main(["doctor", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["cache"]
    assert found["folder"] == str(cache.parent / "aeoskit" / "programs")
    assert found["programs"] > 0
    assert found["bytes"] == cache_state()["bytes"] > 0
    assert "AEOSKIT_CACHE" not in os.environ
    assert main(["doctor", "--clear-cache"]) == 0
    assert "compiled programs deleted" in capsys.readouterr().out
    assert cache_state()["programs"] == 0
    assert clear_cache() == 0
    assert main(["doctor", "--clear-cache", "--json"]) == 0
    assert json.loads(capsys.readouterr().out) == {"freed_bytes": 0}
    assert main(["--no-cache", "doctor", "--clear-cache"]) == 2
    assert "is off" in capsys.readouterr().err
    assert main(["doctor", "--clear-cache", "adam-edge"]) == 2
