"""Training on a mesh is the training on one device: single runs, minibatches, and sweeps."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import aeoskit as ak
from aeoskit.sharding import Placement, make_mesh

_spec = importlib.util.spec_from_file_location(
    "sharding_everything", Path(__file__).parent / "everything.py"
)
cases = sys.modules[_spec.name] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cases)

STEPS = 20


def train(objective, optimizer, probes, mode="scan", **options):
    trajectory = ak.Trajectory(objective, optimizer, probes, **options)
    carry = trajectory.init(cases.make_params(), jax.random.key(1))
    chunks = list(ak.stream(trajectory, carry, STEPS, chunk=16, mode=mode))
    measured = [c.measurements for c in chunks]
    rows = {n: np.concatenate([m[n] for m in measured if n in m]) for n in measured[0]}
    return rows, chunks[-1].carry


def assert_same(one, other):
    rows, carry = one
    found, placed = other
    assert set(rows) == set(found)
    for name, values in rows.items():
        if not name.endswith(("residual", "realized_edge_error")):
            np.testing.assert_allclose(found[name], values, rtol=1e-8, err_msg=name)
    cases.same(carry.lane.params, placed.lane.params)
    cases.same(carry.lane.optimizer_state, placed.lane.optimizer_state)


RUNS = {
    "adam": (ak.adam(1e-2), {}, ("data=4", {}), "scan"),
    "rmsprop": (ak.rmsprop(1e-2), {}, ("data=2,model=2", {"params": "sharded"}), "host"),
    "minibatches": (
        ak.adam(1e-2),
        {"batch": 5, "sampling": "replacement"},
        ("data=2", {"params": "sharded"}),
        "scan",
    ),
}


@pytest.mark.parametrize("name", list(RUNS))
@pytest.mark.part(2)
def test_a_run(x64, name):
    optimizer, options, (spec, how), mode = RUNS[name]
    objective = cases.make_case("per_example", 11).objective
    placed = objective.place(Placement(make_mesh(spec), **how))

    def probes(of):
        some = of.on_batch(jnp.array([1, 4, 9]))
        return {
            "loss": ak.LossAndGradient(),
            "realized": ak.RealizedEdge(metric_every=2),
            "some": ak.Evaluation(objectives={"some": some}, every=4),
        }

    assert_same(
        train(objective, optimizer, probes(objective), mode, **options),
        train(placed, optimizer, probes(placed), mode, **options),
    )


def test_a_sweep_over_devices_with_split_data(x64):
    """Three lanes on two devices: a fourth runs beside them, and no one sees it."""
    optimizer = ak.stack_lanes([ak.gradient_descent(lr) for lr in (1e-2, 3e-2, 1e-1)])
    objective = cases.make_case("per_example", 11).objective
    placement = Placement(make_mesh("data=2,sweep=2"))
    probes = {"loss": ak.LossAndGradient(), "realized": ak.RealizedEdge()}
    one = train(objective, optimizer, probes, lanes=3)
    probes |= {"edge": ak.Sharpness(every=STEPS, solver=ak.Tracking(rtol=1e-6))}
    rows, carry = train(objective.place(placement), optimizer, probes, lanes=3)
    assert rows["loss"].shape == (STEPS, 3)
    top = np.linalg.eigvalsh(objective.hessian(cases.make_params()).as_matrix())[-1]
    np.testing.assert_allclose(rows["sharpness"][0], np.full((3, 1), top), rtol=1e-9)
    assert_same(one, ({name: rows[name] for name in one[0]}, carry))


def test_an_even_sweep_stays_spread():
    optimizer = ak.stack_lanes([ak.adam(lr) for lr in (1e-2, 3e-2, 5e-2, 1e-1)])
    objective = cases.make_case("per_example", 11).objective.place(make_mesh("sweep=4"))
    trajectory = ak.Trajectory(objective, optimizer, {"loss": ak.LossAndGradient()}, lanes=4)
    carry = trajectory.init(cases.make_params(), jax.random.key(1))
    assert carry.lane.params["in"].sharding.spec == P("sweep")
    chunk = next(ak.stream(trajectory, carry, 3))
    assert chunk.carry.lane.params["in"].sharding.spec == P("sweep")
    assert chunk.diverged_at.tolist() == [-1] * 4


def test_branches_of_a_placed_run():
    objective = cases.make_case("per_example", 11).objective.place(make_mesh("data=2,sweep=2"))
    optimizer = ak.stack_lanes([ak.adam(lr) for lr in (1e-2, 3e-2, 5e-2)])
    trajectory = ak.Trajectory(objective, optimizer, {}, lanes=3)
    carry = trajectory.init(cases.make_params(), jax.random.key(1))
    ways = {"frozen": ak.FreezePreconditioner(), "other": ak.SwitchOptimizer(ak.momentum(1e-2))}
    for way, start in ak.branch(trajectory, carry, ways).values():
        chunk = next(ak.stream(way, start, 2))
        assert np.isfinite(np.asarray(chunk.carry.lane.params["in"])).all()
