"""The state of a training run as one pytree."""

import dataclasses
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Int, Key, PRNGKeyArray, PyTree

from aeoskit.linalg import Start
from aeoskit.linalg.extend import leafwise
from aeoskit.objective import Objective
from aeoskit.optimizers import (
    WSD,
    AbstractOptimizer,
    Constant,
    Cosine,
    LinearWarmup,
    Optimizer,
    as_optimizer,
)
from aeoskit.probes import (
    AbstractProbe,
    ProbeBudget,
    RealizedEdge,
    budget_columns,
    start_budget,
)

AnyOptimizer = AbstractOptimizer
SAMPLINGS = ("shuffle", "replacement")


class Lane(eqx.Module):
    """The state that one training run carries from step to step.

    In a sweep every leaf has a lane axis.

    Attributes:
        params: the parameters.
        optimizer_state: the optimizer's state: an `OptimizerState`, optax's or optimistix's own.
        probe_states: warm starts, by probe name.
        key: the key of this lane's randomness; a step's key is derived from it and the step.
        diverged_at: the step whose loss or gradient was not finite, or above the divergence limit;
            -1 before that. From that step on the lane is frozen.
        initial_loss: the loss at the first step: the divergence limit is a multiple of it.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import aeoskit as ak
        >>> objective = ak.Objective(lambda w, x: 0.5 * (x @ w - 1.0) ** 2, jnp.eye(2))
        >>> trajectory = ak.Trajectory(objective, ak.adam(0.1), {})
        >>> carry = trajectory.init(jnp.zeros(2), jax.random.key(0))
        >>> int(carry.lane.diverged_at)
        -1
    """

    params: PyTree
    optimizer_state: PyTree
    probe_states: dict[str, Any]
    key: Key[Array, "*lanes"]
    diverged_at: Int[Array, "*lanes"]
    initial_loss: Float[Array, "*lanes"]


class Carry(eqx.Module):
    """The whole state of a trajectory: a checkpoint is this pytree.

    Attributes:
        step: how many steps were taken. One number for all lanes, so that a probe's period stays
            an unbatched predicate under `vmap` (a batched `cond` would run both of its sides).
        lane: a `Lane`; with a leading lane axis on each leaf in a sweep.
        budgets: the states of the probes with `overhead`, by name; one for all lanes, as the step.
        pending: the loss before the last step and the change of it that its gradient predicted,
            (2, lanes), with which the next step's loss gives the realized edge of the last; NaN
            before the first step. None without a probe that needs it. No program reads it.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import aeoskit as ak
        >>> objective = ak.Objective(lambda w, x: 0.5 * (x @ w - 1.0) ** 2, jnp.eye(2))
        >>> trajectory = ak.Trajectory(objective, ak.adam(0.1), {})
        >>> carry = trajectory.init(jnp.zeros(2), jax.random.key(0))
        >>> int(carry.step), carry.lane.params.shape
        (0, (2,))
    """

    step: Int[Array, ""]
    lane: Lane
    budgets: dict[str, ProbeBudget] = eqx.field(default_factory=dict)
    pending: Any = None


class Trajectory(eqx.Module):
    """A training run as data: the objective, the optimizer, and the probes.

    Args:
        objective: the mean loss over the data.
        optimizer: an `Optimizer`; in a sweep, one whose array leaves are stacked (`stack_lanes`).
            Or, of a single run, an optax transformation or an optimistix minimiser.
        probes: probes by name.
        batch: examples a step; `None` trains on all of the data (full batch).
        sampling: how a batch is drawn: `"shuffle"`, without replacement, reshuffled each epoch; or
            `"replacement"`, each example uniformly and independently at each step. Either way a
            step's batch is a function of key and step alone.
        lanes: the number of runs that train together; `None` for a single one without a lane axis.
        divergence_factor: a loss above this multiple of the initial loss counts as diverged.

    Raises:
        TypeError: the optimizer is not one.
        ValueError: a batch outside `1 … n`, an unknown `sampling`, or one with replacement where
            there is no batch; a lane count that the optimizer's leaves do not have; a minimiser on
            batches, since its line search compares values of one function; a probe with an
            `overhead` that does not count its products.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import aeoskit as ak
        >>> objective = ak.Objective(lambda w, x: 0.5 * (x @ w - 1.0) ** 2, jnp.eye(2))
        >>> trajectory = ak.Trajectory(
        ...     objective, ak.gradient_descent(1.0), {"loss": ak.LossAndGradient()})
        >>> carry = trajectory.init(jnp.zeros(2), jax.random.key(0))
        >>> for chunk in ak.stream(trajectory, carry, 3):
        ...     print(chunk.measurements["loss"][:, 0])
        [0.5     0.125   0.03125]
    """

    objective: Objective
    optimizer: AnyOptimizer = eqx.field(converter=as_optimizer)
    probes: dict[str, AbstractProbe]
    batch: int | None = eqx.field(static=True, default=None)
    lanes: int | None = eqx.field(static=True, default=None)
    divergence_factor: float = eqx.field(static=True, default=1e6)
    sampling: str = eqx.field(static=True, default="shuffle")

    def __check_init__(self):
        if self.sampling not in SAMPLINGS:
            raise ValueError(f"sampling is {self.sampling!r}; pass 'shuffle' or 'replacement'.")
        if self.sampling == "replacement" and self.batch is None:
            raise ValueError(
                "sampling is 'replacement', but batch is None, and all of the data are no draw: "
                f"pass a batch from 1 to {self.objective.n}, or leave sampling out."
            )
        if self.batch is not None and not 1 <= self.batch <= self.objective.n:
            raise ValueError(
                f"batch is {self.batch}, but the data has {self.objective.n} examples; pass a "
                f"batch from 1 to {self.objective.n}, or None for the full batch."
            )
        for name, probe in self.probes.items():
            if not isinstance(probe, AbstractProbe):
                what = f"the class {probe.__name__}" if isinstance(probe, type) else repr(probe)
                raise TypeError(f"probe {name!r} is {what}; pass a probe, such as ak.Sharpness().")
        for name, probe in self.probes.items():
            if not isinstance(probe.every, int) or probe.every < 1:
                raise ValueError(
                    f"probe {name}: every is {probe.every!r}: a period is a whole number of steps, "
                    "at least 1."
                )
        measured = [
            name
            for probe in self.probes.values()
            for name in (*probe.measures, *budget_columns(probe))
        ]
        twice = sorted({name for name in measured if measured.count(name) > 1})
        if twice:
            raise ValueError(f"two probes both measure {twice}; track each quantity once.")
        if self.batch is not None and not self.optimizer.takes_batches:
            raise ValueError(
                f"batch is {self.batch}, but {self.optimizer.name} compares losses from step "
                "to step, and so needs the same data at each: pass batch=None."
            )
        if self.lanes is not None:
            if not self.optimizer.stackable:
                raise ValueError(
                    f"lanes is {self.lanes}, but the hyperparameters of {self.optimizer.name} are "
                    "no array leaves that could be stacked: run one trajectory for each."
                )
            if not isinstance(self.lanes, int) or self.lanes < 1:
                raise ValueError(
                    f"lanes is {self.lanes!r}: a whole number from 1 on, or None for a single run."
                )
            for leaf in jax.tree.leaves(eqx.filter(self.optimizer, eqx.is_array)):
                if leaf.ndim == 0 or leaf.shape[0] != self.lanes:
                    raise ValueError(
                        f"lanes is {self.lanes}, but an array of the optimizer has shape "
                        f"{leaf.shape}; build the optimizer with `stack_lanes([optimizer_1, "
                        "optimizer_2, ...])`, and give as many lanes."
                    )

    def single(self, optimizer: AnyOptimizer) -> "Trajectory":
        """The trajectory of one lane: the same run under an optimizer without a lane axis."""
        return dataclasses.replace(self, optimizer=optimizer, lanes=None)

    def with_optimizer(self, optimizer: AnyOptimizer) -> "Trajectory":
        """The same run under another optimizer (with a lane axis if this one has lanes)."""
        return dataclasses.replace(self, optimizer=optimizer)

    def init(self, params: PyTree, key: PRNGKeyArray) -> Carry:
        """The carry before the first step; all lanes of a sweep start from the same params.

        Args:
            params: any pytree of floating arrays, without a lane axis.
            key: PRNG key for minibatches and start vectors.

        Returns:
            A `Carry` at step 0.

        Raises:
            ValueError: a probe would measure another curvature than that of the field that trains
                (see `Objective`); or the optimizer is one of several lanes, and `lanes` was left
                out.
        """
        schedule = getattr(self.optimizer, "schedule", None)
        # In one run these hold scalars; one of yours may hold a table.
        ours = isinstance(schedule, Constant | LinearWarmup | Cosine | WSD)
        if self.lanes is None and ours and schedule.lr.ndim > 0:
            raise ValueError(
                f"the learning rate of the optimizer has shape {schedule.lr.shape}, as "
                f"`stack_lanes` makes it: pass lanes={schedule.lr.shape[0]} in the trajectory, "
                "or pass one optimizer."
            )
        for probe in self.probes.values():
            # Compared here, since values cannot be read under the chunk's trace.
            # A probe of the whole step has no objective of its own, and a check of its own.
            own: Any = getattr(probe, "objective", probe)
            if probe.solves and own is not probe:
                (own or self.objective).hessian(params)
        # A copy: chunks donate the carry's buffers, and the user's own params must survive that.
        placement = self.objective.placement
        if placement is None:
            return copy_tree(self._start(params, key))
        # In one program, so that no device has to hold what is to be spread.
        start = eqx.filter_jit(lambda p, key: place(self, self._start(p, key), self.lanes))
        return start(copy_tree(placement.put_params(params)), key)

    def _laid_out(self, probe_state: PyTree, params: PyTree) -> PyTree:
        """A probe's state, leaf by leaf on a mesh, where a packed vector would be gathered."""
        if self.objective.placement is None:
            return probe_state
        structure = jax.eval_shape(lambda: params)
        return jax.tree.map(
            lambda x: leafwise(x, structure) if isinstance(x, Start) else x,
            probe_state,
            is_leaf=lambda x: isinstance(x, Start),
        )

    def _start(self, params: PyTree, key: PRNGKeyArray) -> Carry:
        """The carry, which shares arrays with the params."""
        key, probe_key = jax.random.split(key)

        def lane_of(optimizer: AnyOptimizer) -> Lane:
            names = sorted(self.probes)
            probe_keys = jax.random.split(probe_key, max(len(names), 1))
            return Lane(
                params=params,
                optimizer_state=optimizer.init(params),
                probe_states={
                    name: self._laid_out(self.probes[name].init(params, probe_keys[i]), params)
                    for i, name in enumerate(names)
                },
                key=key,
                diverged_at=jnp.asarray(-1, int),
                initial_loss=jnp.asarray(jnp.inf, jnp.result_type(float)),
            )

        if self.lanes is None:
            lane = lane_of(self.optimizer)
        else:
            lane = eqx.filter_vmap(
                lane_of, in_axes=(lane_axes(self.optimizer),), axis_size=self.lanes
            )(self.optimizer)
        budgets = {
            name: start_budget(probe)
            for name, probe in self.probes.items()
            if budget_columns(probe)
        }
        # In at least float32, which holds the losses of less.
        pending = None
        if any(is_free(self, probe) for probe in self.probes.values()):
            pending = jnp.full((2, self.lanes or 1), jnp.nan, jnp.result_type(float))
        return strong_types(Carry(jnp.asarray(0, int), lane, budgets, pending))


def is_full_batch(trajectory: Trajectory) -> bool:
    """True if a step trains on all of the data, each example once."""
    batch = trajectory.batch
    whole = batch == trajectory.objective.n and trajectory.sampling == "shuffle"
    return batch is None or whole


def edge_probe(trajectory: Trajectory) -> RealizedEdge | None:
    """The probe of the realized edge."""
    found = (probe for probe in trajectory.probes.values() if isinstance(probe, RealizedEdge))
    return next(found, None)


def is_free(trajectory: Trajectory, probe: AbstractProbe) -> bool:
    """True if the losses of the steps themselves are enough for a probe: no forward pass."""
    return isinstance(probe, RealizedEdge) and is_full_batch(trajectory)


def place(trajectory: Trajectory, carry: Carry, lanes: int | None) -> Carry:
    """Places a carry by the objective's placement, inside of jit and outside.

    Args:
        trajectory: the run.
        carry: its state.
        lanes: the size of its lane axis, padded or not; None for a single run.

    Returns:
        The carry: parameters, and arrays shaped like them, placed as parameters; the vectors of
        warm starts as a Krylov basis; all else replicated.
    """
    placement = trajectory.objective.placement
    if placement is None:
        return carry
    params = carry.lane.params
    shapes = jax.tree.map(
        lambda x: jax.ShapeDtypeStruct(x.shape if lanes is None else x.shape[1:], x.dtype), params
    )
    lane = placement.put_state(carry.lane, shapes, lanes)
    step, budgets = placement.put_replicated((carry.step, carry.budgets))
    return Carry(step=step, lane=lane, budgets=budgets)


def copy_tree(tree: PyTree) -> PyTree:
    """A copy of every array of a pytree, so that one of the two may be donated.

    Args:
        tree: any pytree; what is not an array stays as it is.

    Returns:
        The copy.

    Example:
        >>> import jax.numpy as jnp
        >>> copy_tree({"a": jnp.ones(1), "b": "text"})
        {'a': Array([1.], dtype=float32), 'b': 'text'}
    """
    return jax.tree.map(
        lambda leaf: jnp.array(leaf, copy=True) if eqx.is_array(leaf) else leaf, tree
    )


def strong_types(tree: PyTree) -> PyTree:
    """The tree without weakly typed arrays.

    A program depends on that: a carry that is weakly typed before the first chunk, and not after
    it, compiles a chunk twice. Buffers of optax and of a user's own probe may be weakly typed.
    """
    return jax.tree.map(
        lambda leaf: leaf.astype(leaf.dtype) if getattr(leaf, "weak_type", False) else leaf, tree
    )


def stack_lanes(optimizers: list[Optimizer]) -> Optimizer:
    """One optimizer whose array leaves carry a lane axis: a sweep is a `vmap` over it.

    Args:
        optimizers: optimizers that differ in the values of their array leaves only.

    Returns:
        An optimizer with leaves stacked along a new first axis.

    Raises:
        ValueError: no optimizer, or optimizers that differ in anything else, by its name and both
            values: a static field, a Python number, a function, a shape, a dtype.
        TypeError: one optimizer in place of a list.

    Example:
        >>> import aeoskit as ak
        >>> sweep = ak.stack_lanes([ak.adam(1e-3), ak.adam(3e-3)])
        >>> sweep.schedule.lr.shape
        (2,)
    """
    if isinstance(optimizers, AbstractOptimizer):
        raise TypeError("stack_lanes was given one optimizer; pass a list of them.")
    if not optimizers:
        raise ValueError("stack_lanes was given no optimizer; pass at least one.")
    first = optimizers[0]
    for number, other in enumerate(optimizers[1:], start=2):
        found = _difference(first, other, "")
        if found is not None:
            name, one, two = found
            if "function " in one:  # Each call of an optax factory makes new ones.
                advice = (
                    "take an optimizer or a schedule of aeoskit's, whose numbers are arrays and "
                    "not inside of a function, or "
                )
            elif one.endswith("(...)"):  # Two kinds of a part.
                advice = ""
            else:
                advice = "hold it in a jax array, or "
            raise ValueError(
                f"{name.lstrip('.') or 'the optimizer'} is {one} in the first optimizer of the "
                f"sweep and {two} in number {number}, but all lanes are one program of one "
                f"structure, in which only the values of arrays differ: {advice}run each kind in "
                "a trajectory of its own."
            )
    return jax.tree.map(
        lambda *leaves: jnp.stack(leaves) if eqx.is_array(leaves[0]) else leaves[0], *optimizers
    )


def _difference(one: Any, two: Any, name: str) -> tuple[str, str, str] | None:
    """The name of the first part in which two trees differ by more than arrays' values, and both.

    `jax.tree.map` looks at neither: static fields and leaves that are no arrays are the first's.
    """
    both = name, _describe(one), _describe(two)
    if one is two:
        return None
    if type(one) is not type(two):
        return both
    if eqx.is_array(one):
        return None if (one.shape, one.dtype) == (two.shape, two.dtype) else both
    nodes = [
        jax.tree_util.tree_flatten_with_path(x, is_leaf=lambda y, x=x: y is not x)
        for x in (one, two)
    ]
    (children, treedef), (others, other) = nodes
    if [path for path, _ in children] != [path for path, _ in others]:
        return both
    if [path for path, _ in children] == [()]:  # A leaf.
        return None if _equal_static(one, two) else both
    for (path, a), (_, b) in zip(children, others, strict=True):
        found = _difference(a, b, name + jax.tree_util.keystr(path))
        if found is not None:
            return found
    for field in dataclasses.fields(one) if dataclasses.is_dataclass(one) else ():
        a, b = (getattr(x, field.name, None) for x in (one, two))
        if field.metadata.get("static", False) and not _equal_static(a, b):
            return f"{name}.{field.name}", _describe(a), _describe(b)
    return None if dataclasses.is_dataclass(one) or treedef == other else both


def _equal_static(one: Any, two: Any) -> bool:
    """True if two static values are equal; NaN equals NaN."""
    if type(one) is not type(two):
        return False
    if isinstance(one, np.ndarray | jax.Array):
        return np.array_equal(one, two)
    return bool(one == two) or (one != one and two != two)


def _describe(value: Any) -> str:
    if eqx.is_array(value):
        return f"an array of {value.dtype} and shape {value.shape}"
    if dataclasses.is_dataclass(value):
        return f"{type(value).__name__}(...)"
    if callable(value):
        return f"the function {getattr(value, '__qualname__', value)}"
    return repr(value) if len(repr(value)) < 80 else f"{repr(value)[:77]}..."


def lane_axes(tree: PyTree) -> PyTree:
    """`vmap` axes of a tree whose arrays all carry the lane axis."""
    return jax.tree.map(lambda leaf: 0 if eqx.is_array(leaf) else None, tree)


def take_lane(tree: PyTree, index: int) -> PyTree:
    """One lane of a tree whose arrays all carry a lane axis."""
    return jax.tree.map(lambda leaf: leaf[index] if eqx.is_array(leaf) else leaf, tree)
