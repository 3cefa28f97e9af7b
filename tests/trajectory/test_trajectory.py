"""The loop: its numbers against a plain loop, lanes, branches, divergence, and what it costs."""

from typing import Any, ClassVar

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.flatten_util import ravel_pytree

from aeoskit.linalg import (
    DiagonalPreconditioner,
    IdentityPreconditioner,
    Lanczos,
    lane_by_lane,
)
from aeoskit.objective import Objective
from aeoskit.optimizers import (
    RMS,
    AbstractMomentum,
    AbstractSchedule,
    Frozen,
    LinearWarmup,
    Optimizer,
    adam,
    adamw,
    apply_updates,
    gradient_descent,
    momentum,
)
from aeoskit.probes import (
    AbstractProbe,
    LossAndGradient,
    PreconditionedSharpness,
    Sharpness,
    StabilityThreshold,
)
from aeoskit.trajectory import (
    Continue,
    FreezePreconditioner,
    SwitchOptimizer,
    Trajectory,
    branch,
    choose_mode,
    stack_lanes,
    stream,
)

TRACES = {"count": 0}


def loss(params, batch):
    TRACES["count"] += 1
    inputs, targets = batch
    hidden = jnp.tanh(inputs @ params["hidden"])
    return 0.5 * jnp.sum((hidden @ params["out"] - targets) ** 2, axis=-1)


@pytest.fixture
def problem():
    keys = jax.random.split(jax.random.key(0), 4)
    inputs = jax.random.normal(keys[0], (30, 4))
    targets = jax.random.normal(keys[1], (30, 2))
    params = {
        "hidden": 0.5 * jax.random.normal(keys[2], (4, 6)),
        "out": 0.5 * jax.random.normal(keys[3], (6, 2)),
    }
    return Objective(loss, (inputs, targets)), params


def probes(every=3):
    return {
        "loss": LossAndGradient(),
        "threshold": StabilityThreshold(),
        "edge": PreconditionedSharpness(every=every),
    }


CHEAP = {"loss": LossAndGradient(), "threshold": StabilityThreshold()}


def collect(trajectory, carry, steps, chunk=10, **options):
    """One capacity for all tests: another one would be another program to compile."""
    chunks = list(stream(trajectory, carry, steps, chunk=chunk, **options))
    names = {name for item in chunks for name in item.measurements}
    rows, masks = {}, {}
    for name in names:
        example = next(item.measurements[name] for item in chunks if name in item.measurements)
        values, due = [], []
        for item in chunks:
            missing = np.full((len(item.steps), *example.shape[1:]), np.nan)
            values.append(item.measurements.get(name, missing))
            due.append(item.measured.get(name, np.zeros(len(item.steps), bool)))
        rows[name], masks[name] = np.concatenate(values), np.concatenate(due)
    return rows, masks, chunks[-1].carry


def reference(objective, params, optimizer, steps):
    """Training with nothing but the objective and the optimizer."""

    @jax.jit
    def step(params, state):
        value, grads = objective.value_and_gradient(params)
        updates, state = optimizer.update(grads, state, params)
        return apply_updates(params, updates), state, value

    state, losses = optimizer.init(params), []
    for _ in range(steps):
        params, state, value = step(params, state)
        losses.append(float(value))
    return params, losses


@pytest.mark.parametrize("mode", ["scan", "host"])
def test_steps_equal_a_plain_loop(problem, mode):
    objective, params = problem
    optimizer = adam(1e-2)
    expected, losses = reference(objective, params, optimizer, 25)
    trajectory = Trajectory(objective, optimizer, probes())
    carry = trajectory.init(params, jax.random.key(1))
    rows, _, end = collect(trajectory, carry, 25, mode=mode)
    np.testing.assert_allclose(rows["loss"][:, 0], losses, rtol=1e-5)
    assert int(end.step) == 25
    for name, leaf in expected.items():
        np.testing.assert_allclose(end.lane.params[name], leaf, rtol=1e-4, atol=1e-6)


def test_both_modes_measure_the_same(problem):
    objective, params = problem
    trajectory = Trajectory(objective, adam(1e-2), probes())
    carry = trajectory.init(params, jax.random.key(1))
    scan, scan_masks, _ = collect(trajectory, carry, 12, mode="scan")
    host, host_masks, _ = collect(trajectory, carry, 12, mode="host")
    assert scan.keys() == host.keys()
    for name in ("preconditioned_sharpness", "ratio", "threshold"):
        assert (scan_masks[name] == host_masks[name]).all()
        due = scan_masks[name]
        # Two programs round differently, and the eigenvalue moves with the parameters.
        np.testing.assert_allclose(scan[name][due], host[name][due], rtol=1e-2)


def test_probe_values_equal_the_dense_hessian(problem, x64):
    objective, params = problem
    objective, params = jax.tree.map(
        lambda leaf: leaf.astype(jnp.float64) if eqx.is_inexact_array(leaf) else leaf,
        (objective, params),
    )
    optimizer = adam(1e-2, eps=1e-7)
    solver = Lanczos(rtol=1e-6)
    trajectory = Trajectory(
        objective, optimizer, {"edge": PreconditionedSharpness(k=3, every=4, solver=solver)}
    )
    rows, masks, _ = collect(trajectory, trajectory.init(params, jax.random.key(1)), 9)
    state = optimizer.init(params)
    for step in range(9):
        grads = objective.gradient(params)
        if step % 4 == 0:
            expected = dense_preconditioned(objective, params, optimizer, state, grads)[:3]
            np.testing.assert_allclose(
                rows["preconditioned_sharpness"][step, 0], expected, rtol=1e-5
            )
            ratio = expected[0] / float(optimizer.threshold(state))
            np.testing.assert_allclose(rows["ratio"][step, 0], ratio, rtol=1e-5)
            assert masks["ratio"][step]
        else:
            assert not masks["ratio"][step]
            assert np.isnan(rows["ratio"][step, 0])
        updates, state = optimizer.update(grads, state, params)
        params = apply_updates(params, updates)


def dense_preconditioned(objective, params, optimizer, state, grads):
    """All eigenvalues of `P^{-1/2} H P^{-1/2}`, from the dense matrix, largest first."""
    preconditioner = optimizer.preconditioner(state, grads)
    flat, rebuild = ravel_pytree(params)
    dense = jax.hessian(lambda flat: objective.value(rebuild(flat)))(flat)
    root = jax.vmap(lambda row: ravel_pytree(preconditioner.inv_sqrt_mv(rebuild(row)))[0])(
        jnp.eye(flat.size)
    )
    return np.linalg.eigvalsh(root @ dense @ root)[::-1]


@pytest.mark.parametrize(("mode", "devices"), [("scan", 1), ("scan", 4), ("host", 1)])
@pytest.mark.part(2)
def test_lanes_equal_single_runs(problem, mode, devices, monkeypatch):
    # On a CPU with one device lanes are measured one after another.
    monkeypatch.setattr(jax, "device_count", lambda: devices)
    jax.clear_caches()
    turns = []

    def counted(function, *args):
        turns.append(function)
        return lane_by_lane(function, *args)

    monkeypatch.setattr("aeoskit.trajectory._step.lane_by_lane", counted)
    objective, params = problem
    optimizers = [adam(lr) for lr in (1e-3, 1e-2, 3e-2)]
    sweep = Trajectory(objective, stack_lanes(optimizers), probes(), lanes=3)
    rows, _, _ = collect(sweep, sweep.init(params, jax.random.key(1)), 10, mode=mode)
    taken = len(turns)
    assert (taken > 0) == (mode == "scan")
    for lane, optimizer in enumerate(optimizers):
        single = Trajectory(objective, optimizer, probes())
        alone, masks, _ = collect(single, single.init(params, jax.random.key(1)), 10, mode=mode)
        np.testing.assert_allclose(rows["loss"][:, lane], alone["loss"][:, 0], rtol=1e-5)
        due = masks["ratio"]
        np.testing.assert_allclose(rows["ratio"][due, lane], alone["ratio"][due, 0], rtol=1e-2)
        assert float(rows["threshold"][0, lane]) == float(alone["threshold"][0, 0])
    assert len(turns) == taken


def test_a_resumed_run_is_the_uninterrupted_one_bit_for_bit(problem):
    objective, params = problem
    trajectory = Trajectory(objective, adam(1e-2), probes(), batch=8)
    carry = trajectory.init(params, jax.random.key(1))
    whole, due, end = collect(trajectory, carry, 20)
    first, _, middle = collect(trajectory, carry, 9)
    second, _, resumed = collect(trajectory, middle, 11)
    for name, mask in due.items():
        parts = np.concatenate([first[name], second[name]])
        np.testing.assert_array_equal(whole[name][mask], parts[mask])
    for one, other in zip(
        jax.tree.leaves(end.lane.params), jax.tree.leaves(resumed.lane.params), strict=True
    ):
        np.testing.assert_array_equal(one, other)


def test_the_carry_that_stream_was_given_stays_usable(problem):
    objective, params = problem
    trajectory = Trajectory(objective, adam(1e-2), CHEAP)
    carry = trajectory.init(params, jax.random.key(1))
    one, _, _ = collect(trajectory, carry, 5)
    other, _, _ = collect(trajectory, carry, 5)
    np.testing.assert_array_equal(one["loss"], other["loss"])
    assert np.isfinite(np.asarray(params["out"])).all()


def test_one_compilation_for_all_chunks_and_solves(problem):
    objective, params = problem
    trajectory = Trajectory(objective, adam(1e-2), probes())
    carry = trajectory.init(params, jax.random.key(1))
    collect(trajectory, carry, 10, mode="scan")
    before = TRACES["count"]
    # Other lengths, a shorter last chunk, another learning rate: nothing is traced again.
    collect(trajectory, carry, 27, mode="scan")
    other = Trajectory(objective, adam(3e-2), probes())
    collect(other, other.init(params, jax.random.key(2)), 13, mode="scan")
    assert TRACES["count"] == before


def test_host_mode_compiles_once_as_well(problem):
    objective, params = problem
    trajectory = Trajectory(objective, adam(1e-2), probes())
    carry = trajectory.init(params, jax.random.key(1))
    collect(trajectory, carry, 4, mode="host")
    before = TRACES["count"]
    collect(trajectory, carry, 12, mode="host")
    assert TRACES["count"] == before


def test_no_host_transfer_inside_a_chunk(problem):
    objective, params = problem
    trajectory = Trajectory(objective, adam(1e-2), probes())
    carry = trajectory.init(params, jax.random.key(1))
    from aeoskit.trajectory import _stream

    text = _stream._scan_chunk.lower((trajectory, 10), carry, jnp.asarray(10)).as_text()
    for word in ("callback", "infeed", "outfeed", "host_transfer"):
        assert word not in text


@pytest.mark.parametrize("mode", ["scan", "host"])
def test_a_diverging_lane_is_frozen_and_marked_and_the_others_go_on(problem, mode):
    objective, params = problem
    optimizers = [gradient_descent(lr) for lr in (0.05, 50.0)]
    sweep = Trajectory(objective, stack_lanes(optimizers), {"loss": LossAndGradient()}, lanes=2)
    chunks = list(stream(sweep, sweep.init(params, jax.random.key(1)), 30, chunk=10, mode=mode))
    good, bad = chunks[-1].diverged_at
    assert good == -1
    assert 0 < bad < 30
    losses = np.concatenate([chunk.measurements["loss"] for chunk in chunks])
    assert losses[-1, 0] < losses[0, 0]
    # Frozen: the lane stays where it was when it diverged.
    np.testing.assert_array_equal(losses[bad + 1 :, 1], np.full(29 - bad, losses[bad, 1]))


def test_minibatches_are_epochs_without_replacement(problem):
    from aeoskit.trajectory._step import batch_indices

    drawn = [
        np.asarray(batch_indices(jax.random.key(0), jnp.asarray(step), 30, 8)) for step in range(6)
    ]
    first, second = np.concatenate(drawn[:3]), np.concatenate(drawn[3:])
    assert len(set(first)) == 24
    assert len(set(second)) == 24
    assert not np.array_equal(first, second)


class Onlooker(AbstractProbe):
    """Measures whether it has a linearization, and how far its gradient is from the step's."""

    every: int = eqx.field(static=True, default=1)
    linearizes: ClassVar[bool] = True
    solves: ClassVar[bool] = True
    measures: ClassVar[tuple[str, ...]] = ("given", "apart")

    def init(self, params, key):
        return jnp.zeros(())

    def measure(self, context, state):
        point, own = context.linearization, context.objective.gradient(context.params)
        grads = own if point is None else point.grads
        apart = jax.tree.map(lambda a, b: jnp.max(jnp.abs(a - b)), context.grads, grads)
        return {
            "given": jnp.asarray(point is not None),
            "apart": jnp.max(jnp.stack(jax.tree.leaves(apart))),
        }, state


@pytest.mark.parametrize("mode", ["scan", "host"])
@pytest.mark.parametrize("every", [1, 3])
def test_a_due_probe_and_the_step_share_one_gradient(problem, mode, every):
    objective, params = problem
    plain = Trajectory(objective, adam(1e-2), {})
    watched = Trajectory(
        objective,
        adam(1e-2),
        {"edge": Onlooker(every), "rarely": PreconditionedSharpness(every=5), **CHEAP},
    )
    _, _, last = collect(plain, plain.init(params, jax.random.key(0)), 8, mode=mode)
    rows, masks, end = collect(watched, watched.init(params, jax.random.key(0)), 8, mode=mode)
    assert rows["given"][masks["given"]].all()
    assert not rows["apart"][masks["apart"]].any()
    assert masks["ratio"].sum() == 2
    assert np.isfinite(rows["ratio"][masks["ratio"]]).all()
    for a, b in zip(*map(jax.tree.leaves, (last.lane.params, end.lane.params)), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-5)


def test_a_minibatch_has_another_gradient_than_the_probe(problem):
    objective, params = problem
    trajectory = Trajectory(objective, adam(1e-2), {"edge": Onlooker()}, batch=10)
    rows, _, _ = collect(trajectory, trajectory.init(params, jax.random.key(0)), 4, mode="scan")
    assert not rows["given"].any()
    assert rows["apart"].all()


def test_minibatches_with_replacement_are_drawn_anew_at_each_step():
    from aeoskit.trajectory._step import batch_indices

    def draw(step, key=0):
        key = jax.random.key(key)
        return np.asarray(batch_indices(key, jnp.asarray(step), 10, 40, "replacement"))

    drawn = np.concatenate([draw(step) for step in range(100)])
    # Each as often as the others: 400 times of 4000, give or take 19.
    assert np.bincount(drawn, minlength=10).min() > 320
    assert np.bincount(drawn).max() < 480
    np.testing.assert_array_equal(draw(7), draw(7))
    assert not np.array_equal(draw(7), draw(8))
    assert not np.array_equal(draw(7), draw(7, key=1))


def test_minibatch_steps_use_the_batch_and_probes_the_whole_data_or_a_fixed_part(problem):
    objective, params = problem
    part = jnp.arange(3, 15)
    trajectory = Trajectory(
        objective,
        gradient_descent(0.01),
        {
            "loss": LossAndGradient(),
            "raw": Sharpness(),
            # Of gradient descent P is one.
            "part": PreconditionedSharpness(objective=objective.on_batch(part)),
        },
        # As many as there are, but with replacement: not the data themselves.
        batch=30,
        sampling="replacement",
    )
    rows, _, _ = collect(trajectory, trajectory.init(params, jax.random.key(1)), 3)
    assert abs(rows["loss"][0, 0] - float(objective.value(params))) > 1e-4
    flat, rebuild = ravel_pytree(params)

    def top(of):
        dense = jax.hessian(lambda flat: of.value(rebuild(flat)))(flat)
        return np.linalg.eigvalsh(np.asarray(dense, np.float64))[-1]

    np.testing.assert_allclose(rows["sharpness"][0, 0, 0], top(objective), rtol=1e-3)
    np.testing.assert_allclose(
        rows["preconditioned_sharpness"][0, 0, 0], top(objective.on_batch(part)), rtol=1e-3
    )


class TestBranches:
    def test_ways_start_from_equal_copies(self, problem):
        objective, params = problem
        trajectory = Trajectory(objective, adam(1e-2), CHEAP)
        _, _, carry = collect(trajectory, trajectory.init(params, jax.random.key(1)), 10)
        ways = {
            "on": Continue(),
            "frozen": FreezePreconditioner(),
            "momentum": SwitchOptimizer(momentum(0.1)),
        }
        results = {
            name: collect(way, start, 10)
            for name, (way, start) in branch(trajectory, carry, ways).items()
        }
        # All of them see the same loss first, and then part.
        losses = {name: rows["loss"][:, 0] for name, (rows, _, _) in results.items()}
        for name in ("frozen", "momentum"):
            assert losses[name][0] == losses["on"][0]
            assert losses[name][-1] != losses["on"][-1]
        unbranched, _, _ = collect(trajectory, carry, 10)
        np.testing.assert_array_equal(losses["on"], unbranched["loss"][:, 0])

    def test_frozen_takes_the_same_first_step_and_holds_its_preconditioner(self, problem):
        objective, params = problem
        trajectory = Trajectory(objective, adam(1e-2), CHEAP)
        _, _, carry = collect(trajectory, trajectory.init(params, jax.random.key(1)), 10)
        started = branch(trajectory, carry, {"on": Continue(), "frozen": FreezePreconditioner()})
        on, frozen = (collect(*started[name], 2)[0]["loss"] for name in ("on", "frozen"))
        np.testing.assert_allclose(on[1], frozen[1], rtol=1e-5)
        way, start = started["frozen"]
        _, _, later = collect(way, start, 20)
        grads = objective.gradient(later.lane.params)
        before = way.optimizer.preconditioner(start.lane.optimizer_state, grads)
        after = way.optimizer.preconditioner(later.lane.optimizer_state, grads)
        for one, other in zip(jax.tree.leaves(before), jax.tree.leaves(after), strict=True):
            np.testing.assert_array_equal(one, other)

    def test_lanes_branch_as_well(self, problem):
        objective, params = problem
        sweep = Trajectory(objective, stack_lanes([adam(1e-3), adam(1e-2)]), probes(), lanes=2)
        _, _, carry = collect(sweep, sweep.init(params, jax.random.key(1)), 6)
        ways = {"frozen": FreezePreconditioner(), "momentum": SwitchOptimizer(momentum(0.1))}
        for way, start in branch(sweep, carry, ways).values():
            rows, _, _ = collect(way, start, 4)
            assert rows["loss"].shape == (4, 2)
            assert np.isfinite(rows["loss"]).all()

    def test_no_way_is_refused(self, problem):
        objective, params = problem
        trajectory = Trajectory(objective, adam(1e-2), {})
        with pytest.raises(ValueError, match="branches is empty"):
            branch(trajectory, trajectory.init(params, jax.random.key(1)), {})


class TestMode:
    def test_a_plain_network_scans(self, problem):
        objective, params = problem
        trajectory = Trajectory(objective, adam(1e-2), {})
        assert choose_mode(trajectory, trajectory.init(params, jax.random.key(0))) == "scan"

    def test_a_convolution_on_cpu_is_dispatched_from_the_host(self):
        def convolutional(params, images):
            out = jax.lax.conv(images, params, (1, 1), "SAME")
            return jnp.sum(out**2, axis=(1, 2, 3))

        objective = Objective(convolutional, jnp.ones((4, 1, 5, 5)))
        for lanes, optimizer in ((None, adam(0.1)), (2, stack_lanes([adam(0.1), adam(0.2)]))):
            trajectory = Trajectory(objective, optimizer, {}, lanes=lanes)
            carry = trajectory.init(jnp.ones((2, 1, 3, 3)), jax.random.key(0))
            assert choose_mode(trajectory, carry) == "host"


class Table(AbstractSchedule):
    rates: jax.Array

    def __call__(self, count):
        return self.rates[count]


class TestBadInput:
    def test_a_batch_larger_than_the_data(self, problem):
        with pytest.raises(ValueError, match=r"batch is 31, but the data has 30"):
            Trajectory(problem[0], adam(1e-2), {}, batch=31)

    def test_sampling_without_a_batch_or_of_no_kind(self, problem):
        with pytest.raises(ValueError, match=r"but batch is None"):
            Trajectory(problem[0], adam(1e-2), {}, sampling="replacement")
        with pytest.raises(ValueError, match="'shuffle' or 'replacement'"):
            Trajectory(problem[0], adam(1e-2), {}, batch=3, sampling="bootstrap")

    def test_lanes_that_the_optimizer_does_not_have(self, problem):
        with pytest.raises(ValueError, match="stack_lanes"):
            Trajectory(problem[0], adam(1e-2), {}, lanes=2)

    @pytest.mark.parametrize("lanes", [0, -1])
    def test_lanes_that_are_no_count(self, problem, lanes):
        sweep = stack_lanes([adam(1e-2), adam(1e-3)])
        with pytest.raises(ValueError, match=f"lanes is {lanes}: a whole number"):
            Trajectory(problem[0], sweep, {}, lanes=lanes)

    def test_lanes_that_are_left_out(self, problem):
        objective, params = problem[:2]
        sweep = Trajectory(objective, stack_lanes([adam(1e-2), adam(1e-3)]), {})
        with pytest.raises(ValueError, match="pass lanes=2"):
            sweep.init(params, jax.random.key(0))

    def test_a_schedule_may_hold_a_table(self, problem):
        objective, params = problem[:2]
        optimizer = gradient_descent(Table(jnp.array([1e-2, 1e-3])))
        trajectory = Trajectory(objective, optimizer, {})
        (chunk,) = stream(trajectory, trajectory.init(params, jax.random.key(0)), 2)
        assert chunk.carry.step == 2

    def test_one_quantity_twice(self, problem):
        with pytest.raises(ValueError, match="both measure"):
            Trajectory(problem[0], adam(1e-2), {"a": LossAndGradient(), "b": LossAndGradient()})

    @pytest.mark.parametrize("options", [{"steps": 0}, {"steps": 3, "chunk": 0}])
    def test_no_steps(self, problem, options):
        objective, params = problem
        trajectory = Trajectory(objective, adam(1e-2), {})
        with pytest.raises(ValueError, match="at least 1"):
            next(stream(trajectory, trajectory.init(params, jax.random.key(0)), **options))

    def test_an_unknown_mode(self, problem):
        objective, params = problem
        trajectory = Trajectory(objective, adam(1e-2), {})
        carry = trajectory.init(params, jax.random.key(0))
        with pytest.raises(ValueError, match="'scan' or 'host'"):
            next(stream(trajectory, carry, 3, mode="fast"))  # type: ignore[arg-type]

    def test_optimizers_of_two_kinds_do_not_stack(self):
        with pytest.raises(ValueError, match=r"momentum_rule is EMA.* and NoMomentum"):
            stack_lanes([adam(1e-2), gradient_descent(0.1)])


class Decayed(AbstractMomentum):
    """A rule of a user: its decay rate is a Python number, and it has no array leaf."""

    beta: float

    def init(self, params):
        return jax.tree.map(jnp.zeros_like, params)

    def update(self, direction, state):
        state = jax.tree.map(lambda m, g: self.beta * m + g, state, direction)
        return state, state

    def threshold(self, lr, weight_decay):
        return (2 + 2 * self.beta) / lr

    def recurrence(self, curvature, lr, weight_decay):
        return jnp.array([[1 - lr * curvature, -lr * self.beta], [curvature, self.beta]])

    def bias_correction(self, count):
        return jnp.ones_like(count, dtype=float)


def frozen(diagonal):
    return Optimizer(0.1, None, Frozen(DiagonalPreconditioner({"w": diagonal})))


class TestWhatCannotBeSwept:
    """Lanes are one program: what is no array in it is the same for all of them, or refused."""

    @pytest.mark.parametrize(
        ("one", "two", "name", "values"),
        [
            (Optimizer(0.1, Decayed(0.9)), Optimizer(0.1, Decayed(0.1)), "beta", "0.9 .* 0.1"),
            (Optimizer(0.1, Decayed(1.0)), Optimizer(0.1, Decayed(1)), "beta", "1.0 .* 1 "),
            (
                Optimizer(0.1, None, RMS(power=0.5)),
                Optimizer(0.1, None, RMS(power=0.25)),
                "preconditioner_rule.power",
                "0.5 .* 0.25",
            ),
            (adam(np.cos), adam(np.sin), "schedule.function", "cos .* sin"),
            (adam(0.1), adam(LinearWarmup(0.1, 5)), "schedule", "Constant.* LinearWarmup"),
            (adam(0.1), adamw(0.1, weight_decay=0.2), "weight_decay", "None .* an array"),
            (frozen(jnp.ones(2)), frozen(jnp.ones(3)), r"diagonal\['w'\]", r"\(2,\) .* \(3,\)"),
            (
                frozen(jnp.ones(2)),
                frozen(jnp.ones(2, jnp.bfloat16)),
                r"diagonal\['w'\]",
                "float32 .* bfloat16",
            ),
            (
                Optimizer(0.1, None, Frozen(IdentityPreconditioner(jnp.ones(2)))),
                Optimizer(0.1, None, Frozen(IdentityPreconditioner(jnp.ones(3)))),
                "preconditioner.structure",
                ".*",
            ),
        ],
    )
    def test_a_difference_is_refused_by_its_name_and_both_values(self, one, two, name, values):
        with pytest.raises(ValueError, match=f"{name} is .*{values}"):
            stack_lanes([one, one, two])

    def test_what_is_alike_stacks(self):
        rates, decay = (0.1, 0.2, 0.3), Decayed(float("nan"))
        sweep: Any = stack_lanes([Optimizer(lr, decay) for lr in rates])
        np.testing.assert_allclose(sweep.schedule.lr, rates)
        sweep = stack_lanes([frozen(scale * jnp.ones(2)) for scale in rates])
        diagonal = sweep.preconditioner_rule.preconditioner.diagonal["w"]
        np.testing.assert_allclose(diagonal[:, 0], rates, rtol=1e-6)
        sweep = stack_lanes([adam(np.cos, beta1=beta1) for beta1 in rates])
        np.testing.assert_allclose(sweep.momentum_rule.beta1, rates)
