"""The result of a plan, as plain data."""

import msgspec

from ._request import Effort, PlanSettings, Precision

UNKNOWN = -1
"""The size of a program that the compiler refused for another reason than memory."""


class Transfer(msgspec.Struct, frozen=True):
    """Collectives of one kind in a program.

    Args:
        kind: The compiler's name for it (all-reduce, all-gather, reduce-scatter …).
        count: Their number.
        bytes: Bytes that each moves, on one chip.
        per: Whether it runs once per call, or in every pass of a loop.
    """

    kind: str
    count: int
    bytes: int
    per: str


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One compiled program, on one chip.

    Args:
        program: Its name.
        per: The unit of its work and times: one call, in which a loop of unknown length counts
            once.
        argument_bytes: Size of its arguments.
        output_bytes: Size of its outputs, apart from those that reuse an argument's buffer.
        temporary_bytes: Size of its temporaries.
        code_bytes: Size of its code.
        total_bytes: Their sum; if the compiler refused, the least that it reported; -1 if it
            refused for another reason.
        fits: Whether the chip has that much memory.
        flops: FLOP of matrix products, with loops of known length in full.
        bytes_accessed: The compiler's count, with each loop's body once.
        transfers: Communication with other chips, the largest first.
        compiler_seconds: The compiler's own estimate, with loops of known length in full; None if
            it gives none. With quick effort it is that of a slower program.
        roofline_seconds: Roofline time of `flops` and `bytes_accessed`; None for a chip whose peaks
            are not known.
        compile_seconds: Time of tracing and compilation.
        refused: The compiler's reason for refusing the program; empty if it compiled.
    """

    program: str
    per: str
    argument_bytes: int
    output_bytes: int = 0
    temporary_bytes: int = 0
    code_bytes: int = 0
    total_bytes: int = 0
    fits: bool = True
    flops: float = 0.0
    bytes_accessed: float | None = None
    transfers: tuple[Transfer, ...] = ()
    compiler_seconds: float | None = None
    roofline_seconds: float | None = None
    compile_seconds: float = 0.0
    refused: str = ""


class Attempt(msgspec.Struct, frozen=True):
    """One compiled setting.

    Args:
        change: The changed settings, as on the command line; empty for the request itself.
        bytes: Size of the largest program on a chip.
        fits: Whether every program fits.
    """

    change: str
    bytes: int
    fits: bool


class Verdict(msgspec.Struct, frozen=True):
    """The verdict on whether the run fits.

    Args:
        fits: Whether it fits, as requested or with `change`.
        change: The change that makes it fit; empty if none is needed, or none helped.
        sentence: The same in one sentence.
        tried: The compiled settings, in order.
    """

    fits: bool
    change: str
    sentence: str
    tried: tuple[Attempt, ...]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A plan of a run on devices that need not be present.

    Args:
        pipeline: The run, as a command.
        topology: The devices.
        chip: The kind of each device.
        devices: Number of devices.
        memory: Bytes that a program may use on each.
        source: Source of the chip's numbers.
        mesh: Axis names and sizes.
        precision: Precision of matrix products.
        effort: Effort of a TPU's compiler.
        knobs: The settings of `rows`, with the change that made them fit.
        parameters: Number of parameters of the model.
        examples: Number of examples of the data.
        lanes: Number of runs side by side in the steps; a solve and a product are those of one.
        rows: One row per program.
        verdict: Whether they fit.
        versions: Versions of the compiler's packages.
        seconds: Total time.
    """

    pipeline: str
    topology: str
    chip: str
    devices: int
    memory: int
    source: str
    mesh: dict[str, int]
    precision: Precision
    effort: Effort
    knobs: PlanSettings
    parameters: int
    examples: int
    lanes: int
    rows: tuple[Row, ...]
    verdict: Verdict
    versions: dict[str, str]
    seconds: float
