"""Executors of jobs: their names and settings, and open executors."""

import contextlib
import dataclasses
import functools
import importlib.util
import os
import shlex
import sys
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Executor
from pathlib import Path
from typing import Any

import msgspec

from aeoskit_experiments._errors import UserError, unknown
from aeoskit_experiments.jobs._processes import Processes, visible_cores, visible_gpus
from aeoskit_experiments.jobs._submitted import Submitted

EXECUTORS = {
    "processes": "worker processes on this machine",
    "dask": "the workers of a dask cluster",
    "submitit": "jobs of SLURM",
}

_EXTRAS = {"dask": ("distributed", "dask"), "submitit": ("submitit", "slurm")}
_TAKES = {"processes": ("workers",), "dask": ("address",), "submitit": ("workers", "slurm")}
_CONNECT_SECONDS = 15


class Engine(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The name of an executor, with its settings.

    Args:
        name: One of `EXECUTORS`; any other name is that of the caller's own executor.
        workers: Jobs at a time: processes (one per GPU, or one per core, if None), or SLURM's limit
            for a job array.
        address: The address of the dask cluster's scheduler.
        slurm: The request to SLURM: `time` in minutes, `partition`, `gpus_per_node`, …;
            `cluster="local"` tries the same on this machine.

    >>> Engine(name="processes", workers=2).check()
    """

    name: str = "processes"
    workers: int | None = None
    address: str | None = None
    slurm: dict[str, int | str] = {}

    def check(self) -> None:
        """Raise a `UserError` for invalid settings, before anything is created.

        Raises:
            UserError: For an unknown name, a setting that belongs to another executor or is
                missing, or an extra that is not installed.
        """
        if self.name not in EXECUTORS:
            raise unknown("executor", self.name, EXECUTORS)
        for setting in ("workers", "address", "slurm"):
            if getattr(self, setting) and setting not in _TAKES[self.name]:
                raise UserError(
                    f"executor {self.name} takes no {setting}: leave it out "
                    f"(it takes {', '.join(_TAKES[self.name])})"
                )
        if self.workers is not None and self.workers < 1:
            raise UserError(f"workers is {self.workers}: it must be at least 1")
        if self.name in _EXTRAS:
            module, extra = _EXTRAS[self.name]
            if importlib.util.find_spec(module) is None:
                raise UserError(
                    f"executor {self.name} needs {module}, which is not installed: "
                    f"pip install 'aeoskit[{extra}]'"
                )
        if self.name == "dask" and not self.address:
            raise UserError(
                "executor dask lacks the address of its scheduler: give --address tcp://HOST:8786, "
                "as printed by `dask scheduler`"
            )
        if self.name == "submitit" and not {"time", "timeout_min"} & set(self.slurm):
            # Submitit's own default is 5 minutes, which would silently end most runs.
            raise UserError(
                "executor submitit lacks the time a job may take: give --slurm time=MINUTES"
            )


@dataclasses.dataclass(frozen=True)
class OpenExecutor:
    """An executor that is ready for jobs.

    Args:
        executor: The executor.
        end: Ends the running jobs at once.
    """

    executor: Executor
    end: Callable[[], None]


def parse_slurm(text: str) -> dict[str, int | str]:
    """Parse the settings for SLURM from the command line.

    >>> parse_slurm("partition=gpu,time=60")
    {'partition': 'gpu', 'time': 60}
    """
    found: dict[str, int | str] = {}
    for part in text.split(","):
        name, equals, value = part.strip().partition("=")
        if not (name and equals and value):
            raise UserError(f"--slurm has {part.strip()!r}: write key=value,key=value")
        found[name.replace("-", "_")] = int(value) if value.isdigit() else value
    return found


def open_executor(
    engine: Engine, brought: Executor | None, *, logs: Path, submitted: Path, jobs: int
) -> contextlib.AbstractContextManager[OpenExecutor]:
    """The executor of an engine, open as long as the context is.

    Args:
        engine: The engine, checked.
        brought: The caller's own executor, which stays open afterwards.
        logs: The folder for the output of worker processes.
        submitted: The folder for submitit's files.
        jobs: Number of jobs to run.
    """
    if brought is not None:
        end = functools.partial(brought.shutdown, wait=False, cancel_futures=True)
        return contextlib.nullcontext(OpenExecutor(brought, end))
    match engine.name:
        case "processes":
            return _processes(engine, logs, jobs)
        case "dask":
            return _dask(engine)
        case _:
            return _submitit(engine, submitted)


@contextlib.contextmanager
def _processes(engine: Engine, logs: Path, jobs: int) -> Iterator[OpenExecutor]:
    workers = engine.workers or len(visible_gpus()) or visible_cores()
    with Processes(min(workers, jobs), logs=logs) as executor:
        yield OpenExecutor(executor, executor.end)


@contextlib.contextmanager
def _dask(engine: Engine) -> Iterator[OpenExecutor]:
    from distributed import Client

    try:
        client = Client(engine.address, timeout=_CONNECT_SECONDS, set_as_default=False)
    except (OSError, ValueError) as error:
        raise UserError(
            f"no dask scheduler answers at {engine.address} ({_short(error)}): "
            f"start one with `dask scheduler`, and workers with `dask worker {engine.address}`"
        ) from error
    with client:
        # Not pure: a job that is submitted a second time has to run again.
        executor = client.get_executor(pure=False)
        yield OpenExecutor(executor, lambda: executor.shutdown(wait=False))


@contextlib.contextmanager
def _submitit(engine: Engine, folder: Path) -> Iterator[OpenExecutor]:
    from submitit import AutoExecutor

    settings = {"name": "aeoskit", **engine.slurm}
    cluster = str(settings.pop("cluster", "slurm"))
    try:
        # Its jobs import nothing from the working directory, as aeoskit's own children.
        python = f"{shlex.quote(sys.executable)} -P"
        inner = AutoExecutor(
            os.path.abspath(folder), cluster=cluster, slurm_python=python, local_python=python
        )
        inner.update_parameters(**_slurm_names(settings, engine.workers))
    except (RuntimeError, ValueError, NameError, AssertionError) as error:
        raise UserError(
            f"executor submitit: {_short(error)} (on a machine without SLURM, "
            "--slurm cluster=local tries the same)"
        ) from error
    with Submitted(inner) as executor:
        yield OpenExecutor(executor, executor.end)


def _slurm_names(settings: Mapping[str, Any], workers: int | None) -> dict[str, Any]:
    """Settings by submitit's names: some are shared by all of its clusters, the rest are SLURM's.

    >>> _slurm_names({"time": 60, "partition": "gpu", "gpus_per_node": 1}, 8)
    {'timeout_min': 60, 'slurm_partition': 'gpu', 'gpus_per_node': 1, 'slurm_array_parallelism': 8}
    """
    shared = {"timeout_min", "mem_gb", "nodes", "cpus_per_task", "gpus_per_node", "name"}
    found = {}
    for name, value in settings.items():
        name = "timeout_min" if name == "time" and isinstance(value, int) else name
        found[name if name in shared else f"slurm_{name}"] = value
    if workers is not None:
        found["slurm_array_parallelism"] = workers
    return found


def _short(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0].rstrip(".")
