"""The places of a data set's files."""

import os
from pathlib import Path

from aeoskit_experiments._errors import UserError

from ._entries import Entry, entry

VARIABLE = "AEOSKIT_DATA"


def expanded(path: str | os.PathLike[str], option: str = "path") -> Path:
    """The path with `~` expanded.

    Args:
        path: The user's path.
        option: The name of the option.

    Returns:
        The path.

    Raises:
        UserError: If it is in the home of an unknown user.

    >>> str(expanded("runs"))
    'runs'
    """
    try:
        return Path(path).expanduser()
    except RuntimeError:
        raise UserError(
            f"{option} is {os.fspath(path)!r}: there is no such user here, give the whole path"
        ) from None


def data_folder() -> Path:
    """The folder for data: `AEOSKIT_DATA` if that is set, or `aeoskit/data` among caches.

    Returns:
        Its path, which need not exist.
    """
    named = os.environ.get(VARIABLE)
    if named:
        return expanded(named, VARIABLE).absolute()
    return cache_home() / "aeoskit" / "data"


def cache_home() -> Path:
    """The user's folder for caches: `XDG_CACHE_HOME`, or `~/.cache`."""
    caches = os.environ.get("XDG_CACHE_HOME")
    # As the XDG base directory specification requires, a relative path is ignored.
    if not caches or not Path(caches).is_absolute():
        return Path.home() / ".cache"
    return Path(caches)


def search_paths(name: str, path: str | os.PathLike[str] | None = None) -> list[Path]:
    """The places that are searched for a data set's files, in order.

    Args:
        name: The data set.
        path: The user's path: the archive, a folder with the files, or a folder that contains
            either; None for the data folder, and then where a package puts them.

    Returns:
        The places; empty for a data set without files, or without a place of its own.

    Raises:
        UserError: If there is no such data set, or a given `path` does not exist.
    """
    item = entry(name)
    if path is None:
        own = [data_folder() / place for place in item.places]
        return [*own, Path(item.shared)] if item.shared else own
    given = expanded(path)
    if not given.exists():
        raise UserError(f"path is {os.fspath(path)!r}, which does not exist: give {_wanted(item)}")
    return [*(given / place for place in item.places), given] if given.is_dir() else [given]


def find(name: str, path: str | os.PathLike[str] | None = None) -> Path | None:
    """The archive or folder that a data set is read from.

    Args:
        name: The data set.
        path: As for `search_paths`.

    Returns:
        The first place that exists, or None.

    Raises:
        UserError: As for `search_paths`.
    """
    return next((place for place in search_paths(name, path) if place.exists()), None)


def files_in(name: str, place: Path) -> list[Path]:
    """The files that a data set is read from.

    Args:
        name: The data set.
        place: Its archive or folder, as returned by `find`.

    Returns:
        The archive; or the folder's files, in the entry's order, which need not exist.
    """
    item = entry(name)
    if not place.is_dir():
        return [place]
    files = [
        found
        for file in item.files
        for found in (sorted(place.glob(file)) if "*" in file else [place / file])
    ]
    if not item.compressed:
        return files
    published = [file.with_name(f"{file.name}.gz") for file in files]
    return [
        gz if gz.exists() or not file.exists() else file
        for gz, file in zip(published, files, strict=True)
    ]


def missing(name: str) -> UserError:
    """The error for a data set whose files are missing, with the fix."""
    return UserError(
        f"data {name} is not here, and nothing is downloaded: {file_instructions(name)}"
    )


def file_instructions(name: str) -> str:
    """The instructions to get the files of a data set, as in an error."""
    item = entry(name)
    if not item.places:
        return f"give {_wanted(item)} as {' and '.join(item.options)}"
    folder = data_folder() if item.archive else data_folder() / item.folders[0]
    instead = f"; data {item.instead} has the same shapes without files" if item.instead else ""
    package = f"apt install {item.apt}, or " if item.apt else ""
    return f"{package}put {required_files(item)} into {folder}, or give path{instead}"


def required_files(item: Entry) -> str:
    """The files that a user has to provide, and where they are published.

    >>> required_files(entry("cifar10"))
    'cifar-10-binary.tar.gz (from https://www.cs.toronto.edu/~kriz/cifar.html)'
    """
    names = item.archive or ", ".join(
        f"{name}.gz" if item.compressed else name for name in item.files
    )
    return f"{names} (from {item.home})" if item.home else names


def _wanted(item: Entry) -> str:
    if item.archive:
        return f"{item.archive}, or the folder that it unpacks to"
    if item.files and "*" in item.files[0]:
        return f"a file, or a folder with {' or '.join(item.files)}"
    if item.files:
        return f"a folder with {item.files[0]} and the {len(item.files) - 1} other files"
    return "a file"
