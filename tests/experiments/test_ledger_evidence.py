"""What claims read from a run, on a record made by hand whose numbers are known."""

from __future__ import annotations

import math

import numpy as np
import pytest

from aeoskit.record import create_run, read_run
from aeoskit_experiments.ledger import CLAIMS, Evidence, OutOfReach, Refuted
from aeoskit_experiments.ledger import claims as registered
from aeoskit_experiments.ledger._judge import measure

STEPS = np.arange(0, 200, 10)


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Evidence:
    """Two learning rates: one at the edge from step 100 on and fitted at 150; one that diverged."""
    writer = create_run(
        tmp_path_factory.mktemp("runs"),
        "hand",
        pipeline={},
        environment={},
        lanes=[{"lr": 1e-3}, {"lr": 3e-3}],
    )
    good = STEPS >= 100
    sharpness = np.where(STEPS == 120, 900.0, np.where(good, 40.0, 10.0))
    columns = {
        "loss": np.stack([np.where(STEPS < 150, 1.0, 0.01), np.ones(20)], 1),
        "ratio": np.stack([np.where(good, 1.1, 0.5), np.full(20, 0.2)], 1),
        "sharpness": np.stack([sharpness, np.full(20, 7.0)], 1)[..., None],
    }
    writer.append("main", columns, STEPS)
    rows = [
        {
            "branch": "main",
            "lr": 1e-3,
            "ratio": 1.1,
            "arrived": 100,
            "edge_step": 100,
            "diverged_at": None,
        },
        {"branch": "main", "lr": 3e-3, "ratio": None, "arrived": None, "diverged_at": 5},
    ]
    writer.close({"runs": [{**row, "steps": 200, "threshold": 38.0} for row in rows], "growth": 4})
    return Evidence(read_run(writer.path))


def test_numbers_of_one_run_of_a_sweep(run: Evidence) -> None:
    assert run.ratio(lr=0.001) == 1.1
    assert run.arrived(lr=1e-3) == 100
    assert run.origin(lr=1e-3) == 0.5
    # Three of five measurements behind it: the running median of the loss.
    assert run.fitted_step(lr=1e-3) == 170
    assert math.isinf(run.fitted_step(lr=3e-3))
    assert run.median("sharpness", first=100, last=140, lr=1e-3) == 40
    # Up to its divergence it has medians like another, and no peak: it was not held.
    assert run.median("sharpness", last=4, lr=3e-3) == 7
    assert run.end("ratio", lr=1e-3) == pytest.approx(1.1)
    assert run.value_at("sharpness", 125, lr=1e-3) == 40
    # A single measurement of 900 moves no median.
    assert run.peak("sharpness", lr=1e-3) == 40
    with pytest.raises(ValueError, match="2 runs are main"):
        run.row()


def test_where_there_is_no_number_it_says_why(run: Evidence) -> None:
    with pytest.raises(Refuted, match="main diverged at step 5"):
        run.ratio(lr=3e-3)
    with pytest.raises(Refuted, match="main diverged at step 5"):
        run.peak("sharpness", lr=3e-3)
    with pytest.raises(Refuted, match="main diverged at step 5"):
        run.median("sharpness", lr=3e-3)
    with pytest.raises(Refuted, match="main diverged at step 5"):
        run.end("sharpness", lr=3e-3)
    with pytest.raises(Refuted, match="before the edge"):
        run.arrived(lr=3e-3)
    with pytest.raises(OutOfReach, match="branch frozen did not start: the main run ended at"):
        run.row("frozen")
    with pytest.raises(OutOfReach, match="the run has no main, lr 1"):
        run.ratio(lr=1.0)
    with pytest.raises(OutOfReach, match="not measured in the claim"):
        run.median("ratio", first=500, lr=1e-3)
    with pytest.raises(OutOfReach, match="preconditioned sharpness was not measured on branch"):
        run.peak("preconditioned_sharpness", lr=1e-3)
    with pytest.raises(OutOfReach, match="was not measured on branch main from step 500 on"):
        run.value_at("sharpness", 500, lr=1e-3)


def test_the_registered_claims_read_such_a_run(run: Evidence) -> None:
    assert registered  # importing it fills the registry
    assert measure(CLAIMS["E1.lr-1e-3"], [run]).value == 1.1
    assert measure(CLAIMS["E1.lr-3e-3"], [run]).reason.startswith("main diverged at step 5")
    # Of a sweep the least: one that diverged before the edge did not grow there.
    assert measure(CLAIMS["E7.growth"], [run]).kind == "refuted"
    assert measure(CLAIMS["E9.frozen-growth"], [run]).kind == "unreachable"
