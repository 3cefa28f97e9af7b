"""Archives that users bring: checked before they are opened, read in memory, nothing unpacked."""

import gzip
import hashlib
import io
import re
import tarfile
import zlib
from collections.abc import Callable, Mapping
from pathlib import Path, PurePosixPath, PureWindowsPath

from aeoskit_experiments._errors import UserError

_CHUNK = 1 << 18
# Beside what is read, an archive may hold a page or two about itself.
_ROOM = 1 << 20


def open_file(path: Path) -> io.BufferedReader:
    """A file, open to be read.

    Raises:
        UserError: if it cannot be, or is none: a pipe or a device may have no end.
    """
    if not path.is_file():
        raise UserError(f"{path} is no plain file: give the one that was offered")
    try:
        return path.open("rb")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error


def leads_outside(name: str) -> bool:
    r"""Whether a member's name leads out of its archive, which no honest one does.

    >>> [leads_outside(name) for name in ("a/b", "/a", "a/../b", "C:b", "..\\b")]
    [False, True, True, True, True]
    """
    path = PureWindowsPath(name)  # which knows both kinds of slashes, and drives
    return bool(path.anchor) or ".." in path.parts


def check_digest(
    file: io.BufferedReader, path: Path, published: str | None, own: str | None
) -> str:
    """Compares a file with its checksum.

    Args:
        file: open, at its start, where it is left.
        path: what it is called.
        published: the MD5 that its makers state, or None.
        own: the MD5 or SHA-256 that the user gives in its place, or None.

    Returns:
        Which checksum it has, in words; nothing where there is none to compare with.

    Raises:
        UserError: if it has another, or `own` is no checksum.
    """
    wanted = published if own is None else own.strip().lower()
    if wanted is None:
        return ""
    if not re.fullmatch(r"[0-9a-f]{32}|[0-9a-f]{64}", wanted):
        raise UserError(
            f"checksum is {own!r}: give the MD5 (32 hexadecimal digits) or SHA-256 (64) of "
            f"{path.name}"
        )
    kind = "MD5" if len(wanted) == 32 else "SHA-256"
    found = hashlib.file_digest(file, _md5 if kind == "MD5" else "sha256").hexdigest()
    file.seek(0)
    if found == wanted:
        return f"the published {kind}" if own is None else f"the given {kind}"
    if own is None:
        raise UserError(
            f"{path} has the {kind} {found}, not the published {wanted}: get it anew, or, if it "
            f"is an archive of your own, give its checksum"
        )
    raise UserError(f"{path} has the {kind} {found}, not {wanted} as given: get it anew")


def _md5() -> "hashlib._Hash":
    return hashlib.md5(usedforsecurity=False)  # against accidents: it is what is published


def read_members(
    file: io.BufferedReader,
    path: Path,
    limits: Mapping[str, int],
    refuse: Callable[[str], str | None],
) -> dict[str, bytes]:
    """Reads files out of a .tar.gz, whatever folder of it they are in.

    Args:
        file: open, at its start.
        path: what it is called.
        limits: the file names that are wanted, with the most bytes that each may have.
        refuse: says of a member's name why an archive that has it is not the right one, or None.

    Returns:
        File name to content, of those that are there.

    Raises:
        UserError: if the archive is broken, cut short, larger than it can be, or has a member
            that no honest archive of this kind has.
    """
    stream = _Bounded(file, path, sum(limits.values()) + _ROOM)
    found: dict[str, bytes] = {}
    try:
        with tarfile.open(fileobj=stream, mode="r|", bufsize=_CHUNK) as archive:
            for member in archive:
                _check_member(member, path)
                name = PurePosixPath(member.name).name
                if why := refuse(name):
                    raise UserError(f"{path} has {spell(member.name)}: {why}")
                if name not in limits or not member.isfile():
                    continue
                if name in found:
                    raise UserError(f"{path} has {name} twice: get it anew")
                if member.size > limits[name]:
                    raise UserError(
                        f"{path}: {name} has {member.size:,} bytes, and can have at most "
                        f"{limits[name]:,}: get it anew"
                    )
                content = archive.extractfile(member)
                assert content is not None  # it is a file
                found[name] = content.read()
        while stream.read(_CHUNK):  # to the end, where the stream's own checksum is
            pass
    except UserError:
        raise
    except (
        EOFError,
        OSError,
        OverflowError,
        RecursionError,  # a chain of headers about headers
        ValueError,
        zlib.error,
        tarfile.TarError,
    ) as error:
        raise UserError(
            f"{path} cannot be read as .tar.gz ({spell(error)}): it is broken or was cut short, "
            f"get it anew"
        ) from error
    return found


class _Bounded(io.RawIOBase):
    """A decompressed stream that ends in an error when it is longer than it can honestly be."""

    def __init__(self, file: io.BufferedReader, path: Path, most: int) -> None:
        self._stream = gzip.GzipFile(fileobj=file)
        self._path, self._most, self._left = path, most, most

    def readable(self) -> bool:
        return True

    def read(self, size: int = -1, /) -> bytes:
        piece = self._stream.read(self._left + 1 if size < 0 else min(size, self._left + 1))
        self._left -= len(piece)
        if self._left < 0:
            raise UserError(
                f"{self._path} unpacks to more than {self._most:,} bytes, which no archive of "
                f"this kind has: get it anew"
            )
        return piece


def _check_member(member: tarfile.TarInfo, path: Path) -> None:
    what = "leads out of its folder" if leads_outside(member.name) else ""
    if not what and (member.issym() or member.islnk()):
        what = "is a link"
    elif not what and not (member.isfile() or member.isdir()):
        what = "is no plain file"
    if what:
        raise UserError(
            f"{path}: its member {spell(member.name)} {what}, which no honest archive of this "
            f"kind has: get it anew"
        )


def spell(words: object) -> str:
    """What an archive says, on one line and not long."""
    text = " ".join(str(words).split())
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= 80 else f"{text[:77]}..."
