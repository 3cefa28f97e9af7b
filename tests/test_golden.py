"""Runs and pipelines that version 0.1 wrote are read, shown, rewound and run again."""

import importlib
import json
import os
import re
import subprocess
import sys
import tarfile
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from aeoskit.record import read_run
from aeoskit_cli import main
from aeoskit_experiments import rerun
from aeoskit_experiments.pipelines import Pipeline

ROOT = Path(__file__).parents[1]
GOLDEN = ROOT / "tests" / "golden"
UPGRADING = (ROOT / "docs" / "upgrading.md").read_text()
PIPELINES: dict[str, Any] = json.loads((GOLDEN / "pipelines-0.1.json").read_text())


@pytest.mark.parametrize("name", PIPELINES)
def test_a_pipeline_of_0_1_is_read_as_it_was(name: str) -> None:
    stored = PIPELINES[name]
    pipeline = Pipeline.from_dict(stored)
    again = pipeline.to_dict()
    for stage, before in zip(again["stages"], stored["stages"], strict=True):
        # Options that were added since stand among the defaults.
        new = {key: value for key, value in stage["defaults"].items() if key in before["defaults"]}
        assert {**stage, "defaults": new} == before
    assert again["name"] == stored["name"]
    assert pipeline.to_command().startswith("aeoskit pipe")


NAMES: dict[str, str] = json.loads((GOLDEN / "names-0.1.json").read_text())


@pytest.mark.parametrize("module", NAMES)
def test_a_public_name_of_0_1_is_there_or_says_where_it_went(module: str) -> None:
    for name in NAMES[module].split():
        line = f"from {module} import {name} as found"
        with warnings.catch_warnings(record=True) as warned:
            warnings.simplefilter("always")
            given: dict[str, Any] = {}
            try:
                exec(line, given)
            except ImportError as error:
                text = str(error)
                assert text.startswith(f"{module}.{name} is ")
            else:
                if not warned:
                    continue
                text = str(warned[0].message)
                assert text.startswith(f"{name} is called ")
        place = re.search(r"(?:is|is called) (\S+) now$", text)
        assert place, text
        home, _, new = place[1].rpartition(".")
        assert hasattr(importlib.import_module(home or module), new), text
        assert new in UPGRADING, text


@pytest.fixture(scope="module")
def golden_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("golden")
    with tarfile.open(GOLDEN / "run-0.1.tar.gz") as archive:
        archive.extractall(folder, filter="data")
    return folder / "run"


def test_a_run_of_0_1_is_read_and_shown(
    golden_run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = read_run(golden_run)
    assert run.status == "finished"
    assert dict(run.metrics.sizes)["step"] == 20
    assert run.metrics["loss"].sel(branch="main").notnull().all()
    assert main(["show", str(golden_run)]) == 0
    out = capsys.readouterr().out
    assert "aeoskit pipe --name golden data digits" in out
    assert "0.127" in out


def test_a_run_of_0_1_is_run_again_to_the_same_numbers(golden_run: Path, tmp_path: Path) -> None:
    """Bit for bit only with the same versions: here, to rounding."""
    outcome, _ = rerun(golden_run, folder=tmp_path / "again")
    before, after = read_run(golden_run).metrics, read_run(outcome.folder).metrics
    assert {*before.data_vars} <= {*after.data_vars}
    for name, tolerance in (
        ("loss", 1e-4),
        ("gradient_norm", 1e-3),
        ("threshold", 1e-5),
        ("preconditioned_sharpness", 2e-2),
        ("multiplier", 2e-2),
    ):
        np.testing.assert_allclose(
            after[name].values, before[name].values, rtol=tolerance, err_msg=name
        )


def test_a_checkpoint_of_0_1_is_gone_on_from(golden_run: Path, tmp_path: Path) -> None:
    words = (
        f"pipe rewind --run {golden_run} --at 10 train --steps 15 store --folder {tmp_path / 'on'}"
    )
    # The run had one device; a process with several keeps the vectors of a solve in another form.
    command = [sys.executable, "-P", "-m", "aeoskit_cli", *words.split(), "--quiet"]
    paths = os.pathsep.join(str(ROOT / part) for part in ("", "experiments", "cli"))
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": paths}, timeout=300)
    metrics = read_run(tmp_path / "on").metrics.sel(branch="main")
    before = read_run(golden_run).metrics.sel(branch="main", step=metrics["step"])
    assert metrics["step"].values.tolist() == [10, 11, 12, 13, 14]
    np.testing.assert_allclose(metrics["loss"].values, before["loss"].values, rtol=1e-4)
