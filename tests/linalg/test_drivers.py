"""The two drivers, the transformations, and what a compiled solve costs."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from aeoskit.linalg import RESULTS, Dense, Lanczos, eigensolve, extend, lane_by_lane, loop_mode

from .spectra import TRACES, N, TreeOperator, operator, spectra, symmetric

MATRIX = spectra()["clustered"]


@pytest.mark.parametrize("driver", ["compiled", "host", "auto"])
def test_no_retrace(driver):
    for i in range(3):
        matrix = jnp.asarray(MATRIX + 0.01 * i * np.eye(N), jnp.float32)
        solver = Lanczos(rtol=10.0 ** -(3 + i), atol=1e-9 * i)  # numbers are data too
        key = jax.random.key(i)
        solution = eigensolve(TreeOperator(matrix), solver, start=key, driver=driver)
        eigensolve(TreeOperator(matrix), solver, start=solution.state, driver=driver)
        if i == 0:
            before = len(TRACES)
    assert len(TRACES) == before


@pytest.mark.parametrize("solver", [Lanczos(rtol=1e-5), Dense()])
def test_host_driver_is_the_compiled_one(solver):
    op = operator(MATRIX, np.float32)
    a = eigensolve(op, solver, k=3, driver="compiled")
    b = eigensolve(op, solver, k=3, driver="host")
    # NumPy and XLA round differently.
    assert abs(int(a.stats["matvecs"]) - int(b.stats["matvecs"])) <= 2
    assert bool(a.result == b.result)
    np.testing.assert_allclose(a.values, b.values, rtol=1e-5)
    # The host driver donates its own buffers only.
    c = eigensolve(op, solver, k=3, start=b.state, driver="host")
    np.testing.assert_allclose(b.values, c.values, rtol=1e-4)
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(b.state.block))


@pytest.mark.parametrize(("devices", "one_by_one"), [(1, True), (4, False)])
def test_lanes_are_solved_one_by_one_on_a_cpu(devices, one_by_one, monkeypatch):
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    stack = jnp.asarray(np.stack([MATRIX, 2 * MATRIX]), jnp.float32)

    def values(matrix):
        # It closes over what has lanes, and numbers come back as arrays of no weak type.
        found, number = lane_by_lane(
            lambda: (eigensolve(operator(matrix, jnp.float32)).values, 1.0)
        )
        assert not number.weak_type
        return found, number

    both = jax.make_jaxpr(jax.vmap(values))(stack)
    assert any(eqn.primitive.name == "scan" for eqn in both.eqns) == one_by_one
    found, constant = jax.jit(jax.vmap(values))(stack)
    np.testing.assert_allclose(found[1], 2 * found[0], rtol=1e-3)
    np.testing.assert_array_equal(constant, 1)


def test_vmap_keeps_each_lane():
    stack = jnp.asarray(
        np.stack([MATRIX, symmetric(np.linspace(-5, 1, N) ** 3), np.full((N, N), np.nan)]),
        jnp.float32,
    )

    def solve(matrix):
        s = eigensolve(lx.MatrixLinearOperator(matrix, lx.symmetric_tag), k=2)
        return s.values, s.stats["matvecs"], s.converged, s.result == RESULTS.nonfinite

    values, matvecs, converged, nonfinite = jax.jit(jax.vmap(solve))(stack)
    for i in range(2):
        alone = eigensolve(operator(stack[i], np.float32), k=2)
        np.testing.assert_allclose(values[i], alone.values, rtol=1e-4)
        assert abs(int(matvecs[i]) / int(alone.stats["matvecs"]) - 1) <= 0.1
    assert converged[:2].all()
    assert not converged[2].any()
    assert nonfinite.tolist() == [False, False, True]
    assert int(matvecs[2]) == 1


def test_vmap_over_a_tolerance():
    op = operator(MATRIX, np.float32)

    def solve(rtol):
        solution = eigensolve(op, Lanczos(rtol=rtol))
        return solution.stats["matvecs"], solution.residuals[0] / solution.values[0]

    rtols = jnp.array([1e-1, 1e-3, 1e-5])
    matvecs, residuals = jax.jit(jax.vmap(solve))(rtols)
    assert matvecs[0] < matvecs[1] < matvecs[2]
    assert np.all(residuals <= rtols)


def test_memory_is_bounded():
    n, basis = 100_000, 20
    diagonal = jnp.linspace(0.0, 1.0, n)

    @jax.jit
    def solve(d):
        op = lx.FunctionLinearOperator(
            lambda v: d * v, jax.ShapeDtypeStruct((n,), jnp.float32), lx.symmetric_tag
        )
        solution = eigensolve(op, Lanczos(basis=basis))
        return solution.values, solution.state

    stats = solve.lower(diagonal).compile().memory_analysis()
    vectors = stats.temp_size_in_bytes / (4 * n)
    kept = basis // 2 + 1  # at a restart
    assert vectors <= basis + kept + 4, vectors


def test_loop_mode():
    image, kernel = jnp.ones((1, 1, 8, 8)), jnp.ones((1, 1, 3, 3))

    @jax.jit
    def convolve(x, w):
        return jax.lax.conv(x, w, (1, 1), "SAME")

    def deep(x, w):
        return jax.lax.scan(lambda c, _: (convolve(c, w), None), x, None, length=2)[0]

    assert loop_mode(convolve, image, kernel) == "host"
    assert loop_mode(deep, image, kernel) == "host"
    assert loop_mode(jax.grad(lambda x, w: jnp.sum(convolve(x, w))), image, kernel) == "host"
    assert loop_mode(lambda x: x @ x, jnp.ones((2, 2))) == "scan"


def test_questions_that_make_no_sense():
    op = operator(MATRIX, np.float32)
    plain = lx.MatrixLinearOperator(jnp.asarray(MATRIX, jnp.float32))
    with pytest.raises(ValueError, match="symmetric_tag"):
        eigensolve(plain)
    with pytest.raises(TypeError, match="AbstractLinearOperator"):
        eigensolve(jnp.eye(3))  # pyright: ignore
    with pytest.raises(ValueError, match="dimension"):
        eigensolve(op, k=N + 1)
    with pytest.raises(ValueError, match="dimension"):
        eigensolve(op, k=0)
    with pytest.raises((ValueError, TypeError), match="largest"):
        eigensolve(op, which="top")  # pyright: ignore
    with pytest.raises(ValueError, match="start"):
        eigensolve(op, start=jnp.ones(N + 1))
    with pytest.raises(ValueError, match="basis="):
        eigensolve(op, Lanczos(basis=5), k=6)
    with pytest.raises(ValueError, match="max_matvecs"):
        eigensolve(op, max_matvecs=0)
    with pytest.raises(ValueError, match="rtol"):
        Lanczos(rtol=-1.0)
    with pytest.raises(ValueError, match="host"):
        eqx.filter_jit(lambda o: eigensolve(o, throw=True).values)(op)


def test_a_direction_is_the_first_candidate_of_which_something_is_left():
    multiplied = np.diag([1.0, 1.0, 0.0, 0.0])
    relation = extend.Relation(multiplied, multiplied, np.ones(4, bool), np.int32(4), np.int32(2))
    gone, half, other = np.eye(4)[1], np.array([0.0, 1.0, 2.0, 0.0]), np.eye(4)[3]
    for xp in (np.asarray, jnp.asarray):
        seen = jax.tree.map(xp, relation)
        x, which = extend.first_direction(seen, xp(gone), xp(half), xp(other))
        np.testing.assert_allclose(x, [0, 0, 1, 0], atol=1e-6)
        assert int(which) == 1
        x, which = extend.first_direction(seen, xp(gone), xp(0 * other))
        assert not x.any()
        assert int(which) == -1
