"""Real runs through the command line: a lane that diverges, show, rerun bit for bit, bad places."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from aeoskit.record import read_run
from aeoskit_cli import main

Capture = pytest.CaptureFixture[str]

# A step of 1e9 is beyond any threshold; the other lane must go on.
RUN = [
    "pipe",
    "--name",
    "both",
    "data",
    "digits",
    "--examples",
    "40",
    "model",
    "mlp",
    "--width",
    "4",
    "--depth",
    "1",
    "loss",
    "mse",
    "optimizer",
    "gradient_descent",
    "--lr",
    "1e-2,1e9",
    "track",
    "sharpness",
    "--every",
    "5",
    "train",
    "--steps",
    "20",
    "--chunk",
    "10",
    "store",
    "--no-checkpoints",
    "--root",
]


def run_json(words: list[str], capsys: Capture) -> tuple[int, dict[str, Any]]:
    capsys.readouterr()
    code = main([*words, "--json"])
    found = json.loads(capsys.readouterr().out)
    assert "error" not in found, found["error"]
    return code, found


@pytest.mark.slow
def test_a_run_its_show_and_its_rerun(runs: Path, capsys: Capture) -> None:
    code, summary = run_json([*RUN, str(runs)], capsys)
    assert code == 0
    good, bad = summary["runs"]
    assert (good["lr"], good["diverged_at"]) == (1e-2, None)
    assert good["steps"] == 20
    assert bad["diverged_at"] is not None
    folder = Path(summary["folder"])
    assert folder.parent == runs

    code, shown = run_json(["show", str(folder)], capsys)
    assert code == 0
    assert shown["summary"]["runs"] == summary["runs"]
    assert shown["command"].startswith("aeoskit pipe --name both data digits --examples 40")
    assert main(["show", str(folder)]) == 0
    assert "pipeline = pipe(" in capsys.readouterr().out

    code, again = run_json(["rerun", str(folder)], capsys)
    assert code == 0
    assert again["rerun"]["identical"]
    assert again["folder"] != str(folder)
    assert again["runs"] == summary["runs"]


@pytest.mark.slow
def test_all_lanes_diverged_is_exit_code_1(runs: Path, capsys: Capture) -> None:
    words = [word.replace("1e-2,1e9", "1e9") for word in RUN]
    code, summary = run_json([*words, str(runs)], capsys)
    assert code == 1
    assert summary["runs"][0]["diverged_at"] is not None


def refused(words: list[str], says: str, capsys: Capture) -> None:
    assert main([*words, "--quiet"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert says in err


def test_an_existing_folder_is_refused_and_left_alone(runs: Path, capsys: Capture) -> None:
    there = runs / "there"
    there.mkdir()
    (there / "mine.txt").write_text("mine")
    refused([*RUN, str(runs), "--folder", str(there)], "exists", capsys)
    assert [path.name for path in there.iterdir()] == ["mine.txt"]


def test_a_place_where_nothing_can_be_stored_is_refused(runs: Path, capsys: Capture) -> None:
    file = runs / "file"
    file.write_text("")
    refused([*RUN, str(file / "runs")], "file", capsys)
    locked = runs / "locked"
    locked.mkdir(mode=0o500)
    if os.access(locked, os.W_OK):  # the superuser may write everywhere
        return
    refused([*RUN, str(locked)], "locked", capsys)
    assert list(locked.iterdir()) == []


@pytest.mark.parametrize("damage", ["nan", "shape"])
def test_data_or_a_loss_that_cannot_be_is_refused(
    damage: str, runs: Path, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    import jax.numpy as jnp

    from aeoskit_experiments.pipelines import Choice

    original_build, original_function = Choice.build, Choice.function.fget
    assert original_function is not None

    def build(self: Choice, **overrides: Any) -> Any:
        made = original_build(self, **overrides)
        if self.stage == "data" and damage == "nan":
            object.__setattr__(made, "inputs", made.inputs.at[3].set(jnp.nan))
        return made

    def function(self: Choice) -> Any:
        found = original_function(self)
        if self.stage == "loss" and damage == "shape":
            return lambda outputs, targets: outputs
        return found

    monkeypatch.setattr(Choice, "build", build)
    monkeypatch.setattr(Choice, "function", property(function))
    refused([*RUN, str(runs)], "", capsys)
    assert list(runs.iterdir()) == []


def test_control_c_ends_after_the_chunk_with_a_whole_record(tmp_path: Path) -> None:
    command = [
        *(sys.executable, "-m", "aeoskit_cli", "pipe", "--json"),
        *("data", "digits", "--examples", "40", "model", "mlp", "--width", "8", "--depth", "1"),
        *("loss", "mse", "optimizer", "adam", "--lr", "1e-2"),
        *("track", "preconditioned_sharpness", "--every", "1"),
        *("train", "--steps", "100000", "--chunk", "20", "store", "--root", str(tmp_path)),
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        deadline = time.monotonic() + 120
        while not any(file.stat().st_size for file in tmp_path.glob("*/metrics.jsonl")):
            assert time.monotonic() < deadline
            assert process.poll() is None
            time.sleep(0.05)
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 130
    summary = json.loads(out)
    assert summary["status"] == "interrupted"
    run = read_run(summary["folder"])
    assert run.status == "interrupted"
    steps = run.metrics.sizes["step"]
    assert steps % 20 == 0
    assert 0 < steps == summary["runs"][0]["steps"]
    assert (run.path / "checkpoints" / "main" / str(steps)).is_dir()
