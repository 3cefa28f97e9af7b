"""Every recipe from end to end, five steps of each case's stages on little data."""

from pathlib import Path
from typing import Any

import pytest

from aeoskit_experiments.execution import execute
from aeoskit_experiments.pipelines import Pipeline, Stage, make_stage
from aeoskit_experiments.recipes import make_suite, recipe_names

STEPS = 5
SAMPLE = ("gd-edge", "advance", "e11-warmup")
"""Those that every change must pass; the others are run by night."""


def small(pipeline: Pipeline) -> Pipeline:
    """The pipeline with five steps, and everything that happens later moved into them."""
    return Pipeline(stages=tuple(_small(stage) for stage in pipeline.stages), name=pipeline.name)


def _small(stage: Stage) -> Stage:
    changed: dict[str, Any] = {}
    settings = stage.settings
    if stage.stage == "train":
        changed = {"steps": STEPS, "epochs": None, "chunk": STEPS, "stop_loss": None}
        changed["batch"] = None if settings["batch"] is None else 4
        changed["microbatch"] = None if settings["microbatch"] is None else 8
    elif stage.stage == "track":
        changed = {"every": 2}
        if settings.get("examples") is not None:
            changed["examples"] = 8
    elif stage.stage == "data" and "examples" in settings:
        changed = {"examples": 16}
    elif stage.stage == "branch":
        at = settings["at"]
        changed = {"at": at if at == "start" else 2 if at in ("edge", "threshold") else min(at, 2)}
    elif stage.stage == "store":
        changed = {"checkpoint_every": None}
    # One value of each sweep is enough.
    first = {key: value[0] for key, value in settings.items() if isinstance(value, tuple)}
    variant = stage.variant[0] if isinstance(stage.variant, tuple) else stage.variant
    known = {key: value for key, value in (first | changed).items() if key in settings}
    defaults = {key: value for key, value in stage.defaults.items() if value is not None}
    return make_stage(stage.stage, variant, {**stage.options, **known}, defaults=defaults)


def cases() -> list[Any]:
    found = []
    for name in recipe_names():
        marks = [] if name in SAMPLE else [pytest.mark.nightly]
        found += [
            pytest.param(pipeline, id=f"{name}-{case}", marks=marks)
            for case, pipeline in make_suite(name).items()
        ]
    return found


@pytest.mark.parametrize("pipeline", cases())
def test_a_recipe_runs_from_end_to_end(pipeline: Pipeline, runs: Path) -> None:
    outcome = execute(small(pipeline), root=runs)
    assert outcome.status in ("finished", "diverged")
    branches = {branch.name for branch in pipeline.declared().branches}
    assert {row["branch"] for row in outcome.summary["runs"]} == {"main", *branches}
    assert (outcome.folder / "metrics.parquet").exists()
