"""From declarations to arrays: the data, the model, the objective and the trajectory of a group."""

import dataclasses
from typing import Any

import jax
import numpy as np
from jaxtyping import PyTree

from aeoskit.linalg import (
    AbstractEigenSolver,
    Arnoldi,
    Dense,
    IdentityPreconditioner,
    Lanczos,
    Tracking,
)
from aeoskit.objective import AbstractOutputLoss, Objective
from aeoskit.optimizers import Frozen, Identity, OptimistixOptimizer, Optimizer, Sign
from aeoskit.probes import (
    AbstractProbe,
    FlipMultiplier,
    LossAndGradient,
    PreconditionedSharpness,
    Sharpness,
    StabilityThreshold,
)
from aeoskit.trajectory import AnyOptimizer, Carry, Trajectory, stack_lanes
from aeoskit_experiments.losses import MeanLoss
from aeoskit_experiments.pipelines import Choice, Experiment, Track, TrackMultiplier

from ._place import placement_of


@dataclasses.dataclass(frozen=True)
class Setup:
    """One group, ready to train.

    Args:
        trajectory: the main run (with lanes, if an array leaf of the optimizer is swept).
        carry: its state before the first step.
        lanes: the swept values of each lane.
    """

    trajectory: Trajectory
    carry: Carry
    lanes: tuple[dict[str, float], ...]


def build(experiment: Experiment) -> Setup:
    """Makes everything that a group's experiment declares; its errors come before any training.

    Args:
        experiment: of one group: only array leaves of its optimizer are swept.

    Raises:
        ValueError: from the rooms themselves, in one sentence.
    """
    data, model, loss = experiment.data, experiment.model, experiment.loss
    optimizer, train = experiment.optimizer, experiment.train
    # Held by Pipeline.experiment.
    assert data is not None
    assert model is not None
    assert loss is not None
    assert optimizer is not None
    assert train is not None
    dataset = data.build()
    network = model.build()
    params = network.init(jax.random.key(_whole(model.seed)), dataset)
    placement = None if experiment.place is None else placement_of(experiment.place)
    examples = (dataset.inputs, dataset.targets)
    if placement is not None:
        # From the host's memory each process takes what its own devices hold, and no more.
        examples = jax.tree.map(np.asarray, examples)
        params = placement.put_params(params)
    output_loss = loss.function
    if network.couples:
        assert isinstance(output_loss, AbstractOutputLoss)  # as all of the stage are
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
    lanes = experiment.lanes()
    main = build_optimizer(optimizer, lanes)
    _check_metrics(experiment, main)
    trajectory = Trajectory(
        objective=objective,
        optimizer=main,
        probes=build_probes(experiment.probes),
        batch=train.batch,
        lanes=len(lanes) if len(lanes) > 1 else None,
    )
    carry = trajectory.init(params, jax.random.key(train.seed))
    return Setup(trajectory, carry, lanes)


def build_optimizer(choice: Choice, lanes: tuple[dict[str, float], ...]) -> AnyOptimizer:
    """The optimizer, with a lane axis if there are several lanes."""
    optimizers = [choice.build(**lane) for lane in lanes]
    return optimizers[0] if len(optimizers) == 1 else stack_lanes(optimizers)


def _check_metrics(experiment: Experiment, main: AnyOptimizer) -> None:
    """Refuses what asks for the preconditioner of an optimizer that has none."""
    assert experiment.optimizer is not None
    name = experiment.optimizer.variant
    tracked = {track.variant for track in experiment.probes} & set(NEED_METRIC)
    if not has_metric(main):
        if any(branch.kind == "freeze" for branch in experiment.branches):
            raise ValueError(
                f"optimizer {name} has no preconditioner that could be held: take another "
                f"optimizer, or leave out branch freeze."
            )
        if tracked:
            raise ValueError(
                f"optimizer {name} has no preconditioner, since its step is piecewise constant "
                f"in the gradient: track sharpness, or take another optimizer."
            )


NEED_METRIC = ("preconditioned_sharpness", "flip_multiplier")
"""Probes that mean nothing for an optimizer without a preconditioner."""


def has_metric(optimizer: AnyOptimizer) -> bool:
    """Whether the optimizer has a preconditioner, the identity included, and a threshold."""
    if isinstance(optimizer, OptimistixOptimizer):
        return False
    return not isinstance(getattr(optimizer, "preconditioner_rule", None), Sign)


def _solver(track: Track) -> AbstractEigenSolver:
    if track.solver == "dense":
        return Dense(rtol=track.rtol)
    if track.solver == "lanczos":
        return Lanczos(basis=track.basis, rtol=track.rtol)
    # In a small basis there is less room beyond the wanted pairs.
    room = track.basis - 2 - track.k - max(2, track.k)
    default = Tracking().kept
    return Tracking(
        basis=track.basis,
        kept=min(default, room),
        rtol=track.rtol,
        value_rtol=track.value_rtol,
    )


def build_probes(tracks: tuple[Track | TrackMultiplier, ...]) -> dict[str, AbstractProbe]:
    """The probes: what is tracked, and always the loss, the gradient norm and the threshold."""
    kinds: dict[str, Any] = {
        "sharpness": Sharpness,
        "preconditioned_sharpness": PreconditionedSharpness,
    }
    probes: dict[str, AbstractProbe] = {
        "loss": LossAndGradient(),
        "threshold": StabilityThreshold(),
    }
    for track in tracks:
        if isinstance(track, TrackMultiplier):
            arnoldi = Arnoldi(basis=track.basis, rtol=track.rtol)
            probes[track.variant] = FlipMultiplier(every=track.every, solver=arnoldi)
            continue
        solver = _solver(track)
        probes[track.variant] = kinds[track.variant](k=track.k, every=track.every, solver=solver)
    return probes


def is_raw(optimizer: AnyOptimizer) -> bool:
    """Whether the optimizer has no preconditioner: then its sharpness is `λ₁(H)` itself."""
    if not isinstance(optimizer, Optimizer):
        return isinstance(optimizer, OptimistixOptimizer)
    rule = optimizer.preconditioner_rule
    if isinstance(rule, Frozen):
        return isinstance(rule.preconditioner, IdentityPreconditioner)
    return isinstance(rule, (Identity, Sign))


def _whole(seed: PyTree) -> int:
    assert isinstance(seed, int)  # a swept seed was split into groups
    return seed
