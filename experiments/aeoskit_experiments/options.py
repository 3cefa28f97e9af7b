"""Options from signatures: one annotation gives the type, the bounds, the help and the error.

A function's option is a parameter with an ordinary annotation (`int`, `float | None`,
`Literal["a", "b"]`), if needed with msgspec's bounds: `Annotated[int, msgspec.Meta(ge=1)]`; common
ones have names here. Its help is the description in the annotation, or the argument's first
sentence in the docstring. Msgspec checks a value against the annotation.
"""

import collections.abc
import inspect
import math
import types
import typing
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any, Literal

import docstring_parser
import msgspec
from msgspec import Meta

from aeoskit_experiments._errors import UserError, nearest, unknown

Scalar = int | float | bool | str | None
Value = Scalar | tuple[Scalar, ...]
Kind = Literal["int", "float", "bool", "text", "step"]

Count = Annotated[int, Meta(ge=1)]
AtLeastTwo = Annotated[int, Meta(ge=2, le=2**31 - 1)]
Natural = Annotated[int, Meta(ge=0)]
Positive = Annotated[float, Meta(gt=0)]
NonNegative = Annotated[float, Meta(ge=0)]
Fraction = Annotated[float, Meta(ge=0, le=1)]
AtLeastOne = Annotated[float, Meta(ge=1)]
Decay = Annotated[float, Meta(ge=0, lt=1)]
# JAX's keys use 32 bits of a seed and drop the others.
Seed = Annotated[int, Meta(ge=0, le=2**32 - 1)]

_PLAIN: dict[str, Any] = {"int": int, "float": float, "bool": bool, "text": str, "step": int | str}


def at_most(limit: int, *, least: int, reason: str) -> Meta:
    """Bounds of a whole number, with the reason for the upper one, which the error states.

    >>> few = Annotated[int, at_most(9, least=1, reason="there are 9")]
    >>> coerce(Option("examples", "int", type=few), 10, where="data few")
    Traceback (most recent call last):
    aeoskit_experiments._errors.UserError: data few: examples is 10: there are 9, so give at most 9
    """
    return Meta(ge=least, le=limit, extra={"reason": reason})


class Option(msgspec.Struct, frozen=True):
    """One option: its name, its type and its default.

    Args:
        name: The name in Python (`label_noise`); on the command line `--label-noise`.
        kind: The kind of a value: an int, a float, a bool, text, or a step (an int or a moment).
        default: The default value.
        required: Whether it must be given (`default` is then unused).
        nullable: Whether None is a value.
        choices: The allowed values, if they are few.
        help: One sentence.
        many: Whether a list, of numbers or of text, is allowed: it is a sweep.
        alone: The reason why a list is not allowed, as it reads after "since".
        type: The annotation against which a value is checked; the plain type of the kind if None.
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
    type: Any = None

    @property
    def flag(self) -> str:
        """The option's flag on the command line."""
        return "--" + self.name.replace("_", "-")

    @property
    def sweepable(self) -> bool:
        """True if a list of values is a sweep."""
        return self.many and self.kind in ("int", "float", "text")


def optional(option: Option) -> Option:
    """The option with None as an allowed value and as its default."""
    checked = None if option.type is None else option.type | None
    return msgspec.structs.replace(option, default=None, nullable=True, type=checked)


def options_of(
    function: Callable[..., Any],
    *,
    positional: bool = False,
    skip: Iterable[str] = (),
    types: Mapping[str, Any] = {},
    lists: Literal["welcome", "annotated"] = "welcome",
    texts: bool = False,
) -> tuple[Option, ...]:
    """Read the options from a function's signature.

    Args:
        function: Any function or class; parameters with a default that are not a number, a bool or
            text are left out.
        positional: Whether parameters that are not keyword-only are options as well.
        skip: Names to leave out.
        types: Annotations, by name, that override the function's own.
        lists: Whether any number may be a list, or only if the annotation has a sequence.
        texts: Whether a text with few choices may be a list as well; with a sequence in the
            annotation any text may.

    Returns:
        The options, in the order of the signature.

    >>> def plot(*, width: Count = 3, color: str | None = None): ...
    >>> [(o.flag, o.kind, o.default) for o in options_of(plot)]
    [('--width', 'int', 3), ('--color', 'text', None)]
    """
    kinds = {inspect.Parameter.KEYWORD_ONLY}
    if positional:
        kinds.add(inspect.Parameter.POSITIONAL_OR_KEYWORD)
    docstring = docstring_parser.parse(inspect.getdoc(function) or "")
    helps = {item.arg_name: item.description or "" for item in docstring.params}
    found = []
    for name, parameter in signature_of(function).parameters.items():
        if parameter.kind not in kinds or name in skip:
            continue
        required = parameter.default is inspect.Parameter.empty
        default = None if required else parameter.default
        annotation = types.get(name, parameter.annotation)
        members = _members(annotation)
        nullable = type(None) in members or (default is None and not required)
        members = tuple(item for item in members if item is not type(None))
        kind, choices = _kind(members, default)
        if kind is None or not _is_value(default):
            continue
        if kind == "float" and not required:
            default = _as_floats(default)
        several = _has_sequence(annotation)
        found.append(
            Option(
                name=name,
                kind=kind,
                default=default,
                required=required,
                nullable=nullable,
                choices=choices,
                help=_description(parameter.annotation)
                or _first_sentence(helps.get(name, ""))
                or _description(annotation),
                many=several
                or (lists == "welcome" and (kind != "text" or (texts and bool(choices)))),
                type=_checked_type(members, kind, nullable),
            )
        )
    return tuple(found)


def signature_of(function: Callable[..., Any]) -> inspect.Signature:
    """The signature, with its annotations evaluated if possible."""
    try:
        return inspect.signature(function, eval_str=True)
    except NameError:  # a name imported only for type checkers
        return inspect.signature(function)


def loss_arguments(function: Callable[..., Any]) -> tuple[str, ...]:
    """The names of outputs and targets in a loss's signature; empty if it returns a loss.

    >>> loss_arguments(lambda outputs, targets, *, delta=1.0: 0.0)
    ('outputs', 'targets')
    >>> loss_arguments(lambda *, delta=1.0: None)
    ()
    """
    empty = inspect.Parameter.empty
    names = [
        name
        for name, item in signature_of(function).parameters.items()
        if item.kind in (item.POSITIONAL_ONLY, item.POSITIONAL_OR_KEYWORD) and item.default is empty
    ]
    return tuple(names[:2]) if len(names) >= 2 else ()


def summary_of(function: Callable[..., Any]) -> str:
    """The first sentence of a function's docstring, on one line."""
    return " ".join((inspect.getdoc(function) or "").split("\n\n")[0].split())


def coerce(option: Option, value: Any, *, where: str) -> Value:
    """Convert a value (from Python, JSON or the command line) to the option's type.

    Args:
        option: The option.
        value: A scalar, or its text; or a list, tuple or one-dimensional array of them, or text
            with commas, which is a sweep.
        where: The stage's name, for the error.

    Returns:
        A scalar, or a tuple of at least two different ones.

    Raises:
        UserError: If the value is invalid.

    >>> coerce(Option("lr", "float"), ["1e-3", 1], where="optimizer adam")
    (0.001, 1.0)
    >>> coerce(Option("lr", "float"), "1e-3,3e-3", where="optimizer adam")
    (0.001, 0.003)
    """
    if hasattr(value, "tolist"):  # a numpy or jax array or scalar
        value = value.tolist()
    listed = option.sweepable or option.kind in ("int", "float")
    if listed and isinstance(value, str) and "," in value:
        value = [part.strip() for part in value.split(",")]
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


def coerce_all(
    options: Iterable[Option], given: Mapping[str, Any], *, where: str
) -> dict[str, Value]:
    """Convert all given values to their options' types.

    Args:
        options: The known options.
        given: Name to value.
        where: The owner of the options, for errors.

    Returns:
        A mapping from name to value, for the given options.

    Raises:
        UserError: For an unknown name (with the nearest one), an invalid value, or a missing
            required option.

    >>> coerce_all([Option("lr", "float")], {"lr": "0.1"}, where="optimizer adam")
    {'lr': 0.1}
    """
    known = {option.name: option for option in options}
    for name in given:
        if name not in known:
            raise unknown("option", name, known, where=where)
    for option in known.values():
        if option.required and option.name not in given:
            raise UserError(f"{where} lacks {option.name}: give {option.flag} VALUE")
    return {name: coerce(known[name], value, where=where) for name, value in given.items()}


def spell(value: Value) -> str:
    """A value as text for the command line, which `coerce` reads back exactly.

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
    given = value
    if hasattr(value, "__fspath__"):
        value = value.__fspath__()
    if isinstance(value, str) and option.kind != "text":
        value = _literal(value)
    if isinstance(value, float) and option.kind in ("int", "float"):
        if not math.isfinite(value):
            raise UserError(
                f"{where}: {option.name} is {value}: give a finite {_words(option, '')}"
            )
        if option.kind == "int" and value.is_integer():
            value = int(value)
    if value is None and not option.nullable:
        raise UserError(f"{where}: {option.name} is none: give {_words(option)}")
    try:
        return msgspec.convert(value, option.type or _plain(option))
    except msgspec.ValidationError:
        raise UserError(f"{where}: {_error(option, value, given)}") from None


def _literal(text: str) -> Scalar:
    """The number, bool or None in a text, or the text itself."""
    named = {"none": None, "true": True, "false": False}
    if text.lower() in named:
        return named[text.lower()]
    for read in (int, float):
        try:
            return read(text)
        except ValueError:
            continue
    return text


def _plain(option: Option) -> Any:
    kind: Any = Literal[option.choices] if option.choices else _PLAIN[option.kind]
    return kind | None if option.nullable else kind


def _error(option: Option, value: Any, given: Any) -> str:
    """The reason why a value is refused: a wrong kind, an unknown choice, or out of bounds."""
    numeric = isinstance(value, int | float) and not isinstance(value, bool)
    if option.kind == "text" and option.choices and isinstance(value, str):
        near = nearest(value, option.choices)
        guess = "" if near is None else f" (did you mean {near!r}?)"
        return f"{option.name} is {value!r}: it is one of {', '.join(option.choices)}{guess}"
    whole = option.kind in ("int", "step") and isinstance(value, float)
    if not numeric or whole or option.kind in ("bool", "text"):
        return f"{option.name} is {given!r}: give {_words(option)}"
    return f"{option.name} is {spell(value)}: {_bounds(option, value)}"


def _bounds(option: Option, value: int | float) -> str:
    limits: dict[str, Any] = {}
    reason = ""
    for meta in _metas(option.type):
        limits |= {
            name: limit
            for name in ("gt", "ge", "lt", "le")
            if (limit := getattr(meta, name)) is not None
        }
        reason = (meta.extra or {}).get("reason", reason)
    if reason and value > limits["le"]:
        return f"{reason}, so give at most {spell(limits['le'])}"
    match limits:
        case {"gt": 0, **rest} if not rest:
            return "it must be positive"
        case {"ge": 0, **rest} if not rest:
            return "it must not be negative"
        case {"ge": least, "le": most}:
            return f"it must be between {spell(least)} and {spell(most)}"
    words = {"ge": "at least", "gt": "above", "lt": "below", "le": "at most"}
    return "it must be " + " and ".join(
        f"{words[name]} {spell(limits[name])}" for name in words if name in limits
    )


def _words(option: Option, article: str = "a") -> str:
    if option.kind == "step":
        *first, last = ["a step", *option.choices]
        return f"{', '.join(first)} or {last}"
    if option.choices:
        return f"one of {', '.join(option.choices)}"
    noun = {"int": "whole number", "float": "number", "bool": "true or false", "text": "text"}[
        option.kind
    ]
    return noun if option.kind in ("bool", "text") or not article else f"{article} {noun}"


def _is_value(default: Any) -> bool:
    items = default if isinstance(default, tuple) else (default,)
    return all(isinstance(item, int | float | bool | str | None) for item in items)


def _as_floats(default: Any) -> Value:
    if isinstance(default, tuple):
        return tuple(float(item) for item in default)
    return None if default is None else float(default)


def _first_sentence(text: str) -> str:
    words = " ".join(text.split())
    return words.partition(". ")[0].rstrip(".")


def _kind(members: tuple[Any, ...], default: Any) -> tuple[Kind | None, tuple[str, ...]]:
    """The kind of a value of any of these annotations, and its choices."""
    plain = [_unwrapped(item) for item in members]
    choices = tuple(
        str(item)
        for member in plain
        if typing.get_origin(member) is Literal
        for item in typing.get_args(member)
        if item is not None
    )
    if choices:
        return ("step" if int in plain else "text"), choices
    if int in plain and str in plain:
        return "step", ()
    names: dict[Any, Kind] = {bool: "bool", float: "float", int: "int", str: "text"}
    for kind, name in names.items():
        if kind in plain:
            return name, ()
    if isinstance(default, bool | int | float | str):
        return names[type(default)], ()
    return None, ()


def _checked_type(members: tuple[Any, ...], kind: Kind, nullable: bool) -> Any:
    """The type for msgspec's check of one value: the supported members, with sequences unpacked."""
    known = [
        item
        for item in members
        if _unwrapped(item) in (bool, int, float, str)
        or typing.get_origin(_unwrapped(item)) is Literal
    ]
    if kind == "float":  # an int is accepted too, with the float's bounds
        known = [item for item in known if _unwrapped(item) is float]
    if kind == "text":  # choices take precedence over any text
        known.sort(key=lambda item: _unwrapped(item) is str)
        known = known[:1]
    made: Any = known[0] if known else _PLAIN[kind]
    for item in known[1:]:
        made = made | item
    return made | None if nullable else made


def _unwrapped(annotation: Any) -> Any:
    return typing.get_args(annotation)[0] if _is_annotated(annotation) else annotation


def _is_annotated(annotation: Any) -> bool:
    return typing.get_origin(annotation) is Annotated


def _metas(annotation: Any) -> list[Meta]:
    """The msgspec bounds in an annotation, the innermost first."""
    if _is_annotated(annotation):
        inner, *more = typing.get_args(annotation)
        return _metas(inner) + [item for item in more if isinstance(item, Meta)]
    return [meta for item in typing.get_args(annotation) for meta in _metas(item)]


def _description(annotation: Any) -> str:
    texts = [meta.description for meta in _metas(annotation) if meta.description]
    return texts[-1] if texts else ""


_SEQUENCES = (tuple, list, collections.abc.Sequence)


def _has_sequence(annotation: Any) -> bool:
    if _is_annotated(annotation) or typing.get_origin(annotation) in _UNIONS:
        return any(_has_sequence(item) for item in typing.get_args(annotation))
    return typing.get_origin(annotation) in _SEQUENCES


_UNIONS = (typing.Union, types.UnionType)


def _members(annotation: Any) -> tuple[Any, ...]:
    """The alternatives of an annotation, and the items of its sequences."""
    if hasattr(annotation, "__value__"):  # `type X = …` of Python 3.12
        return _members(annotation.__value__)
    if _is_annotated(annotation):
        inner, *more = typing.get_args(annotation)
        members = _members(inner)
        # Bounds around a union apply to its numbers.
        return tuple(Annotated[item, *more] if item in (int, float) else item for item in members)
    if typing.get_origin(annotation) in (*_UNIONS, *_SEQUENCES):
        return tuple(
            member
            for item in typing.get_args(annotation)
            if item is not Ellipsis
            for member in _members(item)
        )
    return (annotation,)
