"""Windows of a curve: the running median against a plain loop, arrival at the edge, the end."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from aeoskit.figures import running_median
from aeoskit_experiments.execution import edge_step, last_fifth

VALUES = st.one_of(st.floats(-1e6, 1e6), st.sampled_from([np.nan, np.inf]))
CURVES = st.dictionaries(st.integers(0, 200), VALUES, max_size=30)


@given(CURVES, st.integers(1, 120))
def test_running_median_equals_a_plain_loop(curve: dict[int, float], width: int) -> None:
    steps = np.array(sorted(curve), int)
    values = np.array([curve[step] for step in sorted(curve)], float)
    expected = []
    for end in steps:
        window = [curve[step] for step in curve if end - width < step <= end]
        finite = [value for value in window if np.isfinite(value)]
        expected.append(np.median(finite) if finite else np.nan)
    np.testing.assert_array_equal(running_median(steps, values, width), np.array(expected, float))


def rising(*values: float, every: int = 50) -> int | None:
    """One value a window, so that the running median is the value itself."""
    return edge_step(every * np.arange(len(values)), np.array(values, float))


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ((0.2, 0.5, 0.9, 1.0), 100),  # arrives: 0.9 is the edge, itself included
        ((7.0, 3.0, 0.2, 0.5, 1.0), 200),  # starts above, since P is tiny then
        ((1.0, 1.0, 1.0), None),  # never below: it does not rise
        ((0.1, 0.2, 0.3), None),  # never there
        ((1.0, 0.5, 0.4), None),  # from above only
        ((np.nan, 0.5, np.nan, 1.0), 150),  # NaN is neither below nor above
        ((np.nan, np.nan), None),
        ((), None),
        ((0.5,), None),
    ],
)
def test_edge_step(values: tuple[float, ...], expected: int | None) -> None:
    assert rising(*values) == expected


def test_one_jump_is_no_arrival() -> None:
    # Judged by the median over 50 steps: 5 measurements here.
    assert rising(0.5, 0.5, 3.0, 0.5, 0.5, 0.5, every=10) is None
    assert rising(0.5, 0.5, 0.5, 3.0, 3.0, 3.0, every=10) == 50


def test_last_fifth() -> None:
    assert last_fifth(np.arange(100, 201)).nonzero()[0].tolist() == list(range(80, 101))
    assert last_fifth(np.array([7])).tolist() == [True]
    assert last_fifth(np.zeros(0, int)).tolist() == []
