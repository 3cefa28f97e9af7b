"""What compiled programs send between devices: single vectors, once a product, never a basis."""

from __future__ import annotations

import importlib.util
import sys
from collections import defaultdict
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import pytest

import aeoskit as ak
from aeoskit.linalg import eigensolve
from aeoskit.sharding import Placement, collectives, make_mesh

_spec = importlib.util.spec_from_file_location(
    "sharding_everything", Path(__file__).parent / "everything.py"
)
cases = sys.modules[_spec.name] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cases)

# A block of dot products is smaller.
SMALL = 200


def shapes(width: int):
    """Parameters of which every leaf divides by four devices, and is larger than `SMALL`."""
    return {
        "in": jax.ShapeDtypeStruct((cases.FEATURES, width), jnp.float32),
        "bias": jax.ShapeDtypeStruct((width,), jnp.float32),
        "out": jax.ShapeDtypeStruct((width, cases.CLASSES), jnp.float32),
    }


WIDTH = 64
VECTOR = 4 * sum(x.size for x in jax.tree.leaves(shapes(WIDTH)))


def place(options, microbatch: int | None = None):
    case = cases.make_case("per_example", 11, microbatch)
    placement = Placement(make_mesh("data=4"), **options)
    return case.objective.place(placement), placement.put_params(shapes(WIDTH))


def sent(function, *args, in_loop: bool | None = None) -> dict[str, int]:
    """The bytes of each kind of collective, dot products left out."""
    text = jax.jit(function).lower(*args).compile().as_text()
    total: dict[str, int] = defaultdict(int)
    for kind, count, size, loop in collectives(text):
        if size > SMALL and in_loop in (None, loop):
            total[kind] += size * count
    return dict(total)


@pytest.mark.parametrize(("check_vma", "microbatch"), [(False, 1), (True, None)])
def test_a_product_has_one_reduction(check_vma, microbatch):
    options = {"basis": "params", "check_vma": check_vma}
    objective, params = place(options, microbatch)

    def product(objective, params, vector):
        return objective.hessian(params).mv(vector)

    text = jax.jit(product).lower(objective, params, params).compile().as_text()
    # The weight of the data travels with the vector.
    assert collectives(text) == [("all-reduce", 1, VECTOR + 4, False)]


@pytest.mark.parametrize("params_are", ["replicated", "sharded"])
def test_a_solve_gathers_and_scatters_single_vectors(params_are):
    """Of a spread basis: for each product one vector, however many the basis holds."""
    objective, params = place({"params": params_are})

    def solve(objective, params):
        operator = lx.linearise(objective.hessian(params))
        solution = eigensolve(operator, ak.Lanczos(basis=12), k=2)
        return solution.values, solution.state

    once = {"all-gather": VECTOR, "reduce-scatter": VECTOR}
    assert sent(solve, objective, params, in_loop=True) == once
    # Where the parameters are sharded they are gathered once, for the linearization, whose
    # gradient is summed in any case: is it finite?
    outside = sent(solve, objective, params, in_loop=False)
    gathered = {} if params_are == "replicated" else {"all-gather": VECTOR}
    assert outside == gathered | {"reduce-scatter": VECTOR}


def test_memory_of_a_basis_falls_with_the_devices():
    """Compiled, not run: of a long basis a device holds its share."""
    placement = Placement(make_mesh("data=4"))
    objective = cases.make_case("per_example", 8).objective.place(placement)
    params = placement.put_params(shapes(4096))

    def solve(objective, params):
        return eigensolve(objective.hessian(params), ak.Lanczos(basis=80)).values

    compiled = jax.jit(solve).lower(objective, params).compile()
    basis = 80 * 4 * sum(x.size for x in jax.tree.leaves(params))
    # A restart holds half of the basis again; some vectors are whole.
    assert compiled.memory_analysis().temp_size_in_bytes < 0.6 * basis


def test_chunks_share_one_program():
    """Carries come out of a chunk as they went in: nothing is traced or compiled twice."""
    traces = []

    def loss(params, batch):
        traces.append(1)
        x, y = batch
        return jnp.sum((cases.model(params, x) - y) ** 2, -1)

    placement = Placement(make_mesh("data=4"), params="sharded")
    objective = ak.Objective(loss, cases.make_data(11), placement=placement)
    trajectory = ak.Trajectory(objective, ak.adam(1e-2), {"loss": ak.LossAndGradient()})
    carry = trajectory.init(cases.make_params(), jax.random.key(0))
    counts, shardings = [], []
    for chunk in ak.stream(trajectory, carry, 48, chunk=16, mode="scan"):
        counts.append(len(traces))
        arrays = eqx.filter(chunk.carry, eqx.is_array)
        shardings.append([x.sharding for x in jax.tree.leaves(arrays)])
    assert counts[0] == counts[-1]
    assert shardings[0] == shardings[-1]
    weights = chunk.carry.lane.params["in"]
    assert weights.sharding.spec == placement.params_spec(weights.shape)
