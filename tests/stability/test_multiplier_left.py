"""Left eigenvectors of update maps, and warm starts from step to step, against dense float64."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from aeoskit.linalg import EVIDENCE, RESULTS, Arnoldi, EigenSolution
from aeoskit.stability import flip_multiplier
from aeoskit.stability._left import left_conditions, left_start, right_start, solve_left
from aeoskit.stability._multiplier import _analyze
from aeoskit.stability._update_map import HeldMap, MapJacobian

# Input 0 is dead; so is all of the leaf "unused", whose second moments are zero without exception.
DATA = (
    np.random.default_rng(0).normal(size=(12, 5)) * np.array([0, 1, 1, 1, 1]),
    np.random.default_rng(1).normal(size=12),
)
TX = optax.nadam(0.05, b2=0.9)


def _start():
    rng = np.random.default_rng(2)
    shapes = {"w": (5, 4), "out": (4,), "unused": (3,)}
    return {k: jnp.asarray(rng.normal(size=s) / 2) for k, s in shapes.items()}


def _loss(params, data):
    inputs, targets = data
    output = jnp.tanh(inputs @ params["w"]) @ params["out"] + 0 * jnp.sum(params["unused"])
    return 0.5 * jnp.mean((output - targets) ** 2)


def _step(params, state, data):
    updates, state = TX.update(jax.grad(_loss)(params, data), state, params)
    return optax.apply_updates(params, updates), state


@eqx.filter_jit
def _dense(operator: MapJacobian):
    """The scaled Jacobian, and whether its linearization has finite coefficients only."""
    _, linear = jax.linearize(operator.map, operator.map.point)
    finite = [jnp.all(jnp.isfinite(x)) for x in jax.tree.leaves(linear)]
    return operator.as_matrix(), jnp.all(jnp.stack(finite))


def test_condition_is_that_of_the_dense_matrix_and_bound_covers_the_error(x64: None):
    """With a dead input and a dead leaf: a transposed product as it is would be NaN."""
    params = _start()
    point = params, TX.init(params)
    run = jax.jit(_step)
    for _ in range(40):
        point = run(*point, DATA)
    seen = _analyze(HeldMap(_step, point[0], point[1], (DATA,)), None)
    matrix, finite = _dense(MapJacobian(seen.map, seen.scale, seen.alive))
    assert not finite
    values, right = np.linalg.eig(np.asarray(matrix))
    best = np.argmin(np.real(values))
    condition = np.linalg.norm(np.linalg.inv(right)[best]) * np.linalg.norm(right[:, best])

    # A coarse solve, so that its error is no rounding.
    solver = Arnoldi(rtol=3e-3, atol=3e-3, basis=40)
    found = flip_multiplier(_step, point, args=(DATA,), solver=solver)
    assert int(found.dead) == 7
    assert bool(found.left_found)
    error = min(abs(complex(found.value) - v) for v in (values[best], values[best].conj()))
    assert 1e-6 < error <= float(found.bound)
    np.testing.assert_allclose(float(found.condition), condition, rtol=0.02)
    assert abs(found.left_value - found.value) < 0.05

    cheap = flip_multiplier(_step, point, args=(DATA,), solver=solver, condition="search_space")
    assert cheap.value == found.value
    assert not bool(cheap.left_found)
    assert int(cheap.vjps) == 0
    assert float(cheap.condition) < 0.9 * condition

    # D differs from step to step, so that a state is in the users' coordinates.
    other = eqx.tree_at(lambda s: s.scale, seen, tuple(4 * d for d in seen.scale))
    for begin, factor in ((right_start, 4.0), (lambda s, p: left_start(s, p, None), 0.25)):
        here, there = begin(found.state, seen).block, begin(found.state, other).block
        for x, y in zip(here, there, strict=True):
            np.testing.assert_allclose(x, factor * y)


def _solution(values, rows) -> EigenSolution:
    """A solution with these vectors, of a tuple of two leaves."""
    rows = rows / np.linalg.norm(rows, axis=1, keepdims=True)
    k = len(values)
    return EigenSolution(
        values=jnp.asarray(values, complex),
        vectors=(jnp.asarray(rows[:, :4], complex).reshape(k, 2, 2), jnp.asarray(rows[:, 4:] + 0j)),
        residuals=jnp.zeros(k),
        bounds=jnp.zeros(k),
        estimates=jnp.zeros(k),
        converged=jnp.ones(k, bool),
        is_top=jnp.ones(k, bool),
        evidence=EVIDENCE.random_start,
        result=RESULTS.successful,
        stats={},
        state=None,
    )


def test_conditions_of_several_values(x64: None):
    """Distinct ones in another order, copies of one value, and one that was not found."""
    rng = np.random.default_rng(4)
    skew = np.eye(6) + np.triu(rng.normal(size=(6, 6)), 1)
    inverse = np.linalg.inv(skew)
    conditions = np.linalg.norm(inverse, axis=1) * np.linalg.norm(skew, axis=0)
    yes = jnp.asarray(True)
    right = _solution([-1.4, 1.2, 0.8], skew.T[:3])
    looked = left_conditions(right, _solution([1.2, -1.4, 0.8], inverse[[1, 0, 2]]), yes)
    assert np.asarray(looked.found).all()
    np.testing.assert_allclose(looked.condition, conditions[:3])
    # Any basis of the left space of a double value serves.
    mixed = np.array([[1, 2, 0], [-1, 1, 0], [0, 0, 1]]) @ inverse[:3]
    twice = [1.0, 1.0, 0.8]
    looked = left_conditions(_solution(twice, skew.T[:3]), _solution(twice, mixed), yes)
    np.testing.assert_allclose(looked.condition, conditions[:3])
    looked = left_conditions(right, _solution([-1.4, 1.2, 0.5], inverse[:3]), yes)
    assert looked.found.tolist() == [True, True, False]
    assert not left_conditions(right, right, jnp.asarray(False)).found.any()


def test_a_map_without_a_derivative_in_reverse_has_no_left_solution():
    def update_map(params, state):
        return jax.lax.while_loop(lambda x: x[0] > 1, lambda x: 0.5 * x, params), state

    seen = _analyze(HeldMap(update_map, jnp.full(2, 3.0), ()), None)
    operator = MapJacobian(seen.map, seen.scale, seen.alive)
    options = dict(k=1, which="smallest_real", max_matvecs=None, driver="auto")
    right = _solution([0.25], np.eye(6)[:1])
    right = eqx.tree_at(lambda s: s.vectors, right, (jnp.ones((1, 2), complex),))
    assert solve_left(operator, seen, right, None, Arnoldi(), options) == (None, None)
    with pytest.raises(ValueError, match="choose left or search_space"):
        flip_multiplier(update_map, (jnp.ones(2), ()), condition="right")
