"""Jobs: child processes that die, print, fail or lose their parent; what they import; locks."""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import pickle
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from aeoskit_experiments import UserError
from aeoskit_experiments.jobs import (
    PipelineJob,
    Processes,
    RunJob,
    Submitted,
    Worker,
    WorkerDied,
    locked,
    start_python,
    supervise,
    visible_cores,
    visible_gpus,
    worker_environment,
)
from aeoskit_experiments.pipelines import data, loss, model, optimizer, pipe, train
from aeoskit_experiments.planning import layout

# What children call: they find this file's functions by the name of a module on their path.
HELPER = """
import os, sys, time


def report_steps(steps, report):
    for step in range(steps):
        report("step", step)
    return steps


def report_until_stopped(report):
    report("begun")
    while True:
        time.sleep(0.01)
        report("alive")


def print_and_fail(what):
    print(f"about to {what}")
    os.write(2, b"straight to the descriptor\\n")
    raise KeyError(what)


class Odd(Exception):
    def __init__(self, one, two):
        super().__init__(one)


def raise_odd():
    raise Odd("first", "second")


def end(code):
    os._exit(code)


def wait_for(path):
    while not os.path.exists(path):
        time.sleep(0.01)


def where_from(name):
    return __import__(name).__file__
"""


@pytest.fixture
def helper(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "jobs_helper.py").write_text(HELPER)
    monkeypatch.syspath_prepend(folder)
    import jobs_helper  # pyright: ignore[reportMissingImports]

    yield jobs_helper
    del sys.modules["jobs_helper"]


@pytest.fixture
def worker(tmp_path: Path) -> Iterator[Worker]:
    worker = Worker(log=tmp_path / "worker.log")
    yield worker
    worker.close(at_once=True)


@pytest.fixture
def hostile(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A working directory whose modules have the names of ours, of a library and of Python."""
    folder = tmp_path / "hostile"
    folder.mkdir()
    for name in ("msgspec", "numpy", "pickle", "aeoskit"):
        (folder / f"{name}.py").write_text(
            f"from pathlib import Path\nPath({str(folder)!r}, 'executed').touch()\nraise SystemExit"
        )
    monkeypatch.chdir(folder)
    return folder


def gone(process: int, seconds: float = 20) -> bool:
    """True if a process ends soon; one that nobody waits for counts as ended."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        try:
            state = Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0]
        except OSError:
            return True
        if state == "Z":
            return True
        time.sleep(0.02)
    return False


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


class TestAJob:
    def test_it_carries_its_pipeline_as_plain_data(self) -> None:
        job = RunJob(pipeline=pipe(data("digits")).to_dict(), folder="/runs/mine")
        assert pickle.loads(pickle.dumps(job)) == job
        assert job.load() == pipe(data("digits"))

    def test_one_that_is_no_pipeline(self) -> None:
        with pytest.raises(UserError, match="not a pipeline"):
            PipelineJob(pipeline={"stages": 1}).load()


class TestAWorker:
    def test_it_is_one_process_that_reports_as_it_goes(self, worker: Worker, helper: Any) -> None:
        events: list[Any] = []
        found = worker.call(helper.report_steps, 3, on_event=lambda *event: events.append(event))
        assert found == 3
        assert events == [("step", 0), ("step", 1), ("step", 2)]
        assert worker.call(os.getpid) == worker.call(os.getpid) != os.getpid()

    def test_what_it_prints_is_kept_and_what_it_raises_is_raised(
        self, worker: Worker, helper: Any, tmp_path: Path
    ) -> None:
        with pytest.raises(KeyError, match="swim") as raised:
            worker.call(helper.print_and_fail, "swim")
        assert "jobs_helper.py" in raised.value.__notes__[0]
        log = (tmp_path / "worker.log").read_text()
        assert "about to swim" in log
        assert "straight to the descriptor" in log
        # An exception that cannot be sent is one that says the same.
        with pytest.raises(RuntimeError, match="Odd: first"):
            worker.call(helper.raise_odd)
        assert worker.call(abs, -3) == 3

    def test_one_that_dies_costs_its_call_only(self, worker: Worker, helper: Any) -> None:
        first = worker.call(os.getpid)
        with pytest.raises(WorkerDied, match=r"\(code 3\): worker\.log has its last output"):
            worker.call(helper.end, 3)
        second = worker.call(os.getpid)
        with pytest.raises(WorkerDied, match="SIGKILL; the system kills processes that use too"):
            worker.call(os.kill, second, signal.SIGKILL)
        third = worker.call(os.getpid)
        os.kill(third, signal.SIGKILL)  # While it has nothing to do.
        assert gone(third)
        fourth = worker.call(os.getpid)
        assert len({first, second, third, fourth}) == 4

    def test_one_that_dies_before_it_receives_a_call_costs_none(self, worker: Worker) -> None:
        first = worker.call(os.getpid)
        os.kill(first, signal.SIGSTOP)
        threading.Timer(0.3, os.kill, (first, signal.SIGKILL)).start()
        assert worker.call(os.getpid) != first

    def test_it_is_asked_to_stop(self, worker: Worker, helper: Any) -> None:
        events: list[Any] = []
        with pytest.raises(KeyboardInterrupt):
            worker.call(
                helper.report_until_stopped,
                on_event=lambda *event: events.append(event),
                interrupted=lambda: len(events) > 2,
            )
        assert events[0] == ("begun",)

    def test_an_error_of_ours_ends_the_call(self, worker: Worker, helper: Any) -> None:
        def fail(*event: Any) -> None:
            raise OSError("the disk is full")

        before = worker.call(os.getpid)
        with pytest.raises(OSError, match="disk is full"):
            worker.call(helper.report_until_stopped, on_event=fail)
        assert gone(before)
        assert worker.call(abs, -3) == 3

    def test_closing(self, worker: Worker) -> None:
        process = worker.call(os.getpid)
        worker.close()
        assert gone(process)
        worker.close()
        assert worker.call(os.getpid) != process
        worker.kill()
        with pytest.raises(WorkerDied):
            worker.call(os.getpid)

    def test_its_environment(self, tmp_path: Path) -> None:
        worker = Worker(log=tmp_path / "log", environment={"NPROC": "7"})
        assert worker.call(os.getenv, "NPROC") == "7"
        # Its own children do not take it for their parent.
        assert worker.call(os.getenv, "AEOSKIT_PARENT") is None
        worker.close()

    def test_a_function_of_the_main_program(self, worker: Worker) -> None:
        def function() -> None: ...

        function.__module__ = "__main__"
        with pytest.raises(ValueError, match="put it into a module"):
            worker.call(function)


class TestImports:
    def test_nothing_comes_from_the_working_directory(
        self, hostile: Path, worker: Worker, helper: Any
    ) -> None:
        for name in ("msgspec", "numpy", "pickle", "aeoskit"):
            assert not worker.call(helper.where_from, name).startswith(str(hostile))
        assert supervise(["--version-of-nothing"])[0] == 2
        assert start_python(["-c", "import msgspec, numpy, aeoskit"]).wait() == 0
        assert not (hostile / "executed").exists()

    def test_nor_does_it_in_a_plan(self, hostile: Path) -> None:
        pipeline = pipe(
            data("digits", examples=20),
            model("linear"),
            loss("mse"),
            optimizer("gradient_descent", lr=1e-2),
            train(20),
        )
        assert layout(pipeline, "data=5").devices == 5  # more than the tests have
        assert not (hostile / "executed").exists()

    def test_nor_with_python_m(self, hostile: Path) -> None:
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
        done = subprocess.run(
            [sys.executable, "-m", "aeoskit_cli", "list"], env=environment, capture_output=True
        )
        assert done.returncode == 0, done.stderr
        assert not (hostile / "executed").exists()

    @pytest.mark.parametrize(
        ("variable", "found"), [("", False), (":", False), (".", True), ("HERE", True)]
    )
    def test_the_working_directory_counts_if_the_user_names_it(
        self, variable: str, found: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        (tmp_path / "only_here.py").touch()
        monkeypatch.chdir(tmp_path)
        # As `python -m` and `python -c` have it.
        monkeypatch.setattr(sys, "path", ["", str(tmp_path), *sys.path])
        monkeypatch.setenv("PYTHONPATH", variable.replace("HERE", str(tmp_path)))
        child = start_python(["-c", "import only_here"], stderr=subprocess.DEVNULL)
        assert (child.wait() == 0) == found

    def test_a_checkout_on_the_path_of_the_parent_is_on_the_childs(
        self, helper: Any, worker: Worker
    ) -> None:
        assert worker.call(helper.where_from, "jobs_helper") == helper.__file__


PARENT = """
import os, sys, time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from aeoskit_experiments.jobs import Processes, Worker, start_python

kind, place = sys.argv[1:]
if kind == "worker":
    worker = Worker(log=Path(place, "log"))
    print(worker.call(os.getpid), flush=True)
    worker.call(time.sleep, 600)
elif kind == "processes":
    executor = Processes(1, logs=Path(place))
    print(executor.submit(os.getpid).result(), flush=True)
    executor.submit(time.sleep, 600).result()
else:
    code = "from aeoskit_experiments.jobs import watch_parent; import os, time; watch_parent()"
    start_python(["-c", f"{code}; print(os.getpid(), flush=True); time.sleep(600)"]).wait()
"""


@pytest.mark.parametrize("kind", ["worker", "processes", "child"])
def test_a_child_ends_with_a_parent_that_is_killed(kind: str, tmp_path: Path) -> None:
    parent = start_python(["-c", PARENT, kind, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert parent.stdout is not None
    child = int(parent.stdout.readline())
    assert not gone(child, seconds=0.3)
    parent.kill()
    parent.wait()
    assert gone(child)
    parent.stdout.close()


class TestProcesses:
    def test_one_may_die_without_harm_to_the_others(self, tmp_path: Path, helper: Any) -> None:
        logs, done = tmp_path / "logs", tmp_path / "done"
        logs.mkdir()
        with Processes(2, logs=logs) as executor:
            slow = executor.submit(helper.wait_for, str(done))
            first = executor.submit(os.getpid).result(60)
            with pytest.raises(WorkerDied, match=r"worker-[12]\.log"):
                executor.submit(os._exit, 3).result(60)
            fresh = executor.submit(os.getpid).result(60)
            assert len({first, fresh, os.getpid()}) == 3
            assert executor.submit(os.getenv, "NPROC").result(60) == str(
                max(1, visible_cores() // 2)
            )
            assert not slow.done()
            done.touch()
            assert slow.result(60) is None
            assert executor.submit(print, "kept").result(60) is None
        assert "kept" in "".join(path.read_text() for path in logs.iterdir())

    def test_end(self) -> None:
        executor = Processes(1)
        process = executor.submit(os.getpid).result(60)
        running, waiting = executor.submit(time.sleep, 600), executor.submit(os.getpid)
        until(running.running)
        begun = time.monotonic()
        executor.end()
        assert time.monotonic() - begun < 30
        assert isinstance(running.exception(), WorkerDied)
        assert waiting.cancelled()
        assert gone(process)
        executor.shutdown()

    def test_a_program_needs_no_guard(self, tmp_path: Path) -> None:
        program = tmp_path / "program.py"
        program.write_text(
            "from aeoskit_experiments.jobs import Processes\n"
            "with Processes(1) as executor:\n    print(executor.submit(abs, -3).result())"
        )
        child = start_python([str(program)], stdout=subprocess.PIPE, text=True)
        assert child.communicate(timeout=60)[0] == "3\n"

    def test_a_function_of_the_main_program(self) -> None:
        def function() -> None: ...

        function.__module__ = "__main__"
        with Processes(1) as executor, pytest.raises(ValueError, match="put it into a module"):
            executor.submit(function).result(60)

    def test_each_has_its_share(self, monkeypatch: pytest.MonkeyPatch) -> None:
        for name in ("NPROC", "OMP_NUM_THREADS", "XLA_PYTHON_CLIENT_MEM_FRACTION"):
            monkeypatch.delenv(name, raising=False)
        assert worker_environment(0, 3, 8, [])["NPROC"] == "2"
        assert worker_environment(0, 9, 8, [])["OMP_NUM_THREADS"] == "1"
        one = worker_environment(1, 2, 8, ["3", "GPU-x"])
        assert one["CUDA_VISIBLE_DEVICES"] == "GPU-x"
        assert "XLA_PYTHON_CLIENT_MEM_FRACTION" not in one
        shared = [worker_environment(slot, 3, 8, ["0", "1"]) for slot in range(3)]
        assert [item["CUDA_VISIBLE_DEVICES"] for item in shared] == ["0", "1", "0"]
        fractions = [item.get("XLA_PYTHON_CLIENT_MEM_FRACTION") for item in shared]
        assert fractions == ["0.375", None, "0.375"]
        monkeypatch.setenv("OMP_NUM_THREADS", "7")
        assert "OMP_NUM_THREADS" not in worker_environment(0, 1, 8, [])

    def test_gpus_are_found_without_jax(self, monkeypatch: pytest.MonkeyPatch) -> None:
        import importlib.util

        monkeypatch.delenv("JAX_PLATFORMS", raising=False)
        monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "2,5")
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
        assert visible_gpus() == []
        monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
        assert visible_gpus() == ["2", "5"]
        monkeypatch.setenv("JAX_PLATFORMS", "cpu")
        assert visible_gpus() == []


class FakeJob:
    """A job of a cluster, done once the test says so."""

    def __init__(self, call: Callable[[], Any]):
        self.call, self.finished, self.was_cancelled = call, False, False

    def done(self) -> bool:
        return self.finished

    def exception(self) -> Exception | None:
        return None

    def result(self) -> Any:
        return self.call()

    def cancel(self, check: bool = True) -> None:
        self.was_cancelled = True


class FakeCluster:
    def __init__(self) -> None:
        self.arrays: list[list[FakeJob]] = []
        self.error: Exception | None = None

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        self.arrays.append([])
        yield
        if self.error:
            raise self.error

    def submit(self, fn: Any, *args: Any, **kwargs: Any) -> FakeJob:
        self.arrays[-1].append(FakeJob(lambda: fn(*args, **kwargs)))
        return self.arrays[-1][-1]


class TestSubmitted:
    def test_a_sweep_is_one_array_of_jobs(self) -> None:
        cluster = FakeCluster()
        with Submitted(cluster, period=0.05) as executor:
            futures = [executor.submit(pow, 2, power) for power in range(3)]
            until(lambda: bool(cluster.arrays))
            (jobs,) = cluster.arrays
            assert futures[1].cancel()
            until(lambda: jobs[1].was_cancelled)
            jobs[0].finished = jobs[2].finished = True
            assert [futures[0].result(20), futures[2].result(20)] == [1, 4]
        with pytest.raises(RuntimeError, match="after shutdown"):
            executor.submit(pow, 2, 3)

    def test_end_and_errors(self) -> None:
        cluster = FakeCluster()
        executor = Submitted(cluster, period=0.05)
        cluster.error = OSError("sbatch: no such partition")
        with pytest.raises(OSError, match="no such partition"):
            executor.submit(pow, 2, 3).result(20)
        cluster.error = None
        failing, running = executor.submit(pow, 0, -1), executor.submit(pow, 2, 3)
        until(lambda: len(cluster.arrays) == 2)
        cluster.arrays[1][0].finished = True
        with pytest.raises(ZeroDivisionError):
            failing.result(20)
        executor.end()
        assert running.cancelled()
        assert cluster.arrays[1][1].was_cancelled


class TestALock:
    def test_a_folder_has_one_driver(self, tmp_path: Path) -> None:
        with locked(tmp_path, "being run"):
            with (
                pytest.raises(UserError, match="is being run by another process: wait for it"),
                locked(tmp_path, "being run"),
            ):
                pass
            with (
                ThreadPoolExecutor(1) as threads,
                pytest.raises(UserError, match="by another process"),
            ):
                threads.submit(lambda: locked(tmp_path, "being run").__enter__()).result()
        with locked(tmp_path, "being run"):
            pass

    def test_it_ends_with_its_holder(self, tmp_path: Path) -> None:
        code = (
            "import sys, time\nfrom pathlib import Path\n"
            "from aeoskit_experiments.jobs import locked\n"
            f"with locked(Path({str(tmp_path)!r}), 'being run'):\n"
            "    print('held', flush=True)\n    time.sleep(600)"
        )
        holder = start_python(["-c", code], stdout=subprocess.PIPE, text=True)
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError), locked(tmp_path, "being run"):
            pass
        holder.kill()
        holder.wait()
        holder.stdout.close()
        with locked(tmp_path, "being run"):
            pass

    def test_a_filesystem_without_locks(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(*_: Any) -> None:
            raise OSError(errno.ENOLCK, "no locks available")

        monkeypatch.setattr(fcntl, "flock", refuse)
        entered = []
        with locked(tmp_path, "being run"):
            entered.append(True)
        assert entered
