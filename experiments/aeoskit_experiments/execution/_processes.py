"""One run by several processes: each has its devices and its data; the first has the record."""

import contextlib
import dataclasses
from collections.abc import Iterator
from pathlib import Path

import jax
import numpy as np
from jax.experimental import multihost_utils

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.jobs import ProcessLost, lost_sentence

HEARTBEAT = 20
"""Seconds without a heartbeat after which a process counts as dead."""

_LONGEST = 4096


@dataclasses.dataclass(frozen=True)
class Membership:
    """The place of this process among several, and the address at which they meet.

    Args:
        coordinator: `host:port` of process 0, the same for all; None if the environment provides
            everything (SLURM, Open MPI, TPU pods on GKE, as jax detects them).
        processes: Number of processes.
        process: Index of this process, from 0.

    Raises:
        UserError: If only some of these are given, or they are invalid.

    Example:
        >>> Membership("10.0.0.1:1234", 2, 0).explicit, Membership().explicit
        (True, False)
    """

    coordinator: str | None = None
    processes: int | None = None
    process: int | None = None

    def __post_init__(self):
        given = (self.coordinator, self.processes, self.process)
        if any(value is None for value in given) and any(value is not None for value in given):
            raise UserError(
                "each of several processes needs --coordinator HOST:PORT, --processes and "
                "--process, all three; or --distributed, where SLURM, Open MPI or a TPU pod "
                "provides them"
            )
        if self.coordinator is None or self.processes is None or self.process is None:
            return
        host, _, port = self.coordinator.rpartition(":")
        if not host or not port.isdigit():
            raise UserError(
                f"coordinator is {self.coordinator!r}: give the address of process 0 as HOST:PORT, "
                "such as 10.0.0.1:1234"
            )
        if self.processes < 1:
            raise UserError(f"processes is {self.processes}: give at least 1")
        if not 0 <= self.process < self.processes:
            raise UserError(
                f"process is {self.process}: with {self.processes} processes, give one from 0 to "
                f"{self.processes - 1}"
            )

    @property
    def explicit(self) -> bool:
        """True if the caller gives everything, rather than the environment."""
        return self.coordinator is not None


def join(membership: Membership, *, wait: int = 120) -> None:
    """Join the other processes, before jax starts its devices.

    Args:
        membership: This process's membership.
        wait: Seconds to wait for the others.

    Raises:
        UserError: If the environment lacks what was not given, or the others do not connect.
    """
    # Its notifier would catch the SIGTERM of a scheduler, and is not used here.
    jax.config.update("jax_enable_preemption_service", False)
    try:
        jax.distributed.initialize(
            membership.coordinator,
            membership.processes,
            membership.process,
            initialization_timeout=wait,
            heartbeat_timeout_seconds=HEARTBEAT,
            shutdown_timeout_seconds=HEARTBEAT,
        )
    except ValueError as error:
        raise UserError(
            f"the environment does not describe the processes of this run ({error}): give "
            "--coordinator HOST:PORT --processes N --process I to each"
        ) from error
    except RuntimeError as error:
        raise UserError(
            f"the processes did not connect within {wait} s ({_first_line(error)}): check "
            "that all of them run with the same --coordinator, an address of "
            "process 0 that the others can reach"
        ) from error


def is_leader() -> bool:
    """True in the first process, which writes the record.

    >>> is_leader()
    True
    """
    return jax.process_index() == 0


def any_process(value: bool) -> bool:
    """True if the value is true in any process; all of them call it together.

    >>> any_process(False), any_process(True)
    (False, True)
    """
    if jax.process_count() == 1:
        return value
    return bool(np.any(multihost_utils.process_allgather(np.asarray(value))))


def broadcast_from_leader(text: str) -> str:
    """The first process's text, in all processes.

    >>> broadcast_from_leader("runs/one")
    'runs/one'
    """
    if jax.process_count() == 1:
        return text
    encoded = text.encode()[:_LONGEST] if is_leader() else b""
    buffer = np.zeros(_LONGEST, np.uint8)
    buffer[: len(encoded)] = np.frombuffer(encoded, np.uint8)
    shared = np.asarray(multihost_utils.broadcast_one_to_all(buffer), np.uint8)
    return shared.tobytes().rstrip(b"\0").decode()


@contextlib.contextmanager
def lost_process_as_error(folder: Path) -> Iterator[None]:
    """Turn the error of a collective whose partner has died into one sentence.

    Args:
        folder: The record's folder.

    Raises:
        ProcessLost: In place of such an error.
    """
    try:
        yield
    except (ValueError, RuntimeError) as error:
        if jax.process_count() == 1 or isinstance(error, UserError) or not _is_loss(error):
            raise
        raise ProcessLost(lost_sentence(folder, _first_line(error))) from error


def _is_loss(error: BaseException) -> bool:
    # Words in the messages of gloo, NCCL and the coordination service, which have no class.
    message = str(error).lower()
    return any(
        word in message for word in ("gloo", "nccl", "connection", "coordination", "heartbeat")
    )


def _first_line(error: BaseException) -> str:
    return (str(error).strip().splitlines() or [type(error).__name__])[0]
