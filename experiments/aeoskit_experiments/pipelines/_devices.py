"""Devices that a CPU only has if they are asked for before jax starts."""

import contextlib
from collections.abc import Iterable
from typing import Any

from aeoskit_experiments._errors import UserError
from aeoskit_experiments._xla_flags import add_xla_flag
from aeoskit_experiments.pipelines._experiment import Experiment

_ORDERED = "--xla_cpu_enable_concurrency_optimized_scheduler=false"


def prepare_devices(experiments: Iterable[Experiment]) -> None:
    """Makes as many devices as any of the experiments asks for, where the backend is a CPU.

    Once jax has started, their number is what it is.

    Raises:
        UserError: If there are not so many, and none can be made any more.
    """
    wanted = max((e.place.devices or 0 for e in experiments if e.place is not None), default=0)
    if wanted == 0:
        return
    found = ask_for_devices(wanted)
    if len(found) < wanted:
        raise UserError(
            f"place: devices is {wanted}, but there are {len(found)} ({found[0].device_kind}): "
            "give at most so many"
            + ("; more of a CPU's are made at the start only" if found[0].platform == "cpu" else "")
        )


def ask_for_devices(count: int) -> list[Any]:
    """The devices that there are: of a CPU so many as asked for, if jax has not started yet.

    >>> len(ask_for_devices(1)) >= 1
    True
    """
    import jax

    # Of no effect on other backends; an error once the CPU's devices are there.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", count)
        if count > 1:
            _avoid_standstill()
    return jax.devices()


def _avoid_standstill() -> None:
    """Has simulated devices run their collectives in one order.

    With more of them than cores, XLA's CPU backend was seen to wait for ever: each device had
    begun another collective of a solve. The flag is read when the backend starts.
    """
    add_xla_flag(_ORDERED)
