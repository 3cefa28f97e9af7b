"""Probes on a small net: values against the dense float64 matrix, warm starts, refusals."""

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from jax.flatten_util import ravel_pytree

from aeoskit.linalg import RESULTS, Lanczos
from aeoskit.objective import Objective
from aeoskit.optimizers import LinearWarmup, adam, apply_updates, from_optax
from aeoskit.probes import (
    LossAndGradient,
    PreconditionedSharpness,
    ProbeContext,
    Sharpness,
    StabilityThreshold,
    preconditioned_sharpness,
    sharpness,
)
from aeoskit.trajectory import Trajectory, stream

SOLVER = Lanczos()


def loss(params, batch):
    inputs, targets = batch
    hidden = jnp.tanh(inputs @ params["hidden"])
    return 0.5 * jnp.sum((hidden @ params["out"] - targets) ** 2, axis=-1)


def make_context(objective, params, optimizer, state, step=0):
    value, grads = objective.value_and_gradient(params)
    return ProbeContext(
        objective, params, optimizer, state, value, grads, jnp.asarray(step), jax.random.key(0)
    )


@pytest.fixture(scope="module")
def contexts():
    """Two points of a run by Adam, one step apart, after a few steps, so that P is no constant."""
    keys = jax.random.split(jax.random.key(3), 4)
    data = (jax.random.normal(keys[0], (30, 4)), jax.random.normal(keys[1], (30, 2)))
    params = {
        "hidden": 0.5 * jax.random.normal(keys[2], (4, 6)),
        "out": 0.5 * jax.random.normal(keys[3], (6, 2)),
    }
    objective, optimizer = Objective(loss, data), adam(1e-2, eps=1e-6)
    state, found = optimizer.init(params), []
    for step in range(5):
        context = make_context(objective, params, optimizer, state, step)
        found.append(context)
        updates, state = optimizer.update(context.grads, state, params)
        params = apply_updates(params, updates)
    return found[-2:]


@pytest.fixture(scope="module")
def dense(contexts):
    """All eigenvalues of `H` and of `P⁻¹H` in float64, by definition, largest first."""
    context = contexts[1]
    diagonal = context.optimizer.preconditioner(context.optimizer_state, context.grads).diagonal
    with jax.enable_x64(True):
        params, data, diagonal = jax.tree.map(
            lambda leaf: jnp.asarray(leaf, jnp.float64),
            (context.params, context.objective.data, diagonal),
        )
        flat, rebuild = ravel_pytree(params)
        hessian = jax.hessian(lambda flat: jnp.mean(loss(rebuild(flat), data)))(flat)
        root = 1 / np.sqrt(ravel_pytree(diagonal)[0])
        both = hessian, root[:, None] * hessian * root[None, :]
        raw, preconditioned = (np.linalg.eigvalsh(np.asarray(matrix))[::-1] for matrix in both)
        # A top direction of P⁻¹H itself, and P along it.
        values, vectors = np.linalg.eig(np.asarray(root[:, None] ** 2 * hessian))
        top = np.real(vectors[:, np.argmax(np.real(values))])
        return raw, preconditioned, float(top**2 @ (1 / root**2) / (top @ top))


@pytest.fixture(scope="module")
def measured(contexts):
    """Each probe, cold and warm, at the same point: by k, what was measured and the new state."""
    first, context = contexts
    found = {}
    for kind, k in ((Sharpness, 3), (PreconditionedSharpness, 1), (PreconditionedSharpness, 3)):
        probe = kind(k=k, solver=SOLVER)
        start = probe.init(context.params, jax.random.key(7))
        _, warm = probe.measure(first, start)
        found[kind, k] = (probe.measure(context, start)[0], probe.measure(context, warm)[0])
    return found


@pytest.mark.parametrize("k", [1, 3])
@pytest.mark.parametrize("warm", [False, True])
def test_preconditioned_sharpness_equals_the_dense_matrix(contexts, dense, measured, k, warm):
    found = measured[PreconditionedSharpness, k][warm]
    values = found["preconditioned_sharpness"]
    np.testing.assert_allclose(values, dense[1][:k], rtol=1e-4)
    assert found["preconditioned_sharpness_converged"].all()
    assert (found["preconditioned_sharpness_residual"] <= SOLVER.rtol * values).all()
    threshold = float(contexts[1].optimizer.threshold(contexts[1].optimizer_state))
    assert threshold == pytest.approx(38 / 1e-2, rel=1e-5)
    assert float(found["ratio"]) == pytest.approx(float(values[0]) / threshold, rel=1e-6)
    assert float(found["metric_at_top"]) == pytest.approx(dense[2], rel=1e-2)


@pytest.mark.parametrize("warm", [False, True])
def test_sharpness_equals_the_dense_matrix(dense, measured, warm):
    found = measured[Sharpness, 3][warm]
    np.testing.assert_allclose(found["sharpness"], dense[0][:3], rtol=1e-4)
    assert found["sharpness_converged"].all()


def test_a_probe_measures_what_it_says(contexts, measured):
    for (kind, k), (found, _) in measured.items():
        probe = kind(k=k)
        assert set(found) == set(probe.measures)
        assert probe.solves
        assert {found[probe.measures[place]].shape for place in range(3)} == {(k,)}
    for probe in (LossAndGradient(), StabilityThreshold()):
        state = probe.init(contexts[0].params, jax.random.key(0))
        found, _ = probe.measure(contexts[0], state)
        assert set(found) == set(probe.measures)
        assert not probe.solves


def test_loss_and_gradient_are_those_of_the_step(contexts):
    found, _ = LossAndGradient().measure(contexts[0], None)
    assert found["loss"] is contexts[0].value
    norm = np.linalg.norm(ravel_pytree(contexts[0].grads)[0])
    assert float(found["gradient_norm"]) == pytest.approx(norm, rel=1e-6)


def test_the_function_takes_the_gradient_itself_where_none_is_given(contexts, measured):
    context = contexts[1]
    start = PreconditionedSharpness().init(context.params, jax.random.key(7))
    point = (context.objective, context.params, context.optimizer, context.optimizer_state)
    itself, given = (
        preconditioned_sharpness(*point, grads=grads, start=start, driver="compiled")
        for grads in (None, context.grads)
    )
    # One gradient is compiled, the other was not: they round differently.
    np.testing.assert_allclose(itself.values, given.values, rtol=1e-4)
    assert float(itself.threshold) == float(given.threshold)
    # And both are what the probe measures there.
    cold = measured[PreconditionedSharpness, 1][0]
    assert float(given.ratio) == pytest.approx(float(cold["ratio"]), rel=1e-6)
    assert (given.bounds >= np.abs(given.values - itself.values)).all()
    # Twice the gradient is another P, for the values that the coming step would have.
    twice = jax.tree.map(lambda leaf: 2 * leaf, context.grads)
    other = preconditioned_sharpness(*point, grads=twice, start=start, driver="compiled")
    assert float(other.values[0]) < float(given.values[0])


def test_a_linearization_gives_gradient_and_products(contexts, measured):
    first, second = contexts
    point = second.objective.linearize(second.params)
    edge = preconditioned_sharpness(
        second.objective,
        second.params,
        second.optimizer,
        second.optimizer_state,
        linearization=point,
    )
    expected = preconditioned_sharpness(
        second.objective, second.params, second.optimizer, second.optimizer_state
    )
    np.testing.assert_allclose(edge.values, expected.values, rtol=1e-4)
    for function, rest in (
        (sharpness, ()),
        (preconditioned_sharpness, (first.optimizer, first.optimizer_state)),
    ):
        with pytest.raises(ValueError, match="other params"):
            function(first.objective, first.params, *rest, linearization=point)
    half = second.objective.on_batch(jnp.arange(15))
    with pytest.raises(ValueError, match="other objective"):
        sharpness(half, second.params, linearization=point)


def test_a_linearization_is_no_constant_of_a_transformation():
    objective = Objective(lambda w, x: (x @ w) ** 4, jnp.ones((3, 1)))
    point = objective.linearize(jnp.ones(1))

    def top(w, inside):
        made = objective.linearize(w) if inside else point
        return sharpness(objective, w, linearization=made).values[0]

    with pytest.raises(ValueError, match="inside of it"):
        jax.grad(top)(jnp.ones(1), False)
    # The second derivative of w⁴ is 12 w².
    np.testing.assert_allclose(jax.grad(top)(jnp.ones(1), True), [24.0], rtol=1e-4)


@pytest.mark.parametrize("mode", ["scan", "host"])
def test_a_run_that_begins_at_nan_goes_on_without_numbers(mode):
    objective = Objective(lambda w, x: (x @ w) ** 2, jnp.ones((3, 2)))
    trajectory = Trajectory(objective, adam(0.1), {"sharpness": Sharpness()})
    carry = trajectory.init(jnp.full(2, jnp.nan), jax.random.key(0))
    chunk = next(stream(trajectory, carry, 3, mode=mode))
    assert np.isnan(chunk.measurements["sharpness"]).all()
    assert chunk.diverged_at == 0
    with pytest.raises(ValueError, match="other params"):
        sharpness(objective, jnp.ones(2), linearization=objective.linearize(jnp.full(2, jnp.nan)))
    lost = jnp.full(2, jnp.nan)
    found = sharpness(objective, lost, linearization=objective.linearize(lost.copy()))
    assert found.result == RESULTS.nonfinite


def test_an_unconverged_solve_says_so(contexts):
    context = contexts[1]
    probe = Sharpness(k=3, solver=SOLVER, max_matvecs=2)
    start = probe.init(context.params, jax.random.key(7))
    solution = sharpness(
        context.objective, context.params, k=3, solver=SOLVER, start=start, max_matvecs=2
    )
    assert int(solution.stats["matvecs"]) == 2
    assert bool(solution.result == RESULTS.max_matvecs_reached)
    assert not solution.converged.all()
    found, _ = probe.measure(context, start)
    assert not found["sharpness_converged"].all()
    assert int(found["sharpness_matvecs"]) == 2


@pytest.mark.parametrize("kind", [Sharpness, PreconditionedSharpness])
def test_more_eigenvalues_than_the_dimension_are_refused(contexts, kind):
    probe = kind(k=37, solver=Lanczos(basis=60))
    with pytest.raises(ValueError, match=r"k is 37.*36"):
        probe.init(contexts[0].params, jax.random.key(0))
    assert kind(k=36, solver=Lanczos(basis=60)).init(contexts[0].params, jax.random.key(0))


@pytest.mark.parametrize("k", [0, -1, True])
@pytest.mark.parametrize("kind", [Sharpness, PreconditionedSharpness])
def test_a_count_that_is_none_is_refused(kind, k):
    with pytest.raises(ValueError, match="k is"):
        kind(k=k)


@pytest.mark.parametrize("every", [0, -1, True])
def test_a_period_that_is_none_is_refused(every):
    for kind in (LossAndGradient, StabilityThreshold, Sharpness, PreconditionedSharpness):
        with pytest.raises(ValueError, match="at least 1"):
            kind(every=every)


def test_the_threshold_follows_the_schedule(contexts):
    optimizer = adam(LinearWarmup(1e-2, 4))
    state = optimizer.init(contexts[0].params)
    measure = eqx.filter_jit(StabilityThreshold().measure)
    rates, thresholds = [], []
    for _ in range(6):
        context = eqx.tree_at(
            lambda at: (at.optimizer, at.optimizer_state),
            contexts[0],
            (optimizer, state),
            is_leaf=lambda leaf: leaf is contexts[0].optimizer,
        )
        found, _ = measure(context, None)
        rates.append(float(found["learning_rate"]))
        thresholds.append(float(found["threshold"]))
        _, state = optimizer.update(context.grads, state, context.params)
    expected = [2.5e-3, 5e-3, 7.5e-3, 1e-2, 1e-2, 1e-2]
    np.testing.assert_allclose(rates, expected, rtol=1e-6)
    np.testing.assert_allclose(thresholds, 38 / np.array(expected), rtol=1e-5)


def test_the_threshold_of_groups_of_parameters(contexts):
    """The parameters distinguish optax's groups: it is that of the first, in whose units P is."""
    transform = optax.partition(
        {"slow": optax.adam(0.1), "fast": optax.adam(0.2)}, {"hidden": "slow", "out": "fast"}
    )
    context, optimizer = contexts[0], from_optax(transform)
    state = optimizer.init(context.params)
    context = make_context(context.objective, context.params, optimizer, state)
    found, _ = StabilityThreshold().measure(context, None)
    assert float(found["learning_rate"]) == pytest.approx(0.1)
    assert float(found["threshold"]) == pytest.approx(380, rel=1e-5)
