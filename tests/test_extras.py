"""The light install: one sentence names the missing extra, and the library does without it."""

from __future__ import annotations

import subprocess
import sys
import tomllib
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

import aeoskit_experiments

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
FIX = "pip install 'aeoskit[experiments]'"


def _child(code: str) -> subprocess.CompletedProcess[str]:
    """A fresh process: here everything is imported already."""
    command = [sys.executable, "-c", f"import sys\n{code}"]
    return subprocess.run(command, capture_output=True, text=True, timeout=120)


def test_the_extra_has_what_is_checked():
    """The list in `aeoskit_experiments` is that of pyproject.toml, in names of imports."""
    listed = PROJECT["optional-dependencies"]["experiments"]
    wanted = {canonicalize_name(Requirement(one).name) for one in listed}
    homes = metadata.packages_distributions()
    for module in aeoskit_experiments._NEEDED:
        assert wanted & {canonicalize_name(name) for name in homes[module]}, module
    assert len(aeoskit_experiments._NEEDED) == len(wanted)


def test_the_library_imports_nothing_of_the_extra():
    done = _child(
        "import aeoskit\n"
        "assert 'jax' not in sys.modules\n"  # what a name needs is loaded with it
        "import equinox, jax, lineax, optimistix\n"
        "before = {*sys.modules}\n"  # jax's cache imports filelock, where there is one
        "dir(aeoskit)\n"
        "assert 'aeoskit.trajectory' in sys.modules\n"
        f"found = {{*sys.modules}} & {{*{aeoskit_experiments._NEEDED}}} - before\n"
        "assert not found, found\n"
    )
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("room", "absent"),
    [
        ("aeoskit.record", "msgspec"),
        ("aeoskit.figures", "xarray"),
        ("aeoskit_experiments.recipes", "optax"),
    ],
)
def test_a_room_says_what_it_needs(room: str, absent: str):
    done = _child(f"sys.modules[{absent!r}] = None\nimport {room}")
    message = done.stderr.splitlines()[-1]
    assert message.startswith("ImportError: ")
    assert absent in message
    assert message.endswith(FIX)


@pytest.mark.parametrize("words", [[], ["list"], ["--help"], ["pipe", "model", "--help"]])
def test_the_command_says_it_in_one_line(words: list[str]):
    done = _child(
        f"sys.modules['msgspec'] = None\nfrom aeoskit_cli import main\nsys.exit(main({words}))"
    )
    assert done.returncode == 2
    assert done.stdout == ""
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ")
    assert line.endswith(FIX)
