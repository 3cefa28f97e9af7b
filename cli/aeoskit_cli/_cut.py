"""`aeoskit pipe`: raw arguments split at the names of stages."""

import dataclasses
from collections.abc import Collection, Mapping

from aeoskit_experiments import UserError, unknown
from aeoskit_experiments.options import Option
from aeoskit_experiments.pipelines import STAGES, check_variant, options_for, stage_kind

_HELP = ("-h", "--help")
_PLACING = ("--mesh", "--devices", "--coordinator", "--processes", "--process", "--distributed")
_OWN = ("--name", "--json", "--quiet", *_PLACING, "--help")


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
    arguments: tuple[str, ...]
    help: bool = False


@dataclasses.dataclass(frozen=True)
class Cut:
    """A command line of `pipe`, split into stages.

    Args:
        pieces: One for each stage, in order.
        name: The pipeline's name.
        json: Whether to print one JSON object.
        quiet: Whether to print no progress.
        help: Whether help about `pipe` itself was requested.
        placing: The options about devices and processes.
        extra: Flag to value, for the extra options.
    """

    pieces: tuple[Piece, ...]
    name: str = "pipe"
    json: bool = False
    quiet: bool = False
    help: bool = False
    placing: Mapping[str, str | bool] = dataclasses.field(default_factory=dict)
    extra: Mapping[str, str] = dataclasses.field(default_factory=dict)


def cut(arguments: list[str], extra: Collection[str] = ()) -> Cut:
    """Split the arguments at registered stage names.

    The value of an option is never taken for a stage, and arguments after `--` belong to the
    present stage.

    Args:
        arguments: The arguments of `aeoskit pipe`.
        extra: Flags of options with a value that may appear anywhere, like --json; a stage's own
            option of the same name takes precedence in its stage.

    Returns:
        The pieces.

    Raises:
        UserError: For an unknown stage, variant or option (with the nearest name), a missing value
            or an unexpected word.

    >>> [piece.stage for piece in cut(["store", "--root", "plot", "plot"]).pieces]
    ['store', 'plot']
    """
    words = list(arguments)
    pieces: list[Piece] = []
    name, json, quiet = "pipe", False, False
    placing: dict[str, str | bool] = {}
    found: dict[str, str] = {}
    while words:
        word = words.pop(0)
        if word.partition("=")[0] in extra:
            found[word.partition("=")[0]] = _value(word, words, "pipe")
        elif word == "--json":
            json = True
        elif word in ("--quiet", "-q"):
            quiet = True
        elif word in _HELP:
            return Cut((), help=True)
        elif word == "--name" or word.startswith("--name="):
            name = _value(word, words, "pipe")
        elif word == "--distributed":
            placing["distributed"] = True
        elif word.partition("=")[0] in _PLACING:
            placing[word.partition("=")[0][2:]] = _value(word, words, "pipe")
        elif word.startswith("-"):
            known = [*_OWN, *extra]
            raise unknown("option", word, known, where="pipe, before its first stage")
        else:
            words.insert(0, word)
            break
    while words:
        stage = words.pop(0)
        kind = stage_kind(stage)
        variants: tuple[str, ...] = ()
        if words and words[0] in _HELP:
            return Cut((Piece(stage, (), (), help=True),))
        if kind.variants:
            escaped = bool(words) and words[0] == "--"
            words = words[escaped:]
            taken = bool(words) and (escaped or _may_be_variant(words[0], kind.variants))
            variants = tuple(words.pop(0).split(",")) if taken else ()
            for variant in variants or (None,):
                check_variant(stage, variant)
        piece, words, flags = _take(stage, variants, words, extra, found)
        json, quiet = json or "--json" in flags, quiet or "--quiet" in flags
        pieces.append(piece)
        if piece.help:
            return Cut((piece,))
    return Cut(tuple(pieces), name, json, quiet, placing=placing, extra=found)


def _may_be_variant(word: str, variants: Mapping[str, str]) -> bool:
    """True if a word may be a variant, rather than an option or the next stage."""
    return not word.startswith("-") and (word in variants or word not in STAGES)


def _take(
    stage: str,
    variants: tuple[str, ...],
    words: list[str],
    extra: Collection[str],
    found: dict[str, str],
) -> tuple[Piece, list[str], set[str]]:
    """The arguments up to the next stage; the rest; and the flags --json and --quiet found.

    Extra options are stored in `found`.
    """
    where = " ".join([stage, *([",".join(variants)] if variants else [])])
    options = _flags(stage, variants)
    arguments: list[str] = []
    flags: set[str] = set()
    while words:
        word = words.pop(0)
        if word == "--":
            if words:
                arguments.append(words.pop(0))
            continue
        flag = word.partition("=")[0]
        if word in _HELP:
            return Piece(stage, variants, (), help=True), [], flags
        if word in ("--json", "--quiet", "-q"):
            flags.add("--quiet" if word == "-q" else word)
        elif flag in options:
            arguments.append(word)
            if options[flag].kind != "bool" and "=" not in word:
                arguments.append(_value(word, words, where))
        elif flag in extra:
            found[flag] = _value(word, words, where)
        elif word.startswith("-"):
            raise unknown("option", flag, options, where=where)
        elif word in STAGES:
            words.insert(0, word)
            break
        else:
            raise unknown("stage", word, STAGES)
    return Piece(stage, variants, tuple(arguments)), words, flags


def _flags(stage: str, variants: tuple[str, ...]) -> dict[str, Option]:
    found: dict[str, Option] = {}
    for variant in variants or (None,):
        for option in options_for(stage, variant):
            found[option.flag] = option
            if option.kind == "bool":
                found[f"--no-{option.flag[2:]}"] = option
    return found


def _value(word: str, words: list[str], where: str) -> str:
    if "=" in word:
        return word.partition("=")[2]
    if not words:
        raise UserError(f"{where}: {word} lacks its value: write it after the option")
    return words.pop(0)
