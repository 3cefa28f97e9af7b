"""Starts of a solve: every solver from every other one's state, and what is refused."""

import itertools

import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

import aeoskit as ak
from aeoskit import linalg
from aeoskit.linalg import eigensolve

from .spectra import operator, symmetric

N, K = 24, 2
SOLVERS = ("Lanczos", "LOBPCG", "JacobiDavidson", "Tracking", "Arnoldi", "Dense")


def of(values):
    return operator(symmetric(values), np.float32)


VALUES = np.concatenate([np.linspace(1, 10, N - 3), [14.0, 18.0, 20.0]])
# The third overtakes: the state of a solve lacks what is now on top.
OVERTAKEN = np.concatenate([np.linspace(1, 10, N - 3), [30.0, 18.0, 20.0]])


def solve(name, values=VALUES, start=None):
    which = "largest_real" if name == "Arnoldi" else "largest"
    return eigensolve(of(values), getattr(linalg, name)(), k=K, which=which, start=start)


@pytest.fixture(scope="module")
def cold():
    return {name: solve(name) for name in SOLVERS}


@pytest.mark.parametrize(("one", "other"), list(itertools.product(SOLVERS, SOLVERS)))
@pytest.mark.part(12)
def test_one_solver_from_the_state_of_another(cold, one, other):
    found = solve(other, start=cold[one].state)
    np.testing.assert_allclose(found.values.real, [20, 18], rtol=1e-3)
    assert bool(found.converged.all())
    assert int(found.stats["matvecs"]) <= max(N, int(cold[other].stats["matvecs"]))
    if one == other:
        return  # what its own state lacks is a matter of each solver's own tests
    found = solve(other, OVERTAKEN, cold[one].state)
    wrong = np.abs(found.values.real - np.array([30, 20])) > 0.1
    assert not np.any(found.is_top & wrong)


@pytest.mark.parametrize(("one", "other"), list(itertools.product(SOLVERS, SOLVERS)))
@pytest.mark.part(12)
def test_a_blank_state_is_a_cold_start_to_every_solver(cold, one, other):
    blank = getattr(linalg, one)().initial_state(jnp.zeros(N), K)
    found, expected = solve(other, start=blank), cold[other]
    np.testing.assert_array_equal(found.values, expected.values)
    assert int(found.stats["matvecs"]) == int(expected.stats["matvecs"])
    assert bool(found.is_top.all())
    assert bool(found.evidence == expected.evidence)


def test_the_block_of_a_state_is_a_start(cold):
    tree = ak.Objective(lambda w, x: w["a"] ** 2 + (x @ w["b"]) ** 2, jnp.eye(3))
    params = {"a": jnp.ones(()), "b": jnp.ones(3)}
    state = ak.sharpness(tree, params).state
    found = ak.sharpness(tree, params, k=2, start=state.block)  # as the refusal of a `k` says
    assert bool(found.converged.all())


@pytest.mark.parametrize(
    ("start", "says"),
    [
        ("solution", "got a whole EigenSolution, .* pass its `.state`"),
        ("edge", "got a whole PreconditionedSharpnessSolution, .* pass its `.solution.state`"),
        ("solver", "got Lanczos for an operator on float32"),
        ("shape", r"got \['w'\] float32\[4\] for an operator on float32\[2\]"),
        ("many", r"got \[0\] int, \[1\] int, \[2\] int and 97 more leaves for"),
        ("seed", "got int for"),
    ],
)
def test_starts_of_another_type_are_refused_in_few_words(start, says):
    objective = ak.Objective(lambda w, x: 0.5 * (x @ w - 1.0) ** 2, jnp.eye(2))
    params, optimizer = jnp.zeros(2), ak.gradient_descent(1.0)
    edge = ak.preconditioned_sharpness(objective, params, optimizer, optimizer.init(params))
    given = {
        "solution": edge.solution,
        "edge": edge,
        "solver": linalg.Lanczos(),
        "shape": {"w": jnp.ones(4)},
        "many": [1] * 100,
        "seed": 0,
    }[start]
    with pytest.raises(ValueError, match=says) as refused:
        ak.sharpness(objective, params, start=given)
    assert len(str(refused.value)) < 320


def test_a_state_of_another_structure_says_which():
    state = eigensolve(lx.DiagonalLinearOperator(jnp.arange(5.0))).state
    with pytest.raises(ValueError, match=r"blocks \[0\] float32\[3,5\], and this one is on float"):
        eigensolve(of(VALUES), start=state)
