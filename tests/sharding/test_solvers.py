"""Every solver, estimate and probe on a mesh gives what it gives on one device."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest
from jax.sharding import PartitionSpec as P

import aeoskit as ak
from aeoskit.linalg import (
    LOBPCG,
    Arnoldi,
    DeflatedOperator,
    Dense,
    JacobiDavidson,
    RestrictedOperator,
    ShiftedOperator,
    Tracking,
    diagonal,
    eigensolve,
    spectral_density,
    tree_norm,
    vector_structure,
)
from aeoskit.sharding import Placement, make_mesh

_spec = importlib.util.spec_from_file_location(
    "sharding_everything", Path(__file__).parent / "everything.py"
)
cases = sys.modules[_spec.name] = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(cases)

MESHES = {
    "replicated": ("data=4", {}),
    "sharded": ("data=2,model=2", {"params": "sharded"}),
}
SOLVERS = {
    "lanczos": ak.Lanczos(rtol=1e-9),
    "block": ak.Lanczos(rtol=1e-9, block=2),
    "lobpcg": LOBPCG(rtol=1e-8),
    "arnoldi": Arnoldi(rtol=1e-9),
    "tracking": Tracking(rtol=1e-9),
    "davidson": JacobiDavidson(shift=0.1, rtol=1e-8),
    "dense": Dense(),
}


def place(name: str, case):
    spec, options = MESHES[name]
    placement = Placement(make_mesh(spec), **options)
    return case.objective.place(placement), placement.put_params(case.params), placement


# Which mesh a solver is tried on: each costs seconds to compile.
PAIRS = [(name, list(MESHES)[i % 2]) for i, name in enumerate(SOLVERS)]
WHICH = {"davidson": "nearest", "arnoldi": "largest_real"}


@pytest.fixture(scope="module")
def spectrum():
    with jax.enable_x64(True):
        case = cases.make_case("per_example", 11)
        return np.linalg.eigvalsh(case.objective.hessian(case.params).as_matrix())


@pytest.mark.parametrize(("name", "mesh"), PAIRS)
@pytest.mark.part(3)
def test_every_solver(x64, spectrum, name, mesh):
    objective, params, placement = place(mesh, cases.make_case("per_example", 11))
    which = WHICH.get(name, "largest")
    solution = eigensolve(objective.hessian(params), SOLVERS[name], which=which)
    assert bool(solution.converged[0])
    aim = spectrum[np.argmin(np.abs(spectrum - 0.1))] if which == "nearest" else spectrum[-1]
    # Values of a symmetric operator err as the square of their residuals.
    np.testing.assert_allclose(solution.values[0].real, aim, rtol=0, atol=1e-10 * spectrum[-1])
    if name != "dense":
        block = solution.state.block["in"]
        assert block.sharding.spec == P(None, *placement.basis_spec(params["in"].shape))


def metric_of(objective, params):
    optimizer = ak.adam(1e-2, eps=1e-3)
    return optimizer.preconditioner(optimizer.init(params), objective.gradient(params))


@eqx.filter_jit
def estimates(objective, params, vector):
    """What else an operator is good for, in one program."""
    operator = ak.linalg.PreconditionedOperator(
        objective.hessian(params), metric_of(objective, params)
    )
    key = jax.random.key(2)
    part = RestrictedOperator(operator, "out")
    other = jax.tree.map(jnp.sin, vector)
    deflated = DeflatedOperator(operator, jax.tree.map(lambda x: x[None] / tree_norm(other), other))
    return {
        "diagonal": diagonal(operator, key=key, max_matvecs=3).value,
        "density": spectral_density(operator, key=key, probes=1, steps=4).nodes,
        "shifted": ShiftedOperator(operator, 0.5).mv(vector),
        "sum": (operator + 2.0 * lx.IdentityLinearOperator(operator.in_structure())).mv(vector),
        "part": part.mv(part.restrict(vector)),
        "deflated": deflated.mv(vector),
    }


def test_estimates_and_composed_operators(x64):
    case = cases.make_case("per_example", 11)
    objective, params, _ = place("sharded", case)
    cases.same(
        estimates(case.objective, case.params, case.vector),
        estimates(objective, params, case.vector),
    )


def test_operators_pass_on_the_sharding_of_their_vectors():
    case = cases.make_case("per_example", 11)
    objective, params, placement = place("replicated", case)
    operator = objective.hessian(params)
    wanted = placement.basis_structure(params)
    identity = lx.IdentityLinearOperator(operator.in_structure())
    for composed in (
        operator,
        ak.linalg.PreconditionedOperator(operator, metric_of(objective, params)),
        ShiftedOperator(operator, 1.0),
        lx.TaggedLinearOperator(operator, lx.symmetric_tag),
        identity + operator,
        2.0 * operator,
        lx.linearise(operator),
    ):
        assert vector_structure(composed) == wanted
        assert composed.in_structure() == identity.in_structure()
    part = vector_structure(RestrictedOperator(operator, "out"))
    assert part == {"in": None, "bias": None, "out": wanted["out"]}
    assert vector_structure(case.objective.hessian(params)) == identity.in_structure()


def test_derivatives_of_an_eigenvector(x64):
    """By a linear solve of lineax, which compares the structures of vectors."""
    case = cases.make_case("per_example", 11)
    objective, params, _ = place("replicated", case)

    def slope(pair, params):
        def one(s):
            value, entry = pair(jax.tree.map(lambda p: s * p, params))
            return value + entry**2

        return jax.jit(lambda s: jax.jvp(one, (s,), (1.0,)))(1.0)

    def solved(moved):
        solution = eigensolve(objective.hessian(moved), ak.Lanczos(rtol=1e-11))
        return solution.values[0], solution.vectors["out"][0, 0, 0]

    def dense(moved):
        values, vectors = jnp.linalg.eigh(case.objective.hessian(moved).as_matrix())
        return values[-1], vectors[sum(moved[n].size for n in ("bias", "in")), -1]

    np.testing.assert_allclose(slope(solved, params), slope(dense, case.params), rtol=1e-7)


def test_every_probe(x64, spectrum):
    """Of gradient descent all are known from the top eigenvalue (`Sharpness`: in a sweep)."""
    case, lr = cases.make_case("per_example", 11), 0.01
    objective, params, _ = place("sharded", case)
    solver = Tracking(rtol=1e-6)
    probes = {
        "loss": ak.LossAndGradient(),
        "edge": ak.PreconditionedSharpness(solver=solver),
        "threshold": ak.StabilityThreshold(),
        "flip": ak.FlipMultiplier(),
    }
    trajectory = ak.Trajectory(objective, ak.gradient_descent(lr), probes)
    chunk = next(ak.stream(trajectory, trajectory.init(params, jax.random.key(0)), 1))
    top, found = spectrum[-1], {n: v.ravel()[0] for n, v in chunk.measurements.items()}
    known = {
        "loss": case.objective.value(case.params),
        "preconditioned_sharpness": top,
        "threshold": 2 / lr,
        "ratio": top * lr / 2,
        "multiplier": 1 - lr * top,
    }
    for name, value in known.items():
        np.testing.assert_allclose(found[name].real, value, rtol=1e-5, err_msg=name)
