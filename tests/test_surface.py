"""The names of `aeoskit` itself: what a user's own training code needs, and no more."""

import ast
import importlib
import subprocess
import sys
from pathlib import Path

import pytest

import aeoskit

ROOMS = "linalg objective optimizers probes sharding stability trajectory"
NAMES = """
    Objective sharpness preconditioned_sharpness eigensolve Tracking Lanczos Dense
    Optimizer adam adamw nadam rmsprop gradient_descent momentum nesterov shampoo soap muon lion
    apply_updates as_optax from_optax preconditioner_of threshold_of with_threshold freeze
    Cosine LinearWarmup EMA RMS
    AbstractProbe ProbeContext Sharpness PreconditionedSharpness FlipMultiplier LossAndGradient
    StabilityThreshold Evaluation
    flip_multiplier equivalent_ratio
    Trajectory stream branch FreezePreconditioner SwitchOptimizer stack_lanes
"""


def _listed_for_type_checkers() -> dict[str, str]:
    """From each name to its room, empty for a room itself."""
    (block,) = (
        node
        for node in ast.parse(Path(aeoskit.__file__).read_text()).body
        if isinstance(node, ast.If) and ast.unparse(node.test) == "_typing.TYPE_CHECKING"
    )
    imports = (node for node in block.body if isinstance(node, ast.ImportFrom))
    return {alias.name: node.module or "" for node in imports for alias in node.names}


def test_the_public_names_are_these():
    names = _listed_for_type_checkers()
    assert {*names} == {*NAMES.split(), *ROOMS.split()}
    assert {name for name in dir(aeoskit) if name[0] != "_"} >= {*names}
    for name, room in names.items():
        home = importlib.import_module(f"aeoskit.{room or name}")
        assert getattr(aeoskit, name) is (getattr(home, name) if room else home)


def test_a_name_loads_its_room_alone():
    code = """
import sys
import aeoskit
assert "jax" not in sys.modules
from aeoskit import Objective, eigensolve
loaded = {name for name in sys.modules if name.count(".") == 1 and name.startswith("aeoskit.")}
print(*sorted(loaded))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    loaded = [name for name in done.stdout.split() if not name.startswith("aeoskit._")]
    assert loaded == ["aeoskit.linalg", "aeoskit.objective", "aeoskit.sharding"]


@pytest.mark.parametrize(
    ("name", "place"),
    [("adabelief", "optimizers"), ("leading_multipliers", "stability"), ("Chunk", "trajectory")],
)
def test_a_name_that_has_moved_says_where_it_is(name: str, place: str):
    with pytest.raises(AttributeError, match=rf"aeoskit\.{place}\.{name} now$"):
        getattr(aeoskit, name)
    with pytest.raises(ImportError, match=rf"aeoskit\.{place}\.{name} now$"):
        exec(f"from aeoskit import {name}")


def test_a_name_that_never_was_is_an_ordinary_error():
    with pytest.raises(AttributeError, match="has no attribute 'adma'"):
        getattr(aeoskit, "adma")  # noqa: B009
