"""The command line: help, errors in one line with exit code 2, one JSON object on stdout."""

import dataclasses
import gc
import importlib.metadata
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import msgspec
import pytest

import aeoskit_experiments
from aeoskit.record import create_run
from aeoskit_cli import main
from aeoskit_cli._print import print_json, print_runs
from aeoskit_cli._progress import Progress
from aeoskit_experiments import UserError
from aeoskit_experiments.jobs import Engine
from aeoskit_experiments.ledger import Ledger, LedgerRequest
from aeoskit_experiments.recipes import RECIPES, make_recipe
from aeoskit_experiments.sweeps import create_sweep

PIPE = [
    "pipe",
    "data",
    "digits",
    "--examples",
    "40",
    "model",
    "mlp",
    "--width",
    "4",
    "loss",
    "mse",
    "optimizer",
    "adam",
    "--lr",
    "1e-3",
    "track",
    "preconditioned_sharpness",
    "--every",
    "5",
    "train",
    "--steps",
    "10",
]

Capture = pytest.CaptureFixture[str]


@dataclasses.dataclass
class FakeOutcome:
    folder: Path | None
    summary: dict[str, Any]
    figures: list[Path]
    exit_code: int
    leads: bool = True


@pytest.fixture
def executed(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stands in for `execute`: what it was asked for; one of two lanes has diverged."""
    asked: list[Any] = []

    def execute(pipeline: Any, *, listener: Any, **place: Any) -> FakeOutcome:
        asked.append((pipeline, place))
        listener.started("main", 10)
        listener.advanced("main", 10, {"ratio": 1.0})
        listener.noted("main: lane 1 diverged at step 7.")
        listener.finished("main")
        row = {"branch": "main", "optimizer": "adam", "lr": 1e-3, "threshold": 38e3}
        good = {**row, "ratio": 0.98, "final_loss": 0.25, "matvecs": 1234, "diverged_at": None}
        bad = {**good, "lr": 1e-2, "final_loss": float("inf"), "ratio": None, "diverged_at": 7}
        summary = {"runs": [good, bad], "seconds": 1.25, "folder": "runs/x"}
        return FakeOutcome(Path("runs/x"), summary, [Path("runs/x/edge.png")], 0)

    monkeypatch.setattr(aeoskit_experiments, "execute", execute, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    return asked


def test_run_prints_a_table_and_the_figure(executed: list[Any], capsys: Capture) -> None:
    assert main(["run", "adam-edge", "--lr", "1e-3,1e-2", "--folder", "here"]) == 0
    pipeline, place = executed[0]
    assert pipeline.name == "adam-edge"
    assert pipeline.experiment().lanes()[1]["lr"] == 1e-2
    assert place == {"folder": Path("here")}
    out, err = capsys.readouterr()
    assert all(len(line) <= 80 for line in out.splitlines())
    assert "0.001" in out
    assert "38,000" in out
    assert "0.980" in out
    assert "1,234" in out
    assert "diverged" in out
    assert "figure:  runs/x/edge.png" in out
    assert "main: 10 steps" in err
    assert "lane 1 diverged at step 7" in err


@pytest.mark.parametrize(
    "words",
    [["run", "adam-edge", "--json"], ["run", "--json", "adam-edge"], [*PIPE, "--json"]],
)
def test_json_is_one_object(executed: list[Any], capsys: Capture, words: list[str]) -> None:
    assert main(words) == 0
    out, _ = capsys.readouterr()

    def refuse(name: str) -> None:
        raise AssertionError(name)

    found = json.loads(out, parse_constant=refuse)
    assert found["runs"][1]["final_loss"] is None
    assert found["runs"][1]["diverged_at"] == 7


def test_quiet_says_only_what_must_be_seen(executed: list[Any], capsys: Capture) -> None:
    assert main([*PIPE, "--quiet"]) == 0
    assert capsys.readouterr().err == "main: lane 1 diverged at step 7.\n"


def test_an_unforeseen_exception_is_raised(
    executed: list[Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    def execute(*_: Any, **__: Any) -> None:
        raise RuntimeError("a bug")

    monkeypatch.setattr(aeoskit_experiments, "execute", execute, raising=False)
    with pytest.raises(RuntimeError, match="a bug"):
        main(PIPE)


def test_ctrl_c_is_130(
    executed: list[Any], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def execute(*_: Any, **__: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(aeoskit_experiments, "execute", execute, raising=False)
    assert main(PIPE) == 130
    assert capsys.readouterr().err == "stopped\n"


def replaced(old: str, new: str) -> list[str]:
    return " ".join(PIPE).replace(old, new).split()


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["run", "adam-egde"], "unknown recipe 'adam-egde': did you mean 'adam-edge'"),
        (["run", "adam-edge", "--etaa", "1"], "unknown option '--etaa' of adam-edge"),
        (["run", "adam-edge", "--beta", "1"], "did you mean '--beta"),
        (["run", "adam-edge", "--lr", "0"], "lr is 0: it must be positive"),
        (["run", "adam-edge", "--lr", "-1e-3"], "lr is -0.001: it must be positive"),
        (["run", "adam-edge", "--lr", "1e-3,nan"], "lr is nan: give a finite number"),
        (["run", "adam-edge", "--beta1", "1"], "beta1 is 1"),
        (["run", "adam-edge", "--steps", "5"], "every is 10, but training has only 5 steps"),
        (["run", "adam-edge", "--lr"], "--lr"),
        (["rum"], "unknown command 'rum': did you mean 'run'"),
        (["list", "--jsn"], "unknown option '--jsn' of list: did you mean '--json'"),
        (["show", "nowhere"], "there is no run 'nowhere'"),
        (["rerun", "nowhere"], "there is no run 'nowhere'"),
        (["show"], "RUN"),
        (["bench", "lop"], "unknown benchmark 'lop': did you mean 'loop'"),
        (["bench", "loop", "--repeat", "1"], "did you mean '--repeats'"),
        (["bench", "loop", "--repeats", "0"], "repeats is 0: it must be at least 1"),
        (["run", "adam-edge", "--seed", "0,1"], "cannot be swept, since it seeds both"),
        (["pipe", "dta"], "unknown stage 'dta': did you mean 'data'"),
        (replaced("optimizer adam", "optimizer adma"), "did you mean 'adam'"),
        (replaced("--width", "--widht"), "did you mean '--width'"),
        (replaced("--lr 1e-3", "--lr 0"), "lr is 0: it must be positive"),
        (replaced("--lr 1e-3", ""), "optimizer adam lacks lr"),
        (replaced("--lr 1e-3", "--lr 1e-3 --beta1 1.0"), "beta1 is 1"),
        (replaced("--every 5", "--every 11"), "every is 11, but training has only 10 steps"),
        (replaced("--steps 10", "--steps 10 --batch 41"), "batch is 41, but the data has only 40"),
        (replaced("loss mse", ""), "the pipeline has no stage 'loss'"),
        (["pipe", "--name", "a/b", *PIPE[1:]], "name is 'a/b'"),
        ([*PIPE, "--name", "a/b"], "name is 'a/b'"),
        ([*PIPE, "--devices", "two"], "Invalid value for '--devices'"),
        (replaced("--width 4", "--width"), "--width lacks its value, since loss is the next stage"),
        ([*PIPE, "branch", "switch", "--optimizer", "momentum", "--at", "3"], "or --ratio 0.9"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    words: list[str], says: str, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert says in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ("pipe optimizer sgd", "did you mean 'gradient_descent'"),
        ("pipe optimizer adamW", "did you mean 'adamw'"),
        ("pipe loss CE", "did you mean 'cross_entropy'"),
        ("pipe optimizer adam --learning-rate 1e-3", "did you mean '--lr'"),
        ("resume runs/one", "aeoskit sweep --resume"),
        ("show latest", "there are no runs in runs/"),
        ("new modle", "did you mean 'model'"),
        ("new model --file net.txt", "does not end with .py"),
    ],
)
def test_hints_hit(
    words: str, says: str, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(words.split()) == 2
    assert says in capsys.readouterr().err


def test_version_and_flags_without_a_type(capsys: Capture) -> None:
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"aeoskit {importlib.metadata.version('aeoskit')}\n"
    assert main(["run", "adam-edge", "--help"]) == 0
    out = capsys.readouterr().out
    assert "--quiet" in out
    assert "bool" not in out
    assert "Example: aeoskit run adam-edge" in out


def stored_run(folder: str, **summary: Any) -> None:
    pipeline = make_recipe("adam-edge", steps=10, every=5).to_dict()
    create_run("runs", "x", pipeline=pipeline, environment={}, folder=folder).close(summary)


def test_runs_lists_them_and_show_finds_the_latest(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("first", "second"):
        stored_run(f"runs/{name}")
    assert main(["runs", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["runs"]
    assert [(Path(row["folder"]).name, row["kind"], row["status"]) for row in found] == [
        ("first", "run", "finished"),
        ("second", "run", "finished"),
    ]
    assert main(["runs"]) == 0
    assert "runs/second" in capsys.readouterr().out
    assert main(["show", "latest", "--json"]) == 0
    assert Path(json.loads(capsys.readouterr().out)["folder"]).name == "second"
    assert main(["runs", "elsewhere"]) == 2
    assert "there is no folder 'elsewhere'" in capsys.readouterr().err


def test_show_says_how_far_a_running_one_is(capsys: Capture, tmp_path: Path) -> None:
    pipeline = make_recipe("adam-edge", lr=[1e-3, 3e-3], steps=10, every=5).to_dict()
    lanes = [{"lr": 1e-3}, {"lr": 3e-3}]
    writer = create_run(tmp_path, "x", pipeline=pipeline, environment={}, lanes=lanes)
    loss, codes = [[1.0, 1.0], [0.5, 0.25]], [[0.0, 2.0], [1.0, 0.0]]
    mask = {"edge_state": [[True, True], [True, False]]}
    writer.append("main", {"loss": loss, "edge_state": codes}, [8, 9], measured=mask)
    assert main(["show", str(writer.path), "--json"]) == 0
    rows = [
        {"branch": "main", "lr": 1e-3, "step": 9, "loss": 0.5, "state": "arriving"},
        {"branch": "main", "lr": 3e-3, "step": 9, "loss": 0.25, "state": "at the edge"},
    ]
    assert json.loads(capsys.readouterr().out)["so_far"] == rows
    assert main(["show", str(writer.path)]) == 0
    shown = capsys.readouterr().out.splitlines()
    assert ["main", "0.003", "9", "0.25", "at", "the", "edge"] in [line.split() for line in shown]
    writer.close({})
    assert main(["show", str(writer.path), "--json"]) == 0
    assert "so_far" not in json.loads(capsys.readouterr().out)


def test_runs_lists_suites_sweeps_and_ledgers_and_show_prints_them(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "80")
    stored_run("runs/single")
    stored_run("runs/suite/one")
    suite = {"name": "both", "status": "finished", "cases": {"one": {}}, "runs": []}
    Path("runs/suite/suite.json").write_text(json.dumps(suite))
    row = {"branch": "main", "optimizer": "adam", "threshold": 38e3, "ratio": 0.98}
    pipeline = make_recipe("adam-edge", lr=[1e-3, 3e-3])
    writer = create_sweep(pipeline, Engine(name="processes"), root="runs", folder="runs/sweep")
    writer.note(0, status="finished", runs=[row])
    writer.write()
    ledger = Ledger(
        created="2999-01-01", updated="", asked=LedgerRequest(size="small"), status="finished"
    )
    Path("runs/ledger").mkdir()
    Path("runs/ledger/ledger.json").write_bytes(msgspec.json.encode(ledger))
    assert main(["runs", "--json"]) == 0
    found = {row["kind"]: row for row in json.loads(capsys.readouterr().out)["runs"]}
    statuses = {kind: row["status"] for kind, row in found.items()}
    assert statuses == {
        "run": "finished",
        "suite": "finished",
        "sweep": "open",
        "ledger": "finished",
    }
    assert found["suite"]["created"] >= found["run"]["created"]
    assert main(["show", "runs/sweep"]) == 0
    out = capsys.readouterr().out
    assert "aeoskit sweep pipe --name adam-edge" in out
    assert ["0", "finished", "0.001", "38,000", "0.980", "–", "–"] in [
        line.split() for line in out.splitlines()
    ]
    assert "1 job is left: aeoskit sweep --resume runs/sweep" in out
    assert main(["show", "runs/sweep", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["jobs"][1]["status"] == "waiting"
    assert main(["show", "runs/suite"]) == 0
    assert ["one", "runs/suite/one"] in [
        line.split() for line in capsys.readouterr().out.splitlines()
    ]
    Path("runs/suite/suite.json").write_text(json.dumps({"cases": {"one": {}}}))
    assert main(["show", "runs/suite"]) == 2
    assert "suite.json is not that of a suite" in capsys.readouterr().err
    assert main(["show", "latest"]) == 0
    assert "runs/ledger/ledger.html" in capsys.readouterr().out
    assert main(["rerun", "runs/sweep"]) == 2  # a run can be rerun
    assert "the folder is not a run's" in capsys.readouterr().err

    def refuse(run: Path, **given: Any) -> None:
        raise UserError(f"got {run}")

    monkeypatch.setattr(aeoskit_experiments, "rerun", refuse)
    assert main(["rerun", "latest"]) == 2  # the last run, though the ledger began later
    assert "got runs/single" in capsys.readouterr().err


def test_new_writes_a_file_and_says_how_to_use_it(
    capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["new", "model"]) == 0
    out = capsys.readouterr().out
    assert "aeoskit pipe model ./my_model.py:MyNet --help" in out
    assert main(["pipe", "model", "./my_model.py:MyNet", "--help"]) == 0
    assert "--width" in capsys.readouterr().out
    assert main(["new", "model"]) == 2
    assert "exists already" in capsys.readouterr().err


def test_bad_input_with_json_is_json_too(capsys: Capture) -> None:
    assert main(["run", "adam-egde", "--json"]) == 2
    out, err = capsys.readouterr()
    assert "adam-edge" in json.loads(out)["error"]
    assert err.startswith("error: ")


def test_list(capsys: Capture, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["list"]) == 0
    out = capsys.readouterr().out
    assert all(name in out for name in [*RECIPES, "preconditioned_sharpness", "loop"])
    assert all(len(line) <= 80 and line == line.rstrip() for line in out.splitlines())
    assert re.search(r"^loop +cost of aeoskit's loops", out, re.MULTILINE)
    assert main(["list", "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert {"mlp", "lstm", "encoder_decoder"} <= set(found["stages"]["model"]["variants"])


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["--help"], "doctor"),
        (["run", "--help"], "adam-edge"),
        (["run", "advance", "--help"], "--momentum-lr"),
        (["pipe", "--help"], "preconditioned_sharpness"),
        (["pipe"], "STAGE"),
        (["pipe", "model", "--help"], "cnn"),
        (["pipe", "model", "mlp", "--help"], "--activation"),
        (["pipe", "data", "digits", "train", "--help"], "--stop-loss"),
        (["pipe", "track", "sharpness", "-h"], "--rtol"),
        (["show", "--help"], "RUN"),
        (["bench", "--help"], "loop"),
        (["bench", "loop", "--help"], "--repeats"),
    ],
)
def test_help(
    words: list[str], says: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(words) == 0
    out = capsys.readouterr().out
    assert says in out
    assert all(len(line) <= 80 for line in out.splitlines())


@pytest.mark.parametrize(
    "words",
    ["", "run", "run gd-edge", "pipe", "sweep", "sweep gd-edge", "reproduce", "rerun", "doctor"],
)
def test_the_help_of_what_keeps_programs_says_how_not_to(words: str, capsys: Capture) -> None:
    assert main([*words.split(), "--help"]) == 0
    out = capsys.readouterr().out
    assert "--no-cache" in out
    assert "--json" in out or words in ("", "run")
    assert ("--clear-cache" in out) == (words == "doctor")


def in_fresh_python(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=60
    )
    return done.stdout


def test_list_and_help_need_no_jax() -> None:
    printed = in_fresh_python(
        "import sys, aeoskit_cli as c\n"
        "words = ['list --json', '--help', 'run --help', 'data list', 'data path cifar10']\n"
        "codes = [c.main(line.split()) for line in words]\n"
        "print('RESULT', codes, 'jax' in sys.modules)"
    )
    assert "RESULT [0, 0, 0, 0, 0] False" in printed


def test_json_of_what_is_not_finite_is_null_with_its_reason(capsys: Capture) -> None:
    print_json({"rows": [{"ratio": float("nan"), "folder": Path("runs")}]})
    row = json.loads(capsys.readouterr().out)["rows"][0]
    assert row == {"ratio": None, "folder": "runs", "result": "ratio is nan"}


def test_a_benchmark_takes_the_options_of_its_function(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    from aeoskit_experiments import benchmarks

    def loop(*, repeats: int = 15) -> dict[str, Any]:
        """Times."""
        return {"rows": [{"case": "step", "ratio": float(repeats)}]}

    monkeypatch.setitem(benchmarks.BENCHMARKS, "loop", loop)
    assert main(["bench", "loop", "--repeats", "2"]) == 0
    assert "2.000" in capsys.readouterr().out
    assert main(["bench", "--json", "loop"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"][0]["ratio"] == 15


def test_a_benchmark_that_holds_a_law_fails_where_it_is_broken(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    from aeoskit_experiments import benchmarks

    def hard(*, count: int = 1) -> dict[str, Any]:
        """Claims."""
        return {"rows": [{"kind": "cycle", "false": count}], "failed": count > 1}

    monkeypatch.setitem(benchmarks.BENCHMARKS, "hard", hard)
    assert main(["bench", "hard"]) == 0
    assert main(["bench", "hard", "--count", "2"]) == 1
    assert "failed" not in capsys.readouterr().out
    assert main(["bench", "hard", "--count", "2", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["failed"] is True


def test_a_wide_benchmark_fits_and_says_where_it_is(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    from aeoskit_experiments import benchmarks

    row = {"problem": "indefinite", "operator": "matrix", "k": 1, "rtol": 1e-5}
    row |= {"solver": "LOBPCG", "matvecs": 300, "optimum": None, "residual": 1.23e-5}
    row |= {"error": float("inf"), "seconds": 12.345, "converged": False}

    def eigen(*, full: bool = True, progress: Any = None) -> dict[str, Any]:
        """Counts."""
        progress("matrices")
        tracked = [{"solver": "Tracking", "steps": 3, "full": full}]
        return {"rows": [row], "tracking": tracked, "wall": [], "notes": ["one is left out"]}

    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setitem(benchmarks.BENCHMARKS, "eigen", eigen)
    assert main(["bench", "eigen", "--no-full"]) == 0
    out, err = capsys.readouterr()
    assert err == "matrices\n"
    assert "…" not in out
    words = ["indefinite", "matrix", "1", "1e-5", "LOBPCG", "300", "–", "1.2e-05", "–"]
    assert [*words, "12.35", "no"] in [line.split() for line in out.splitlines()]
    assert ["Tracking", "3", "no"] in [line.split() for line in out.splitlines()]
    assert out.endswith("one is left out\n")
    assert "wall" not in out


def test_a_swept_none_is_named_in_the_table(capsys: Capture) -> None:
    print_runs([{"batch": 16, "ratio": None}, {"batch": None, "ratio": 1.0}])
    *_, first, second = capsys.readouterr().out.strip().splitlines()
    assert first.split()[:3] == ["16", "–", "–"]
    assert second.split()[:3] == ["none", "–", "1.000"]


@pytest.mark.parametrize("words", [None, ["list"]])
def test_only_a_process_of_its_own_looks_for_garbage_seldom(words, monkeypatch, capsys):
    calls = []
    monkeypatch.setattr(sys, "argv", ["aeoskit", "list"])
    monkeypatch.setattr(gc, "set_threshold", lambda *counts: calls.append(counts))
    monkeypatch.setattr(gc, "freeze", lambda: calls.append("frozen"))
    assert main(words) == 0
    assert len(calls) == (2 if words is None else 0)
    assert capsys.readouterr().out


def test_a_log_file_ends_with_the_last_step(capsys: Capture) -> None:
    progress = Progress()
    progress.started("main", 20)
    for done in (10, 20):
        progress.advanced("main", done, {"ratio": 0.5, "state": "arriving"})
    progress.finished("main")
    progress.finished("main")
    lines = capsys.readouterr().err.splitlines()
    assert lines[-1].split() == ["main:", "step", "20/20", "ratio", "0.5", "state", "arriving"]
    assert len(lines) == len(set(lines))
