"""`aeoskit plan` and `aeoskit doctor --mesh`: whose options are whose, and what is printed."""

import json
from pathlib import Path
from typing import Any

import pytest

from aeoskit_cli import main
from aeoskit_cli._plan import _unit
from aeoskit_experiments import planning
from aeoskit_experiments.planning import Attempt, Plan, PlanSettings, Row, Transfer, Verdict

PIPE = "pipe data digits --examples 20 model mlp --width 4 loss mse optimizer adam --lr 1e-3"
TRACKED = f"{PIPE} track sharpness --k 2 --basis 11 train --steps 20"


def row(name: str, total: int) -> Row:
    return Row(
        program=name,
        per="step",
        argument_bytes=total // 4,
        temporary_bytes=total,
        total_bytes=total,
        fits=total < 2**34,
        flops=3e9,
        bytes_accessed=1e9,
        transfers=(Transfer("all-reduce", 1, 4096, "iteration"),),
        compiler_seconds=1e-3,
        roofline_seconds=2e-4,
    )


def invented(*, fits: bool) -> Plan:
    total = 10**9 if fits else 10**11
    return Plan(
        pipeline="aeoskit pipe …",
        topology="v5e:2x4",
        chip="v5e",
        devices=8,
        memory=2**34,
        source="a table",
        mesh={"data": 4, "model": 2},
        precision="bfloat16",
        effort="quick",
        knobs=PlanSettings(microbatch=2),
        parameters=1234,
        examples=20,
        lanes=3,
        rows=tuple(row(name, total) for name in ("steps", "product", "solve", "steps + probe")),
        verdict=Verdict(
            fits,
            "--microbatch 2" if fits else "",
            "fits: because" if fits else "does not fit: take more chips",
            (Attempt("", 10**11, False), Attempt("--microbatch 2", total, fits)),
        ),
        versions={},
        seconds=1.0,
    )


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """What the command asks for; nothing is compiled."""
    calls: list[Any] = []

    def plan(
        pipeline: Any,
        topology: str = "local",
        *,
        mesh: str = "data",
        k: int | None = None,
        basis: int | None = None,
        precision: str = "float32",
        progress: Any = None,
    ) -> Plan:
        calls.append((pipeline, dict(topology=topology, mesh=mesh, k=k, basis=basis)))
        return invented(fits=topology != "v5e:2x2")

    monkeypatch.setattr(planning, "plan", plan)
    return calls


@pytest.mark.parametrize(
    "words",
    [
        f"plan --topology v5e:2x4 --k 3 --mesh data=4,model=2 {TRACKED}",
        f"plan {TRACKED} --topology v5e:2x4 --k 3 --mesh data=4,model=2",
        f"plan --k 3 {TRACKED} --topology=v5e:2x4 --mesh=data=4,model=2",
    ],
)
def test_options_of_the_plan_and_of_its_stages(words: str, asked: list[Any]) -> None:
    assert main(words.split()) == 0
    ((pipeline, given),) = asked
    assert given == dict(topology="v5e:2x4", mesh="data=4,model=2", k=3, basis=None)
    track = next(stage for stage in pipeline.stages if stage.stage == "track")
    assert (track.settings["k"], track.settings["basis"]) == (2, 11)


def test_a_recipe_is_planned(asked: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "adam-edge", "--lr", "1e-3", "--topology", "v5e:2x4", "--json"]) == 0
    ((pipeline, _),) = asked
    assert pipeline.name == "adam-edge"
    plan = json.loads(capsys.readouterr().out)
    assert plan["verdict"]["change"] == "--microbatch 2"
    assert plan["rows"][0]["transfers"][0]["kind"] == "all-reduce"


def test_a_recipes_own_option_takes_precedence(
    asked: list[Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The plan's option of that name comes before the recipe."""
    monkeypatch.chdir(tmp_path)
    Path("own.py").write_text(
        "from aeoskit_experiments.recipes import make_recipe\n"
        "def mine(*, k: int = 1):\n"
        "    return make_recipe('adam-edge', width=k)\n"
    )
    assert (
        main(
            [
                "plan",
                "--k",
                "3",
                "./own.py:mine",
                "--k",
                "5",
                "--topology",
                "v5e:2x4",
                "--basis",
                "20",
            ]
        )
        == 0
    )
    ((pipeline, given),) = asked
    assert pipeline.declared().model.settings["width"] == 5
    assert (given["k"], given["basis"]) == (3, 20)


def test_tables_fit_in_80_columns(asked: list[Any], capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["plan", "adam-edge", "--topology", "v5e:2x2"]) == 1  # nothing makes it fit
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert not [line for line in lines if "…" in line]
    assert lines[-1] == "does not fit: take more chips"


@pytest.mark.parametrize(
    ("largest", "unit"),
    [(0, "KiB"), (10_000, "KiB"), (5 * 2**20, "KiB"), (2**30, "MiB"), (2**60, "GiB")],
)
def test_units_keep_numbers_short(largest: int, unit: str) -> None:
    assert _unit(largest, 2**10, "KiB MiB GiB")[0] == unit


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("plan --topology v5e:2x4", "plan got no run"),
        ("plan adam-egde --topology v5e:2x4", "did you mean 'adam-edge'?"),
        ("plan --toplogy v5e:2x4 adam-edge", "did you mean '--topology'?"),
        ("plan adam-edge --params shared --topology cpu:2", "params is 'shared'"),
        ("plan adam-edge --parms sharded", "did you mean '--params'?"),
        ("plan adam-edge --topology v5e:2x4 --params shared", "params is 'shared'"),
        ("plan adam-edge --topology v4:2", "unknown chip 'v4'"),
        ("plan adam-edge --topology v5e:2x4", "pip install 'aeoskit[tpu-plan]'"),
        ("doctor adam-edge", "doctor got no mesh"),
        ("doctor --mehs data=4", "did you mean '--mesh'?"),
        ("doctor --clear-cahce", "did you mean '--clear-cache'?"),
        ("doctor --jsno", "did you mean '--json'?"),
        ("doctor --mesh data=2 --params sharde", "replicated, sharded (did you mean 'sharded'?)"),
        ("doctor --mesh data=0", "gives axis 'data' the size 0"),
        ("doctor --mesh rows=2", "'rows' and none called 'data'"),
        ("plan adam-edge --topology cpu:2 --mesh rows=2", "'rows' and none called 'data'"),
    ],
)
def test_what_is_refused(
    words: str,
    message: str,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    assert main(words.split()) == 2
    assert message in capsys.readouterr().err


def test_doctor_lays_a_run_out(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(f"doctor --mesh data=2,model=2 {TRACKED}".split()) == 0
    printed = capsys.readouterr().out
    assert "data=2, model=2: 4 devices (4 here)" in printed
    assert "basis of 11 vectors" in printed
    assert max(map(len, printed.splitlines()[:-1])) <= 80


def test_doctor_lays_out_for_devices_that_are_not_here(capsys: pytest.CaptureFixture[str]) -> None:
    """In a process of its own, which has as many."""
    assert (
        main(["doctor", *TRACKED.split(), "--mesh", "data=8", "--params", "sharded", "--json"]) == 0
    )
    found = json.loads(capsys.readouterr().out)
    assert (found["devices"], found["present"], found["tail"]) == (8, 4, 4)
    assert "computed from shapes" in found["sentence"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("plan adam-edge --help", "--lr"),
        ("plan pipe --help", "--topology"),
        ("plan --help", "RECIPE|pipe"),
        ("plan pipe data digits model mlp --help", "--width"),
        ("doctor --mesh data=2 adam-edge --help", "--lr"),
    ],
)
def test_help_behind_the_run(words: str, message: str, capsys: pytest.CaptureFixture[str]) -> None:
    """What is asked for is no error."""
    assert main(words.split()) == 0
    printed = capsys.readouterr()
    assert message in printed.out
    assert "--install-completion" not in printed.out
    assert not printed.err
