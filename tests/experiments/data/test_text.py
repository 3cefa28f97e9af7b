"""Text from files: what is read, how it becomes tokens, and what is refused."""

from __future__ import annotations

import hashlib
import logging
import sys
import zipfile
from pathlib import Path
from pydoc_data.topics import topics as python_topics

import jax
import numpy as np
import pytest

from aeoskit_experiments import UserError
from aeoskit_experiments.data import parallel, text, topics, wikitext
from aeoskit_experiments.data._text_files import embedded_text
from aeoskit_experiments.data._tokenizers import make_encoder
from aeoskit_experiments.data._topics import read_topics

POEM = "Löwen gähnen,\r\nBären baden.\n" * 20


def written(path: Path, what: str | bytes) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(what.encode() if isinstance(what, str) else what)
    return str(path)


def text_of(row) -> str:
    return bytes(np.asarray(row).tolist()).decode(errors="replace")


def test_windows_of_bytes(tmp_path):
    """Each window once, none overlapping another, each target the byte after its input."""
    path, data = written(tmp_path / "poem.txt", POEM), POEM.encode()
    count = (len(data) - 1) // 16
    found = text(path=path, length=16, examples=count)
    every = np.frombuffer(data, np.uint8)[: 16 * count].reshape(-1, 16)
    assert sorted(bytes(row) for row in every) == sorted(
        bytes(np.asarray(row).tolist()) for row in found.inputs
    )
    after = np.frombuffer(data, np.uint8)[1 : 16 * count + 1].reshape(-1, 16)
    pairs = {(bytes(a), bytes(b)) for a, b in zip(every, after, strict=True)}
    assert pairs == {
        (bytes(np.asarray(a).tolist()), bytes(np.asarray(b).tolist()))
        for a, b in zip(found.inputs, found.targets, strict=True)
    }
    fewer = text(path=path, length=16, examples=5, label_noise=1.0)
    np.testing.assert_array_equal(fewer.inputs, found.inputs[:5])
    assert np.mean(np.asarray(fewer.targets) == found.targets[:5]) < 0.1
    assert not np.array_equal(text(path=path, length=16, examples=5, seed=1).inputs, fewer.inputs)


def test_a_folder_is_one_text(tmp_path):
    written(tmp_path / "b.tokens", "world")
    written(tmp_path / "a.txt", "hello ")
    written(tmp_path / "c.md", "no")
    assert text_of(text(path=str(tmp_path), length=10, examples=1).inputs[0]) == "hello worl"


def test_the_text_that_is_there():
    read, name = embedded_text()
    assert "data set" in read.lower()
    assert "scikit-learn" in name
    assert "sha256" in name
    found = text(examples=3, length=32)
    assert all(text_of(row) in read for row in found.inputs)


def test_the_text_that_every_python_has():
    read, name = read_topics()
    assert set("\n".join(python_topics.values())) == set(read)
    assert len(read) == sum(map(len, python_topics.values())) + len(python_topics) - 1 > 300_000
    assert f"({len(read):,} characters, sha256:" in name
    assert name.endswith(f"{hashlib.sha256(read.encode()).hexdigest()})")
    found = topics(examples=1000, length=200)
    assert found.inputs.shape == (1000, 200)
    assert all(bytes(row.tolist()) in read.encode() for row in found.inputs[:20])
    with pytest.raises(UserError, match=r"the topics of Python .* so give at most"):
        topics(length=10**7)


def test_a_python_without_its_text(monkeypatch):
    monkeypatch.setitem(sys.modules, "pydoc_data.topics", None)
    with pytest.raises(UserError, match=r"this Python lacks: install .*, or take data text$"):
        read_topics.__wrapped__()


def test_byte_pairs(tmp_path):
    """Pinned, since they are to be the same in every process, and from version to version."""
    lines = POEM.splitlines(keepends=True)
    encoder = make_encoder("bpe", lines, 262, "the poem")
    ids = np.concatenate(encoder.encode(lines))
    assert encoder.vocabulary == 262
    assert ids[:20].tolist() == [
        259,
        114,
        86,
        256,
        220,
        70,
        257,
        71,
        77,
        256,
        11,
        201,
        198,
        258,
        81,
        256,
        220,
        261,
        256,
        13,
    ]
    assert len(ids) < 0.8 * len(POEM.encode())
    found = text(
        path=written(tmp_path / "p.txt", POEM), tokenizer="bpe", vocabulary=262, examples=3
    )
    assert found.vocabulary == 262
    assert found.inputs.max() < 262
    with pytest.raises(UserError, match=r"give at most 2\d\d$"):
        make_encoder("bpe", lines, 4000, "the poem")


def test_without_the_library(monkeypatch):
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(UserError, match=r"pip install 'aeoskit\[text\]'"):
        text(tokenizer="bpe")


@pytest.mark.parametrize(
    ("content", "settings", "why"),
    [
        (b"caf\xe9 " * 30, {}, "byte at offset 3 is 0xe9"),
        (b"", {}, "has 0 tokens"),
        (b"short", {"length": 5}, "has 5 tokens, so give at most 4"),
        (b"short" * 10, {"length": 7, "examples": 8}, "has 7 windows of 7 tokens"),
        (b"x" * 99, {"vocabulary": 300}, "leave it out"),
        (b"x" * 99, {"tokenizer": "bpe", "vocabulary": 100}, "at least 256"),
        (b"x" * 99, {"examples": 0}, "examples is 0"),
    ],
    ids=["latin", "empty", "short", "few", "of bytes", "of bpe", "none"],
)
def test_no_text(tmp_path, content, settings, why):
    with pytest.raises(UserError, match=why) as caught:
        text(path=written(tmp_path / "a.txt", content), **settings)
    assert "\n" not in str(caught.value)


def test_no_file(tmp_path):
    for path, why in ((tmp_path / "none", "no such file"), (tmp_path, "no file named")):
        with pytest.raises(UserError, match=why):
            text(path=str(path))
    with pytest.raises(UserError, match="not a file"):
        text(path="/dev/null")


def archive(path: Path, members: dict[str, str], method: int = zipfile.ZIP_DEFLATED) -> Path:
    with zipfile.ZipFile(path, "w", method) as made:
        for name, content in members.items():
            made.writestr(name, content)
    return path


def test_wikitext(tmp_path):
    """The same from the archive, the folder, and the folder above it."""
    folder = "wikitext-2-raw"
    written(tmp_path / folder / "wiki.train.raw", POEM)
    written(tmp_path / folder / "wiki.test.raw", "another text")
    packed = archive(
        tmp_path / "w.zip", {f"{folder}/wiki.train.raw": POEM, f"{folder}/wiki.test.raw": "x" * 9}
    )
    wanted = text(path=written(tmp_path / "p.txt", POEM), length=16, examples=4)
    for path in (packed, tmp_path, tmp_path / folder):
        found = wikitext(path=str(path), length=16, examples=4)
        jax.tree.map(np.testing.assert_array_equal, found, wanted)
    other = wikitext(path=str(tmp_path), split="test", length=11, examples=1)
    assert text_of(other.inputs[0]) == "another tex"
    with pytest.raises(UserError, match=r"no wiki\.valid\.raw or wiki\.valid\.tokens"):
        wikitext(path=str(tmp_path), split="valid")


def test_archives_that_are_refused(tmp_path):
    whole = archive(tmp_path / "w.zip", {"wiki.train.raw": POEM}, zipfile.ZIP_STORED).read_bytes()
    where = whole.index("gähnen".encode())
    bad = {
        "truncated": (whole[:-40], "not a whole zip archive"),
        "damaged": (whole[:where] + b"x" + whole[where + 1 :], "not a whole zip archive"),
        "no archive": (b"PK nonsense", "not a whole zip archive"),
        "climbs": (archive(tmp_path / "a", {"../wiki.train.raw": POEM}).read_bytes(), "leads out"),
        "rooted": (archive(tmp_path / "b", {"/etc/x": POEM}).read_bytes(), "leads out"),
        "drive": (archive(tmp_path / "c", {"C:\\x": POEM}).read_bytes(), "leads out"),
        "other": (archive(tmp_path / "d", {"a.txt": POEM}).read_bytes(), "archive has no"),
        # A few hundred bytes of bzip2 hold gigabytes, which zipfile makes at once.
        "bzip2": (
            archive(tmp_path / "f", {"wiki.train.raw": POEM}, zipfile.ZIP_BZIP2).read_bytes(),
            "compressed by method 12",
        ),
        "twice": (
            archive(tmp_path / "e", {f"{x}/wiki.train.raw": POEM for x in "ab"}).read_bytes(),
            "a/wiki.train.raw and b/wiki.train.raw",
        ),
    }
    # Bit 0 of a member's flags, in the directory at the end: encrypted.
    locked = bytearray(whole)
    locked[whole.rindex(b"PK\x01\x02") + 8] |= 1
    bad["encrypted"] = (bytes(locked), "encrypted")
    for content, why in bad.values():
        with pytest.raises(UserError, match=why) as caught:
            wikitext(path=written(tmp_path / "bad.zip", content))
        assert "\n" not in str(caught.value)


ENGLISH = ["a cat", "two dogs", "", "a very long line that no limit lets through", "tea"]
GERMAN = ["eine Katze", "zwei Hunde", "nichts", "kurz", "Tee\u2028"]


def test_parallel(tmp_path, caplog):
    source = written(tmp_path / "en", "\r\n".join(ENGLISH) + "\r\n")
    target = written(tmp_path / "de", "\n".join(GERMAN))
    columns = written(
        tmp_path / "both.tsv",
        "\n".join("\t".join([*two, "from x"]) for two in zip(ENGLISH, GERMAN, strict=True)),
    )
    with caplog.at_level(logging.WARNING):
        data = parallel(source=source, target=target, examples=3, length=12)
    (line,) = caplog.messages
    assert "of 5 pairs, 1 longer than 12 tokens and 1 with an empty side left out" in line
    jax.tree.map(
        np.testing.assert_array_equal, data, parallel(source=columns, examples=3, length=12)
    )
    assert data.vocabulary == 259
    (given, known), (expected_tokens, weights) = data.inputs, data.targets
    assert given.shape == known.shape == expected_tokens.shape == weights.shape == (3, 12)
    found = set()
    for row in range(3):
        sides = []
        for side in (np.asarray(given[row]), np.asarray(expected_tokens[row])):
            end = list(side).index(2)
            assert not side[end + 1 :].any()
            sides.append(bytes((side[:end] - 3).tolist()).decode())
        found.add(tuple(sides))
        assert float(weights[row].sum()) == len(sides[1].encode()) + 1
        # The input is the target, one place further, without its end.
        length = len(sides[1].encode())
        assert known[row, 0] == 1
        np.testing.assert_array_equal(known[row, 1 : length + 1], expected_tokens[row, :length])
        assert not known[row, length + 1 :].any()
    assert found == {(ENGLISH[i], GERMAN[i]) for i in (0, 1, 4)}
    noisy = parallel(source=source, target=target, examples=2, length=12, label_noise=1.0)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b[:2]), noisy.inputs, data.inputs)
    assert not np.asarray(noisy.targets[0])[np.asarray(noisy.targets[1]) == 0].any()
    assert np.asarray(noisy.targets[0])[np.asarray(noisy.targets[1]) > 0].min() >= 3


def test_no_pairs(tmp_path):
    two, three = (written(tmp_path / str(n), "line\n" * n) for n in (2, 3))
    cases = [
        ({"source": two, "target": three}, "has 3 lines and .* has 2"),
        ({"source": two}, "line 1 has no tab"),
        ({"source": two, "target": two, "length": 4}, "no pair that fits"),
        ({"source": two, "target": two, "examples": 3}, "has 2 pairs"),
        ({"source": str(tmp_path / "none")}, "source is .*none': there is no such file"),
        ({"source": two, "target": str(tmp_path / "none")}, "target is .*none'"),
        ({"source": written(tmp_path / "e", ""), "target": two}, "is empty"),
        ({"source": two, "target": written(tmp_path / "l", b"\xff\n")}, "offset 0 is 0xff"),
        ({"source": two, "length": 1}, "length is 1"),
    ]
    for settings, why in cases:
        with pytest.raises(UserError, match=why) as caught:
            parallel(**settings)
        assert "\n" not in str(caught.value)


def test_byte_pairs_of_both_sides(tmp_path):
    lines = "\n".join(["the cat\tder Kater", "the dog\tder Hund"] * 4)
    path = written(tmp_path / "both.tsv", lines)
    data = parallel(source=path, tokenizer="bpe", vocabulary=262, examples=8, length=10)
    assert data.vocabulary == 265
    assert data.inputs[0].max() > 258  # a pair of bytes, of either language
    assert data.targets[0].max() > 258
