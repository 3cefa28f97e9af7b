"""Tiny archives in the exact formats, to be read and to be refused."""

from __future__ import annotations

import gzip
import hashlib
import io
import tarfile
from pathlib import Path

import numpy as np

CIFAR10_FILES = (*(f"data_batch_{batch}.bin" for batch in range(1, 6)), "test_batch.bin")


def records(count: int, *labels: int, seed: int = 0) -> bytes:
    """Records of CIFAR's binary version; each label goes from 0 up to `labels - 1` and again."""
    random = np.random.default_rng([seed, count])
    rows = [np.arange(count)[:, None] % classes for classes in labels]
    pixels = random.integers(0, 256, (count, 3072))
    return np.concatenate([*rows, pixels], axis=1).astype(np.uint8).tobytes()


def cifar10_files(count: int = 4) -> dict[str, bytes]:
    """The files of CIFAR-10's archive, with so many records each."""
    return {
        f"cifar-10-batches-bin/{name}": records(count, 10, seed=seed)
        for seed, name in enumerate(CIFAR10_FILES)
    }


def tar_gz(path: Path, files: dict[str, bytes], *others: tarfile.TarInfo) -> str:
    """Writes an archive; others, members without content, come first.

    Returns:
        Its SHA-256.
    """
    with tarfile.open(path, "w:gz") as archive:
        for member in others:
            archive.addfile(member)
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            archive.addfile(member, io.BytesIO(content))
    return sha256(path)


def sha256(path: Path) -> str:
    """What a user gives as checksum."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def idx(array: np.ndarray) -> bytes:
    """An array in MNIST's format."""
    sizes = np.asarray(array.shape, ">u4").tobytes()
    return bytes((0, 0, 8, array.ndim)) + sizes + array.astype(np.uint8).tobytes()


def idx_files(count: int = 6, test: int = 3, side: int = 5, classes: int = 3) -> dict[str, bytes]:
    """The four files of a set in MNIST's format, not compressed."""
    found = {}
    for part, rows in (("train", count), ("t10k", test)):
        random = np.random.default_rng(rows)
        images = random.integers(0, 256, (rows, side, side))
        found[f"{part}-images-idx3-ubyte"] = idx(images)
        found[f"{part}-labels-idx1-ubyte"] = idx(np.arange(rows) % classes)
    return found


def put(folder: Path, files: dict[str, bytes], *, compressed: bool = False) -> Path:
    """Writes files into a new folder."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, content in files.items():
        if compressed:
            (folder / f"{name}.gz").write_bytes(gzip.compress(content))
        else:
            (folder / name).write_bytes(content)
    return folder
