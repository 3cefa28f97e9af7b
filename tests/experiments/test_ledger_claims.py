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
    row = {"branch": "main", "diverged_at": None, "arrived": None, "zeta": 0.1, "steps": 1000}
    writer.close({"runs": [{**row, **item} for item in runs]})
    return Evidence(read_run(writer.path))


def found(claim: str, *runs: Evidence) -> Finding:
    assert registered
    return measure(CLAIMS[claim], runs)


def numbers(claim: str, *runs: Evidence) -> tuple[float, float | None]:
    """The number and its alternative."""
    finding = found(claim, *runs)
    assert finding.value is not None, finding.reason
    return finding.value, finding.alternative


AT_EDGE = {"arrived": 300, "window": [300, 990], "zeta": 0.98, "zeta_before": 0.05}
NOTHING = {"main": {"loss": 1.0, "sharpness": 1.0}}


def test_a_plateau_of_a_sweep_is_compared_with_that_of_another_run(tmp_path: Path) -> None:
    lanes = [{"lr": 1e-3}, {"lr": 3e-3}, {"lr": 1e-2}]
    rows = [
        {**lane, **AT_EDGE, "ratio": ratio, "threshold": 38 / lane["lr"]}
        for lane, ratio in zip(lanes, (1.02, 0.98, 1.0), strict=True)
    ]
    run = evidence(tmp_path, rows, NOTHING, lanes)
    value, other = numbers("E1.lr-1e-3", run)
    assert value == 1.02
    assert other == pytest.approx(0.98 / 3)
    # One that is parked beside the edge was not at it, whatever its ratio.
    rows[0] |= {"arrived": None, "zeta": 0.02}
    parked = found("E1.lr-1e-3", evidence(tmp_path, rows, NOTHING, lanes))
    assert parked.kind == "unreachable"
    assert "(ζ is 0.02 at their end)" in parked.reason


def test_e1_rises_from_below(tmp_path: Path) -> None:
    lanes = [{"lr": 1e-3}, {"lr": 3e-3}]
    ratio = np.where(STEPS[:, None] < 200, np.array([[0.2, 0.4]]), 0.97)
    rows = [{**lane, **AT_EDGE, "ratio": 1.0, "threshold": 1.0} for lane in lanes]
    columns = {"loss": 1.0, "sharpness": 1.0, "ratio": ratio}
    assert numbers("E1.rise", evidence(tmp_path, rows, {"main": columns}, lanes)) == (0.4, 0.97)


def test_e3_and_e4_say_where_a_run_came_from(tmp_path: Path) -> None:
    columns = {"loss": 1.0, "sharpness": 1.0, "ratio": np.where(STEPS < 250, 0.3, 1.0)}
    # At the very start P is tiny.
    columns["ratio"][0] = 30.0
    late = {**columns, "step": LATE, "ratio": np.where(LATE < 600, 0.6, 1.0)}
    rows = [
        {**AT_EDGE, "ratio": 0.99},
        {**AT_EDGE, "branch": "frozen-80", "ratio": 1.01, "arrived": 700},
    ]
    run = evidence(tmp_path, rows, {"main": columns, "frozen-80": late})
    assert numbers("E4.cnn", run) == (0.99, 0.3)
    assert numbers("E3.frozen-80", run) == (1.01, 0.6)
    there = evidence(tmp_path, rows, {"main": columns, "frozen-80": {**late, "ratio": 0.95}})
    assert "it could not rise" in found("E3.frozen-80", there).reason


def test_e5_and_e16_read_what_the_steps_do(tmp_path: Path) -> None:
    row, realized = {**AT_EDGE, "ratio": 0.3}, np.where(STEPS < 300, 0.1, 0.99)
    columns = {"loss": 1.0, "sharpness": 1.0, "realized_edge": realized}
    run = evidence(tmp_path, [row], {"main": columns})
    assert numbers("E5.adagrad", run) == pytest.approx((0.99, 0.05))
    below = evidence(tmp_path, [row], {"main": {**columns, "realized_edge": 0.3}})
    assert "ζ is 0.3 after 1000 steps" in found("E5.adagrad", below).reason
    lanes = [{"beta2": beta2} for beta2 in (0.1, 0.5, 0.99, 0.999)]
    rows = [
        {**AT_EDGE, **lane, "ratio": ratio, "zeta_before": before, "optimizer": "rmsprop"}
        for lane, ratio, before in zip(
            lanes, (3.8, 2.0, 1.0, 0.99), (0.1, 0.15, 0.0, 0.02), strict=True
        )
    ]
    columns["realized_edge"] = np.array([[0.97, 0.99, 1.0, 1.01]])
    run = evidence(tmp_path, rows, {"main": columns}, lanes)
    assert numbers("E16.realized-rmsprop", run) == pytest.approx((0.97, 0.15))
    assert numbers("E16.realized-adam", run) == pytest.approx((1.01, 0.02))
    assert numbers("E16.realized-adam-small-beta2", run) == pytest.approx((0.97, 0.15))
    assert numbers("E16.offset", run) == pytest.approx((3.8, 1 / 0.99))
    rising = {**columns, "realized_edge": np.where(STEPS[:, None] < 250, 0.02, 1.0)}
    risen = evidence(tmp_path, rows, {"main": rising}, lanes)
    assert numbers("E16.below", risen, risen) == pytest.approx((0.02, 1.0))
    rows[1]["ratio"] = 4.0
    wavy = found("E16.offset", evidence(tmp_path, rows, {"main": columns}, lanes))
    assert wavy.kind == "refuted"
    assert wavy.reason.endswith(": 3.8, 4, 1, 0.99")
    columns["realized_edge"] = np.array([[0.97, 0.2, 1.0, 1.01]])
    away = evidence(tmp_path, rows, {"main": columns}, lanes)
    assert found("E16.realized-rmsprop", away).kind == "unreachable"
    assert found("E16.realized-rmsprop", away).reason.startswith("at β₂ = 0.5 ")
    # What Adam does at one β₂ decides nothing about the others.
    assert found("E16.realized-adam", away).kind == "measured"


def test_e5_compares_the_shift_of_a_plateau_with_that_of_its_threshold(tmp_path: Path) -> None:
    columns = {"loss": 1.0, "sharpness": 1.0, "ratio": np.where(STEPS < 750, 1.0, 0.998)}
    plain = evidence(tmp_path, [{**AT_EDGE, "ratio": 1.0, "threshold": 100.0}], {"main": columns})
    decayed = evidence(tmp_path, [{**AT_EDGE, "ratio": 0.99, "threshold": 99.0}], {"main": columns})
    assert numbers("E5.adamw-decay", decayed, plain) == pytest.approx((1.99, 0.2))


def test_e6_compares_batches_with_one_batch_over_time(tmp_path: Path) -> None:
    lanes = [{"batch": 64}, {"batch": 500}, {"batch": 250}]
    steps = np.arange(0, 1000, 4)
    # The loss goes up and down by a factor before the edge; that of half the examples by half.
    swing = np.exp(np.where(steps % 8, 1, -1)[:, None] * np.array([[0.4, 0.1, 0.2]]))
    late = steps[:, None] >= 750
    columns = {
        "step": steps,
        "loss": np.where(steps[:, None] < 200, swing, 1.0),
        "ratio": np.where(late, [[0.3, 0.92, 0.65]], [[0.3, 0.9, 0.6]]),
        "sharpness": np.where(late, [[10, 10, 14.0]], 10.0),
    }
    run = evidence(tmp_path, [dict(lane) for lane in lanes], {"main": columns}, lanes)
    assert numbers("E6.monotone", run) == pytest.approx((0.27, 0.02))
    assert numbers("E6.noise", run) == pytest.approx((2, 1), rel=0.1)
    assert numbers("E6.equilibrates", run) == pytest.approx(tuple(np.log((0.65 / 0.6, 1.4))))
    assert found("E6.equilibrates", run).reason == "raw sharpness moved by a factor of 1.40"
    columns["sharpness"] = 10.0
    still = evidence(tmp_path, [dict(lane) for lane in lanes], {"main": columns}, lanes)
    assert "raw sharpness moved by 1.00" in found("E6.equilibrates", still).reason


def test_e7_is_about_what_comes_after_the_edge_and_before_the_fit(tmp_path: Path) -> None:
    # Sharper at first than at the edge (step 300), where it is 20; 120 at last; fitted at 900.
    sharpness = np.select([STEPS < 100, STEPS < 400, STEPS < 930], [500.0, 20, 120], 9e9)
    columns = {
        "loss": np.where(STEPS < 900, 1.0, 0.0),
        "ratio": np.select([STEPS < 300, STEPS < 900], [0.5, 0.95], 0.1),
        "preconditioned_sharpness": np.where(STEPS < 400, 100.0, 105.0)[:, None],
        "metric_at_top": np.where(STEPS < 400, 0.2, 1.1),
        "realized_edge": 0.01,
        "sharpness": sharpness,
    }
    # Its steps are small: by ζ it is below the edge.
    row = {"edge_step": 300, "lr": 1e-3}
    run = evidence(tmp_path, [row], {"main": columns})
    assert numbers("E7.growth", run) == pytest.approx((6, 1.05))
    assert found("E7.growth", run).reason == "the median ζ there is 0.01"
    assert numbers("E7.ratio", run) == (0.95, 0.5)
    assert numbers("E7.compensates", run) == pytest.approx((5.5 / 6, 1 / 6))
    away = evidence(tmp_path, [{**row, "diverged_at": 800}], {"main": columns})
    assert found("E7.growth", away).kind == "refuted"
    never = evidence(tmp_path, [{"lr": 1e-3}], {"main": columns})
    assert found("E7.growth", never).kind == "unreachable"


def test_e7_of_a_sweep_is_its_worst_run(tmp_path: Path) -> None:
    lanes = [{"lr": 1e-3}, {"lr": 2e-3}]
    grown = np.where(STEPS[:, None] < 500, 10.0, np.array([[80.0, 30.0]]))
    columns = {
        "loss": 1.0,
        "ratio": np.where(STEPS[:, None] < 300, 0.5, np.array([[0.98, 1.2]])),
        "preconditioned_sharpness": 1.0,
        "realized_edge": 0.01,
        "sharpness": grown,
    }
    rows = [{"edge_step": 300, **lane} for lane in lanes]
    run = evidence(tmp_path, rows, {"main": columns}, lanes)
    assert numbers("E7.growth", run) == (3, 1)
    assert numbers("E7.ratio", run) == (1.2, 0.5)


def test_e8_is_over_momentums_own_threshold(tmp_path: Path) -> None:
    single = np.where(STEPS == 700, 50.0, np.where(STEPS < 400, 10.0, 38.0))
    columns = {"loss": 1.0, "sharpness": single, "threshold": 40.0}
    row = {**AT_EDGE, "ratio": 0.95, "threshold": 40.0}
    run = evidence(tmp_path, [row], {"main": columns})
    grown = {"loss": 1.0, "sharpness": np.where(STEPS < 600, 100.0, 400.0)}
    adam = evidence(tmp_path, [{"edge_step": 300, "lr": 1e-4}], {"main": grown})
    assert numbers("E8.peak", run, adam) == (0.95, 10)
    assert found("E8.peak", run, adam).reason == "single values go up to 1.25"
    assert numbers("E8.blocked", run, adam) == (0.95, 10)
    # What ran away was not blocked, though all measured values are below.
    away = evidence(tmp_path, [{**row, "diverged_at": 900}], {"main": columns})
    assert found("E8.peak", away, adam).reason == "main diverged at step 900"
    parked = evidence(tmp_path, [{**row, "arrived": None}], {"main": columns})
    assert found("E8.peak", parked, adam).kind == "unreachable"


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
    assert numbers("E9.continued", run) == (4, 1.2)
    assert numbers("E9.frozen-growth", run) == (1.2, 4)
    assert numbers("E9.momentum-peak", run) == (0.95, 10)
    # Of one that was not rewound, main's own way there does not count.
    whole = {"loss": 1.0, "sharpness": np.select([STEPS < 300, STEPS < 600], [900.0, 50], 200)}
    assert numbers("E9.continued", evidence(tmp_path, rows, {**branches, "main": whole}))[0] == 4
    rows[1]["diverged_at"] = 700
    assert found("E9.frozen-growth", evidence(tmp_path, rows, branches)).kind == "refuted"


def test_e10_compares_ends_falls_and_the_farthest_ratio(tmp_path: Path) -> None:
    pairs = [(lr, beta2) for lr in (0.1, 0.2) for beta2 in (0.97, 0.99)]
    lanes = [{"lr": lr, "beta2": beta2} for lr, beta2 in pairs]
    rows = [
        {**AT_EDGE, **lane, "ratio": ratio, "threshold": 1 / lane["lr"]}
        for lane, ratio in zip(lanes, (0.99, 1.0, 0.8, 1.1), strict=True)
    ]
    # Over a hundred steps it falls by a factor of e, and rises again; H bears a quarter, or all.
    steps = np.arange(0, 1000, 2)
    wave = np.abs((steps / 100) % 2 - 1)[:, None]
    # What alternates from one measurement to the next is not a fall, though most of them would be.
    jitter = np.where(steps % 4, 0.05, 0.0)[:, None]
    columns = {
        "step": steps,
        "loss": 1.0,
        "ratio": np.exp(wave + jitter),
        "sharpness": np.array([[30.0, 40, 20, 10]]) * np.exp(wave * [[0.25, 1.0, 0.25, 1.0]]),
    }
    run = evidence(tmp_path, rows, {"main": columns}, lanes)
    assert numbers("E10.smaller-is-sharper", run) == pytest.approx((1.5, 1.0), rel=0.05)
    assert numbers("E10.large-beta2-moves-h", run) == pytest.approx((0.75, 0.0), abs=0.03)
    assert numbers("E10.ratio", run) == pytest.approx((0.8, 0.55))
    rows[0]["diverged_at"] = 3
    away = evidence(tmp_path, rows, {"main": columns}, lanes)
    assert found("E10.smaller-is-sharper", away).kind == "refuted"


def test_e11_is_compared_with_no_warmup(tmp_path: Path) -> None:
    lanes = [{"warmup": 0}, {"warmup": 400}]
    early = np.where(STEPS[:, None] <= 80, np.array([[2.0, 0.4]]), 1.0)
    middle = (STEPS[:, None] >= 333) & (STEPS[:, None] <= 667)
    columns = {
        "loss": 1.0,
        "ratio": early,
        "sharpness": np.where(middle, np.array([[40.0, 30.0]]), 7.0),
    }
    run = evidence(tmp_path, [dict(lane) for lane in lanes], {"main": columns}, lanes)
    assert numbers("E11.curvature", run) == (0.75, 1.0)


def test_e12_is_told_from_chance(tmp_path: Path) -> None:
    lanes = [{"lr": float(lr)} for lr in range(1, 21)]

    def grid(error: Any) -> Evidence:
        rows = [
            {**lane, "sharpness": lane["lr"], "test_error": error(lane["lr"])} for lane in lanes
        ]
        return evidence(tmp_path, rows, NOTHING, lanes)

    value, other = numbers("E12.correlation", grid(lambda lr: -(lr**3)))
    assert value == pytest.approx(1)
    assert other == pytest.approx(0.44, abs=0.05)
    assert numbers("E12.correlation", grid(lambda lr: (lr * 7) % 20))[0] < 0.5
    # Of few runs the interval says nothing.
    rows = [
        {**lane, "sharpness": lane["lr"], "test_error": (lane["lr"] * 7) % 20} for lane in lanes
    ]
    few = evidence(tmp_path, rows[:8], NOTHING, lanes[:8])
    assert found("E12.correlation", few).reason.endswith("wider than 1")
    rows[0]["test_error"] = None
    none = evidence(tmp_path, rows[:4], NOTHING, lanes[:4])
    assert "3 runs have both" in found("E12.correlation", none).reason


def test_e13_is_at_the_edge_by_its_steps(tmp_path: Path) -> None:
    row = {**AT_EDGE, "threshold": 40.0}
    large = evidence(tmp_path, [row], {"main": {"loss": 1.0, "sharpness": 38.0}})
    small = evidence(tmp_path, [row], {"main": {"loss": 1.0, "sharpness": 400.0}})
    assert numbers("E13.heavy-ball", large, small) == pytest.approx((0.95, 1e8))
    parked = evidence(tmp_path, [{**row, "arrived": None}], NOTHING)
    assert found("E13.heavy-ball", parked, small).kind == "unreachable"
    away = evidence(tmp_path, [{**row, "diverged_at": 9}], NOTHING)
    assert found("E13.heavy-ball", away, small).kind == "refuted"


def test_e14_asks_what_was_before_a_spike(tmp_path: Path) -> None:
    lanes = [{"beta2": 0.9}, {"beta2": 0.999}]
    spikes = np.isin(STEPS, (500, 700, 900))[:, None]
    # Before each spike it had overshot; elsewhere never.
    columns = {
        "loss": np.where(spikes, np.array([[2.0, 6.0]]), 1.0),
        "ratio": np.where(np.isin(STEPS, (490, 690, 890)), 1.3, 0.95)[:, None],
        "sharpness": 1.0,
    }
    rows = [{**lane, **AT_EDGE} for lane in lanes]
    run = evidence(tmp_path, rows, {"main": columns}, lanes)
    value, other = numbers("E14.auc", run)
    assert value == 1
    assert 0.5 < (other or 0) < 1
    # Three spikes in order prove nothing: so are one in eight exchanges. Seven do.
    assert numbers("E14.height", run) == (1, 1)
    spikes = np.isin(STEPS, range(300, 1000, 100))[:, None]
    often = {**columns, "loss": np.where(spikes, np.array([[2.0, 6.0]]), 1.0)}
    value, other = numbers("E14.height", evidence(tmp_path, rows, {"main": often}, lanes))
    assert value == 1
    assert 0.5 < (other or 0) < 0.95
    # Spikes that grow over the run, alike at both, are no higher at one of them.
    grown = np.where(spikes, 1 + (STEPS / 100)[:, None] ** 2 * np.array([[1.0, 1.0]]), 1.0)
    alike = evidence(tmp_path, rows, {"main": {**columns, "loss": grown}}, lanes)
    assert numbers("E14.height", alike)[0] == pytest.approx(0.5)
    few = evidence(tmp_path, [{**row, "arrived": 600} for row in rows], {"main": columns}, lanes)
    assert "2 spikes after the edge" in found("E14.auc", few).reason
