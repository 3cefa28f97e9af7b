"""Operators made of operators, parts of operators, and the check of what one promises."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from aeoskit.linalg import (
    DeflatedOperator,
    Dense,
    DiagonalPreconditioner,
    IdentityPreconditioner,
    Lanczos,
    PreconditionedOperator,
    RestrictedOperator,
    ShiftedOperator,
    check_operator,
    dense_matrix,
    eigensolve,
    layers_of,
    restrict,
)

from .spectra import TRACES, TreeOperator, orthogonal, spectra

INDEFINITE = spectra()["indefinite"]
SOLVER = Lanczos(rtol=1e-4, basis=40)


def tree_of(matrix=INDEFINITE):
    return TreeOperator(jnp.asarray(matrix, jnp.float32))


def leaves_first(tree):
    """A vector in the order of the leaves ("a" first, unlike TreeOperator's own)."""
    return np.concatenate([np.asarray(x).reshape(-1) for x in jax.tree.leaves(tree)])


def vector(seed=0):
    rng = np.random.default_rng(seed)
    return {
        "a": jnp.asarray(rng.normal(size=(7, 8)), jnp.float32),
        "b": jnp.asarray(rng.normal(size=4), jnp.float32),
    }


def top(k):
    """The k top eigenvectors of INDEFINITE, as a block."""
    rows = np.linalg.eigh(INDEFINITE)[1][:, ::-1][:, :k].T.astype(np.float32)
    return {"a": jnp.asarray(rows[:, 4:].reshape(k, 7, 8)), "b": jnp.asarray(rows[:, :4])}


def test_lineax_sums_and_multiples():
    """Sums, multiples and quotients are lineax's: through a solve, in jit, as lanes of a vmap."""
    second = spectra()["clustered"]

    def combine(c):
        return c * tree_of() + tree_of(second) / 2.0 - tree_of(second)

    operator = combine(2.0)
    assert lx.is_symmetric(operator)
    true = np.linalg.eigvalsh(2 * INDEFINITE - second / 2)[-1]
    np.testing.assert_allclose(eigensolve(operator, SOLVER).values, [true], rtol=1e-3)
    traces = len(TRACES)
    solution = eigensolve(combine(1.0), SOLVER)
    assert len(TRACES) == traces, "another factor must not retrace"
    tops = [np.linalg.eigvalsh(c * INDEFINITE - second / 2)[-1] for c in (1.0, 3.0)]
    np.testing.assert_allclose(solution.values, tops[:1], rtol=1e-3)
    lanes = jax.vmap(lambda c: eigensolve(combine(c), Dense()).values[0])(jnp.array([1.0, 3.0]))
    np.testing.assert_allclose(lanes, tops, rtol=1e-3)


class Linearisable(lx.AbstractLinearOperator):
    """A diagonal that lineax.linearise doubles: a mark that it was passed on."""

    diagonal: jax.Array

    def mv(self, vector):
        return self.diagonal * vector

    def as_matrix(self):
        return jnp.diag(self.diagonal)

    def transpose(self):
        return self

    def in_structure(self):
        return jax.ShapeDtypeStruct(self.diagonal.shape, self.diagonal.dtype)

    out_structure = in_structure


lx.linearise.register(Linearisable, lambda operator: Linearisable(2 * operator.diagonal))
lx.is_symmetric.register(Linearisable, lambda operator: True)
lx.is_positive_semidefinite.register(Linearisable, lambda operator: True)
lx.is_negative_semidefinite.register(Linearisable, lambda operator: False)
for _query in (lx.is_diagonal, lx.is_tridiagonal):
    _query.register(Linearisable, lambda operator: False)

MARKED = Linearisable(jnp.array([2.0, 3.0]))


@pytest.mark.parametrize(
    ("operator", "plain", "semidefinite"),
    [
        (MARKED + MARKED, [4, 6], True),
        (MARKED * 3.0, [6, 9], False),  # lineax does not look at the sign of an array
        (-MARKED, [-2, -3], False),
        (ShiftedOperator(MARKED, 1.0), [1, 2], False),
        (DeflatedOperator(MARKED, jnp.array([[1.0, 0.0]])), [0, 3], True),
        (DeflatedOperator(MARKED, jnp.array([[1.0, 0.0]]), 7.0), [7, 3], False),
        (RestrictedOperator(MARKED, True), [2, 3], True),
        (PreconditionedOperator(MARKED, DiagonalPreconditioner(jnp.ones(2))), [2, 3], True),
    ],
    ids=lambda x: type(x).__name__,
)
def test_protocol(operator, plain, semidefinite):
    np.testing.assert_allclose(operator.mv(jnp.ones(2)), plain)
    linear = lx.linearise(operator)
    changed = np.array([4.0, 6.0])
    if isinstance(operator, ShiftedOperator):
        changed = changed - 1
    elif isinstance(operator, DeflatedOperator):
        changed[0] = plain[0]
    else:
        changed = 2.0 * np.array(plain)
    np.testing.assert_allclose(linear.mv(jnp.ones(2)), changed)
    assert lx.is_symmetric(operator)
    assert lx.is_positive_semidefinite(operator) == semidefinite
    np.testing.assert_allclose(operator.T.mv(jnp.ones(2)), plain)
    if not type(operator).__module__.startswith("lineax"):
        np.testing.assert_allclose(lx.materialise(operator).mv(jnp.ones(2)), plain, atol=1e-7)


def test_shift():
    operator = ShiftedOperator(tree_of(), -50.0)
    expected = leaves_first(tree_of().mv(vector())) + 50 * leaves_first(vector())
    np.testing.assert_allclose(leaves_first(operator.mv(vector())), expected, rtol=1e-4, atol=1e-4)
    solution = eigensolve(operator, Dense(), which="largest_magnitude")
    np.testing.assert_allclose(solution.values, [53.0], rtol=1e-4)
    traces = len(TRACES)
    solution = eigensolve(ShiftedOperator(tree_of(), 7.0), Dense(), which="largest_magnitude")
    assert len(TRACES) == traces, "another shift must not retrace"
    np.testing.assert_allclose(solution.values, [-47.0], rtol=1e-4)
    lanes = jax.vmap(lambda s: ShiftedOperator(tree_of(), s).mv(vector())["b"])(jnp.arange(2.0))
    np.testing.assert_allclose(lanes[0] - lanes[1], vector()["b"], atol=1e-4)
    low = ShiftedOperator(lx.DiagonalLinearOperator(jnp.ones(3, jnp.bfloat16)), jnp.float32(0.5))
    assert low.mv(jnp.ones(3, jnp.bfloat16)).dtype == jnp.bfloat16
    with pytest.raises(ValueError, match="scalar"):
        ShiftedOperator(tree_of(), jnp.ones(2))


def test_deflation():
    """The spectrum without the found vectors; with values, these are where they were put."""
    found = top(3)
    for values, at in ((None, 0.0), (-60.0, -60.0)):
        operator = DeflatedOperator(tree_of(), found, values)
        expected = np.sort(np.append(np.linalg.eigvalsh(INDEFINITE)[:-3], [at] * 3))
        dense = np.asarray(dense_matrix(operator), np.float64)
        np.testing.assert_allclose(dense, dense.T, atol=1e-4)
        np.testing.assert_allclose(np.linalg.eigvalsh(dense), expected, atol=1e-3)
    solution = eigensolve(operator, Dense())
    np.testing.assert_allclose(solution.values, expected[-1:], rtol=1e-3)
    assert bool(solution.converged[0])
    # Vectors that are no eigenvectors: still symmetric, and the rest is A on the complement.
    rough = {"a": jnp.eye(60)[:2, :56].reshape(2, 7, 8), "b": jnp.zeros((2, 4))}
    dense = np.asarray(dense_matrix(DeflatedOperator(tree_of(), rough)))
    full = np.array(dense_matrix(tree_of()))
    full[:2], full[:, :2] = 0, 0
    np.testing.assert_allclose(dense, full, atol=1e-5)


def test_deflation_under_transformations():
    """Where vectors are tracers (or constants of a trace), no one looks at them."""
    found = top(3)

    @jax.jit
    def inside(vectors, values):
        constant = DeflatedOperator(tree_of(), found).mv(vector())
        return constant, DeflatedOperator(tree_of(), vectors, values).mv(vector())

    a, b = inside(found, jnp.zeros(3))
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        np.testing.assert_allclose(x, y, atol=1e-4)


def test_deflation_refuses():
    found = top(2)
    doubled = jax.tree.map(lambda x: 2 * x, found)
    with pytest.raises(ValueError, match=r"not orthonormal .*3\.0e\+00"):
        DeflatedOperator(tree_of(), doubled)
    with pytest.raises(ValueError, match="not orthonormal"):
        DeflatedOperator(tree_of(), jax.tree.map(lambda x: x * jnp.nan, doubled))
    with pytest.raises(ValueError, match=r"leaves \(k, \*leaf\)"):
        DeflatedOperator(tree_of(), vector())
    with pytest.raises(ValueError, match="one for each of the 2"):
        DeflatedOperator(tree_of(), found, jnp.ones(3))


def network():
    """Parameters with containers inside containers, and a dense symmetric operator on them."""
    keys = jax.random.split(jax.random.key(0), 3)
    return {
        "layers": [eqx.nn.Linear(3, 2, key=keys[0]), eqx.nn.Linear(2, 2, key=keys[1])],
        "out": {"bias": jnp.zeros(2)},
    }


class NetworkOperator(lx.AbstractLinearOperator):
    """A matrix on the parameters of `network`, in the order of the leaves."""

    matrix: jax.Array

    def mv(self, vector):
        leaves, treedef = jax.tree.flatten(vector)
        image = self.matrix @ jnp.concatenate([x.reshape(-1) for x in leaves])
        parts, begin = [], 0
        for leaf in leaves:
            parts.append(image[begin : begin + leaf.size].reshape(leaf.shape))
            begin += leaf.size
        return jax.tree.unflatten(treedef, parts)

    def as_matrix(self):
        return self.matrix

    def transpose(self):
        return self

    def in_structure(self):
        return jax.eval_shape(network)

    out_structure = in_structure


lx.linearise.register(NetworkOperator, lambda operator: operator)
lx.is_symmetric.register(NetworkOperator, lambda operator: True)
NETWORK = np.random.default_rng(3).normal(size=(16, 16))
NETWORK = NETWORK + NETWORK.T
FIRST, SECOND, OUT = list(range(8)), list(range(8, 14)), [14, 15]
PREFIX = {"layers": [True, False], "out": True}


@pytest.mark.parametrize(
    ("where", "indices"),
    [
        ("layers/0", FIRST),
        ("layers/0/*", FIRST),
        ("layers/*", FIRST + SECOND),
        ("layers/1/bias", [12, 13]),
        ("*bias", [6, 7, 12, 13, *OUT]),
        (["layers/0/bias", "out"], [6, 7, *OUT]),
        (lambda path: path.endswith("weight"), [*range(6), *range(8, 12)]),
        (PREFIX, FIRST + OUT),
        (True, FIRST + SECOND + OUT),
    ],
    ids=lambda x: "function" if callable(x) else str(x),
)
def test_restriction(where, indices):
    operator = NetworkOperator(jnp.asarray(NETWORK, jnp.float32))
    part = RestrictedOperator(operator, where)
    assert part.in_size() == len(indices)
    v = jax.tree.map(lambda s: jnp.arange(1.0, 1 + s.size).reshape(s.shape), part.in_structure())
    full = leaves_first(part.embed(v))
    np.testing.assert_array_equal(full[indices], leaves_first(v))
    assert np.count_nonzero(full) == len(indices)
    image = NETWORK[np.ix_(indices, indices)] @ leaves_first(v)
    np.testing.assert_allclose(leaves_first(part.mv(v)), image, rtol=1e-4, atol=1e-4)
    back = part.restrict(part.embed(v))
    assert eqx.tree_equal(back, v)


def test_restriction_in_a_solve():
    """Eigenvectors of a part, embedded; other parameters do not retrace."""
    retraced = []
    for factor in (1.0, 2.0):
        traces = len(TRACES)
        part = RestrictedOperator(tree_of(factor * INDEFINITE), "a")
        solution = eigensolve(part, Dense(), which="smallest")
        retraced.append(len(TRACES) - traces)
        # TreeOperator's own order has the four entries of "b" first.
        true = factor * np.linalg.eigvalsh(INDEFINITE[4:, 4:])[0]
        np.testing.assert_allclose(solution.values, [true], rtol=1e-3)
    assert retraced[1] == 0
    full = jax.vmap(part.embed)(solution.vectors)
    assert full["b"].shape == (1, 4)
    assert float(jnp.abs(full["b"]).max()) == 0
    np.testing.assert_array_equal(full["a"], solution.vectors["a"])


def test_restriction_refuses():
    operator = NetworkOperator(jnp.asarray(NETWORK, jnp.float32))
    for where in ("layer/0", ["layers/0", "outt"], lambda path: False, False):
        with pytest.raises(ValueError, match=r"'layers/0/weight', .*'out/bias'"):
            RestrictedOperator(operator, where)
    for where in ({"layers": True}, {"layers": [True, 1.0], "out": False}):
        with pytest.raises(ValueError, match="prefix"):
            RestrictedOperator(operator, where)


def test_a_module_of_booleans_is_a_prefix():
    """Though it can be called."""
    parameters = eqx.nn.Linear(2, 2, key=jax.random.key(0))
    mask = eqx.tree_at(lambda m: (m.weight, m.bias), parameters, (False, True))
    kept = restrict(parameters, mask)
    assert kept.weight is None
    assert kept.bias is parameters.bias


def test_layers():
    operator = NetworkOperator(jnp.asarray(NETWORK, jnp.float32))
    assert list(layers_of(operator)) == ["layers", "out"]
    layers = layers_of(operator, depth=2)
    assert list(layers) == ["layers/0", "layers/1", "out/bias"]
    for part, indices in zip(layers.values(), (FIRST, SECOND, OUT), strict=True):
        v = jax.tree.map(lambda s: jnp.ones(s.shape), part.in_structure())
        image = NETWORK[np.ix_(indices, indices)].sum(1)
        np.testing.assert_allclose(leaves_first(part.mv(v)), image, rtol=1e-4, atol=1e-4)
    with pytest.raises(ValueError, match="depth"):
        layers_of(operator, depth=0)


def test_preconditioner_of_a_part():
    """The part of the preconditioned operator is the preconditioned part."""
    p = DiagonalPreconditioner(jax.tree.map(lambda x: 0.5 + x**2, vector(1)))
    whole = RestrictedOperator(PreconditionedOperator(tree_of(), p), "b")
    part = PreconditionedOperator(RestrictedOperator(tree_of(), "b"), p.restricted("b"))
    v = restrict(vector(), "b")
    np.testing.assert_allclose(whole.mv(v)["b"], part.mv(v)["b"], rtol=1e-4)
    back = part.to_original(part.from_original(v))
    np.testing.assert_allclose(back["b"], v["b"], rtol=1e-6)
    assert IdentityPreconditioner(vector()).restricted("b").in_size() == 4


class Noisy(lx.AbstractLinearOperator):
    """Dropout: a fresh mask at each product."""

    matrix: jax.Array
    generator: np.random.Generator = eqx.field(static=True)

    def mv(self, vector):
        return self.matrix @ vector * self.generator.binomial(1, 0.9, len(vector))

    def as_matrix(self):
        return self.matrix

    def transpose(self):
        return self

    def in_structure(self):
        return jax.ShapeDtypeStruct((60,), jnp.float32)

    out_structure = in_structure


lx.is_symmetric.register(Noisy, lambda operator: True)


def test_check_operator():
    check_operator(tree_of())
    check_operator(
        PreconditionedOperator(
            tree_of(), DiagonalPreconditioner(jax.tree.map(lambda x: 1e-4 + x**2, vector(1)))
        )
    )
    with pytest.raises(ValueError, match=r"two products of the same vector differ by .*dropout"):
        check_operator(Noisy(jnp.asarray(INDEFINITE, jnp.float32), np.random.default_rng(0)))
    skew = np.triu(np.random.default_rng(1).normal(size=(60, 60)))
    for amount, fine in ((1e-6, True), (0.5, False)):
        operator = tree_of(INDEFINITE + amount * (skew - skew.T))
        if fine:
            check_operator(operator)
        else:
            with pytest.raises(ValueError, match=r"<v, A u> = .* and <A v, u> = .*symmetric tag"):
                check_operator(operator)
            check_operator(operator, symmetric=False)
    with pytest.raises(ValueError, match=r"nan.*Look at the parameters"):
        check_operator(tree_of(INDEFINITE * np.nan))
    with pytest.raises(ValueError, match="declared"):
        check_operator(lx.MatrixLinearOperator(jnp.ones((2, 3))), symmetric=True)
    with pytest.raises(TypeError, match="lineax"):
        check_operator(jnp.eye(2))
    with pytest.raises(ValueError, match="outside of jit"):
        jax.jit(lambda m: check_operator(TreeOperator(m)))(jnp.eye(60))


def test_check_sees_a_wrong_symmetry_of_a_large_operator():
    """The test of symmetry does not fade with the dimension."""
    q = jnp.asarray(orthogonal(60), jnp.float32)

    class Wide(eqx.Module):
        def __call__(self, v):
            return (v.reshape(60, -1).T @ q).T.reshape(-1)  # q is not symmetric

    structure = jax.ShapeDtypeStruct((60 * 2000,), jnp.float32)
    operator = lx.FunctionLinearOperator(Wide(), structure, lx.symmetric_tag)
    with pytest.raises(ValueError, match="should be symmetric"):
        check_operator(operator)
