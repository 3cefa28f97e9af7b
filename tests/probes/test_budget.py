"""Budgets as pure functions, and which criterion a measurement met."""

import dataclasses
import itertools
import math

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from aeoskit.linalg import Dense, Lanczos, Tracking, eigensolve
from aeoskit.probes import (
    CRITERIA,
    FlipMultiplier,
    LossAndGradient,
    PreconditionedSharpness,
    Sharpness,
    adapt_budget,
    budget_columns,
    criterion,
    missed_budget,
    start_budget,
)

KINDS = (Sharpness, PreconditionedSharpness)


def products(tolerance, period):
    """A model of what a solve takes: more for a tighter tolerance, and for a longer way."""
    loose = 1.0 if math.isnan(tolerance) or tolerance == 0 else (0.01 / tolerance) ** 0.3
    return 0.6 + 1 + 1.5 * loose * (period / 10) ** 0.3


def settle(probe, price, rounds=40, noise=0.0, seed=0):
    """The states that a probe comes through, measurement after measurement, and true overheads."""
    rng = np.random.default_rng(seed)
    budget, states, overheads = jax.device_get(start_budget(probe)), [], []
    for _ in range(rounds):
        period, tolerance = int(budget.period), float(budget.value_rtol)
        cost = products(tolerance, period)
        budget = budget.with_entry("prices", price * math.exp(noise * rng.normal()))
        for _ in range(4):
            budget = budget.with_entry("costs", cost)
        overheads.append(price * cost / period)
        budget = adapt_budget(probe, budget)
        states.append((int(budget.period), round(float(budget.value_rtol), 6)))
    return states, np.array(overheads), budget


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("target", [0.05, 0.2, 1.0])
@pytest.mark.parametrize("price", [0.02, 0.3, 1.2, 4.0])
@pytest.mark.parametrize("every", [1, 10])
def test_it_comes_to_the_overhead_and_stays_there(kind, target, price, every):
    probe = kind(every=every, overhead=target)
    states, overheads, budget = settle(probe, price)
    longest = max(100, 10 * every)
    for period, tolerance in states:
        assert every <= period <= longest
        assert 0.01 <= tolerance <= 0.03
    # It is at rest, though nothing is as before for a hair's breadth.
    assert len(set(states[-20:])) == 1
    period, tolerance = states[-1]
    if period < longest:
        assert overheads[-1] <= 1.1 * target
    if (period, tolerance) != (every, 0.01):
        # Not more is given up than a tight grid of settings asks for.
        assert overheads[-1] >= 0.5 * target
    # The tolerance first: the period is the shortest one until the tolerance is the loosest.
    assert period == every or tolerance == 0.03
    assert (missed_budget(probe, budget) is None) == (overheads[-1] <= 1.25 * target)
    assert float(budget.overhead) == pytest.approx(overheads[-1], rel=1e-5)


def test_it_comes_back_when_there_is_room():
    probe = Sharpness(every=10, overhead=0.2)
    _, _, budget = settle(probe, 4.0)
    assert int(budget.period) > 10
    seen = []
    for _ in range(20):
        for _ in range(5):
            budget = budget.with_entry("prices", 0.02).with_entry("costs", 3.0)
        budget = adapt_budget(probe, budget)
        seen.append((int(budget.period), float(budget.value_rtol)))
    # The period first, by half at once; then the tolerance.
    assert seen[-1] == (10, pytest.approx(0.01))
    periods = [period for period, _ in seen]
    assert all(b >= a / 2 for a, b in itertools.pairwise(periods))
    assert all(tolerance > 0.02 for period, tolerance in seen if period > 10)


def test_a_noisy_clock_is_borne():
    probe = Sharpness(every=10, overhead=0.2)
    for seed in range(5):
        _, overheads, _ = settle(probe, 1.2, rounds=200, noise=0.4, seed=seed)
        assert 0.7 * 0.2 < overheads[50:].mean() < 1.2 * 0.2
    # Two of five prices may be anything.
    budget = settle(probe, 1.2)[2]
    for wild in (1e6, 0.0):
        spoiled = budget.with_entry("prices", wild).with_entry("prices", wild)
        assert adapt_budget(probe, spoiled).period == budget.period


def test_what_is_far_too_dear_changes_at_once():
    probe = Sharpness(every=10, overhead=0.2)
    states, _, _ = settle(probe, 4.0, rounds=3)
    # Two measurements, but three prices: a product and what is fixed are 1.
    assert states[1:] == [(10, 0.01), (40, 0.03)]


def test_it_waits_for_evidence():
    probe = Sharpness(every=10, overhead=0.2)
    budget = jax.device_get(start_budget(probe))
    for _ in range(2):
        budget = budget.with_entry("prices", 0.3).with_entry("costs", 20.0)
        assert adapt_budget(probe, budget) is budget
    assert "not measured" in str(missed_budget(probe, budget))
    moved = adapt_budget(probe, budget.with_entry("prices", 0.3))
    assert float(moved.value_rtol) == pytest.approx(0.02)
    assert int(moved.period) == 10
    # What was measured before the change speaks of another tolerance.
    assert np.isnan(moved.costs).all()


@pytest.mark.parametrize("solver", [Lanczos(), Tracking(value_rtol=0.0), Dense()])
def test_without_a_tolerance_of_the_value_the_period_alone_changes(solver):
    probe = Sharpness(every=10, overhead=0.2, solver=solver)
    states, overheads, budget = settle(probe, 1.2)
    assert states[-1][0] > 10
    assert overheads[-1] <= 0.22
    columns = budget_columns(probe)
    assert ("sharpness_value_rtol" in columns) == isinstance(solver, Tracking)
    if isinstance(solver, Tracking):
        assert float(budget.value_rtol) == 0


def test_a_looser_tolerance_than_the_bound_is_kept():
    probe = Sharpness(every=10, overhead=0.2, solver=Tracking(value_rtol=0.1))
    states, _, _ = settle(probe, 1.2)
    assert {tolerance for _, tolerance in states} == {0.1}


def test_what_could_not_be_reached_is_reported():
    probe = PreconditionedSharpness(every=20, overhead=0.01)
    _, overheads, budget = settle(probe, 4.0)
    words = str(missed_budget(probe, budget))
    assert words.startswith(f"preconditioned_sharpness took {overheads[-1]:.2g} of the time")
    assert "not 0.01" in words
    assert "longest period, 200 steps" in words
    on_its_way = dataclasses.replace(budget, period=np.asarray(100))
    assert "still adapting" in str(missed_budget(probe, on_its_way))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("overhead", [0.0, -0.1, 11.0, math.inf, math.nan])
def test_an_overhead_that_is_none_is_refused(kind, overhead):
    with pytest.raises(ValueError, match=r"overhead is .*at most 10"):
        kind(overhead=overhead)


@pytest.mark.parametrize("number", [np.float32(0.25), np.float64(0.25), np.int64(1), 1])
def test_any_real_number_is_an_overhead(number):
    found = Sharpness(overhead=number).overhead
    assert found == float(number)
    assert type(found) is float
    for other in (True, np.bool_(True), "0.2"):
        with pytest.raises(ValueError, match="overhead is"):
            Sharpness(overhead=other)


def test_a_budget_keeps_to_the_limits_of_a_changed_probe():
    _, _, budget = settle(Sharpness(every=5, overhead=0.2), 1.0)
    budget = jax.tree.map(jnp.asarray, dataclasses.replace(budget, due=np.asarray(200)))
    period, tolerance = int(budget.period), float(budget.value_rtol)
    assert 5 < period < 50
    assert tolerance == pytest.approx(0.03)
    # Another share of the time alone is within the limits.
    assert start_budget(Sharpness(every=5, overhead=0.3), budget) is budget
    changes = {
        (50, 0.03): Sharpness(every=50, overhead=0.2),
        (period, 0.0): Sharpness(every=5, overhead=0.2, solver=Tracking(value_rtol=0.0)),
        (period, 0.1): Sharpness(every=5, overhead=0.2, solver=Tracking(value_rtol=0.1)),
        (period, math.nan): Sharpness(every=5, overhead=0.2, solver=Lanczos()),
    }
    for expected, probe in changes.items():
        moved = start_budget(probe, budget)
        found = int(moved.period), float(moved.value_rtol)
        assert found == pytest.approx(expected, nan_ok=True)
        assert int(moved.due) == 200 + expected[0] - period
        # What was known of costs was of another period or tolerance; a price is one of a product.
        assert np.isnan(moved.costs).all()
        assert np.isnan(moved.overhead)
        assert np.isfinite(moved.prices).all()
    # A solver that has a tolerance again begins with its own.
    without = start_budget(changes[period, 0.0], start_budget(Sharpness(solver=Lanczos()), budget))
    assert float(without.value_rtol) == 0
    with_one = dataclasses.replace(budget, value_rtol=jnp.asarray(jnp.nan))
    again = start_budget(Sharpness(every=5, overhead=0.2), with_one)
    assert float(again.value_rtol) == pytest.approx(0.01)
    # And a period that is too long for the probe.
    late = dataclasses.replace(budget, period=jnp.asarray(200))
    assert int(start_budget(Sharpness(every=5, overhead=0.2), late).period) == 100


@pytest.mark.parametrize("solver", [Lanczos(), Tracking(value_rtol=0.0), Tracking(value_rtol=0.01)])
def test_a_tolerance_is_named_where_there_is_one(solver):
    probe = Sharpness(every=20, overhead=0.01, solver=solver)
    words = str(missed_budget(probe, settle(probe, 4.0)[2]))
    assert "longest period, 200 steps" in words
    loosened = getattr(solver, "value_rtol", 0) > 0
    assert ("loosest tolerance, 0.03" in words) == loosened
    assert ("tolerance" in words) == loosened


def test_without_a_budget_there_are_no_columns():
    for probe in (Sharpness(), PreconditionedSharpness(), LossAndGradient(), FlipMultiplier()):
        assert budget_columns(probe) == ()


class TestCriterion:
    """0 none, 1 the residual's tolerance, 2 the value's alone."""

    operator = lx.DiagonalLinearOperator(jnp.linspace(1.0, 2.0, 40))

    def words(self, solver, **options):
        found = eigensolve(self.operator, solver, **options)
        numbers = criterion(found, solver)
        assert ((numbers > 0) == found.converged).all()
        return [CRITERIA[number] for number in numbers]

    def test_residual(self):
        for solver in (Lanczos(), Tracking(), Tracking(value_rtol=0.01), Dense()):
            # A cold solve ends on residuals.
            assert self.words(solver, k=2) == ["residual", "residual"]

    def test_value(self):
        solver = Tracking(value_rtol=0.02)
        start = eigensolve(self.operator, solver).state
        self.operator = lx.DiagonalLinearOperator(self.operator.diagonal[::-1] ** 1.01)
        tight = Tracking(rtol=1e-7, value_rtol=0.02)
        assert self.words(tight, start=start) == ["value"]

    def test_none(self):
        assert self.words(Lanczos(rtol=1e-6), max_matvecs=2) == ["none"]
        nan = lx.DiagonalLinearOperator(jnp.full(40, jnp.nan))
        found = eigensolve(nan, Tracking(value_rtol=0.01))
        assert criterion(found, Tracking(value_rtol=0.01)).tolist() == [0]
