"""The stages that a rewound pipeline inherits from the other run."""

from pathlib import Path

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.options import spell
from aeoskit_experiments.pipelines._stage import Stage, make_stage

_SAME = ("data", "model", "loss", "optimizer")
"""Stages that cannot change, since the run's state depends on them."""

_OTHERS = ("track", "train", "place")
"""Stages that may be given again."""

_SAME_OF_TRAIN = ("batch", "sampling", "seed")
"""Options that decide which examples a step takes."""


def inherit(own: tuple[Stage, ...], inherited: tuple[Stage, ...]) -> tuple[Stage, ...]:
    """The stages of a rewound pipeline, with the other run's in place of missing ones.

    Args:
        own: The given stages, with one `rewind`.
        inherited: The stages of the run that is rewound.

    Returns:
        The stages; the other run's folder in them is an absolute path.

    Raises:
        UserError: If a stage differs from the run's.
    """
    rewinds = [stage for stage in own if stage.stage == "rewind"]
    if len(rewinds) > 1:
        raise UserError("stage 'rewind' appears twice: leave one out")
    (rewind,) = rewinds
    run = str(rewind.settings["run"])
    # Absolute, so that the stored pipeline can be run from any folder.
    options = {**rewind.options, "run": str(Path(run).resolve())}
    stages: list[Stage] = []
    for name in (*_SAME, *_OTHERS):
        given = [stage for stage in own if stage.stage == name]
        old = [stage for stage in inherited if stage.stage == name]
        if name in _SAME:
            for stage in given:
                _check_same(stage, old, run)
        if name == "train" and len(given) == 1 and old:
            given = [_train(given[0], old[0], run)]
        stages += given or old
    stages.append(make_stage("rewind", None, options, defaults=rewind.defaults))
    rest = [stage for stage in own if stage.stage not in (*_SAME, *_OTHERS, "rewind")]
    return (*stages, *rest)


def _check_same(stage: Stage, inherited: list[Stage], run: str) -> None:
    for other in inherited:
        prefix = f"rewind: {stage.label} is not what the run {run} had"
        if stage.variant != other.variant:
            raise UserError(f"{prefix}, {other.label}: leave it out{_instead(stage)}")
        if stage.sources != other.sources:
            raise UserError(
                f"{prefix}: its source has changed: leave the stage out{_instead(stage)}"
            )
        for name, value in stage.settings.items():
            before = other.settings.get(name, value)
            if value != before:
                raise UserError(
                    f"{prefix}: {name} is {spell(value)}, and was {spell(before)}: leave the stage "
                    f"out{_instead(stage)}"
                )


def _instead(stage: Stage) -> str:
    if stage.stage == "optimizer":
        return ", or continue with another one by `branch switch`"
    return ", or rewind another run"


def _train(stage: Stage, other: Stage, run: str) -> Stage:
    """The stage with the newly given options, and the rest as in the run."""
    for name in _SAME_OF_TRAIN:
        if name in stage.options and stage.options[name] != other.settings[name]:
            raise UserError(
                f"rewind: train's {name} is {spell(stage.options[name])}, and in the run {run} it "
                f"was {spell(other.settings[name])}: leave it out, since it decides which examples "
                f"a step takes"
            )
    options = {**other.options, **stage.options}
    # Either one sets the length: the new one replaces the other.
    for prefix, replaced in (("steps", "epochs"), ("epochs", "steps")):
        if prefix in stage.options and replaced not in stage.options:
            options.pop(replaced, None)
    return make_stage("train", None, options, defaults=other.defaults)
