"""`aeoskit sweep`: what it asks for, what it prints, and real runs in two worker processes."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

import aeoskit_experiments
from aeoskit_cli import main
from aeoskit_cli._options import ask_about_code

Capture = pytest.CaptureFixture[str]

# Two runs without a probe: the engine is what is seen here, and compiling one takes seconds.
STAGES = "data digits --examples 40 model linear loss mse optimizer gradient_descent --lr 1e-2,1e9"
PIPE = [*STAGES.split(), "train", "--steps", "20", "--chunk", "10", "store", "--no-checkpoints"]


@dataclasses.dataclass
class FakeOutcome:
    summary: dict[str, Any]
    exit_code: int


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """Stands in for `sweep` and `resume_sweep`: what they were asked for."""
    found: list[Any] = []
    row = {"branch": "main", "optimizer": "adam", "threshold": 38e3, "ratio": 0.98}
    jobs = [
        {"index": 0, "status": "finished", "error": None, "log": "logs/000.log"},
        {"index": 1, "status": "failed", "error": "ValueError: no", "log": "logs/001.log"},
        {"index": 2, "status": "waiting", "error": None, "log": None},
    ]
    runs = [
        {"job": 0, "status": "finished", "lr": 1e-3, **row},
        {"job": 1, "status": "failed", "lr": 3e-3, "branch": "main", "optimizer": "adam"},
        {"job": 2, "status": "waiting", "lr": 1e-2, "branch": "main", "optimizer": "adam"},
    ]
    summary = {"jobs": jobs, "runs": runs, "folder": "runs/x", "seconds": 1.25}

    def stand_in(what: Any, *, progress: Any, **place: Any) -> FakeOutcome:
        found.append((what, place))
        if progress is not None:
            progress("job 0 (lr 0.001) finished")
        return FakeOutcome(summary, 1)

    for name in ("sweep", "resume_sweep"):
        monkeypatch.setattr(aeoskit_experiments, name, stand_in, raising=False)
    monkeypatch.setenv("COLUMNS", "80")
    return found


def test_it_prints_a_table_what_failed_and_how_to_go_on(asked: list[Any], capsys: Capture) -> None:
    words = ["sweep", "adam-edge", "--lr", "1e-3,3e-3,1e-2", "--workers", "3", "--root", "there"]
    assert main(words) == 1
    pipeline, place = asked[0]
    assert pipeline.name == "adam-edge"
    assert len(pipeline.singles()) == 3
    assert place == {"workers": 3, "root": "there"}
    out, err = capsys.readouterr()
    assert err == "job 0 (lr 0.001) finished\n"
    lines = [line.split() for line in out.splitlines()]
    assert ["0", "finished", "0.001", "38,000", "0.980", "–", "–"] in lines
    assert ["1", "failed", "0.003", "–", "–", "–", "–"] in lines
    assert "job 1 failed: ValueError: no\n  log: runs/x/logs/001.log\n" in out
    assert "2 jobs are left: aeoskit sweep --resume runs/x" in out
    assert all(len(line) <= 80 for line in out.splitlines())


def test_json_is_one_object(asked: list[Any], capsys: Capture) -> None:
    assert main(["sweep", "--json", "pipe", *PIPE, "--quiet"]) == 1
    out, err = capsys.readouterr()
    assert json.loads(out)["jobs"][1]["status"] == "failed"
    assert err == ""


@pytest.mark.parametrize(
    ("words", "place"),
    [
        (["--executor", "dask", "pipe", "--address", "tcp://x:1", *PIPE], {}),
        (["pipe", "--executor=dask", *PIPE[:4], "--address", "tcp://x:1", *PIPE[4:]], {}),
        (["pipe", *PIPE, "--executor", "dask", "--address", "tcp://x:1"], {}),
        (["--executor", "submitit", "gd-edge", "--executor", "dask", "--address", "tcp://x:1"], {}),
        (
            ["--workers", "2", "pipe", *PIPE, "--workers", "4", "--slurm", "time=60,partition=a"],
            {"workers": 4, "slurm": {"time": 60, "partition": "a"}},
        ),
        (["--resume", "runs/x", "--workers", "2"], {"workers": 2, "allow_code": ask_about_code}),
    ],
)
def test_options_stand_before_or_behind(
    asked: list[Any], words: list[str], place: dict[str, Any]
) -> None:
    assert main(["sweep", *words]) == 1
    assert asked[0][1] == (place or {"executor": "dask", "address": "tcp://x:1"})


def test_an_option_of_a_stage_is_the_stages(asked: list[Any]) -> None:
    assert main(["sweep", "pipe", "--folder", "mine", *PIPE, "--folder", "theirs"]) == 1
    pipeline, place = asked[0]
    assert place == {"folder": "mine"}
    assert pipeline.declared().store.folder == "theirs"


@pytest.mark.parametrize(
    ("words", "says"),
    [
        (["adam-egde"], "did you mean 'adam-edge'"),
        (["adam-edge", "--executer", "dask"], "did you mean '--executor'"),
        (["adam-edge", "--executor", "dusk"], "did you mean 'dask'"),
        (["adam-edge", "--address", "x"], "executor processes takes no address"),
        (["adam-edge", "--workers", "0"], "workers is 0"),
        (["adam-edge", "--slurm", "time"], "write key=value"),
        (["adam-edge", "--lr", "0"], "lr is 0: it must be positive"),
        (["pipe", "--workers", "two", *PIPE], "Invalid value for '--workers'"),
        (["pipe", "--exec", "dask", *PIPE], "did you mean '--executor'"),
        (["pipe", *PIPE, "--workers"], "--workers lacks its value"),
        (["--resume", "nowhere"], "there is no sweep in nowhere"),
        (["--resume", "nowhere", "--root", "x"], "takes no --root"),
        (["--resume", "nowhere", "adam-edge"], "leave adam-edge out"),
    ],
)
def test_bad_input_is_one_line_and_exit_code_2(
    words: list[str], says: str, capsys: Capture, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", *words]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("error: ")
    assert err.count("\n") == 1
    assert says in err
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("words", "says"),
    [
        ([], "--resume"),
        (["--help"], "gd-edge"),
        (["gd-edge", "--help"], "--executor"),
        (["pipe"], "--workers"),
        (["pipe", "--help"], "STAGE"),
        (["pipe", "model", "mlp", "--help"], "--activation"),
    ],
)
def test_help(
    words: list[str], says: str, capsys: Capture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    assert main(["sweep", *words]) == 0
    out = capsys.readouterr().out
    assert says in out
    assert all(len(line) <= 80 for line in out.splitlines())


def test_help_and_bad_input_need_no_jax() -> None:
    code = (
        "import sys, aeoskit_cli as c, aeoskit_experiments.sweeps\n"
        "codes = [c.main(['sweep', *words]) for words in\n"
        "  (['--help'], ['adam-edge', '--help'], ['pipe', '--help'], ['--resume', 'nowhere'])]\n"
        "print('RESULT', codes, 'jax' in sys.modules)"
    )
    path = os.pathsep.join(filter(None, sys.path))
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
        env={**os.environ, "PYTHONPATH": path},
    )
    assert "RESULT [0, 0, 0, 2] False" in done.stdout


@pytest.mark.slow
def test_real_runs_in_two_processes(runs: Path, capsys: Capture) -> None:
    words = ["sweep", "--workers", "2", "pipe", *PIPE, "--root", str(runs), "--json"]
    assert main(words) == 0
    out, err = capsys.readouterr()
    found = json.loads(out)
    # Each of them reported it when it ended, in whichever order.
    assert "job 0 (lr 0.01) finished in " in err
    assert "job 1 (lr 1e+09) diverged in " in err
    assert [row["steps"] for row in found["runs"]] == [20, 1 + found["runs"][1]["diverged_at"]]
    folder = Path(found["folder"])
    assert folder.parent == runs
    assert main(["show", str(folder / "000-lr=0.01"), "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["status"] == "finished"
    assert "optimizer gradient_descent --lr 0.01 " in shown["command"]
    # Nothing is left: what is stored is what is printed.
    assert main(["sweep", "--resume", str(folder), "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["runs"] == found["runs"]
    assert err == ""
