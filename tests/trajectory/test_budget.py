"""Probes under a budget along a run, by a clock on which steps and products take what is set."""

import dataclasses
import itertools
import logging

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aeoskit.linalg import Lanczos, Tracking
from aeoskit.objective import Objective
from aeoskit.optimizers import adam
from aeoskit.probes import (
    LINEARIZATION_PRODUCTS,
    AbstractProbe,
    LossAndGradient,
    PreconditionedSharpness,
    Sharpness,
    missed_budget,
    start_budget,
)
from aeoskit.record import load_checkpoint, save_checkpoint
from aeoskit.sharding import Placement, make_mesh
from aeoskit.trajectory import (
    FreezePreconditioner,
    Trajectory,
    branch,
    copy_tree,
    stack_lanes,
    stream,
)

STEP, CALL = 1.0, 0.3


class Clock:
    """A step takes a second, a call of a program 0.3, a product what the probe says."""

    def reset(self):
        self.now, self.calls, self.counted = 0.0, 0, {}
        self.noise, self.rng, self.price = 0.0, np.random.default_rng(0), {}
        self.scale = 1.0

    def spend(self, name, seconds):
        seconds = seconds * self.price.get(name, 1.0)
        self.now += float(seconds) * np.exp(self.noise * self.rng.normal())
        self.counted[name] = self.counted.get(name, 0) + 1

    def __call__(self):
        jax.effects_barrier()
        self.calls += 1
        self.now += CALL * (self.calls % 2 == 0)
        return self.scale * self.now


# One for all tests, so that they share programs: what a product takes is read by the host.
CLOCK = Clock()


@pytest.fixture
def clock():
    CLOCK.reset()
    return CLOCK


class Tick(AbstractProbe):
    """Every step takes time."""

    every: int = eqx.field(static=True, default=1)

    @property
    def measures(self):
        return ("tick",)

    @property
    def solves(self):
        return False

    def init(self, params, key):
        return None

    def measure(self, context, state):
        jax.debug.callback(lambda step: CLOCK.spend("step", STEP), context.step)
        return {"tick": context.value}, None


class Costly(AbstractProbe):
    """A probe of the library whose products take time, and half a product more."""

    inner: AbstractProbe
    solver: Lanczos | Tracking
    every: int = eqx.field(static=True)
    overhead: float | None = eqx.field(static=True)

    @property
    def measures(self):
        return self.inner.measures

    @property
    def solves(self):
        return True

    def init(self, params, key):
        return self.inner.init(params, key)

    def measure(self, context, state):
        inner = dataclasses.replace(self.inner, solver=self.solver)
        found, state = inner.measure(context, state)
        matvecs = found[f"{self.measures[0]}_matvecs"]
        jax.debug.callback(
            lambda matvecs: CLOCK.spend(self.measures[0], LINEARIZATION_PRODUCTS + matvecs),
            matvecs,
        )
        return found, state


def loss(params, batch):
    inputs, targets = batch
    return 0.5 * jnp.sum((jnp.tanh(inputs @ params["w"]) - targets) ** 2, axis=-1)


@pytest.fixture(scope="module")
def problem():
    keys = jax.random.split(jax.random.key(0), 3)
    data = (jax.random.normal(keys[0], (20, 5)), jax.random.normal(keys[1], (20, 2)))
    return Objective(loss, data), {"w": 0.5 * jax.random.normal(keys[2], (5, 2))}


def edge(every=5, overhead=0.2, kind=PreconditionedSharpness, solver=None):
    solver = Tracking(value_rtol=0.01) if solver is None else solver
    inner = kind(every=every, solver=solver)
    return Costly(inner, solver, every, overhead)


def follow(problem, probes, steps=300, optimizer=None, lanes=None, **options):
    objective, params = problem
    optimizer = adam(1e-2) if optimizer is None else optimizer
    trajectory = Trajectory(objective, optimizer, {"tick": Tick()} | probes, lanes=lanes)
    carry = trajectory.init(params, jax.random.key(1))
    return trajectory, list(stream(trajectory, carry, steps, clock=CLOCK, chunk=50, **options))


def true_overhead(chunks, price, name="preconditioned_sharpness"):
    """The probe's seconds over those of the steps, counted from the rows."""
    seconds, steps = 0.0, 0
    for chunk in chunks:
        due = chunk.measured.get(name, np.zeros(len(chunk.steps), bool))
        if due.any():
            seconds += (
                price * (LINEARIZATION_PRODUCTS + chunk.measurements[f"{name}_matvecs"][due, 0])
            ).sum()
        steps += STEP * len(chunk.steps)
    return seconds / steps


@pytest.mark.parametrize("mode", ["scan", "host"])
def test_a_run_is_kept_to_its_budget(problem, clock, mode):
    clock.price, overhead = {"preconditioned_sharpness": 2.0}, 0.2
    trajectory, chunks = follow(problem, {"edge": edge()}, steps=400, mode=mode)
    assert clock.counted["step"] == 400  # nothing is taken twice
    late = chunks[3:]
    assert 0.6 * overhead < true_overhead(late, 2.0) < 1.2 * overhead
    for chunk in late:
        due = chunk.measured["preconditioned_sharpness"]
        numbers = {
            name: chunk.measurements[f"preconditioned_sharpness_{name}"][due]
            for name in ("period", "value_rtol", "overhead", "matvecs", "criterion")
        }
        assert (numbers["period"] > 5).all()
        np.testing.assert_allclose(numbers["value_rtol"], 0.03, rtol=1e-6)
        assert np.isfinite(numbers["overhead"]).all()
        assert np.isin(numbers["criterion"], (1, 2)).all()
        assert np.isfinite(chunk.measurements["ratio"][due]).all()
        assert (chunk.measured["ratio"] == due).all()
    budget = chunks[-1].carry.budgets["edge"]
    assert missed_budget(trajectory.probes["edge"], budget) is None
    # 2 is what a product takes, in steps; the clock's calls are not in it.
    assert float(np.nanmedian(budget.prices)) == pytest.approx(2.0, rel=1e-3)
    # The initial point is measured, as ever.
    assert chunks[0].measured["ratio"][0]


def test_where_it_is_cheap_nothing_changes(problem, clock):
    clock.price = {"preconditioned_sharpness": 1e-3}
    _, chunks = follow(problem, {"edge": edge()})
    for chunk in chunks:
        due = chunk.measured["ratio"]
        assert (chunk.measurements["preconditioned_sharpness_period"][due] == 5).all()
        tolerances = chunk.measurements["preconditioned_sharpness_value_rtol"][due]
        np.testing.assert_allclose(tolerances, 0.01, rtol=1e-6)
    # But for the steps that are timed without it.
    assert sum(chunk.measured["ratio"].sum() for chunk in chunks) >= 50


def test_a_noisy_clock_is_borne(problem, clock):
    clock.noise = 0.3
    _, chunks = follow(problem, {"edge": edge()}, steps=500)
    assert 0.1 < true_overhead(chunks[4:], 1.0) < 0.3


def test_the_training_does_not_depend_on_the_clock(problem, clock):
    # To the bit, since this probe does not linearize what the step trains on: no step takes its
    # gradient from another program. Those of the library do, and then it holds up to rounding.
    ends, rows = [], []
    for price in (1e-3, 20.0):
        clock.price = {"preconditioned_sharpness": price}
        _, chunks = follow(problem, {"edge": edge()}, steps=100)
        ends.append(chunks[-1].carry.lane.params["w"])
        rows.append([chunk.measured["ratio"] for chunk in chunks])
    np.testing.assert_array_equal(*ends)
    assert not np.array_equal(*rows)


@pytest.mark.parametrize("mode", ["scan", "host"])
def test_lanes_share_a_period(problem, clock, mode):
    sweep = stack_lanes([adam(1e-2), adam(3e-2)])
    _, chunks = follow(problem, {"edge": edge()}, steps=150, optimizer=sweep, lanes=2, mode=mode)
    for chunk in chunks:
        due = chunk.measured["ratio"]
        assert due.ndim == 1
        assert np.isfinite(chunk.measurements["ratio"][due]).all()
        assert chunk.measurements["preconditioned_sharpness_period"].shape == (50, 2)
    assert int(chunks[-1].carry.budgets["edge"].period) > 5
    # Side by side, or one after the other.
    assert clock.counted["step"] == (150 if mode == "scan" else 300)


def test_several_probes_have_budgets_of_their_own_beside_one_with_a_period(problem, clock):
    probes = {
        "edge": edge(overhead=0.3),
        "raw": edge(overhead=0.1, kind=Sharpness),
        "loss": LossAndGradient(every=7),
    }
    _, chunks = follow(problem, probes, steps=400)
    assert 0.18 < true_overhead(chunks[4:], 1.0) < 0.36
    assert 0.06 < true_overhead(chunks[4:], 1.0, "sharpness") < 0.12
    steps = np.concatenate([chunk.steps[chunk.measured["loss"]] for chunk in chunks])
    np.testing.assert_array_equal(steps, np.arange(0, 400, 7))


def test_a_solve_of_a_fixed_period_is_not_taken_for_the_probes(problem, clock):
    clock.price = {"sharpness": 5.0}
    fixed = edge(every=10, overhead=None, kind=Sharpness)
    _, chunks = follow(problem, {"edge": edge(), "raw": fixed}, steps=200)
    prices = np.asarray(chunks[-1].carry.budgets["edge"].prices)
    np.testing.assert_allclose(prices, 1.0, rtol=1e-3)
    steps = np.concatenate([chunk.steps[chunk.measured["sharpness"]] for chunk in chunks])
    np.testing.assert_array_equal(steps, np.arange(0, 200, 10))


@pytest.mark.parametrize("step", [STEP, 0.0])
def test_no_probe_waits_for_the_timing_of_others(problem, clock, step):
    # A clock that is too coarse tells no price, and timings go on.
    clock.scale = step
    probes = {"edge": edge(every=2, overhead=5.0), "raw": edge(2, 5.0, kind=Sharpness)}
    _, chunks = follow(problem, probes, steps=100, mode="host")
    for name in ("ratio", "sharpness"):
        steps = np.concatenate([chunk.steps[chunk.measured[name]] for chunk in chunks])
        assert steps[0] == 0
        # A timing takes 9 steps; then it is due, or two steps later.
        assert np.diff(steps).max() <= 11
    budgets = chunks[-1].carry.budgets
    known = [np.isfinite(budget.prices).sum() for budget in budgets.values()]
    assert min(known) >= 3 if step else max(known) == 0


def test_a_state_from_before_keeps_to_a_changed_probe(problem, clock):
    trajectory, chunks = follow(problem, {"edge": edge()}, steps=100)
    end, budget = chunks[-1].carry, chunks[-1].carry.budgets["edge"]
    assert 5 < int(budget.period) < 40
    assert float(budget.value_rtol) > 0.02
    probes = trajectory.probes | {"edge": edge(every=40, solver=Tracking(value_rtol=0.0))}
    changed = dataclasses.replace(trajectory, probes=probes)
    chunk = next(stream(changed, copy_tree(end), 50, clock=CLOCK, chunk=50))
    due = chunk.measured["ratio"]
    assert (chunk.measurements["preconditioned_sharpness_period"][due] == 40).all()
    assert (chunk.measurements["preconditioned_sharpness_value_rtol"][due] == 0).all()


@pytest.mark.parametrize("mode", ["scan", "host"])
@pytest.mark.parametrize("lanes", [None, 2])
def test_a_chunk_without_a_measurement_has_its_names(problem, clock, mode, lanes):
    optimizer = None if lanes is None else stack_lanes([adam(1e-2), adam(3e-2)])
    trajectory, [first] = follow(problem, {"edge": edge()}, 50, optimizer, lanes, mode=mode)
    budget = dataclasses.replace(first.carry.budgets["edge"], due=jnp.asarray(1000))
    carry = dataclasses.replace(first.carry, budgets={"edge": budget})
    chunk = next(stream(trajectory, carry, 50, clock=CLOCK, chunk=50, mode=mode))
    assert chunk.measurements.keys() == chunk.measured.keys() == first.measured.keys()
    assert not chunk.measured["ratio"].any()
    for name in ("ratio", "preconditioned_sharpness", "preconditioned_sharpness_matvecs"):
        rows, like = chunk.measurements[name], first.measurements[name]
        assert rows.shape == like.shape
        assert rows.dtype == like.dtype
        blank = np.isnan(rows) if rows.dtype.kind == "f" else rows == 0
        assert blank.all()


@pytest.mark.parametrize("kind", ["matvecs", "solves", "number"])
def test_a_probe_that_can_not_have_a_budget_is_refused(problem, kind):
    class Uncounted(Costly):
        @property
        def measures(self):
            return ("edge",) if kind == "matvecs" else ("edge", "edge_matvecs")

        @property
        def solves(self):
            return kind != "solves"

    share = "much" if kind == "number" else 0.2
    probe = Uncounted(Sharpness(), Lanczos(), 5, share)
    match = (
        "overhead is 'much'" if kind == "number" else r"Uncounted has overhead=0.2.*edge_matvecs"
    )
    with pytest.raises(ValueError, match=match):
        Trajectory(problem[0], adam(1e-2), {"edge": probe})


def test_a_resumed_run_goes_on_where_it_stood(problem, clock, tmp_path):
    trajectory, chunks = follow(problem, {"edge": edge()}, steps=200)
    end = chunks[-1].carry
    save_checkpoint(tmp_path, "main", 200, end)
    like = trajectory.init(problem[1], jax.random.key(1))
    loaded = load_checkpoint(tmp_path, "main", 200, like)
    budget = end.budgets["edge"]
    assert int(budget.period) > 5
    chunk = next(stream(trajectory, loaded, 50, clock=CLOCK, chunk=50))
    due = chunk.measured["ratio"]
    assert chunk.measurements["preconditioned_sharpness_period"][due][0] == int(budget.period)
    assert chunk.steps[due][0] == int(budget.due)
    # So does a branch.
    [(_, start)] = branch(trajectory, loaded, {"frozen": FreezePreconditioner()}).values()
    assert int(start.budgets["edge"].period) == int(budget.period)


def test_a_budget_may_begin_or_end_in_the_middle_of_a_run(problem, clock):
    probe = edge()
    trajectory, chunks = follow(problem, {"edge": probe}, steps=100)
    end = copy_tree(chunks[-1].carry)
    plain = dataclasses.replace(
        trajectory,
        probes=trajectory.probes | {"edge": dataclasses.replace(probe, overhead=None)},
    )
    [chunk] = stream(plain, end, 50, chunk=50)
    assert not chunk.carry.budgets
    assert chunk.steps[chunk.measured["ratio"]].tolist() == list(range(100, 150, 5))
    chunk = next(stream(trajectory, chunk.carry, 50, clock=CLOCK, chunk=50))
    assert chunk.steps[chunk.measured["ratio"]][0] == 150
    assert (chunk.measurements["preconditioned_sharpness_period"] >= 5).all()


def test_without_a_budget_there_is_no_leaf_and_no_column(problem):
    objective, params = problem
    trajectory = Trajectory(objective, adam(1e-2), {"edge": PreconditionedSharpness(every=5)})
    carry = trajectory.init(params, jax.random.key(1))
    assert jax.tree.structure(carry.budgets).num_leaves == 0
    [chunk] = stream(trajectory, carry, 10, chunk=10)
    assert sorted(chunk.measurements) == [
        "metric_at_top",
        "preconditioned_sharpness",
        "preconditioned_sharpness_converged",
        "preconditioned_sharpness_criterion",
        "preconditioned_sharpness_matvecs",
        "preconditioned_sharpness_residual",
        "ratio",
    ]


@pytest.mark.parametrize("mode", ["scan", "host"])
def test_adapting_compiles_nothing(problem, clock, caplog, mode):
    objective, params = problem
    trajectory = Trajectory(objective, adam(1e-2), {"tick": Tick(), "edge": edge()})
    carry = trajectory.init(params, jax.random.key(1))
    chunks = stream(trajectory, carry, 200, clock=CLOCK, chunk=50, mode=mode)
    next(chunks)
    with jax.log_compiles(True), caplog.at_level(logging.WARNING, "jax"):
        *_, last = chunks
    assert int(last.carry.budgets["edge"].period) > 5
    assert float(last.carry.budgets["edge"].value_rtol) == pytest.approx(0.03)
    names = [record.message for record in caplog.records if "Finished XLA" in record.message]
    assert not names


def test_on_a_mesh_it_compiles_nothing_either(problem, caplog):
    objective, params = problem
    placed = objective.place(Placement(make_mesh("data=2")))
    probe = PreconditionedSharpness(every=5, overhead=0.2)
    trajectory = Trajectory(placed, adam(1e-2), {"edge": probe})
    carry = trajectory.init(params, jax.random.key(1))
    ticks = itertools.count()
    chunks = stream(trajectory, carry, 150, clock=lambda: float(next(ticks) ** 2), chunk=50)
    next(chunks)
    with jax.log_compiles(True), caplog.at_level(logging.WARNING, "jax"):
        *_, last = chunks
    names = [record.message for record in caplog.records if "Finished XLA" in record.message]
    assert not names
    budget = last.carry.budgets["edge"]
    assert budget.period.sharding == last.carry.step.sharding
    assert (int(budget.period), float(budget.value_rtol)) != (5, pytest.approx(0.01))


def test_a_chunk_too_short_to_time_anything_says_so(problem, clock):
    objective, params = problem
    trajectory = Trajectory(objective, adam(1e-2), {"tick": Tick(), "edge": edge()})
    carry = trajectory.init(params, jax.random.key(1))
    *_, last = stream(trajectory, carry, 6, clock=CLOCK, chunk=1, mode="host")
    assert "not measured" in str(
        missed_budget(trajectory.probes["edge"], last.carry.budgets["edge"])
    )


def test_a_state_is_a_probes_own():
    budget = start_budget(edge(every=7, solver=Lanczos()))
    assert int(budget.period) == 7
    assert np.isnan(budget.value_rtol)
