"""Simulated devices of a CPU, which have to be requested before jax starts."""

import contextlib
from collections.abc import Iterable
from typing import Any

from aeoskit_experiments._errors import UserError
from aeoskit_experiments._xla_flags import add_xla_flag
from aeoskit_experiments.pipelines._experiment import Experiment

_ORDERED = "--xla_cpu_enable_concurrency_optimized_scheduler=false"


def prepare_devices(experiments: Iterable[Experiment]) -> None:
    """Create the largest number of devices that any experiment requests, on a CPU backend.

    Once jax has started, their number is fixed.

    Raises:
        UserError: If there are fewer, and no more can be created.
    """
    wanted = max((e.place.devices or 0 for e in experiments if e.place is not None), default=0)
    if wanted == 0:
        return
    found = ask_for_devices(wanted)
    if len(found) < wanted:
        raise UserError(
            f"place: devices is {wanted}, but there are {len(found)} ({found[0].device_kind}): "
            "give at most that"
            + ("; CPU devices are created before jax starts" if found[0].platform == "cpu" else "")
        )


def ask_for_devices(count: int) -> list[Any]:
    """The present devices; on a CPU the requested number, if jax has not started yet.

    >>> len(ask_for_devices(1)) >= 1
    True
    """
    import jax

    # No effect on other backends; an error once the CPU's devices exist.
    with contextlib.suppress(RuntimeError):
        jax.config.update("jax_num_cpu_devices", count)
        if count > 1:
            _avoid_standstill()
    return jax.devices()


def _avoid_standstill() -> None:
    """Let simulated devices run their collectives in one order.

    With more of them than cores, XLA's CPU backend can deadlock: each device begins another
    collective of a solve. The flag is read when the backend starts.
    """
    add_xla_flag(_ORDERED)
