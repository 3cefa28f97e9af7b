"""Imports beside what a run waits for."""

import sys

import pytest

from aeoskit_experiments.execution._meanwhile import imported_meanwhile


def test_modules_are_there_at_the_end_and_a_missing_one_is_missed_later():
    sys.modules.pop("colorsys", None)
    with imported_meanwhile("no_such_module", "colorsys"):
        pass
    assert "colorsys" in sys.modules


def test_an_error_meanwhile_is_raised():
    with pytest.raises(ZeroDivisionError), imported_meanwhile("colorsys"):
        raise ZeroDivisionError
