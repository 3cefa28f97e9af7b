from __future__ import annotations

import jax
import pytest

import aeoskit_experiments
from aeoskit_experiments import UserError
from aeoskit_experiments.benchmarks import BENCHMARKS, run_loop_benchmark, run_scale_benchmark


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


def test_scale_rows():
    """A tiny network's solve needs half of the memory on two devices; sums are sent once."""
    found = run_scale_benchmark(
        devices=2, parameters=20_000, basis=8, examples=4, width=4, repeats=1
    )
    one, two = found["rows"]
    assert (one["devices"], two["devices"], one["held_share"]) == (1, 2, 1.0)
    assert two["bytes_solve"] < 0.7 * one["bytes_solve"]
    assert two["held_share"] == pytest.approx(2 * two["bytes_held"] / one["bytes_held"])
    assert two["held_share"] < 1.2
    assert two["bytes_reduced"] <= 1.1 * one["bytes_reduced"]
    assert found["scaling"][0]["examples"] == 4
    assert found["scaling"][0]["efficiency"] == 1
    with pytest.raises(UserError, match="power of two"):
        run_scale_benchmark(devices=3)
    with pytest.raises(UserError, match=r"there are \d+: give at most"):
        run_scale_benchmark(devices=1024)
