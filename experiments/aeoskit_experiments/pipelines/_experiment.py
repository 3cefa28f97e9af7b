"""What the stages of a pipeline have declared together, and whether it can be done."""

import dataclasses
import itertools
import re
from collections.abc import Callable, Mapping
from typing import Any

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.pipelines._options import Scalar, spell
from aeoskit_experiments.pipelines._registry import (
    STAGES,
    check_variant,
    function_of,
    is_ours,
    options_for,
)
from aeoskit_experiments.pipelines._settings import (
    AnyTrack,
    Branch,
    Choice,
    Freeze,
    Place,
    Plot,
    Rewind,
    Store,
    Switch,
    Train,
)
from aeoskit_experiments.pipelines._stage import Stage, make_stage

MAIN = "main"
LEAVES = ("lr", "beta1", "beta2", "eps", "weight_decay")


@dataclasses.dataclass(frozen=True)
class SweepAxis:
    """One swept option.

    Args:
        name: The coordinate's name in the record: the option's, or "stage.option" where two
            swept options share a name.
        stage: The stage it belongs to.
        option: The option; "variant" for the optimizer's name.
        values: At least two.
        leaf: Whether it is an array leaf of the main optimizer, so that the sweep is a vmap;
            otherwise its values run as groups, one after the other.
        position: Which stage of the pipeline, counted from 0.
    """

    name: str
    stage: str
    option: str
    values: tuple[Scalar, ...]
    leaf: bool
    position: int


@dataclasses.dataclass(frozen=True)
class Experiment:
    """The declarations of a pipeline's stages; nothing has been computed.

    Settings are those of one group (`Pipeline.groups`): scalars, except the optimizer's array
    leaves, which are tuples where they are swept.

    Args:
        data: The data set.
        model: The network, with the seed of its initial parameters.
        loss: The loss; its `function` takes outputs and targets.
        optimizer: The main optimizer.
        probes: What is tracked besides loss and gradient norm.
        train: Steps, batches, chunks.
        rewind: From which state of which other run, or None.
        branches: Other ways to go on.
        place: Over which devices, or None.
        store: Where the record goes.
        plot: Which figure.
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
            For each lane, what to pass to `optimizer.build(**lane)`.
        """
        names = [axis.option for axis in self.leaves]
        product = itertools.product(*(axis.values for axis in self.leaves))
        return tuple(dict(zip(names, values, strict=True)) for values in product)  # pyright: ignore


def declare(experiment: Experiment, stage: Stage) -> Experiment:
    """The experiment with one stage's declaration added.

    Raises:
        UserError: If a stage that may stand once is there already.
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
    assert isinstance(stage.variant, str)  # held by make_stage and Pipeline.groups
    settings = dict(stage.settings)
    own_seed = stage.stage == "model" and "seed" in {
        option.name for option in STAGES["model"].common
    }
    seed = settings.pop("seed", 0) if own_seed else 0
    assert isinstance(seed, int)
    return _once(experiment, stage, Choice(stage.stage, stage.variant, settings, seed))


def _plain(kind: Callable[..., Any]) -> Callable[[Experiment, Stage], Experiment]:
    def add(experiment: Experiment, stage: Stage) -> Experiment:
        return _once(experiment, stage, kind(**stage.settings))

    return add


def _track(experiment: Experiment, stage: Stage) -> Experiment:
    assert isinstance(stage.variant, str)  # held by make_stage
    probe = function_of("track", stage.variant)(stage.variant, **stage.settings)
    if any(other.variant == probe.variant for other in experiment.probes):
        raise UserError(
            f"{stage.label} appears twice: track it once, with the smaller period and larger k"
        )
    return dataclasses.replace(experiment, probes=(*experiment.probes, probe))


def _branch(experiment: Experiment, stage: Stage) -> Experiment:
    if stage.variant == "freeze":
        freeze = Freeze(**stage.settings)  # pyright: ignore[reportArgumentType]
        name = "frozen" if freeze.name is None else freeze.name
        made = Branch("freeze", name, _moment(freeze.at), ratio=freeze.ratio)
    else:
        switch = Switch(**stage.settings)  # pyright: ignore[reportArgumentType]
        _check_switch(switch)
        name = switch.optimizer if switch.name is None else switch.name
        made = Branch("switch", name, _moment(switch.at), switch.choice(), switch.ratio)
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


def _check_switch(switch: Switch) -> None:
    check_variant("optimizer", switch.optimizer)
    if switch.ratio is not None and switch.lr is not None:
        raise UserError(
            f"branch switch: lr is {spell(switch.lr)} and ratio is {spell(switch.ratio)}, but the "
            f"ratio sets the learning rate: give one of them"
        )
    if switch.ratio is not None and not is_ours(switch.optimizer):
        raise UserError(
            f"branch switch: ratio sets the learning rate of aeoskit's own optimizers, and "
            f"{switch.optimizer} is not one: give its lr"
        )
    given = switch.given()
    takes = {option.name for option in options_for("optimizer", switch.optimizer)}
    for name in given:
        if name not in takes:
            raise UserError(
                f"branch switch: {switch.optimizer} has no {name}: leave it out "
                f"(it takes {', '.join(sorted(takes))})"
            )
    make_stage("optimizer", switch.optimizer, given)


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
