"""The checks of `aeoskit data verify` on texts: each returns a phrase."""

from aeoskit_experiments._errors import UserError

from ._text_files import embedded_text, read_text
from ._topics import read_topics
from ._wikitext import read_wikitext


def check_text(path: str | None, checksum: str | None) -> str:
    """A user's text, or the one that scikit-learn ships."""
    _refuse(checksum)
    if path is not None:
        return f"{_size(read_text(path))} of UTF-8, there is no checksum"
    read, name = embedded_text()
    return f"{_size(read)}: {name}"


def check_topics() -> str:
    """Python's own text, by its length and SHA-256."""
    return read_topics()[1]


def check_wikitext(path: str | None, checksum: str | None) -> str:
    """The training split, from the archive or the folder."""
    _refuse(checksum)
    if path is None:
        raise UserError("wikitext has no place of its own: give its .zip or folder as path")
    read, name = read_wikitext(path, "train")
    return f"{_size(read)} of UTF-8 in {name}, there is no checksum"


def _refuse(checksum: str | None) -> None:
    if checksum is not None:
        raise UserError("a text has no published checksum to compare: leave checksum out")


def _size(read: str) -> str:
    return f"{len(read.encode()):,} bytes"
