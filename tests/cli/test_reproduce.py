"""`aeoskit reproduce`: what it asks for, what it prints."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from aeoskit_cli import main
from aeoskit_cli._print import print_ledger
from aeoskit_experiments import ledger as room
from aeoskit_experiments.ledger import Ledger, LedgerOutcome, LedgerRequest, LedgerRun, Row

Capture = pytest.CaptureFixture[str]


def row(experiment: str, claim: str, verdict: Any, **others: Any) -> Row:
    given: dict[str, Any] = {
        "says": "it grows",
        "setting": "reference",
        "value": None,
        "unit": "×",
        "bounds": (5.0, None),
        "bounds_reason": "x",
        "reason": "",
        "seeds": (4, 5),
        "values": (None, None),
        "spread": None,
        "judged": 2,
        "seconds": 125.0,
        **others,
    }
    return Row(experiment=experiment, claim=claim, verdict=verdict, **given)


ROWS = (
    row("E7", "growth", "pass", value=7.3, values=(7.0, 7.6), spread=(7.0, 7.6)),
    row("E7", "growth", "fail", setting="mnist5k", value=2.0, reason="0 of 2 seeds pass"),
    row("E12", "test", "unreachable", reason="CIFAR-10 is not here"),
    row("E12", "sharpness", "unreachable", reason="CIFAR-10 is not here"),
)


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[dict[str, Any]]:
    """Stands in for `reproduce`: what it was asked for."""
    found: list[dict[str, Any]] = []
    work = LedgerRun(key="a.seed4", label="a, seed 4", setting="reference", seed=4, status="failed")
    ledger = Ledger(
        created="2026-01-02T03:04:05",
        updated="2026-01-02T03:04:05",
        asked=LedgerRequest(seeds=2),
        rows=ROWS,
    )

    def stand_in(*, listener: Any, **given: Any) -> LedgerOutcome:
        found.append(given)
        listener.began("a, seed 4", 1, 2)
        listener.started("main", 10)
        listener.finished("main")
        listener.noted("main: lane 1 diverged at step 7.")
        listener.ended(work)
        listener.ended(room.LedgerRun(**{**_fields(work), "error": "its process ended"}))
        for item in ROWS[:3]:
            listener.judged(item)
        return LedgerOutcome(Path("runs/mine"), ledger, 1)

    monkeypatch.setattr(room, "reproduce", stand_in)
    monkeypatch.setenv("COLUMNS", "80")
    return found


def _fields(work: LedgerRun) -> dict[str, Any]:
    return {name: getattr(work, name) for name in work.__struct_fields__}


def test_it_prints_a_table_and_what_failed(asked: list[Any], capsys: Capture) -> None:
    words = ["reproduce", "--only", "E7,e12", "--seeds", "2", "--grid", "--root", "there"]
    assert main(words) == 1
    assert asked == [
        {
            "size": None,
            "only": ["E7", "e12"],
            "seeds": 2,
            "grid": True,
            "root": "there",
            "folder": None,
        }
    ]
    out, err = capsys.readouterr()
    assert err.splitlines() == [
        "1/2 a, seed 4 (after 0 s)",
        "main: 10 steps",
        "main: lane 1 diverged at step 7.",
        "  failed: its process ended",
        "  pass E7 growth: 7.30× (7, 7.60), ≥ 5×",
        "  fail E7 growth (mnist5k): 2×, ≥ 5×",
        "  unreachable E12 test: CIFAR-10 is not here",
    ]
    lines = [line.split() for line in out.splitlines()]
    assert [
        "E7",
        "growth",
        "7.30×",
        "7",
        "to",
        "7.60",
        "≥",
        "5×",
        "pass",
        "2",
        "min",
        "5",
        "s",
    ] in lines
    assert "E7 growth (mnist5k): 0 of 2 seeds pass\n" in out
    assert "E12 test, sharpness: CIFAR-10 is not here\n" in out
    assert "1 of 2 experiments passed;\n1 of 4 claims passed, 1 failed, 2 could not be" in out
    assert "runs/mine/ledger.html" in out
    assert all(len(line) <= 80 for line in out.splitlines())


def test_a_claim_with_its_spread_has_one_line_of_80_columns(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    longest = row(
        "E5",
        "amsgrad-previous",
        "pass",
        unit="",
        value=0.9871,
        values=(0.9712, 0.9944, 0.9871),
        seeds=(4, 5, 6),
        spread=(0.9712, 0.9944),
        bounds=(0.85, 1.15),
    )
    alone = Ledger(created="", updated="", asked=LedgerRequest(), rows=(longest,))
    print_ledger(msgspec.structs.replace(alone, asked=LedgerRequest(seeds=3)), Path("runs/mine"))
    out = capsys.readouterr().out
    whole = "E5 amsgrad-previous 0.987 0.971 to 0.994 0.85 to 1.15 pass 2 min 5 s"
    assert whole.split() in [line.split() for line in out.splitlines()]
    assert all(len(line) <= 80 for line in out.splitlines())
    print_ledger(alone, Path("runs/mine"))
    out = capsys.readouterr().out
    assert whole.replace("0.971 to 0.994 ", "").split() in [x.split() for x in out.splitlines()]
    assert "of the seeds" not in out


def test_json_is_one_object(asked: list[Any], capsys: Capture) -> None:
    assert main(["reproduce", "--size", "small", "--json", "--quiet", "--folder", "mine"]) == 1
    assert (asked[0]["size"], asked[0]["folder"], asked[0]["grid"]) == ("small", "mine", None)
    out, err = capsys.readouterr()
    found = json.loads(out)
    assert found["rows"][0]["bounds"] == [5.0, None]
    assert found["rows"][2]["value"] is None
    assert found["experiments"] == {"E7": "pass", "E12": "unreachable"}
    assert found["passed"] == 1
    assert err == "main: lane 1 diverged at step 7.\n"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--only", "E77"], "unknown experiment 'E77'"),
        (["--only", "foo"], "unknown experiment 'foo' (known: E1,"),
        (["--only", "e77"], "unknown experiment 'e77': did you mean 'E7'?"),
        (["--size", "large"], "unknown size 'large'"),
        (["--seed", "3"], "did you mean '--seeds'"),
        (["--seeds", "0"], "seeds is 0"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    words: list[str], says: str, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert says in err
    assert list(tmp_path.iterdir()) == []
