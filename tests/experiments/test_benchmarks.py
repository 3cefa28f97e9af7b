from __future__ import annotations

import jax
import pytest

import aeoskit_experiments
from aeoskit_experiments.benchmarks import BENCHMARKS, run_loop_benchmark


def test_names_are_listed():
    assert list(BENCHMARKS) == list(aeoskit_experiments.BENCHMARKS)
    assert all(aeoskit_experiments.BENCHMARKS.values())


@pytest.mark.slow
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the modes are those of the CPU backend")
def test_loop_rows():
    # Tiny: what is measured and how, not how fast it is.
    rows = run_loop_benchmark(examples=16, channels=2, steps=2, products=3, repeats=1)["rows"]
    assert len(rows) == 6
    for row in rows:
        assert row["mode"] == ("host" if row["convolution"] == "lax" else "scan")
        assert row["goal"] == (1.2 if row["convolution"] == "lax" else 2.0)
        assert row["ratio"] == pytest.approx(row["loop_seconds"] / row["plain_seconds"])
        assert row["ratio"] > 0
