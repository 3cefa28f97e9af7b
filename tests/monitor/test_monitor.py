"""The monitor: right numbers, at the right calls, for the loops that people have."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

import aeoskit as ak

ROWS = np.random.default_rng(0).normal(size=(24, 3)).astype(np.float32)
TARGETS = np.tanh(ROWS @ np.array([1.0, -1.0, 0.5], np.float32))
PARAMS = {"hidden": jnp.asarray(np.random.default_rng(1).normal(size=(3, 4)), jnp.float32)}
PARAMS["out"] = jnp.full(4, 0.4)


def loss(params, x, y):
    return 0.5 * jnp.mean((jnp.tanh(x @ params["hidden"]) @ params["out"] - y) ** 2)


WHOLE = loss


def train(monitor, tx, steps=12, params=PARAMS, data=(ROWS, TARGETS), loss=loss, calls=None):
    """A loop as people write it, the monitor's rows, and the parameters and states before steps."""
    state, rows, path = tx.init(params), [], []
    step = jax.jit(lambda params, state: tx.update(jax.grad(loss)(params, *data), state, params))
    for number in range(steps):
        path.append((params, state))
        row = monitor(params, state)
        if row is not None:
            rows.append(row)
            if calls is not None:
                calls.append(number)
        updates, state = step(params, state)
        params = optax.apply_updates(params, updates)
    return rows, path


def dense(params, state, lr, b1=0.9, b2=0.999, eps=1e-8):
    """λ₁(P⁻¹H) of optax's Adam at the coming step, densely and by hand in NumPy."""
    flat, unravel = ravel_pytree(params)
    hessian = np.asarray(jax.hessian(lambda w: loss(unravel(w), ROWS, TARGETS))(flat), float)
    g = np.asarray(ravel_pytree(jax.grad(loss)(params, ROWS, TARGETS))[0], float)
    adam = state[0]
    nu = np.asarray(ravel_pytree(adam.nu)[0], float)
    t = int(adam.count) + 1
    # The learning rate's correction of the momentum belongs to P.
    p = (np.sqrt((b2 * nu + (1 - b2) * g**2) / (1 - b2**t)) + eps) * (1 - b1**t)
    root = 1 / np.sqrt(p)
    return np.linalg.eigvalsh(root[:, None] * hessian * root)[-1], 38 / lr


def test_against_a_dense_matrix_and_the_loop_itself():
    tx, calls = optax.adam(0.01), []
    monitor = ak.Monitor(loss, tx, (ROWS, TARGETS), every=3, sharpness=True)
    rows, path = train(monitor, tx, calls=calls)
    # Each row comes with the call after its step.
    assert calls == [1, 4, 7, 10]
    assert [row["step"] for row in rows] == [0, 3, 6, 9]
    for row in rows:
        (params, state), (after, _) = path[row["step"]], path[row["step"] + 1]
        top, threshold = dense(params, state, 0.01)
        assert row["preconditioned_sharpness"] == pytest.approx(top, rel=1e-2)
        assert row["threshold"] == pytest.approx(threshold, rel=1e-4)
        assert row["ratio"] == pytest.approx(top / threshold, rel=1e-2)
        flat, unravel = ravel_pytree(params)
        raw = np.linalg.eigvalsh(jax.hessian(lambda w, u=unravel: loss(u(w), ROWS, TARGETS))(flat))
        assert row["sharpness"] == pytest.approx(raw[-1], rel=1e-2)
        value, grads = jax.value_and_grad(loss)(params, ROWS, TARGETS)
        assert row["loss"] == pytest.approx(float(value), rel=1e-5)
        assert row["gradient_norm"] == pytest.approx(float(optax.tree.norm(grads)), rel=1e-5)
        promised = sum(
            float(jnp.sum(grads[name] * (after[name] - params[name]))) for name in params
        )
        zeta = 1 - float(loss(after, ROWS, TARGETS) - value) / promised
        assert row["zeta"] == pytest.approx(zeta, abs=0.01)
        assert row["converged"] is True
        assert row["products"] > 0
    assert all(type(value) in (int, float, bool, str, type(None)) for value in rows[-1].values())


@pytest.mark.parametrize(
    ("loss", "batch", "options"),
    [
        (lambda w, batch: loss(w, *batch), (ROWS, TARGETS), {}),
        (lambda w, batch: (batch["x"] @ w["hidden"] @ w["out"]) ** 2, {"x": ROWS}, {}),
        (lambda w, x: jnp.tanh(x @ w["hidden"]) @ w["out"] + 2.0, ROWS, {"microbatch": 5}),
        (lambda w, x, y: (loss(w, x, y), {"aux": x}), (ROWS, TARGETS), {"has_aux": True}),
        (loss, [(ROWS[:10], TARGETS[:10]), (ROWS[10:], TARGETS[10:])], {}),
        (loss, iter([(ROWS[:10], TARGETS[:10]), (ROWS[10:], TARGETS[10:])]), {}),
    ],
    ids=["batch", "dict", "per example", "aux", "list of batches", "iterator"],
)
def test_losses_and_batches_as_people_have_them(loss, batch, options):
    tx = optax.sgd(0.1, momentum=0.9)
    monitor = ak.Monitor(loss, tx, batch, every=1, **options)
    rows, path = train(monitor, tx, steps=3)
    assert [row["step"] for row in rows] == [0, 1]
    assert np.isfinite([row["ratio"] for row in rows]).all()
    if isinstance(batch, dict):
        wanted = np.mean(np.asarray(ROWS @ path[0][0]["hidden"] @ path[0][0]["out"]) ** 2)
    elif isinstance(batch, np.ndarray):
        wanted = np.mean(np.asarray(jnp.tanh(ROWS @ path[0][0]["hidden"]) @ path[0][0]["out"])) + 2
    else:
        wanted = float(WHOLE(path[0][0], ROWS, TARGETS))
    assert rows[0]["loss"] == pytest.approx(wanted, rel=1e-5)


def test_a_model_of_equinox_is_taken_as_it_is():
    model = eqx.nn.MLP(3, "scalar", 4, 1, key=jax.random.key(0))
    tx = optax.adam(1e-2)
    state = tx.init(eqx.filter(model, eqx.is_inexact_array))

    def loss(model, x, y):
        return jnp.mean((jax.vmap(model)(x) - y) ** 2)

    @eqx.filter_jit
    def step(model, state):
        grads = eqx.filter_grad(loss)(model, ROWS, TARGETS)
        updates, state = tx.update(grads, state)
        return eqx.apply_updates(model, updates), state

    monitor = ak.Monitor(loss, tx, (ROWS, TARGETS), every=1)
    row: Any = None
    for _ in range(3):
        row = monitor(model, state)
        model, state = step(model, state)
    assert row["step"] == 1
    assert row["ratio"] > 0
    assert np.isfinite(row["zeta"])


def test_with_minibatches_p_is_that_of_the_step():
    tx = optax.adam(0.01)
    state = tx.init(PARAMS)
    grads = jax.grad(loss)(PARAMS, ROWS[:4], TARGETS[:4])
    monitor = ak.Monitor(loss, tx, (ROWS, TARGETS), every=1)
    monitor(PARAMS, state, grads)
    row: Any = monitor(jax.tree.map(lambda w, g: w - 0.01 * g, PARAMS, grads), state, grads)
    objective = ak.Objective(lambda w, batch: loss(w, *batch), (ROWS, TARGETS))
    wanted = ak.preconditioned_sharpness(objective, PARAMS, tx, state, grads=grads)
    assert row["ratio"] == pytest.approx(float(wanted.ratio), rel=1e-2)
    assert row["state"] is None


def test_an_unknown_optimizer_has_its_realized_edge():
    monitor = ak.Monitor(loss, None, (ROWS, TARGETS), every=1)
    rows, _ = train(monitor, optax.sign_sgd(1e-2), steps=150)
    assert "ratio" not in rows[0]
    assert rows[0]["sharpness"] > 0
    assert rows[0]["state"] is None
    # Steps of a fixed size end up beside the minimum, and gain nothing on average.
    assert rows[-1]["state"] == "at the edge"
    assert np.mean([row["zeta"] for row in rows[-50:]]) == pytest.approx(1, abs=0.1)


def test_the_buffers_of_the_loop_may_be_given_away():
    tx = ak.gradient_descent(0.1)
    params, state = jax.tree.map(jnp.copy, PARAMS), tx.init(PARAMS | {"step": None})

    @jax.jit
    def update(params):
        return jax.tree.map(lambda w, g: w - 0.1 * g, params, jax.grad(loss)(params, ROWS, TARGETS))

    monitor = ak.Monitor(loss, tx, (ROWS, TARGETS), every=1)
    row: Any = None
    for number in range(3):
        # A leaf that is not trained goes with them.
        model = params | {"step": jnp.asarray(number)}
        row = monitor(model, state)
        after = update(params)
        jax.tree.map(lambda leaf: leaf.delete(), model)
        params = after
    assert 0 < row["zeta"] < 1


def test_between_measurements_nothing_is_evaluated():
    """If no row is due or waits, a call looks at nothing: not even at parameters that are none."""
    calls = []

    def counted(params, x, y):
        calls.append(1)
        return loss(params, x, y)

    monitor = ak.Monitor(counted, optax.adam(0.01), (ROWS, TARGETS), every=50)
    train(monitor, optax.adam(0.01), steps=2)
    calls.clear()
    assert monitor(object(), object()) is None
    assert not calls


def test_a_budget_in_place_of_a_period(monkeypatch):
    """By a clock of its own: a measurement of 10 s, steps of 1 s, a fifth of the loop's time."""
    from aeoskit.monitor import _monitor

    now = [0.0]
    monkeypatch.setattr(_monitor.time, "perf_counter", lambda: now[0])
    monitor = ak.Monitor(loss, optax.adam(0.01), (ROWS, TARGETS), overhead=0.2)
    measure = monitor._measure

    def slow(*args):
        now[0] += 10.0
        measure(*args)

    monkeypatch.setattr(monitor, "_measure", slow)
    state, rows = optax.adam(0.01).init(PARAMS), []
    for number in range(500):
        now[0] += 1.0
        # The parameters move, so that each row has a ζ.
        row = monitor(jax.tree.map(lambda w, n=number: w - 1e-4 * n, PARAMS), state)
        rows += [] if row is None else [row]
    # The first two compile and are free; 10 s of each 50 s of the loop.
    assert len(rows) - 2 == pytest.approx(500 * 0.2 / 10, abs=1)


@pytest.mark.parametrize(
    ("loss", "has_aux"),
    [(lambda w, x, y: (loss(w, x, y), jnp.float32(0.9)), False), (loss, True)],
    ids=["forgotten", "too much"],
)
def test_a_pair_is_never_taken_for_a_sum_and_its_weight(loss, has_aux):
    tx = optax.adam(0.01)
    monitor = ak.Monitor(loss, tx, (ROWS, TARGETS), has_aux=has_aux)
    with pytest.raises(TypeError, match=f"pass has_aux={not has_aux}"):
        monitor(PARAMS, tx.init(PARAMS))


def test_a_check_that_failed_fails_again():
    """A loss that couples the examples, in parts."""

    def coupled(w, x, y):
        z = jnp.tanh(x @ w["hidden"]) @ w["out"]
        return jnp.mean((z - jnp.mean(z) - y) ** 2)

    monitor = ak.Monitor(coupled, optax.adam(0.01), (ROWS, TARGETS), every=1, microbatch=5)
    for _ in range(2):
        with pytest.raises(ValueError, match="couples examples"):
            monitor(PARAMS, optax.adam(0.01).init(PARAMS))


def test_an_iterator_of_arrays_is_one_batch():
    seen = []

    def of_rows(w, x):
        seen.append(x.shape)
        return jnp.mean((x @ w["hidden"] @ w["out"] - 1.0) ** 2)

    tx = optax.adam(0.01)
    ak.Monitor(of_rows, tx, iter([ROWS[:10], ROWS[10:]]))(PARAMS, tx.init(PARAMS))
    assert set(seen) == {ROWS.shape}


def test_a_run_that_diverged_is_not_at_the_edge():
    monitor = ak.Monitor(loss, optax.sgd(0.1), (ROWS, TARGETS), every=1)
    state, rows = optax.sgd(0.1).init(PARAMS), []
    for number in range(70):
        # It hovers, and is lost from step 65 on.
        sign = np.nan if number >= 65 else (-1) ** number
        row = monitor(PARAMS | {"out": PARAMS["out"] * sign}, state)
        rows += [] if row is None else [row]
    assert [row["state"] for row in rows[-3:]] == ["diverged"] * 3
    assert np.isnan(rows[-1]["ratio"])


def test_its_table_and_its_figure():
    monitor = ak.Monitor(loss, optax.adam(0.05), (ROWS, TARGETS), every=2)
    with pytest.raises(ValueError, match="no row is complete"):
        monitor.figure()
    assert monitor.table().empty
    train(monitor, optax.adam(0.05), steps=120)
    table = monitor.table()
    assert table.index.tolist() == list(range(0, 119, 2))
    assert table["ratio"].iloc[-1] == monitor.rows[-1]["ratio"]
    figure = monitor.figure("mine")
    assert [axes.get_ylabel()[:8] for axes in figure.axes] == ["training", "precondi", "realized"]


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"every": 2, "overhead": 0.1}, "every is 2 and overhead is 0.1"),
        ({"every": 0}, "every is 0"),
        ({"overhead": 0.0}, "overhead is 0.0"),
        ({"overhead": 20}, "overhead is 20"),
        ({"overhead": float("nan")}, "overhead is nan"),
    ],
)
def test_bad_options_are_refused(options, says):
    with pytest.raises(ValueError, match=says):
        ak.Monitor(loss, optax.adam(0.01), (ROWS, TARGETS), **options)


def test_bad_calls_are_refused_in_one_line():
    with pytest.raises(TypeError, match=r"takes \(w\), and the probe batch has 2 parts"):
        ak.Monitor(lambda w: w, optax.adam(0.01), (ROWS, TARGETS))
    tx = optax.adam(0.01)
    with pytest.raises(TypeError, match="loss"):
        ak.Monitor(tx, loss, (ROWS, TARGETS))  # pyright: ignore[reportArgumentType]
    monitor = ak.Monitor(loss, tx, (ROWS, TARGETS))
    with pytest.raises(TypeError, match="the optimizer's state is missing"):
        monitor(PARAMS)
    with pytest.raises(ValueError, match=r"call monitor\(params, optimizer_state\)"):
        ak.Monitor(loss, tx, (ROWS, TARGETS))(tx.init(PARAMS), PARAMS)
    with pytest.raises(TypeError, match="optimizer is a str"):
        ak.Monitor(loss, "adam", (ROWS, TARGETS))
    with pytest.raises(ValueError, match="the loss fails on these parameters and the probe batch"):
        ak.Monitor(loss, tx, (ROWS[:, :2], TARGETS))(PARAMS, tx.init(PARAMS))
    whole = {"hidden": jnp.arange(3)}
    with pytest.raises(TypeError, match="no floating array"):
        ak.Monitor(loss, tx, (ROWS, TARGETS))(whole, tx.init(whole))
    started = ak.Monitor(loss, tx, (ROWS, TARGETS), every=1)
    started(PARAMS, tx.init(PARAMS))
    with pytest.raises(ValueError, match=r"params has no leaf params\['out'\], which the first"):
        started({"hidden": PARAMS["hidden"]}, tx.init(PARAMS))
    with pytest.raises(ValueError, match="is a number in a list"):
        ak.Monitor(loss, tx, [[1.0, 2.0], [1.0, 2.0]])(PARAMS, tx.init(PARAMS))
    with pytest.raises(TypeError, match="inside jit"):
        jax.jit(monitor)(PARAMS, tx.init(PARAMS))
    with pytest.raises(ValueError, match=r"grads has no leaf grads\['out'\], which the model has"):
        ak.Monitor(loss, tx, (ROWS, TARGETS))(PARAMS, tx.init(PARAMS), {"hidden": PARAMS["hidden"]})
    other = tx.init({"hidden": PARAMS["hidden"]})
    with pytest.raises(ValueError, match=r"no leaf state\[0\].mu\['out'\], which a new state"):
        ak.Monitor(loss, tx, (ROWS, TARGETS))(PARAMS, other)
