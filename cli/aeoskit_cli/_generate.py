"""Typer commands generated from the options of a function's signature."""

import inspect
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from aeoskit_cli._options import NO_OPTIONS, Parameters
from aeoskit_experiments import UserError, unknown
from aeoskit_experiments.options import Option, spell
from aeoskit_experiments.parts import is_reference

# Typer's usage errors have a common base class, which it does not export (or not in every version).
UsageError: type[Exception] = typer.BadParameter.__mro__[2]

HELP = {"help_option_names": ["-h", "--help"]}


class _Options:
    """A command that suggests the nearest option, and whose help prints no type beside a flag."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, `--help` among them."""
        params = super().get_params(ctx)  # type: ignore[misc]
        for item in params:
            if getattr(item, "is_flag", False):
                item.metavar = ""
        return params

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse as Typer does, but with aeoskit's message for an unknown option."""
        try:
            return super().parse_args(ctx, args)  # type: ignore[misc]
        except UsageError as error:
            name = getattr(error, "option_name", None)
            if hasattr(error, "possibilities") and name:
                options = self.get_params(ctx)
                known = [flag for item in options for flag in item.opts if flag[:2] == "--"]
                raise unknown("option", name, known, where=ctx.info_name or "") from None
            raise


class Command(_Options, TyperCommand):
    """A command of aeoskit's."""


class RawCommand(TyperCommand):
    """A command that gets its arguments unparsed, `--` included, as its parameter `words`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Pass all arguments on."""
        ctx.params["words"] = list(args)
        return []


def group_class(
    what: str,
    order: tuple[str, ...] = (),
    names: Iterable[str] = (),
    make: Callable[[typer.Typer, str], None] | None = None,
    hints: Mapping[str, str] | None = None,
) -> type[TyperGroup]:
    """A group that suggests the nearest of its commands to an unknown one.

    Args:
        what: The kind of its commands ("recipe").
        order: The order of its help, if not that in which they were added.
        names: Further commands, each made when it is needed.
        make: Adds one of those to an application, or the command of a user's own part,
            `module:name` or `./file.py:name`.
        hints: Messages for words that are not commands, instead of the nearest one.
    """
    names = list(names)

    class Group(_Options, TyperGroup):
        def get_command(self, ctx: Any, cmd_name: str) -> Any:
            is_known = cmd_name in names or is_reference(cmd_name)
            if make is not None and is_known and cmd_name not in self.commands:
                app = typer.Typer(add_completion=False)
                make(app, cmd_name)
                self.commands[cmd_name] = typer.main.get_command(app)
            return super().get_command(ctx, cmd_name)

        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            if self.get_command(ctx, args[0]) is None and not args[0].startswith("-"):
                if (hint := (hints or {}).get(args[0])) is not None:
                    raise UserError(f"unknown {what} {args[0]!r}: {hint}")
                raise unknown(what, args[0], self.list_commands(ctx))
            return super().resolve_command(ctx, args)

        def list_commands(self, ctx: Any) -> list[str]:
            listed = dict.fromkeys([*super().list_commands(ctx), *names])
            return sorted(listed, key=lambda name: order.index(name) if name in order else -1)

    return Group


def add_command(
    app: typer.Typer,
    name: str,
    summary: str,
    options: Iterable[Option],
    action: Callable[..., Any],
    extra: Parameters = NO_OPTIONS,
    epilog: str | None = None,
) -> None:
    """Add a command whose options are generated.

    Args:
        app: The application.
        name: The command's name.
        summary: Its help.
        options: Its options; each is optional here, since the callee reports missing ones.
        action: Called with the given values, as text or bool, and the extras; its callee converts
            them to their types.
        extra: Further options; one of a name in `options` is left out.
        epilog: The end of its help: an example.
    """
    table = {option.name: parameter_of(option) for option in options}
    extra = {key: item for key, item in extra.items() if key not in table}

    def call(**given: Any) -> Any:
        values = {key: item for key, item in given.items() if key in table and item is not None}
        return action(values, **{key: given[key] for key in extra})

    signed = sign(call, {**table, **extra})
    app.command(name, help=summary, cls=Command, context_settings=HELP, epilog=epilog)(signed)


def sign(function: Callable[..., Any], parameters: Parameters) -> Callable[..., Any]:
    """Give a function the signature from which Typer reads its options."""
    kind = inspect.Parameter.KEYWORD_ONLY
    signature = [
        inspect.Parameter(name, kind, annotation=annotation, default=default)
        for name, (annotation, default) in parameters.items()
    ]
    function.__signature__ = inspect.Signature(signature)  # pyright: ignore[reportFunctionMemberAccess]
    function.__annotations__ = {name: item[0] for name, item in parameters.items()}
    return function


def parameter_of(option: Option) -> tuple[Any, None]:
    """An option of Typer's own kind: a text or bool that is None if it is not given."""
    # Typer would put a default that is a string in brackets and parentheses.
    note = "required" if option.required else f"default {spell(option.default)}"
    if option.kind == "bool":
        kind, flags, metavar = bool, [f"{option.flag}/--no-{option.flag[2:]}"], ""
    else:
        kind, flags = str, [option.flag]
        noun = {"int": "INT", "float": "FLOAT", "text": "TEXT", "step": "STEP"}[option.kind]
        metavar = "|".join(option.choices) or (f"{noun}[,…]" if option.sweepable else noun)
        if len(metavar) > 16:  # a wider column would leave too little of 80 for the help
            metavar, note = "NAME", f"{', '.join(option.choices)}; {note}"
    annotation = Annotated[
        kind | None,
        typer.Option(
            *flags,
            help=f"{option.help} ({note})" if option.help else f"({note})",
            metavar=metavar,
            show_default=False,
        ),
    ]
    return annotation, None
