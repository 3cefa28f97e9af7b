"""The realized edge in runs: their records, states, branches and summaries."""

import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
import xarray as xr

from aeoskit.figures import edge_figure, summary_figure
from aeoskit.record import read_run
from aeoskit.trajectory import STATES, edge_states
from aeoskit_experiments import UserError
from aeoskit_experiments.execution import Outcome, SilentListener, execute, measured
from aeoskit_experiments.execution._rewind import find_source_run
from aeoskit_experiments.execution._windows import edge_step
from aeoskit_experiments.pipelines import (
    Rewind,
    Stage,
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
from aeoskit_experiments.records import so_far


class Notes(SilentListener):
    """The notes, and what the record of the one run in a folder had after each chunk."""

    def __init__(self, root: Path | None = None) -> None:
        self.heard: list[str] = []
        self.shown: list[Any] = []
        self.states: list[xr.DataArray | None] = []
        self._root = root

    def advanced(self, what: str, done: int, shown: Any) -> None:
        if self._root is not None:
            (folder,) = self._root.iterdir()
            run = read_run(folder)
            assert run.status == "open"
            self.shown.append((so_far(run), dict(shown)))
            self.states.append(run.metrics.get("edge_state"))

    def noted(self, message: str) -> None:
        self.heard.append(message)


def run(root: Path, *stages: Stage, listener: Any = None, **values: Any) -> Outcome:
    """A small net at a learning rate at which it is soon at its edge."""
    options = {"steps": 250, "chunk": 30, **values}
    whole = {
        "data": data("digits", examples=60, label_noise=1.0),
        "model": model("mlp", width=16),
        "loss": loss("mse"),
        "optimizer": optimizer("adam", lr=0.03, beta2=0.9),
        "train": train(**options),
        "track": track("preconditioned_sharpness", every=10),
    }
    given = {stage.stage: stage for stage in stages}
    more = [stage for stage in stages if stage.stage not in whole]
    pipeline = pipe(*(given.get(name, stage) for name, stage in whole.items()), *more)
    return execute(pipeline, root=root, listener=listener)


def main_run(outcome: Outcome) -> xr.Dataset:
    return read_run(outcome.folder).metrics.sel(branch="main")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> tuple[Outcome, Notes]:
    root = tmp_path_factory.mktemp("runs")
    notes = Notes(root)
    outcome = run(
        root,
        branch("freeze", at="edge", name="frozen"),
        branch("switch", optimizer="momentum", lr=0.1, at=40, name="momentum"),
        branch("switch", optimizer="momentum", lr=0.1, at="threshold", name="late"),
        store(checkpoint_every=60),
        listener=notes,
    )
    return outcome, notes


def test_each_step_has_it_across_chunks_and_segments(whole: tuple[Outcome, Notes]) -> None:
    dataset = main_run(whole[0])
    losses, promised = dataset["loss"].values, dataset["predicted_change"].values
    expected = 1 - np.diff(losses) / promised[:-1]
    edges = dataset["realized_edge"].values
    np.testing.assert_allclose(edges[:-1], expected, rtol=1e-6)
    assert np.isnan(edges[-1])
    assert (dataset["realized_edge_error"].values[:-1] < 0.05).all()
    due = dataset["step_norm"].notnull().values
    assert dataset["step"].values[due].tolist() == [*range(0, 250, 10)]
    cost = dataset["realized_edge"].attrs["cost"]
    assert cost == "no forward pass: the losses are those of the training steps"


def test_a_branch_has_it_from_its_own_first_step(whole: tuple[Outcome, Notes]) -> None:
    dataset = read_run(whole[0].folder).metrics.sel(branch="momentum")
    measured = dataset["step"].values[dataset["realized_edge"].notnull().values]
    assert measured.tolist() == [*range(40, 249)]


def test_the_state_is_in_the_record_the_summary_and_the_picture(
    whole: tuple[Outcome, Notes],
) -> None:
    outcome, _ = whole
    (row,) = [row for row in outcome.summary["runs"] if row["branch"] == "main"]
    dataset = main_run(outcome)
    codes = dataset["edge_state"].dropna("step")
    assert row["state"] == STATES[int(codes[-1])] == "at the edge"
    assert int(codes["step"][0]) == 49
    first = int(codes["step"][(codes == 2).values][0])
    assert first <= row["arrived"] < 250
    assert 0.8 <= row["zeta"] < 1.3
    assert row["zeta_before"] < row["zeta"]
    assert row["ratio_of"] == "edge"
    assert row["arrived"] <= row["window"][0] < row["window"][1] < 250
    at = dataset["step"].values
    within = (at >= row["window"][0]) & (at <= row["window"][1])
    assert row["ratio"] == pytest.approx(float(np.nanmedian(dataset["ratio"].values[within])))
    assert row["participation"] > 0
    assert row["calibration"] > 0
    metrics = read_run(outcome.folder).metrics
    labels = [axes.get_ylabel() for axes in edge_figure(metrics).axes]
    assert labels[2].startswith("realized edge")
    bands = [line for line in edge_figure(metrics).axes[1].lines if line.get_label() == "_state"]
    assert len(bands) == 2 * metrics.sizes["branch"]
    assert not any("predicted" in axes.get_ylabel() for axes in summary_figure(metrics).axes)


def recorded_and_expected(metrics: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The states of one branch and lane as they are in the record, and by its realized edges."""
    measured = metrics["predicted_change"].notnull().values
    rows = metrics.isel(step=measured)
    columns = (rows[name].values for name in ("step", "realized_edge", "predicted_change"))
    assert metrics["edge_state"].notnull().values[~measured].sum() == 0
    return rows["edge_state"].values, edge_states(*columns).codes


def test_the_states_are_in_the_record_while_a_run_goes_on(whole: tuple[Outcome, Notes]) -> None:
    outcome, notes = whole
    metrics = read_run(outcome.folder).metrics
    for name in ("main", "frozen", "momentum"):
        np.testing.assert_array_equal(*recorded_and_expected(metrics.sel(branch=name)))
    seen = 0
    for states, (rows, shown) in zip(notes.states, notes.shown, strict=True):
        if states is None:
            continue
        final = metrics["edge_state"].sel(branch=states["branch"], step=states["step"])
        there = states.notnull().values
        np.testing.assert_array_equal(states.values[there], final.values[there])
        # In the last of the branches so far, all but the last step have theirs.
        rows = rows[-1]
        before = states["step"] < rows["step"]
        late, own = (x.sel(branch=rows["branch"])[before.values] for x in (final, states))
        np.testing.assert_array_equal(own.values, late.values)
        assert shown.get("state") == rows["state"]
        seen += rows["state"] == "at the edge"
    assert seen > 2


def test_a_record_without_it_is_drawn_as_before(whole: tuple[Outcome, Notes]) -> None:
    old = read_run(whole[0].folder).metrics
    old = old.drop_vars([name for name in old if "edge" in str(name)])
    figure = edge_figure(old)
    assert len(figure.axes) == 2
    assert not [line for axes in figure.axes for line in axes.lines if line.get_label() == "_state"]


def test_a_branch_at_the_edge_begins_at_the_first_chunk_in_which_the_run_is_there(
    whole: tuple[Outcome, Notes],
) -> None:
    outcome, notes = whole
    metrics = read_run(outcome.folder).metrics
    frozen = metrics["loss"].sel(branch="frozen").dropna("step")
    codes = metrics["edge_state"].sel(branch="main")
    arrived = int(metrics["step"][(codes == 2).values][0])
    begun = int(frozen["step"][0])
    # The first end of a chunk at which that step's realized edge was known; segments end at 40.
    ends = [30, 40, *range(70, 250, 30)]
    assert begun == next(end for end in ends if end > arrived + 1)
    assert not [note for note in notes.heard if "realized edge" in note]


def test_a_rewound_run_finds_the_same_edge(whole: tuple[Outcome, Notes], tmp_path: Path) -> None:
    outcome, _ = whole
    begun = int(
        read_run(outcome.folder).metrics["loss"].sel(branch="frozen").dropna("step")["step"][0]
    )
    again = execute(pipe(rewind(outcome.folder, at="edge"), train(steps=250)), root=tmp_path)
    dataset = read_run(again.folder).metrics
    assert int(dataset["step"][0]) == begun
    before = main_run(outcome).sel(step=dataset["step"])
    found = dataset["realized_edge"].sel(branch="main")
    np.testing.assert_array_equal(found.values, before["realized_edge"].values)
    # So are its states, since the first steps look back at those of the other run.
    at = dataset["step"].values[:-1]
    states = read_run(outcome.folder).metrics["edge_state"].sel(branch="main", step=at)
    assert states.notnull().all()
    np.testing.assert_array_equal(
        dataset["edge_state"].sel(branch="main", step=at).values, states.values
    )
    # Its summary has the arrival of the run that it goes on from.
    (row,) = again.summary["runs"]
    (first,) = [row for row in outcome.summary["runs"] if row["branch"] == "main"]
    assert (row["arrived"], row["state"]) == (first["arrived"], first["state"])


def test_a_branch_at_the_threshold_goes_by_the_ratio_and_so_does_a_rewound_run(
    whole: tuple[Outcome, Notes], tmp_path: Path
) -> None:
    outcome, _ = whole
    begun = int(
        read_run(outcome.folder).metrics["loss"].sel(branch="late").dropna("step")["step"][0]
    )
    assert find_source_run(Rewind(str(outcome.folder), at="threshold"), raw=False).at == begun
    steps, ratio = measured(main_run(outcome), "ratio")
    ends = (30, 40, *range(70, 250, 30))
    risen = [edge_step(steps[steps < end], ratio[steps < end]) for end in ends]
    assert begun == next(end for end, step in zip(ends, risen, strict=True) if step is not None)
    old = tmp_path / "old"
    shutil.copytree(outcome.folder, old)
    table = pq.read_table(old / "metrics.parquet")
    kept = [name for name in table.column_names if name != "ratio"]
    pq.write_table(table.select(kept), old / "metrics.parquet")
    with pytest.raises(UserError, match=r"has no ratio to it that rose to 0\.9 from below"):
        find_source_run(Rewind(str(old), at="threshold"), raw=False)


def test_a_record_without_it_is_rewound_by_the_ratio_which_is_said(
    whole: tuple[Outcome, Notes], tmp_path: Path
) -> None:
    old = tmp_path / "old"
    shutil.copytree(whole[0].folder, old)
    table = pq.read_table(old / "metrics.parquet")
    kept = [name for name in table.column_names if "edge" not in name]
    pq.write_table(table.select(kept), old / "metrics.parquet")
    notes = Notes()
    again = execute(
        pipe(
            rewind(old, at="edge"),
            train(steps=230),
            branch("switch", optimizer="momentum", lr=0.1, at="edge", name="momentum"),
        ),
        root=tmp_path,
        listener=notes,
    )
    begun = int(read_run(again.folder).metrics["step"][0])
    found, branching = again.summary["warnings"][:2]
    assert (
        f"{old} has no realized edges: it is rewound to step {begun}, by which its ratio" in found
    )
    assert branching.startswith("no realized edge is known of the whole run: a branch at the edge")
    assert notes.heard[:2] == [f"{found}.", f"{branching}."]


def test_a_small_beta2_is_warned_of(whole: tuple[Outcome, Notes], tmp_path: Path) -> None:
    (warning,) = whole[0].summary["warnings"]
    assert warning.startswith("at beta2 = 0.9 P moves within a step")
    calm = run(tmp_path, optimizer("adam", lr=1e-3, beta2=0.99), steps=20)
    assert "warnings" not in calm.summary


def test_on_minibatches_it_is_measured_where_the_ratio_is(tmp_path: Path) -> None:
    outcome = run(tmp_path, batch=[16, 60], steps=60, chunk=25)
    both = main_run(outcome)
    dataset = both.sel(batch=16)
    measured = dataset["realized_edge"].notnull().values
    assert dataset["step"].values[measured].tolist() == [0, 10, 20, 30, 40, 50]
    assert (dataset["ratio"].notnull().values == measured).all()
    assert both["realized_edge"].sel(batch=60).notnull().sum() == 59
    assert both["realized_edge"].attrs["cost"] == (
        "lane 0: one more forward pass of the step's own batch at each measurement; "
        "lane 1: no forward pass: the losses are those of the training steps"
    )


def test_lanes_and_groups_have_their_own_states(tmp_path: Path) -> None:
    sweep = run(
        tmp_path,
        optimizer("adam", lr=[1e-4, 0.03, 3e6], beta2=0.99),
        model("mlp", width=16, seed=[0, 1]),
    )
    codes = read_run(sweep.folder).metrics["edge_state"].sel(branch="main")
    assert len(sweep.summary["runs"]) == 6
    metrics = read_run(sweep.folder).metrics.sel(branch="main")
    for row in sweep.summary["runs"]:
        own = metrics.sel(seed=row["seed"], lr=row["lr"])
        np.testing.assert_array_equal(*recorded_and_expected(own))
        if row["lr"] > 1:
            assert row["diverged_at"] is not None
            continue
        own = codes.sel(seed=row["seed"], lr=row["lr"]).dropna("step")
        assert row["state"] == STATES[int(own[-1])]
        assert (row["state"] == "below") == (row["lr"] == 1e-4)
