"""What each stage without a function of its own declares; the fields are its options."""

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, Literal

from aeoskit_experiments.pipelines._options import Value


@dataclasses.dataclass(frozen=True)
class Choice:
    """A registered function with its settings: a data set, a model, a loss or an optimizer.

    Args:
        stage: The stage that chose it ("optimizer").
        variant: Its name ("adam").
        settings: Every option with its value; a tuple where an array leaf is swept.
        seed: The seed of the initial parameters (models only).
    """

    stage: str
    variant: str
    settings: Mapping[str, Value]
    seed: int = 0

    @property
    def function(self) -> Callable[..., Any]:
        """The registered function itself; importing it may import jax."""
        from aeoskit_experiments.pipelines._registry import function_of

        return function_of(self.stage, self.variant)

    def build(self, **overrides: Any) -> Any:
        """Call the function with the settings, some replaced (a lane's arrays, say)."""
        settings = {**self.settings, **overrides}
        warmup = settings.pop("warmup", None) if self.stage == "optimizer" else None
        if warmup:
            from aeoskit.optimizers import LinearWarmup

            settings["lr"] = LinearWarmup(settings["lr"], warmup)
        return self.function(**settings)


@dataclasses.dataclass(frozen=True)
class Train:
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

    steps: int | None = None
    epochs: int | None = None
    batch: int | None = None
    sampling: Literal["shuffle", "replacement"] = "shuffle"
    chunk: int = 100
    seed: int = 0
    microbatch: int | None = None
    mode: Literal["auto", "scan", "host"] = "auto"
    stop_loss: float | None = None
    reuse: Literal["auto", "linearize", "recompute"] = "auto"

    def steps_on(self, examples: int) -> int:
        """How many steps it is on so many examples: an epoch is its whole batches."""
        if self.epochs is None:
            assert self.steps is not None  # held by the check of the whole
            return self.steps
        return self.epochs * max(1, examples // (self.batch or examples))


@dataclasses.dataclass(frozen=True)
class Track:
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
    k: int = 1
    every: int = 10
    rtol: float = 1e-3
    basis: int = 20
    solver: Literal["tracking", "lanczos", "dense"] = "tracking"
    value_rtol: float = 0.01
    examples: int | None = None
    overhead: float | None = None


@dataclasses.dataclass(frozen=True)
class TrackMultiplier:
    """What is measured of the whole training step: its eigenvalue of smallest real part.

    Args:
        variant: The flip multiplier.
        every: Steps between two measurements: odd, since at the edge every other step is alike.
        rtol: Residual of the eigenpair, relative to its eigenvalue.
        basis: Vectors that the solver holds before it restarts.
    """

    variant: str
    every: int = 25
    rtol: float = 1e-3
    basis: int = 30


@dataclasses.dataclass(frozen=True)
class TrackError:
    """What fraction of the data is told wrong, and of test rows the loss as well.

    Args:
        variant: On the test rows, or on the data that are trained on.
        every: Steps between two evaluations.
    """

    variant: str
    every: int = 50


AnyTrack = Track | TrackMultiplier | TrackError


@dataclasses.dataclass(frozen=True)
class Rewind:
    """From a state of another run's main branch on; what is not named here is as it was there.

    Args:
        run: The other run's folder.
        at: From which step on, or edge (where a branch of that run would have begun at its edge).
    """

    run: str
    at: int | str = "edge"


@dataclasses.dataclass(frozen=True)
class Freeze:
    """From some step on, the same optimizer with its preconditioner held constant.

    Args:
        at: When: a step, start, or edge (the ratio to the threshold first reaches 0.9).
        name: The branch's name in the record; none takes "frozen".
        ratio: If given, the learning rate is set once, such that the ratio of λ₁(P⁻¹H) to the
            threshold is this; any schedule ends.
    """

    at: int | str = "edge"
    name: str | None = None
    ratio: float | None = None


@dataclasses.dataclass(frozen=True)
class Switch:
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
    lr: float | None = None
    at: int | str = "edge"
    name: str | None = None
    beta1: float | None = None
    beta2: float | None = None
    eps: float | None = None
    weight_decay: float | None = None
    form: str | None = None
    transform: str | None = None
    ratio: float | None = None

    def given(self) -> dict[str, Value]:
        """The settings that were given; any learning rate, where the ratio will set it."""
        given = {name: getattr(self, name) for name in SWITCHED if getattr(self, name) is not None}
        return given if self.ratio is None else {"lr": 1.0, **given}

    def choice(self) -> Choice:
        """The optimizer with the settings that were given and its own defaults for the rest."""
        from aeoskit_experiments.pipelines._registry import options_for

        given = self.given()
        defaults: dict[str, Value] = {
            option.name: option.default for option in options_for("optimizer", self.optimizer)
        }
        return Choice("optimizer", self.optimizer, {**defaults, **given})


SWITCHED = ("lr", "beta1", "beta2", "eps", "weight_decay", "form", "transform")


@dataclasses.dataclass(frozen=True)
class Branch:
    """A named continuation from a copy of the state at a moment of the main run.

    Args:
        kind: "freeze" or "switch".
        name: Its name in the record, different from every other's.
        at: A step (0 is the start), or "edge".
        optimizer: The optimizer it goes on with; None keeps the main one.
        ratio: The ratio to the threshold that the learning rate is set to; None leaves it.
    """

    kind: str
    name: str
    at: int | Literal["edge"]
    optimizer: Choice | None = None
    ratio: float | None = None


@dataclasses.dataclass(frozen=True)
class Place:
    """Over which devices the run is spread: the same numbers, by more of them.

    Args:
        mesh: Axes and sizes, as data=4,model=2; an axis without a size takes what is left. Examples
            are split over data, the lanes of a sweep over sweep, sharded params over all but sweep.
        devices: How many devices; on a CPU so many are made; none takes all that are there.
        params: A copy on each device, or each device its share, gathered where it is needed.
        basis: Vectors of an eigen-solve over all devices, or as the params are.
    """

    mesh: str = "data"
    devices: int | None = None
    params: Literal["replicated", "sharded"] = "replicated"
    basis: Literal["spread", "params"] = "spread"


@dataclasses.dataclass(frozen=True)
class Store:
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
    checkpoint_every: int | None = None


@dataclasses.dataclass(frozen=True)
class Plot:
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
