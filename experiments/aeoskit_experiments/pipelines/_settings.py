"""The stages that aeoskit itself carries out: a field is an option, its annotation the bounds."""

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
Moment = Natural | Literal["start", "edge"]


class Train(msgspec.Struct, frozen=True):
    """How long and on what to train.

    Args:
        steps: Steps of the optimizer; either these or epochs.
        epochs: How many times to go through the data, as many whole batches each time as there are.
        batch: Examples in a batch; none takes the whole data at every step.
        sampling: Batches of a shuffled epoch, without replacement, or each drawn from all of the
            data with replacement.
        chunk: Steps between two visits of the host, which streams, tells of progress, looks for the
            edge and decides whether to stop.
        seed: Seed of the batches.
        microbatch: Examples evaluated at a time; none takes all at once.
        mode: A compiled scan, steps dispatched by the host, or the rule that chooses.
        stop_loss: End with the chunk after which the median loss of the last 50 steps is below this
            in every lane that goes on.
        reuse: Keep the residuals of the gradient for all products of a solve (linearize), compute
            them anew in each (recompute: less memory), or keep them where they are small.
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
        """How many steps it is on so many examples: an epoch is its whole batches."""
        if self.epochs is None:
            assert self.steps is not None  # held by the check of the whole
            return self.steps
        return self.epochs * max(1, examples // (self.batch or examples))


class Track(msgspec.Struct, frozen=True):
    """What is measured along the way, on the Hessian of the loss on all of the data, or on some.

    Args:
        variant: Which operator: the Hessian or the preconditioned one.
        k: How many of the largest eigenvalues.
        every: Steps between two measurements.
        rtol: Residual of an eigenpair, relative to its eigenvalue.
        basis: Vectors that the solver holds before it restarts.
        solver: tracking goes on from a model of the last measurement's operator, with a half to a
            fifth of the products of lanczos, which starts from its vectors; dense takes the whole
            matrix, of at most a few hundred parameters.
        value_rtol: If positive, tracking also stops once it expects an eigenvalue to be this
            accurate (relative), whatever its residual: cheaper, and an estimate.
        examples: Take the Hessian on a fixed random batch of so many examples, the same for every
            probe and branch, drawn by the seed of train; none takes all of them.
        overhead: Time that it may take, as a share of that of the training steps (0.2), compilation
            and the first measurement excluded. Then every is the shortest period and value-rtol the
            tightest tolerance, and both are loosened as it takes; none keeps them.
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
    """What is measured of the whole training step: its eigenvalue of smallest real part.

    Args:
        variant: The flip multiplier.
        every: Steps between two measurements: odd, since at the edge every other step is alike.
        rtol: Residual of the eigenpair, relative to its eigenvalue.
        basis: Vectors that the solver holds before it restarts.
    """

    variant: str
    every: Count = 25
    rtol: Positive = 1e-3
    basis: Basis = 30


class TrackError(msgspec.Struct, frozen=True):
    """What fraction of the data is told wrong, and of test rows the loss as well.

    Args:
        variant: On the test rows, or on the data that are trained on.
        every: Steps between two evaluations.
    """

    variant: str
    every: Count = 50


AnyTrack = Track | TrackMultiplier | TrackError


class Rewind(msgspec.Struct, frozen=True):
    """From a state of another run's main branch on; what is not named here is as it was there.

    Args:
        run: The other run's folder.
        at: From which step on, or edge (where a branch of that run would have begun at its edge).
    """

    run: str
    at: Natural | Literal["edge"] = "edge"


class Freeze(msgspec.Struct, frozen=True):
    """From some step on, the same optimizer with its preconditioner held constant.

    Args:
        at: When: a step, start, or edge (the ratio to the threshold first reaches 0.9).
        name: The branch's name in the record; none takes "frozen".
        ratio: If given, the learning rate is set once, such that the ratio of λ₁(P⁻¹H) to the
            threshold is this; any schedule ends.
    """

    at: Moment = "edge"
    name: str | None = None
    ratio: Positive | None = None


class Switch(msgspec.Struct, frozen=True):
    """From some step on, another optimizer, started afresh.

    Args:
        optimizer: Its name, as in the stage optimizer.
        lr: Its learning rate, if it has one; either this or ratio.
        at: When: a step, start, or edge (the ratio to the threshold first reaches 0.9).
        name: The branch's name in the record; none takes the optimizer's.
        beta1: Its momentum, if it has one.
        beta2: Decay of its second moments, if it has them.
        eps: Added to its preconditioner, if it has one.
        weight_decay: Its decoupled weight decay, if it has one.
        form: Its form of momentum, if it has several.
        transform: Which one of optax's, if it is optax.
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
    """Over which devices the run is spread: the same numbers, by more of them.

    Args:
        mesh: Axes and sizes, as data=4,model=2; an axis without a size takes what is left. Examples
            are split over data, the lanes of a sweep over sweep, sharded params over all but sweep.
        devices: Number of devices; on a CPU so many are made; none takes all that are there.
        params: A copy on each device, or each device its share, gathered where it is needed.
        basis: Vectors of an eigen-solve over all devices, or as the params are.
    """

    mesh: str = "data"
    devices: Devices | None = None
    params: Literal["replicated", "sharded"] = "replicated"
    basis: Literal["spread", "params"] = "spread"


class Store(msgspec.Struct, frozen=True):
    """Where the run's folder goes.

    Args:
        root: The folder that run folders are made in.
        folder: This very folder, which must not exist yet; none makes a name.
        checkpoints: Whether to keep the state where a branch begins and where one ends, the main
            run included.
        checkpoint_every: Keep that of the main run at its start and on its way too, at the end of
            the chunk in which it passes a multiple of so many steps.
    """

    root: str = "runs"
    folder: str | None = None
    checkpoints: bool = True
    checkpoint_every: Count | None = None


class Plot(msgspec.Struct, frozen=True):
    """Which figure is drawn.

    Args:
        kind: The edge (loss, ratio), the advance (branches, or a sweep), the multiplier beside the
            ratio, the thresholds (branches below and above), a grid of two swept numbers, a sweep
            of epsilon or warmup, spikes of the loss, or whichever fits.
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
    ] = "auto"
