"""A pipeline as a command line and as a Python program."""

import shlex
from collections.abc import Iterable

from aeoskit_experiments.options import Value, spell
from aeoskit_experiments.pipelines._registry import STAGES, options_for
from aeoskit_experiments.pipelines._stage import Stage


def command_of(name: str, stages: Iterable[Stage]) -> str:
    """The command `aeoskit pipe …`, which parses into the same pipeline."""
    words = ["aeoskit", "pipe"]
    if name != "pipe":
        words += ["--name", name]
    return shlex.join([*words, *(word for stage in stages for word in stage_words(stage))])


def stage_words(stage: Stage) -> list[str]:
    """A stage as words of a command line."""
    words = [stage.stage]
    if stage.variant is not None:
        variant = stage.variant
        words.append(variant if isinstance(variant, str) else ",".join(variant))
    for option, value in _shown_options(stage).items():
        flag = "--" + option.replace("_", "-")
        if isinstance(value, bool):
            words.append(flag if value else "--no-" + flag[2:])
        else:
            words += [flag, spell(value)]
    return words


def python_of(name: str, stages: Iterable[Stage]) -> str:
    """A program that composes the same pipeline and, as a script, executes it."""
    stages = tuple(stages)
    used = [kind for kind in STAGES if any(stage.stage == kind for stage in stages)]
    lines = [
        "from aeoskit_experiments import execute",
        f"from aeoskit_experiments.pipelines import {', '.join(sorted(['pipe', *used]))}",
        "",
        "pipeline = pipe(",
    ]
    for stage in stages:
        words = []
        if stage.variant is not None:
            variant = stage.variant
            words.append(repr(variant if isinstance(variant, str) else list(variant)))
        words += [f"{option}={_literal(value)}" for option, value in _shown_options(stage).items()]
        lines.append(f"    {stage.stage}({', '.join(words)}),")
    if name != "pipe":
        lines.append(f"    name={name!r},")
    lines += [")", "", 'if __name__ == "__main__":', "    outcome = execute(pipeline)", ""]
    return "\n".join(lines)


def _shown_options(stage: Stage) -> dict[str, Value]:
    """The given options, and the defaults that have changed since."""
    given = dict(stage.options)
    # A user's own part is not imported for this, and its source does not change.
    if not isinstance(stage.variant, tuple) and not stage.sources:
        now = {option.name: option.default for option in options_for(stage.stage, stage.variant)}
        given |= {
            name: value
            for name, value in stage.defaults.items()
            if name not in now or now[name] != value
        }
    return given


def _literal(value: Value) -> str:
    return repr(list(value)) if isinstance(value, tuple) else repr(value)
