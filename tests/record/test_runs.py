import errno
import json
import os
import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from aeoskit.record import create_run, lane_selection, list_runs, read_run
from aeoskit.record._rows import read_rows

FINE = {"pipeline": {"stages": ["train"]}, "environment": {}}


def make(root, lanes=({},), **options):
    return create_run(root, "adam-edge", lanes=list(lanes), **(FINE | options))


def test_a_folder_has_name_time_and_hash_and_whole_files(tmp_path):
    writer = make(tmp_path)
    assert writer.path.parent == tmp_path
    assert re.fullmatch(r"adam-edge-\d{8}-\d{6}-[0-9a-f]{8}", writer.path.name)
    assert json.loads((writer.path / "pipeline.json").read_text()) == FINE["pipeline"]
    again = make(tmp_path)
    assert again.path != writer.path
    # The hash is that of the pipeline, whatever the order of its keys.
    assert again.path.name.split("-")[4] == writer.path.name.split("-")[4]
    other = make(tmp_path, pipeline={"stages": []})
    assert other.path.name.split("-")[4] != writer.path.name.split("-")[4]


def test_an_existing_folder_is_refused(tmp_path):
    (tmp_path / "mine").mkdir()
    with pytest.raises(ValueError, match="exists already"):
        make(tmp_path, folder=tmp_path / "mine")
    assert list((tmp_path / "mine").iterdir()) == []
    writer = make(tmp_path, folder=tmp_path / "deep" / "other")
    assert writer.path == tmp_path / "deep" / "other"


def test_a_root_that_is_a_file_is_refused(tmp_path):
    (tmp_path / "runs").write_text("")
    for root in (tmp_path / "runs", tmp_path / "runs" / "deeper"):
        with pytest.raises(ValueError, match="is a file"):
            make(root)
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]


def test_a_read_only_root_is_refused_and_nothing_is_left(tmp_path, monkeypatch):
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(ValueError, match="not writable"):
        make(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


def test_a_root_that_turns_out_to_be_read_only_leaves_nothing(tmp_path, monkeypatch):
    # As root, `access` allows everything: the refusal comes from mkdir then.
    import pathlib

    mkdir = pathlib.Path.mkdir

    def refuse(self, *arguments, **options):
        if self.name.startswith("adam-edge"):
            raise OSError(errno.EROFS, "Read-only file system")
        return mkdir(self, *arguments, **options)

    monkeypatch.setattr(pathlib.Path, "mkdir", refuse)
    with pytest.raises(ValueError, match="Read-only file system"):
        make(tmp_path / "a" / "b")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("name", ["", "a/b", "../a", ".hidden"])
def test_a_name_that_is_no_folder_name_is_refused(tmp_path, name):
    with pytest.raises(ValueError, match="names a folder"):
        create_run(tmp_path, name, **FINE)


def test_discard_leaves_nothing_also_of_parents(tmp_path):
    writer = make(tmp_path / "a" / "runs")
    writer.append("main", {"loss": np.ones((1, 1))}, np.arange(1))
    writer.discard()
    assert list(tmp_path.iterdir()) == []
    (tmp_path / "runs").mkdir()
    make(tmp_path / "runs").discard()
    assert [path.name for path in tmp_path.iterdir()] == ["runs"]
    # A parent that has got another tenant stays.
    first, second = make(tmp_path / "b"), make(tmp_path / "b")
    first.discard()
    assert second.path.is_dir()


def test_a_grid_becomes_dimensions(tmp_path):
    lanes = [{"lr": lr, "beta1": beta1, "eps": 1e-7} for beta1 in (0.9, 0.5) for lr in (1e-3, 3e-3)]
    writer = make(tmp_path, lanes)
    values = np.arange(12.0).reshape(3, 4)
    writer.append("main", {"loss": values}, np.array([0, 10, 20]))
    for metrics in (read_run(writer.path).metrics, read_run(writer.close({})).metrics):
        assert metrics["loss"].dims == ("branch", "lr", "beta1", "step")
        assert metrics["eps"].item() == 1e-7
        for lane, at in enumerate(lanes):
            chosen = metrics["loss"].sel(branch="main", lr=at["lr"], beta1=at["beta1"])
            np.testing.assert_array_equal(chosen, values[:, lane])
        assert (metrics["diverged_at"] == -1).all()


def test_lanes_off_a_grid_have_one_dimension(tmp_path):
    writer = make(tmp_path, [{"lr": 1.0, "beta1": 0.9}, {"lr": 2.0, "beta1": 0.8}, {"lr": 1.0}])
    writer.append("main", {"loss": np.ones((2, 3))}, np.arange(2))
    metrics = read_run(writer.close({})).metrics
    assert metrics["loss"].dims == ("branch", "lane", "step")
    np.testing.assert_array_equal(metrics["lr"], [1.0, 2.0, 1.0])
    np.testing.assert_array_equal(metrics["beta1"], [0.9, 0.8, np.nan])


def test_one_lane_has_no_lane_dimension(tmp_path):
    for lanes in ([{}], [{"lr": 0.5}]):
        writer = make(tmp_path, lanes)
        writer.append("main", {"loss": np.ones((2, 1))}, np.arange(2))
        assert read_run(writer.path).metrics["loss"].dims == ("branch", "step")
    assert read_run(writer.path).metrics["lr"].item() == 0.5


def test_groups_with_names_for_values(tmp_path):
    lanes = [{"optimizer": "adam", "loss": "mse"}, {"optimizer": "nadam", "loss": "mse"}]
    writer = make(tmp_path, lanes)
    for lane in range(2):
        writer.append("main", {"loss": np.full((2, 1), lane)}, np.arange(2), lane_offset=lane)
    folder = writer.close({})
    metrics = read_run(folder).metrics
    assert metrics["loss"].dims == ("branch", "optimizer", "step")
    assert (metrics["loss"].sel(optimizer="nadam") == 1).all()
    assert metrics["swept_loss"].item() == "mse"
    frame = pd.read_parquet(folder / "metrics.parquet")
    assert list(frame["optimizer"].unique()) == ["adam", "nadam"]


@pytest.mark.parametrize(
    "lanes",
    [
        [{"batch": 16, "lr": lr} for lr in (1e-3, 3e-3)],
        [{"batch": batch, "lr": lr} for batch in (16, None) for lr in (1e-3, 3e-3)],
        [{"form": form, "loss": 0.5} for form in ("ema", None, "polyak")],
        [{"batch": None}],
        [{}],
        [{"lr": 1.0, "beta1": 0.9}, {"lr": 2.0, "beta1": 0.8}, {"lr": 1.0}],
        [{"batch": 16, "width": 2}, {"batch": None, "width": 3}, {"width": 2}],
    ],
)
def test_every_lane_is_found_again(tmp_path, lanes):
    writer = make(tmp_path, lanes)
    writer.append("main", {"loss": np.arange(len(lanes))[None].repeat(2, 0)}, np.arange(2))
    for metrics in (read_run(writer.path).metrics, read_run(writer.close({})).metrics):
        for index, lane in enumerate(lanes):
            chosen = metrics["loss"].sel(branch="main", **lane_selection(metrics, lane))
            np.testing.assert_array_equal(chosen, [index, index])
        if {lane.get("batch", 0) for lane in lanes} == {16, None}:
            assert metrics["batch"].values.tolist() == ["16", "none"]
        if "lr" in lanes[0]:
            with pytest.raises(ValueError, match="no lane has"):
                lane_selection(metrics, {**lanes[0], "lr": 7.0})


def test_periods_branches_indices_and_divergence(tmp_path):
    writer = make(tmp_path, [{"lr": 1.0}, {"lr": 2.0}])
    steps = np.arange(6)
    sharpness = np.arange(24.0).reshape(6, 2, 2)
    writer.append(
        "main",
        {
            "loss": np.ones((6, 2), np.float32),
            "sharpness": sharpness,
            "sharpness_matvecs": np.full((6, 2), 7, np.int32),
            "sharpness_converged": np.ones((6, 2, 2), bool),
            "sharpness_criterion": np.full((6, 2, 2), 2, np.int32),
        },
        steps,
        measured={name: steps % 3 == 0 for name in ("sharpness", "sharpness_matvecs")},
    )
    writer.append("frozen", {"sharpness": np.ones((2, 2, 1))}, np.array([6, 7]))
    writer.mark_diverged("main", 1, 4)
    for metrics in (read_run(writer.path).metrics, read_run(writer.close({})).metrics):
        assert list(metrics["branch"].values) == ["main", "frozen"]
        main = metrics.sel(branch="main")
        assert metrics["sharpness"].dims == ("branch", "lr", "step", "index")
        np.testing.assert_array_equal(main["sharpness"].sel(step=3), sharpness[3])
        assert main["sharpness"].sel(step=[1, 2, 4, 5]).isnull().all()
        assert metrics["sharpness"].sel(branch="frozen", index=1).isnull().all()
        assert main["sharpness_matvecs"].sel(step=3, lr=1.0) == 7
        assert main["sharpness_converged"].sel(step=3).all()
        flags = main["sharpness_criterion"].attrs
        meanings = dict(zip(flags["flag_values"], flags["flag_meanings"].split(), strict=True))
        assert meanings[int(main["sharpness_criterion"][0, 3, 0])] == "value"
        assert not main["sharpness_converged"].attrs
        np.testing.assert_array_equal(metrics["diverged_at"], [[-1, 4], [-1, -1]])


def test_the_table_is_plain(tmp_path):
    writer = make(tmp_path, [{"lr": 1.0}, {"lr": 2.0}])
    writer.append("main", {"loss": np.ones((2, 2)), "sharpness": np.ones((2, 2, 3))}, np.arange(2))
    folder = writer.close({"loss": np.float32(1.0)}, "interrupted")
    frame = pd.read_parquet(folder / "metrics.parquet")
    assert list(frame.columns) == ["branch", "lane", "step", "lr", "loss", "sharpness"]
    assert len(frame) == 4
    assert list(frame["sharpness"][0]) == [1.0, 1.0, 1.0]
    assert not (folder / "metrics.jsonl").exists()
    run = read_run(folder)
    assert run.status == "interrupted"
    assert run.summary == {"loss": 1.0, "status": "interrupted"}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@settings(
    max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(data=st.data())
def test_floats_survive_bit_for_bit(tmp_path, dtype, data):
    values = data.draw(hnp.arrays(dtype, (3, 1, 2), elements=st.floats(width=8 * dtype().nbytes)))
    writer = make(tmp_path)
    writer.append("main", {"x": values}, np.arange(3))
    expected = np.where(np.isnan(values), dtype(np.nan), values)[:, 0].tobytes()
    for metrics in (read_run(writer.path).metrics, read_run(writer.close({})).metrics):
        read = metrics["x"].sel(branch="main").values.astype(dtype)
        assert np.where(np.isnan(read), dtype(np.nan), read).tobytes() == expected


def test_killed_at_any_byte_every_whole_row_is_read(tmp_path):
    writer = make(tmp_path, [{"lr": 1.0}, {"lr": 2.0}])
    for first in (0, 3):
        loss = np.full((3, 2), np.nan, np.float32)
        writer.append("main", {"loss": loss, "y": np.ones((3, 2, 1))}, first + np.arange(3))
    path = writer.path / "metrics.jsonl"
    whole = path.read_bytes()
    for size in range(len(whole) + 1):
        path.write_bytes(whole[:size])
        # A row without its line break is whole as well.
        rows = whole[:size].count(b"\n") + (whole[size : size + 1] == b"\n")
        assert len(read_rows(path)) == rows
        if size % 97 == 0:
            found = read_run(writer.path).metrics
            assert found.get("y", np.zeros(0)).sum() == rows
    # A block that the file system left empty is a torn line too.
    path.write_bytes(whole + b"\0" * 100)
    assert read_run(writer.path).metrics["y"].sum() == 12


def test_a_line_damaged_in_the_middle_is_reported(tmp_path):
    writer = make(tmp_path)
    writer.append("main", {"loss": np.ones((3, 1))}, np.arange(3))
    path = writer.path / "metrics.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"step":1', b'"step":'))
    with pytest.raises(ValueError, match="line 2"):
        _ = read_run(writer.path).metrics


def test_a_chunk_that_is_interrupted_leaves_no_torn_line(tmp_path, monkeypatch):
    writer = make(tmp_path)
    chunk = {"loss": np.ones((2, 1))}
    writer.append("main", chunk, np.arange(2))

    def interrupt(_):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", interrupt)
        with pytest.raises(KeyboardInterrupt):
            writer.append("main", chunk, np.arange(2, 4))
    writer.append("main", chunk, np.arange(4, 6))
    assert list(read_run(writer.close({}, "interrupted")).metrics["step"].values) == [0, 1, 4, 5]


def test_a_failed_close_keeps_the_running_metrics(tmp_path, monkeypatch):
    from aeoskit.record import _table

    writer = make(tmp_path)
    writer.append("main", {"loss": np.ones((2, 1))}, np.arange(2))
    monkeypatch.setattr(_table, "_same", lambda *_: False)
    with pytest.raises(OSError, match="read back"):
        writer.close({})
    assert {path.name for path in writer.path.iterdir()} == {
        "pipeline.json",
        "environment.json",
        "run.json",
        "metrics.jsonl",
    }
    run = read_run(writer.path)
    assert run.status == "open"
    assert run.metrics["loss"].sum() == 2


@pytest.mark.parametrize(
    ("measurements", "options", "match"),
    [
        ({"loss": np.ones(2)}, {}, "must have shape"),
        ({"loss": np.ones((3, 1))}, {}, "must have shape"),
        ({"step": np.ones((3, 1))}, {}, "a column of the record"),
        ({"loss": np.ones((2, 1)), "x": np.ones((2, 2))}, {}, "as many lanes"),
        ({"loss": np.ones((2, 3))}, {}, "list all lanes"),
        ({"loss": np.ones((2, 1))}, {"lane_offset": 2}, "list all lanes"),
        ({"loss": np.ones((2, 1), complex)}, {}, "real numbers"),
        ({"loss": np.ones((2, 1))}, {"measured": {"loss": np.ones(3, bool)}}, "measured"),
        ({"y": np.ones((2, 1, 4))}, {}, "different names"),
    ],
)
def test_wrong_shapes_are_refused_before_writing(tmp_path, measurements, options, match):
    writer = make(tmp_path, [{"lr": 1.0}, {"lr": 2.0}])
    writer.append("main", {"y": np.ones((1, 2))}, np.arange(1))
    before = (writer.path / "metrics.jsonl").read_bytes()
    with pytest.raises(ValueError, match=match):
        writer.append("main", measurements, np.arange(2), **options)
    assert (writer.path / "metrics.jsonl").read_bytes() == before


def test_a_measurement_is_described(tmp_path):
    writer = create_run(tmp_path, "try", pipeline={}, environment={})
    writer.append("main", {"loss": [[0.5]], "size": [[1.0]]}, [0])
    writer.describe("loss", unit="nats")
    writer.describe("loss", cost="one pass")
    assert read_run(writer.path).metrics["loss"].attrs == {"unit": "nats", "cost": "one pass"}
    run = read_run(writer.close({}))
    assert run.variables == {"loss": {"unit": "nats", "cost": "one pass"}}
    assert run.name == "try"
    assert run.metrics["loss"].attrs["unit"] == "nats"
    assert run.metrics["size"].attrs == {}


def test_a_closed_run_takes_no_more(tmp_path):
    writer = make(tmp_path)
    # Under the tests' type checker the annotation refuses it before the method does.
    with pytest.raises((ValueError, TypeError), match="status"):
        writer.close({}, "done")  # pyright: ignore[reportArgumentType]
    folder = writer.close({})
    assert read_run(folder).metrics.sizes["step"] == 0
    with pytest.raises(ValueError, match="is closed"):
        writer.append("main", {"loss": np.ones((1, 1))}, np.arange(1))
    with pytest.raises(ValueError, match="is closed"):
        writer.close({})


def test_runs_are_listed_and_the_nearest_named(tmp_path):
    names = [make(tmp_path).path.name for _ in range(2)]
    (tmp_path / "notes").mkdir()
    assert {run.path.name for run in list_runs(tmp_path)} == set(names)
    broken = make(tmp_path).path
    (broken / "run.json").write_text("{")
    assert {run.path.name for run in list_runs(tmp_path)} == set(names)
    with pytest.raises(ValueError, match="is not JSON"):
        read_run(broken)
    with pytest.raises(ValueError, match=f"does not exist; the nearest are .*{names[0]}"):
        read_run(tmp_path / names[0][:-3])
    with pytest.raises(ValueError, match="is not a run's"):
        read_run(tmp_path / "notes")
    with pytest.raises(ValueError, match="runs in it"):
        read_run(tmp_path)
