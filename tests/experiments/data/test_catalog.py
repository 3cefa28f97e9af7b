from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from aeoskit_experiments import UserError
from aeoskit_experiments._rerun import environment_changes
from aeoskit_experiments.catalog import (
    CATALOG,
    Entry,
    data_folder,
    find,
    provenance,
    search_paths,
    survey,
    verify,
)
from aeoskit_experiments.pipelines import STAGES

from . import archives


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AEOSKIT_DATA", str(tmp_path / "data"))
    return tmp_path / "data"


def test_every_data_set_has_an_entry():
    assert set(CATALOG) == set(STAGES["data"].variants)
    assert list(CATALOG) == [item.name for item in CATALOG.values()]


@pytest.mark.parametrize("name", CATALOG)
def test_entries_are_whole(name):
    item = CATALOG[name]
    assert len(item.summary) <= 26
    # Python's own text has no package; its check has the length and the hash.
    assert bool(item.packages) == (item.origin in ("embedded", "package")) or name == "topics"
    assert bool(item.extra) == (item.origin == "package")
    if item.origin == "file":
        assert item.home or not item.places
        assert bool(item.apt) == bool(item.shared)
        assert item.options
    if item.check:
        module, _, function = item.check.partition(":")
        assert callable(getattr(importlib.import_module(module), function))
    else:
        assert item.origin == "drawn" or len(item.options) > 1


def test_where_data_live(monkeypatch, tmp_path):
    assert data_folder() == tmp_path / "data"
    monkeypatch.setenv("AEOSKIT_DATA", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "caches"))
    assert data_folder() == tmp_path / "caches" / "aeoskit" / "data"
    for ignored in ("", "relative"):
        monkeypatch.setenv("XDG_CACHE_HOME", ignored)
        monkeypatch.setenv("HOME", str(tmp_path))
        assert data_folder() == tmp_path / ".cache" / "aeoskit" / "data"


def test_an_archive_comes_before_a_folder(folder):
    archive, unpacked = search_paths("cifar10")
    assert find("cifar10") is None
    unpacked.mkdir(parents=True)
    assert find("cifar10") == unpacked
    archive.write_bytes(b"")
    assert find("cifar10") == find("cifar10", folder) == archive
    assert find("cifar10", unpacked) == unpacked
    assert search_paths("mixture") == []
    with pytest.raises(UserError, match="did you mean 'cifar10'"):
        find("cifar")
    with pytest.raises(UserError, match="which does not exist"):
        find("cifar10", folder / "nowhere")
    with pytest.raises(UserError, match="there is no such user here"):
        find("cifar10", "~nobody-of-this-name/cifar")


def test_what_is_here(folder):
    def present() -> dict[str, bool]:
        return {item["name"]: item["here"] for item in survey()["data"]}

    assert (present()["digits"], present()["mixture"], present()["cifar10"]) == (True, True, False)
    archives.put(folder, {"cifar-10-binary.tar.gz": b""})
    assert present()["cifar10"]


def test_verify(folder):
    assert verify("chebyshev")["status"] == "ok"
    assert verify("digits")["sentence"].startswith("1,797 images of 8×8×1 in 10 classes")
    assert verify("mnist5k")["sentence"].startswith("5,000 images of 28×28×1 in 10 classes")
    absent = verify("cifar100")
    assert absent["status"] == "missing"
    assert f"cifar.html) into {folder}" in absent["sentence"]
    folder.mkdir()
    own = archives.tar_gz(folder / "cifar-10-binary.tar.gz", archives.cifar10_files(2))
    assert verify("cifar10")["status"] == "wrong"
    found = verify("cifar10", None, own)
    assert found["status"] == "ok"
    assert found["sentence"] == "10 + 2 images of 32×32×3 in 10 classes, with the given SHA-256"
    assert "four files" in verify("idx", folder, own)["sentence"]
    with pytest.raises(UserError, match="read from no file"):
        verify("digits", folder)


def test_files_of_one_name_are_distinguished(folder, monkeypatch):
    """Two options that name files, and a folder of whatever is in it."""
    item = Entry(
        name="pairs",
        summary="",
        size="",
        shape="",
        origin="file",
        options=("source", "target"),
        files=("*.txt",),
    )
    monkeypatch.setitem(CATALOG, "pairs", item)
    for place in ("en", "de"):
        archives.put(folder / place, {"a.txt": place.encode(), "b.md": b"", f"{place}.txt": b""})
    settings = {"source": str(folder / "en"), "target": str(folder / "de" / "a.txt")}
    assert list(provenance("pairs", settings)) == ["en/a.txt", "en.txt", "de/a.txt"]
    with pytest.raises(UserError, match="by the run that reads it"):
        verify("pairs", folder / "en")


def test_what_a_run_was_trained_on_is_known_by_its_content(folder):
    assert provenance("mixture", {}) == {}
    assert list(provenance("digits", {})) == ["scikit-learn"]
    before = provenance("idx", {"path": str(archives.put(folder / "a", archives.idx_files()))})
    assert len(before) == 4
    again = archives.put(folder / "b", archives.idx_files())
    assert provenance("idx", {"path": str(again)}) == before
    other = archives.put(folder / "c", archives.idx_files(count=7))
    after = provenance("idx", {"path": str(other)})
    changes = environment_changes({"data": before}, {"data": after})
    assert len(changes) == 2  # the train images and labels
    assert all("idx" in change and "sha256:" in change for change in changes)
    assert not environment_changes({}, {"data": after})


def test_texts(folder):
    """Shipped, a user's own, WikiText's folder, and two files of lines."""
    assert "scikit-learn" in verify("text")["sentence"]
    assert list(provenance("text", {"path": None})) == ["scikit-learn"]
    assert "sha256:" in verify("topics")["sentence"]
    assert provenance("topics", {}) == {"topics": verify("topics")["sentence"]}
    files = {"a.txt": b"one", "b.tokens": b"two", "c.md": b"no", "wiki.train.raw": b"three"}
    place = archives.put(folder / "texts", files)
    assert verify("text", place)["sentence"].startswith("6 bytes of UTF-8")
    assert list(provenance("text", {"path": str(place)})) == ["a.txt", "b.tokens"]
    assert "5 bytes of UTF-8" in verify("wikitext", place)["sentence"]
    assert list(provenance("wikitext", {"path": str(place.parent)})) == ["wiki.train.raw"]
    assert verify("wikitext", place.parent / "texts" / "c.md")["status"] == "wrong"
    assert verify("wikitext")["status"] == "missing"
    sentence = "not here: give a file, or a folder with wiki.* or */wiki.* as path"
    assert verify("wikitext")["sentence"] == sentence
    assert verify("parallel")["sentence"] == "not here: give a file as source and target"
    sides = {"source": str(place / "a.txt"), "target": str(place / "c.md")}
    assert list(provenance("parallel", sides)) == ["a.txt", "c.md"]
    with pytest.raises(UserError, match="by the run that reads it"):
        verify("parallel", place / "a.txt")
    archives.put(place, {"a.txt": b"\xff"})
    assert "offset 0" in verify("text", place)["sentence"]
