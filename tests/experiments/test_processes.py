"""Several processes on one run, and what becomes of the run if one of them dies."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from aeoskit.record import read_run
from aeoskit_cli._placing import Placing
from aeoskit_experiments import UserError, execute
from aeoskit_experiments.execution import Membership
from aeoskit_experiments.execution._follower import FollowerWriter
from aeoskit_experiments.execution._place import placement_of
from aeoskit_experiments.execution._processes import lost_process_as_error
from aeoskit_experiments.jobs import LOST, ProcessLost, supervise
from aeoskit_experiments.jobs import _supervise as supervision
from aeoskit_experiments.pipelines import Place, pipe, place, with_place
from aeoskit_experiments.recipes import make_recipe

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (("10.0.0.1:80", 2, None), "all three"),
        ((None, 2, 0), "all three"),
        (("10.0.0.1", 2, 0), "HOST:PORT"),
        (("here:", 2, 0), "HOST:PORT"),
        (("here:80", 0, 0), "at least 1"),
        (("here:80", 2, 2), "give one from 0 to 1"),
    ],
)
def test_a_membership_that_makes_no_sense(given, says) -> None:
    with pytest.raises(UserError, match=says):
        Membership(*given)


def test_a_place_is_put_into_a_pipeline() -> None:
    assert with_place(pipe()) == pipe()
    assert with_place(pipe(), mesh="data=2") == pipe(place("data=2"))
    before = pipe(place("data=2", params="sharded"))
    assert with_place(before, devices=4).stages[0].settings == {
        "mesh": "data=2",
        "devices": 4,
        "params": "sharded",
        "basis": "spread",
    }
    with pytest.raises(UserError, match="devices is 0"):
        with_place(pipe(), devices=0)


def test_a_mesh_leaves_no_process_without_devices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("jax.process_count", lambda: 2)
    with pytest.raises(UserError, match="1 of these would have none: leave sizes"):
        placement_of(Place(mesh="data=1"))


def test_a_mesh_has_an_axis_for_the_examples() -> None:
    with pytest.raises(UserError, match="place: the mesh has the axes 'rows' and none"):
        placement_of(Place(mesh="rows=2"))


def test_others_write_nothing(tmp_path: Path) -> None:
    follower = FollowerWriter(tmp_path / "run")
    assert not follower.begun
    follower.append("main", {"loss": [[1.0]]}, [0])
    follower.mark_diverged("main", 0, 0)
    assert follower.begun
    assert follower.close({}) == tmp_path / "run"
    assert not list(tmp_path.iterdir())


def test_only_the_loss_of_a_process_is_taken_for_one(monkeypatch: pytest.MonkeyPatch) -> None:
    error = ValueError("UNKNOWN: Gloo all-reduce failed: Connection reset by peer\nmore")
    with pytest.raises(ValueError, match="Gloo"), lost_process_as_error(Path("runs/a")):
        raise error
    monkeypatch.setattr("jax.process_count", lambda: 2)
    with (
        pytest.raises(ProcessLost, match=r"peer\): the record, runs/a, ends with"),
        lost_process_as_error(Path("runs/a")),
    ):
        raise error
    with pytest.raises(ValueError, match="shapes differ"), lost_process_as_error(Path("runs/a")):
        raise ValueError("shapes differ")


@pytest.mark.parametrize(
    ("script", "code", "says"),
    [
        ("exit 5", 5, None),
        ('printf runs/a > "$AEOSKIT_MEMBER"; kill -ABRT $$', LOST, r"the record, runs/a, ends"),
        ("kill -ABRT $$", LOST, "no record was started"),
        ("kill -KILL $$", 128 + 9, "ended by SIGKILL"),
    ],
)
def test_the_parent_has_the_last_word(
    script: str, code: int, says: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text(f"#!/bin/sh\n{script}\n")
    python.chmod(0o755)
    monkeypatch.setattr(supervision.sys, "executable", str(python))
    found, sentence = supervise(["run", "adam-edge"])
    assert found == code
    if says is None:
        assert sentence is None
    else:
        assert sentence is not None
        assert re.search(says, sentence)


def test_a_parent_that_is_terminated_ends_its_child(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One that does not listen, too."""
    python = tmp_path / "python"
    deaf = 'trap "" TERM\nsleep 1\nkill -TERM $PPID\nsleep 60 & wait\nsleep 60\n'
    python.write_text(f"#!/bin/sh\n{deaf}")
    python.chmod(0o755)
    monkeypatch.setattr(supervision.sys, "executable", str(python))
    monkeypatch.setattr(supervision, "GRACE", 0.2)
    begun = time.monotonic()
    code, sentence = supervise([])
    assert time.monotonic() - begun < 30
    assert code == 128 + signal.SIGKILL
    assert sentence is not None
    assert "SIGKILL" in sentence


def test_devices_are_of_one_process() -> None:
    with pytest.raises(UserError, match="each of several processes has the devices"):
        Placing(devices=2, coordinator="here:80", processes=2, process=0).apply(pipe())


def _free_port() -> int:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        return listening.getsockname()[1]


def _start(count: int, command: str, *words: str) -> list[subprocess.Popen]:
    """As many processes as one run: what follows the command's own options is in words."""
    port = _free_port()
    environment = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(str(ROOT / part) for part in ("", "experiments", "cli")),
        "JAX_PLATFORMS": "cpu",
    }
    return [
        subprocess.Popen(
            [
                *(sys.executable, "-m", "aeoskit_cli", *command.split(), "--json", "--quiet"),
                *("--coordinator", f"127.0.0.1:{port}"),
                *("--processes", str(count), "--process", str(process)),
                *words,
            ],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for process in range(count)
    ]


SMALL = ("--examples", "31", "--width", "4", "--every", "10", "--lr", "1e-2")
# A run that compiles little, and whose chunks speak to each other all the same.
ENDLESS = (
    "data digits --examples 31 model linear loss mse optimizer gradient_descent --lr 1e-3 "
    "train --steps 1000000 store --folder"
)


@pytest.mark.slow
def test_several_processes_have_the_numbers_of_one(tmp_path: Path) -> None:
    """31 examples divide neither by two nor by four."""
    alone = execute(
        make_recipe("adam-edge", examples=31, width=4, every=10, lr=1e-2, steps=20),
        folder=tmp_path / "alone",
    )
    for count in (2, 4):
        folder = tmp_path / str(count)
        words = (*SMALL, "--steps", "20", "--folder", str(folder))
        members = _start(count, "run adam-edge", *words)
        outputs = [process.communicate(timeout=240) for process in members]
        assert [process.returncode for process in members] == [0] * count, outputs
        # The first one prints, and only it.
        assert not any(out for out, _ in outputs[1:])
        found = json.loads(outputs[0][0])
        assert found["status"] == "finished"
        for one, two in zip(alone.summary["runs"], found["runs"], strict=True):
            assert two["ratio"] == pytest.approx(one["ratio"], rel=1e-3)
            assert two["final_loss"] == pytest.approx(one["final_loss"], rel=1e-4)
        run = read_run(folder)
        assert run.environment["processes"] == count
        assert (folder / "checkpoints" / "main" / "20").is_dir()


@pytest.mark.slow
@pytest.mark.parametrize("victim", [0, 1])
def test_a_process_that_dies_ends_the_run(victim: int, tmp_path: Path) -> None:
    """Within a minute, in one sentence, with a record up to the last chunk."""
    folder = tmp_path / "run"
    both = _start(2, "pipe", *ENDLESS.split(), str(folder))
    deadline = time.monotonic() + 180
    while not (folder / "metrics.jsonl").exists() or not (folder / "metrics.jsonl").stat().st_size:
        assert time.monotonic() < deadline, [p.communicate() for p in both if p.poll() is not None]
        time.sleep(0.1)
    # Its child, which does the work, ends with it.
    both[victim].kill()
    begun = time.monotonic()
    _, message = both[1 - victim].communicate(timeout=60)
    assert time.monotonic() - begun < 60
    assert both[1 - victim].returncode == LOST
    # A blank last line was seen once, on a busy machine.
    last = message.strip().splitlines()[-1]
    assert "another process of the run ended" in last, message
    assert str(folder) in last
    run = read_run(folder)
    assert run.metrics["loss"].sizes["step"] >= 100
    both[victim].communicate()
