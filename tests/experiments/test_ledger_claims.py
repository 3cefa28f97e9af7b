"""Each measure of a registered claim on records made by hand, whose numbers are known."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aeoskit.record import create_run, read_run
from aeoskit_experiments.ledger import CLAIMS, Evidence
from aeoskit_experiments.ledger import claims as registered
from aeoskit_experiments.ledger._judge import Finding, measure

STEPS = np.arange(0, 1000, 10)
LATE = STEPS[50:]


def evidence(
    folder: Path,
    runs: list[dict[str, Any]],
    branches: Mapping[str, Mapping[str, Any]],
    lanes: list[dict[str, Any]] | None = None,
    **summary: Any,
) -> Evidence:
    """A record: of each branch its steps and columns, a value or one for each step (and lane)."""
    lanes = [{}] if lanes is None else lanes
    writer = create_run(folder, "hand", pipeline={}, environment={}, lanes=lanes)
    for name, columns in branches.items():
        steps = np.asarray(columns.get("step", STEPS))
        shape = (len(steps), len(lanes))
        made = {}
        for key, value in columns.items():
            array = np.asarray(value, float)
            array = array[:, None] if array.ndim == 1 else array
            if key != "step":
                made[key] = np.broadcast_to(array, shape).copy()
        made["sharpness"] = made["sharpness"][..., None]
        writer.append(name, made, steps)
    row = {"branch": "main", "diverged_at": None, "edge_step": None, "steps": 1000}
    writer.close({"runs": [{**row, **item} for item in runs], **summary})
    return Evidence(read_run(writer.path))


def found(claim: str, run: Evidence) -> Finding:
    assert registered
    return measure(CLAIMS[claim], [run])


def value(claim: str, run: Evidence) -> float:
    finding = found(claim, run)
    assert finding.value is not None, finding.reason
    return finding.value


def test_e7_is_about_what_comes_after_the_edge_and_before_the_fit(tmp_path: Path) -> None:
    # Sharper at first than at the edge (step 300), where it is 20; 120 at last; fitted at 900.
    sharpness = np.select([STEPS < 100, STEPS < 400, STEPS < 930], [500.0, 20, 120], 9e9)
    columns = {
        "loss": np.where(STEPS < 900, 1.0, 0.0),
        "ratio": np.select([STEPS < 300, STEPS < 900], [0.5, 0.95], 0.1),
        "sharpness": sharpness,
    }
    run = evidence(tmp_path, [{"edge_step": 300, "lr": 1e-3}], {"main": columns})
    assert value("E7.growth", run) == 6
    assert value("E7.ratio", run) == 0.95
    away = {"edge_step": 300, "lr": 1e-3, "diverged_at": 800}
    assert found("E7.growth", evidence(tmp_path, [away], {"main": columns})).kind == "refuted"
    never = evidence(tmp_path, [{"lr": 1e-3}], {"main": columns})
    assert found("E7.growth", never).kind == "unreachable"


def test_e7_of_a_sweep_is_its_worst_run(tmp_path: Path) -> None:
    lanes = [{"lr": 1e-3}, {"lr": 2e-3}]
    grown = np.where(STEPS[:, None] < 500, 10.0, np.array([[80.0, 30.0]]))
    columns = {"loss": 1.0, "ratio": np.array([[0.98, 1.2]]), "sharpness": grown}
    run = evidence(
        tmp_path, [{"edge_step": 300, **lane} for lane in lanes], {"main": columns}, lanes
    )
    assert value("E7.growth", run) == 3
    assert value("E7.ratio", run) == 1.2


def test_e8_is_over_momentums_own_threshold(tmp_path: Path) -> None:
    columns = {"loss": 1.0, "sharpness": np.where(STEPS < 400, 10.0, 38.0), "threshold": 40.0}
    row = {"edge_step": 500, "threshold": 40.0}
    run = evidence(tmp_path, [row], {"main": columns})
    assert value("E8.peak", run) == value("E8.plateau", run) == 0.95
    # What ran away was not blocked, though all measured values are below.
    away = evidence(tmp_path, [{**row, "diverged_at": 900}], {"main": columns})
    assert found("E8.peak", away).reason == "main diverged at step 900"


def test_e9_begins_where_the_branches_do(tmp_path: Path) -> None:
    """Of a rewound run, whose main branch has no row before."""
    main = {"step": LATE, "loss": 1.0, "sharpness": np.where(LATE < 600, 50.0, 200.0)}
    branches = {
        "main": main,
        "frozen": {"step": LATE, "loss": 1.0, "sharpness": np.where(LATE < 600, 50.0, 60.0)},
        "momentum": {"step": LATE, "loss": 1.0, "sharpness": 19.0},
    }
    rows = [{"branch": name, "threshold": 20.0} for name in branches]
    run = evidence(tmp_path, rows, branches)
    assert value("E9.continued", run) == 4
    assert value("E9.frozen-growth", run) == 1.2
    assert value("E9.frozen-to-peak", run) == 0.3
    assert value("E9.momentum-peak", run) == 0.95
    # Of one that was not rewound, main's own way there does not count.
    whole = {"loss": 1.0, "sharpness": np.select([STEPS < 300, STEPS < 600], [900.0, 50], 200)}
    assert value("E9.continued", evidence(tmp_path, rows, {**branches, "main": whole})) == 4
    rows[1]["diverged_at"] = 700
    assert found("E9.frozen-growth", evidence(tmp_path, rows, branches)).kind == "refuted"


def test_e2s_plateau_and_e6(tmp_path: Path) -> None:
    momenta = [{"beta1": 0.64, "preconditioned_sharpness": 3.0}]
    momenta += [{"beta1": 0.95, "preconditioned_sharpness": 24.0}]
    nothing = {"main": {"loss": 1.0, "sharpness": 1.0}}
    assert value("E2.plateau", evidence(tmp_path, momenta, nothing)) == 8
    lanes = [{"batch": 64}, {"batch": 500}, {"batch": 16}]
    rows = [{**lane, "ratio": ratio} for lane, ratio in zip(lanes, (0.5, 0.9, 0.3), strict=True)]
    # The loss goes up and down by a factor; the full batch's by the least.
    swing = np.exp(np.where(STEPS % 20, 1, -1)[:, None] * np.array([[0.2, 0.1, 0.4]]))
    run = evidence(tmp_path, rows, {"main": {"loss": swing, "sharpness": 1.0}}, lanes)
    assert (value("E6.smallest", run), value("E6.full", run)) == (0.3, 0.9)
    assert value("E6.monotone", run) == pytest.approx(0.2)
    assert value("E6.noise", run) == pytest.approx(4)


def test_e10_compares_ends_falls_and_the_farthest_ratio(tmp_path: Path) -> None:
    pairs = [(lr, beta2) for lr in (0.1, 0.2) for beta2 in (0.9, 0.99)]
    lanes = [{"lr": lr, "beta2": beta2} for lr, beta2 in pairs]
    ends = [(30.0, 0.99), (40.0, 1.0), (20.0, 0.8), (10.0, 1.1)]
    rows = [
        {**lane, "edge_step": 0, "sharpness": sharpness, "ratio": ratio}
        for lane, (sharpness, ratio) in zip(lanes, ends, strict=True)
    ]
    # Each other measurement falls by a factor of e; H bears a quarter of it, or all.
    fall = np.where(STEPS % 20, 0.0, 1.0)[:, None]
    columns = {
        "loss": 1.0,
        "ratio": np.exp(fall),
        "sharpness": np.exp(fall * np.array([[0.25, 1.0, 0.25, 1.0]])),
    }
    run = evidence(tmp_path, rows, {"main": columns}, lanes)
    assert value("E10.smaller-is-sharper", run) == 1.5
    assert value("E10.large-beta2-moves-h", run) == pytest.approx(0.75)
    assert value("E10.ratio", run) == 0.8
    rows[0]["diverged_at"] = 3
    away = evidence(tmp_path, rows, {"main": columns}, lanes)
    assert found("E10.smaller-is-sharper", away).kind == "refuted"


def test_e11_to_e13_and_e15(tmp_path: Path) -> None:
    lanes = [{"warmup": 0}, {"warmup": 400}]
    early = np.where(STEPS[:, None] <= 80, np.array([[2.0, 0.4]]), 1.0)
    middle = (STEPS[:, None] >= 400) & (STEPS[:, None] <= 600)
    columns = {
        "loss": 1.0,
        "ratio": early,
        "sharpness": np.where(middle, np.array([[40.0, 30.0]]), 7.0),
    }
    run = evidence(tmp_path, [dict(lane) for lane in lanes], {"main": columns}, lanes)
    assert value("E11.below", run) == 0.4
    assert value("E11.curvature", run) == 0.75
    grid = [{"sharpness": 1.0, "test_error": 0.1}, {"sharpness": 1.0}]
    nothing = {"main": {"loss": 1.0, "sharpness": 1.0}}
    assert value("E12.report", evidence(tmp_path, grid, nothing)) == 0.5
    row = {"sharpness": 38.0, "threshold": 40.0, "ratio": 0.97}
    run = evidence(tmp_path, [row], nothing)
    assert value("E13.heavy-ball", run) == 0.95
    assert value("E13.beyond", run) == pytest.approx(9.5e6)
    assert value("E13.adam", run) == 0.97
    away = evidence(tmp_path, [{**row, "diverged_at": 9}], nothing)
    assert found("E13.heavy-ball", away).kind == found("E13.beyond", away).kind == "refuted"
    both = [{"converges": True, "diverges": False}, {"converges": True, "diverges": True}]
    live = [{"optimizer": "adam", "ratio": 1.02}, {"optimizer": "nadam", "diverged_at": 7}]
    run = evidence(tmp_path, live, nothing, rows=both)
    assert (value("E15.below", run), value("E15.above", run)) == (1, 0.5)
    assert value("E15.live-adam", run) == 1.02
    # It was to settle, and ran away.
    assert found("E15.live-nadam", run).kind == "refuted"
    assert found("E15.live-rmsprop", run).kind == "unreachable"


def test_e14_asks_what_was_before_a_spike(tmp_path: Path) -> None:
    lanes = [{"beta2": 0.9}, {"beta2": 0.999}]
    spikes = np.isin(STEPS, (500, 700, 900))[:, None]
    # Before two spikes of three it had overshot; elsewhere never.
    columns = {
        "loss": np.where(spikes, np.array([[2.0, 6.0]]), 1.0),
        "ratio": np.where(np.isin(STEPS, (490, 690)), 1.3, 0.95)[:, None],
        "sharpness": 1.0,
    }
    rows = [{**lane, "edge_step": 300} for lane in lanes]
    run = evidence(tmp_path, rows, {"main": columns}, lanes)
    assert value("E14.overshoot", run) == pytest.approx(2 / 3)
    assert value("E14.height", run) == 3
    assert 0.5 < value("E14.no-coincidence", run) < 2 / 3
    few = evidence(tmp_path, [{**row, "edge_step": 600} for row in rows], {"main": columns}, lanes)
    assert "2 spikes after the edge" in found("E14.overshoot", few).reason
