"""A stage: a name, a variant and its options, which declares one part of an experiment."""

import os
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import msgspec
from msgspec import UNSET, UnsetType

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.options import Option, Value, coerce_all, optional
from aeoskit_experiments.parts import (
    Code,
    find_part,
    is_reference,
    is_trusted,
    part_of,
    source_of,
)
from aeoskit_experiments.pipelines._label import label
from aeoskit_experiments.pipelines._registry import check_variant, options_for, stage_kind

Variant = str | Callable[..., Any]
"""The name of a variant, a reference to a user's own part, or that part itself."""


class Stage(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """One stage of a pipeline, as data.

    Made by the stages' own functions (`data`, `model`, …), which check it.

    Args:
        stage: Its name.
        variant: The variant, for a stage that has some; several names are a sweep.
        options: The given options; a tuple is a sweep.
        defaults: All other options at the time when the stage was made, so that a stored pipeline
            keeps its meaning after a default changes.
        code: The sources of users' own parts, by reference; unset if there are none.
    """

    stage: str
    variant: str | tuple[str, ...] | None = None
    options: dict[str, Value] = {}
    defaults: dict[str, Value] = {}
    code: dict[str, Code] | UnsetType = UNSET

    @property
    def settings(self) -> dict[str, Value]:
        """Every option with its value."""
        return {**self.defaults, **self.options}

    @property
    def label(self) -> str:
        """The name of the stage in messages."""
        return label(self.stage, self.variant)

    @property
    def sources(self) -> dict[str, Code]:
        """The sources of users' own parts, by reference."""
        return {} if self.code is UNSET else self.code


def make_stage(
    stage: str,
    variant: Variant | Sequence[Variant] | None,
    options: Mapping[str, Any],
    *,
    defaults: Mapping[str, Any] | None = None,
    code: Mapping[str, Code] | None = None,
) -> Stage:
    """Check a stage's names and values, one by one, and make it.

    Args:
        stage: A registered stage.
        variant: One of its variants, or a user's own part; for the optimizer also a list.
        options: The given options; lists are sweeps.
        defaults: The defaults when the pipeline was stored; today's if None.
        code: The sources of users' own parts when the pipeline was stored. Sources that are not
            trusted here are not imported; their options are checked once they are.

    Returns:
        The stage.

    Raises:
        UserError: For an unknown name (with the nearest one) or an invalid value.
    """
    names, found = _variants(stage, variant, code)
    chosen = _chosen(names)
    where = label(stage, chosen)
    if stage == "branch" and callable(options.get("optimizer")):
        part = part_of(options["optimizer"])
        found[part.reference] = part.code
        options = {**options, "optimizer": part.reference}
    if any(not is_trusted(name, item) for name, item in found.items()):
        return Stage(
            stage=stage,
            variant=chosen,
            options=_tuples(options),
            defaults=_tuples(defaults or {}),
            code=found,
        )
    known = _common_options(stage, names, found)
    values = coerce_all(known.values(), {**(defaults or {}), **options}, where=where)
    if stage == "branch":
        found |= _switched(values.get("optimizer"), code, found)
    # None where None is the default does not count as given.
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
        code=found or UNSET,
    )


def remade(stage: Stage, variant: str | None = None, **options: Any) -> Stage:
    """A stage with some options, or its variant, replaced, checked again.

    Args:
        stage: The stage.
        variant: The new variant; None keeps it.
        options: The options to replace.

    Returns:
        The stage.
    """
    defaults = {name: value for name, value in stage.defaults.items() if value is not None}
    return make_stage(
        stage.stage,
        stage.variant if variant is None else variant,
        {**stage.options, **options},
        defaults=defaults,
        code=stage.sources,
    )


def _tuples(values: Mapping[str, Any]) -> dict[str, Value]:
    return {
        name: tuple(value) if isinstance(value, list) else value for name, value in values.items()
    }


def _switched(
    optimizer: Any, code: Mapping[str, Code] | None, found: Mapping[str, Code]
) -> dict[str, Code]:
    """The source of a user's own optimizer to which a branch switches."""
    if not isinstance(optimizer, str) or not is_reference(optimizer):
        return {}
    known = found.get(optimizer) if code is None else source_of(optimizer, code)
    return {optimizer: find_part(optimizer).code if known is None else known}


def _variants(
    stage: str, variant: Variant | Sequence[Variant] | None, code: Mapping[str, Code] | None
) -> tuple[tuple[str | None, ...], dict[str, Code]]:
    """The names of the variants, and the sources of users' own ones."""
    kind = stage_kind(stage)
    given: Any = variant
    items: tuple[Any, ...] = tuple(given) if isinstance(given, list | tuple) else (given,)
    for item in items:
        if not (item is None or isinstance(item, str) or callable(item)):
            raise UserError(
                f"stage {stage!r} got {item!r} as its variant: give a name, as in "
                f"{stage}({next(iter(kind.variants), None)!r}), or a function or class of your own"
            )
    if len(items) > 1 and not kind.sweeps:
        raise UserError(
            f"stage {stage!r} got the variants {', '.join(map(str, items))}, "
            f"but only an optimizer's can be swept: give one"
        )
    names: list[str | None] = []
    found: dict[str, Code] = {}
    for item in items:
        name = item
        if callable(item):
            part = part_of(item)
            name, found[part.reference] = part.reference, part.code
        check_variant(stage, name)
        if name is not None and is_reference(name) and name not in found:
            stored = None if code is None else source_of(name, code)
            found[name] = find_part(name).code if stored is None else stored
        names.append(name)
    if not names or len(set(names)) < len(names):
        raise UserError(f"stage {stage!r} got {tuple(names)!r}: give each variant once")
    return tuple(names), found


def _chosen(names: tuple[str | None, ...]) -> str | tuple[str, ...] | None:
    several = tuple(name for name in names if name is not None)
    return several if len(several) > 1 else several[0] if several else None


def _common_options(
    stage: str, names: tuple[str | None, ...], code: Mapping[str, Code]
) -> dict[str, Option]:
    """The options that all variants have in common, in the first one's order."""
    tables = [
        {option.name: option for option in options_for(stage, name, code.get(name or ""))}
        for name in names
    ]
    shared = dict(tables[0])
    for table in tables[1:]:
        shared = {key: option for key, option in shared.items() if key in table}
    if len(tables) == 1:
        return shared
    # Defaults may differ between variants: each keeps its own when the sweep is split.
    return {
        key: option
        for key, option in shared.items()
        if all(table[key].default == option.default for table in tables) or option.required
    } | {
        key: optional(option)
        for key, option in shared.items()
        if any(table[key].default != option.default for table in tables) and not option.required
    }


def data(variant: Variant, /, **options: Any) -> Stage:
    """The data set: `data("digits", examples=500)`."""
    return make_stage("data", variant, options)


def model(variant: Variant, /, **options: Any) -> Stage:
    """The network: `model("mlp", width=64, seed=0)`, or one of your own, `model(MyNet)`."""
    return make_stage("model", variant, options)


def loss(variant: Variant, /, **options: Any) -> Stage:
    """The loss function: `loss("mse")`."""
    return make_stage("loss", variant, options)


def optimizer(variant: Variant | Sequence[Variant], /, **options: Any) -> Stage:
    """The optimizer: `optimizer("adam", lr=[1e-3, 3e-3])`; a list is a sweep."""
    return make_stage("optimizer", variant, options)


def track(variant: Variant, /, **options: Any) -> Stage:
    """A probe: `track("preconditioned_sharpness", every=10)`."""
    return make_stage("track", variant, options)


def train(steps: int | Sequence[int] | None = None, **options: Any) -> Stage:
    """The training: `train(1500, batch=None)`, `train(epochs=20, batch=32)`."""
    given = {} if steps is None else {"steps": steps}
    return make_stage("train", None, {**given, **options})


def rewind(run: str | os.PathLike[str], **options: Any) -> Stage:
    """A start from a state of another run: `rewind("runs/advance-…", at=1300)`."""
    return make_stage("rewind", None, {"run": run, **options})


def branch(variant: str, /, **options: Any) -> Stage:
    """A branch: `branch("switch", optimizer="momentum", lr=2.0, at="start")`."""
    return make_stage("branch", variant, options)


def place(mesh: str | None = None, **options: Any) -> Stage:
    """The devices: `place("data=4,model=2", params="sharded")`."""
    given = {} if mesh is None else {"mesh": mesh}
    return make_stage("place", None, {**given, **options})


def store(root: str | None = None, **options: Any) -> Stage:
    """The place of the record: `store("runs")`."""
    given = {} if root is None else {"root": root}  # A default was not given.
    return make_stage("store", None, {**given, **options})


def plot(kind: str | None = None, **options: Any) -> Stage:
    """The figure: `plot("edge")`."""
    given = {} if kind is None else {"kind": kind}
    return make_stage("plot", None, {**given, **options})
