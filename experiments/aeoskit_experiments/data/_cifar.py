"""CIFAR-10 and CIFAR-100, read from the binary version of the published archives.

A record is one byte a label and then 3,072 pixels, red, green and blue, each row by row
(https://www.cs.toronto.edu/~kriz/cifar.html). The Python version consists of pickles, which
can run any code when they are opened: it is not read.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import numpy as np
from einops import rearrange
from jaxtyping import UInt8

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.catalog import entry, files_in, find, missing
from aeoskit_experiments.options import Fraction, Seed, at_most

from ._archive import check_digest, open_file, read_members
from ._dataset import Dataset
from ._prepare import Images, Standardize, prepare

Labels = Literal["fine", "coarse"]

SHAPE = (32, 32, 3)
_PIXELS = 32 * 32 * 3
_PICKLES = "the Python version, whose pickles are never opened; get the binary version"


@dataclass(frozen=True)
class _Format:
    """The format of one of the two data sets.

    Args:
        name: the data set.
        labels: number of classes of each of a record's labels, in the order of its bytes.
        train: its training files, with the largest number of records of each.
        test: its test file, likewise.
        pickled: the names of the files of the Python version.
    """

    name: str
    labels: tuple[int, ...]
    train: dict[str, int]
    test: dict[str, int]
    pickled: tuple[str, ...]

    @property
    def record(self) -> int:
        return len(self.labels) + _PIXELS

    def refuse(self, name: str) -> str | None:
        return f"it is {_PICKLES}" if name in self.pickled else None


CIFAR10 = _Format(
    "cifar10",
    (10,),
    {f"data_batch_{batch}.bin": 10_000 for batch in range(1, 6)},
    {"test_batch.bin": 10_000},
    (*(f"data_batch_{batch}" for batch in range(1, 6)), "test_batch"),
)
CIFAR100 = _Format(
    "cifar100", (20, 100), {"train.bin": 50_000}, {"test.bin": 10_000}, ("train", "test")
)


_Cifar10Examples = Annotated[int, at_most(50_000, least=1, reason="CIFAR-10 has 50000 images")]
_Cifar10Test = Annotated[int, at_most(10_000, least=0, reason="CIFAR-10 has 10000 test images")]


def cifar10(
    *,
    path: str | None = None,
    checksum: str | None = None,
    examples: _Cifar10Examples | None = None,
    label_noise: Fraction = 0.0,
    standardize: Standardize = "channel",
    seed: Seed = 0,
    test: _Cifar10Test = 0,
) -> Dataset:
    """CIFAR-10: 50,000 color images of 32×32 pixels in ten classes, from your own archive.

    The archive `cifar-10-binary.tar.gz`, or the folder that it unpacks to, is looked for in the
    data folder; nothing is downloaded. An archive must have the published MD5 (of a folder, only
    the structure can be checked); it is read in memory.

    Args:
        path: The archive or its folder; none looks in the data folder.
        checksum: MD5 or SHA-256 of an archive of your own; none takes the published one.
        examples: Number of images, drawn at random without replacement; none takes all.
        label_noise: Fraction of the labels replaced by uniformly random ones; 1 is all random.
        standardize: Mean 0 and variance 1 for each channel, for each pixel, or not at all.
        seed: Seed of the draw of the examples and of the random labels.
        test: Number of the test images that are kept as test rows.

    Returns:
        The data set. A larger `examples` with the same seed contains the smaller one's images.

    Raises:
        UserError: if the files are missing or not the right ones, or a number is out of its range.

    Example:
        >>> cifar10(path="/nowhere")
        Traceback (most recent call last):
        aeoskit_experiments._errors.UserError: path is '/nowhere', which does not exist: give
        cifar-10-binary.tar.gz, or the folder that it unpacks to
    """
    images, _ = read_cifar(CIFAR10, path, checksum)
    return prepare(
        images,
        examples=examples,
        label_noise=label_noise,
        standardize=standardize,
        seed=seed,
        test=test,
    )


_Cifar100Examples = Annotated[int, at_most(50_000, least=1, reason="CIFAR-100 has 50000 images")]
_Cifar100Test = Annotated[int, at_most(10_000, least=0, reason="CIFAR-100 has 10000 test images")]


def cifar100(
    *,
    path: str | None = None,
    checksum: str | None = None,
    labels: Labels = "fine",
    examples: _Cifar100Examples | None = None,
    label_noise: Fraction = 0.0,
    standardize: Standardize = "channel",
    seed: Seed = 0,
    test: _Cifar100Test = 0,
) -> Dataset:
    """CIFAR-100: 50,000 color images of 32×32 pixels in 100 classes, from your own archive.

    As `cifar10`, except for the archive: `cifar-100-binary.tar.gz`.

    Args:
        path: The archive or its folder; none looks in the data folder.
        checksum: MD5 or SHA-256 of an archive of your own; none takes the published one.
        labels: The 100 classes, or the 20 groups of five that they are in.
        examples: Number of images, drawn at random without replacement; none takes all.
        label_noise: Fraction of the labels replaced by uniformly random ones; 1 is all random.
        standardize: Mean 0 and variance 1 for each channel, for each pixel, or not at all.
        seed: Seed of the draw of the examples and of the random labels.
        test: Number of the test images that are kept as test rows.

    Returns:
        The data set. A larger `examples` with the same seed contains the smaller one's images.

    Raises:
        UserError: if the files are missing or not the right ones, or a number is out of its range.

    Example:
        >>> cifar100(path="/nowhere")
        Traceback (most recent call last):
        aeoskit_experiments._errors.UserError: path is '/nowhere', which does not exist: give
        cifar-100-binary.tar.gz, or the folder that it unpacks to
    """
    if labels not in ("fine", "coarse"):
        raise UserError(f"labels is {labels!r}: take fine or coarse")
    images, _ = read_cifar(CIFAR100, path, checksum, which=0 if labels == "coarse" else 1)
    return prepare(
        images,
        examples=examples,
        label_noise=label_noise,
        standardize=standardize,
        seed=seed,
        test=test,
    )


def read_cifar(
    kind: _Format, path: str | Path | None, checksum: str | None, *, which: int = 0
) -> tuple[Images, str]:
    """All images of a set, and the checksum that verified them.

    Args:
        kind: CIFAR-10 or CIFAR-100.
        path: the archive or its folder; None looks in the data folder.
        checksum: of the user's own archive; None takes the published one.
        which: index of the label in a record.

    Raises:
        UserError: if they are missing or not the right ones.
    """
    place = find(kind.name, path)
    if place is None:
        raise missing(kind.name)
    files = {**kind.train, **kind.test}
    if place.is_dir():
        if checksum is not None:
            raise UserError(
                f"checksum is that of an archive, but {place} is a folder: leave checksum out, or "
                f"give the archive as path"
            )
        contents, vouched = _read_folder(kind, place, files), ""
    else:
        contents, vouched = _read_archive(kind, place, files, checksum)
    parsed = {name: _records(kind, place, name, contents[name]) for name in files}
    train = np.concatenate([parsed[name] for name in kind.train])
    (test,) = (parsed[name] for name in kind.test)
    pixels, labels = _images(kind, train, which)
    test_pixels, test_labels = _images(kind, test, which)
    classes = kind.labels[which]
    images = Images(kind.name, pixels, labels, 255.0, classes, SHAPE, test_pixels, test_labels)
    return images, vouched


def _read_archive(
    kind: _Format, path: Path, files: dict[str, int], checksum: str | None
) -> tuple[dict[str, bytes], str]:
    item = entry(kind.name)
    if path.name.startswith(item.archive.replace("binary.tar.gz", "python")):
        raise UserError(f"{path} is {_PICKLES}, {item.archive}")
    with open_file(path) as file:
        vouched = check_digest(file, path, item.checksums[item.archive], checksum)
        limits = {name: most * kind.record for name, most in files.items()}
        contents = read_members(file, path, limits, kind.refuse)
    absent = [name for name in files if name not in contents]
    if absent:
        raise UserError(
            f"{path} lacks {', '.join(absent)}: it is broken or not the binary version of "
            f"{kind.name}, get {item.archive}"
        )
    return contents, vouched


def _read_folder(kind: _Format, folder: Path, files: dict[str, int]) -> dict[str, bytes]:
    paths = files_in(kind.name, folder)
    absent = [path.name for path in paths if not path.is_file()]
    if absent:
        pickles = any((folder / name).is_file() for name in kind.pickled)
        why = f"it holds {_PICKLES}" if pickles else "it is not the binary version"
        raise UserError(f"{folder} lacks {', '.join(absent)}: {why}, {entry(kind.name).archive}")
    contents = {}
    for path in paths:
        size, most = path.stat().st_size, files[path.name] * kind.record
        if size > most:
            raise UserError(f"{path} has {size:,} bytes, and can have at most {most:,}")
        with open_file(path) as file:
            contents[path.name] = file.read()
    return contents


def _records(
    kind: _Format, place: Path, name: str, content: bytes
) -> UInt8[np.ndarray, "n record"]:
    if not content or len(content) % kind.record:
        raise UserError(
            f"{place}: {name} has {len(content):,} bytes, which is not a multiple of a record's "
            f"{kind.record:,}: it is broken or another format, get it again"
        )
    records = rearrange(
        np.frombuffer(content, np.uint8), "(n record) -> n record", record=kind.record
    )
    for position, classes in enumerate(kind.labels):
        highest = int(records[:, position].max())
        if highest >= classes:
            raise UserError(
                f"{place}: {name} has a label {highest}, but labels go from 0 to {classes - 1}: it "
                f"is broken or another format, get it again"
            )
    return records


def _images(
    kind: _Format, records: UInt8[np.ndarray, "n record"], which: int
) -> tuple[UInt8[np.ndarray, "n features"], UInt8[np.ndarray, " n"]]:
    height, width, channels = SHAPE
    pixels = rearrange(
        records[:, len(kind.labels) :],
        "n (c height width) -> n (height width c)",
        c=channels,
        height=height,
        width=width,
    )
    return pixels, records[:, which]
