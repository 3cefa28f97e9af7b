"""Pipelines carried out on tiny data: what they leave, and how they end."""

import collections
import logging
import re
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pyarrow.parquet as pq
import pytest
import xarray as xr

from aeoskit.record import list_runs, load_checkpoint, read_run
from aeoskit.trajectory import Continue, FreezePreconditioner, SwitchOptimizer, stream
from aeoskit.trajectory import branch as go_on
from aeoskit_experiments.execution import Outcome, SilentListener, build, execute
from aeoskit_experiments.execution import _execute as execution
from aeoskit_experiments.pipelines import (
    Pipeline,
    Stage,
    UserError,
    branch,
    data,
    loss,
    model,
    optimizer,
    pipe,
    plot,
    track,
    train,
)


def small(*stages: Stage, seed: Any = 0, **options: Any) -> Pipeline:
    """A net of 610 parameters on 40 digits, 20 steps of Adam in two chunks by default."""
    given = {stage.stage: stage for stage in stages}
    whole = {
        "data": data("digits", examples=40),
        "model": model("mlp", width=8, depth=1, seed=seed),
        "loss": loss("mse"),
        "optimizer": optimizer("adam", lr=1e-2),
        "train": train(**{"steps": 20, "chunk": 10, **options}),
    }
    more = [stage for stage in stages if stage.stage not in whole]
    return pipe(*(given.get(name, stage) for name, stage in whole.items()), *more)


class Heard(SilentListener):
    """Remembers what it hears; stops the run, as Ctrl-C does, at a chunk."""

    def __init__(self, stop_at: int | None = None) -> None:
        self.labels: list[str] = []
        self.notes: list[str] = []
        self.done: list[tuple[str, int]] = []
        self.stop_at = stop_at

    def started(self, what: str, steps: int) -> None:
        self.labels.append(what)
        if self.stop_at == 0:
            raise KeyboardInterrupt

    def advanced(self, what: str, done: int, shown: Mapping[str, float]) -> None:
        self.done.append((what, done))
        if len(self.done) == self.stop_at:
            raise KeyboardInterrupt

    def noted(self, message: str) -> None:
        self.notes.append(message)


def metrics(outcome: Outcome) -> xr.Dataset:
    return read_run(outcome.folder).metrics


@pytest.fixture(scope="module")
def swept(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Heard]:
    pipeline = small(
        optimizer("adam", lr=[1e-3, 1e-2]),
        track("preconditioned_sharpness", every=5),
        seed=[0, 1],
    )
    heard = Heard()
    return execute(pipeline, root=tmp_path_factory.mktemp("runs"), listener=heard), heard


class TestSweep:
    """Two learning rates at once, for each of two seeds one after the other."""

    def test_it_finishes(self, swept: tuple[Outcome, Heard]) -> None:
        outcome, heard = swept
        assert (outcome.status, outcome.exit_code) == ("finished", 0)
        assert heard.labels == ["main (seed 0)", "main (seed 1)"]
        assert heard.done == [(label, done) for label in heard.labels for done in (10, 20)]
        assert heard.notes == []

    def test_dimensions_and_lanes(self, swept: tuple[Outcome, Heard]) -> None:
        run, dataset = read_run(swept[0].folder), metrics(swept[0])
        expected = [{"seed": seed, "lr": lr} for seed in (0, 1) for lr in (1e-3, 1e-2)]
        assert [dict(lane) for lane in run.lanes] == expected
        assert dataset["loss"].dims == ("branch", "seed", "lr", "step")
        assert dataset.sizes["step"] == 20
        due = dataset["ratio"].notnull().any(("branch", "seed", "lr"))
        assert dataset["step"].values[due.values].tolist() == [0, 5, 10, 15]
        # Seeds differ from the start, learning rates from the second step on.
        first = dataset["loss"].isel(branch=0, step=0)
        assert float(first.sel(seed=0, lr=1e-3)) == pytest.approx(float(first.sel(seed=0, lr=1e-2)))
        assert float(first.sel(seed=0, lr=1e-3)) != float(first.sel(seed=1, lr=1e-3))
        thresholds = dataset["threshold"].isel(branch=0, seed=1, step=-1)
        np.testing.assert_allclose(thresholds, [38e3, 3.8e3], rtol=1e-5)

    def test_the_summary_is_what_the_columns_hold(self, swept: tuple[Outcome, Heard]) -> None:
        table = pq.read_table(swept[0].folder / "metrics.parquet").to_pandas()
        assert len(swept[0].summary["runs"]) == 4
        for lane, row in enumerate(swept[0].summary["runs"]):
            mine = table[table["lane"] == lane].sort_values("step")
            assert (row["branch"], row["optimizer"]) == ("main", "adam")
            assert row["lr"] == mine["lr"].iloc[0] == [1e-3, 1e-2][lane % 2]
            assert row["seed"] == mine["seed"].iloc[0] == lane // 2
            assert row["final_loss"] == mine["loss"].iloc[-1]
            assert row["threshold"] == mine["threshold"].iloc[-1]
            spent = mine["preconditioned_sharpness_matvecs"].dropna()
            assert len(spent) == 4
            assert row["matvecs"] == spent.sum() > 0
            assert row["ratio"] == mine["ratio"].dropna().iloc[-1]
            assert (row["unconverged"], row["steps"], row["diverged_at"]) == (0, 20, None)

    def test_what_it_leaves(self, swept: tuple[Outcome, Heard]) -> None:
        outcome, run = swept[0], read_run(swept[0].folder)
        assert run.status == "finished"
        assert run.summary is not None
        assert dict(run.summary)["runs"] == outcome.summary["runs"]
        assert {path.suffix for path in outcome.figures} == {".png", ".pdf"}
        assert all(path.stat().st_size > 1000 for path in outcome.figures)
        assert not (outcome.folder / "metrics.jsonl").exists()
        # The loop's mode was decided once, for whoever runs it again.
        again = Pipeline.from_dict(dict(run.pipeline)).declared().train
        assert again is not None
        assert again.mode == "scan"
        kept = sorted(path.name for path in (outcome.folder / "checkpoints").iterdir())
        assert kept == ["main-group0", "main-group1"]


@pytest.fixture(scope="module")
def parted(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Heard, Pipeline]:
    # Dispatched by the host, the raw sharpness's programs serve all three branches.
    pipeline = small(
        track("preconditioned_sharpness", every=5),
        branch("freeze", at=5),
        branch("switch", optimizer="momentum", lr=0.1, at="start"),
        branch("switch", optimizer="adam", lr=0.1, at="edge", name="late"),
        mode="host",
    )
    heard = Heard()
    outcome = execute(pipeline, root=tmp_path_factory.mktemp("runs"), listener=heard)
    return outcome, heard, pipeline


class TestBranches:
    """A frozen P from step 5, momentum from the start, and a step that never comes."""

    def test_each_branch_begins_at_its_step(self, parted: Any) -> None:
        outcome, heard, _ = parted
        dataset = metrics(outcome)
        assert dataset["branch"].values.tolist() == ["main", "frozen", "momentum"]
        assert heard.labels == ["main", "frozen", "momentum"]
        assert heard.notes == [
            "branch late did not start: the main run ended before it was at the edge."
        ]
        main, frozen, momentum = (dataset["loss"].sel(branch=name) for name in heard.labels)
        assert frozen.isel(step=slice(0, 5)).isnull().all()
        # The same point, to rounding: then the same step, and then their own ways.
        np.testing.assert_allclose(frozen[5:7], main[5:7], rtol=1e-5)
        assert abs(float(frozen[-1] - main[-1])) > 1e-5
        assert float(momentum[0]) == pytest.approx(float(main[0]), rel=1e-6)
        assert momentum.notnull().all()
        assert abs(float(momentum[1] - main[1])) > 1e-3

    def test_the_summary_has_a_row_a_branch(self, parted: Any) -> None:
        rows = {row["branch"]: row for row in parted[0].summary["runs"]}
        assert set(rows) == {"main", "frozen", "momentum"}
        assert {row["steps"] for row in rows.values()} == {20}
        assert [rows[name]["optimizer"] for name in rows] == ["adam", "adam", "momentum"]
        assert rows["momentum"]["threshold"] == pytest.approx(380, rel=1e-5)
        assert rows["momentum"]["ratio"] == pytest.approx(
            rows["momentum"]["preconditioned_sharpness"] / 380
        )

    def test_figures_and_checkpoints(self, parted: Any) -> None:
        outcome, _, pipeline = parted
        assert {path.suffix for path in outcome.figures} == {".png", ".pdf"}
        assert all(path.stat().st_size > 1000 for path in outcome.figures)
        with jax.default_matmul_precision(execution.MATMUL_PRECISION):
            setup = build(pipeline.declared())
            switched = pipeline.declared().branches[1].optimizer
            assert switched is not None
            ways = {
                "main": Continue(),
                "frozen": FreezePreconditioner(),
                "momentum": SwitchOptimizer(switched.build()),
            }
            for name, (_, like) in go_on(setup.trajectory, setup.carry, ways).items():
                carry = load_checkpoint(outcome.folder, name, 20, like)
                assert int(carry.step) == 20
                assert int(carry.lane.diverged_at) == -1
                initial = float(metrics(outcome)["loss"].sel(branch="main", step=0))
                assert float(carry.lane.initial_loss) == pytest.approx(initial, rel=1e-6)


def test_a_checkpoint_goes_on_as_the_run_that_was_not_interrupted(runs: Path) -> None:
    half, whole = (execute(small(steps=steps, batch=8), root=runs) for steps in (10, 20))
    expected = metrics(whole).isel(branch=0)
    # Minibatches: no two steps see the same examples.
    assert (np.diff(expected["loss"].values) > 0).any()
    with jax.default_matmul_precision(execution.MATMUL_PRECISION):
        setup = build(small(steps=20, batch=8).declared())
        carry = load_checkpoint(half.folder, "main", 10, setup.carry)
        (chunk,) = stream(setup.trajectory, carry, 10, chunk=10, mode="scan")
    for name, values in chunk.measurements.items():
        np.testing.assert_array_equal(values[:, 0], expected[name].values[10:])
    end = load_checkpoint(whole.folder, "main", 20, setup.carry)
    for one, other in zip(
        jax.tree.leaves((chunk.carry.lane.params, chunk.carry.lane.optimizer_state)),
        jax.tree.leaves((end.lane.params, end.lane.optimizer_state)),
        strict=True,
    ):
        np.testing.assert_array_equal(one, other)


class TestInterruption:
    def test_a_wish_that_comes_while_processes_agree_is_granted_after_the_next_chunk(
        self, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
    ) -> None:
        asked: list[bool] = []

        def any_process(value: bool) -> bool:
            asked.append(value)
            if len(asked) == 1:
                signal.raise_signal(signal.SIGINT)
            return value

        monkeypatch.setattr("aeoskit_experiments.execution._run.any_process", any_process)
        outcome = execute(small(steps=40), folder=tmp_path / "stopped")
        assert asked == [False, True]
        assert outcome.status == "interrupted"
        assert read_run(outcome.folder).metrics.sizes["step"] == 20

    def test_the_record_holds_every_whole_chunk(self, runs: Path) -> None:
        heard = Heard(stop_at=2)
        outcome = execute(small(steps=40), root=runs, listener=heard)
        assert (outcome.status, outcome.exit_code) == ("interrupted", 130)
        assert heard.done == [("main", 10), ("main", 20)]
        assert "stopped by the user" in heard.notes[-1]
        run = read_run(outcome.folder)
        assert run.status == "interrupted"
        assert run.metrics["step"].values.tolist() == list(range(20))
        assert run.metrics["loss"].notnull().all()
        assert outcome.summary["runs"][0]["steps"] == 20
        assert outcome.figures

    def test_before_the_first_chunk_nothing_is_left(self, runs: Path) -> None:
        with pytest.raises(KeyboardInterrupt):
            execute(small(), root=runs / "new", listener=Heard(stop_at=0))
        assert list(runs.iterdir()) == []

    def test_groups_that_had_no_turn_have_no_numbers(self, runs: Path) -> None:
        outcome = execute(small(seed=[0, 1]), root=runs, listener=Heard(stop_at=1))
        first, second = outcome.summary["runs"]
        assert (first["steps"], second["steps"]) == (10, 0)
        assert second["final_loss"] is None


class TestFailure:
    def test_a_build_that_fails_leaves_nothing(
        self, runs: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(experiment: Any) -> Any:
            raise ValueError("the data are\nnot there")

        monkeypatch.setattr(execution, "build", fail)
        with pytest.raises(UserError, match=r"^the data are not there$"):
            execute(small(), root=runs / "new")
        assert list(runs.iterdir()) == []

    def test_a_later_group_that_fails_leaves_the_first(
        self, runs: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(experiment: Any) -> Any:
            if experiment.model.seed == 1:
                raise ValueError("no such seed")
            return build(experiment)

        monkeypatch.setattr(execution, "build", fail)
        with pytest.raises(UserError, match="no such seed"):
            execute(small(seed=[0, 1]), root=runs)
        (run,) = list_runs(runs)
        assert run.status == "failed"
        assert run.metrics["loss"].notnull().sum() == 20

    def test_training_that_fails_at_once_leaves_nothing(
        self, runs: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def fail(*args: Any, **options: Any) -> None:
            raise RuntimeError("out of memory")

        monkeypatch.setattr(execution, "run_group", fail)
        with pytest.raises(RuntimeError, match="out of memory"):
            execute(small(), root=runs / "new")
        assert list(runs.iterdir()) == []

    def test_more_eigenvalues_than_parameters(self, runs: Path) -> None:
        pipeline = small(model("mlp", width=1, depth=1), track("sharpness", k=90, basis=200))
        with pytest.raises(UserError, match=r"k is 90, .* 85 parameters"):
            execute(pipeline, root=runs)
        assert list(runs.iterdir()) == []

    def test_a_folder_that_exists(self, runs: Path) -> None:
        (runs / "there").mkdir()
        heard = Heard()
        with pytest.raises(UserError, match="exists already"):
            execute(small(), folder=runs / "there", listener=heard)
        assert heard.labels == []
        assert [path.name for path in runs.rglob("*")] == ["there"]


class TestDivergence:
    def test_every_lane(self, runs: Path) -> None:
        pipeline = small(optimizer("gradient_descent", lr=[1e8, 1e9]))
        outcome = execute(pipeline, root=runs)
        assert (outcome.status, outcome.exit_code) == ("diverged", 1)
        assert read_run(outcome.folder).status == "diverged"
        for row in outcome.summary["runs"]:
            assert row["steps"] == row["diverged_at"] + 1 < 20

    def test_one_lane_of_three(self, runs: Path) -> None:
        heard = Heard()
        pipeline = small(optimizer("gradient_descent", lr=[1e-3, 1e9, 1e-2]))
        outcome = execute(pipeline, root=runs, listener=heard)
        assert (outcome.status, outcome.exit_code) == ("finished", 0)
        good, bad, better = outcome.summary["runs"]
        assert heard.notes == [f"main: lane 1 diverged at step {bad['diverged_at']}."]
        dataset = metrics(outcome).isel(branch=0)
        assert dataset["diverged_at"].values.tolist() == [-1, bad["diverged_at"], -1]
        for row in (good, better):
            losses = dataset["loss"].sel(lr=row["lr"])
            assert (row["diverged_at"], row["steps"]) == (None, 20)
            assert row["final_loss"] == float(losses[-1]) < float(losses[0])
        # Nothing is written of a lane after its divergence.
        written = dataset["loss"].sel(lr=1e9).notnull().sum()
        assert written <= bad["diverged_at"] + 1 == bad["steps"]


def test_stop_loss_ends_the_run_with_its_chunk(runs: Path) -> None:
    heard = Heard()
    # The median over the run's last 50 steps, here over all of them.
    pipeline = small(branch("freeze", at=35), steps=40, stop_loss=1.5)
    outcome = execute(pipeline, root=runs, listener=heard)
    dataset = metrics(outcome)
    steps = dataset.sizes["step"]
    assert 0 < steps < 40
    assert steps % 10 == 0
    losses = dataset["loss"].values[0]
    assert np.median(losses) < 1.5
    assert steps == 10 or np.median(losses[:-10]) >= 1.5
    assert (outcome.status, outcome.exit_code) == ("finished", 0)
    assert heard.notes == ["branch frozen did not start: the main run ended before step 35."]


def test_a_convolution_is_dispatched_from_the_host(runs: Path) -> None:
    network = model("cnn", channels=2, depth=1, convolution="lax")
    outcome = execute(small(network, steps=4, chunk=2, batch=8), root=runs)
    run = read_run(outcome.folder)
    again = Pipeline.from_dict(dict(run.pipeline)).declared().train
    assert again is not None
    assert again.mode == "host"
    assert run.metrics["loss"].shape == (1, 4)
    assert run.metrics["loss"].notnull().all()


def test_the_figure_of_the_advance_without_its_branches(runs: Path) -> None:
    # Requested where nothing can be measured: the record is there, and every number is None.
    heard = Heard()
    pipeline = small(optimizer("adam", lr=[1e-3, 1e-2]), plot("advance"))
    outcome = execute(pipeline, root=runs, listener=heard)
    assert outcome.exit_code == 0
    assert outcome.summary["growth"] is None
    assert outcome.summary["frozen_growth"] is None
    assert read_run(outcome.folder).status == "finished"


@pytest.mark.parametrize(("overhead", "chunk"), [(1e-6, 20), (10.0, 20), (0.2, 1)])
def test_a_budget_and_what_it_missed_are_recorded(runs: Path, overhead: float, chunk: int) -> None:
    heard = Heard()
    tracked = track("preconditioned_sharpness", every=5, overhead=overhead)
    outcome = execute(small(tracked, steps=120, chunk=chunk), root=runs, listener=heard)
    metrics = read_run(outcome.folder).metrics.isel(branch=0)
    [row] = outcome.summary["runs"]
    found = row["budgets"]["preconditioned_sharpness"]
    assert found["asked"] == overhead
    due = metrics["ratio"].notnull().values
    periods = metrics["preconditioned_sharpness_period"].values
    assert np.isnan(periods[~due]).all()
    # Of the state at the end, as the line is: the last row may be from before a change.
    assert found["period"] >= periods[due][-1]
    missed = [note for note in heard.notes if note.startswith("main: ")]
    assert found["reached"] == (not missed)
    if chunk == 1:
        assert found["overhead"] is None
        assert "not measured" in missed[0]
    elif overhead < 1:
        assert not found["reached"]
        assert periods[due][-1] > 5
        assert f"not {overhead:.2g}" in missed[0]
        assert f"took {found['overhead']:.2g} of the time" in missed[0]
        assert f" {found['period']:.0f} steps" in missed[0]
    elif found["reached"]:  # as on any machine that is not at a standstill
        assert found["overhead"] <= 11
    criterion = metrics["preconditioned_sharpness_criterion"]
    assert set(np.unique(criterion.values[due])) <= {1, 2}
    assert criterion.attrs["flag_meanings"] == "none residual value"


def test_a_run_compiles_each_of_its_programs_once(
    runs: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Chunks of several lengths are one program; the initial state and the parameters another."""
    pipeline = small(
        # Sizes of no other test, which may have compiled the programs.
        model("mlp", width=9, depth=1),
        track("preconditioned_sharpness", every=3),
        steps=25,
    )
    with jax.log_compiles(True), caplog.at_level(logging.WARNING, "jax"):
        execute(pipeline, root=runs)
    compiled = re.compile(r"Finished XLA compilation of jit\((\w+)\)")
    found = [match[1] for record in caplog.records if (match := compiled.match(record.message))]
    counts = collections.Counter(found)
    assert {name: counts[name] for name in ("_drawn", "_initial", "_scan_chunk")} == {
        "_drawn": 1,
        "_initial": 1,
        "_scan_chunk": 1,
    }
