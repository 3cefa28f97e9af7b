"""Archives of the user: checked before they are opened, read in memory, never unpacked."""

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
# Bytes allowed for other members, such as a README.
_ROOM = 1 << 20


def open_file(path: Path) -> io.BufferedReader:
    """A file, open for reading.

    Raises:
        UserError: if it cannot be read, or is not a regular file: a pipe or a device may have no
            end.
    """
    if not path.is_file():
        raise UserError(f"{path} is not a regular file: give the published one")
    try:
        return path.open("rb")
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror})") from error


def leads_outside(name: str) -> bool:
    r"""True if a member's name leads out of its archive, as in malicious ones.

    >>> [leads_outside(name) for name in ("a/b", "/a", "a/../b", "C:b", "..\\b")]
    [False, True, True, True, True]
    """
    path = PureWindowsPath(name)  # handles both kinds of slashes, and drives
    return bool(path.anchor) or ".." in path.parts


def check_digest(file: io.BufferedReader, path: Path, published: str, own: str | None) -> str:
    """Compare a file with its checksum.

    Args:
        file: open, at its start, where it is left.
        path: its path, for messages.
        published: the MD5 that its authors publish.
        own: the MD5 or SHA-256 that the user gives instead, or None.

    Returns:
        The checksum, in words.

    Raises:
        UserError: if the checksum differs, or `own` is not a checksum.
    """
    wanted = published if own is None else own.strip().lower()
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
            f"{path} has the {kind} {found}, not the published {wanted}: get it again, or, if it "
            f"is an archive of your own, give its checksum"
        )
    raise UserError(f"{path} has the {kind} {found}, not {wanted} as given: get it again")


def _md5() -> "hashlib._Hash":
    return hashlib.md5(usedforsecurity=False)  # against accidents: the published checksums are MD5s


def read_members(
    file: io.BufferedReader,
    path: Path,
    limits: Mapping[str, int],
    refuse: Callable[[str], str | None],
) -> dict[str, bytes]:
    """Read files from a .tar.gz, in any of its folders.

    Args:
        file: open, at its start.
        path: its path, for messages.
        limits: the names of the wanted files, each with its largest size in bytes.
        refuse: maps a member's name to the reason why an archive with it is the wrong one, or None.

    Returns:
        File name to content, of the files found.

    Raises:
        UserError: if the archive is broken, cut short, larger than it can be, or has a member
            that no valid archive of this kind has.
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
                    raise UserError(f"{path} has {name} twice: get it again")
                if member.size > limits[name]:
                    raise UserError(
                        f"{path}: {name} has {member.size:,} bytes, and can have at most "
                        f"{limits[name]:,}: get it again"
                    )
                content = archive.extractfile(member)
                assert content is not None  # it is a file
                found[name] = content.read()
        while stream.read(_CHUNK):  # to the end, where the stream checks itself
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
            f"get it again"
        ) from error
    return found


class _Bounded(io.RawIOBase):
    """A decompressed stream that raises once it is longer than a valid one."""

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
                f"this kind has: get it again"
            )
        return piece


def _check_member(member: tarfile.TarInfo, path: Path) -> None:
    what = "leads out of its folder" if leads_outside(member.name) else ""
    if not what and (member.issym() or member.islnk()):
        what = "is a link"
    elif not what and not (member.isfile() or member.isdir()):
        what = "is not a regular file"
    if what:
        raise UserError(
            f"{path}: its member {spell(member.name)} {what}, which no valid archive of this "
            f"kind has: get it again"
        )


def spell(words: object) -> str:
    """Text from an archive, on one line and shortened."""
    text = " ".join(str(words).split())
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= 80 else f"{text[:77]}..."
