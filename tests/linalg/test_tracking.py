"""Warm starts on an operator that changes a little at every step."""

import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from aeoskit.linalg import Lanczos, eigensolve

from .spectra import orthogonal

STEPS, DIM = 100, 120


def crossing(rng):
    """Eight values within a few per cent that cross all the time: vectors stay, ranks change."""
    t = np.arange(STEPS)[:, None] / STEPS
    top = 10 + 0.15 * np.sin(2 * np.pi * (0.5 + rng.random((1, 8))) * t + 6 * rng.random((1, 8)))
    bulk = np.tile(rng.uniform(-0.3, 7, DIM - 8), (STEPS, 1))
    return np.concatenate([top, bulk], axis=1)


def rising(rng):
    """A value out of the bulk overtakes the top one, with no coupling at all to it."""
    t = np.arange(STEPS) / STEPS
    spectrum = crossing(rng)
    spectrum[:, 0] = 10.5
    spectrum[:, 40] = 2 + 10 * t
    return spectrum


@pytest.mark.parametrize("spectrum", [crossing, rising])
@pytest.mark.parametrize("k", [1, 2])
def test_no_lock_in(spectrum, k):
    values = spectrum(np.random.default_rng(1))
    q = jnp.asarray(orthogonal(DIM), jnp.float32)
    solver = Lanczos()

    def body(state, lam):
        matrix = (q * lam[None]) @ q.T
        op = lx.MatrixLinearOperator((matrix + matrix.T) / 2, lx.symmetric_tag)
        solution = eigensolve(op, solver, k=k, start=state)
        return solution.state, (solution.values, solution.stats["matvecs"], solution.converged)

    first = solver.initial_state(jax.ShapeDtypeStruct((DIM,), jnp.float32), k)
    lam = jnp.asarray(values, jnp.float32)
    _, (tracked, matvecs, converged) = jax.jit(lambda s, x: jax.lax.scan(body, s, x))(first, lam)
    true = np.sort(values, axis=1)[:, ::-1][:, :k]
    error = np.abs(tracked - true) / true
    assert np.max(error[:, 0]) <= 1e-2
    assert np.max(error) <= 2e-2
    assert np.median(error) <= 1e-4
    assert np.all(converged)
    cold = 24  # about what a solve from a random vector needs here
    assert np.mean(matvecs[1:]) <= 0.75 * cold * k


def test_warm_start_saves_products():
    lam = crossing(np.random.default_rng(0))
    q = orthogonal(DIM)
    ops = [
        lx.MatrixLinearOperator(jnp.asarray((q * x[None]) @ q.T, jnp.float32), lx.symmetric_tag)
        for x in lam[:2]
    ]
    cold = eigensolve(ops[0], k=2)
    warm = eigensolve(ops[1], k=2, start=cold.state)
    assert int(warm.stats["matvecs"]) < int(cold.stats["matvecs"])
