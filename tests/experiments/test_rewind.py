"""A run by minibatches that is rewound: what it keeps and says, and that it is the same run."""

import shutil
from pathlib import Path
from typing import Any

import equinox as eqx
import jax
import numpy as np
import pytest
import xarray as xr

from aeoskit.record import create_run, load_checkpoint, read_run
from aeoskit_experiments import rerun
from aeoskit_experiments.data import digits
from aeoskit_experiments.execution import Outcome, build, execute
from aeoskit_experiments.execution._rewind import _ends, find_source_run
from aeoskit_experiments.losses import misclassified
from aeoskit_experiments.models import mlp
from aeoskit_experiments.pipelines import (
    Pipeline,
    Rewind,
    Stage,
    Train,
    UserError,
    branch,
    data,
    loss,
    model,
    optimizer,
    pipe,
    rewind,
    store,
    track,
    train,
)

AT = 21
WHOLE = {
    "data": data("digits", examples=40, test=11),
    "model": model("mlp", width=4, depth=1),
    "loss": loss("mse"),
    "optimizer": optimizer("adam", lr=1e-2, warmup=5),
    "track": track("preconditioned_sharpness", every=4, examples=24),
    "test": track("test_error", every=4),
    "error": track("train_error", every=4),
    "train": train(epochs=8, batch=8, chunk=8, sampling="replacement", seed=3),
    "store": store(checkpoint_every=16),
    "branch": branch("freeze", at=AT),
}


@pytest.fixture(scope="module")
def first(tmp_path_factory: pytest.TempPathFactory) -> Outcome:
    return execute(pipe(*WHOLE.values()), root=tmp_path_factory.mktemp("runs"))


@pytest.fixture(scope="module")
def without_its_checkpoint(first: Outcome, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The run with no state at the very step: it has to be found again from an earlier one."""
    folder = tmp_path_factory.mktemp("copy") / "run"
    shutil.copytree(first.folder, folder)
    shutil.rmtree(folder / "checkpoints" / "main" / str(AT))
    return folder


@pytest.fixture(scope="module")
def second(without_its_checkpoint: Path) -> Outcome:
    stages = (
        rewind(without_its_checkpoint, at=AT),
        branch("freeze", at="start"),
        branch("switch", optimizer="momentum", ratio=0.5, at="start"),
    )
    return execute(pipe(*stages), root=without_its_checkpoint.parent)


def metrics(outcome: Outcome) -> xr.Dataset:
    return read_run(outcome.folder).metrics


class TestTheRun:
    def test_states_are_kept_at_the_start_on_the_way_at_branches_and_at_ends(
        self, first: Outcome
    ) -> None:
        folder = first.folder / "checkpoints"
        kept = {part.name: sorted(int(p.name) for p in part.iterdir()) for part in folder.iterdir()}
        # From step 21 on chunks end at 29, 37 and 40.
        assert kept == {"main": [0, 16, 21, 37, 40], "frozen": [40]}

    def test_the_threshold_follows_the_warmup(self, first: Outcome) -> None:
        main = metrics(first).sel(branch="main")
        lr = 1e-2 * np.minimum((main["step"].values + 1) / 5, 1)
        np.testing.assert_allclose(main["learning_rate"], lr, rtol=1e-5)
        np.testing.assert_allclose(main["threshold"], 38 / lr, rtol=1e-4)
        due = main["ratio"].notnull().values
        value = main["preconditioned_sharpness"].sel(index=0).values[due]
        np.testing.assert_allclose(main["ratio"].values[due], value * lr[due] / 38, rtol=1e-4)

    def test_its_row_says_what_no_column_does(self, first: Outcome) -> None:
        row = first.summary["runs"][0]
        expected = {"epochs": 8, "planned_steps": 40, "steps": 40, "probe_examples": 24}
        assert {name: row[name] for name in expected} == expected
        main = metrics(first).sel(branch="main")
        for name in ("test_error", "test_loss", "train_error"):
            assert row[name] == np.median(main[name].values[[32, 36]])

    def test_errors_are_those_of_the_parameters(self, first: Outcome) -> None:
        main = metrics(first).sel(branch="main", step=0)
        dataset = digits(examples=40, test=11)
        network = mlp(width=4, depth=1)
        params = network.init(jax.random.key(0), dataset)
        for name, inputs, targets in (
            ("train_error", dataset.inputs, dataset.targets),
            ("test_error", dataset.test_inputs, dataset.test_targets),
        ):
            wrong = misclassified(network.apply(params, inputs), targets)
            assert float(main[name]) == pytest.approx(float(wrong.mean()))
        assert float(main["test_error"]) != float(main["train_error"])


class TestRewound:
    def test_it_is_the_other_run_bit_for_bit(self, first: Outcome, second: Outcome) -> None:
        before, after = metrics(first), metrics(second)
        assert after["step"].values.tolist() == list(range(AT, 40))
        for name in ("main", "frozen"):
            one, other = before.sel(branch=name, step=slice(AT, None)), after.sel(branch=name)
            for variable in before.data_vars:
                np.testing.assert_array_equal(one[variable], other[variable], err_msg=variable)

    def test_its_state_is_the_other_ones(self, first: Outcome, second: Outcome) -> None:
        with jax.default_matmul_precision("highest"):
            like = build(pipe(*WHOLE.values()).declared()).carry
        one, other = (load_checkpoint(o.folder, "main", 40, like) for o in (first, second))
        assert one.lane.probe_states["preconditioned_sharpness"] is not None
        assert jax.random.key_data(one.lane.key).tolist() != [0, 0]
        assert eqx.tree_equal(one, other)

    def test_its_rows_say_where_it_began_and_which_rate_the_ratio_made(
        self, second: Outcome
    ) -> None:
        rows = {row["branch"]: row for row in second.summary["runs"]}
        assert [row["rewound_to"] for row in rows.values()] == [AT] * 3
        momentum = metrics(second).sel(branch="momentum")
        assert rows["momentum"]["lr"] == float(momentum["learning_rate"].max())
        assert rows["momentum"]["lr"] == float(momentum["learning_rate"].min()) != 1.0
        # Set on all of the data, measured on the probe batch.
        assert 0.3 < float(momentum["ratio"].sel(step=24)) < 0.8

    def test_its_pipeline_is_whole_and_runs_again(self, second: Outcome) -> None:
        stored = Pipeline.from_dict(dict(read_run(second.folder).pipeline))
        names = [stage.stage for stage in stored.stages]
        assert names[:4] == ["data", "model", "loss", "optimizer"]
        assert names[4:] == ["track"] * 3 + ["train", "rewind", "branch", "branch"]
        assert stored.inherited() == stored
        assert stored.declared().train == Train(
            epochs=8, batch=8, chunk=8, sampling="replacement", seed=3, mode="scan"
        )
        assert rerun(second.folder)[1]["identical"]

    def test_other_probes_and_more_steps(self, first: Outcome, tmp_path: Path) -> None:
        stages = (rewind(first.folder, at=24), track("test_error", every=4), train(44))
        outcome = execute(pipe(*stages, store(checkpoints=False)), root=tmp_path)
        after, before = metrics(outcome).isel(branch=0), metrics(first).sel(branch="main")
        assert after["step"].values.tolist() == list(range(24, 44))
        assert "ratio" not in after
        np.testing.assert_allclose(after["loss"].values[:16], before["loss"].values[24:], rtol=1e-5)
        assert "planned_steps" not in outcome.summary["runs"][0]
        assert not (outcome.folder / "checkpoints").exists()


REFUSED = {
    "no such run": ((rewind("runs/none", at=3),), "there is no run at runs/none"),
    "too early": ((), "no checkpoint of step 15 or before (the first one is at step 16)"),
    "too late": ((rewind("", at=41), train(60)), "at is 41, but the run"),
    "at the end": ((rewind("", at=40),), "training has only 40 steps in all"),
    "no edge": ((rewind(""),), "was never at the edge: give a step"),
    "another model": ((rewind("", at=30), model("mlp", width=5, depth=1)), "width is 5, and was 4"),
    "other data": ((rewind("", at=30), data("quadratic")), "was not, data digits"),
    "another rate": ((rewind("", at=30), optimizer("adam", lr=1.0)), "by `branch switch`"),
    "another batch": ((rewind("", at=30), train(50, batch=4)), "train's batch is 4, and in"),
    "an early branch": ((rewind("", at=30), branch("freeze", at=29)), "rewound to step 30"),
    "another loss": ((rewind("", at=30), loss("cross_entropy")), "is not what the run"),
    "twice": ((rewind("", at=30), rewind("", at=31)), "'rewind' appears twice"),
}


@pytest.mark.parametrize("name", list(REFUSED))
def test_refused_in_one_line(name: str, without_its_checkpoint: Path, tmp_path: Path) -> None:
    stages, says = REFUSED[name]
    folder = without_its_checkpoint
    if name == "too early":
        folder = tmp_path / "late"
        shutil.copytree(without_its_checkpoint, folder)
        shutil.rmtree(folder / "checkpoints" / "main" / "0")
        stages = (rewind("", at=15),)

    def there(stage: Stage) -> Stage:
        if stage.stage != "rewind" or stage.options["run"]:
            return stage
        return rewind(folder, **{k: v for k, v in stage.options.items() if k != "run"})

    with pytest.raises(UserError) as caught:
        execute(pipe(*map(there, stages)), root=tmp_path / "new")
    if name == "other data":
        says = "data quadratic is not what the run"
    assert says in str(caught.value)
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "new").exists()


def test_a_checkpoint_of_another_structure(without_its_checkpoint: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(without_its_checkpoint, folder)
    text = (folder / "pipeline.json").read_text()
    (folder / "pipeline.json").write_text(text.replace('"width": 4', '"width": 5'))
    with pytest.raises(UserError, match=r"^rewind: array .* of the checkpoint .* has shape"):
        execute(pipe(rewind(folder, at=30)), root=tmp_path / "new")


@pytest.mark.parametrize(
    ("stages", "says"),
    [
        ((track("test_error"),), "the data have no test rows"),
        ((track("train_error"),), "the targets are not classes"),
    ],
)
def test_an_error_that_nothing_has(stages: Any, says: str) -> None:
    pipeline = pipe(
        data("quadratic"), model("linear"), loss("mse"), optimizer("adam", lr=1), train(50), *stages
    )
    with pytest.raises(UserError, match=says):
        build(pipeline.experiment())


def test_the_error_of_tokens_counts_targets() -> None:
    outputs = np.eye(3, dtype=np.float32)[[[0, 1], [2, 2]]]
    labels, weights = np.array([[0, 2], [2, 0]]), np.array([[1.0, 1.0], [1.0, 0.0]], np.float32)
    outputs, labels, weights = jax.device_put((outputs, labels, weights))
    assert misclassified(outputs, labels).tolist() == [0.5, 0.5]
    assert [float(part) for part in misclassified(outputs, (labels, weights))] == [1.0, 3.0]


class TestEdge:
    """Where a branch of the other run would have begun: at the end of a chunk."""

    def test_chunks_end_where_branches_begin_too(self) -> None:
        assert _ends(Train(steps=100, chunk=30), [45, "edge"], 100) == [30, 45, 75, 100]
        assert _ends(Train(steps=300, chunk=100), [], 250) == [100, 200]
        assert _ends(Train(epochs=9, chunk=8), [], 20) == [8, 16, 20]

    def test_the_first_chunk_at_the_edge(self, tmp_path: Path) -> None:
        whole = {**WHOLE, "train": train(400, chunk=40), "branch": branch("freeze", at=10)}
        stages = [stage for name, stage in whole.items() if name not in ("test", "error")]
        writer = create_run(tmp_path, "run", pipeline=pipe(*stages).to_dict(), environment={})
        steps = np.arange(400)
        ratio = np.where(steps < 100, 0.5, 1.0)
        writer.append("main", {"loss": ratio[:, None], "ratio": ratio[:, None]}, steps)
        (writer.path / "checkpoints" / "main" / "110").mkdir(parents=True)
        (writer.path / "checkpoints" / "main" / "400").mkdir()
        source = find_source_run(Rewind(str(writer.path)), raw=False)
        # A branch begins at 10, so that chunks end at 50, 90, 130; from 100 on the ratio is 1.
        assert (source.at, source.checkpoint) == (130, 110)
        assert source.rows["step"].values[-1] == 129
