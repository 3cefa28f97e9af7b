"""The experiment that the stages of a pipeline declare together."""

import dataclasses
import itertools
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.options import Scalar, Value, signature_of, spell
from aeoskit_experiments.parts import short_name, source_of
from aeoskit_experiments.pipelines._choice import Choice
from aeoskit_experiments.pipelines._registry import (
    check_variant,
    function_of,
    is_own,
    options_for,
)
from aeoskit_experiments.pipelines._settings import (
    Freeze,
    Place,
    Plot,
    Rewind,
    Store,
    Switch,
    Track,
    TrackError,
    TrackMultiplier,
    Train,
)
from aeoskit_experiments.pipelines._stage import Stage, make_stage

MAIN = "main"
TAKEN = ("loss", "threshold")
"""Names of the probes that every run has."""

LEAVES = ("lr", "beta1", "beta2", "eps", "weight_decay")


@dataclasses.dataclass(frozen=True)
class SweepAxis:
    """One swept option.

    Args:
        name: The coordinate's name in the record: the option's, or "stage.option" where two
            swept options share a name.
        stage: Its stage.
        option: The option; "variant" for the optimizer's name.
        values: At least two values.
        leaf: Whether it is an array leaf of the main optimizer, so that the sweep is a vmap;
            otherwise its values run as groups, one after the other.
        position: Index of the stage in the pipeline, from 0.
    """

    name: str
    stage: str
    option: str
    values: tuple[Scalar, ...]
    leaf: bool
    position: int


AnyTrack = Track | TrackMultiplier | TrackError | Choice
"""A probe of aeoskit's own, or a user's."""


@dataclasses.dataclass(frozen=True)
class Branch:
    """A named continuation from a copy of the main run's state.

    Args:
        kind: "freeze" or "switch".
        name: Its unique name in the record.
        at: A step (0 is the start), or what it waits for.
        optimizer: Its optimizer; None keeps the main one.
        ratio: The ratio to the threshold, to which the learning rate is set; None leaves it.
    """

    kind: str
    name: str
    at: int | Literal["edge", "threshold"]
    optimizer: Choice | None = None
    ratio: float | None = None


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The declarations of a pipeline's stages; nothing is computed.

    Settings are those of one group (`Pipeline.groups`): scalars, except the optimizer's array
    leaves, which are tuples where they are swept.

    Args:
        data: The data set.
        model: The network, with the seed of its initial parameters.
        loss: The loss; its `function` takes outputs and targets.
        optimizer: The main optimizer.
        probes: The probes besides loss and gradient norm.
        train: Steps, batches, chunks.
        rewind: The other run and its step to start from, or None.
        branches: The branches.
        place: The placement on devices, or None.
        store: The place of the record.
        plot: The figure.
        sweep: The swept options, in the pipeline's order; in a group's experiment, its leaves.
    """

    data: Choice | None = None
    model: Choice | None = None
    loss: Choice | None = None
    optimizer: Choice | None = None
    probes: tuple[AnyTrack, ...] = ()
    train: Train | None = None
    rewind: Rewind | None = None
    branches: tuple[Branch, ...] = ()
    place: Place | None = None
    store: Store | None = None
    plot: Plot | None = None
    sweep: tuple[SweepAxis, ...] = ()

    @property
    def leaves(self) -> tuple[SweepAxis, ...]:
        """The axes that are vmapped, in order."""
        return tuple(axis for axis in self.sweep if axis.leaf)

    def lanes(self) -> tuple[dict[str, float], ...]:
        """The cartesian product of the array leaves, last axis fastest; one empty lane if none.

        Returns:
            For each lane, the arguments of `optimizer.build(**lane)`.
        """
        names = [axis.option for axis in self.leaves]
        product = itertools.product(*(axis.values for axis in self.leaves))
        return tuple(dict(zip(names, values, strict=True)) for values in product)  # pyright: ignore


def declare(experiment: Experiment, stage: Stage) -> Experiment:
    """The experiment with one stage's declaration added.

    Raises:
        UserError: If a stage that may appear once is repeated.
    """
    return _DECLARATIONS[stage.stage](experiment, stage)


def _once(experiment: Experiment, stage: Stage, value: Any) -> Experiment:
    if getattr(experiment, stage.stage) is not None:
        raise UserError(
            f"stage {stage.stage!r} appears twice: leave one out, or sweep an option of it "
            f"with a list of values"
        )
    return dataclasses.replace(experiment, **{stage.stage: value})


def _choice(experiment: Experiment, stage: Stage) -> Experiment:
    assert isinstance(stage.variant, str)  # ensured by make_stage and Pipeline.groups
    settings = dict(stage.settings)
    code = source_of(stage.variant, stage.sources)
    seed = 0
    if stage.stage == "model" and not _takes_seed(stage):
        seed = settings.pop("seed", 0)
    assert isinstance(seed, int)
    return _once(experiment, stage, Choice(stage.stage, stage.variant, settings, seed, code))


def _takes_seed(stage: Stage) -> bool:
    """True if `seed` is an option of the user's own function rather than of its stage."""
    return (
        isinstance(stage.variant, str)
        and is_own("model", stage.variant)
        and "seed" in stage.settings
        and "seed"
        in signature_of(
            function_of("model", stage.variant, source_of(stage.variant, stage.sources))
        ).parameters
    )


def _plain(kind: Callable[..., Any]) -> Callable[[Experiment, Stage], Experiment]:
    def add(experiment: Experiment, stage: Stage) -> Experiment:
        return _once(experiment, stage, kind(**stage.settings))

    return add


def _track(experiment: Experiment, stage: Stage) -> Experiment:
    assert isinstance(stage.variant, str)  # ensured by make_stage
    if is_own("track", stage.variant):
        code = source_of(stage.variant, stage.sources)
        probe = Choice("track", stage.variant, dict(stage.settings), code=code)
    else:
        probe = function_of("track", stage.variant)(stage.variant, **stage.settings)
    name = short_name(probe.variant)
    if any(short_name(other.variant) == name for other in experiment.probes):
        raise UserError(
            f"{stage.label}: {name} is tracked twice: track it once, with the smaller period and "
            f"larger k, or give your own probe another name"
        )
    if name in TAKEN:
        raise UserError(
            f"{stage.label}: {name} is always measured, under that name: give your own another one"
        )
    return dataclasses.replace(experiment, probes=(*experiment.probes, probe))


def _branch(experiment: Experiment, stage: Stage) -> Experiment:
    if stage.variant == "freeze":
        freeze = Freeze(**stage.settings)  # pyright: ignore[reportArgumentType]
        name = "frozen" if freeze.name is None else freeze.name
        made = Branch("freeze", name, _moment(freeze.at), ratio=freeze.ratio)
    else:
        switch = Switch(**stage.settings)  # pyright: ignore[reportArgumentType]
        choice = _switch_choice(switch, stage)
        name = short_name(switch.optimizer) if switch.name is None else switch.name
        made = Branch("switch", name, _moment(switch.at), choice, switch.ratio)
    if not re.fullmatch(r"\w[\w.+-]{0,63}", made.name):
        raise UserError(
            f"{stage.label}: name is {made.name!r}, but it names a folder: use at most 64 letters, "
            f"digits, '-', '_', '+' and '.', and begin with a letter or digit"
        )
    if made.name == MAIN or any(other.name == made.name for other in experiment.branches):
        raise UserError(f"{stage.label}: the name {made.name!r} is taken: give another with --name")
    return dataclasses.replace(experiment, branches=(*experiment.branches, made))


def _moment(at: Any) -> Any:
    return 0 if at == "start" else at


_SWITCHED = ("lr", "beta1", "beta2", "eps", "weight_decay", "form", "transform")


def _switch_choice(switch: Switch, stage: Stage) -> Choice:
    """The optimizer with the given settings and its own defaults for the rest."""
    check_variant("optimizer", switch.optimizer)
    if switch.ratio is not None and switch.lr is not None:
        raise UserError(
            f"branch switch: lr is {spell(switch.lr)} and ratio is {spell(switch.ratio)}, but the "
            f"ratio sets the learning rate: give one of them"
        )
    given: dict[str, Value] = {
        name: getattr(switch, name) for name in _SWITCHED if getattr(switch, name) is not None
    }
    if switch.ratio is not None:
        given = {"lr": 1.0, **given}  # any value, since the ratio will set it
    code = source_of(switch.optimizer, stage.sources)
    options = options_for("optimizer", switch.optimizer, code)
    defaults: dict[str, Value] = {option.name: option.default for option in options}
    if "lr" not in given and any(option.name == "lr" and option.required for option in options):
        raise UserError(
            f"branch switch: {switch.optimizer} lacks lr: give --lr VALUE, or --ratio 0.9, which "
            f"sets it to 0.9 of the threshold"
        )
    for name in given:
        if name not in defaults:
            raise UserError(
                f"branch switch: {switch.optimizer} has no {name}: leave it out "
                f"(it takes {', '.join(sorted(defaults))})"
            )
    make_stage("optimizer", switch.optimizer, given, code=stage.sources)
    return Choice("optimizer", switch.optimizer, {**defaults, **given}, code=code)


_DECLARATIONS: Mapping[str, Callable[[Experiment, Stage], Experiment]] = {
    "data": _choice,
    "model": _choice,
    "loss": _choice,
    "optimizer": _choice,
    "track": _track,
    "train": _plain(Train),
    "rewind": _plain(Rewind),
    "branch": _branch,
    "place": _plain(Place),
    "store": _plain(Store),
    "plot": _plain(Plot),
}
