"""Optimizers that others wrote, and Schedule-Free, in experiments."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import optimistix as optx
import pytest

from aeoskit.optimizers import OptaxOptimizer, OptimistixOptimizer, Optimizer, Shampoo
from aeoskit.record import read_run
from aeoskit_cli import main
from aeoskit_experiments import UserError, optimizers
from aeoskit_experiments.execution import _room, execute, optimizer_name
from aeoskit_experiments.execution._names import rate_of
from aeoskit_experiments.pipelines import (
    Choice,
    Pipeline,
    Stage,
    branch,
    data,
    loss,
    model,
    optimizer,
    pipe,
    track,
    train,
)


def quadratic(*stages: Stage, steps: int = 12) -> Pipeline:
    """Six parameters, twelve steps."""
    return pipe(
        data("quadratic", dimension=3, outputs=2, condition=4.0),
        model("linear"),
        loss("mse"),
        *stages,
        train(steps),
    )


@pytest.mark.parametrize("transform", optimizers.TRANSFORMS)
def test_every_transform_is_made_at_its_own_rate(transform: Any) -> None:
    made = optimizers.optax(transform=transform)
    if isinstance(made, Optimizer):  # optax has none
        assert (transform, type(made.preconditioner_rule)) == ("shampoo", Shampoo)
    else:
        assert isinstance(made, OptaxOptimizer)
    params = np.ones((2, 3), np.float32)
    for lr, expected in ((None, optimizers.RATES[transform]), (0.02, 0.02)):
        found = optimizers.optax(transform=transform, lr=lr)
        rate = found.learning_rate(found.init(params), params)
        assert float(rate) == pytest.approx(expected, rel=1e-5)
        choice = Choice("optimizer", "optax", {"transform": transform, "lr": lr})
        assert rate_of(choice) == expected


def test_no_such_transform() -> None:
    with pytest.raises(
        UserError, match="transform is 'lion': it is one of sgd, heavy_ball"
    ) as caught:
        optimizer("optax", transform="lion", lr=0.1)
    assert "\n" not in str(caught.value)


def test_minimisers() -> None:
    made = (optimizers.bfgs(), optimizers.lbfgs(history=3), optimizers.nonlinear_cg())
    kinds = (optx.BFGS, optx.LBFGS, optx.NonlinearCG)
    for found, kind in zip(made, kinds, strict=True):
        assert isinstance(found, OptimistixOptimizer)
        assert isinstance(found.minimiser, kind)
    assert made[1].minimiser.history_length == 3


def test_names() -> None:
    assert optimizer_name("heavy_ball") == "heavy ball"
    assert optimizer_name("schedule_free_adamw") == "Schedule-Free AdamW"


def test_a_sweep_over_rates_of_an_optax_optimizer_runs_as_groups(runs: Path) -> None:
    """It has no array leaves that a lane could stack."""
    outcome = execute(quadratic(optimizer("optax", transform="adam", lr=[1e-3, 1e-2])), root=runs)
    rows = outcome.summary["runs"]
    assert [(row["optimizer"], row["lr"]) for row in rows] == [("adam", 1e-3), ("adam", 1e-2)]
    for row in rows:
        assert row["threshold"] == pytest.approx(38 / row["lr"], rel=1e-5)
        assert row["steps"] == 12
    dataset = read_run(outcome.folder).metrics
    assert dataset["loss"].dims == ("branch", "lr", "step")
    assert dataset["loss"].notnull().all()
    kept = sorted(path.name for path in (outcome.folder / "checkpoints").iterdir())
    assert kept == ["main-group0", "main-group1"]


def test_schedule_free_in_a_pipeline(runs: Path) -> None:
    pipeline = quadratic(
        optimizer(["schedule_free_sgd", "schedule_free_adamw"], lr=0.1, weight_decay=0.5),
        track("preconditioned_sharpness", every=5, solver="dense"),
    )
    plain, adaptive = execute(pipeline, root=runs).summary["runs"]
    assert [plain["optimizer"], adaptive["optimizer"]] == [
        "schedule_free_sgd",
        "schedule_free_adamw",
    ]
    for row in (plain, adaptive):
        assert row["threshold"] == pytest.approx(20 / 0.1 - 0.5, rel=1e-5)
        assert row["ratio"] == pytest.approx(row["preconditioned_sharpness"] / row["threshold"])
        assert row["unconverged"] == 0
    assert plain["preconditioned_sharpness"] == pytest.approx(1.0, rel=1e-4)
    assert adaptive["preconditioned_sharpness"] > 1.1


PIPE = [
    *("pipe", "data", "quadratic", "--dimension", "3", "--outputs", "2", "model", "linear"),
    *(
        "loss",
        "mse",
        "optimizer",
        "bfgs",
        "track",
        "sharpness",
        "--every",
        "4",
        "--solver",
        "dense",
    ),
    *("train", "--steps", "12", "store", "--no-checkpoints", "--root"),
]


def test_bfgs_through_pipe(runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([*PIPE, str(runs), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (row,) = found["runs"]
    assert (row["optimizer"], row["threshold"], row["ratio"]) == ("bfgs", None, None)
    assert row["sharpness"] == pytest.approx(1.0, rel=1e-3)
    losses = read_run(found["folder"]).metrics["loss"].values[0]
    assert losses[-1] < 1e-2 * losses[0]


@pytest.mark.parametrize("probe", ["preconditioned_sharpness", "flip_multiplier"])
def test_bfgs_has_no_metric(probe: str, runs: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = [word if word != "sharpness" else probe for word in PIPE]
    if probe == "flip_multiplier":
        words = [word for word in words if word not in ("--solver", "dense")]
    assert main([*words, str(runs), "--quiet"]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"error: track {probe}: optimizer bfgs has no ")
    assert "track sharpness" in err
    assert err.count("\n") == 1
    assert list(runs.iterdir()) == []


@pytest.mark.parametrize(
    ("stage", "message"),
    [
        (
            branch("freeze", at=5),
            "branch frozen: freeze works only with aeoskit's own adaptive optimizers",
        ),
        (branch("switch", optimizer="adam", lr=0.1, at="threshold"), "bfgs has no threshold"),
    ],
)
def test_branches_that_a_minimiser_cannot_have(stage: Stage, message: str) -> None:
    with pytest.raises(UserError, match=message):
        quadratic(optimizer("bfgs"), track("sharpness", every=4), stage).experiment()


def test_room_is_made_where_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    cleared: list[bool] = []
    monkeypatch.setattr(_room.jax, "clear_caches", lambda: cleared.append(True))
    monkeypatch.setattr(_room, "memory_maps", lambda: _room.MANY_MAPS - 1)
    assert not _room.limit_memory_maps()
    assert cleared == []
    monkeypatch.setattr(_room, "memory_maps", lambda: _room.MANY_MAPS)
    assert _room.limit_memory_maps()
    assert cleared == [True]


def test_where_no_one_says_how_much_is_mapped(monkeypatch: pytest.MonkeyPatch) -> None:
    class Nowhere(type(Path())):
        def read_bytes(self) -> bytes:
            raise FileNotFoundError

    monkeypatch.setattr(_room, "Path", Nowhere)
    assert _room.memory_maps() == 0
    assert not _room.limit_memory_maps()
