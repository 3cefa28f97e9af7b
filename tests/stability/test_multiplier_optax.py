"""Multipliers of stock optax steps on a small network, against its dense Jacobian."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from aeoskit import optimizers as opt
from aeoskit.stability import equivalent_ratio, flip_multiplier
from aeoskit.stability._analysis import analyze_map
from aeoskit.stability._update_map import HeldMap, MapJacobian

# A network whose input 0 is dead, as one array: a stock optimizer compiles for seconds.
INPUTS = jax.random.normal(jax.random.key(1), (12, 4)).at[:, 0].set(0.0)
TARGETS = jax.random.normal(jax.random.key(2), (12,))


def _loss(params, data):
    inputs, targets = data
    return 0.5 * jnp.mean((jnp.tanh(inputs @ params[:4]) @ params[4] - targets) ** 2)


@eqx.filter_jit
def _train(update_map, tx, args):
    params = jax.random.normal(jax.random.key(0), (5, 3)) / 2
    point = params, tx.init(params)
    return jax.lax.fori_loop(0, 60, lambda i, c: update_map(c[0], c[1], *args), point)


@eqx.filter_jit
def _jacobian(held: HeldMap):
    """By JAX alone: rows and columns are the coordinates of the leaves that move."""
    blocks = jax.jacfwd(held)(held.point)
    sizes = [x.size for x in held.point]
    rows = [
        jnp.concatenate([b.reshape(m, n) for b, n in zip(row, sizes, strict=True)], axis=1)
        for row, m in zip(blocks, sizes, strict=True)
    ]
    return jnp.concatenate(rows)


def _smallest(matrix) -> complex:
    values = np.linalg.eigvals(np.asarray(matrix))
    return complex(values[np.argmin(values.real)])


@eqx.filter_jit
def _seen(held: HeldMap):
    """What the probe sees, and the operator that Arnoldi would work with."""
    seen = analyze_map(held, None)
    matrix = MapJacobian(seen.map, seen.scale, seen.alive).as_matrix()
    return seen.dead, jnp.any(seen.constant), matrix


CLIPPED = {
    name: optax.chain(optax.clip_by_global_norm(0.05), tx)
    for name, tx in {"adam": optax.adam(0.05, b2=0.9), "nadam": optax.nadam(0.05, b2=0.9)}.items()
}


def _clipped(params, state, data, nesterov):
    grads = jax.grad(_loss)(params, data)
    updates, state = jax.lax.cond(
        nesterov, CLIPPED["nadam"].update, CLIPPED["adam"].update, grads, state, params
    )
    return params + updates, state


@pytest.mark.parametrize("nesterov", [False, True], ids=["adam", "nadam"])
def test_clipped_adam_with_a_dead_input_is_the_dense_eigenvalue(nesterov: bool, x64: None):
    """The derivative of the square root at zero is infinite, and no NaN comes of it."""
    data = INPUTS.astype(float), TARGETS.astype(float)
    args = (data, jnp.asarray(nesterov))
    point = _train(_clipped, CLIPPED["adam"], args)
    moments = point[1][1][0].nu
    assert not np.asarray(moments[0]).any()
    assert np.asarray(moments[1:]).all()
    found = flip_multiplier(_clipped, point, args=args)
    assert bool(found.converged)
    assert int(found.dead) == 3
    vector = np.asarray(found.vector[0])
    assert np.isfinite(vector).all()
    assert not vector[0].any()
    matrix = np.asarray(_jacobian(HeldMap(_clipped, point[0], point[1], args)))
    sound = np.isfinite(matrix).all(axis=1)
    assert (~sound).sum() == 3  # the naive Jacobian has NaN there
    expected = _smallest(matrix[sound][:, sound])
    distance = min(abs(found.value - expected), abs(found.value - expected.conjugate()))
    assert distance <= float(found.bound)
    assert distance <= 1e-3
    scaled = np.asarray(_seen(HeldMap(_clipped, point[0], point[1], args))[2])
    values, right = np.linalg.eig(scaled)
    best = np.argmin(np.real(values))
    condition = np.linalg.norm(np.linalg.inv(right)[best]) * np.linalg.norm(right[:, best])
    assert bool(found.left_found)
    np.testing.assert_allclose(found.condition, condition, rtol=1e-2)


@pytest.mark.parametrize(
    ("tx", "dead"),
    [
        (optax.chain(optax.clip_by_global_norm(0.5), optax.sgd(0.1, momentum=0.9)), 0),
        # eps among the state: derivatives in it are of any size.
        (optax.inject_hyperparams(optax.rmsprop)(1e-2, momentum=0.9), 0),
        # Its clipping by the norm of a leaf would spread the NaN over all of it.
        (optax.adafactor(1e-2), 3),
    ],
    ids=["sgd", "rmsprop", "adafactor"],
)
@pytest.mark.part(1)
def test_stock_optax_gives_no_nan(tx, dead: int):
    """In single precision, without the solve: the operator that it would work with."""

    def update_map(params, state, data):
        updates, state = tx.update(jax.grad(_loss)(params, data), state, params)
        return params + updates, state

    params = jax.random.normal(jax.random.key(0), (5, 3))
    point = params, tx.init(params)
    for _ in range(2):
        point = update_map(point[0], point[1], (INPUTS, TARGETS))
    found, constant, matrix = _seen(HeldMap(update_map, point[0], point[1], ((INPUTS, TARGETS),)))
    assert int(found) == dead
    assert not bool(constant)
    assert np.isfinite(matrix).all()
    assert np.linalg.norm(matrix) < 1e3


@pytest.mark.parametrize(
    "tx", [optax.lion(1e-3), optax.sign_sgd(1e-3)], ids=["lion", "sign_descent"]
)
def test_piecewise_constant_updates_are_refused(tx):
    def update_map(params, state):
        updates, state = tx.update(jax.grad(_loss)(params, (INPUTS, TARGETS)), state, params)
        return params + updates, state

    params = jax.random.normal(jax.random.key(0), (5, 3))
    with pytest.raises(ValueError, match="update of params is piecewise constant"):
        flip_multiplier(update_map, (params, tx.init(params)))


@eqx.filter_jit
def _both(optimizer, data):
    """At the edge: the Jacobians of the whole map and of the one with P frozen."""

    def loss(params):
        return 0.5 * jnp.mean((jnp.tanh(data[0] @ params[:3]) @ params[3] - data[1]) ** 2)

    def step(params, state, optimizer):
        updates, state = optimizer.update(jax.grad(loss)(params), state, params)
        return params + updates, state

    params = jax.random.normal(jax.random.key(0), (4, 3)) / 2
    point = params, optimizer.init(params)
    point = jax.lax.fori_loop(0, 400, lambda i, c: step(c[0], c[1], optimizer), point)
    frozen, state = opt.freeze(optimizer, point[1], jax.grad(loss)(point[0]))
    live = _jacobian(HeldMap(step, point[0], point[1], (optimizer,)))
    return live, _jacobian(HeldMap(step, point[0], state, (frozen,)))


def test_whole_map_is_the_frozen_one_to_first_order(x64: None):
    """Dense on both sides: the difference is O(1 - β₂)."""
    data = INPUTS[:, 1:].astype(float), TARGETS.astype(float)
    differences = []
    for beta2 in (0.9, 0.99, 0.999):
        ratios = []
        for matrix in _both(opt.adam(0.05, 0.9, beta2), data):
            ratios.append(float(equivalent_ratio(_smallest(matrix), opt.EMA(0.9))))
        differences.append(abs(ratios[0] - ratios[1]))
        assert 0 < differences[-1] < 2 * (1 - beta2)
