"""Images in MNIST's format, IDX: a magic number, the sizes, and then one byte per number.

The format is described on MNIST's page (http://yann.lecun.com/exdb/mnist/): two zero bytes, the
type (8 for unsigned bytes), the number of axes, the size of each in four bytes, the most
significant first, and the numbers, the last axis fastest.
"""

import gzip
import hashlib
import io
import math
import zlib
from pathlib import Path
from typing import Annotated

import numpy as np
from einops import rearrange
from jaxtyping import UInt8

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.catalog import entry, files_in, find, missing
from aeoskit_experiments.options import Count, Fraction, Natural, Seed, at_most

from ._archive import open_file
from ._dataset import Dataset
from ._prepare import Images, Standardize, prepare

_UNSIGNED_BYTES = 8
# A header can claim any size; sixty times MNIST is allowed.
_MOST = 3 * 10**9


_MnistExamples = Annotated[int, at_most(60_000, least=1, reason="MNIST has 60000 images")]
_MnistTest = Annotated[int, at_most(10_000, least=0, reason="MNIST has 10000 test images")]


def mnist(
    *,
    path: str | None = None,
    examples: _MnistExamples | None = None,
    label_noise: Fraction = 0.0,
    standardize: Standardize = "channel",
    seed: Seed = 0,
    test: _MnistTest = 0,
) -> Dataset:
    """MNIST: 60,000 images of handwritten digits, 28×28 pixels, from your own files.

    The four files are looked for in the data folder; nothing is downloaded. Compressed in whatever
    way or not at all, their content must have the known SHA-256s.

    Args:
        path: The folder with the four files; none looks in the data folder.
        examples: Number of images, drawn at random without replacement; none takes all.
        label_noise: Fraction of the labels replaced by uniformly random ones; 1 is all random.
        standardize: Mean 0 and variance 1 for the channel, for each pixel, or not at all.
        seed: Seed of the draw of the examples and of the random labels.
        test: Number of the test images that are kept as test rows.

    Returns:
        The data set. A larger `examples` with the same seed contains the smaller one's images.

    Raises:
        UserError: if the files are missing or not the right ones, or a number is out of its range.

    Example:
        >>> mnist(path="/nowhere")
        Traceback (most recent call last):
        aeoskit_experiments._errors.UserError: path is '/nowhere', which does not exist: give a
        folder with train-images-idx3-ubyte and the 3 other files
    """
    return prepare(
        read_idx("mnist", path)[0],
        examples=examples,
        label_noise=label_noise,
        standardize=standardize,
        seed=seed,
        test=test,
    )


_FashionMnistExamples = Annotated[
    int, at_most(60_000, least=1, reason="Fashion-MNIST has 60000 images")
]


def fashion_mnist(
    *,
    path: str | None = None,
    examples: _FashionMnistExamples | None = None,
    label_noise: Fraction = 0.0,
    standardize: Standardize = "channel",
    seed: Seed = 0,
    test: Annotated[
        int, at_most(10_000, least=0, reason="Fashion-MNIST has 10000 test images")
    ] = 0,
) -> Dataset:
    """Fashion-MNIST: 60,000 images of clothing in ten classes, 28×28 pixels, from your own files.

    As `mnist`, with the same file names. Debian and Ubuntu ship them as the package
    dataset-fashion-mnist, whose folder is looked in too.

    Args:
        path: The folder with the four files; none looks in the data folder, then in the package's.
        examples: Number of images, drawn at random without replacement; none takes all.
        label_noise: Fraction of the labels replaced by uniformly random ones; 1 is all random.
        standardize: Mean 0 and variance 1 for the channel, for each pixel, or not at all.
        seed: Seed of the draw of the examples and of the random labels.
        test: Number of the test images that are kept as test rows.

    Returns:
        The data set. A larger `examples` with the same seed contains the smaller one's images.

    Raises:
        UserError: if the files are missing or not the right ones, or a number is out of its range.

    Example:
        >>> fashion_mnist(path="/nowhere")
        Traceback (most recent call last):
        aeoskit_experiments._errors.UserError: path is '/nowhere', which does not exist: give a
        folder with train-images-idx3-ubyte and the 3 other files
    """
    return prepare(
        read_idx("fashion_mnist", path)[0],
        examples=examples,
        label_noise=label_noise,
        standardize=standardize,
        seed=seed,
        test=test,
    )


def idx(
    *,
    path: str,
    examples: Count | None = None,
    label_noise: Fraction = 0.0,
    standardize: Standardize = "channel",
    seed: Seed = 0,
    test: Natural = 0,
) -> Dataset:
    """Your own gray images in MNIST's format, of any size and with any number of classes.

    There is no checksum, so the structure is checked.

    Args:
        path: The folder with the four files, named as MNIST's.
        examples: Number of images, drawn at random without replacement; none takes all.
        label_noise: Fraction of the labels replaced by uniformly random ones; 1 is all random.
        standardize: Mean 0 and variance 1 for the channel, for each pixel, or not at all.
        seed: Seed of the draw of the examples and of the random labels.
        test: Number of the test images that are kept as test rows.

    Returns:
        The data set. A larger `examples` with the same seed contains the smaller one's images.

    Raises:
        UserError: if the files are missing or not the right ones, or a number is out of its range.

    Example:
        >>> idx(path="/nowhere")
        Traceback (most recent call last):
        aeoskit_experiments._errors.UserError: path is '/nowhere', which does not exist: give a
        folder with train-images-idx3-ubyte and the 3 other files
    """
    return prepare(
        read_idx("idx", path)[0],
        examples=examples,
        label_noise=label_noise,
        standardize=standardize,
        seed=seed,
        test=test,
    )


def read_idx(name: str, path: str | Path | None) -> tuple[Images, str]:
    """All images of a set, and the checksums that verified them, in words.

    Args:
        name: The data set.
        path: the folder with the four files; None looks in the data folder.

    Raises:
        UserError: if they are missing or not the right ones.
    """
    place = find(name, path)
    if place is None:
        raise missing(name)
    if not place.is_dir():
        raise UserError(f"{place} is a file: give the folder that it is in")
    paths = files_in(name, place)
    absent = [file.name for file in paths if not file.is_file()]
    if absent:
        raise UserError(f"{place} lacks {', '.join(absent)}: put {name}'s four files into it")
    checksums = entry(name).checksums
    arrays = []
    for file, axes in zip(paths, (3, 1, 3, 1), strict=True):
        with open_file(file) as opened:
            array, digest = _array(opened, file, axes)
        wanted = checksums.get(file.name.removesuffix(".gz"), digest)
        if digest != wanted:
            raise UserError(
                f"{file}, unpacked, has the SHA-256 {digest}, not {name}'s, {wanted}: get it "
                f"again, or take data idx if these are images of your own"
            )
        arrays.append(array)
    pixels, labels, test_pixels, test_labels = arrays
    for what, one, other in (("train", pixels, labels), ("test", test_pixels, test_labels)):
        if len(one) != len(other):
            raise UserError(
                f"{place} has {len(one):,} {what} images and {len(other):,} labels of them: they "
                f"do not belong together, get all four files again"
            )
    height, width = pixels.shape[1:]
    if test_pixels.shape[1:] != (height, width):
        raise UserError(
            f"{place} has train images of {height}×{width} pixels and test images of "
            f"{'×'.join(map(str, test_pixels.shape[1:]))}: they do not belong together"
        )
    images = Images(
        name,
        _rows(pixels),
        labels,
        255.0,
        int(max(labels.max(), test_labels.max())) + 1,
        (height, width, 1),
        _rows(test_pixels),
        test_labels,
    )
    return images, "the known SHA-256s of its files" if checksums else ""


def _rows(images: UInt8[np.ndarray, "n height width"]) -> UInt8[np.ndarray, "n features"]:
    return rearrange(images, "n height width -> n (height width)")


def _array(file: io.BufferedReader, path: Path, axes: int) -> tuple[UInt8[np.ndarray, "..."], str]:
    """The array in a file, and the SHA-256 of its content, which no compression changes."""
    stream = gzip.GzipFile(fileobj=file) if path.suffix == ".gz" else file
    try:
        header = stream.read(4 + 4 * axes)
        sizes = _sizes(header, path, axes)
        count = math.prod(sizes)
        # One byte more than expected, so that excess is noticed without unpacking a bomb.
        content = stream.read(count + 1)
    except (EOFError, OSError, zlib.error) as error:
        raise UserError(
            f"{path} cannot be read as .gz ({error}): it is broken or was cut short, get it again"
        ) from error
    if len(content) != count:
        has = f"has {len(content):,}" if len(content) < count else "has more"
        raise UserError(
            f"{path} claims to hold {'×'.join(map(str, sizes))} = {count:,} bytes, and {has}: "
            f"it is broken or was cut short, get it again"
        )
    digest = hashlib.sha256(header)
    digest.update(content)
    return np.frombuffer(content, np.uint8).reshape(sizes), digest.hexdigest()


def _sizes(header: bytes, path: Path, axes: int) -> tuple[int, ...]:
    wanted = bytes((0, 0, _UNSIGNED_BYTES, axes))
    if len(header) < 4 + 4 * axes or header[:4] != wanted:
        raise UserError(
            f"{path} begins with {header[:4].hex() or 'nothing'}, not with {wanted.hex()}: it "
            f"is not an IDX file of {'images' if axes == 3 else 'labels'}"
        )
    sizes = tuple(int(size) for size in np.frombuffer(header[4:], ">u4"))
    if 0 in sizes:
        raise UserError(f"{path} claims to hold {'×'.join(map(str, sizes))}: it is empty")
    if math.prod(sizes) > _MOST:
        raise UserError(
            f"{path} claims to hold {'×'.join(map(str, sizes))} bytes: more than {_MOST:,} are "
            f"not read into memory"
        )
    return sizes
