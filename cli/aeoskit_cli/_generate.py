"""Typer commands generated from the options of a function's signature."""

import inspect
import sys
from collections.abc import Callable, Iterable, Mapping
from typing import Annotated, Any

import typer
from typer.core import TyperCommand, TyperGroup

from aeoskit_experiments import UserError, unknown
from aeoskit_experiments.options import Option, spell
from aeoskit_experiments.parts import Code, is_reference

# Typer's usage errors have a common base class, which it does not export (or not in every version).
UsageError: type[Exception] = typer.BadParameter.__mro__[2]

# A terminal has 80 columns; the boxes of help take four of them.
HELP = {"help_option_names": ["-h", "--help"]}

NO_CACHE = "--no-cache"
"""A flag of every command, at any position: `main` removes it before parsing."""

JSON_HELP = {"--json": "Print one JSON object on stdout, no tables"}
CACHE_HELP = {NO_CACHE: "Compile all programs again, and keep none"}

NoCache = Annotated[bool, typer.Option(NO_CACHE, help=CACHE_HELP[NO_CACHE])]
"""The help of commands whose programs are kept."""


AllowCode = Annotated[
    bool,
    typer.Option("--allow-code", help="Run its code even if it has not run here before"),
]


def ask_about_code(reference: str, code: Code) -> bool:
    """Ask whether code that came with a run may run; without a terminal, it may not."""
    if not sys.stdin.isatty():
        return False
    # What a terminal would take for commands is shown as it is written.
    shown = "".join(c if c.isprintable() or c in "\n\t" else repr(c)[1:-1] for c in code.source)
    print(f"\n{shown}\n", file=sys.stderr)
    return typer.confirm(f"The code above, {reference}, has not run here before. Run it?", err=True)


class _PlainFlags:
    """A command whose help prints no type beside a flag."""

    def get_params(self, ctx: Any) -> list[Any]:
        """The parameters, `--help` among them."""
        params = super().get_params(ctx)  # type: ignore[misc]
        for item in params:
            if getattr(item, "is_flag", False):
                item.metavar = ""
        return params


class Command(_PlainFlags, TyperCommand):
    """A command that suggests the nearest option to an unknown one."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Parse as Typer does, but with aeoskit's message for an unknown option."""
        try:
            return super().parse_args(ctx, args)
        except UsageError as error:
            name = getattr(error, "option_name", None)
            if hasattr(error, "possibilities") and name:
                known = [flag for item in self.params for flag in item.opts if flag[:2] == "--"]
                raise unknown("option", name, known, where=ctx.info_name or "") from None
            raise


class RawCommand(TyperCommand):
    """A command that gets its arguments unparsed, `--` included, as its parameter `words`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Pass all arguments on."""
        ctx.params["words"] = list(args)
        return []


def group_class(
    what: str,
    order: tuple[str, ...] = (),
    make: Callable[[typer.Typer, str], None] | None = None,
    hints: Mapping[str, str] | None = None,
) -> type[TyperGroup]:
    """A group that suggests the nearest of its commands to an unknown one.

    Args:
        what: The kind of its commands ("recipe").
        order: The order of its help, if not that in which they were added.
        make: Adds the command of a user's own part, `module:name` or `./file.py:name`, to an
            application.
        hints: Messages for words that are not commands, instead of the nearest one.
    """

    class Group(_PlainFlags, TyperGroup):
        def resolve_command(self, ctx: Any, args: list[str]) -> Any:
            if args and not args[0].startswith("-") and args[0] not in self.commands:
                if make is None or not is_reference(args[0]):
                    if (hint := (hints or {}).get(args[0])) is not None:
                        raise UserError(f"unknown {what} {args[0]!r}: {hint}")
                    raise unknown(what, args[0], self.commands)
                app = typer.Typer(add_completion=False)
                make(app, args[0])
                return args[0], typer.main.get_command(app), args[1:]
            return super().resolve_command(ctx, args)

        def list_commands(self, ctx: Any) -> list[str]:
            names = super().list_commands(ctx)
            return sorted(names, key=lambda name: order.index(name) if name in order else -1)

    return Group


def add_command(
    app: typer.Typer,
    name: str,
    summary: str,
    options: Iterable[Option],
    action: Callable[..., Any],
    extra: dict[str, tuple[Any, Any]] | None = None,
    kept: bool = False,
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
        extra: Name to (annotation, default) of options that are Typer's own kind.
        kept: Whether its compiled programs are kept, so that its help has `--no-cache`.
        epilog: The end of its help: an example.
    """
    table = {option.name: option for option in options}
    extra = extra or {}
    if taken := sorted(table.keys() & extra.keys()):
        raise UserError(f"{name}: its option {taken[0]} is one of the command's own: rename it")

    def call(**given: Any) -> Any:
        values = {key: item for key, item in given.items() if key in table and item is not None}
        return action(values, **{key: given[key] for key in extra})

    for_help = {"no_cache": (NoCache, False)} if kept else {}
    parameters = [_parameter(option) for option in table.values()]
    parameters += [
        inspect.Parameter(
            key, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=default
        )
        for key, (annotation, default) in (extra | for_help).items()
    ]
    call.__signature__ = inspect.Signature(parameters)  # pyright: ignore[reportFunctionMemberAccess]
    call.__annotations__ = {item.name: item.annotation for item in parameters}
    app.command(name, help=summary, cls=Command, context_settings=HELP, epilog=epilog)(call)


def _parameter(option: Option) -> inspect.Parameter:
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
    return inspect.Parameter(
        option.name, inspect.Parameter.KEYWORD_ONLY, annotation=annotation, default=None
    )
