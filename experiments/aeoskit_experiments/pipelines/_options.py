"""Options of a stage, read from a function's signature and docstring."""

import collections.abc
import inspect
import math
import re
import types
import typing
from collections.abc import Callable, Mapping
from typing import Any, Literal

import msgspec

from aeoskit_experiments._errors import UserError, nearest

Scalar = int | float | bool | str | None
Value = Scalar | tuple[Scalar, ...]
Kind = Literal["int", "float", "bool", "text", "step"]

# Annotations of numerical code name arrays and schedules as well; these words are enough to
# see that a plain number is welcome.
_FLOAT_WORDS = re.compile(r"float|scalar|real", re.IGNORECASE)


class Option(msgspec.Struct, frozen=True):
    """One option of a stage: its name, how it reads and what it is if nobody says.

    Args:
        name: As in Python (`label_noise`); the command line spells it `--label-noise`.
        kind: What a value is: an int, a float, a bool, text, or a step (int or a named moment).
        default: The value when it is not given.
        required: Whether it must be given (then `default` means nothing).
        nullable: Whether None is a value.
        choices: The only values, if they are few.
        help: One sentence.
        many: Whether a list is welcome, of numbers or of text: it is a sweep.
        alone: Why a list is not welcome, as it should read after "since".
    """

    name: str
    kind: Kind
    default: Value = None
    required: bool = False
    nullable: bool = False
    choices: tuple[str, ...] = ()
    help: str = ""
    many: bool = True
    alone: str = ""

    @property
    def flag(self) -> str:
        """The option as the command line spells it."""
        return "--" + self.name.replace("_", "-")

    @property
    def sweepable(self) -> bool:
        """Whether a list of values is a sweep."""
        return self.many and self.kind in ("int", "float", "text")


def options_of(
    function: Callable[..., Any],
    *,
    positional: bool = False,
    skip: tuple[str, ...] = (),
    lists: Literal["welcome", "annotated"] = "welcome",
    floats: Mapping[str, str] = {},
    texts: bool = False,
) -> tuple[Option, ...]:
    """Read the options from a function's signature, their help from its docstring.

    Args:
        function: Any function or class; parameters that neither a number, a bool nor text
            can fill are left out when they have a default.
        positional: Whether parameters that are not keyword-only are options as well.
        skip: Names to leave out.
        floats: Names of parameters that are numbers although their annotation does not say so,
            with a help for those that the docstring has no line about.
        lists: Whether any number may be a list, or only where the annotation has a sequence.
        texts: Whether a text with few choices may be a list as well; any may where the annotation
            has a sequence.

    Returns:
        The options, in the order of the signature.

    >>> def draw(*, width: int = 3, color: str | None = None): ...
    >>> [(o.flag, o.kind, o.default) for o in options_of(draw)]
    [('--width', 'int', 3), ('--color', 'text', None)]
    """
    helps = _argument_help(inspect.getdoc(function) or "")
    kinds = {inspect.Parameter.KEYWORD_ONLY}
    if positional:
        kinds.add(inspect.Parameter.POSITIONAL_OR_KEYWORD)
    found = []
    for name, parameter in _signature(function).parameters.items():
        if parameter.kind not in kinds or name in skip:
            continue
        required = parameter.default is inspect.Parameter.empty
        default = None if required else parameter.default
        if not _is_value(default):
            continue
        kind, choices, nullable = _kind(parameter.annotation, default)
        if name in floats:
            kind = "float"
        if kind is None:
            continue
        found.append(
            Option(
                name=name,
                kind=kind,
                default=_as_floats(default) if kind == "float" else default,
                required=required,
                nullable=nullable or (default is None and not required),
                choices=choices,
                help=helps.get(name, floats.get(name, "")),
                many=_has_sequence(parameter.annotation)
                or (lists == "welcome" and (kind != "text" or (texts and bool(choices)))),
            )
        )
    return tuple(found)


def _is_value(default: Any) -> bool:
    if isinstance(default, tuple):
        return all(isinstance(item, int | float | str) for item in default)
    return isinstance(default, int | float | bool | str | None)


def _as_floats(default: Any) -> Value:
    if isinstance(default, tuple):
        return tuple(float(item) for item in default)
    return None if default is None else float(default)


def summary_of(function: Callable[..., Any]) -> str:
    """The first sentence of a function's docstring, on one line."""
    paragraph = (inspect.getdoc(function) or "").split("\n\n")[0]
    return " ".join(paragraph.split())


def coerce(option: Option, value: Any, *, where: str) -> Value:
    """Bring a value (from Python, JSON or the command line) to the option's own type.

    Args:
        option: What is being set.
        value: A scalar; or a list, tuple or one-dimensional array of them, which is a sweep.
        where: The stage's name, for the error.

    Returns:
        A scalar, or a tuple of at least two different ones.

    Raises:
        UserError: If it is not such a value.

    >>> coerce(Option("lr", "float"), ["1e-3", 1], where="optimizer adam")
    (0.001, 1.0)
    """
    if hasattr(value, "tolist"):  # a numpy or jax array or scalar
        value = value.tolist()
    if not isinstance(value, list | tuple):
        return _scalar(option, value, where)
    if not option.sweepable:
        why = f", since {option.alone}" if option.alone else ""
        raise UserError(
            f"{where}: {option.name} is {spell(tuple(value))}, but it cannot be swept{why}: "
            f"give one {_words(option, '')}"
        )
    values = tuple(_scalar(option, item, where) for item in value)
    if not values:
        raise UserError(f"{where}: {option.name} is an empty list: give at least one value")
    for position, item in enumerate(values):
        if item in values[:position]:
            raise UserError(
                f"{where}: {option.name} names {item!r} twice: give each value of a sweep once"
            )
    return values[0] if len(values) == 1 else values


def parse(option: Option, text: str, *, where: str) -> Value:
    """A command line's text to a value: commas separate the values of a sweep.

    >>> parse(Option("lr", "float"), "1e-3,3e-3", where="optimizer adam")
    (0.001, 0.003)
    """
    if "," in text and (option.sweepable or option.kind in ("int", "float")):
        return coerce(option, [part.strip() for part in text.split(",")], where=where)
    return coerce(option, text, where=where)


def spell(value: Value) -> str:
    """A value to the command line's text, which `parse` reads back exactly.

    >>> spell((0.001, 3e-05))
    '0.001,3e-05'
    """
    if isinstance(value, tuple):
        return ",".join(spell(item) for item in value)
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, float):
        short = f"{value:g}"
        return short if float(short) == value else repr(value)
    return str(value)


def _scalar(option: Option, value: Any, where: str) -> Scalar:
    numeric = option.kind in ("int", "float")
    if value is None or (numeric and isinstance(value, str) and value.lower() == "none"):
        if option.nullable:
            return None
        raise UserError(f"{where}: {option.name} is none: give {_words(option)}")
    bad = UserError(f"{where}: {option.name} is {value!r}: give {_words(option)}")
    match option.kind:
        case "bool":
            if isinstance(value, str):
                value = {"true": True, "false": False}.get(value.lower(), value)
            if not isinstance(value, bool):
                raise bad
            return value
        case "int" | "float":
            if isinstance(value, bool):
                raise bad
            try:
                number = int(value) if option.kind == "int" and _is_int(value) else float(value)
            except (TypeError, ValueError, OverflowError):
                raise bad from None
            if not math.isfinite(number):
                raise UserError(
                    f"{where}: {option.name} is {number}: give a finite {_words(option, '')}"
                )
            if option.kind == "float":
                return float(number)
            if number != int(number):
                raise bad
            return int(number)
        case "step":
            if isinstance(value, str) and not _is_int(value):
                return value
            if isinstance(value, bool) or not _is_int(value):
                raise bad
            return int(value)
        case _:
            if not isinstance(value, str):
                value = str(value) if hasattr(value, "__fspath__") else value
            if not isinstance(value, str):
                raise bad
            if option.choices and value not in option.choices:
                near = nearest(value, option.choices)
                guess = "" if near is None else f" (did you mean {near!r}?)"
                raise UserError(
                    f"{where}: {option.name} is {value!r}: it is one of "
                    f"{', '.join(option.choices)}{guess}"
                )
            return value


def _is_int(value: Any) -> bool:
    try:
        int(value)
    except (TypeError, ValueError, OverflowError):
        return False
    return not isinstance(value, float)


def _words(option: Option, article: str = "a") -> str:
    if option.choices:
        return f"one of {', '.join(option.choices)}"
    noun = {
        "int": "whole number",
        "float": "number",
        "bool": "true or false",
        "text": "text",
        "step": "step (a whole number, start or edge)",
    }[option.kind]
    return noun if option.kind in ("bool", "text") or not article else f"{article} {noun}"


def _signature(function: Callable[..., Any]) -> inspect.Signature:
    try:
        return inspect.signature(function, eval_str=True)
    except NameError:  # a name that is imported only for type checkers
        return inspect.signature(function)


def _kind(annotation: Any, default: Value) -> tuple[Kind | None, tuple[str, ...], bool]:
    members = _members(annotation)
    nullable = type(None) in members
    choices = tuple(
        str(item)
        for member in members
        if typing.get_origin(member) is Literal
        for item in typing.get_args(member)
        if item is not None
    )
    if choices:
        return "text", choices, nullable
    if bool in members:
        return "bool", (), nullable
    if float in members:
        return "float", (), nullable
    if int in members and str in members:
        return "step", (), nullable
    if int in members:
        return "int", (), nullable
    if str in members:
        return "text", (), nullable
    if isinstance(default, bool | int | float | str):
        by_default: dict[type, Kind] = {bool: "bool", int: "int", float: "float", str: "text"}
        return by_default[type(default)], (), nullable
    if any(_FLOAT_WORDS.search(str(member)) for member in members):
        return "float", (), nullable
    return None, (), nullable


def _has_sequence(annotation: Any) -> bool:
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return any(_has_sequence(item) for item in typing.get_args(annotation))
    return typing.get_origin(annotation) in (tuple, list, collections.abc.Sequence)


def _members(annotation: Any) -> tuple[Any, ...]:
    if hasattr(annotation, "__value__"):  # `type X = …` of Python 3.12
        return _members(annotation.__value__)
    if typing.get_origin(annotation) in (typing.Union, types.UnionType):
        return tuple(member for item in typing.get_args(annotation) for member in _members(item))
    if typing.get_origin(annotation) in (tuple, list, collections.abc.Sequence):
        return tuple(
            member
            for item in typing.get_args(annotation)
            if item is not Ellipsis
            for member in _members(item)
        )
    return (annotation,)


_ARGUMENT = re.compile(
    r"^(?P<indent>\s*)[-*]?\s*[`*]{0,2}(?P<name>\w+)[`*]{0,2}(\s*\([^)]*\))?:\s+(?P<text>.*)$"
)
_HEADING = re.compile(r"^\**(Args|Arguments|Attributes|Parameters):?\**:?\s*$")


def _argument_help(docstring: str) -> dict[str, str]:
    """The first sentence about each argument of a docstring."""
    found: dict[str, str] = {}
    inside, name, indent = False, "", 0
    for line in docstring.splitlines():
        if _HEADING.match(line.strip()):
            inside, name = True, ""
            continue
        if not inside:
            continue
        entry = _ARGUMENT.match(line)
        if entry and (not name or len(entry["indent"]) <= indent):
            name, indent = entry["name"], len(entry["indent"])
            found[name] = entry["text"]
        elif line.strip() and name and len(line) - len(line.lstrip()) > indent:
            found[name] += " " + line.strip()
        elif line.strip():
            inside = False
    return {key: re.split(r"(?<=[.])\s", text)[0].rstrip(".") for key, text in found.items()}
