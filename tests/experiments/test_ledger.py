"""The ledger of claims on tiny runs: verdicts, going on, interrupts, pages that lose nothing."""

from __future__ import annotations

import dataclasses
import functools
import json
import os
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
import pytest

from aeoskit.record import read_run
from aeoskit_experiments import UserError
from aeoskit_experiments.execution import attempt
from aeoskit_experiments.jobs import JobResult, RunJob, Worker
from aeoskit_experiments.ledger import (
    CLAIMS,
    Bounds,
    Claim,
    Measured,
    OutOfReach,
    Refuted,
    RunSpec,
    make_tasks,
    mismatches,
    read_bounds,
    read_ledger,
    reproduce,
)
from aeoskit_experiments.ledger import claims as registered
from aeoskit_experiments.ledger._bounds import SIZES
from aeoskit_experiments.ledger._judge import Finding, judge
from aeoskit_experiments.ledger._pictures import levels_of
from aeoskit_experiments.ledger._plan import make_suite
from aeoskit_experiments.ledger._records import same_request
from aeoskit_experiments.ledger._reproduce import SilentLedgerListener, _run_in
from aeoskit_experiments.pipelines import (
    Pipeline,
    data,
    loss,
    model,
    optimizer,
    pipe,
    plot,
    rewind,
    store,
    train,
)

REASON = "Because <b>& so</b> on [D]."


def make(recipe: str, options: Mapping[str, Any]) -> Mapping[str, Pipeline]:
    """Suites that compile one small program between them: the learning rate is an array leaf."""
    if recipe == "absent":
        raise UserError("CIFAR-10 is not here: get its archive")
    if recipe == "onward" and "run" in options:
        return {"main": pipe(rewind(options["run"], at=options["at"]), name=recipe)}
    rate = {"good": 0.5, "wild": 1e9, "onward": 0.5}[recipe]

    def case(steps: int) -> Pipeline:
        return pipe(
            data("quadratic", dimension=2, seed=options["seed"]),
            model("linear"),
            loss("mse"),
            optimizer("gradient_descent", lr=rate),
            train(steps, chunk=5),
            store(checkpoint_every=5),
            name=recipe,
        )

    return {"main": case(options.get("steps", 10)), "other": case(20)}


def final_loss(run: Any) -> float:
    return run.row()["final_loss"]


def a_claim(name: str, measure: Any = final_loss, *needs: RunSpec, experiment: str = "E1") -> Claim:
    return Claim(experiment, name, f"{name} <holds>", measure, needs or (RunSpec("good"),), "×")


def bounded(*claims: Claim, low: float = 0.0, **others: Any) -> dict[str, Any]:
    tables: dict[str, Any] = {}
    for item in claims:
        tables.setdefault(item.experiment, {})[item.name] = {"low": low, "reason": REASON}
    for key, table in others.items():
        experiment, _, name = key.partition("_")
        tables[experiment][name] = table
    return tables


def ledger_of(folder: Path, *claims: Claim, bounds: Any = None, **asked: Any) -> Any:
    return reproduce(
        folder=folder,
        claims=claims,
        bounds=bounded(*claims) if bounds is None else bounds,
        make=make,
        **{"runner": in_process, **asked},
    )


def in_process(job: RunJob, listener: Any, interrupt: Any) -> JobResult:
    return attempt(job, listener)


class Counting:
    """Counts the runs, and may be stopped before one."""

    def __init__(self, stop_at: int | None = None):
        self.ran: list[str] = []
        self.stop_at = stop_at

    def __call__(self, job: RunJob, listener: Any, interrupt: Any) -> JobResult:
        folder = Path(job.folder)
        if self.stop_at == len(self.ran):
            folder.mkdir(parents=True)  # as one that was cut off
            (folder / "half").touch()
            signal.raise_signal(signal.SIGINT)
            return JobResult(status="interrupted")
        self.ran.append(folder.name)
        return attempt(job, listener)


def raises(error: Exception) -> Any:
    def measure(run: Any) -> float:
        raise error

    return measure


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Any, Path]:
    """A ledger with every kind of verdict."""
    folder = tmp_path_factory.mktemp("ledger")
    claims = [
        a_claim("fine"),
        a_claim("too-small", lambda run: 0.5, experiment="E2"),
        a_claim("nan", lambda run: float("nan"), experiment="E3"),
        a_claim("nothing", lambda run: None, experiment="E3"),
        a_claim("infinite", lambda run: float("inf"), experiment="E4"),
        a_claim("no-edge", raises(OutOfReach("it never <got> there")), experiment="E5"),
        a_claim("refuted", raises(Refuted("it ran away")), experiment="E6"),
        a_claim("wrong", raises(KeyError("ratio")), experiment="E7"),
        a_claim("diverged", lambda run: run.ratio(), RunSpec("wild"), experiment="E8"),
        a_claim("silent", lambda run: None, RunSpec("wild"), experiment="E8"),
        a_claim("data", final_loss, RunSpec("absent"), experiment="E9"),
        a_claim("no-case", final_loss, RunSpec("good", case="nowhere"), experiment="E9"),
        a_claim(
            "two",
            lambda one, other: other.row()["steps"] - one.row()["steps"],
            RunSpec("good"),
            RunSpec("good", case="other"),
            experiment="E10",
        ),
    ]
    bounds = bounded(*claims)
    bounds["E2"]["too-small"] = {"low": 1, "high": 2, "reason": REASON}
    return ledger_of(folder, *claims, bounds=bounds), folder


def by_name(outcome: Any) -> dict[str, Any]:
    return {row["claim"]: row for row in outcome.summary["rows"]}


def test_every_kind_of_verdict(whole: tuple[Any, Path]) -> None:
    outcome, folder = whole
    rows = by_name(outcome)
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "fine": "pass",
        "too-small": "fail",
        "nan": "unreachable",
        "nothing": "unreachable",
        "infinite": "fail",
        "no-edge": "unreachable",
        "refuted": "fail",
        "wrong": "fail",
        "diverged": "fail",
        "silent": "fail",
        "data": "unreachable",
        "no-case": "unreachable",
        "two": "pass",
    }
    assert rows["no-edge"]["reason"] == "it never <got> there"
    assert rows["wrong"]["reason"] == "its measure raised KeyError: 'ratio'"
    assert rows["diverged"]["reason"].startswith("main diverged at step ")
    assert rows["data"]["reason"] == "CIFAR-10 is not here: get its archive"
    assert rows["no-case"]["reason"] == "recipe good has no case 'nowhere' at size small"
    assert rows["two"]["value"] == 10
    assert rows["too-small"]["bounds"] == (1.0, 2.0)
    assert rows["fine"]["bounds"] == (0.0, None)
    assert rows["fine"]["folder"] == "runs/good.seed4"
    assert (folder / rows["fine"]["figure"]).is_file()
    assert outcome.exit_code == 1
    # Each work once: good and its other case, and the one that diverges.
    assert sorted(path.name for path in (folder / "runs").iterdir()) == [
        "good.other.seed4",
        "good.seed4",
        "wild.seed4",
    ]


def test_json_is_strict(whole: tuple[Any, Path]) -> None:
    outcome, _ = whole
    summary = json.loads(json.dumps(outcome.summary, allow_nan=False))
    assert summary["experiments"] == {
        "E1": "pass",
        "E2": "fail",
        "E3": "unreachable",
        "E4": "fail",
        "E5": "unreachable",
        "E6": "fail",
        "E7": "fail",
        "E8": "fail",
        "E9": "unreachable",
        "E10": "pass",
    }
    assert (summary["passed"], summary["size"], summary["status"]) == (2, "small", "finished")
    assert summary["claims"] == {"pass": 2, "fail": 6, "unreachable": 5}
    first = summary["rows"][0]
    assert {"experiment", "claim", "value", "bounds", "verdict", "seconds"} <= {*first}
    assert first["seconds"] > 0


def test_pages_lose_no_failing_claim_and_escape_what_they_say(whole: tuple[Any, Path]) -> None:
    outcome, folder = whole
    html, markdown = ((folder / f"ledger.{kind}").read_text() for kind in ("html", "md"))
    for row in outcome.summary["rows"]:
        assert f"{row['claim']} &lt;holds&gt;" in html
        assert f"{row['claim']} \\<holds\\>" in markdown
    assert "<b>" not in html
    assert "Because &lt;b&gt;&amp; so&lt;/b&gt; on [D]." in html
    assert "it never &lt;got&gt; there" in html
    assert "✗ fail</span>" in html
    assert "**fail**: main diverged at step" in markdown
    assert html.count("data:image/png;base64,") >= 3
    assert "http" not in html.replace("http-equiv", "")
    assert "<script" not in html
    # The numbers are what `ledger.json` has.
    assert read_ledger(folder).rows == outcome.ledger.rows


def test_all_ratios_are_in_one_picture(tmp_path: Path) -> None:
    def at(value: float) -> Any:
        return lambda run: value

    def never(run: Any) -> float:
        raise Refuted("it diverged")

    def a_ratio(name: str, measure: Any, *needs: RunSpec) -> Claim:
        return dataclasses.replace(a_claim(name, measure, *needs), ratio=True)

    one, two = a_ratio("one", at(1.02)), a_ratio("two", at(0.5))
    torn, absent = a_ratio("torn", never), a_ratio("absent", at(1.0), RunSpec("absent"))
    other = a_claim("other", at(1.0))
    table = {"low": 0.9, "high": 1.1, "reason": REASON}
    claims = (one, two, torn, absent, other)
    bounds = {"E1": {item.name: table for item in claims}}
    outcome = ledger_of(tmp_path / "many", *claims, bounds=bounds)
    assert outcome.ledger.ratios == "figures/ratios.png"
    assert (outcome.folder / "figures/ratios.png").stat().st_size > 1000
    assert "](figures/ratios.png)" in (outcome.folder / "ledger.md").read_text()
    html = (outcome.folder / "ledger.html").read_text()
    assert html.count("All numbers that are ratios") == 2  # the caption, and the alternative text
    assert read_ledger(outcome.folder).ratios == outcome.ledger.ratios
    found = {level.label: (level.value, level.verdict) for level in levels_of(outcome.ledger.rows)}
    assert found == {
        "one": (1.02, "pass"),
        "two": (0.5, "fail"),
        "torn": (None, "fail"),
        "absent": (None, "open"),
    }
    # What only some of the seeds have shown is not judged yet; what none has is not drawn.
    half, none = (
        msgspec.structs.replace(outcome.ledger.rows[0], judged=judged, seeds=(0, 1))
        for judged in (1, 0)
    )
    assert [level.verdict for level in levels_of([half, none])] == ["open"]
    # A single one is no picture of many.
    assert ledger_of(tmp_path / "one", one, other, bounds=bounds).ledger.ratios is None


def test_seeds_and_spread_and_going_on(tmp_path: Path) -> None:
    shown = a_claim(
        "shown", lambda run: [4.0, 7.0][run.run.pipeline["stages"][0]["options"]["seed"] - 4]
    )
    never = a_claim(
        "never", final_loss, RunSpec("good"), RunSpec("good", "main", "grid <1>", {"steps": 5})
    )
    bounds = bounded(shown, never, low=5.0)
    runner = Counting()
    first = ledger_of(tmp_path, shown, never, bounds=bounds, runner=runner)
    assert first.exit_code == 1
    assert runner.ran == ["good.seed4"]
    # A ledger only grows: the seed that is there is not run again; the grid stands behind.
    runner = Counting()
    outcome = ledger_of(tmp_path, shown, never, bounds=bounds, runner=runner, seeds=2, grid=True)
    assert runner.ran == ["good.seed5", "good.grid-1.seed4", "good.grid-1.seed5"]
    row = outcome.summary["rows"][0]
    assert (row["value"], row["values"], row["spread"]) == (5.5, (4.0, 7.0), (4.0, 7.0))
    assert (row["verdict"], row["reason"]) == ("fail", "1 of 2 seeds pass")
    assert [row["setting"] for row in outcome.summary["rows"]] == ["reference"] * 2 + ["grid <1>"]
    assert "grid &lt;1&gt;" in (tmp_path / "ledger.html").read_text()
    # A request for nothing new runs nothing; a bound that has moved since is reported.
    runner = Counting()
    again = ledger_of(tmp_path, shown, never, bounds=bounded(shown, never, low=6.5), runner=runner)
    assert runner.ran == []
    assert again.ledger.asked == outcome.ledger.asked
    assert again.summary["rows"][0]["verdict"] == "fail"
    assert again.ledger.notes[0] == (
        "The bounds of E1 shown (reference) were changed after it had been judged: they were ≥ 5."
    )


def test_ctrl_c_keeps_what_was_done_and_it_goes_on(tmp_path: Path) -> None:
    claims = [a_claim("one"), a_claim("other", final_loss, RunSpec("good", case="other"))]
    outcome = ledger_of(tmp_path, *claims, runner=Counting(stop_at=1))
    assert outcome.exit_code == 130
    rows = by_name(outcome)
    assert [rows[name]["verdict"] for name in ("one", "other")] == ["pass", "unreachable"]
    assert rows["other"]["reason"] == "not run yet"
    assert (outcome.summary["status"], outcome.summary["waiting"]) == ("interrupted", 1)
    runner = Counting()
    outcome = ledger_of(tmp_path, *claims, runner=runner)
    assert (runner.ran, outcome.exit_code) == (["good.other.seed4"], 0)
    # What another pipeline has left there is not taken for it.
    with pytest.raises(UserError, match="was made by another pipeline") as caught:
        ledger_of(tmp_path, a_claim("one", final_loss, RunSpec("good", options={"steps": 15})))
    assert "\n" not in str(caught.value)


PAST = RunSpec("good", options={"lr": 0.5})


def onward(at: int | str = 5) -> Claim:
    """What goes on from the record of another work; `lr` is that one's own affair."""
    return a_claim(
        "onward",
        lambda run: run.metrics()["step"].values[0],
        RunSpec("onward", "main", "reference", {"at": at, "lr": 0.5}, PAST),
        experiment="E9",
    )


class TestWorksThatRewind:
    """A work that goes on from another one's record."""

    def test_the_past_runs_first_once_and_with_each_seed(self, tmp_path: Path) -> None:
        folder, runner = tmp_path / "ledger", Counting()
        claims = [onward(), a_claim("past", final_loss, PAST)]
        outcome = ledger_of(folder, *claims, runner=runner, seeds=2)
        assert runner.ran == ["good.seed4", "onward.seed4", "good.seed5", "onward.seed5"]
        row = by_name(outcome)["onward"]
        assert (row["verdict"], row["value"], row["values"]) == ("pass", 5, (5, 5))
        for seed in (4, 5):
            past, later = (
                read_run(folder / "runs" / f"{name}.seed{seed}").metrics["loss"].values.ravel()
                for name in ("good", "onward")
            )
            np.testing.assert_array_equal(past[5:], later)
        # In another place it is the same ledger: nothing is run again, nor refused.
        folder = folder.rename(tmp_path / "moved")
        runner = Counting()
        assert by_name(ledger_of(folder, *claims, runner=runner))["onward"]["verdict"] == "pass"
        assert runner.ran == []

    def test_a_past_that_is_run_again_takes_what_rewinds_it_along(self, tmp_path: Path) -> None:
        ledger_of(tmp_path, onward())
        # As one that was killed: its rows and states are there.
        (tmp_path / "runs" / "good.seed4" / "summary.json").unlink()
        runner = Counting()
        assert ledger_of(tmp_path, onward(), runner=runner).exit_code == 0
        assert runner.ran == ["good.seed4", "onward.seed4"]

    def test_a_past_that_cannot_be_rewound_says_why(self, tmp_path: Path) -> None:
        runner = Counting()
        outcome = ledger_of(tmp_path / "far", onward(11), runner=runner)
        assert runner.ran == ["good.seed4"]
        row = by_name(outcome)["onward"]
        assert row["verdict"] == "unreachable"
        assert "at is 11, but training has only 10 steps in all" in row["reason"]

        def failing(*given: Any) -> JobResult:
            return JobResult(status="failed", error="no memory")

        row = by_name(ledger_of(tmp_path / "failed", onward(), runner=failing))["onward"]
        assert row["verdict"] == "unreachable"
        assert row["reason"] == "good, seed 4, which it rewinds, failed"


def test_a_changed_bound_is_reported_whatever_happens_next(tmp_path: Path) -> None:
    def killed(*given: Any) -> JobResult:
        raise SystemExit

    claim = a_claim("one")
    ledger_of(tmp_path, claim)
    with pytest.raises(SystemExit):
        ledger_of(tmp_path, claim, bounds=bounded(claim, low=-1.0), seeds=2, runner=killed)
    assert "were changed after it had been judged" in read_ledger(tmp_path).notes[0]
    # Going on adds nothing to it, and loses nothing.
    again = ledger_of(tmp_path, claim, bounds=bounded(claim, low=-1.0))
    assert len(again.ledger.notes) == 1


def test_a_figure_of_another_kind_is_the_same_request() -> None:
    both = [pipe(train(10), plot(kind)) for kind in ("edge", "epsilon")]
    assert same_request(both[0].to_dict(), both[1])
    assert not same_request(both[0].to_dict(), pipe(train(11), plot("edge")))


@pytest.mark.parametrize(
    ("asked", "says"),
    [
        ({"size": "big"}, "unknown size 'big'"),
        ({"only": ["E1", "E77"]}, "unknown experiment 'E77'"),
        ({"only": [" "]}, "only is empty"),
        ({"seeds": 0}, "seeds is 0"),
        ({"bounds": {}}, "has no bounds"),
    ],
)
def test_bad_input_is_refused_before_anything_is_made(
    asked: dict[str, Any], says: str, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=says):
        ledger_of(tmp_path / "new", a_claim("one"), **asked)
    assert not (tmp_path / "new").exists()


def test_another_folder_or_size_is_refused(tmp_path: Path, whole: tuple[Any, Path]) -> None:
    (tmp_path / "mine.txt").touch()
    with pytest.raises(UserError, match="holds no ledger"):
        ledger_of(tmp_path, a_claim("one"))
    with pytest.raises(UserError, match="the ledger there is of size small"):
        ledger_of(whole[1], a_claim("one"), size="paper")
    (whole[1] / "ledger.json").rename(tmp_path / "aside")
    (tmp_path / "ledger.json").write_text("{")
    with pytest.raises(UserError, match="changed by hand"):
        ledger_of(tmp_path, a_claim("one"))
    (tmp_path / "aside").rename(whole[1] / "ledger.json")


@pytest.mark.parametrize(
    ("findings", "verdict"),
    [
        ([Finding("measured", 6.0)] * 3, "pass"),
        ([Finding("measured", 6.0)] * 2 + [Finding("measured", 4.0)], "fail"),
        ([Finding("measured", 6.0)] * 2 + [Finding("refuted", reason="no")], "fail"),
        ([Finding("measured", 6.0)] * 2 + [Finding("unreachable", reason="far")], "unreachable"),
        ([Finding("measured", 4.0), Finding("unreachable", reason="far")], "fail"),
    ],
)
def test_a_claim_passes_on_every_seed_or_not_at_all(findings: list[Finding], verdict: str) -> None:
    found, _, reason = judge(findings, Bounds(low=5.0))
    assert found == verdict
    passing = sum(item.value == 6.0 for item in findings)
    assert reason.startswith(f"{passing} of {len(findings)} seeds pass")


def test_a_number_whose_alternative_is_within_the_bounds_decides_nothing(tmp_path: Path) -> None:
    def found(value: float, other: float | None) -> Any:
        return lambda run: Measured(value, other, "so it is")

    def a_row(name: str, value: float, other: float | None) -> Claim:
        return dataclasses.replace(
            a_claim(name, found(value, other)), alternative="if it stayed where it was"
        )

    claims = [
        a_row("told-apart", 6.0, 2.0),
        a_row("both", 6.0, 5.5),
        a_row("neither", 4.0, 2.0),
        a_row("unknown", 6.0, None),
        a_row("not-finite", 6.0, float("nan")),
    ]
    # One table of them all.
    outcome = ledger_of(tmp_path, *claims, bounds={"E1": {"*": {"low": 5.0, "reason": REASON}}})
    rows = by_name(outcome)
    assert {name: row["verdict"] for name, row in rows.items()} == {
        "told-apart": "pass",
        "both": "unreachable",
        "neither": "fail",
        "unknown": "unreachable",
        "not-finite": "unreachable",
    }
    assert rows["both"]["reason"].startswith("the alternative, 5.5, is within the bounds too")
    assert rows["unknown"]["reason"] == "its alternative was not measured"
    assert (rows["told-apart"]["alternatives"], rows["told-apart"]["reason"]) == ((2,), "so it is")
    page, markdown = ((tmp_path / f"ledger.{kind}").read_text() for kind in ("html", "md"))
    assert "<em>Alternative:</em> if it stayed where it was." in page
    assert "| 6× | ≥ 5× | 2× | pass: so it is |" in markdown
    assert "Alternatives: told-apart, both, neither, unknown, not-finite: if it stayed" in markdown
    # The seeds on which settings were looked for are not those on which claims are judged.
    assert not {*outcome.summary["seeds"]} & {*outcome.summary["trial_seeds"]}
    assert "4 (settings were looked for on 0, 1, 2 and 3)" in markdown


class TestRegistered:
    """The claims and bounds that are aeoskit's own."""

    def test_every_claim_has_bounds_with_a_reason_and_none_is_left_over(self) -> None:
        assert registered
        assert mismatches(CLAIMS.values(), read_bounds()) == []

    def test_every_claim_has_an_alternative(self) -> None:
        assert [claim.key for claim in CLAIMS.values() if not claim.alternative] == []

    def test_what_is_wrong_with_bounds_is_found(self) -> None:
        claim = a_claim("one", final_loss, RunSpec("good"), RunSpec("good", setting="lr 1"))
        good = {"low": 1, "reason": "x"}
        wrong: list[tuple[dict[str, Any], str]] = [
            ({}, "has no bounds"),
            ({"one": {"low": 1}}, "the reason is missing"),
            ({"one": {"reason": "x"}}, "neither low nor high"),
            ({"one": {"low": float("nan"), "reason": "x"}}, "nan is not a number"),
            ({"one": {"low": 2, "high": 1, "reason": "x"}}, "above high"),
            ({"one": {**good, "grid": {"low": 2}}}, "one.grid: the reason is missing"),
            ({"one": {**good, "lr 2": good}}, "no setting of it"),
            ({"one": good, "two": good}, "belong to no claim"),
            ({"one": good, "t*": good}, "belong to no claim"),
            ({"o*": good, "*e": good}, "several bounds: o*, *e"),
        ]
        for tables, says in wrong:
            assert any(says in sentence for sentence in mismatches([claim], {"E1": tables})), says
        fine = {**good, "grid": good, "lr 1": good, "paper": good}
        for name in ("one", "o*"):
            assert mismatches([claim], {"E1": {name: fine}}) == []

    def test_the_nearest_bounds_count(self) -> None:
        from aeoskit_experiments.ledger import bounds_of

        claim = a_claim(
            "one", final_loss, RunSpec("good"), RunSpec("a", setting="a"), RunSpec("b", setting="b")
        )
        table = {
            "low": 5,
            "high": 9,
            "reason": "x",
            "grid": {"low": 3, "reason": "y"},
            "b": {"low": 2, "reason": "z"},
            "paper": {"high": 8, "reason": "p"},
        }
        tables = {"E1": {"one": table}}
        found = {
            (setting, size): bounds_of(claim, setting, size, tables)
            for setting in ("reference", "a", "b")
            for size in ("small", "paper")
        }
        assert [(item.low, item.high, item.reason) for item in found.values()] == [
            (5, 9, "x"),
            (5, 8, "p"),
            (3, 9, "y"),
            (3, 8, "p"),
            (2, 9, "z"),
            (2, 8, "p"),
        ]

    def test_every_reference_run_can_be_made(self) -> None:
        tasks = make_tasks(CLAIMS.values(), size="small", seeds=[0], grid=True, make=make_suite)
        assert [(task.key, task.refusal) for task in tasks if task.pipeline is None] == []
        on_fashion = [task for task in tasks if task.spec.setting == "fashion_mnist"]
        recipes = {task.spec.recipe.split("-")[0] for task in on_fashion}
        assert recipes == {"e01", "e02", "e05", "e06", "e07", "e08", "e09"}
        assert {
            (data.variant, data.settings["examples"])
            for task in on_fashion
            if task.pipeline is not None and (data := task.pipeline.declared().data) is not None
        } == {("fashion_mnist", 5000)}

    @pytest.mark.parametrize("size", SIZES)
    def test_what_a_claim_is_about_is_in_its_recipe(self, size: str) -> None:
        found: dict[str, set[str]] = {}
        for claim in CLAIMS.values():
            if size in claim.sizes:
                found.setdefault(claim.experiment, set()).add(claim.name)
                for spec in claim.specs("reference"):
                    assert spec.case in make_suite(spec.recipe, {"size": size, "seed": 0})
        rates = make_suite("e01-learning-rate", {"size": size, "seed": 0})["main"].stages[3]
        swept = rates.settings["lr"]
        assert isinstance(swept, tuple)
        assert {float(x.removeprefix("lr-")) for x in found["E1"] - {"rise"}} == {*swept}
        frozen = make_suite("e03-frozen", {"size": size, "seed": 0})["main"].declared().branches
        assert found["E3"] == {item.name for item in frozen}

    def test_a_past_that_sweeps_is_not_rewound(self) -> None:
        """Figure 8 has four learning rates: at the paper's size E9 trains one run of its own."""
        past = RunSpec("e07-advance", options={"dataset": "digits", "examples": 30})
        claim = a_claim("e9", final_loss, RunSpec("e09-branches", rewinds=past))
        for size, rewinds in (("small", "e07-advance.seed0"), ("paper", None)):
            tasks = make_tasks([claim], size=size, seeds=[0], grid=False, make=make_suite)
            assert [task.spec.recipe for task in tasks] == ["e07-advance", "e09-branches"]
            assert tasks[1].rewinds == rewinds
            assert tasks[1].pipeline is not None
            assert tasks[1].pipeline.stages[0].settings["examples"] == 30

    def test_a_claim_of_another_size_is_not_judged(self, tmp_path: Path) -> None:
        here, there = a_claim("here"), a_claim("there")
        there = dataclasses.replace(there, sizes=("paper",))
        assert list(by_name(ledger_of(tmp_path, here, there))) == ["here"]

    def test_works_of_one_name_are_one(self) -> None:
        claims = [a_claim("one"), a_claim("two", final_loss, RunSpec("good", options={"steps": 5}))]
        with pytest.raises(ValueError, match="give it another setting"):
            make_tasks(claims, size="small", seeds=[0], grid=False, make=make)


def test_a_worker_that_dies_costs_its_own_work(tmp_path: Path) -> None:
    worker = Worker(log=tmp_path / "worker.log")
    alive = [worker.call(os.getpid)]

    class Heard(SilentLedgerListener):
        """Remembers what it hears."""

        def __init__(self) -> None:
            self.events: list[tuple[Any, ...]] = []

        def began(self, label: str, index: int, total: int) -> None:
            self.events.append((label, index, total))

        def started(self, what: str, steps: int) -> None:
            if alive:
                os.kill(alive.pop(), signal.SIGKILL)

        def advanced(self, what: str, done: int, shown: Mapping[str, float]) -> None:
            self.events.append((what, done, *shown))

        def ended(self, state: Any) -> None:
            self.events.append((state.status,))

        def judged(self, row: Any) -> None:
            self.events.append((row.claim, row.verdict))

    heard = Heard()
    claims = [a_claim("one"), a_claim("two", final_loss, RunSpec("good", case="other"))]
    outcome = ledger_of(
        tmp_path / "ledger", *claims, runner=functools.partial(_run_in, worker), listener=heard
    )
    worker.close()
    assert heard.events == [
        ("good, seed 4", 1, 2),
        ("failed",),
        ("one", "fail"),
        ("good other, seed 4", 2, 2),
        *[("main", done, "loss") for done in (5, 10, 15, 20)],
        ("finished",),
        ("two", "pass"),
    ]
    reason = by_name(outcome)["one"]["reason"]
    assert reason.startswith("the run failed: its process ended (SIGKILL; ")
    assert reason.endswith("worker.log has its last output")
    assert outcome.exit_code == 1
    assert "SIGKILL" in (tmp_path / "ledger" / "ledger.html").read_text()
    # One that failed is tried again.
    assert ledger_of(tmp_path / "ledger", *claims).exit_code == 0
