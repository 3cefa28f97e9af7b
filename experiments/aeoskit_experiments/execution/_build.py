"""From declarations to arrays: the data, the model, the objective and the trajectory of a group."""

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import jax.core
import jax.numpy as jnp
import msgspec
import numpy as np
from jaxtyping import PRNGKeyArray, PyTree

from aeoskit.linalg import (
    AbstractEigenSolver,
    Arnoldi,
    Dense,
    Lanczos,
    Tracking,
)
from aeoskit.objective import AbstractOutputLoss, Objective
from aeoskit.optimizers import OptaxOptimizer, UpdateMap
from aeoskit.probes import (
    AbstractProbe,
    Evaluation,
    FlipMultiplier,
    LossAndGradient,
    Measurement,
    PreconditionedSharpness,
    ProbeContext,
    RealizedEdge,
    Sharpness,
    StabilityThreshold,
)
from aeoskit.sharding import Placement
from aeoskit.trajectory import AnyOptimizer, Carry, Trajectory, stack_lanes
from aeoskit_experiments._errors import UserError
from aeoskit_experiments.data import AnyDataset, Dataset
from aeoskit_experiments.losses import MeanLoss, misclassified
from aeoskit_experiments.parts import module_name, short_name
from aeoskit_experiments.pipelines import (
    AnyTrack,
    Choice,
    Experiment,
    Track,
    TrackError,
    TrackMultiplier,
    Train,
    check_probe_batch,
    check_steps,
)

from ._place import placement_of
from ._rewind import Start, find_source_run


@dataclasses.dataclass(frozen=True)
class Setup:
    """One group, ready to train.

    Args:
        trajectory: the main run (with lanes, if an array leaf of the optimizer is swept).
        carry: its state before the first step.
        lanes: the swept values of each lane.
        train: the settings of training, its length in steps.
        start: for a rewound run, the other run's state that it starts from.
    """

    trajectory: Trajectory
    carry: Carry
    lanes: tuple[dict[str, float], ...]
    train: Train
    start: Start | None = None


def build(experiment: Experiment) -> Setup:
    """Build everything that a group's experiment declares; its errors come before any training.

    Args:
        experiment: the experiment of one group: only array leaves of its optimizer are swept.

    Raises:
        ValueError: from the library, in one sentence.
    """
    data, model, loss = experiment.data, experiment.model, experiment.loss
    optimizer, train = experiment.optimizer, experiment.train
    # Ensured by Pipeline.experiment.
    assert data is not None
    assert model is not None
    assert loss is not None
    assert optimizer is not None
    assert train is not None
    dataset = data.build()
    network = model.build()
    params = _drawn(network.init, jax.random.key(_whole(model.seed)), dataset)
    placement = None if experiment.place is None else placement_of(experiment.place)
    examples = (dataset.inputs, dataset.targets)
    if placement is not None:
        # Each process copies from the host's memory only its own devices' part.
        examples = jax.tree.map(np.asarray, examples)
        params = placement.put_params(params)
    output_loss = mean_loss = loss.build()
    if network.couples:
        if not isinstance(output_loss, AbstractOutputLoss):
            raise UserError(
                f"{loss.label}: the model couples the examples of a batch, and takes a loss that "
                f"is an aeoskit.objective.AbstractOutputLoss: make it one"
            )
        output_loss = MeanLoss(output_loss)
    objective = Objective.from_model(
        network.apply,
        output_loss,
        examples,
        microbatch=train.microbatch,
        reuse=train.reuse,
        params=params,
        placement=placement,
    )
    steps = train.steps_on(objective.n)
    lanes = experiment.lanes()
    main = build_optimizer(optimizer, lanes)
    source = None
    if experiment.rewind is not None:
        source = find_source_run(experiment.rewind, main.is_euclidean)
        rewind = msgspec.structs.replace(experiment.rewind, at=source.at)
        experiment = dataclasses.replace(experiment, rewind=rewind)
    check_steps(experiment, steps)
    main = with_data(main, objective)
    unknown = why_unknown(main, params)
    if unknown is not None:
        _check_unknown(experiment, unknown)
    means = functools.partial(
        evaluated, dataset, network.apply, mean_loss, train.microbatch, placement
    )

    def made(tracks: tuple[AnyTrack, ...]) -> dict[str, AbstractProbe]:
        probes = build_probes(tracks, objective, _whole(train.seed), means)
        probes |= build_edge(tracks, whole=is_whole_batch(train, objective.n))
        return probes if unknown is None else probes | {"threshold": UnknownThreshold()}

    trajectory = Trajectory(
        objective=objective,
        optimizer=main,
        probes=made(experiment.probes),
        batch=train.batch,
        sampling=train.sampling,
        lanes=len(lanes) if len(lanes) > 1 else None,
    )
    key = jax.random.key(train.seed)
    carry = _initial(trajectory, params, key)
    start = None
    if source is not None:
        source_trajectory, like = trajectory, carry
        if source.experiment.probes != experiment.probes:
            source_trajectory = dataclasses.replace(
                trajectory, probes=made(source.experiment.probes)
            )
            like = _initial(source_trajectory, params, key)
        before = source.experiment.probes
        lost = {short_name(probe.variant) for probe in experiment.probes if probe not in before}
        kept = tuple(
            name
            for name in trajectory.probes
            if name not in lost and name in source_trajectory.probes
        )
        start = Start(source, source_trajectory, source.load(like), kept)
    return Setup(trajectory, carry, lanes, msgspec.structs.replace(train, steps=steps), start)


@eqx.filter_jit
def _drawn(
    init: Callable[[PRNGKeyArray, AnyDataset], PyTree], key: PRNGKeyArray, dataset: AnyDataset
) -> PyTree:
    """The parameters, by one program instead of several for each shape."""
    return init(key, dataset)


@eqx.filter_jit
def _initial(trajectory: Trajectory, params: PyTree, key: PRNGKeyArray) -> Carry:
    """The state before the first step, by one program instead of one for each array.

    Nothing is pending then; nor is it in a checkpoint, so that those of earlier versions fit.
    """
    return dataclasses.replace(trajectory.init(params, key), pending=None)


def build_optimizer(choice: Choice, lanes: tuple[dict[str, float], ...]) -> AnyOptimizer:
    """The optimizer, with a lane axis if there are several lanes."""
    optimizers = [choice.build(**lane) for lane in lanes]
    return optimizers[0] if len(optimizers) == 1 else stack_lanes(optimizers)


def with_data(optimizer: AnyOptimizer, objective: Objective) -> AnyOptimizer:
    """The optimizer; an update map with the data that it takes.

    Raises:
        UserError: If the data are sharded over devices, which such a map does not support.
    """
    if not isinstance(optimizer, UpdateMap):
        return optimizer
    if objective.placement is not None:
        raise UserError(
            "place: an update map does not support a mesh: leave place out, or take another "
            "optimizer"
        )
    return dataclasses.replace(optimizer, batch=objective.data)


def unmeasurable(optimizer: AnyOptimizer) -> set[str]:
    """The probes that are undefined for an optimizer."""
    found = set() if optimizer.has_metric else {"preconditioned_sharpness"}
    return found if optimizer.is_update_map else found | {"flip_multiplier"}


def why_unknown(optimizer: AnyOptimizer, params: PyTree) -> str | None:
    """The reason why an optimizer's threshold is unknown, or None."""
    if not isinstance(optimizer, OptaxOptimizer):
        return None

    def read(params: PyTree) -> Any:
        state = optimizer.init(params)
        return optimizer.threshold(state, params), optimizer.learning_rate(state, params)

    try:
        eqx.filter_eval_shape(read, params)
    except ValueError as error:
        return " ".join(str(error).split())
    return None


def _check_unknown(experiment: Experiment, reason: str) -> None:
    """Raise a `UserError` for stages that need the threshold if it is unknown."""
    optimizer = experiment.optimizer
    assert optimizer is not None
    why = reason.rstrip(".")
    if optimizer.code is not None:
        why = why.replace(module_name(optimizer.code), Path(optimizer.code.file).stem)
    fixes = [
        f"give branch {branch.name} a step, as in `--at 300`"
        for branch in experiment.branches
        if branch.at == "threshold"
    ]
    if any(probe.variant == "preconditioned_sharpness" for probe in experiment.probes):
        stepwise = "no multiplier" in reason  # piecewise constant, so that no multiplier exists
        others = "`track sharpness`" if stepwise else "`track flip_multiplier` or `track sharpness`"
        fixes.insert(0, f"write {others} instead of preconditioned_sharpness")
    if fixes:
        raise UserError(f"{optimizer.label} has no known threshold, since {why}; {fixes[0]}")


class UnknownThreshold(AbstractProbe):
    """The threshold and learning rate of an optimizer without known ones: NaN."""

    every: int = eqx.field(static=True, default=1)

    @property
    def measures(self) -> tuple[str, ...]:
        return ("threshold", "learning_rate")

    @property
    def solves(self) -> bool:
        return False

    def init(self, params: PyTree, key: PRNGKeyArray) -> None:
        del params, key

    def measure(self, context: ProbeContext, state: None) -> tuple[Measurement, None]:
        unknown = jnp.full_like(context.value, jnp.nan)
        return {"threshold": unknown, "learning_rate": unknown}, state


def _solver(track: Track) -> AbstractEigenSolver:
    if track.solver == "dense":
        return Dense(rtol=track.rtol)
    if track.solver == "lanczos":
        return Lanczos(basis=track.basis, rtol=track.rtol)
    # A small basis has less room beyond the wanted pairs.
    room = track.basis - 2 - track.k - max(2, track.k)
    default = Tracking().kept
    return Tracking(
        basis=track.basis,
        kept=min(default, room),
        rtol=track.rtol,
        value_rtol=track.value_rtol,
    )


_PROBE_STREAM = 1
"""A stream of the seed of train: batches use jax's keys, the probe batch numpy."""


def probe_batch(objective: Objective, examples: int, seed: int) -> Objective:
    """The loss on a fixed batch, drawn without replacement; a larger one contains a smaller one.

    Args:
        objective: the loss on all of the data.
        examples: number of examples to draw.
        seed: the seed of train.
    """
    order = np.random.default_rng([seed, _PROBE_STREAM]).permutation(objective.n)
    indices = jnp.asarray(np.sort(order[:examples]), jnp.int32)
    # Compiled, so that sharded examples are gathered on the devices.
    return eqx.filter_jit(lambda objective, indices: objective.on_batch(indices))(
        objective, indices
    )


def evaluated(
    dataset: AnyDataset,
    model: Callable[..., Any],
    loss: Callable[..., Any],
    microbatch: int | None,
    placement: Placement | None,
    variant: str,
) -> dict[str, Objective]:
    """The objectives that `track test_error` or `track train_error` evaluates, by name.

    Raises:
        UserError: If there are no test rows, or the targets are not classes.
    """
    rows = (dataset.inputs, dataset.targets)
    losses = {"train_error": misclassified}
    if variant == "test_error":
        losses = {"test_error": misclassified, "test_loss": loss}
        if not isinstance(dataset, Dataset) or dataset.test_inputs is None:
            raise UserError(
                "track test_error: the data have no test rows: add some with the option --test of "
                "data, if it has one, or track train_error"
            )
        rows = (dataset.test_inputs, dataset.test_targets)
    if isinstance(dataset, Dataset) and not _one_hot(dataset.targets):
        raise UserError(
            f"track {variant}: the targets are not classes, so there is no error rate: leave it "
            f"out, since the loss measures the fit"
        )
    if placement is not None:
        rows = jax.tree.map(np.asarray, rows)
    size = len(jax.tree.leaves(rows)[0])
    return {
        name: Objective.from_model(
            model,
            function,
            rows,
            microbatch=None if microbatch is None else min(microbatch, size),
            placement=placement,
        )
        for name, function in losses.items()
    }


def _one_hot(targets: Any) -> bool:
    if targets.shape[-1] < 2:
        return False
    if isinstance(targets, jax.core.Tracer):
        return True  # a plan has only shapes
    rows = np.asarray(targets)
    return bool(((rows == 0) | (rows == 1)).all() and (rows.sum(-1) == 1).all())


def build_probes(
    tracks: tuple[AnyTrack, ...],
    objective: Objective,
    seed: int,
    means: Callable[[str], dict[str, Objective]],
) -> dict[str, AbstractProbe]:
    """The probes: those of the tracks, and always the loss, the gradient norm and the threshold.

    Args:
        tracks: the declared tracks.
        objective: the loss on all of the data.
        seed: the seed of train, which draws the probe batch.
        means: the objectives of `evaluated`, on the test rows or on the training data.
    """
    kinds: dict[str, Any] = {
        "sharpness": Sharpness,
        "preconditioned_sharpness": PreconditionedSharpness,
    }
    probes: dict[str, AbstractProbe] = {
        "loss": LossAndGradient(),
        "threshold": StabilityThreshold(),
    }
    batches: dict[int, Objective] = {}
    for track in tracks:
        if isinstance(track, Choice):
            probes[short_name(track.variant)] = track.build()
            continue
        if isinstance(track, TrackMultiplier):
            arnoldi = Arnoldi(basis=track.basis, rtol=track.rtol)
            probes[track.variant] = FlipMultiplier(
                every=track.every, solver=arnoldi, oscillation=track.oscillation
            )
            continue
        if isinstance(track, TrackError):
            probes[track.variant] = Evaluation(objectives=means(track.variant), every=track.every)
            continue
        solver, size, batch = _solver(track), track.examples, None
        if size is not None:
            check_probe_batch(track.variant, size, objective.n)
            if size < objective.n:
                batch = batches.setdefault(size, probe_batch(objective, size, seed))
        probes[track.variant] = kinds[track.variant](
            k=track.k,
            every=track.every,
            solver=solver,
            objective=batch,
            overhead=track.overhead,
        )
    return probes


_BUDGETED = 10
"""The period of what follows a probe with a time budget, whose own period varies."""


def build_edge(tracks: tuple[AnyTrack, ...], *, whole: bool) -> dict[str, AbstractProbe]:
    """The probe of the realized edge: of every step that trains on all of the data.

    Of a minibatch it costs a forward pass, and is measured when another probe is; without one, not
    at all.

    Args:
        tracks: the declared tracks.
        whole: whether a step trains on all of the data.
    """
    periods = {
        short_name(track.variant): max(track.every, _BUDGETED)
        if getattr(track, "overhead", None)
        else track.every
        for track in tracks
        if not isinstance(track, Choice)
    }
    if not whole and not periods:
        return {}
    every = 1 if whole else min(periods.values())
    metric_every = periods.get("preconditioned_sharpness")
    return {"realized_edge": RealizedEdge(every=every, metric_every=metric_every)}


def is_whole_batch(train: Train, examples: int) -> bool:
    """True if a step trains on all of the data, each example once."""
    return train.batch is None or (train.batch == examples and train.sampling == "shuffle")


def _whole(seed: PyTree) -> int:
    assert isinstance(seed, int)  # a swept seed was split into groups
    return seed
