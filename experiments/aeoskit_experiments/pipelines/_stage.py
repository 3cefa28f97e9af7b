"""A stage: a name, a variant and its options, which declares one thing of an experiment."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import msgspec

from aeoskit_experiments._errors import UserError, unknown
from aeoskit_experiments.pipelines._bounds import check_bounds, label
from aeoskit_experiments.pipelines._options import Option, Value, coerce
from aeoskit_experiments.pipelines._registry import check_variant, options_for, stage_kind

if TYPE_CHECKING:
    from aeoskit_experiments.pipelines._experiment import Experiment


class Stage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One stage of a pipeline: a pure function from an experiment to a richer one.

    Made by the stages' own functions (`data`, `model`, …), which check it.

    Args:
        stage: Its name.
        variant: Which one, for a stage that has variants; several names are a sweep.
        options: What was said; a tuple is a sweep.
        defaults: All other options as they were when the stage was made, so that a stored
            pipeline means the same after a default changed.
    """

    stage: str
    variant: str | tuple[str, ...] | None = None
    options: dict[str, Value] = {}
    defaults: dict[str, Value] = {}

    @property
    def settings(self) -> dict[str, Value]:
        """Every option with its value."""
        return {**self.defaults, **self.options}

    @property
    def label(self) -> str:
        """As messages name it."""
        return label(self.stage, self.variant)

    def __call__(self, experiment: Experiment) -> Experiment:
        """The experiment with this declared as well."""
        from aeoskit_experiments.pipelines._experiment import declare

        return declare(experiment, self)


def make_stage(
    stage: str,
    variant: str | Sequence[str] | None,
    options: Mapping[str, Any],
    *,
    defaults: Mapping[str, Any] | None = None,
) -> Stage:
    """Check a stage's names and values, one by one, and make it.

    Args:
        stage: A registered stage.
        variant: One of its variants; for the optimizer also a list of them.
        options: What is said; lists are sweeps.
        defaults: What the rest was when the pipeline was stored; today's defaults if None.

    Returns:
        The stage.

    Raises:
        UserError: For an unknown name (with the nearest one) or a value that makes no sense.
    """
    names = _variants(stage, variant)
    chosen = _chosen(names)
    where = label(stage, chosen)
    known = _common_options(stage, names)
    given = {**(defaults or {}), **options}
    for name in given:
        if name not in known:
            raise unknown("option", name, known, where=where)
    for option in known.values():
        if option.required and option.name not in given:
            raise UserError(f"{where} lacks {option.name}: give {option.flag} VALUE")
    values = {name: coerce(known[name], value, where=where) for name, value in given.items()}
    for name, value in values.items():
        for item in names:
            check_bounds(stage, item, name, value)
    # None where None is the default says nothing: it is not an option that was given.
    explicit = {
        name: values[name]
        for name in known
        if name in options and not (values[name] is None and known[name].default is None)
    }
    rest = {name: values.get(name, option.default) for name, option in known.items()}
    return Stage(
        stage=stage,
        variant=chosen,
        options=explicit,
        defaults={name: value for name, value in rest.items() if name not in explicit},
    )


def _variants(stage: str, variant: str | Sequence[str] | None) -> tuple[str | None, ...]:
    kind = stage_kind(stage)
    if variant is None or isinstance(variant, str):
        names: tuple[str | None, ...] = (variant,)
    else:
        names = tuple(variant)
        if len(names) > 1 and not kind.sweeps:
            raise UserError(
                f"stage {stage!r} got the variants {', '.join(map(str, names))}, "
                f"but only an optimizer's can be swept: give one"
            )
        if not names or len(set(names)) < len(names):
            raise UserError(f"stage {stage!r} got {names!r}: give each variant once")
    for name in names:
        check_variant(stage, name)
    return names


def _chosen(names: tuple[str | None, ...]) -> str | tuple[str, ...] | None:
    several = tuple(name for name in names if name is not None)
    return several if len(several) > 1 else several[0] if several else None


def _common_options(stage: str, names: tuple[str | None, ...]) -> dict[str, Option]:
    """The options that all of the variants have, in the first one's order."""
    tables = [{option.name: option for option in options_for(stage, name)} for name in names]
    shared = dict(tables[0])
    for table in tables[1:]:
        shared = {key: option for key, option in shared.items() if key in table}
    if len(tables) == 1:
        return shared
    # Defaults may differ between the variants: each keeps its own when the sweep is split.
    return {
        key: option
        for key, option in shared.items()
        if all(table[key].default == option.default for table in tables) or option.required
    } | {
        key: msgspec.structs.replace(option, default=None, nullable=True)
        for key, option in shared.items()
        if any(table[key].default != option.default for table in tables) and not option.required
    }


def data(variant: str, /, **options: Any) -> Stage:
    """What to fit: `data("digits", examples=500)`."""
    return make_stage("data", variant, options)


def model(variant: str, /, **options: Any) -> Stage:
    """The network: `model("mlp", width=64, seed=0)`."""
    return make_stage("model", variant, options)


def loss(variant: str, /, **options: Any) -> Stage:
    """What to minimize: `loss("mse")`."""
    return make_stage("loss", variant, options)


def optimizer(variant: str | Sequence[str], /, **options: Any) -> Stage:
    """How to step: `optimizer("adam", lr=[1e-3, 3e-3])`; a list is a sweep."""
    return make_stage("optimizer", variant, options)


def track(variant: str, /, **options: Any) -> Stage:
    """What to measure on the way: `track("preconditioned_sharpness", every=10)`."""
    return make_stage("track", variant, options)


def train(steps: int | Sequence[int] | None = None, **options: Any) -> Stage:
    """How long to train: `train(1500, batch=None)`, `train(epochs=20, batch=32)`."""
    said = {} if steps is None else {"steps": steps}
    return make_stage("train", None, {**said, **options})


def rewind(run: str | os.PathLike[str], **options: Any) -> Stage:
    """From a state of another run on: `rewind("runs/advance-…", at=1300)`."""
    return make_stage("rewind", None, {"run": run, **options})


def branch(variant: str, /, **options: Any) -> Stage:
    """Another way to go on: `branch("switch", optimizer="momentum", lr=2.0, at="start")`."""
    return make_stage("branch", variant, options)


def place(mesh: str | None = None, **options: Any) -> Stage:
    """Over which devices the run is spread: `place("data=4,model=2", params="sharded")`."""
    said = {} if mesh is None else {"mesh": mesh}
    return make_stage("place", None, {**said, **options})


def store(root: str | None = None, **options: Any) -> Stage:
    """Where the record goes: `store("runs")`."""
    said = {} if root is None else {"root": root}  # A default is not something that was said.
    return make_stage("store", None, {**said, **options})


def plot(kind: str | None = None, **options: Any) -> Stage:
    """Which figure is drawn: `plot("edge")`."""
    said = {} if kind is None else {"kind": kind}
    return make_stage("plot", None, {**said, **options})
