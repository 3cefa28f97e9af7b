"""Derivatives through `eigensolve`, against dense decompositions and finite differences."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from aeoskit import Objective, sharpness
from aeoskit.linalg import (
    Dense,
    DiagonalPreconditioner,
    Lanczos,
    PreconditionedOperator,
    eigensolve,
)

from .spectra import TRACES, TreeOperator, symmetric

N = 10
SPECTRUM = np.array([5.0, 4.2, 3.1, 2.0, 1.0, 0.5, -0.5, -1.5, -2.5, -4.6])
AT, ALONG = np.array([0.1, 0.2, -0.3]), np.array([1.0, -2.0, 0.5])


def family(spectrum=SPECTRUM):
    """A symmetric matrix that depends on three numbers, not linearly."""
    parts = [jnp.asarray(symmetric(spectrum))]
    parts += [jnp.asarray(symmetric(np.linspace(-1, 1, N), seed)) for seed in (1, 2)]

    def matrix(t):
        return parts[0] + t[0] * parts[1] + jnp.sin(t[1]) * parts[2] + t[0] * t[2] * parts[2]

    return matrix


def solve(matrix, k=1, which="largest"):
    op = lx.MatrixLinearOperator(matrix, lx.symmetric_tag)
    return eigensolve(op, Dense(), k=k, which=which)


def dense_pairs(matrix, k, which):
    values, vectors = jnp.linalg.eigh(matrix)
    order = {
        "largest": np.arange(N)[::-1][:k],
        "smallest": np.arange(k),
        "both": np.r_[np.arange(N)[::-1][: (k + 1) // 2], np.arange(k // 2)],
        "largest_magnitude": jnp.argsort(-jnp.abs(values))[:k],
    }[which]
    return values[order], vectors[:, order].T


def number(values, vectors):
    """One that does not depend on the signs of the vectors, and on each pair in its own way."""
    weights = np.random.default_rng(0).normal(size=(N, N))
    forms = jnp.einsum("ki,ij,kj->k", vectors, weights, vectors)
    scales = np.arange(1.0, 1 + len(values))
    return jnp.sum(scales * (forms + jnp.sin(values)))


@pytest.mark.parametrize("which", ["largest", "smallest", "both", "largest_magnitude"])
def test_values_and_vectors_against_dense(x64, which):
    matrix = family()

    def ours(t):
        s = solve(matrix(t), 3, which)
        return number(s.values, s.vectors)

    want = jax.grad(lambda t: number(*dense_pairs(matrix(t), 3, which)))(AT)
    np.testing.assert_allclose(jax.jit(jax.grad(ours))(AT), want, rtol=1e-7)


def test_modes_agree_and_the_hessian_is_right(x64):
    matrix = family()

    def top(t):
        return solve(matrix(t)).values[0]

    def truth(t):
        return jnp.linalg.eigvalsh(matrix(t))[-1]

    gradient = jax.grad(top)(AT)  # eager
    np.testing.assert_allclose(gradient, jax.grad(truth)(AT), rtol=1e-9)
    value, slope = jax.jvp(top, (AT,), (ALONG,))
    np.testing.assert_allclose(value, truth(AT), rtol=1e-12)
    np.testing.assert_allclose(slope, gradient @ ALONG, rtol=1e-9)
    want = jax.hessian(truth)(AT)
    np.testing.assert_allclose(jax.jit(jax.hessian(top))(AT), want, rtol=1e-7)
    again = jax.jit(jax.grad(lambda t: jax.grad(top)(t) @ ALONG))
    np.testing.assert_allclose(again(AT), want @ ALONG, rtol=1e-7)


def test_a_group_moves_as_one(x64):
    """Of a double eigenvalue the mean has a derivative, and the space of both has one."""
    double = SPECTRUM.copy()
    double[1] = double[0]
    matrix = family(double)
    zero = np.zeros(3)

    def ours(t):
        s = solve(matrix(t), 3)
        return s.values, s.vectors.T @ s.vectors

    along = jax.jit(lambda t: jax.jvp(ours, (zero,), (t,))[1])(ALONG)
    step = 1e-5
    ends = [np.linalg.eigh(matrix(s * step * ALONG)) for s in (1, -1)]
    (upper, up), (lower, down) = [(v[::-1][:3], w[:, ::-1][:, :3]) for v, w in ends]
    slopes = (upper - lower) / (2 * step)
    np.testing.assert_allclose(along[0][0], along[0][1], atol=1e-12)
    np.testing.assert_allclose(along[0][0] + along[0][1], slopes[0] + slopes[1], rtol=1e-6)
    np.testing.assert_allclose(along[0][2], slopes[2], rtol=1e-6)
    np.testing.assert_allclose(along[1], (up @ up.T - down @ down.T) / (2 * step), atol=1e-6)


class Keyed(lx.AbstractLinearOperator):
    """Leaves that have no derivative next to one that has: a key, counts, a flag, a name."""

    diagonal: jax.Array
    key: jax.Array
    counts: jax.Array
    name: str = eqx.field(static=True)

    def mv(self, vector):
        return self.diagonal * vector + 0 * jax.random.normal(self.key) * self.counts[0] * vector

    def as_matrix(self):
        return jnp.diag(self.diagonal)

    def transpose(self):
        return self

    def in_structure(self):
        return jax.ShapeDtypeStruct(self.diagonal.shape, self.diagonal.dtype)

    def out_structure(self):
        return self.in_structure()


lx.linearise.register(Keyed, lambda operator: operator)
lx.is_symmetric.register(Keyed, lambda operator: True)


def test_scan_of_a_warm_start_with_leaves_that_have_no_derivative():
    """And `vmap` over it: the state that is carried has no tangent."""
    solver, counts = Dense(rtol=1e-5), jnp.arange(2)

    def mean(diagonal):
        def body(state, factor):
            op = Keyed(factor * diagonal**2, jax.random.key(0), counts, "keyed")
            s = eigensolve(op, solver, start=state)
            return s.state, s.values[0] + jnp.sum(s.vectors[0] ** 4)

        state = solver.initial_state(diagonal, 1)
        return jnp.sum(jax.lax.scan(body, state, jnp.array([1.0, 2.0]))[1])

    diagonals = jnp.array([[1.0, 3.0, 2.0], [4.0, 1.0, 0.5]])
    got = jax.jit(jax.vmap(jax.grad(mean)))(diagonals)
    np.testing.assert_allclose(got, [[0, 18.0, 0], [24.0, 0, 0]], rtol=1e-5)


def test_what_is_closed_over_is_differentiated_and_the_rest_has_no_tangent():
    diagonal = jnp.array([1.0, 4.0, 2.0])

    def ours(d):
        structure = jax.ShapeDtypeStruct((3,), jnp.float32)
        op = lx.FunctionLinearOperator(lambda v: d**2 * v, structure, lx.symmetric_tag)
        s = eigensolve(op, Dense(), start=d)
        return s.values[0], (s.residuals, s.bounds, s.estimates, s.state.block)

    (value, rest), (slope, none) = jax.jvp(ours, (diagonal,), (jnp.ones(3),))
    np.testing.assert_allclose([value, slope], [16.0, 8.0], rtol=1e-6)
    for leaf in jax.tree.leaves(none):
        np.testing.assert_array_equal(leaf, np.zeros_like(leaf))
    assert jax.tree.structure(rest) == jax.tree.structure(none)


def test_what_has_no_derivative_says_so():
    op = lx.MatrixLinearOperator(jnp.diag(jnp.arange(3.0)), lx.symmetric_tag)
    for option in ({"throw": True}, {"driver": "host"}):
        with pytest.raises(ValueError, match="host"):
            eqx.filter_grad(lambda o, option=option: eigensolve(o, **option).values[0])(op)


def test_a_linear_solve_that_fails_is_nan_and_the_eigenvalue_is_not():
    matrix = jnp.asarray(symmetric(SPECTRUM), jnp.float32)
    other = jnp.asarray(symmetric(SPECTRUM, 1), jnp.float32)
    hopeless = lx.CG(rtol=1e-5, atol=1e-5, max_steps=1)

    @jax.jit
    def slopes(m):
        def ours(m):
            op = lx.MatrixLinearOperator(m, lx.symmetric_tag)
            s = eigensolve(op, Dense(), linear_solver=hopeless)
            return s.values, s.vectors

        return jax.jvp(ours, (m,), (other,))[1]

    values, vectors = slopes(matrix)
    top = np.linalg.eigh(matrix)[1][:, -1]
    np.testing.assert_allclose(values[0], top @ other @ top, rtol=1e-4)
    assert np.isnan(vectors).all()


def test_plain_solves_do_not_pay():
    """No derivative taken, no trace of the rule: neither eagerly nor in a compiled program."""
    matrix = jnp.asarray(symmetric(np.linspace(-1, 5, 60)), jnp.float32)
    op = TreeOperator(matrix)
    eigensolve(op, Dense())
    before = len(TRACES)
    eigensolve(op, Dense())
    assert len(TRACES) == before
    jitted = jax.make_jaxpr(lambda m: eigensolve(TreeOperator(m), Dense()).values)(matrix)
    assert "custom_linear_solve" not in str(jitted)


# Objectives: a tiny network, whose Hessian costs a third derivative.


def mlp(params, batch):
    x, y = batch
    hidden = jnp.tanh(x @ params["in"] + params["bias"][None])
    return 0.5 * jnp.sum((hidden @ params["out"] - y) ** 2, -1)


def problem():
    keys = jax.random.split(jax.random.key(3), 5)
    shapes = {"in": (3, 4), "bias": (4,), "out": (4, 1)}
    params = {
        name: jax.random.normal(key, shape)
        for (name, shape), key in zip(shapes.items(), keys[:3], strict=True)
    }
    x, y = jax.random.normal(keys[3], (7, 3)), jax.random.normal(keys[4], (7, 1))
    return Objective(mlp, (x, y), microbatch=4), params


def along(tree, key=0):
    leaves, treedef = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(key), len(leaves))
    return treedef.unflatten(
        [jax.random.normal(k, x.shape) for k, x in zip(keys, leaves, strict=True)]
    )


def dot(a, b):
    return sum(jnp.vdot(x, y) for x, y in zip(*map(jax.tree.leaves, (a, b)), strict=True))


def difference(function, at, direction, step=1e-5):
    upper = jax.tree.map(lambda x, d: x + step * d, at, direction)
    lower = jax.tree.map(lambda x, d: x - step * d, at, direction)
    return (function(upper) - function(lower)) / (2 * step)


TIGHT = Lanczos(basis=20, rtol=1e-10)


def test_progressive_sharpening(x64):
    """The gradient of the sharpness, in the parameters and in the data."""
    objective, params = problem()
    x, y = objective.data

    def top(params, x):
        return sharpness(Objective(mlp, (x, y), microbatch=4), params, solver=TIGHT).values[0]

    gradients = jax.grad(top, argnums=(0, 1))(params, x)  # eager
    for direction in ((along(params), 0 * x), (jax.tree.map(jnp.zeros_like, params), along(x, 1))):
        want = difference(lambda at: top(*at), (params, x), direction)
        np.testing.assert_allclose(dot(gradients, direction), want, rtol=1e-6)


def test_preconditioned_sharpness(x64):
    """In parameters and the preconditioner's diagonal at once, forward and reverse."""
    objective, params = problem()
    diagonal = jax.tree.map(lambda x: 0.5 + x**2, along(params, 5))
    at = (params, diagonal)
    direction = (along(params), jax.tree.map(lambda x: 0.1 * x, along(params, 2)))

    def top(at):
        params, diagonal = at
        op = PreconditionedOperator(objective.hessian(params), DiagonalPreconditioner(diagonal))
        s = eigensolve(op, Dense())
        return s.values[0] + jnp.sum(
            op.to_original(jax.tree.map(lambda b: b[0], s.vectors))["in"] ** 2
        )

    gradient = jax.jit(jax.grad(top))(at)
    np.testing.assert_allclose(
        dot(gradient, direction), difference(jax.jit(top), at, direction), rtol=1e-6
    )
