"""Shampoo, SOAP and Muon at their thresholds, in sweeps, and where nothing moves."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from aeoskit import optimizers as ak
from aeoskit.linalg import dense_matrix

OPTIMIZERS = {
    "shampoo": lambda lr=0.05: ak.shampoo(lr, 0.9, 1e-3, beta1=0.9, order="precondition_first"),
    "soap": lambda lr=0.05: ak.soap(lr, 0.9, 0.9, eps=1e-3, frequency=2),
    "muon": lambda lr=0.05: ak.muon(lr, 0.9),
}


@pytest.mark.parametrize("name", ["shampoo", "soap", "muon"])
def test_live_metric_settles_at_the_edge(name: str, x64: None):
    """On a quadratic nothing diverges, and P from slow averages has its ratio near one.

    Muon's P forgets as fast as its momentum does, like that of RMSProp with a small beta2, and the
    threshold of a constant P is then but the order of magnitude.
    """
    optimizer = {
        "shampoo": lambda: ak.shampoo(0.05, 0.9, 1e-12, beta1=0.9),
        "soap": lambda: ak.soap(0.05, 0.9, 0.99),
        "muon": lambda: ak.muon(0.05, 0.9, nesterov=False, newton_schulz=None),
    }[name]()
    rng = np.random.default_rng(0)
    left, right = (np.linalg.qr(rng.normal(size=(n, n)))[0] for n in (2, 3))
    a = jnp.asarray(left @ np.diag([1.0, 3.0]) @ left.T)
    b = jnp.asarray(right @ np.diag([0.5, 1.0, 3.0]) @ right.T)
    hessian = jnp.kron(a, b)

    @jax.jit
    def run(optimizer, x):
        def step(carry, _):
            x, state = carry
            grads = a @ x @ b
            p = optimizer.preconditioner(state, grads)
            root = jnp.linalg.inv(jnp.linalg.cholesky(dense_matrix(p)))
            top = jnp.linalg.eigvalsh(root @ hessian @ root.T)[-1]
            updates, state = optimizer.update(grads, state)
            return (x + updates, state), (top / optimizer.threshold(state), x)

        return jax.lax.scan(step, (x, optimizer.init(x)), length=1500)[1]

    ratio, x = run(optimizer, jnp.asarray(rng.normal(size=(2, 3))))
    assert float(jnp.abs(x).max()) < 10.0
    # Muon's goes up and down by a factor of two, chaotically: of its median, the order is known.
    low, high = (0.6, 2.0) if name == "muon" else (0.9, 1.15)
    assert low < float(jnp.median(ratio[-500:])) < high


@pytest.mark.parametrize("name", ["shampoo", "soap", "muon"])
def test_a_sweep_is_a_vmap(name: str):
    """And keeps dtypes: parameters in float32 and in bfloat16."""
    lrs = jnp.array([0.01, 0.1])
    rng = np.random.default_rng(0)
    p = {
        "b": jnp.asarray(rng.normal(size=4), jnp.float32),
        "w": jnp.asarray(rng.normal(size=(3, 4)), jnp.bfloat16),
    }
    grads = jax.tree.map(lambda leaf: 0.1 * leaf + 0.1, p)

    @jax.jit
    def one(lr):
        optimizer = OPTIMIZERS[name](lr)
        state = optimizer.init(p)
        for _ in range(3):
            updates, state = optimizer.update(grads, state, p)
        return updates, optimizer.preconditioner(state), optimizer.threshold(state)

    with jax.numpy_dtype_promotion("strict"):
        updates, metrics, thresholds = jax.vmap(one)(lrs)
        alone, _, threshold = one(jnp.asarray(lrs[1]))
    image = jax.vmap(lambda metric: metric.inv_mv(p))(metrics)
    for k, leaf in p.items():
        assert updates[k].dtype == image[k].dtype == leaf.dtype
        assert bool(jnp.isfinite(image[k]).all())
        small = 1e-2 if leaf.dtype == jnp.bfloat16 else 1e-4
        a, b = (np.asarray(x, np.float32) for x in (updates[k][1], alone[k]))
        np.testing.assert_allclose(a, b, rtol=small, atol=small * np.abs(b).max())
    np.testing.assert_allclose(thresholds, threshold * jnp.array([10.0, 1.0]), rtol=1e-5)


def test_dead_leaves_do_not_move():
    """A gradient that was always zero: P is positive there, and the step is zero, not NaN."""
    p = {"w": jnp.ones((2, 3)), "b": jnp.ones(2)}
    grads = jax.tree.map(jnp.zeros_like, p)

    @jax.jit
    def one(optimizer):
        updates, state = optimizer.update(grads, optimizer.init(p))
        return updates, optimizer.preconditioner(state, grads).inv_sqrt_mv(p)

    for make in [*OPTIMIZERS.values(), lambda: ak.muon(0.1, newton_schulz=None)]:
        updates, image = one(make())
        assert all(bool((u == 0).all()) for u in jax.tree.leaves(updates))
        assert all(bool(jnp.isfinite(x).all()) for x in jax.tree.leaves(image))
