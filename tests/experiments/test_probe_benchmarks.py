"""The benchmarks of probes and programs, tiny: what they count and say, not how good anyone is."""

from __future__ import annotations

import dataclasses

import jax
import numpy as np
import pytest

from aeoskit.linalg import Tracking
from aeoskit_experiments import UserError
from aeoskit_experiments.benchmarks import (
    _accuracy,
    run_accuracy_benchmark,
    run_budget_benchmark,
    run_compile_benchmark,
    run_overhead_benchmark,
)
from aeoskit_experiments.benchmarks._eigen_problems import training_problem


def test_accuracy_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    case = _accuracy.Case(lambda: training_problem("B", examples=20, width=2, steps=0), 2, 5)
    monkeypatch.setattr(_accuracy, "CASES", {"small": case})
    found = run_accuracy_benchmark(measurements=4, every=1, places="edge")
    assert [(row["place"], row["setting"]) for row in found["rows"]] == [
        ("edge", setting) for setting in _accuracy.SETTINGS
    ]
    for row in found["rows"]:
        assert row["products"] >= 1
        assert row["median_error"] <= row["p99_error"] <= row["max_error"] < 0.1
        assert row["covered"] in (0, 1 / 3, 2 / 3, 1)
        assert row["converged"] == 1
    # A residual of 1e-3 leaves next to no error.
    assert all(row["max_error"] < 1e-3 for row in found["rows"] if row["setting"] == "rtol=1e-3")
    for row in found["truth"]:
        assert row["parameters"] == 64 * 2 + 2 + 2 * 2 + 2 + 2 * 10 + 10
        assert row["float64_error"] < 1e-5


def test_errors_are_against_the_truth() -> None:
    """A truth that is moved by a hundredth is an error of a hundredth, which nothing covers."""
    problem = training_problem("B", examples=20, width=2, steps=2)
    found = _accuracy.Sequence.of(problem, 2, 1)
    moved = dataclasses.replace(found, values=1.01 * found.values)
    row = moved.row(Tracking(rtol=1e-4, value_rtol=0.0))
    assert row["median_error"] == pytest.approx(0.01 / 1.01, rel=1e-2)
    assert row["covered"] == 0


def test_compile_rows() -> None:
    before = jax.config.jax_enable_compilation_cache  # pyright: ignore[reportAttributeAccessIssue]
    rows = run_compile_benchmark(leaves=(1,), width=3, examples=2)["rows"]
    names = ["product", "jax lobpcg_standard", "Lanczos", "Tracking", "first probe", "second probe"]
    assert [row["program"] for row in rows] == names
    by_name = {row["program"]: row for row in rows}
    product, lobpcg = by_name["product"], by_name["jax lobpcg_standard"]
    assert product["per_product"] == lobpcg["per_lobpcg"] == 1
    for row in rows:
        assert row["per_product"] == pytest.approx(row["seconds"] / product["seconds"])
        assert row["per_lobpcg"] == pytest.approx(row["seconds"] / lobpcg["seconds"])
    assert 0 < product["lines"] < lobpcg["lines"]
    assert by_name["first probe"]["programs"] > 1
    # Cold and warm are the same programs.
    assert by_name["second probe"]["programs"] == 0
    after = jax.config.jax_enable_compilation_cache  # pyright: ignore[reportAttributeAccessIssue]
    assert after == before


def test_overhead_rows() -> None:
    found = run_overhead_benchmark(
        problems="17k", steps=4, every=2, warmup=1, repeats=1, width=2, value_rtol=0.0
    )
    (edge,) = found["realized_edge"]
    assert edge["parameters"] == found["rows"][0]["parameters"]
    assert edge["ratio"] > 0
    assert edge["cpu_ratio"] > 0
    rows = found["rows"]
    assert [row["loop"] for row in rows] == ["Trajectory", "own"]
    for row in rows:
        assert row["parameters"] == 64 * 2 + 2 + 2 * 2 + 2 + 2 * 10 + 10
        assert row["products"] >= 1
        assert all(np.isfinite(value) for value in row.values() if isinstance(value, float))
    # Both loops train and measure the same, from other starts.
    assert abs(rows[0]["products"] - rows[1]["products"]) <= 1


def test_budget_rows() -> None:
    [row] = run_budget_benchmark(
        problems="17k", every=2, warmup=1, steps=60, settle=40, chunk=20, measurements=2, width=2
    )["rows"]
    assert row["asked"] == 0.2
    assert 2 <= row["period"] <= 100
    assert 0.0099 <= row["value_rtol"] <= 0.0301
    assert np.isfinite(row["estimated"])
    assert row["median_error"] <= row["max_error"] < 0.1


@pytest.mark.parametrize(
    ("run", "options", "words"),
    [
        (run_accuracy_benchmark, {"problems": "rwa"}, "did you mean 'raw'"),
        (run_accuracy_benchmark, {"places": "egde"}, "did you mean 'edge'"),
        (run_accuracy_benchmark, {"measurements": 1}, "give 2 or more"),
        (run_compile_benchmark, {"leaves": (0,)}, "give 1 or more"),
        (run_compile_benchmark, {"width": 2}, "3 or more"),
        (run_budget_benchmark, {"problems": "17"}, "did you mean '17k'"),
        (run_budget_benchmark, {"steps": 150}, "a multiple of 100"),
        (run_budget_benchmark, {"settle": 600}, "give 100 or more, below 600"),
        (run_overhead_benchmark, {"problems": "17"}, "did you mean '17k'"),
        (run_overhead_benchmark, {"steps": 15}, "a multiple of 10"),
    ],
)
def test_refused_before_any_work(run, options: dict, words: str) -> None:
    with pytest.raises(UserError, match=words):
        run(**options)
