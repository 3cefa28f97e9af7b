"""The recipes multiplier-edge and threshold-table, carried out on tiny data."""

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aeoskit.record import read_run
from aeoskit_experiments.execution import Outcome, execute
from aeoskit_experiments.pipelines import Pipeline, data, model, track
from aeoskit_experiments.recipes import make_recipe
from aeoskit_experiments.recipes._theory import FORGET
from aeoskit_experiments.recipes._thresholds import ALL


def strict(outcome: Outcome) -> dict[str, Any]:
    """The summary as the command line's JSON has it, which is the record's too."""
    text = json.dumps(outcome.summary, allow_nan=False)
    stored = json.loads((outcome.folder / "summary.json").read_text())
    assert stored["rows"] == json.loads(text)["rows"]
    return json.loads(text)


def drawn(outcome: Outcome) -> None:
    assert {path.suffix for path in outcome.figures} == {".png", ".pdf"}
    assert all(path.stat().st_size > 1000 for path in outcome.figures)
    assert outcome.summary["figure"] == str(outcome.figures[0])


def on_a_quadratic(pipeline: Pipeline) -> Pipeline:
    """The recipe with six parameters in place of its network: programs that compile soon."""
    small = {
        "preconditioned_sharpness": track("preconditioned_sharpness", every=3, solver="dense"),
        "data": data("quadratic", dimension=3, outputs=2, condition=4.0),
        "model": model("linear"),
    }
    stages = tuple(
        small.get(stage.stage, small.get(str(stage.variant), stage)) for stage in pipeline.stages
    )
    return msgspec.structs.replace(pipeline, stages=stages)


def test_multiplier_edge(runs: Path) -> None:
    pipeline = make_recipe(
        "multiplier-edge", transform=("heavy_ball", "rmsprop"), lr=0.5, steps=4, every=3
    )
    outcome = execute(on_a_quadratic(pipeline), root=runs)
    heavy, adaptive = strict(outcome)["rows"]
    keys = ["optimizer", "multiplier", "equivalent_ratio", "ratio", "reached"]
    assert list(heavy) == list(adaptive) == keys
    assert [heavy["optimizer"], adaptive["optimizer"]] == ["heavy_ball", "rmsprop"]
    # Of a constant metric the multiplier says what the eigenvalue says: 0.5 λ₁ over 3.8.
    assert heavy["ratio"] == pytest.approx(0.5 / 3.8, rel=1e-3)
    assert heavy["equivalent_ratio"] == pytest.approx(0.5 / 3.8, rel=1e-3)
    assert not heavy["reached"]
    runs_of = {row["optimizer"]: row for row in outcome.summary["runs"]}
    for name, row in runs_of.items():
        assert (row["transform"], row["lr"], row["unconverged"]) == (name, 0.5, 0)
        assert row["matvecs"] > 0
    drawn(outcome)
    dataset = read_run(outcome.folder).metrics
    assert dataset["multiplier"].dims == ("branch", "transform", "step")
    due = dataset["multiplier"].notnull().all(("branch", "transform"))
    assert dataset["step"].values[due.values].tolist() == [0, 3]


def test_threshold_table(runs: Path) -> None:
    names = ("momentum", "adafactor", "muon")
    pipeline = make_recipe(
        "threshold-table",
        optimizers=names,
        margin=0.05,
        steps=300,
        freeze_at=20,
        dimension=3,
        condition=4.0,
        every=10,
    )
    outcome = execute(pipeline, root=runs)
    rows = strict(outcome)["rows"]
    assert [row["optimizer"] for row in rows] == list(names)
    for row in rows:
        assert set(row) == {
            *("optimizer", "lr", "threshold", "below", "above"),
            *("converges", "diverges", "live_ratio"),
        }
        assert row["below"] < 1 < row["above"]
        assert row["converges"]
        assert row["diverges"]
        assert row["live_ratio"] > 0
    frozen = [row for row in outcome.summary["runs"] if row["branch"] == "below"]
    assert [row["ratio"] for row in frozen] == pytest.approx([0.95] * 3, rel=1e-3)
    drawn(outcome)


@pytest.mark.nightly
def test_e15_each_threshold_is_where_a_frozen_run_turns(runs: Path) -> None:
    """E15, of our own algebra: it is a test, and no claim of the ledger."""
    rows = strict(execute(make_recipe("e15-theory", seed=3), root=runs))["rows"]
    assert [row["optimizer"] for row in rows] == list(ALL)
    assert [row["optimizer"] for row in rows if not row["converges"]] == []
    assert [row["optimizer"] for row in rows if not row["diverges"]] == []
    live = {row["optimizer"]: row["live_ratio"] for row in rows if row["optimizer"] in FORGET}
    assert {name: ratio for name, ratio in live.items() if not 0.9 <= ratio <= 1.15} == {}
