"""The benchmark that holds solvers to a law: what it draws, and that it sees who breaks it."""

from __future__ import annotations

import dataclasses
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aeoskit import linalg
from aeoskit_experiments import UserError
from aeoskit_experiments.benchmarks import run_hard_benchmark
from aeoskit_experiments.benchmarks._hard_kinds import KINDS, SPIKE_AT, draw

BROKEN = ("false", "small_bars", "alarms", "late")


def eigenvalues(kind: str, count: int = 4) -> np.ndarray:
    """Of the first and the last operator of each sequence, descending by modulus, the largest 1."""
    matrices = draw(kind, count, (0,)).matrices[:, [0, -1]].astype(np.float64)
    values = np.linalg.eigvalsh(matrices)
    order = np.argsort(-np.abs(values), axis=-1)
    values = np.take_along_axis(values, order, axis=-1)
    return values / np.abs(values[..., :1])


def test_kinds_are_what_they_are_called() -> None:
    """To the rounding of float32, at the end of a sequence as at its beginning."""
    assert np.all(np.abs(eigenvalues("low-rank")[..., 12:]) < 1e-6)
    assert np.all(np.abs(eigenvalues("long")[..., 50:]) < 1e-6)
    copies = eigenvalues("copies")
    assert np.all(np.abs(copies[..., 0] - copies[..., 1]) < 1e-6)
    few = np.round(eigenvalues("few-values"), 5)
    assert all(len(np.unique(values)) <= 8 for values in few.reshape(-1, few.shape[-1]))
    for kind, pairs in (("repeated", 2), ("cycle", 3), ("Wilkinson", 2), ("triples", 3)):
        values = np.sort(np.abs(eigenvalues(kind)), axis=-1)[..., ::-1]
        assert np.all(values[..., 0] - values[..., pairs - 1] < 1e-2), kind
    spikes = draw("spike", 8, (0,))
    norms = np.abs(spikes.matrices).max(axis=(2, 3))
    assert np.all(norms[:, SPIKE_AT] > 20 * norms[:, 0])
    assert np.isfinite(spikes.matrices).all()
    spiked = ~np.all(np.isfinite(draw("NaN", 2, (0,)).matrices), axis=(2, 3))
    assert spiked.sum(axis=1).tolist() == [1, 1]
    assert spiked[:, SPIKE_AT].all()


def test_a_direct_solver_keeps_the_law() -> None:
    found = run_hard_benchmark(count=26, solvers="Dense", questions=1)
    assert [row["kind"] for row in found["rows"]] == list(KINDS)
    assert not found["failed"]
    for row in found["rows"]:
        assert [row[name] for name in BROKEN] == [0, 0, 0, 0]
        assert 0 < row["claims"] <= row["pairs"]
        assert row["products"] == 64
        assert row["worst_error"] < 1
        assert row["worst_bar"] < 1


class Reversed(linalg.Dense):
    """It calls the seventh value the first."""

    def finish(self, *arguments: Any) -> Any:
        true = super().finish(*arguments)
        turned = jax.tree.map(lambda v: v[::-1], true.vectors)
        return dataclasses.replace(true, values=true.values[::-1], vectors=turned)


class Narrow(linalg.Dense):
    """Its vectors are not those of its residuals, and it is never sure."""

    def finish(self, *arguments: Any) -> Any:
        true = super().finish(*arguments)
        turned = jax.tree.map(lambda v: v + 0.01 * jnp.roll(v, 1, axis=1), true.vectors)
        never = jnp.zeros_like(true.is_top)
        return dataclasses.replace(true, vectors=turned, is_top=never)


@pytest.mark.parametrize(
    ("solver", "breaks"),
    [(Reversed, {"false"}), (Narrow, {"small_bars", "late"})],
    ids=lambda x: x.__name__ if isinstance(x, type) else "",
)
def test_a_false_claim_is_seen(
    monkeypatch: pytest.MonkeyPatch, solver: type, breaks: set[str]
) -> None:
    monkeypatch.setattr(linalg, "Dense", solver)
    found = run_hard_benchmark(count=2, kinds="spike,copies", solvers="Dense", questions=2)
    assert found["failed"]
    assert {name for name in BROKEN for row in found["rows"] if row[name]} == breaks


def test_names_are_checked() -> None:
    with pytest.raises(UserError, match="did you mean 'cycle'"):
        run_hard_benchmark(kinds="cycel")
    with pytest.raises(UserError, match="bench hard"):
        run_hard_benchmark(solvers="ARPACK")
