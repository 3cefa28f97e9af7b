"""Preconditioners, and the symmetrized operator that they make."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from aeoskit.linalg import (
    DiagonalPreconditioner,
    IdentityPreconditioner,
    Lanczos,
    PreconditionedOperator,
    dense_matrix,
    eigensolve,
)

from .spectra import TreeOperator, spectra

MATRIX = spectra()["indefinite"]


def diagonal():
    rng = np.random.default_rng(0)
    return {
        "a": jnp.asarray(rng.uniform(1e-4, 1, (7, 8))),
        "b": jnp.asarray(rng.uniform(1e-4, 1, 4)),
    }


def test_preconditioned_eigenvalues(x64):
    p = DiagonalPreconditioner(diagonal())
    inner = TreeOperator(jnp.asarray(MATRIX))
    op = PreconditionedOperator(inner, p)
    assert lx.is_symmetric(op)
    dense = dense_matrix(inner)
    true = np.linalg.eigvals(np.diag(1 / np.asarray(lx.diagonal(p))) @ dense).real.max()
    solution = eigensolve(op, Lanczos(rtol=1e-9, basis=40))
    np.testing.assert_allclose(solution.values, [true], rtol=1e-7)
    # An eigenvector of P^-1 A in the original coordinates.
    u = op.to_original(jax.tree.map(lambda x: x[0], solution.vectors))
    left, right = inner.mv(u), p.mv(jax.tree.map(lambda x: solution.values[0] * x, u))
    for x, y in zip(jax.tree.leaves(left), jax.tree.leaves(right), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-4, atol=1e-5 * float(np.abs(y).max()))


@pytest.mark.parametrize(
    "p", [DiagonalPreconditioner({"a": jnp.ones((2, 2)) * 4}), IdentityPreconditioner(jnp.ones(3))]
)
def test_lineax_protocol(p):
    v = jax.tree.map(lambda s: jnp.full(s.shape, 3.0), p.in_structure())
    for a, b in (
        (p.sqrt_mv(p.sqrt_mv(v)), p.mv(v)),
        (p.inv_mv(p.mv(v)), v),
        (p.inv_sqrt_mv(p.sqrt_mv(v)), v),
        (lx.materialise(p).mv(v), p.mv(v)),
        (lx.linearise(p).mv(v), p.mv(v)),
        (p.T.mv(v), p.mv(v)),
    ):
        for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
            np.testing.assert_allclose(x, y, rtol=1e-6)
    np.testing.assert_allclose(jnp.diag(p.as_matrix()), lx.diagonal(p))
    assert lx.is_symmetric(p)
    assert lx.is_positive_semidefinite(p)
    assert lx.is_diagonal(p)
    assert not lx.is_negative_semidefinite(p)
    solution = lx.linear_solve(p, v, lx.CG(rtol=1e-6, atol=1e-6))
    for x, y in zip(jax.tree.leaves(solution.value), jax.tree.leaves(p.inv_mv(v)), strict=True):
        np.testing.assert_allclose(x, y, rtol=1e-5)
