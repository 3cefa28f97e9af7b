"""The phases of an execution, reported by JAX's monitoring beside its compiler's events."""

import contextlib
import time
from collections.abc import Iterator

import jax.monitoring


@contextlib.contextmanager
def phase(name: str) -> Iterator[None]:
    """Report the duration of a part, as the event `/aeoskit/NAME`.

    Listeners are those of `jax.monitoring.register_event_duration_secs_listener`.
    """
    begun = time.perf_counter()
    try:
        yield
    finally:
        seconds = time.perf_counter() - begun
        jax.monitoring.record_event_duration_secs(f"/aeoskit/{name}", seconds)
