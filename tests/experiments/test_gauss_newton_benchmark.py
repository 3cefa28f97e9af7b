from __future__ import annotations

import jax
import pytest

from aeoskit_experiments import UserError
from aeoskit_experiments.benchmarks import _gauss_newton, run_gauss_newton_benchmark


@pytest.mark.slow
@pytest.mark.skipif(jax.default_backend() != "cpu", reason="the memory is that of the CPU backend")
def test_rows(monkeypatch):
    # Small, but with logits that are the largest array by far.
    monkeypatch.setattr(_gauss_newton, "HEADS", ("untied",))
    sizes = {"vocabulary": 2000, "width": 4, "examples": 4, "tokens": 16, "repeats": 1}
    rows = run_gauss_newton_benchmark(**sizes)["rows"]
    assert len(rows) == 12
    found = {(row["reuse"], row["microbatch"], row["softmax"]): row for row in rows}
    logits = 4 * 16 * 2000 * 4
    for (reuse, microbatch, softmax), row in found.items():
        held = row["bytes_temporary"] + row["bytes_residuals"]
        assert row["buffers"] == pytest.approx(held / logits)
        assert (row["bytes_residuals"] == 0) == (reuse == "recompute")
        assert row["product_seconds"] > 0
        if softmax == "closed form":
            floor = found[reuse, microbatch, "none"]
            # One array of the logits' size: what a linearization keeps, or what a product makes.
            assert row["buffers"] - floor["buffers"] < 1.3
            assert row["memory_ratio"] > 1.2


def test_a_microbatch_that_is_too_large():
    with pytest.raises(UserError, match="there are only 2 examples"):
        run_gauss_newton_benchmark(examples=2, microbatch=3)
