"""The programs of a run, each as a function of shapes, ready for a compiler."""

from collections.abc import Callable
from typing import Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
from jaxtyping import PyTree

from aeoskit.linalg import eigensolve
from aeoskit.objective import Objective
from aeoskit.probes import (
    PreconditionedSharpness,
    Sharpness,
    preconditioned_operator,
)
from aeoskit.trajectory import Carry, Trajectory, scan_chunk

from ._abstract import AbstractRun
from ._request import PROBE, PRODUCT, SOLVE, STEPS


class Program(NamedTuple):
    """A function and its arguments.

    Attributes:
        name: Its name in a plan.
        per: The unit of one pass: a step, a product.
        function: `(kept, given) -> anything`.
        kept: Its first argument: shapes, and leaves that are not arrays.
        given: Its second argument, whose buffers it may reuse.
    """

    name: str
    per: str
    function: Callable[[Any, Any], Any]
    kept: Any
    given: Any

    def trace(self) -> Any:
        """The program, traced: its jaxpr, and what lowers it."""
        kept, kept_static = eqx.partition(self.kept, _is_shape)
        given, given_static = eqx.partition(self.given, _is_shape)

        def call(kept: PyTree, given: PyTree) -> PyTree:
            out = self.function(eqx.combine(kept, kept_static), eqx.combine(given, given_static))
            return eqx.filter(out, eqx.is_array)

        return jax.jit(call, donate_argnums=1).trace(kept, given)

    @property
    def arguments(self) -> PyTree:
        """The shapes of its arguments."""
        return eqx.filter((self.kept, self.given), _is_shape)


def _is_shape(leaf: Any) -> bool:
    return eqx.is_array(leaf) or isinstance(leaf, jax.ShapeDtypeStruct)


def programs_of(run: AbstractRun, chunk: int) -> list[Program]:
    """The programs of a run: steps, product, a solve for each probe that has one, and the whole.

    Args:
        run: the run, as shapes.
        chunk: steps between two returns to the host.
    """
    trajectory, carry = run.trajectory, run.carry
    quiet = _without_solves(trajectory, carry)
    programs = [_chunk(STEPS, *quiet, run, chunk)]
    single, of_lane = run.lane()
    product = Program(
        PRODUCT,
        "product",
        _product,
        (single.objective, of_lane.lane.params),
        run.placement.basis_structure(run.params),
    )
    programs.append(product)
    solving = {name: probe for name, probe in single.probes.items() if probe.solves}
    for name, probe in solving.items():
        if isinstance(probe, Sharpness | PreconditionedSharpness):
            title = SOLVE if len(solving) == 1 else f"{SOLVE} {name}"
            lane = of_lane.lane
            context = (single, lane.params, lane.optimizer_state)
            programs.append(Program(title, "product", _cold(name), context, lane.key))
    return [*programs, _chunk(PROBE, trajectory, carry, run, chunk)]


def _chunk(
    name: str, trajectory: Trajectory, carry: Carry, run: AbstractRun, chunk: int
) -> Program:
    def steps(kept: tuple[Trajectory, Any], carry: Carry) -> PyTree:
        trajectory, length = kept
        return scan_chunk(trajectory, carry, length, chunk=chunk)

    length = run.placement.put_replicated(jax.ShapeDtypeStruct((), jnp.int32))
    return Program(name, "step", steps, (trajectory, length), carry)


def _without_solves(trajectory: Trajectory, carry: Carry) -> tuple[Trajectory, Carry]:
    """The run with only the probes without a solve."""
    cheap = {name: probe for name, probe in trajectory.probes.items() if not probe.solves}
    states = {name: carry.lane.probe_states[name] for name in cheap}
    return (
        eqx.tree_at(lambda t: t.probes, trajectory, cheap),
        eqx.tree_at(lambda c: c.lane.probe_states, carry, states),
    )


def _product(kept: tuple[Objective, PyTree], vector: PyTree) -> PyTree:
    objective, params = kept
    return objective.hessian(params).mv(vector)


def _cold(name: str) -> Callable[[Any, Any], Any]:
    """A whole solve of a sharpness probe's solver from a random vector, the gradient included."""

    def solve(kept: tuple[Trajectory, PyTree, PyTree], key: Any) -> PyTree:
        trajectory, params, state = kept
        probe, optimizer = trajectory.probes[name], trajectory.optimizer
        assert isinstance(probe, Sharpness | PreconditionedSharpness)
        grads = trajectory.objective.gradient(params)
        objective = trajectory.objective if probe.objective is None else probe.objective
        if isinstance(probe, PreconditionedSharpness):
            operator = preconditioned_operator(objective, params, optimizer, state, grads)
        else:
            operator = objective.hessian(params)
        return eigensolve(operator, probe.solver, k=probe.k, start=key, driver="compiled")

    return solve
