"""Shampoo, SOAP and Muon against their published pseudo-code, and at their thresholds."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib
import pytest

from aeoskit import optimizers as ak
from aeoskit.linalg import dense_matrix

STEPS = 100
Tree = dict[str, np.ndarray]
# A bias, a scalar, a tensor, and matrices that are wide, tall and square.
SHAPES = {"b": (4,), "s": (), "t": (2, 3, 2), "tall": (5, 3), "wide": (3, 4)}


def parameters(dtype: Any = None) -> dict[str, jax.Array]:
    rng = np.random.default_rng(0)
    return {k: jnp.asarray(0.5 * rng.normal(size=s), dtype or float) for k, s in SHAPES.items()}


def loss(p: dict[str, jax.Array]) -> jax.Array:
    """Of every leaf by the others, nonlinear: gradients of full rank."""
    inputs = jnp.asarray(np.random.default_rng(1).normal(size=(8, 5)), p["tall"].dtype)
    hidden = jnp.tanh(inputs @ p["tall"]) @ p["wide"] + p["b"][None]
    tensor = jnp.tanh(p["t"].reshape(3, 4)) @ p["wide"].T
    return jnp.mean((jnp.tanh(hidden) - inputs[:, :4]) ** 2) + p["s"] ** 2 + jnp.sum(tensor**2)


def trajectory(optimizer: ak.Optimizer) -> tuple[Any, Any]:
    """Gradients and updates of a hundred steps."""

    @jax.jit
    def run(optimizer, p):
        def step(carry, _):
            p, state = carry
            grads = jax.grad(loss)(p)
            updates, state = optimizer.update(grads, state, p)
            return (ak.apply_updates(p, updates), state), (grads, updates)

        return jax.lax.scan(step, (p, optimizer.init(p)), length=STEPS)[1]

    grads, updates = run(optimizer, parameters())
    return jax.tree.map(np.asarray, grads), jax.tree.map(np.asarray, updates)


def replay(grads: Tree, make: Callable[[str, tuple], Callable[[np.ndarray, int], np.ndarray]]):
    """The updates that the pseudo-code makes of the same gradients, leaf by leaf."""
    updates = {}
    for name, leaf in grads.items():
        step = make(name, leaf.shape[1:])
        updates[name] = np.stack([step(g, t + 1) for t, g in enumerate(leaf)])
    return updates


def assert_same(got: Tree, want: Tree, rtol: float) -> None:
    for name in want:
        assert got[name].dtype == np.float64
        assert np.isfinite(got[name]).all()
        scale = np.abs(want[name]).max()
        np.testing.assert_allclose(got[name], want[name], rtol=rtol, atol=rtol * scale)


def power(matrix: np.ndarray, exponent: float) -> np.ndarray:
    values, vectors = np.linalg.eigh(matrix)
    return (vectors * values[None] ** exponent) @ vectors.T


def mode_product(matrix: np.ndarray, tensor: np.ndarray, axis: int) -> np.ndarray:
    return np.moveaxis(np.tensordot(matrix, tensor, (1, axis)), 0, axis)


def shampoo_of(lr, eps, beta2=None, beta1=None, exponent=None, longest=99) -> Any:
    """Gupta, Koren, Singer, Algorithm 2: for tensors of any order; Algorithm 1 is that of two."""

    def make(name: str, shape: tuple) -> Any:
        shape = shape or (1,)
        start = 0.0 if beta2 is not None else eps
        statistics = [start * np.eye(n) for n in shape]
        momentum = np.zeros(shape)

        def step(g: np.ndarray, t: int) -> np.ndarray:
            nonlocal momentum
            outer_shape, g = g.shape, g.reshape(shape)
            direction = g
            if beta1 is not None:
                direction = momentum = beta1 * momentum + (1 - beta1) * g
            for axis, n in enumerate(shape):
                flat = np.moveaxis(g, axis, 0).reshape(n, -1)
                seen = flat @ flat.T
                if beta2 is None:
                    statistics[axis] = statistics[axis] + seen
                else:
                    statistics[axis] = beta2 * statistics[axis] + (1 - beta2) * seen
            for axis, n in enumerate(shape):
                s = statistics[axis]
                if beta2 is not None:
                    s = s / (1 - beta2**t) + eps * np.eye(n)
                if n > longest:
                    s = np.diag(np.diag(s))
                root = power(s, -(exponent or 1 / (2 * len(shape))))
                direction = mode_product(root, direction, axis)
            return -lr * direction.reshape(outer_shape)

        return step

    return make


SHAMPOO = {
    "published": ({}, {}),
    "averages": (
        {"beta2": 0.9, "beta1": 0.8, "correction": True, "eps": 1e-3},
        {"beta2": 0.9, "beta1": 0.8, "eps": 1e-3},
    ),
    "exponent and long axes": (
        {"exponent": 0.3, "max_dimension": 3},
        {"exponent": 0.3, "longest": 3},
    ),
}


@pytest.mark.parametrize("name", SHAMPOO)
def test_shampoo_is_its_pseudo_code(name: str, x64: None):
    ours, theirs = SHAMPOO[name]
    grads, updates = trajectory(ak.shampoo(0.02, **({"eps": 1e-4} | ours)))
    assert_same(updates, replay(grads, shampoo_of(0.02, **({"eps": 1e-4} | theirs))), 1e-9)


def soap_of(lr, beta1, beta2, eps, frequency, vectors=False, longest=99) -> Any:
    """Vyas et al., Algorithm 3; at the first step the basis is that of the first gradient."""

    def make(name: str, shape: tuple) -> Any:
        shape = shape or (1,)
        rotated = [n <= longest and (vectors or len(shape) > 1) for n in shape]
        statistics = [np.zeros((n, n)) for n in shape]
        bases: list[np.ndarray] = [np.eye(n) for n in shape]
        m, v = np.zeros(shape), np.zeros(shape)

        def project(x: np.ndarray, back: bool = False) -> np.ndarray:
            for axis, q in enumerate(bases):
                x = mode_product(q if back else q.T, x, axis)
            return x

        def step(g: np.ndarray, t: int) -> np.ndarray:
            nonlocal m, v
            outer_shape, g = g.shape, g.reshape(shape)
            seen = []
            for axis, n in enumerate(shape):
                flat = np.moveaxis(g, axis, 0).reshape(n, -1)
                seen.append(flat @ flat.T)
            if t == 1:
                for axis, yes in enumerate(rotated):
                    if yes:
                        bases[axis] = np.linalg.eigh((1 - beta2) * seen[axis])[1][:, ::-1]
            m = beta1 * m + (1 - beta1) * g
            v = beta2 * v + (1 - beta2) * project(g) ** 2
            root = np.sqrt(v / (1 - beta2**t)) + eps
            update = project(project(m) / (1 - beta1**t) / root, back=True)
            for axis, yes in enumerate(rotated):
                statistics[axis] = beta2 * statistics[axis] + (1 - beta2) * seen[axis]
                if yes and t % frequency == 0:
                    bases[axis] = np.linalg.qr(statistics[axis] @ bases[axis])[0]
            return -lr * update.reshape(outer_shape)

        return step

    return make


@pytest.mark.parametrize(
    ("vectors", "longest", "frequency"), [(False, 99, 10), (True, 4, 7)], ids=["usual", "other"]
)
def test_soap_is_its_pseudo_code(vectors: bool, longest: int, frequency: int, x64: None):
    optimizer = ak.soap(
        0.01, 0.9, 0.95, frequency=frequency, rotate_vectors=vectors, max_dimension=longest
    )
    # Not the tall matrix: its first gradient leaves the basis of a null space to the decomposition.
    grads, updates = trajectory(optimizer)
    shapes = {k: g for k, g in grads.items() if k != "tall"}
    want = replay(shapes, soap_of(0.01, 0.9, 0.95, 1e-8, frequency, vectors, longest))
    assert_same(updates, want, 5e-7)


def muon_of(lr, beta, newton_schulz, nesterov=True, scale="width", eps=1e-8) -> Any:
    """Jordan et al.: the iteration on the matrix itself, or the exact polar factor."""

    def orthogonal(x: np.ndarray) -> np.ndarray:
        if newton_schulz is None:
            u, _, vt = np.linalg.svd(x, full_matrices=False)
            return u @ vt
        a, b, c = 3.4445, -4.7750, 2.0315
        tall = x.shape[0] > x.shape[1]
        x = x.T if tall else x
        x = x / (np.linalg.norm(x) + eps)
        for _ in range(newton_schulz):
            gram = x @ x.T
            x = a * x + (b * gram + c * gram @ gram) @ x
        return x.T if tall else x

    def make(name: str, shape: tuple) -> Any:
        buffer = np.zeros(shape)

        def step(g: np.ndarray, t: int) -> np.ndarray:
            nonlocal buffer
            buffer = beta * buffer + (1 - beta) * g
            update = orthogonal((1 - beta) * g + beta * buffer if nesterov else buffer)
            m, n = g.shape
            factor = {"width": max(1, n / m) ** 0.5, "rms": 0.2 * max(m, n) ** 0.5, "none": 1.0}
            return -lr * factor[scale] * update

        return step

    return make


@pytest.mark.parametrize(
    ("newton_schulz", "nesterov", "scale"), [(5, True, "width"), (None, False, "rms")]
)
def test_muon_is_its_pseudo_code(newton_schulz, nesterov: bool, scale: str, x64: None):
    # eps tiny: the exact step is U S / (S + eps) Vᵀ.
    optimizer = ak.muon(
        0.01, 0.9, nesterov=nesterov, newton_schulz=newton_schulz, scale=scale, eps=1e-13
    )
    grads, updates = trajectory(optimizer)
    matrices = {name: grads[name] for name in ("tall", "wide")}
    make = muon_of(0.01, 0.9, newton_schulz, nesterov, scale, 1e-13)
    assert_same(updates, replay(matrices, make), 1e-8)


@pytest.mark.parametrize(("nesterov", "where"), [(True, None), (False, "wide")])
def test_muon_is_that_of_optax(nesterov: bool, where: str | None, x64: None):
    """With `corrected`, and optax giving the other leaves the same momentum.

    Without Nesterov's, optax corrects the average before it adds eps to its norm, and we do not.
    """
    ours = ak.muon(
        0.01, 0.9, nesterov=nesterov, corrected=True, where=where, weight_decay=0.1, eps=1e-12
    )
    numbers = optax.contrib.MuonDimensionNumbers()
    chosen = ("tall", "wide") if where is None else (where,)
    theirs = optax.contrib.muon(
        0.01,
        beta=0.9,
        adam_b1=0.9,
        eps=1e-12,
        nesterov=nesterov,
        weight_decay=0.1,
        adam_weight_decay=0.1,
        muon_weight_dimension_numbers={k: numbers if k in chosen else None for k in SHAPES},
    )
    grads, updates = trajectory(ours)

    @jax.jit
    def run(p, grads):
        def step(carry, g):
            p, state = carry
            updates, state = theirs.update(g, state, p)
            return (optax.apply_updates(p, updates), state), updates

        return jax.lax.scan(step, (p, theirs.init(p)), grads)[1]

    want = jax.tree.map(np.asarray, run(parameters(), grads))
    assert_same(updates, want, 1e-8)


def test_muon_has_its_metric_from_momentum(x64: None):
    """`P² = (M Mᵀ) ⊗ I`, M the direction of the coming step: not of the last, nor the gradient."""
    optimizer = ak.Optimizer(0.1, ak.EMA(0.5), ak.Muon(newton_schulz=None, eps=1e-14, scale="none"))
    rng = np.random.default_rng(0)
    first, second = (jnp.asarray(rng.normal(size=(3, 4))) for _ in range(2))
    _, state = optimizer.update(first, optimizer.init(first))
    m = 0.25 * first + 0.5 * second
    frozen, held = ak.freeze(optimizer, state, second)
    for p, direction in (
        (optimizer.preconditioner(state, second), m),
        (optimizer.preconditioner(state), 0.5 * first),
        (frozen.preconditioner(held, first), m),
    ):
        dense = np.asarray(dense_matrix(p))
        np.testing.assert_allclose(dense @ dense, np.kron(direction @ direction.T, np.eye(4)))
        np.testing.assert_allclose(p.as_matrix(), dense)


BAD = {
    "exponent": (lambda: ak.shampoo(0.1, exponent=0), "exponent must be greater than 0"),
    "eps": (lambda: ak.shampoo(0.1, eps=0.0), "eps must be greater than 0"),
    "correction of sums": (lambda: ak.shampoo(0.1, correction=True), "the statistics are sums"),
    "max_dimension": (lambda: ak.shampoo(0.1, max_dimension=0), "max_dimension must be at least 1"),
    "frequency": (lambda: ak.soap(0.1, frequency=0), "frequency must be at least 1, got 0"),
    "soap correction": (lambda: ak.soap(0.1, correction="both"), "correction must be one of"),
    "scale": (lambda: ak.muon(0.1, scale="big"), "scale must be one of width, rms, none"),
    "newton_schulz": (lambda: ak.muon(0.1, newton_schulz=0), "newton_schulz must be at least 1"),
    "order": (
        lambda: ak.Optimizer(0.1, ak.EMA(), ak.Muon(), order="precondition_first"),
        "Muon makes P from the direction of momentum",
    ),
    "adam first": (
        lambda: ak.Optimizer(0.1, ak.EMA(), ak.SOAP(), order="precondition_first"),
        'correction="adam" puts',
    ),
    "no matrix": (
        lambda: ak.muon(0.1, where="b").init(parameters()),
        r"params\['b'\] has shape \(4,\), but Muon takes matrices",
    ),
    "no such leaf": (lambda: ak.muon(0.1, where="head").init(parameters()), "names no leaf"),
}


@pytest.mark.parametrize("name", BAD)
def test_refuses(name: str):
    make, message = BAD[name]
    with pytest.raises(ValueError, match=message):
        make()
