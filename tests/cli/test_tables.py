"""The tables of multipliers and of thresholds: what is in them, in 80 columns."""

from pathlib import Path
from typing import Any

import pytest

from aeoskit_cli._print import print_outcome, print_runs, print_thresholds

Capture = pytest.CaptureFixture[str]

OPTIMIZERS = ("gradient_descent", "scalar_rmsprop", "schedule_free_adamw", "muon")


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")


def fits(capsys: Capture) -> list[list[str]]:
    """The words of each line, none of which is cut, broken or beyond the 80th column."""
    out = capsys.readouterr().out
    assert "…" not in out
    assert max(map(len, out.splitlines())) <= 80
    return [line.split() for line in out.splitlines()]


def threshold_row(optimizer: str, **values: Any) -> dict[str, Any]:
    row = {"optimizer": optimizer, "lr": 0.5, "threshold": 27.142857, "below": 1.234e-17}
    row |= {"above": 1.234e25, "converges": True, "diverges": True, "live_ratio": 0.98765}
    return {**row, **values}


def test_thresholds(capsys: Capture) -> None:
    rows = [threshold_row(name) for name in OPTIMIZERS]
    rows[0] |= {"below": 0.5, "above": 99.0, "live_ratio": None, "threshold": 123456.0}
    rows[1] |= {"diverges": False, "above": 0.012345}
    rows[2] |= {"below": None, "converges": False}
    rows[3] |= {"below": 0.0, "above": float("inf"), "threshold": float("nan")}
    print_thresholds(rows)
    lines = fits(capsys)
    assert ["gradient_descent", "123,456", "0.5", "99", "yes", "–"] in lines
    assert ["scalar_rmsprop", "27.14", "1e-17", "0.0123", "no", "0.988"] in lines
    # A branch that did not start has no threshold.
    assert ["schedule_free_adamw", "27.14", "–", "1e+25", "–", "0.988"] in lines
    assert ["muon", "–", "0", "–", "yes", "0.988"] in lines


def multiplier_run(optimizer: str, **values: Any) -> dict[str, Any]:
    row = {"branch": "main", "optimizer": optimizer, "lr": 1.5e-3, "transform": optimizer}
    row |= {"threshold": 2714.2857, "ratio": 1.01234, "edge_step": 525, "final_loss": 0.123456}
    row |= {"preconditioned_sharpness": 2750.0, "multiplier": -1.2345, "reached": True}
    row |= {"equivalent_ratio": 1.00567, "matvecs": 123456, "unconverged": 0, "steps": 1500}
    return {**row, "diverged_at": None, **values}


def test_multipliers(capsys: Capture) -> None:
    """Also with a run that diverged and one without a recurrence."""
    rows = [multiplier_run(name) for name in OPTIMIZERS]
    rows[1] |= {"multiplier": None, "equivalent_ratio": None, "ratio": None, "reached": False}
    rows[1] |= {"diverged_at": 1234, "threshold": None}
    rows[2] |= {"equivalent_ratio": None, "reached": False, "threshold": 271428.57}
    print_runs(rows)
    lines = fits(capsys)
    assert ["gradient_descent", "0.0015", "2,714", "-1.234", "1.012", "1.006", "yes", "–"] in lines
    assert ["scalar_rmsprop", "0.0015", "–", "–", "–", "–", "no", "1234"] in lines
    third = ["schedule_free_adamw", "0.0015", "271,429", "-1.234", "1.012", "–", "no", "–"]
    assert third in lines


def test_the_largest_oscillation_has_two_columns(capsys: Capture) -> None:
    turning = {"oscillation_modulus": 1.0039, "oscillation_angle": 0.1197}
    rows = [multiplier_run(name, **turning) for name in OPTIMIZERS]
    rows[1] |= {"diverged_at": 1234, "oscillation_modulus": None, "oscillation_angle": None}
    print_runs(rows)
    lines = fits(capsys)
    found = ["muon", "0.0015", "2,714", "-1.234", "1.012", "1.006", "yes", "1.004", "0.120", "–"]
    assert found in lines


def test_a_narrow_table_has_whole_headers(capsys: Capture) -> None:
    print_runs([multiplier_run("adam")])
    words = [word for line in fits(capsys) for word in line]
    assert {"threshold", "multiplier"} <= {*words}


@pytest.mark.parametrize(
    ("labels", "symbol"),
    [
        ({"threshold_of": "preconditioned_sharpness"}, "λ₁(P⁻¹H)"),
        ({"threshold_of": "sharpness"}, "λ₁(H)"),
        ({}, "λ₁(H)"),  # a summary of version 0.1
        ({"preconditioned_sharpness": 2.0}, "λ₁(P⁻¹H)"),
    ],
)
def test_the_threshold_is_of_what_the_optimizer_has(
    labels: dict[str, Any], symbol: str, capsys: Capture
) -> None:
    print_runs([{"optimizer": "adam", "threshold": 38e3, "final_loss": 1.0, **labels}])
    assert symbol in [word for line in fits(capsys) for word in line]


def edge_run(**values: Any) -> dict[str, Any]:
    row = {"branch": "main", "optimizer": "adam", "lr": 1e-3, "threshold": 38e3, "ratio": 0.994}
    row |= {"ratio_of": "edge", "zeta": 0.921, "state": "at the edge", "arrived": 815, "left": None}
    row |= {"threshold_of": "preconditioned_sharpness", "window": [820, 1490], "parked": False}
    return {**row, "final_loss": 0.002117, "matvecs": 123456, **values}


def test_the_state_of_a_run(capsys: Capture) -> None:
    print_outcome({"runs": [edge_run()]}, [])
    lines = fits(capsys)
    assert [
        "0.001",
        "38,000",
        "0.994",
        "0.921",
        "at",
        "the",
        "edge",
        "0.002117",
        "123,456",
    ] in lines
    assert ["lr", "of", "λ₁(P⁻¹H)", "at", "the", "edge", "median", "state", "final", "H·v"] in lines
    far = edge_run(ratio_of="end", ratio=0.97, zeta=0.001, state="below", parked=True)
    print_outcome({"runs": [edge_run(), far], "warnings": ["at beta2 = 0.5 P moves"]}, [])
    words = " ".join(word for line in fits(capsys) for word in line)
    assert "of a run that was never there, from the rise of its ratio to 0.9 to the fit" in words
    assert "parked: a ratio of 0.9 or more at the end, but nothing oscillates" in words
    assert "at beta2 = 0.5 P moves" in words


def test_optimizers_over_beta2(capsys: Capture) -> None:
    """If the rows are over β₂, their table takes the place of that of the runs."""
    row = {"lr": 2.5e-3, "ratio": 3.7004, "zeta": 0.99713, "zeta_before": 0.0256}
    rows = [
        {"optimizer": name, "beta2": beta2, "state": "at the edge", **row}
        for name in OPTIMIZERS[:3]
        for beta2 in (0.1, 0.999)
    ]
    none = {"optimizer": "adagrad", "beta2": None, "lr": 0.2}
    rows.append(none | dict.fromkeys(("ratio", "zeta", "zeta_before", "state")))
    runs = [edge_run(), edge_run(diverged_at=12)]
    print_outcome({"rows": rows, "runs": runs, "status": "diverged"}, [])
    lines = fits(capsys)
    numbers = ["0.999", "0.0025", "3.700", "0.997", "0.026"]
    assert ["scalar_rmsprop", *numbers, "at", "the", "edge"] in lines
    assert ["adagrad", "–", "0.2", "–", "–", "–", "–"] in lines
    assert ["1", "of", "2", "runs", "diverged:", "lower", "the", "learning", "rate"] in lines
    assert not any("38,000" in words for words in lines)
    # Of one optimizer, or one β₂, the runs say more.
    print_outcome({"rows": rows[:2], "runs": runs[:1]}, [])
    assert any("38,000" in words for words in fits(capsys))


def test_states_in_a_wide_table(capsys: Capture) -> None:
    """Branches, swept values and errors beside the states: none is lost."""
    runs = [
        edge_run(branch=name, width=512, test_error=0.25, train_error=0.125, diverged_at=1234)
        for name in ("main", "momentum")
    ]
    print_runs(runs)
    words = [word for line in fits(capsys) for word in line]
    assert {"momentum", "512", "0.994", "0.921", "1234"} <= {*words}


def test_multipliers_with_a_sweep_of_their_own(capsys: Capture) -> None:
    print_runs([multiplier_run(name, width=width) for name in OPTIMIZERS for width in (32, 512)])
    first = ["gradient_descent", "0.0015", "512", "2,714", "-1.234", "1.012", "1.006", "yes"]
    assert first in fits(capsys)


def test_an_outcome_prints_the_table_that_its_rows_are_for(capsys: Capture) -> None:
    rows = [threshold_row("adam")]
    runs = [multiplier_run("adam")]
    print_outcome({"rows": rows, "runs": runs}, [])
    assert ["adam", "27.14", "1e-17", "1e+25", "yes", "0.988"] in fits(capsys)
    keys = ("optimizer", "multiplier", "equivalent_ratio", "ratio", "reached")
    kept = [{key: row[key] for key in keys} for row in runs]
    print_outcome({"rows": kept, "runs": runs, "seconds": 1.25}, [Path("runs/x/edge.png")])
    lines = fits(capsys)
    assert ["0.0015", "2,714", "-1.234", "1.012", "1.006", "yes"] in lines
    assert ["figure:", "runs/x/edge.png"] in lines
    assert ["time:", "1.2", "s"] in lines


def test_what_no_column_says(capsys: Capture) -> None:
    row = {"branch": "main", "optimizer": "adam", "lr": 1e-3, "threshold": 38e3, "ratio": 1.0}
    row |= {"final_loss": 0.1, "matvecs": 12, "train_error": 0.25, "test_error": 0.5}
    row |= {"epochs": 3, "planned_steps": 60, "probe_examples": 512, "rewound_to": 40}
    print_outcome({"runs": [row]}, [])
    lines = fits(capsys)
    words = [word for line in lines for word in line]
    assert (words.count("train"), words.count("test"), words.count("error")) == (1, 1, 2)
    probe, begin = [line for line in lines if line][-2:]
    assert probe[-4:] == ["batch", "of", "512", "examples"]
    assert begin == ["rewound:", "main", "begins", "at", "step", "40"]
    assert not {"60", "epochs", "planned"} & set(words)


def test_probes_on_different_examples_are_noted(capsys: Capture) -> None:
    row = {"branch": "main", "optimizer": "adam", "lr": 1e-3, "threshold": 38e3, "ratio": 1.0}
    sizes = {"preconditioned_sharpness": 512, "sharpness": None}
    print_outcome({"runs": [{**row, "probe_examples": sizes}]}, [])
    message = " ".join(word for line in fits(capsys) for word in line)
    assert "some eigenvalues are of the loss on a fixed batch of 512 examples" in message
    print_outcome({"runs": [row]}, [])
    assert "fixed batch" not in " ".join(word for line in fits(capsys) for word in line)
