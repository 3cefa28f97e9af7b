"""The realized edge along a run: by hand in NumPy, and the same however the run is cut."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix as optx
import pytest

import aeoskit as ak
from aeoskit.objective import loss_anatomy
from aeoskit.optimizers import schedule_free_sgd
from aeoskit.probes import check_probe, edge_factors, realized_edge
from aeoskit.record import create_run, load_checkpoint

ROWS = np.random.default_rng(0).normal(size=(20, 3))
TARGETS = np.tanh(ROWS @ np.array([1.0, -1.0, 0.5]))
START = {"hidden": np.random.default_rng(1).normal(size=(3, 4)), "out": np.full(4, 0.4)}


def loss(params, batch):
    rows, targets = batch
    return 0.5 * (jnp.tanh(rows @ params["hidden"]) @ params["out"] - targets) ** 2


def trajectory(optimizer, dtype=jnp.float32, probe=None, **options):
    data = jnp.asarray(ROWS, dtype), jnp.asarray(TARGETS, dtype)
    probes = {"edge": ak.RealizedEdge() if probe is None else probe, "loss": ak.LossAndGradient()}
    run = ak.Trajectory(ak.Objective(loss, data), optimizer, probes, **options)
    params = jax.tree.map(lambda leaf: jnp.asarray(leaf, dtype), START)
    return run, run.init(params, jax.random.key(0))


def follow(run, carry, steps, chunk=16, mode="scan"):
    """The rows of `realized_edge`, (steps, lanes), NaN where it was not known, and the carry."""
    edges = {}
    for part in ak.stream(run, carry, steps, chunk=chunk, mode=mode):
        lanes = part.diverged_at.size
        edges |= {step: np.full(lanes, np.nan) for step in part.steps.tolist()}
        if part.previous:
            edges[int(part.steps[0]) - 1] = part.previous["realized_edge"]
        for place in np.flatnonzero(part.measured.get("realized_edge", [])):
            edges[int(part.steps[place])] = part.measurements["realized_edge"][place]
        carry = part.carry
    return np.stack([edges[step] for step in sorted(edges)]), carry


def gradient_by_hand(hidden, out):
    inner = np.tanh(ROWS @ hidden)
    wrong = inner @ out - TARGETS
    back = np.outer(wrong, out) * (1 - inner**2)
    return 0.5 * np.mean(wrong**2), ROWS.T @ back / len(ROWS), inner.T @ wrong / len(ROWS)


def edges_by_hand(lr, beta1, beta2, steps, debias):
    """Adam (`debias`) or RMSProp (`beta1` = 0), and ζ from three numbers a step."""
    w = [START["hidden"].copy(), START["out"].copy()]
    m, v = [0 * x for x in w], [0 * x for x in w]
    edges = []
    for t in range(1, steps + 1):
        value, *g = gradient_by_hand(*w)
        m = [beta1 * a + (1 - beta1) * b for a, b in zip(m, g, strict=True)]
        v = [beta2 * a + (1 - beta2) * b**2 for a, b in zip(v, g, strict=True)]
        c1, c2 = (1 - beta1**t, 1 - beta2**t) if debias else (1, 1)
        step = [-lr * (a / c1) / (np.sqrt(b / c2) + 1e-8) for a, b in zip(m, v, strict=True)]
        w = [a + b for a, b in zip(w, step, strict=True)]
        promised = sum(np.vdot(a, b) for a, b in zip(g, step, strict=True))
        edges.append(1 - (gradient_by_hand(*w)[0] - value) / promised)
    return np.array(edges)


@pytest.mark.parametrize(
    ("optimizer", "by_hand"),
    [
        (lambda: ak.adam(0.05, beta2=0.99, eps=1e-8), (0.05, 0.9, 0.99, True)),
        (lambda: ak.rmsprop(0.05, beta2=0.99, eps=1e-8), (0.05, 0.0, 0.99, False)),
    ],
    ids=["adam", "rmsprop"],
)
def test_it_is_that_of_plain_numpy(x64, optimizer, by_hand):
    lr, beta1, beta2, debias = by_hand
    run, carry = trajectory(optimizer(), jnp.float64)
    edges, _ = follow(run, carry, 60)
    expected = edges_by_hand(lr, beta1, beta2, 60, debias)
    assert np.isnan(edges[-1, 0])  # the loss after the last step is not known
    np.testing.assert_allclose(edges[:-1, 0], expected[:-1], rtol=1e-6, atol=1e-7)
    assert expected[:-1].max() > 0.9  # not a run in which nothing oscillates


def test_of_gradient_descent_on_a_quadratic_it_is_half_of_the_step_curvature(x64):
    curvatures = jnp.array([1.0, 3.0, 9.0])
    objective = ak.Objective(lambda w, x: 0.5 * jnp.sum(curvatures * w**2) + 0 * x, jnp.zeros(2))
    lr, w = 0.2, jnp.ones(3)
    run = ak.Trajectory(
        objective,
        ak.gradient_descent(lr),
        {
            "edge": ak.RealizedEdge(metric_every=1, curvature=True),
            "ratio": ak.PreconditionedSharpness(solver=ak.Dense()),
            "loss": ak.LossAndGradient(),
        },
    )
    (chunk,) = ak.stream(run, run.init(w, jax.random.key(0)), 6)
    rows = {name: value[:, 0] for name, value in chunk.measurements.items()}
    for step in range(5):
        g = curvatures * w
        expected = lr / 2 * (g @ (curvatures * g)) / (g @ g)
        np.testing.assert_allclose(rows["realized_edge"][step], expected, rtol=1e-10)
        np.testing.assert_allclose(rows["step_curvature"][step], expected, rtol=1e-10)
        w = w - lr * g
    change = np.diff(rows["loss"])
    sharpness, ratio = rows["preconditioned_sharpness"][:5, 0], rows["ratio"][:5]
    participation, calibration = edge_factors(
        change, rows["predicted_change"][:5], sharpness, sharpness / ratio, rows["step_norm"][:5]
    )
    np.testing.assert_allclose(calibration, 1, rtol=1e-10)
    assert (participation <= 1 + 1e-10).all()
    np.testing.assert_allclose(
        ratio * participation / calibration, rows["realized_edge"][:5], rtol=1e-10
    )


def test_the_curvature_of_the_segment_is_that_of_the_loss_as_the_step_shrinks(x64):
    objective = ak.Objective(loss, (jnp.asarray(ROWS), jnp.asarray(TARGETS)))
    params = jax.tree.map(jnp.asarray, START)
    value, grads = objective.value_and_gradient(params)
    curved = sum(
        jnp.vdot(a, b)
        for a, b in zip(
            jax.tree.leaves(grads),
            jax.tree.leaves(objective.hessian(params).mv(grads)),
            strict=True,
        )
    )
    for lr, tolerance in ((1e-2, 1e-1), (1e-4, 1e-3)):
        after = jax.tree.map(lambda w, g, lr=lr: w - lr * g, params, grads)
        edge = realized_edge(value, objective.value(after), grads, params=params, new_params=after)
        slope = -edge.predicted_change / lr
        assert float(edge.value * 2 * slope / lr) == pytest.approx(float(curved), rel=tolerance)


def test_a_factor_that_is_not_positive_is_not_known():
    participation, calibration = edge_factors(-2.0, -1.0, 4.0, 4.0, 1.0)
    assert np.isnan(participation)
    assert calibration == 0.5
    assert np.isnan(edge_factors(0.0, 1.0, 4.0, 4.0, 1.0)[1])


@pytest.mark.parametrize("mode", ["scan", "host"])
@pytest.mark.parametrize("lanes", [None, 2])
def test_it_is_the_same_however_the_run_is_cut(mode, lanes):
    optimizer = ak.adam(0.05)
    if lanes:
        optimizer = ak.stack_lanes([ak.adam(0.05), ak.adam(0.01)])
    run, carry = trajectory(optimizer, lanes=lanes)
    whole, _ = follow(run, carry, 23, 100, mode)
    assert np.isfinite(whole[:-1]).all()
    for chunk in (1, 7):
        np.testing.assert_array_equal(follow(run, carry, 23, chunk, mode)[0], whole)
    if lanes:
        for lane, lr in enumerate((0.05, 0.01)):
            alone, _ = follow(*trajectory(ak.adam(lr)), 23, 100, mode)
            np.testing.assert_allclose(whole[:, lane], alone[:, 0], rtol=2e-3, atol=2e-4)


def test_a_run_goes_on_from_its_carry_and_from_a_checkpoint_bit_for_bit(tmp_path):
    run, carry = trajectory(ak.adam(0.05))
    whole, _ = follow(run, carry, 23)
    first, middle = follow(run, carry, 9)
    np.testing.assert_array_equal(first[:-1], whole[:8])
    writer = create_run(tmp_path, "try", pipeline={}, environment={})
    writer.checkpoint("main", 9, middle)
    for start in (middle, load_checkpoint(writer.path, "main", 9, like=carry)):
        second, _ = follow(run, start, 14)
        # The first row is that of step 8, which the first part did not know.
        np.testing.assert_array_equal(second, whole[8:])
    # A carry without what is pending goes on; that row is not known then.
    second, _ = follow(run, dataclasses.replace(middle, pending=None), 14)
    np.testing.assert_array_equal(second, whole[9:])


def test_a_lane_that_diverged_takes_no_step():
    sweep = ak.stack_lanes([ak.gradient_descent(0.1), ak.gradient_descent(1e4)])
    run, carry = trajectory(sweep, lanes=2)
    edges, carry = follow(run, carry, 20)
    at = int(carry.lane.diverged_at[1])
    assert 0 < at < 19
    assert np.isfinite(edges[:-1, 0]).all()
    assert np.isfinite(edges[: at - 1, 1]).all()
    assert np.isnan(edges[at:, 1]).all()


def test_on_minibatches_it_is_that_of_the_batch_when_due():
    run, carry = trajectory(ak.adam(0.05), probe=ak.RealizedEdge(every=3), batch=8)
    (chunk,) = ak.stream(run, carry, 10)
    assert chunk.measured["realized_edge"].tolist() == [i % 3 == 0 for i in range(10)]
    assert chunk.carry.pending is None
    assert not chunk.previous
    from aeoskit.trajectory._step import make_context

    params, state = carry.lane.params, carry.lane.optimizer_state
    for step in range(7):
        lane = dataclasses.replace(carry.lane, params=params, optimizer_state=state)
        point = make_context(run, lane, jnp.asarray(step), "compiled")
        after, state = run.optimizer.step(point.batch.value, params, state, point.grads)
        if step % 3 == 0:
            expected = realized_edge(
                point.value,
                point.batch.value(after),
                point.grads,
                params=params,
                new_params=after,
                squares=True,
            )
            found = chunk.measurements["realized_edge"][step, 0]
            assert found == pytest.approx(float(expected.value), rel=1e-3, abs=1e-4)
            assert chunk.measurements["realized_edge_error"][step, 0] == pytest.approx(
                float(expected.error), rel=1e-2
            )
        params = after


def test_on_minibatches_the_step_that_is_not_taken_has_none():
    run, carry = trajectory(ak.gradient_descent(1e4), batch=8)
    (chunk,) = ak.stream(run, carry, 10)
    at = int(chunk.diverged_at[0])
    assert 0 < at < 9
    assert np.isnan(chunk.measurements["realized_edge"][at:, 0]).all()
    assert np.isnan(chunk.measurements["predicted_change"][at:, 0]).all()


@pytest.mark.parametrize(
    "optimizer",
    [
        optax.adamw(1e-2, weight_decay=0.1),
        optax.chain(optax.clip_by_global_norm(0.1), optax.sgd(0.1)),
        optax.lion(1e-2),
        optx.BFGS(1e-6, 1e-6),
        schedule_free_sgd(0.1),
    ],
    ids=["optax adamw", "optax chain", "optax lion", "BFGS", "schedule-free"],
)
def test_of_any_optimizer(optimizer):
    run, carry = trajectory(optimizer)
    edges, end = follow(run, carry, 8)
    objective = run.objective
    params, state = carry.lane.params, carry.lane.optimizer_state
    value, grads = objective.value_and_gradient(params)
    after, _ = run.optimizer.step(objective.value, params, state, grads)
    expected = realized_edge(value, objective.value(after), grads, params=params, new_params=after)
    # BFGS takes no step before it has compared two values.
    assert edges[0, 0] == pytest.approx(float(expected.value), rel=1e-3, abs=1e-4, nan_ok=True)
    assert np.isfinite(edges[1:7]).sum() >= 3
    assert int(end.step) == 8


class TestRounding:
    def test_a_step_lost_in_rounding_is_not_known(self):
        edge = realized_edge(jnp.float32(1.0), jnp.float32(1.0), 1.0, update=-1e-6)
        assert float(edge.error) == pytest.approx(0.6, rel=0.01)
        assert np.isnan(edge.value)

    def test_a_run_that_is_fitted_is_not_known(self):
        run, carry = trajectory(ak.gradient_descent(1e-6))
        edges, _ = follow(run, carry, 5)
        assert np.isnan(edges).all()

    @pytest.mark.parametrize("squares", [True, False])
    def test_the_bar_is_the_size_of_the_error(self, x64, squares):
        """Against double precision, from the start to a fit, whatever is known of the loss."""

        def loss(params, batch):
            outputs = jnp.tanh(batch[0] @ params[0]) @ params[1]
            if squares:
                return 0.5 * jnp.sum((outputs - batch[1]) ** 2, 1)
            return -jnp.sum(batch[1] * jax.nn.log_softmax(outputs), 1)

        rng = np.random.default_rng(0)
        rows, classes = rng.normal(size=(64, 10)), np.eye(3)[rng.integers(3, size=64)]
        weights = [rng.normal(size=size) / np.sqrt(size[0]) for size in ((10, 64), (64, 3))]
        exact, single = (
            ak.Objective(loss, jax.tree.map(lambda x, d=dtype: jnp.asarray(x, d), (rows, classes)))
            for dtype in (jnp.float64, jnp.float32)
        )
        assert loss_anatomy(exact, weights).squares == squares
        optimizer, params = ak.adam(0.01), [jnp.asarray(x, jnp.float32) for x in weights]
        state, beyond, known = optimizer.init(params), [], []
        values = jax.jit(lambda params: single.value_and_gradient(params))
        wide_values = jax.jit(lambda params: exact.value_and_gradient(params))
        for _ in range(400):
            value, grads = values(params)
            after, state = optimizer.step(single.value, params, state, grads)
            edge = {"params": params, "new_params": after, "squares": squares}
            found = realized_edge(value, values(after)[0], grads, **edge)
            edge |= {
                name: jax.tree.map(lambda x: x.astype(jnp.float64), edge[name])
                for name in ("params", "new_params")
            }
            value, grads = wide_values(edge["params"])
            right = realized_edge(value, wide_values(edge["new_params"])[0], grads, **edge)
            if np.isfinite(found.value):
                known.append(float(value))
                beyond.append(abs(float(found.value - right.value)) / float(found.error))
            params = after
        assert len(beyond) > 100
        assert min(known) < 1e-2
        assert max(beyond) < 1
        assert max(beyond) > 0.1


@pytest.mark.parametrize(
    ("squares", "of"),
    [
        (True, lambda wrong, w: wrong**2),
        (True, lambda wrong, w: 0.5 * jnp.mean(jnp.square(wrong), -1)),
        (True, jax.jit(lambda wrong, w: (jnp.sum(wrong * wrong, -1), jnp.ones(5)))),
        (True, lambda wrong, w: jnp.sum(wrong**2, -1) / 3 + 0.1 * jnp.sum(w**2)),
        (True, lambda wrong, w: ak.objective.SquaredError()(wrong, jnp.ones((5, 2)))),
        (False, lambda wrong, w: jnp.sum(wrong**2, -1) + jnp.sum(jnp.abs(w))),
        (False, lambda wrong, w: jnp.log(jnp.sum(wrong**2, -1))),
        (False, lambda wrong, w: jnp.sum(wrong**2 - wrong, -1)),
        (False, lambda wrong, w: jnp.array([-1.0, 1.0]) @ (wrong**2).T),
        (False, lambda wrong, w: jnp.sum(jnp.array([[-1.0, 1.0]]) * wrong**2, -1)),
        (False, lambda wrong, w: jnp.sum(1 / wrong**2, -1)),
        (False, lambda wrong, w: w[0, 0] * jnp.sum(wrong**2, -1)),
        (False, lambda wrong, w: jnp.sum(wrong**2, -1) + -0.5 * jnp.sum(w**2)),
        (False, lambda wrong, w: jnp.sum(wrong**2 * wrong, -1)),
        (False, jax.jit(lambda wrong, w: jnp.sum(wrong, -1))),
        (False, lambda wrong, w: ak.objective.SoftmaxCrossEntropy()(wrong, jnp.ones((5, 2)))),
    ],
)
def test_a_sum_of_squares_is_seen(squares, of):
    objective = ak.Objective(lambda w, x: of(jnp.tanh(x @ w), w), jnp.ones((5, 3)))
    assert loss_anatomy(objective, jnp.ones((3, 2))).squares == squares


@pytest.mark.parametrize("batch", [None, 8])
def test_a_part_in_reduced_precision_is_in_the_bar(batch):
    def rounded(params, data):
        return loss(jax.tree.map(lambda x: x.astype(jnp.bfloat16).astype(x.dtype), params), data)

    run, carry = trajectory(ak.adam(0.03), batch=batch)
    narrow = ak.Objective(rounded, run.objective.data)
    errors = []
    for objective in (run.objective, narrow):
        probes = {"edge": ak.RealizedEdge()}
        run = ak.Trajectory(objective, ak.adam(0.03), probes, batch=batch)
        (chunk,) = ak.stream(run, run.init(carry.lane.params, jax.random.key(0)), 2)
        errors.append(chunk.measurements["realized_edge_error"][0, 0])
    assert errors[1] > 1e4 * errors[0]


def test_it_is_a_probe_like_others():
    check_probe(ak.RealizedEdge())
    check_probe(ak.RealizedEdge(metric_every=1, curvature=True))


def test_bad_input_is_refused():
    with pytest.raises(ValueError, match="pass either update, or both"):
        realized_edge(1.0, 0.5, 1.0)
    with pytest.raises(ValueError, match="pass either update, or both"):
        realized_edge(1.0, 0.5, 1.0, params=1.0)
    with pytest.raises(ValueError, match=r"update has no leaf update\['a'\], which grads has"):
        realized_edge(1.0, 0.5, {"a": jnp.ones(3)}, update={"b": jnp.ones(3)})
    with pytest.raises(ValueError, match=r"new_params has shape \(4,\), but grads has \(3,\)"):
        realized_edge(1.0, 0.5, jnp.ones(3), params=jnp.ones(3), new_params=jnp.ones(4))
    with pytest.raises(ValueError, match="metric_every is None"):
        ak.RealizedEdge(curvature=True)
    with pytest.raises(ValueError, match="at least 1"):
        ak.RealizedEdge(metric_every=0)
