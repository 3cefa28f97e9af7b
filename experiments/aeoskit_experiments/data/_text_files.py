"""Text from files, in memory: sizes are bounded, and files that are not text are refused."""

import hashlib
import importlib.metadata
import struct
import zipfile
import zlib
from pathlib import Path, PurePosixPath

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.catalog import expanded

from ._archive import leads_outside, spell
from ._scikit_learn import shipped

# WikiText-103 has 0.54 GB.
LARGEST = 2**31
SUFFIXES = (".txt", ".tokens")

# The exceptions of zipfile for invalid archives.
_BROKEN = (
    OSError,
    EOFError,
    ValueError,
    RuntimeError,
    struct.error,
    zlib.error,
    zipfile.BadZipFile,
)


def read_file(path: Path, option: str = "path") -> bytes:
    """A file's bytes.

    Raises:
        UserError: if there is no such file, it cannot be read, or is too large.
    """
    try:
        if not path.exists():
            raise UserError(f"{option} is {str(path)!r}: there is no such file or folder")
        if not path.is_file():
            raise UserError(f"{option} is {str(path)!r}: it is not a file")
        if (size := path.stat().st_size) > LARGEST:
            raise UserError(
                f"{option} is {str(path)!r}: it has {size} bytes, and at most {LARGEST} are taken: "
                f"cut it"
            )
        return path.read_bytes()
    except OSError as error:
        raise UserError(
            f"{option} is {str(path)!r}: it cannot be read ({error.strerror})"
        ) from error


def decode(data: bytes, name: str) -> str:
    """The text, with its line ends unchanged.

    Args:
        data: the file's bytes.
        name: the file's name, for the error.

    Raises:
        UserError: if it is not UTF-8.
    """
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        raise UserError(
            f"{name} is not UTF-8: the byte at offset {error.start} is 0x{data[error.start]:02x}, "
            f"so convert it (as `iconv -t UTF-8` does)"
        ) from error


def read_text(path: str) -> str:
    """The text of a file, or those of a folder's .txt and .tokens files in the order of names."""
    where = expanded(path)
    files = [where]
    if where.is_dir():
        try:
            files = sorted(file for file in where.iterdir() if file.suffix in SUFFIXES)
        except OSError as error:
            raise UserError(f"path is {path!r}: it cannot be read ({error.strerror})") from error
        if not files:
            raise UserError(
                f"path is {path!r}: the folder has no file named *{' or *'.join(SUFFIXES)}"
            )
    return "".join(decode(read_file(file), str(file)) for file in files)


def read_member(path: Path, names: tuple[str, ...]) -> tuple[bytes, str]:
    """One file from a zip archive, in memory: nothing is written.

    Args:
        path: the archive's path.
        names: possible names of the file, without folders; the first that exists is read.

    Returns:
        Its bytes and its name.

    Raises:
        UserError: if the archive is broken, unsafe or encrypted, or has none of the names, or more
            than one of a name.
    """
    prefix = f"path is {str(path)!r}"
    try:
        if (size := path.stat().st_size) > LARGEST:
            raise UserError(f"{prefix}: it has {size} bytes, and at most {LARGEST} are taken")
        with zipfile.ZipFile(path) as archive:
            members = archive.infolist()
            for member in members:
                if leads_outside(member.filename):
                    raise UserError(
                        f"{prefix}: its member {spell(member.filename)} leads out of the archive: "
                        f"do not trust it"
                    )
            for name in names:
                found = [m for m in members if PurePosixPath(m.filename).name == name]
                if len(found) > 1:
                    listed = " and ".join(spell(member.filename) for member in found[:2])
                    raise UserError(f"{prefix}: it has {listed}, so name a folder with one of them")
                if found:
                    return _contents(archive, found[0], prefix), name
    except UserError:
        raise
    except _BROKEN as error:
        raise UserError(
            f"{prefix}: it is not a whole zip archive ({spell(error)}), so get it again"
        ) from error
    raise UserError(f"{prefix}: the archive has no {' or '.join(names)}")


def _contents(archive: zipfile.ZipFile, member: zipfile.ZipInfo, prefix: str) -> bytes:
    if member.flag_bits & 0x1:
        raise UserError(
            f"{prefix}: {spell(member.filename)} is encrypted: unpack it, and name the folder"
        )
    # With other methods zipfile inflates four kilobytes at once, whatever their size becomes.
    if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
        raise UserError(
            f"{prefix}: {spell(member.filename)} is compressed by method {member.compress_type}, "
            f"and only stored and deflated members are read: unpack it, and name the folder"
        )
    if member.file_size > LARGEST:
        raise UserError(
            f"{prefix}: {spell(member.filename)} has {member.file_size} bytes, and at most "
            f"{LARGEST} are taken"
        )
    with archive.open(member) as file:
        # The archive's stated size is not trusted: no more than that is inflated.
        return file.read(member.file_size + 1)


def embedded_text() -> tuple[str, str]:
    """The descriptions of data sets that scikit-learn ships, and their name in errors."""
    files = sorted(shipped("descr").glob("*.rst"), key=lambda file: file.name)
    data = b"".join(file.read_bytes() for file in files)
    version, digest = importlib.metadata.version("scikit-learn"), hashlib.sha256(data).hexdigest()
    name = f"the text of scikit-learn {version} (sha256 {digest[:12]}…)"
    return decode(data, name), name
