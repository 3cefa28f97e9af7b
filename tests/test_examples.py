"""Runs the examples as their readers do: as scripts, in an empty folder."""

from __future__ import annotations

import runpy
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).parents[1]
MINIMAL = ROOT / "examples" / "minimal.py"


def test_minimal_reaches_the_edge(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "argv", ["minimal.py", "600"])
    steps, _, _, thresholds, ratios = map(
        np.asarray, runpy.run_path(str(MINIMAL), run_name="__main__")["curves"]
    )
    np.testing.assert_allclose(thresholds, np.where(steps < 200, 38 / 5e-3, 38 / 3.5e-3), rtol=1e-3)
    assert ratios[steps == 50] < 0.5  # it begins far below, and rises
    assert 0.85 < np.median(ratios[steps >= 400]) < 1.1  # and stays
    assert (tmp_path / "minimal.png").stat().st_size > 10_000


def test_minimal_is_small():
    """It is shown whole, on the home page."""
    assert len(MINIMAL.read_text().splitlines()) < 120
    assert '--8<-- "examples/minimal.py"' in (ROOT / "docs" / "index.md").read_text()
