"""The chips that can be planned for, and the parser of a topology."""

import dataclasses
import math
import os
import re
from collections.abc import Mapping
from typing import Literal

from aeoskit_experiments._errors import UserError, unknown

GIB = 2**30


@dataclasses.dataclass(frozen=True)
class Chip:
    """The properties of one device.

    Args:
        kind: Its name.
        memory: Bytes that a program may use.
        flops: Multiplications and additions per second, for bfloat16 matrix products; None if
            unknown.
        bandwidth: Bytes per second to and from its memory; None if unknown.
        source: Source of the numbers.
    """

    kind: str
    memory: int
    flops: float | None = None
    bandwidth: float | None = None
    source: str = ""


_CLOUD = "docs.cloud.google.com/tpu/docs/{}, read on 2026-11-25; memory: what libtpu 0.0.42 offers"

# Memory is the compiler's own limit, as stated in its refusals; the runtime uses a little of the
# nominal 16, 95 and 32 GB.
CHIPS: Mapping[str, Chip] = {
    "v5e": Chip("v5e", int(15.75 * GIB), 197e12, 819e9, _CLOUD.format("v5e")),
    "v5p": Chip("v5p", int(95.74 * GIB), 459e12, 2765e9, _CLOUD.format("v5p")),
    "v6e": Chip("v6e", int(31.25 * GIB), 918e12, 1638e9, _CLOUD.format("v6e")),
}

_SHEET = "the maker's data sheet (dense bfloat16); memory: what the backend offers"

# By the device's name; its memory is queried from the device.
CARDS: Mapping[str, tuple[float, float]] = {
    "NVIDIA A100-SXM4-40GB": (312e12, 1555e9),
    "NVIDIA A100-SXM4-80GB": (312e12, 2039e9),
    "NVIDIA H100 80GB HBM3": (989e12, 3350e9),
    "NVIDIA H200": (989e12, 4800e9),
}

_FORM = "write v5e:16x16 for TPU chips, cpu:8 for that many CPU devices, or local"


@dataclasses.dataclass(frozen=True)
class Topology:
    """The devices of a plan.

    Args:
        name: The user's text.
        platform: The platform of the compiler; local is the present backend.
        shape: The arrangement of the chips; empty for local.
        chip: The properties of each; None until the backend is queried.
    """

    name: str
    platform: Literal["tpu", "cpu", "local"]
    shape: tuple[int, ...]
    chip: Chip | None = None

    @property
    def devices(self) -> int:
        """The number of devices; 0 for local, until the backend is queried."""
        return math.prod(self.shape) if self.shape else 0


def parse_topology(text: str) -> Topology:
    """Read the name of a topology.

    Args:
        text: A chip and the shape of the slice (`v5e:16x16`, `v5p:4x4x4`), a number of the CPU's
            devices (`cpu:8`), or `local` for all the devices that this machine has.

    Returns:
        The topology.

    Raises:
        UserError: For another form, an unknown chip or a shape with a wrong number of sides.

    >>> parse_topology("v5e:2x4").devices
    8
    """
    if text == "local":
        return Topology(text, "local", ())
    kind, colon, shape = text.partition(":")
    if not colon or not re.fullmatch(r"[1-9]\d{0,5}(x[1-9]\d{0,5})*", shape):
        raise UserError(f"the topology is {text!r}: {_FORM}")
    sides = tuple(int(side) for side in shape.split("x"))
    if kind == "cpu":
        if len(sides) > 1:
            raise UserError(f"the topology is {text!r}: CPU devices have no shape, {_FORM}")
        return Topology(text, "cpu", sides)
    if kind not in CHIPS:
        raise unknown("chip", kind, (*CHIPS, "cpu"), where=f"topology {text!r}")
    wanted = 3 if kind == "v5p" else 2
    if len(sides) != wanted:
        example = "4x4x4" if wanted == 3 else "16x16"
        raise UserError(
            f"the topology is {text!r}: a slice of {kind} has {wanted} sides, "
            f"as in {kind}:{example}"
        )
    return Topology(text, "tpu", sides, CHIPS[kind])


def chip_of(device: object, devices: int) -> Chip:
    """The properties of a device of the present backend.

    Args:
        device: A `jax.Device`.
        devices: Number of devices that share a host's memory, for a CPU.
    """
    kind = getattr(device, "device_kind", "?")
    if getattr(device, "platform", "") == "cpu":
        memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") // devices
        return Chip("cpu", memory, source="this machine's memory, shared by the devices")
    stats = device.memory_stats() or {}  # pyright: ignore[reportAttributeAccessIssue]
    flops, bandwidth = CARDS.get(kind, (None, None))
    return Chip(kind, stats.get("bytes_limit", 0), flops, bandwidth, _SHEET)
