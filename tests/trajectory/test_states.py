"""States of a run by its realized edge, and the numbers of a window."""

import numpy as np
import pytest

from aeoskit.trajectory import STATES, RecentSteps, edge_of_window, edge_states, next_states

STEPS = np.arange(400)


def curve(*levels: float) -> np.ndarray:
    """A hundred steps at each level."""
    return np.repeat(np.array(levels, float), 100)


def states_at(found, *steps: int) -> list[str | None]:
    codes = found.codes[np.searchsorted(found.steps, steps)]
    return [None if np.isnan(code) else STATES[int(code)] for code in codes]


def test_each_state_in_its_order():
    found = edge_states(STEPS, curve(0.1, 0.5, 1.0, 0.1))
    assert states_at(found, 48, 49, 99, 150, 250, 350) == [
        None, "below", "below", "arriving", "at the edge", "left",
    ]  # fmt: skip
    # 26 of the 50 values of a window are the new ones then.
    assert (found.arrived, found.left) == (225, 325)
    assert found.state == "left"
    assert not found.parked
    assert not found.never_below


def test_a_run_that_falls_back_was_never_at_the_edge():
    found = edge_states(STEPS, curve(0.1, 0.79, 0.1, 0.1))
    assert states_at(found, 99, 199, 399) == ["below", "arriving", "below"]
    assert (found.arrived, found.left, found.state) == (None, None, "below")


def test_the_longest_stay_counts_and_a_dip_above_the_lower_level_does_not_end_it():
    steps = np.arange(800)
    zeta = np.concatenate([curve(1.0, 0.0), curve(1.0, 0.4, 1.0), curve(0.1, 1.0, 1.0)])
    found = edge_states(steps, zeta)
    assert (found.arrived, found.left) == (225, 525)
    assert states_at(found, 90, 190, 390, 590) == ["at the edge", "left", "arriving", "left"]
    assert found.state == "at the edge"


def test_uphill_steps_and_unknown_ones_do_not_count():
    zeta = np.where(STEPS % 2 == 0, 0.1, 5.0)
    promised = np.where(STEPS % 2 == 0, -1.0, 1.0)
    assert edge_states(STEPS, zeta, promised).state == "below"
    few = np.where(STEPS % 5 == 0, 1.0, np.nan)  # a fifth is known
    assert edge_states(STEPS, few).state is None
    assert edge_states(STEPS, np.where(STEPS % 4 == 0, 1.0, np.nan)).state == "at the edge"


def test_of_minibatches_a_window_has_what_was_measured_in_it():
    steps = np.arange(0, 400, 10)
    found = edge_states(steps, np.where(steps < 200, 0.1, 1.0))
    assert states_at(found, 30, 40) == [None, "below"]
    assert found.arrived == 220


@pytest.mark.parametrize(
    ("zeta", "ratio", "parked", "never_below"),
    [
        (0.001, 0.97, True, True),  # momentum that does not oscillate
        (1.0, 0.11, False, False),  # Adam at a small beta2
        (1.0, 3.8, False, True),  # RMSProp at a small beta2
        (0.1, 0.5, False, False),
    ],
)
def test_the_ratio_sets_flags_and_decides_nothing(zeta, ratio, parked, never_below):
    at = STEPS[::10]
    found = edge_states(
        STEPS, np.full(400, zeta), ratio_steps=at, ratio=np.full(at.size, float(ratio))
    )
    assert found.state == ("at the edge" if zeta >= 0.8 else "below")
    assert (found.parked, found.never_below) == (parked, never_below)


@pytest.mark.parametrize("period", [1, 10, 60])
def test_states_chunk_by_chunk_are_those_of_the_whole(period):
    random = np.random.default_rng(period)
    steps = 7 + period * np.arange(900)
    level = np.interp(np.arange(900), [0, 200, 400, 600, 900], [0.0, 1.1, 1.0, 0.0, 1.0])
    zeta = level + 0.5 * random.normal(size=900)
    zeta[random.random(900) < 0.3] = np.nan
    whole = edge_states(steps, zeta)
    assert {0, 1, 2, 3} == set(whole.codes[np.isfinite(whole.codes)])
    cuts = np.sort(random.choice(900, 40, replace=False))
    recent, medians, codes = RecentSteps(), [], []
    for at, values in zip(np.split(steps, cuts), np.split(zeta, cuts), strict=True):
        median, code, recent = next_states(recent, at, values)
        assert recent.steps.size <= 50
        medians.append(median)
        codes.append(code)
    np.testing.assert_array_equal(np.concatenate(medians), whole.zeta)
    np.testing.assert_array_equal(np.concatenate(codes), whole.codes)
    assert recent.been


def test_nothing_measured():
    found = edge_states([], [])
    assert (found.arrived, found.left, found.state) == (None, None, None)
    assert (found.parked, found.never_below) == (False, False)
    assert edge_states(STEPS[:30], np.ones(30)).state is None


def test_curves_of_different_lengths_are_refused():
    with pytest.raises(ValueError, match="zeta has shape"):
        edge_states([1, 2], [1.0])
    with pytest.raises(ValueError, match="predicted_change has shape"):
        edge_states([1, 2], [1.0, 1.0], [1.0])
    with pytest.raises(ValueError, match="steps does not increase"):
        edge_states([2, 1], [1.0, 1.0])
    with pytest.raises(ValueError, match="window is 0"):
        edge_states([1, 2], [1.0, 1.0], window=0)


def test_numbers_of_a_window():
    zeta, promised = [1.0, 0.5, 2.0, np.nan], [-1.0, -2.0, 1.0, -1.0]
    found = edge_of_window(zeta, promised)
    assert found.median == 0.75
    assert found.uphill == 0.25
    # The losses change by 0, -1 and -1: two in all, where the sum of promises is two.
    assert found.of_sums == pytest.approx(1 - -2 / -2)
    assert np.isnan(edge_of_window([], []).median)
