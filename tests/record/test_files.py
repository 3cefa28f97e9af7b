import json
import math
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from aeoskit.record import environment, to_json_safe, write_atomically


def test_an_interrupted_write_leaves_the_old_file_and_nothing_else(tmp_path):
    path = tmp_path / "summary.json"
    path.write_text("old")

    def write(temporary):
        temporary.write_text("half of the ne")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_atomically(path, write)
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_json_safe_says_what_is_not_finite():
    safe = to_json_safe(
        {
            "runs": [{"lr": np.float32(0.5), "ratio": math.inf, "result": "stagnated"}],
            "values": jnp.array([1.0, jnp.nan]),
            "ok": (1, True, None, Path("a")),
        }
    )
    assert safe == {
        "runs": [{"lr": 0.5, "ratio": None, "result": "stagnated; ratio is inf"}],
        "values": [1.0, None],
        "ok": [1, True, None, "a"],
        "result": "values[1] is nan",
    }
    assert json.loads(json.dumps(safe, allow_nan=False)) == safe
    assert to_json_safe(math.nan) is None


def test_environment_never_raises(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PATH", "")
    found = environment()
    assert found["git"] is None
    assert found["backend"] == "cpu"
    assert found["versions"]["jax"]
    assert found["x64"] is False
    assert json.loads(json.dumps(found)) == found
