"""A metric that is not positive definite is refused, with the path of its leaf."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest

from aeoskit import optimizers as ak
from aeoskit.linalg import (
    BlockPreconditioner,
    DiagonalPreconditioner,
    IdentityPreconditioner,
    KroneckerPreconditioner,
    RotatedDiagonalPreconditioner,
)

LIKE = {"net": [{"w": jnp.zeros((2, 2)), "b": jnp.zeros(2)}]}
ROTATION = jnp.array([[0.6, -0.8], [0.8, 0.6]])
MATRIX = jnp.array([[2.0, 1.0], [1.0, 2.0]])
BAD = {"zero": 0.0, "negative": -1.0, "nan": float("nan"), "infinite": float("inf")}


def tree(w: Any, b: Any) -> dict[str, Any]:
    return {"net": [{"w": w, "b": b}]}


def diagonal() -> Any:
    return DiagonalPreconditioner(tree(jnp.ones((2, 2)), jnp.ones(2)))


def kronecker() -> Any:
    return KroneckerPreconditioner(tree((MATRIX, jnp.array([1.0, 2.0])), (None,)), LIKE)


def rotated() -> Any:
    return RotatedDiagonalPreconditioner(
        tree(jnp.ones((2, 2)), jnp.ones(2)), tree((None, ROTATION), None)
    )


def blocks() -> Any:
    """The last leaf first, so that places within a part and in the whole are not the same."""
    return BlockPreconditioner(
        parts=[
            KroneckerPreconditioner(tree((MATRIX, None), None), tree(jnp.zeros((2, 2)), None)),
            DiagonalPreconditioner(tree(None, jnp.ones(2))),
        ]
    )


# How to come to an array of P, and how the error names it. Leaves are sorted: b, and then w.
POSITIVE = {
    "diagonal": (diagonal, lambda p: p.diagonal["net"][0]["w"], "net/0/w "),
    "diagonal bias": (diagonal, lambda p: p.diagonal["net"][0]["b"], "net/0/b "),
    "kronecker": (
        kronecker,
        lambda p: p.factors[1][0].values,
        "net/0/w, in the eigenvalues of the factor of axis 0",
    ),
    "kronecker diagonal": (
        kronecker,
        lambda p: p.factors[1][1].values,
        "net/0/w, in the eigenvalues of the factor of axis 1",
    ),
    "rotated": (rotated, lambda p: p.diagonal[0], "net/0/b "),
    "block": (blocks, lambda p: p.parts[1].diagonal["net"][0]["b"], "net/0/b "),
    "block of factors": (
        blocks,
        lambda p: p.parts[0].factors[0][0].values,
        "net/0/w, in the eigenvalues of the factor of axis 0",
    ),
}
ROTATIONS = {
    "kronecker": (
        kronecker,
        lambda p: p.factors[1][0].vectors,
        "net/0/w, in the eigenvectors of the factor of axis 0",
    ),
    "rotated": (rotated, lambda p: p.rotations[1][1], "net/0/w, in the rotation of axis 1"),
}


def spoiled(make: Any, where: Any, value: float) -> Any:
    """P with one entry replaced, past its own checks, as a state that went wrong has it."""
    p = make()
    array = where(p)
    return eqx.tree_at(where, p, array.at[(0,) * array.ndim].set(value))


@pytest.mark.parametrize("value", BAD)
@pytest.mark.parametrize("kind", POSITIVE)
def test_refused_with_the_path_of_its_leaf(kind: str, value: str):
    make, where, name = POSITIVE[kind]
    with pytest.raises(ValueError, match="zero, negative or not finite") as caught:
        ak.Frozen(spoiled(make, where, BAD[value]))
    message = str(caught.value)
    assert f"in {name}" in message
    assert "\n" not in message


@pytest.mark.parametrize("kind", ROTATIONS)
def test_a_rotation_may_be_negative_but_not_nan(kind: str):
    make, where, name = ROTATIONS[kind]
    assert float(where(ak.Frozen(make()).preconditioner).min()) < 0
    with pytest.raises(ValueError, match=name):
        ak.Frozen(spoiled(make, where, float("nan")))


@pytest.mark.parametrize("kind", POSITIVE)
def test_a_traced_entry_that_no_metric_has_is_nan(kind: str):
    make, where, _ = POSITIVE[kind]
    entries = eqx.filter_jit(lambda p: where(ak.Frozen(p).preconditioner))
    for value in BAD.values():
        found = entries(spoiled(make, where, value))
        assert jnp.isnan(found[(0,) * found.ndim])
        assert int(jnp.isnan(found).sum()) == 1
    assert (entries(make()) == where(make())).all()
    shapes = eqx.filter_eval_shape(lambda p: where(ak.Frozen(p).preconditioner), make())
    assert shapes.shape == where(make()).shape


def test_a_single_leaf_and_no_leaf():
    with pytest.raises(ValueError, match=r"in the only leaf \(the least is -2\)"):
        ak.Frozen(DiagonalPreconditioner(jnp.array([1.0, -2.0])))
    assert ak.Frozen(IdentityPreconditioner(LIKE)).structure(None) == jax.eval_shape(lambda: LIKE)


def test_an_optimizer_whose_metric_underflows():
    """An eps that is zero in the leaf's precision, on a dead coordinate."""
    optimizer = ak.adam(0.1, eps=1e-8)
    params = {"w": jnp.ones(2, jnp.float16)}
    grads = {"w": jnp.array([1.0, 0.0], jnp.float16)}
    with pytest.raises(ValueError, match=r"in w .* an eps above 0 in the precision of that leaf"):
        optimizer.preconditioner(optimizer.init(params), grads)
