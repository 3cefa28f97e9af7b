"""The data sets on this machine, and whether their files are the right ones."""

import hashlib
import importlib
import importlib.metadata
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import msgspec

from aeoskit_experiments._errors import UserError

from ._entries import CATALOG, Entry, entry
from ._where import data_folder, file_instructions, files_in, find, required_files


def survey() -> dict[str, Any]:
    """All data sets, and which of them are available.

    Returns:
        `folder`, the data folder, and `data`: for each set its facts, with `here`, whether it is
        available, and `get`, how to get it if it is not.
    """
    found = []
    for item in CATALOG.values():
        facts = {
            key: value
            for key, value in msgspec.to_builtins(item).items()
            if key != "check" and value not in ("", [], (), {})
        }
        found.append({**facts, "here": _is_here(item), "get": _instructions(item)})
    return {"folder": str(data_folder()), "data": found}


def verify(
    name: str,
    path: str | os.PathLike[str] | None = None,
    checksum: str | None = None,
) -> dict[str, Any]:
    """Read a whole data set and verify it.

    Args:
        name: The data set.
        path: Its archive or folder; None looks in the data folder.
        checksum: The MD5 or SHA-256 of the user's own archive; None takes the published one.

    Returns:
        `name`, `status` ("ok", "missing" or "wrong"), and a `sentence`.

    Raises:
        UserError: If there is no such data set, if it cannot be verified by itself, or if a path is
            given for one that has no files.
    """
    item = entry(name)
    if not item.options and (path is not None or checksum is not None):
        raise UserError(f"data {name} is read from no file: leave path and checksum out")
    if item.origin == "drawn":
        return _verdict(name, "ok", "generated from its seed, there is nothing to verify")
    if not _is_here(item) and path is None:
        how = file_instructions(name) if item.origin == "file" else _instructions(item)
        return _verdict(name, "missing", f"not here: {how}")
    if not item.check and path is None:
        return _verdict(name, "ok", f"as {' and '.join(item.packages)} ships it")
    if not item.check:
        raise UserError(f"data {name} is verified by the run that reads it: give it to one")
    check = _check(item)
    try:
        found = (
            check(None if path is None else os.fspath(path), checksum) if item.options else check()
        )
    except UserError as error:
        return _verdict(name, "wrong", str(error))
    return _verdict(name, "ok", found)


def provenance(name: str, settings: Mapping[str, Any]) -> dict[str, str]:
    """The files and packages of a run's data, for its record.

    Args:
        name: The data set.
        settings: The options of its stage.

    Returns:
        For each file that is read, its name and its SHA-256; for data shipped by a package, the
        package's name and version; for data of Python's own, what they are, with their length and
        SHA-256; nothing for generated data.

    Raises:
        UserError: If a given path does not exist.
    """
    item = CATALOG.get(name)
    if item is None:
        return {}
    given = [settings[option] for option in item.options if settings.get(option) is not None]
    if item.origin != "file" and not given:
        if not item.packages and item.check:
            return {name: _check(item)()}
        return {package: _version(package) or "not installed" for package in item.packages}
    places = [find(name, path) for path in given or [None]]
    files = [file for place in places if place is not None for file in files_in(name, place)]
    names = [file.name for file in files]
    return {
        file.name if names.count(file.name) == 1 else f"{file.parent.name}/{file.name}": (
            f"sha256:{_sha256(file)}"
        )
        for file in files
        if file.is_file()
    }


def _check(item: Entry) -> Callable[..., str]:
    module, _, function = item.check.partition(":")
    return getattr(importlib.import_module(module), function)


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _verdict(name: str, status: str, sentence: str) -> dict[str, Any]:
    return {"name": name, "status": status, "sentence": sentence}


def _is_here(item: Entry) -> bool:
    if item.origin == "file":
        return find(item.name) is not None
    return all(_version(package) for package in item.packages)


def _instructions(item: Entry) -> str:
    if item.origin == "package":
        return f"pip install 'aeoskit[{item.extra}]'"
    if item.origin != "file":
        return ""
    if not item.places:
        return f"your own files, with {' and '.join(f'--{option}' for option in item.options)}"
    inside = "" if item.archive else f", in a folder {item.folders[0]}"
    package = f"apt install {item.apt}, or " if item.apt else ""
    return f"{package}{required_files(item)}{inside}"


def _version(package: str) -> str | None:
    try:
        return importlib.metadata.version(package)
    except importlib.metadata.PackageNotFoundError:
        return None
