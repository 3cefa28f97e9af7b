"""Imports beside what a run waits for."""

import sys

import pytest

from aeoskit_experiments.execution._meanwhile import imported_meanwhile


def test_modules_are_there_at_the_end_and_a_broken_one_is_missed_later(monkeypatch, tmp_path):
    (tmp_path / "broken_module.py").write_text("raise RuntimeError")
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.delitem(sys.modules, "colorsys", raising=False)
    with imported_meanwhile("no_such_module", "broken_module", "colorsys"):
        pass
    assert "colorsys" in sys.modules
    with pytest.raises(RuntimeError):
        import broken_module  # noqa: F401  # pyright: ignore[reportMissingImports]


def test_an_error_meanwhile_is_raised():
    with pytest.raises(ZeroDivisionError), imported_meanwhile("colorsys"):
        raise ZeroDivisionError
