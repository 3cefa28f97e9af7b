"""`aeoskit data`: a list of data sets, their verification, and the places of their files."""

from pathlib import Path
from typing import Annotated, Any

import typer

from aeoskit_cli._generate import HELP, Command, group_class
from aeoskit_cli._options import Json
from aeoskit_cli._print import print_columns, print_json, print_table
from aeoskit_experiments import UserError
from aeoskit_experiments.catalog import CATALOG, data_folder, search_paths, survey, verify

WRONG = 2

Name = Annotated[str | None, typer.Argument(help="A data set; all if none is named")]
Where = Annotated[
    Path | None, typer.Option("--path", help="Your archive or folder", metavar="PATH")
]
Checksum = Annotated[
    str | None,
    typer.Option("--checksum", help="MD5 or SHA-256 of your own archive", metavar="HEX"),
]


def make_data_app() -> typer.Typer:
    """A new instance of the command."""
    app = typer.Typer(
        help="List data sets, verify them, show where files go. Nothing is downloaded.",
        cls=group_class("command"),
        no_args_is_help=True,
        context_settings=HELP,
    )
    app.callback()(lambda: None)
    for name, command in (("list", list_), ("verify", verify_), ("path", path)):
        app.command(name, cls=Command, context_settings=HELP)(command)
    return app


def list_(json: Json = False) -> None:
    """List the data sets, which of them are available, and how to get the others."""
    found = survey()
    if json:
        print_json(found)
        return
    print_columns(
        ("name", "description", "examples", "shape", "source", "here"),
        [
            (
                item["name"],
                item["summary"],
                item["size"].replace(",000", "k"),
                item["shape"],
                item["origin"],
                "yes" if item["here"] else "no",
            )
            for item in found["data"]
        ],
    )
    absent = {item["name"]: item["get"] for item in found["data"] if not item["here"]}
    if absent:
        print()
        print_table(f"missing (files go into {found['folder']})", absent)


def verify_(
    name: Name = None, path: Where = None, checksum: Checksum = None, json: Json = False
) -> int:
    """Read whole data sets, and report for each in a line whether it is correct."""
    if name is None and (path is not None or checksum is not None):
        raise UserError("verify got no data set: name the one to verify, as in verify cifar10")
    names = list(CATALOG) if name is None else [name]
    found = [verify(item, path, checksum) for item in names]
    # A missing data set is an error only if it was named.
    fine = ("ok", "missing") if name is None else ("ok",)
    if json:
        print_json({"data": found})
    else:
        width = max(len(item) for item in names)
        for item in found:
            sentence = item["sentence"] if item["status"] != "missing" or name else "not here"
            print(f"{item['name']:{width}}  {item['status']:7}  {sentence}")
    return 0 if all(item["status"] in fine for item in found) else WRONG


def path(name: Name = None, json: Json = False) -> None:
    """Print the data folder, or a data set's places in it."""
    places: list[Any] = [data_folder()] if name is None else search_paths(name)
    if name is not None and not places and not json:
        options = " and ".join(CATALOG[name].options)
        why = f"its files are given to a run as {options}" if options else "it is read from no file"
        raise UserError(f"data {name} has no place in the data folder: {why}")
    if json:
        print_json({"paths": [str(place) for place in places]})
        return
    for place in places:
        print(place)
