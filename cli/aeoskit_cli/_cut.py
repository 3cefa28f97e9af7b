"""`aeoskit pipe`: raw arguments split at the names of stages."""

import dataclasses
from collections.abc import Mapping

from aeoskit_experiments import UserError, unknown
from aeoskit_experiments.options import Option
from aeoskit_experiments.pipelines import STAGES, check_variant, options_for, stage_kind

_HELP = ("-h", "--help")


@dataclasses.dataclass(frozen=True)
class Piece:
    """The arguments of one stage.

    Args:
        stage: Its name.
        variants: Its variant, or several for a sweep; empty for a stage without variants.
        arguments: The rest, unchanged.
        help: Whether its help was requested.
    """

    stage: str
    variants: tuple[str, ...]
    arguments: tuple[str, ...] = ()
    help: bool = False


def cut(arguments: list[str], own: Mapping[str, bool]) -> tuple[list[Piece], list[str]]:
    """Split the arguments at registered stage names.

    The value of an option is never taken for a stage, and a word after `--` belongs to the present
    stage; before the first one, `--` ends the command's own options.

    Args:
        arguments: The arguments of `aeoskit pipe`.
        own: The command's own flags, and whether each has a value. They may appear anywhere; a
            stage's own option of the same name takes precedence in its stage.

    Returns:
        The pieces, up to the first that asks for its help, and the command's own arguments.

    Raises:
        UserError: For an unknown stage, variant or option (with the nearest name), a missing value
            or an unexpected word.

    >>> pieces, own = cut(["--json", "store", "--root", "plot", "plot"], {"--json": False})
    >>> [piece.stage for piece in pieces], own
    (['store', 'plot'], ['--json'])
    """
    _, words, found = _take({}, own, list(arguments), "pipe, before its first stage", ends=True)
    pieces: list[Piece] = []
    while words:
        stage = words.pop(0)
        kind = stage_kind(stage)
        variants: tuple[str, ...] = ()
        if words and words[0] in _HELP:
            return [*pieces, Piece(stage, (), help=True)], found
        if kind.variants:
            escaped = bool(words) and words[0] == "--"
            words = words[escaped:]
            taken = bool(words) and (escaped or _may_be_variant(words[0], kind.variants))
            variants = tuple(words.pop(0).split(",")) if taken else ()
            for variant in variants or (None,):
                check_variant(stage, variant)
        where = " ".join([stage, *([",".join(variants)] if variants else [])])
        options = _flags(stage, variants)
        given, words, more = _take(options, _without_help(own), words, where)
        found += more
        if words and words[0] in _HELP:
            return [*pieces, Piece(stage, variants, help=True)], found
        pieces.append(Piece(stage, variants, tuple(given)))
    return pieces, found


def _may_be_variant(word: str, variants: Mapping[str, str]) -> bool:
    """True if a word may be a variant, rather than an option or the next stage."""
    return not word.startswith("-") and (word in variants or word not in STAGES)


def _without_help(own: Mapping[str, bool]) -> dict[str, bool]:
    return {flag: has_value for flag, has_value in own.items() if flag not in _HELP}


def _take(
    options: Mapping[str, Option],
    own: Mapping[str, bool],
    words: list[str],
    where: str,
    *,
    ends: bool = False,
) -> tuple[list[str], list[str], list[str]]:
    """The stage's arguments; the rest, from the next stage or a request for help on; the own.

    `--` escapes the next word; where there is no stage yet, it `ends` the own ones.
    """
    given: list[str] = []
    found: list[str] = []
    while words:
        word = words[0]
        flag = word.partition("=")[0]
        option = options.get(flag)
        if word == "--" and ends:
            return given, words[1:], found
        if word == "--":
            given += words[1:2]
            words = words[2:]
        elif option is not None or flag in own:
            has_value = own[flag] if option is None else option.kind != "bool"
            size = 2 if has_value and "=" not in word else 1
            if size == 2:
                _check_value(word, words[1:2], option, where)
            (found if option is None else given).extend(words[:size])
            words = words[size:]
        elif word in STAGES or word in _HELP:
            break
        elif word.startswith("-"):
            raise unknown("option", flag, {**options, **own}, where=where)
        else:
            raise unknown("stage", word, STAGES)
    return given, words, found


def _flags(stage: str, variants: tuple[str, ...]) -> dict[str, Option]:
    found: dict[str, Option] = {}
    for variant in variants or (None,):
        for option in options_for(stage, variant):
            found[option.flag] = option
            if option.kind == "bool":
                found[f"--no-{option.flag[2:]}"] = option
    return found


def _check_value(flag: str, following: list[str], option: Option | None, where: str) -> None:
    """Raise a `UserError` if an option is the last word, or the next word cannot be its value."""
    why = ""
    if following:
        (word,) = following
        if option is None or (option.kind == "text" and not option.choices):
            return  # any text
        if word in STAGES and word not in option.choices:
            why = f", since {word} is the next stage"
        elif word.startswith("--"):
            why = f", since {word} is an option"
        else:
            return
    raise UserError(f"{where}: {flag} lacks its value{why}: write {flag} VALUE")
