"""The settings of the stages without functions: a field is an option, its annotation the bounds."""

from typing import Annotated, Literal

import msgspec

from aeoskit_experiments.options import (
    Count,
    Decay,
    Natural,
    NonNegative,
    Positive,
    Seed,
)

Basis = Annotated[int, msgspec.Meta(ge=3)]
Overhead = Annotated[float, msgspec.Meta(gt=0, le=10)]
Devices = Annotated[int, msgspec.Meta(ge=1, le=8192)]
Moment = Natural | Literal["start", "edge", "threshold"]


class Train(msgspec.Struct, frozen=True):
    """The length of training, and its batches.

    Args:
        steps: Number of steps of the optimizer; either these or epochs.
        epochs: Number of passes through the data, each of as many whole batches as there are.
        batch: Examples in a batch; none for all of the data at every step.
        sampling: Batches of a shuffled epoch, without replacement, or each drawn from all of the
            data with replacement.
        chunk: Steps between two returns to the host, which stores rows, reports progress, detects
            the edge and decides whether to stop.
        seed: Seed of the batches.
        microbatch: Examples evaluated at a time; none for all at once.
        mode: A compiled scan, steps dispatched by the host, or the rule that chooses.
        stop_loss: End with the chunk after which the median loss of the last 50 steps is below this
            in every active lane.
        reuse: Keep the residuals of the gradient for all products of a solve (linearize), recompute
            them in each (recompute: less memory), or keep them if they are small (auto).
    """

    steps: Count | None = None
    epochs: Count | None = None
    batch: Count | None = None
    sampling: Literal["shuffle", "replacement"] = "shuffle"
    chunk: Count = 100
    seed: Seed = 0
    microbatch: Count | None = None
    mode: Literal["auto", "scan", "host"] = "auto"
    stop_loss: Positive | None = None
    reuse: Literal["auto", "linearize", "recompute"] = "auto"

    def steps_on(self, examples: int) -> int:
        """The number of steps for this number of examples; an epoch is its whole batches."""
        if self.epochs is None:
            assert self.steps is not None  # ensured by the check of the whole
            return self.steps
        return self.epochs * max(1, examples // (self.batch or examples))


class Track(msgspec.Struct, frozen=True):
    """A sharpness probe, on the Hessian of the loss on all of the data, or on a part of them.

    Args:
        variant: The operator: the Hessian or the preconditioned Hessian.
        k: Number of the largest eigenvalues.
        every: Steps between two measurements.
        rtol: Residual of an eigenpair, relative to its eigenvalue.
        basis: Vectors that the solver holds before it restarts.
        solver: tracking continues from a model of the last measurement's operator, with a half to a
            fifth of the products of lanczos, which starts from its vectors; dense computes the
            whole matrix, for at most a few hundred parameters.
        value_rtol: If positive, tracking also stops once it estimates that an eigenvalue has this
            relative accuracy, whatever its residual: cheaper, but an estimate.
        examples: Number of examples of the Hessian, a fixed random batch drawn by the seed of
            train, the same for every probe and branch; none for all of them.
        overhead: Time budget, as a fraction of the time of the training steps (0.2), compilation
            and the first measurement excluded. Then every is the shortest period and value-rtol the
            tightest tolerance, and both are loosened as needed; none keeps them.
    """

    variant: str
    k: Count = 1
    every: Count = 10
    rtol: Positive = 1e-3
    basis: Basis = 20
    solver: Literal["tracking", "lanczos", "dense"] = "tracking"
    value_rtol: NonNegative = 0.01
    examples: Count | None = None
    overhead: Overhead | None = None


class TrackMultiplier(msgspec.Struct, frozen=True):
    """A probe of the whole training step: the eigenvalue of smallest real part.

    Args:
        variant: The flip multiplier.
        every: Steps between two measurements: odd, since at the edge the steps alternate.
        rtol: Residual of the eigenpair, relative to its eigenvalue.
        basis: Vectors that the solver holds before it restarts.
        oscillation: Measure the largest modulus of those that are not real and positive, too.
    """

    variant: str
    every: Count = 25
    rtol: Positive = 1e-3
    basis: Basis = 30
    oscillation: bool = False


class TrackError(msgspec.Struct, frozen=True):
    """A probe of the error rate, and on test rows of the loss as well.

    Args:
        variant: The test rows, or the training data.
        every: Steps between two evaluations.
    """

    variant: str
    every: Count = 50


AnyTrack = Track | TrackMultiplier | TrackError


class Rewind(msgspec.Struct, frozen=True):
    """A start from a state of another run's main branch; stages that are not given are that run's.

    Args:
        run: The other run's folder.
        at: The step, or edge or threshold (where a branch of that run would have begun).
    """

    run: str
    at: Natural | Literal["edge", "threshold"] = "edge"


class Freeze(msgspec.Struct, frozen=True):
    """A branch with the same optimizer and its preconditioner held constant.

    An optimizer without one is refused, unless a ratio sets its learning rate.

    Args:
        at: The start of the branch: a step, start, edge (the median realized edge first reaches
            0.8), or threshold (the ratio to it first rises to 0.9, whatever the steps lose).
        name: The branch's name in the record; none for "frozen".
        ratio: If given, the learning rate is set once, such that the ratio of λ₁(P⁻¹H) to the
            threshold is this; any schedule ends.
    """

    at: Moment = "edge"
    name: str | None = None
    ratio: Positive | None = None


class Switch(msgspec.Struct, frozen=True):
    """A branch with another optimizer, in its initial state.

    Args:
        optimizer: Its name, as in the stage optimizer.
        lr: Its learning rate, if it has one; either this or ratio.
        at: The start of the branch: a step, start, edge (the median realized edge first reaches
            0.8), or threshold (the ratio to it first rises to 0.9, whatever the steps lose).
        name: The branch's name in the record; none for the optimizer's.
        beta1: Its momentum, if it has one.
        beta2: Decay of its second moments, if it has them.
        eps: Added to its preconditioner, if it has one.
        weight_decay: Its decoupled weight decay, if it has one.
        form: Its form of momentum, if it has several.
        transform: Name of optax's optimizer, if it is optax.
        ratio: If given, the learning rate is set once, such that the ratio of λ₁(P⁻¹H) to the
            threshold is this at the switch.
    """

    optimizer: str
    lr: Positive | None = None
    at: Moment = "edge"
    name: str | None = None
    beta1: Decay | None = None
    beta2: Decay | None = None
    eps: NonNegative | None = None
    weight_decay: NonNegative | None = None
    form: str | None = None
    transform: str | None = None
    ratio: Positive | None = None


class Place(msgspec.Struct, frozen=True):
    """The devices of the run: the same numbers, from more devices.

    Args:
        mesh: Axes and sizes, as data=4,model=2; an axis without a size takes the remaining devices.
            Examples are split over data, the lanes of a sweep over sweep, sharded params over all
            but sweep.
        devices: Number of devices; on a CPU they are simulated; none for all.
        params: A copy on each device, or one shard on each, gathered where needed.
        basis: Vectors of an eigen-solve sharded over all devices, or as the params.
    """

    mesh: str = "data"
    devices: Devices | None = None
    params: Literal["replicated", "sharded"] = "replicated"
    basis: Literal["spread", "params"] = "spread"


class Store(msgspec.Struct, frozen=True):
    """The place of the run's folder.

    Args:
        root: The folder in which run folders are created.
        folder: The run's own folder, which must not exist yet; none for a generated name.
        checkpoints: Whether to store the states at the start and the end of each branch, main
            included.
        checkpoint_every: Also store the main run's state at its start, and at the end of each chunk
            that passes a multiple of this number of steps.
    """

    root: str = "runs"
    folder: str | None = None
    checkpoints: bool = True
    checkpoint_every: Count | None = None


class Plot(msgspec.Struct, frozen=True):
    """The figure.

    Args:
        kind: The edge (loss, ratio), the advance (branches, or a sweep), the multiplier beside the
            ratio, the thresholds (branches below and above), a grid of two swept numbers, a sweep
            of epsilon or warmup, spikes of the loss, the edge over beta2, or auto, the one that
            fits.
    """

    kind: Literal[
        "auto",
        "edge",
        "advance",
        "multiplier",
        "thresholds",
        "grid",
        "epsilon",
        "warmup",
        "spikes",
        "beta2",
    ] = "auto"
