"""Preconditioners that are matrices, against the dense matrices that they stand for."""

import functools

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from aeoskit.linalg import (
    AxisFactor,
    BlockPreconditioner,
    DiagonalPreconditioner,
    IdentityPreconditioner,
    KroneckerPreconditioner,
    Lanczos,
    PreconditionedOperator,
    RestrictedOperator,
    RotatedDiagonalPreconditioner,
    dense_matrix,
    eigensolve,
)
from aeoskit.objective import Objective

from .spectra import orthogonal

# Leaves in the order of JAX's flattening: bias, scalar, tensor, weight.
SHAPES = {"b": (4,), "s": (), "t": (2, 3, 2), "w": (3, 5)}
POWERS = {"mv": 1.0, "inv_mv": -1.0, "sqrt_mv": 0.5, "inv_sqrt_mv": -0.5}


def definite(n: int, seed: int) -> np.ndarray:
    q = orthogonal(n, seed)
    return (q * np.logspace(-1.5, 0.5, n)[None]) @ q.T


def params(dtype=None) -> dict:
    return {name: jnp.zeros(shape, dtype or float) for name, shape in SHAPES.items()}


def vector(dtype=None, seed: int = 0) -> dict:
    rng = np.random.default_rng(seed)
    return {k: jnp.asarray(rng.normal(size=s), dtype or float) for k, s in SHAPES.items()}


def flat(tree) -> np.ndarray:
    return np.concatenate([np.asarray(x, np.float64).reshape(-1) for x in jax.tree.leaves(tree)])


def block_diagonal(blocks: list[np.ndarray]) -> np.ndarray:
    matrix, at = np.zeros((sum(map(len, blocks)),) * 2), 0
    for block in blocks:
        matrix[at : at + len(block), at : at + len(block)] = block
        at += len(block)
    return matrix


def power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * values[None] ** exponent) @ vectors.T


def kron(*factors: np.ndarray) -> np.ndarray:
    return functools.reduce(np.kron, factors)


def kronecker():
    """All kinds of factors, and the dense matrix: of a matrix, a diagonal, identity, ready-made."""
    b, t, left, right = definite(4, 1), definite(3, 2), definite(3, 3), definite(5, 4)
    diagonal, eye = np.array([0.5, 2.0]), np.eye(2)
    values, vectors = np.linalg.eigh(right)
    factors = {
        "b": (b,),
        "s": (np.array([9.0]),),
        "t": (diagonal, t, None),
        "w": (left, AxisFactor(jnp.asarray(values), jnp.asarray(vectors))),
    }
    dense = [b, np.array([[9.0]]), kron(np.diag(diagonal), t, eye), kron(left, right)]
    return KroneckerPreconditioner(factors, params()), block_diagonal(dense)


def rotated():
    rng = np.random.default_rng(5)
    diagonal = {k: jnp.asarray(np.exp(rng.normal(size=s))) for k, s in SHAPES.items()}
    left, right = orthogonal(3, 6), orthogonal(5, 7)
    rotations = {"b": None, "s": None, "t": (None, left, None), "w": (left, right)}
    turns = [np.eye(4), np.eye(1), kron(np.eye(2), left, np.eye(2)), kron(left, right)]
    dense = [
        (turn * np.asarray(d).reshape(-1)[None]) @ turn.T
        for turn, d in zip(turns, jax.tree.leaves(diagonal), strict=True)
    ]
    return RotatedDiagonalPreconditioner(diagonal, rotations), block_diagonal(dense)


def prefix():
    """Blocks by subtree: the parameters are nested here, as `vector` is not."""
    left = definite(3, 3)
    blocks = {
        "b": DiagonalPreconditioner(jnp.full(4, 2.0)),
        "s": IdentityPreconditioner(jnp.zeros(())),
        "t": KroneckerPreconditioner((None, left, None), jnp.zeros((2, 3, 2))),
        "w": DiagonalPreconditioner(jnp.full((3, 5), 3.0)),
    }
    dense = [2 * np.eye(4), np.eye(1), kron(np.eye(2), left, np.eye(2)), 3 * np.eye(15)]
    return BlockPreconditioner(blocks), block_diagonal(dense)


def parts():
    """Groups that are scattered over the tree: matrices here, everything else there."""
    left = definite(3, 3)
    matrices = params() | {"b": None, "s": None}
    others = {"b": jnp.full(4, 2.0), "s": jnp.asarray(5.0), "t": None, "w": None}
    factors = {"b": None, "s": None, "t": (None, left, None), "w": (left, None)}
    p = BlockPreconditioner(
        parts=[KroneckerPreconditioner(factors, matrices), DiagonalPreconditioner(others)]
    )
    dense = [2 * np.eye(4), 5 * np.eye(1), kron(np.eye(2), left, np.eye(2)), kron(left, np.eye(5))]
    return p, block_diagonal(dense)


KINDS = {"kronecker": kronecker, "rotated": rotated, "prefix": prefix, "parts": parts}


@pytest.mark.parametrize("kind", KINDS)
def test_every_power_against_the_dense_matrix(kind: str, x64: None):
    p, dense = KINDS[kind]()
    v = vector()
    for name, exponent in POWERS.items():
        image = getattr(p, name)(v)
        assert jax.tree.structure(image) == jax.tree.structure(v)
        expected = power(dense, exponent) @ flat(v)
        np.testing.assert_allclose(flat(image), expected, rtol=1e-10, atol=1e-11)
    np.testing.assert_allclose(p.as_matrix(), dense, rtol=1e-12, atol=1e-12)
    assert p.in_structure() == jax.eval_shape(params)


@pytest.mark.parametrize("kind", ["kronecker", "parts"])
def test_lineax_protocol(kind: str, x64: None):
    p, dense = KINDS[kind]()
    v = vector()
    assert lx.is_symmetric(p)
    assert lx.is_positive_semidefinite(p)
    assert not lx.is_diagonal(p)
    assert lx.linearise(p) is p
    np.testing.assert_allclose(flat(lx.materialise(p).mv(v)), dense @ flat(v), rtol=1e-10)
    np.testing.assert_allclose(lx.diagonal(p), np.diag(dense), rtol=1e-10)
    solution = lx.linear_solve(p, v, lx.CG(rtol=1e-10, atol=1e-10, max_steps=400))
    np.testing.assert_allclose(flat(solution.value), flat(p.inv_mv(v)), rtol=1e-5, atol=1e-6)


def network():
    rng = np.random.default_rng(3)
    leaves = {"w": rng.normal(size=(3, 5)), "v": rng.normal(size=(5, 2)), "b": rng.normal(size=5)}
    weights = jax.tree.map(lambda x: jnp.asarray(0.5 * x), leaves)
    data = (jnp.asarray(rng.normal(size=(12, 3))), jnp.asarray(rng.normal(size=(12, 2))))

    def loss(weights, batch):
        inputs, targets = batch
        hidden = jnp.tanh(inputs @ weights["w"] + weights["b"][None])
        return jnp.sum((hidden @ weights["v"] - targets) ** 2, axis=1)

    return Objective(loss, data), weights


def test_preconditioned_hessian_of_a_network(x64: None):
    objective, weights = network()
    hessian = objective.hessian(weights)
    factors = {
        "b": (definite(5, 1),),
        "v": (definite(5, 2), definite(2, 3)),
        "w": (definite(3, 4), None),
    }
    p = KroneckerPreconditioner(factors, weights)
    root = power(
        block_diagonal([factors["b"][0], kron(*factors["v"]), kron(definite(3, 4), np.eye(5))]),
        -0.5,
    )
    dense = root @ np.asarray(dense_matrix(hessian)) @ root
    solution = eigensolve(PreconditionedOperator(hessian, p), Lanczos(basis=30, rtol=1e-10), k=4)
    expected = np.linalg.eigvalsh(dense)[::-1][:4]
    np.testing.assert_allclose(solution.values, expected, rtol=1e-9)
    assert expected[0] > 2 * np.linalg.eigvalsh(dense_matrix(hessian))[-1]


@pytest.mark.parametrize("make", [kronecker, rotated])
def test_restricted_to_a_part(make, x64: None):
    p, dense = make()
    whole = PreconditionedOperator(p, p)
    part = p.restricted("[bw]")
    inner = PreconditionedOperator(RestrictedOperator(p, "[bw]"), part)
    v = vector() | {"s": None, "t": None}
    np.testing.assert_allclose(flat(inner.mv(v)), flat(v), rtol=1e-10)
    np.testing.assert_allclose(flat(whole.mv(vector())), flat(vector()), rtol=1e-10)
    np.testing.assert_allclose(part.as_matrix()[:4, :4], dense[:4, :4], atol=1e-12)


def test_a_batch_of_preconditioners():
    batch = jnp.asarray(np.stack([definite(3, seed) for seed in range(4)]), jnp.float32)
    vectors = jnp.asarray(np.random.default_rng(0).normal(size=(4, 3, 2)), jnp.float32)

    def one(matrix, v):
        p = KroneckerPreconditioner((matrix, None), v)
        return p, p.inv_sqrt_mv(v)

    made, images = jax.jit(jax.vmap(one))(batch, vectors)
    again = jax.vmap(lambda p, v: p.inv_sqrt_mv(v))(made, vectors)
    for i in range(4):
        expected = power(np.asarray(batch[i], np.float64), -0.5) @ vectors[i]
        np.testing.assert_allclose(images[i], expected, rtol=1e-3)
        np.testing.assert_allclose(again[i], images[i], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float32])
@pytest.mark.parametrize("kind", ["kronecker", "rotated"])
def test_vectors_keep_their_dtype(kind: str, dtype, strict_promotion: None):
    """Factors are float32 whatever the vectors are, and nothing depends on mixed promotion."""
    p, dense = KINDS[kind]()
    v = vector(dtype)
    for name, exponent in POWERS.items():
        image = getattr(p, name)(v)
        assert {leaf.dtype for leaf in jax.tree.leaves(image)} == {jnp.dtype(dtype)}
        expected = power(dense, exponent) @ flat(v)
        scale = float(jnp.finfo(dtype).eps) + 1e-5
        np.testing.assert_allclose(flat(image), expected, atol=scale * np.abs(expected).max())


def test_what_rounding_cannot_tell_from_zero_is_raised():
    """A Gram matrix of rank one: in float32 some of its eigenvalues come out negative."""
    v = np.random.default_rng(0).normal(size=(30, 1)).astype(np.float32)
    gram = jnp.asarray(v @ v.T)
    assert float(jnp.linalg.eigvalsh(gram).min()) < 0
    p = KroneckerPreconditioner((gram,), jnp.zeros(30))
    assert bool(jnp.isfinite(p.inv_sqrt_mv(jnp.ones(30))).all())
    zero = KroneckerPreconditioner((jnp.zeros((3, 3)),), jnp.zeros(3), eps=0.25)
    np.testing.assert_allclose(zero.inv_sqrt_mv(jnp.ones(3)), 2.0)


BAD = {
    "not symmetric": ((np.array([[1.0, 0.5], [0.0, 1.0]]), None), r"axis 0 of \['w'\] is not symm"),
    "negative": ((None, np.diag([1.0, -2.0, 1.0])), r"axis 1 of \['w'\]: the least is -2"),
    "negative diagonal": ((np.array([1.0, -2.0]), None), r"axis 0 of \['w'\]: the least is -2"),
    "nan": ((np.full((2, 2), np.nan), None), r"axis 0 of \['w'\]: .* not finite"),
    "infinite": ((np.array([1.0, np.inf]), None), r"axis 0 of \['w'\]: .* not finite"),
    "shape": ((np.eye(3), None), r"axis 0 of \['w'\] has shape \(3, 3\), expected \(2, 2\)"),
    "axes": ((np.eye(2),), r"factors\['w'\] has 1 entries, but the leaf has shape \(2, 3\)"),
    "rotation": (
        (AxisFactor(jnp.ones(2), jnp.ones((2, 2))), None),
        r"eigenvectors of the factor of axis 0 of \['w'\] is not orthogonal",
    ),
}


@pytest.mark.parametrize("name", BAD)
def test_refuses_factors(name: str):
    factors, message = BAD[name]
    with pytest.raises(ValueError, match=message) as caught:
        KroneckerPreconditioner({"w": factors}, {"w": jnp.zeros((2, 3))})
    assert "\n" not in str(caught.value)
    if name in ("not symmetric", "negative", "nan"):  # traced values are not looked at
        jax.eval_shape(
            lambda *axes: KroneckerPreconditioner({"w": axes}, {"w": jnp.zeros((2, 3))}), *factors
        )


@pytest.mark.parametrize("entry", [0.0, -1.0, np.nan])
def test_refuses_diagonals(entry: float):
    with pytest.raises(ValueError, match=r"diagonal\['w'\]: "):
        RotatedDiagonalPreconditioner({"w": jnp.array([1.0, entry])}, {"w": None})


def test_refuses_other_containers():
    with pytest.raises(ValueError, match="factors must have the containers of the parameters"):
        KroneckerPreconditioner({"v": None}, {"w": jnp.zeros(2)})


def test_refuses_blocks():
    part = DiagonalPreconditioner({"a": jnp.ones(2), "b": None})
    with pytest.raises(ValueError, match=r"two parts .* have the leaf \['a'\]"):
        BlockPreconditioner(parts=[part, part])
    with pytest.raises(ValueError, match="different containers"):
        BlockPreconditioner(parts=[part, DiagonalPreconditioner({"b": jnp.ones(2)})])
    with pytest.raises(ValueError, match="either blocks"):
        BlockPreconditioner()
    with pytest.raises(TypeError, match="wrap a tree of positive numbers"):
        BlockPreconditioner({"a": jnp.ones(2)})


def test_parameters_that_are_none_stay_none():
    tree = {"a": jnp.ones(2), "b": jnp.ones(1), "frozen": None}
    p = BlockPreconditioner(
        parts=[
            DiagonalPreconditioner({"a": jnp.full(2, 4.0), "b": None, "frozen": None}),
            IdentityPreconditioner({"a": None, "b": jnp.ones(1), "frozen": None}),
        ]
    )
    image = p.sqrt_mv(tree)
    assert image["frozen"] is None
    np.testing.assert_allclose(flat(image), [2.0, 2.0, 1.0])
