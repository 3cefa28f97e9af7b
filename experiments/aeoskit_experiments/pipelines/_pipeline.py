"""A pipeline: the stages of an experiment, in order, as data."""

import itertools
import re
from collections.abc import Callable
from typing import Any

import msgspec

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.options import Scalar
from aeoskit_experiments.parts import Code, trust_stored
from aeoskit_experiments.pipelines._check import check, check_networks
from aeoskit_experiments.pipelines._devices import prepare_devices
from aeoskit_experiments.pipelines._experiment import LEAVES, Experiment, SweepAxis, declare
from aeoskit_experiments.pipelines._inherit import inherit
from aeoskit_experiments.pipelines._registry import is_ours
from aeoskit_experiments.pipelines._stage import Stage, make_stage, remade
from aeoskit_experiments.pipelines._text import command_of, python_of


class Group(msgspec.Struct, frozen=True):
    """One of the groups into which a sweep is split.

    Args:
        values: A mapping from coordinate name to this group's value, for each split axis.
        pipeline: The pipeline with these values; it sweeps only the other axes.
    """

    values: dict[str, Scalar]
    pipeline: "Pipeline"


class Pipeline(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """An experiment as a list of stages; nothing runs before `execute`.

    Made by `pipe`; equal pipelines describe the same experiment.

    Args:
        stages: The stages, in order.
        name: The first part of the run's folder name.
    """

    stages: tuple[Stage, ...]
    name: str = "pipe"

    def experiment(self) -> Experiment:
        """The experiment that the stages declare together, checked before any work.

        Returns:
            The experiment of the first group, with the whole sweep: to run all, iterate over
            `groups`.

        Raises:
            UserError: For the first missing, repeated or invalid stage, in any of the sweep's
                groups.
        """
        whole = self.inherited()
        declared = [group.pipeline.declared() for group in whole.groups()]
        prepare_devices(declared)
        for experiment in declared:
            check(experiment)
        if any(axis.stage in ("data", "model") and not axis.leaf for axis in whole.sweep()):
            check_networks(declared)
        return whole.declared()

    def inherited(self) -> "Pipeline":
        """The pipeline with the other run's stages in place of missing ones, if it has a `rewind`.

        Returns:
            The complete pipeline; the pipeline itself without a stage `rewind`.

        Raises:
            UserError: If there is no such run, it is a sweep, or a given stage differs from the
                run's.
        """
        rewinds = [stage for stage in self.stages if stage.stage == "rewind"]
        if not rewinds:
            return self
        run = str(rewinds[0].settings["run"])
        return msgspec.structs.replace(
            self, stages=inherit(self.stages, stored_pipeline(run).stages)
        )

    def code(self) -> dict[str, Code]:
        """The sources of users' own parts, by reference."""
        return {name: code for stage in self.stages for name, code in stage.sources.items()}

    def declared(self) -> Experiment:
        """The experiment, without the checks."""
        first = self.groups()[0].pipeline
        experiment = Experiment(sweep=self.sweep())
        for stage in first.stages:
            experiment = declare(experiment, stage)
        return experiment

    def sweep(self) -> tuple[SweepAxis, ...]:
        """The swept options, in the order of the stages."""
        found: list[tuple[str, str, tuple[Scalar, ...], bool, int]] = []
        for position, stage in enumerate(self.stages):
            if isinstance(stage.variant, tuple):
                found.append((stage.stage, "variant", stage.variant, False, position))
            for name, value in stage.settings.items():
                if isinstance(value, tuple):
                    leaf = _is_leaf(stage, name) and None not in value
                    found.append((stage.stage, name, value, leaf, position))
        leaves = {option for _, option, _, leaf, _ in found if leaf}
        taken: dict[str, int] = {}
        for _, option, _, leaf, _ in found:
            taken[option] = taken.get(option, 0) + (not leaf)
        axes, names = [], set()
        for stage, option, values, leaf, position in found:
            name = stage if option == "variant" else option
            if not leaf and option != "variant" and (option in leaves or taken[option] > 1):
                name = f"{stage}.{option}"
            if name in names:
                name = f"{stage}.{position}.{option}"
            names.add(name)
            axes.append(SweepAxis(name, stage, option, values, leaf, position))
        return tuple(axes)

    def groups(self) -> tuple[Group, ...]:
        """Split the axes that cannot be vmapped: a pipeline for each combination of their values.

        Returns:
            The groups, last axis fastest; a single one without values if there is nothing to split.
        """
        return self._split([axis for axis in self.sweep() if not axis.leaf])

    def singles(self) -> tuple[Group, ...]:
        """Split every list of values: a pipeline for each combination, none of which sweeps.

        Returns:
            The runs, last axis fastest; the pipeline itself without values if nothing is swept.

        >>> from aeoskit_experiments.pipelines import optimizer, train
        >>> runs = pipe(optimizer("adam", lr=[1e-3, 3e-3]), train([10, 20])).singles()
        >>> [run.values for run in runs][:2]
        [{'lr': 0.001, 'steps': 10}, {'lr': 0.001, 'steps': 20}]
        """
        return self._split(list(self.sweep()))

    def _split(self, axes: list[SweepAxis]) -> tuple[Group, ...]:
        groups = []
        for values in itertools.product(*(axis.values for axis in axes)):
            stages = list(self.stages)
            for axis, value in zip(axes, values, strict=True):
                stages[axis.position] = _with(stages[axis.position], axis.option, value)
            named = {axis.name: value for axis, value in zip(axes, values, strict=True)}
            groups.append(Group(named, Pipeline(stages=tuple(stages), name=self.name)))
        return tuple(groups)

    def to_dict(self) -> dict[str, Any]:
        """The pipeline as plain JSON values."""
        return msgspec.json.decode(msgspec.json.encode(self))

    @staticmethod
    def from_dict(
        value: Any, *, allow_code: bool | Callable[[str, Code], bool] | None = None
    ) -> "Pipeline":
        """Read a pipeline back, strictly.

        Args:
            value: A value of `to_dict`.
            allow_code: Whether users' own parts in it may run even if they have not run here before
                (True for a process that has the pipeline from its parent), or a function that
                decides for each; None for a pipeline that is only inspected.

        Raises:
            UserError: For an unknown field, stage, variant or option, an invalid value, or code
                that may not run.
        """
        try:
            read = msgspec.convert(value, Pipeline)
        except msgspec.ValidationError as error:
            raise UserError(f"not a pipeline: {error}") from None
        if allow_code is not None:
            trust_stored(read.code(), allow=allow_code)
        stages = (remade(stage) for stage in read.stages)
        return pipe(*stages, name=read.name)

    def to_json(self) -> str:
        """The pipeline as indented JSON text."""
        return msgspec.json.format(msgspec.json.encode(self)).decode()

    @staticmethod
    def from_json(text: str | bytes) -> "Pipeline":
        """Read a pipeline back from JSON text, strictly, as `from_dict`."""
        try:
            return Pipeline.from_dict(msgspec.json.decode(text))
        except msgspec.DecodeError as error:
            raise UserError(f"not a pipeline: {error}") from None

    def to_command(self) -> str:
        """The pipeline as an equivalent command line."""
        return command_of(self.name, self.stages)

    def to_python(self) -> str:
        """The pipeline as an equivalent Python program."""
        return python_of(self.name, self.stages)


def pipe(*stages: Stage, name: str = "pipe") -> Pipeline:
    """Compose stages into a pipeline; nothing runs.

    Args:
        stages: The stages, in any order; each was checked when it was made.
        name: The first part of the run's folder name: letters, digits, `-`, `_` and `.`.

    Returns:
        The pipeline.

    Raises:
        UserError: If the name is not a valid folder name.

    >>> from aeoskit_experiments.pipelines import plot, store
    >>> pipe(store("runs"), plot("edge")).to_command()
    'aeoskit pipe store --root runs plot --kind edge'
    """
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]{0,63}", name):
        raise UserError(
            f"the pipeline's name is {name!r}: use at most 64 letters, digits, '-', '_' and '.'"
        )
    return Pipeline(stages=tuple(stages), name=name)


def with_place(
    pipeline: Pipeline, *, mesh: str | None = None, devices: int | None = None
) -> Pipeline:
    """The same pipeline on other devices.

    Args:
        pipeline: A pipeline, with or without a stage `place`.
        mesh: The new mesh; None keeps the pipeline's.
        devices: The new number of devices; None keeps the pipeline's.

    Returns:
        The pipeline, with a stage `place` if anything was given.

    Raises:
        UserError: If a value is invalid.

    >>> with_place(pipe(), mesh="data=2").to_command()
    'aeoskit pipe place --mesh data=2'
    """
    changes = {"mesh": mesh, "devices": devices}
    changes = {name: value for name, value in changes.items() if value is not None}
    if not changes:
        return pipeline
    stages = list(pipeline.stages)
    at = [index for index, stage in enumerate(stages) if stage.stage == "place"]
    if at:
        stages[at[0]] = remade(stages[at[0]], **changes)
    else:
        stages.append(make_stage("place", None, changes))
    return msgspec.structs.replace(pipeline, stages=tuple(stages))


def _is_leaf(stage: Stage, name: str) -> bool:
    """True if an option is an array leaf of an optimizer of aeoskit."""
    if stage.stage != "optimizer" or name not in LEAVES:
        return False
    variants = stage.variant if isinstance(stage.variant, tuple) else (stage.variant,)
    return all(variant is not None and is_ours(variant) for variant in variants)


def _with(stage: Stage, option: str, value: Scalar) -> Stage:
    """A copy of the stage with one swept option fixed."""
    if option == "variant":
        # Options whose defaults differ between variants are stored as None: each variant uses its
        # own.
        return remade(stage, str(value))
    if option in stage.options:
        return msgspec.structs.replace(stage, options={**stage.options, option: value})
    return msgspec.structs.replace(stage, defaults={**stage.defaults, option: value})


def stored_pipeline(run: str) -> Pipeline:
    """The pipeline of a stored run that can be rewound.

    Raises:
        UserError: If there is no such run, or it is a sweep.
    """
    from aeoskit.record import read_run  # imports jax

    try:
        stored = read_run(run)
    except (ValueError, OSError) as error:
        raise UserError(f"rewind: {' '.join(str(error).split())}") from error
    pipeline = Pipeline.from_dict(msgspec.to_builtins(stored.pipeline), allow_code=False)
    swept = pipeline.sweep()
    if swept:
        names = ", ".join(axis.name for axis in swept)
        raise UserError(
            f"rewind: the run {run} swept {names}, and only a single run can be rewound: run one "
            f"of its values alone, and rewind that"
        )
    return pipeline
