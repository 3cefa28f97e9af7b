"""Reruns: what is compared of a run that was cut off, and the report when numbers differ."""

from pathlib import Path

import numpy as np
import pytest

import aeoskit_experiments._rerun as module
from aeoskit.record import create_run, environment, read_run
from aeoskit_experiments._rerun import compare, environment_changes
from aeoskit_experiments.execution import Outcome
from aeoskit_experiments.pipelines import data, loss, model, optimizer, pipe, train

PIPELINE = pipe(
    data("digits", examples=40),
    model("mlp", width=4),
    loss("mse"),
    optimizer("adam", lr=[1e-3, 3e-3]),
    train([20, 40]),
)
LANES = [{"steps": steps, "lr": lr} for steps in (20, 40) for lr in (1e-3, 3e-3)]


def stored(root: Path, *, cut: bool, change: int | None = None, where: dict | None = None) -> Path:
    """A run of two groups and a branch; cut off in the second group's tenth step."""
    writer = create_run(
        root,
        "run",
        pipeline=PIPELINE.to_dict(),
        environment=environment() | (where or {}),
        lanes=LANES,
    )
    steps = np.arange(40)
    values = np.sin(np.arange(40.0 * 2).reshape(40, 2))
    if change is not None:
        values[change, 1] = np.nextafter(values[change, 1], 2)
    writer.append("main", {"loss": values}, steps)
    end = 10 if cut else 40
    writer.append("main", {"loss": values[:end]}, steps[:end], lane_offset=2)
    if not cut:
        writer.append("frozen", {"loss": values, "ratio": values}, steps, lane_offset=2)
        writer.mark_diverged("main", 3, 30)
    return writer.close({}, status="interrupted" if cut else "finished")


def test_of_a_run_that_was_cut_off_only_what_is_stored_is_compared(tmp_path: Path) -> None:
    before = read_run(stored(tmp_path, cut=True)).metrics
    after = read_run(stored(tmp_path, cut=False)).metrics
    assert not compare(before, after)["identical"]
    found = compare(before, after, before_cut=True)
    assert found["identical"], found
    assert found["sentence"].endswith("on the 40 stored steps")
    assert compare(after, before, after_cut=True)["identical"]
    for step in (5, 39):
        other = read_run(stored(tmp_path, cut=False, change=step)).metrics
        assert compare(before, other, before_cut=True)["differs"] == ["loss"]
    # What the stored run has, the other one must have.
    assert not compare(after, before, before_cut=True)["identical"]


def test_a_rerun_that_differs_names_what_changed_around_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def execute(pipeline, **_):
        assert pipeline == PIPELINE
        return Outcome(stored(tmp_path, cut=False), {}, [], "finished", 0)

    monkeypatch.setattr(module, "execute", execute)
    where = {"variables": {"OPENBLAS_CORETYPE": "Haswell"}, "python": "3.0"}
    monkeypatch.setenv("OPENBLAS_CORETYPE", "Zen")
    same = stored(tmp_path, cut=True, where=where)
    assert module.rerun(same)[1]["identical"]
    assert "environment" not in module.rerun(same)[1]["sentence"]
    other = stored(tmp_path, cut=True, change=3, where=where)
    sentence = module.rerun(other)[1]["sentence"]
    assert "on the 40 stored steps: loss differ" in sentence
    assert "OPENBLAS_CORETYPE was Haswell, now Zen" in sentence
    assert "python was 3.0" in sentence


def test_only_what_changes_numbers_is_named() -> None:
    here = environment()
    assert environment_changes(here, here | {"git": None, "cpu_count": 99}) == []
    old = {name: value for name, value in here.items() if name != "variables"}
    assert environment_changes(old, here) == []
    assert environment_changes(here, here | {"x64": not here["x64"]}) != []
