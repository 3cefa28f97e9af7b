"""Sweeps: what becomes of each job on every engine, and what `sweep.json` says of it meanwhile."""

import itertools
import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import msgspec
import pytest

import aeoskit_experiments.jobs._engine as engine_module
import aeoskit_experiments.sweeps._sweep as sweep_module
from aeoskit.record import create_run
from aeoskit_experiments import UserError, read_sweep, resume_sweep, sweep
from aeoskit_experiments.jobs import (
    Engine,
    OpenExecutor,
    RunJob,
)
from aeoskit_experiments.pipelines import Pipeline, data, loss, model, optimizer, pipe, train
from aeoskit_experiments.sweeps import parse_slurm
from aeoskit_experiments.sweeps._drive import drive
from aeoskit_experiments.sweeps._job import LogListener, SweepJob, run_job
from aeoskit_experiments.sweeps._record import create_sweep

Job = Callable[[SweepJob], Mapping[str, Any]]


def pipeline(lr: Any = (1e-2, 2e-2, 3e-2), **options: Any) -> Pipeline:
    return pipe(
        data("digits", examples=40),
        model("linear"),
        loss("mse"),
        optimizer("gradient_descent", lr=lr),
        train(4, chunk=2),
        name="tiny",
        **options,
    )


def lr_of(given: RunJob) -> float:
    declared = given.load().declared().optimizer
    assert declared is not None
    return float(declared.settings["lr"])


def record(given: SweepJob, status: Any = "finished") -> dict[str, Any]:
    """What a job leaves: a run's folder with a summary, and a log."""
    (given.sweep / given.log).write_text("it began\n")
    rows = [{"branch": "main", "optimizer": "gradient_descent", "lr": lr_of(given), "ratio": 1.0}]
    writer = create_run(given.sweep, "x", pipeline={}, environment={}, folder=Path(given.folder))
    writer.close({"runs": rows, "seconds": 0.5}, status)
    return {"status": status, "folder": given.name, "runs": rows, "seconds": 0.5}


@pytest.fixture
def use(monkeypatch: pytest.MonkeyPatch) -> Callable[[Job], None]:
    """Puts a function in the place of what a job does."""

    def put(job: Job) -> None:
        monkeypatch.setattr(sweep_module, "run_job", job)

    return put


@pytest.fixture
def threads() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(1) as executor:
        yield executor


class TestPipelines:
    def test_every_combination_is_a_pipeline_without_lists(self) -> None:
        swept = pipe(
            data("digits", examples=40),
            model("mlp", width=[4, 8]),
            loss("mse"),
            optimizer(["adam", "nadam"], lr=[1e-3, 3e-3]),
            train(10),
        )
        runs = swept.singles()
        assert [tuple(run.values.values()) for run in runs] == list(
            itertools.product((4, 8), ("adam", "nadam"), (1e-3, 3e-3))
        )
        for run in runs:
            assert run.pipeline.sweep() == ()
            declared = run.pipeline.experiment()
            assert declared.optimizer is not None
            assert declared.optimizer.variant == run.values["optimizer"]
            assert declared.optimizer.settings["lr"] == run.values["lr"]
            assert Pipeline.from_dict(run.pipeline.to_dict()) == run.pipeline

    def test_without_lists_it_is_one_run(self) -> None:
        (run,) = pipeline(lr=1e-2).singles()
        assert run.values == {}
        assert run.pipeline == pipeline(lr=1e-2)


class TestTheRecord:
    def test_a_job_that_fails_is_reported_and_the_rest_goes_on(
        self, runs: Path, use: Callable[[Job], None], threads: ThreadPoolExecutor
    ) -> None:
        seen, messages = [], []

        def job(given: SweepJob) -> Mapping[str, Any]:
            # The file is whole at any moment, and says where each job will be.
            (folder,) = runs.iterdir()
            stored = read_sweep(folder).jobs
            assert all(item.attempts == 1 for item in stored)
            # Of one that failed before it began there is none any more.
            assert all(item.folder is not None or item.status == "failed" for item in stored)
            seen.append(lr_of(given))
            if lr_of(given) == 2e-2:
                raise RuntimeError("out of luck\nentirely")
            return record(given)

        use(job)
        outcome = sweep(pipeline(), executor=threads, root=runs, progress=messages.append)
        assert seen == [1e-2, 2e-2, 3e-2]
        assert (outcome.status, outcome.exit_code) == ("failed", 1)
        assert outcome.folder.name.startswith("tiny-sweep-")
        stored = read_sweep(outcome.folder)
        assert stored.pipeline == pipeline()
        assert [item.status for item in stored.jobs] == ["finished", "failed", "finished"]
        assert [item.folder for item in stored.jobs] == ["000-lr=0.01", None, "002-lr=0.03"]
        assert stored.jobs[1].error == "RuntimeError: out of luck"
        assert [row.get("ratio") for row in outcome.summary["runs"]] == [1.0, None, 1.0]
        assert [row["optimizer"] for row in outcome.summary["runs"]] == ["gradient_descent"] * 3
        assert messages[0] == f"3 of 3 jobs to run, in {outcome.folder}"
        assert any(
            sentence.startswith("job 1 (lr 0.02) failed: RuntimeError: out of luck (")
            for sentence in messages
        )
        json.dumps(outcome.summary, allow_nan=False)

    def test_what_has_finished_is_not_run_again(
        self, runs: Path, use: Callable[[Job], None], threads: ThreadPoolExecutor
    ) -> None:
        ran: list[float] = []

        def job(given: SweepJob) -> Mapping[str, Any]:
            ran.append(lr_of(given))
            if lr_of(given) == 2e-2 and ran.count(2e-2) == 1:
                raise RuntimeError
            return record(given, "diverged" if lr_of(given) == 3e-2 else "finished")

        use(job)
        folder = runs / "mine"
        assert sweep(pipeline(), executor=threads, folder=folder).exit_code == 1
        again = sweep(pipeline(), executor=threads, folder=folder)
        assert (again.status, again.exit_code) == ("finished", 0)
        assert ran == [1e-2, 2e-2, 3e-2, 2e-2]
        assert [item.attempts for item in read_sweep(folder).jobs] == [1, 2, 1]
        assert read_sweep(folder).jobs[1].log == "logs/001-lr=0.02-2.log"
        whole = (folder / "sweep.json").read_bytes()
        # With nothing left no worker is started.
        rest = resume_sweep(folder, executor="processes")
        assert rest.summary["runs"] == again.summary["runs"]
        assert len(ran) == 4
        assert (folder / "sweep.json").read_bytes() == whole
        with pytest.raises(UserError, match="ran on the caller's own executor, ThreadPoolExecutor"):
            resume_sweep(folder)
        with pytest.raises(UserError, match="holds another sweep"):
            sweep(pipeline(lr=[1e-2, 5e-2]), executor=threads, folder=folder)

    def test_all_diverged(
        self, runs: Path, use: Callable[[Job], None], threads: ThreadPoolExecutor
    ) -> None:
        use(lambda given: record(given, "diverged"))
        outcome = sweep(pipeline(), executor=threads, root=runs)
        assert (outcome.status, outcome.exit_code) == ("diverged", 1)

    def test_what_finished_unseen_is_taken_in(
        self, runs: Path, use: Callable[[Job], None], threads: ThreadPoolExecutor
    ) -> None:
        ran: list[str] = []

        def job(given: SweepJob) -> Mapping[str, Any]:
            ran.append(given.name)
            if given.name.startswith("001"):
                Path(given.folder).mkdir()  # its first attempt was killed
                given = msgspec.structs.replace(given, folder=f"{given.folder}-2")
            record(given)
            raise KeyboardInterrupt  # Whoever handed it out hears nothing.

        use(job)
        folder = sweep(pipeline(), executor=threads, root=runs).folder
        assert {item.status for item in read_sweep(folder).jobs} == {"failed"}
        outcome = resume_sweep(folder, executor=threads)
        assert outcome.exit_code == 0
        assert len(ran) == 3
        jobs = read_sweep(folder).jobs
        assert [item.folder for item in jobs] == ["000-lr=0.01", "001-lr=0.02-2", "002-lr=0.03"]
        assert {item.seconds for item in jobs} == {0.5}

    def test_two_processes_do_not_run_one_sweep(
        self, runs: Path, use: Callable[[Job], None], threads: ThreadPoolExecutor
    ) -> None:
        use(record)
        writer = create_sweep(pipeline(), Engine(), root=runs, folder=None)
        writer.write()
        with writer.lock(), pytest.raises(UserError, match="being run by another process"):
            sweep(pipeline(), executor=threads, folder=writer.path)
        assert sweep(pipeline(), executor=threads, folder=writer.path).exit_code == 0

    def test_logs_that_were_cleared_away_are_not_missed(
        self, runs: Path, use: Callable[[Job], None], threads: ThreadPoolExecutor
    ) -> None:
        use(record)
        writer = create_sweep(pipeline(), Engine(), root=runs, folder=None)
        writer.write()
        (writer.path / "logs").rmdir()
        assert resume_sweep(writer.path, executor=threads).exit_code == 0

    def test_bad_input_leaves_nothing(self, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        (runs / "full").mkdir()
        (runs / "full" / "mine.txt").touch()
        with pytest.raises(UserError, match="exists already and holds no sweep"):
            sweep(pipeline(), folder=runs / "full")
        with pytest.raises(UserError, match="there is no sweep in"):
            resume_sweep(runs / "full")
        with pytest.raises(UserError, match="no stage 'model'"):
            sweep(pipe(data("digits")), root=runs)
        with monkeypatch.context() as patch:
            patch.setattr(engine_module.importlib.util, "find_spec", lambda name: None)
            with pytest.raises(UserError, match=r"installed: pip install 'aeoskit\[slurm\]'"):
                sweep(pipeline(), executor="submitit", slurm={"time": 10}, root=runs)
        (runs / "full" / "sweep.json").write_text("{")
        with pytest.raises(UserError, match="changed by hand"):
            read_sweep(runs / "full")
        assert [path.name for path in runs.iterdir()] == ["full"]

    def test_an_executor_that_takes_no_more(self, runs: Path, use: Callable[[Job], None]) -> None:
        use(record)
        executor = ThreadPoolExecutor(1)
        executor.shutdown()
        outcome = sweep(pipeline(), executor=executor, root=runs)
        assert outcome.exit_code == 1
        assert {item["error"] for item in outcome.summary["jobs"]} == {
            "RuntimeError: cannot schedule new futures after shutdown"
        }


class TestStopping:
    def test_ctrl_c_hands_out_no_more_and_lets_the_chunk_end(
        self, runs: Path, use: Callable[[Job], None], threads: ThreadPoolExecutor
    ) -> None:
        messages: list[str] = []

        def job(given: SweepJob) -> Mapping[str, Any]:
            (given.sweep / given.log).touch()
            os.kill(os.getpid(), signal.SIGINT)
            while not (given.sweep / "STOP").exists():
                time.sleep(0.01)
            return {"status": "interrupted"}

        use(job)
        outcome = sweep(pipeline(), executor=threads, root=runs, progress=messages.append)
        assert (outcome.status, outcome.exit_code) == ("interrupted", 130)
        statuses = [item.status for item in read_sweep(outcome.folder).jobs]
        assert statuses == ["interrupted", "waiting", "waiting"]
        assert any(sentence.startswith("stopping: 1 jobs end") for sentence in messages)
        use(record)
        assert sweep(pipeline(), executor=threads, folder=outcome.folder).exit_code == 0
        assert not (outcome.folder / "STOP").exists()

    def test_a_file_stops_it_from_anywhere(
        self, runs: Path, use: Callable[[Job], None], threads: ThreadPoolExecutor
    ) -> None:
        def job(given: SweepJob) -> Mapping[str, Any]:
            stop = given.sweep / "STOP"
            if stop.exists():
                return run_job(given)
            stop.touch()
            return record(given)

        use(job)
        outcome = sweep(pipeline(), executor=threads, root=runs)
        assert (outcome.status, outcome.exit_code) == ("interrupted", 130)
        statuses = [item.status for item in read_sweep(outcome.folder).jobs]
        assert statuses == ["finished", "waiting", "waiting"]

    def test_a_second_ctrl_c_ends_what_runs(self, runs: Path, threads: ThreadPoolExecutor) -> None:
        ended = threading.Event()

        def job(given: SweepJob) -> Mapping[str, Any]:
            (given.sweep / given.log).touch()
            os.kill(os.getpid(), signal.SIGINT)
            while not (given.sweep / "STOP").exists():
                time.sleep(0.01)
            time.sleep(0.1)
            os.kill(os.getpid(), signal.SIGINT)
            ended.wait(20)
            return {"status": "finished"}

        writer = create_sweep(pipeline(), Engine(), root=runs, folder=None)
        assert drive(writer, OpenExecutor(threads, ended.set), job, lambda sentence: None)
        assert ended.is_set()
        # The job that ended by itself meanwhile may count as either.
        first, *rest = [item.status for item in read_sweep(writer.path).jobs]
        assert first in ("interrupted", "finished")
        assert rest == ["waiting", "waiting"]


class TestAJob:
    def given(self, runs: Path) -> SweepJob:
        writer = create_sweep(pipeline(lr=1e-2), Engine(), root=runs, folder=None)
        writer.write()
        folder = str(writer.path.absolute() / "000")
        return SweepJob(pipeline=pipeline(lr=1e-2).to_dict(), folder=folder, log="logs/000.log")

    def test_its_folder_is_an_ordinary_run(self, runs: Path) -> None:
        given = self.given(runs)
        Path(given.folder).mkdir()  # An attempt that was killed.
        found = run_job(given)
        assert (found["status"], found["folder"]) == ("finished", "000-2"), found
        assert found["runs"][0]["steps"] == 4
        assert found["seconds"] > 0
        log = (given.sweep / given.log).read_text()
        assert "main: 4 steps" in log
        assert log.endswith("finished: 000-2\n")

    def test_it_ends_with_the_chunk_when_the_sweep_is_stopped(
        self, runs: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        given = self.given(runs)
        stop = given.sweep / "STOP"
        stop.touch()
        assert run_job(given) == {"status": "waiting"}
        stop.unlink()
        advanced = LogListener.advanced
        monkeypatch.setattr(
            LogListener, "advanced", lambda self, *message: (stop.touch(), advanced(self, *message))
        )
        found = run_job(given)
        assert found["status"] == "interrupted"
        assert found["runs"][0]["steps"] == 2

    def test_errors_are_one_line_and_the_log_has_the_rest(
        self, runs: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        from aeoskit_experiments.execution import _execute as execution

        def execute(*_: Any, **__: Any) -> None:
            raise MemoryError("no room\nfor this")

        given = self.given(runs)
        found = run_job(msgspec.structs.replace(given, pipeline={"stages": 1}))
        assert found["status"] == "failed"
        assert found["error"].startswith("not a pipeline")
        assert "folder" not in found
        monkeypatch.setattr(execution, "execute", execute)
        found = run_job(given)
        assert found["error"] == "MemoryError: no room"
        assert "Traceback" in (given.sweep / given.log).read_text()
        found = run_job(msgspec.structs.replace(given, folder=str(runs / "elsewhere" / "000")))
        assert "must be on a filesystem that all of its workers share" in found["error"]


class TestProcesses:
    def test_a_sweep_goes_on_when_a_worker_dies(
        self, runs: Path, use: Callable[[Job], None], helper: Job
    ) -> None:
        use(helper)
        outcome = sweep(pipeline(), workers=2, root=runs)
        assert outcome.exit_code == 1
        stored = read_sweep(outcome.folder)
        assert [item.status for item in stored.jobs] == ["finished", "failed", "finished"]
        assert "its process ended (code 9): worker-" in (stored.jobs[1].error or "")
        assert stored.engine == Engine(name="processes", workers=2)
        # It was killed once; it goes on with what it ran on before.
        assert resume_sweep(outcome.folder).exit_code == 0


# What of SLURM submitit calls: the array's jobs run here, one after the other.
SLURM = {
    "sbatch": """#!/bin/sh
for index in 0 1; do
  SLURM_JOB_ID=7 SLURM_ARRAY_JOB_ID=7 SLURM_ARRAY_TASK_ID=$index SLURM_PROCID=0 sh "$1"
done > /dev/null 2>&1 &
echo Submitted batch job 7
""",
    "srun": """#!/bin/sh
while [ "${1#-}" != "$1" ]; do case $1 in --*=*|--unbuffered) shift;; *) shift 2;; esac; done
exec "$@"
""",
    "sacct": "#!/bin/sh\necho 'JobID|State|NodeList'\n",
}

HELPER = """
import os


def job(given):
    log = given.sweep / given.log
    log.touch()
    first = not log.stem.endswith("-2") and "SLURM_JOB_ID" not in os.environ
    if first and given.name.startswith("001"):
        os._exit(9)
    return {"status": "finished", "runs": [{"branch": "main", "ratio": 1.0}], "seconds": 0.1}
"""


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Job]:
    """A job that other processes can import: the one of the second value dies at first."""
    (tmp_path / "sweep_helper.py").write_text(HELPER)
    monkeypatch.syspath_prepend(tmp_path)
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(path for path in sys.path if path))
    import sweep_helper  # pyright: ignore[reportMissingImports]

    yield sweep_helper.job
    del sys.modules["sweep_helper"]


class TestDask:
    @pytest.fixture
    def address(self) -> Iterator[str]:
        distributed = pytest.importorskip(
            "distributed", reason="the extra dask is not installed: pip install 'aeoskit[dask]'"
        )
        with distributed.LocalCluster(
            n_workers=1, threads_per_worker=1, processes=False, dashboard_address=None
        ) as cluster:
            yield cluster.scheduler_address

    def test_a_sweep(self, runs: Path, use: Callable[[Job], None], address: str) -> None:
        def job(given: SweepJob) -> Mapping[str, Any]:
            if lr_of(given) == 2e-2:
                raise RuntimeError("no")
            return record(given)

        use(job)
        outcome = sweep(pipeline(), executor="dask", address=address, root=runs)
        statuses = [item["status"] for item in outcome.summary["jobs"]]
        assert statuses == ["finished", "failed", "finished"]
        assert outcome.summary["jobs"][1]["error"] == "RuntimeError: no"
        use(record)
        assert resume_sweep(outcome.folder).exit_code == 0
        assert [item.attempts for item in read_sweep(outcome.folder).jobs] == [1, 2, 1]

    def test_no_scheduler(self, runs: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        pytest.importorskip("distributed", reason="the extra dask is not installed")
        monkeypatch.setattr(engine_module, "_CONNECT_SECONDS", 0.5)
        with pytest.raises(UserError, match=r"no dask scheduler answers at tcp://127\.0\.0\.1:1 "):
            sweep(pipeline(), executor="dask", address="tcp://127.0.0.1:1", root=runs)
        assert list(runs.iterdir()) == []
        # Nor is anything left in a folder that was there.
        with pytest.raises(UserError, match="no dask scheduler answers"):
            sweep(pipeline(), executor="dask", address="tcp://127.0.0.1:1", folder=runs)
        assert list(runs.iterdir()) == []


class TestSubmitit:
    def test_a_sweep_on_this_machine(
        self,
        runs: Path,
        use: Callable[[Job], None],
        helper: Job,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        submitit = pytest.importorskip("submitit", reason="the extra slurm is not installed")
        # How long it looks for the result of a job that has died.
        monkeypatch.setattr(submitit.Job, "_results_timeout_s", 0.1)
        use(helper)
        slurm = {"cluster": "local", "time": 2}
        outcome = sweep(pipeline(lr=[1e-2, 2e-2]), executor="submitit", slurm=slurm, root=runs)
        assert [item["status"] for item in outcome.summary["jobs"]] == ["finished", "failed"]
        assert "UncompletedJobError" in outcome.summary["jobs"][1]["error"]

    def test_slurm_gets_one_array_with_the_request(
        self,
        runs: Path,
        tmp_path: Path,
        use: Callable[[Job], None],
        helper: Job,
        monkeypatch: pytest.MonkeyPatch,
    ) -> None:
        pytest.importorskip("submitit", reason="the extra slurm is not installed")
        programs = tmp_path / "bin"
        programs.mkdir()
        for name, text in SLURM.items():
            (programs / name).write_text(text)
            (programs / name).chmod(0o755)
        monkeypatch.setenv("PATH", str(programs), prepend=os.pathsep)
        use(helper)
        outcome = sweep(
            pipeline(lr=[1e-2, 2e-2]),
            executor="submitit",
            workers=1,
            slurm={"time": 60, "partition": "gpu", "gpus_per_node": 1},
            root=runs,
        )
        statuses = [item["status"] for item in outcome.summary["jobs"]]
        assert statuses == ["finished", "finished"], outcome.summary["jobs"]
        (script,) = (outcome.folder / "slurm").glob("*_submission.sh")
        # A job imports nothing from the working directory.
        assert f"{sys.executable} -P -u -m submitit" in script.read_text()
        asked = script.read_text().splitlines()
        for line in (
            "array=0-1%1",
            "job-name=aeoskit",
            "time=60",
            "partition=gpu",
            "gpus-per-node=1",
        ):
            assert f"#SBATCH --{line}" in asked

    def test_slurm_is_used_on_request(self, runs: Path) -> None:
        pytest.importorskip("submitit", reason="the extra slurm is not installed")
        assert parse_slurm("gpus-per-node=1,constraint=a100") == {
            "gpus_per_node": 1,
            "constraint": "a100",
        }
        for bad in ("time", "time=", "=3", "time=3,"):
            with pytest.raises(UserError, match="write key=value"):
                parse_slurm(bad)
        for slurm, says in (
            ({}, "lacks the time a job may take"),
            ({"time": 5, "partitoin": "x", "cluster": "local"}, "partitoin"),
            ({"time": 5, "cluster": "cloud"}, "cloud"),
        ):
            with pytest.raises(UserError, match=says):
                sweep(pipeline(), executor="submitit", slurm=slurm, root=runs)
        assert list(runs.iterdir()) == []


def test_an_executor_that_gives_its_jobs_up(runs: Path) -> None:
    class Cancelling(Executor):
        def submit(self, fn: Any, /, *args: Any, **kwargs: Any) -> Future[Any]:
            future: Future[Any] = Future()
            future.cancel()
            future.set_running_or_notify_cancel()
            return future

    outcome = sweep(pipeline(), executor=Cancelling(), root=runs)
    assert outcome.exit_code == 1
    assert {item["status"] for item in outcome.summary["jobs"]} == {"failed"}
    assert "the executor dropped it" in outcome.summary["jobs"][0]["error"]
