"""A chunk is compiled once: types and places do not change between chunks."""

import logging
import re
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
import optax
import optimistix as optx
import pytest

from aeoskit.linalg import Lanczos
from aeoskit.objective import Objective
from aeoskit.optimizers import adafactor, adam, gradient_descent, momentum, schedule_free_sgd
from aeoskit.probes import (
    AbstractProbe,
    LossAndGradient,
    PreconditionedSharpness,
    RealizedEdge,
    Sharpness,
    StabilityThreshold,
)
from aeoskit.trajectory import (
    FreezePreconditioner,
    SwitchOptimizer,
    Trajectory,
    branch,
    stack_lanes,
    stream,
)

ROWS = jax.random.normal(jax.random.key(0), (8, 3))
PARAMS = {"w": jnp.ones(3), "b": jnp.zeros(())}
CHEAP = {
    "loss": LossAndGradient(),
    "threshold": StabilityThreshold(every=2),
    "realized": RealizedEdge(),
}


class Counter(AbstractProbe):
    """A probe of a user whose state is weakly typed before the first measurement and after it."""

    every: int = eqx.field(static=True, default=1)

    @property
    def measures(self):
        return (f"seen_{self.every}",)

    @property
    def solves(self):
        return False

    def init(self, params, key):
        return jnp.asarray(0)

    def measure(self, context, state):
        return {f"seen_{self.every}": context.value}, jnp.where(context.value > 0, 1, 0) + state


@pytest.fixture
def compiled(caplog):
    """The names of the programs that were compiled so far, in order."""

    def names() -> list[str]:
        text = r"Finished XLA compilation of jit\((\w+)\)"
        found = (re.match(text, record.message) for record in caplog.records)
        return [match[1] for match in found if match]

    with jax.log_compiles(True), caplog.at_level(logging.WARNING, "jax"):
        yield names


def of_chunks(names: list[str], mode: str = "scan") -> int:
    return names.count({"scan": "_scan_chunk", "host": "_host_step"}[mode])


def follow(trajectory: Trajectory, carry: Any, mode: str = "scan", steps: int = 40) -> Any:
    *_, last = stream(trajectory, carry, steps, chunk=16, mode=mode)
    return last.carry


def start(optimizer=None, probes=None, data=ROWS, **options):
    def loss(params, rows):  # A fresh one, so that no other test has compiled its programs.
        return 0.5 * (jnp.tanh(rows @ params["w"]) + params["b"] - 1.0) ** 2

    optimizer = adam(1e-2) if optimizer is None else optimizer
    trajectory = Trajectory(
        Objective(loss, data), optimizer, CHEAP if probes is None else probes, **options
    )
    return trajectory, trajectory.init(PARAMS, jax.random.key(1))


def as_numpy(carry):
    """As a checkpoint may give it back: no jax arrays, but for the key."""
    return jax.tree.map(
        lambda leaf: leaf if jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key) else np.asarray(leaf),
        carry,
    )


@pytest.mark.parametrize("mode", ["scan", "host"])
@pytest.mark.parametrize("every", [1, 2])
def test_a_chunk_is_compiled_once(compiled, mode, every):
    follow(*start(probes=CHEAP | {"own": Counter(every)}), mode)
    assert of_chunks(compiled(), mode) == 1


@pytest.mark.parametrize("lanes", [None, 2])
def test_a_probe_is_traced_once(lanes):
    """Not once more for the shapes of rows, and for those of a step at which it is not due."""
    traces = []

    class Traced(Counter):
        def measure(self, context, state):
            traces.append(self.every)
            return super().measure(context, state)

    optimizer = None if lanes is None else stack_lanes([adam(1e-2), adam(3e-2)])
    follow(*start(optimizer, {"often": Traced(1), "seldom": Traced(3)}, lanes=lanes))
    assert sorted(traces) == [1, 3]


def test_probes_lanes_and_what_comes_back_of_a_run_share_its_program(compiled):
    solver = Lanczos(basis=5)
    probes = CHEAP | {
        "raw": Sharpness(every=3, solver=solver),
        "edge": PreconditionedSharpness(every=4, solver=solver),
    }
    sweep = stack_lanes([adam(1e-2), adam(3e-2)])
    trajectory, carry = start(sweep, probes, lanes=2, batch=4)
    end = follow(trajectory, carry)
    follow(trajectory, end)
    follow(trajectory, as_numpy(end))
    follow(trajectory, carry, steps=3)
    assert of_chunks(compiled()) == 1


def test_a_branch_is_compiled_once(compiled):
    trajectory, carry = start()
    end = follow(trajectory, carry)
    ways = {"frozen": FreezePreconditioner(), "momentum": SwitchOptimizer(momentum(0.1))}
    for way, begin in branch(trajectory, end, ways).values():
        follow(way, begin)
    assert of_chunks(compiled()) == 3


@pytest.mark.parametrize("mode", ["scan", "host"])
def test_data_or_parameters_on_a_device_of_their_own_compile_once(compiled, mode):
    follow(*start(data=jax.device_put(ROWS, jax.devices()[1])), mode)
    assert of_chunks(compiled(), mode) == 1


def test_a_key_of_another_generator_compiles_once(compiled):
    trajectory, _ = start(batch=4)
    follow(trajectory, trajectory.init(PARAMS, jax.random.key(1, impl="rbg")))
    assert of_chunks(compiled()) == 1


@pytest.mark.parametrize(
    "optimizer",
    [
        gradient_descent(0.1),
        adafactor(1e-2, min_dim_size_to_factor=2),
        schedule_free_sgd(0.1),
        optax.inject_hyperparams(optax.adam)(learning_rate=optax.linear_schedule(0.0, 1e-2, 9)),
        optax.contrib.schedule_free_sgd(0.1),
        optax.MultiSteps(optax.adam(1e-2), 2),
        optax.contrib.prodigy(),
        optx.BFGS(1e-6, 1e-6),
    ],
    ids=lambda optimizer: type(optimizer).__name__,
)
def test_states_of_optimizers_do_not_change_their_types(optimizer):
    """What `stream` starts from has the types of what a chunk returns."""
    trajectory, carry = start(optimizer, {})
    [chunk] = stream(trajectory, carry, 2)
    before, after = (
        [(leaf.dtype, getattr(leaf, "weak_type", False)) for leaf in jax.tree.leaves(tree)]
        for tree in (carry, chunk.carry)
    )
    assert before == after
    assert not any(weak for _, weak in before)


def test_a_hidden_derivative_is_refused_before_the_run():
    def loss(w, batch):
        return (batch @ w - jax.lax.stop_gradient(jnp.tanh(batch @ w))) ** 2

    objective = Objective(loss, jnp.eye(3))
    trajectory = Trajectory(objective, gradient_descent(0.1), {"s": Sharpness()})
    with pytest.raises(ValueError, match="derivative"):
        trajectory.init(jnp.ones(3), jax.random.key(0))
