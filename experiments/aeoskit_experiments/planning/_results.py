"""The result of a plan, as plain data."""

import msgspec

from ._request import Effort, Knobs, Precision

UNKNOWN = -1
"""The bytes of a program that the compiler refused for another reason than memory."""


class Transfer(msgspec.Struct, frozen=True):
    """Collectives of a program that are alike.

    Args:
        kind: What the compiler calls it (all-reduce, all-gather, reduce-scatter …).
        count: How many.
        bytes: What each moves, on one chip.
        per: Whether it is once a call, or in every pass through a loop.
    """

    kind: str
    count: int
    bytes: int
    per: str


class Row(msgspec.Struct, frozen=True, kw_only=True):
    """One compiled program, on one chip.

    Args:
        program: Which one.
        per: What its work and times are of: a call, in which loops of unknown
            length were run through once, and so one of these.
        argument_bytes: What it is given.
        output_bytes: What it returns, apart from what lies where an argument was.
        temporary_bytes: What it needs meanwhile.
        code_bytes: The program itself.
        total_bytes: All of these; where the compiler refused, what it said that it needs at
            least; -1 where it refused for another reason.
        fits: Whether the chip has as much.
        flops: Of matrix products, loops of known length run through.
        bytes_accessed: The compiler's count: each loop's body once.
        transfers: What it sends to other chips, the largest first.
        compiler_seconds: The compiler's own estimate, loops of known length run through; None where
            it gives none. With quick effort it is that of a slower program.
        roofline_seconds: What the chip's peaks give for `flops` and `bytes_accessed`;
            None for a chip whose peaks are not known.
        compile_seconds: How long tracing and compiling took.
        refused: Why there is no program, in the compiler's words; empty where there is one.
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
    """One setting that was compiled.

    Args:
        change: What was turned, as the command line has it; empty for what was asked for.
        bytes: What the largest program then needs on a chip.
        fits: Whether every program fits.
    """

    change: str
    bytes: int
    fits: bool


class Verdict(msgspec.Struct, frozen=True):
    """The verdict whether the run fits.

    Args:
        fits: As it was asked for, or with what `change` says.
        change: What makes it fit; empty if nothing has to change, or nothing helped.
        sentence: The same for people.
        tried: What was compiled, in order.
    """

    fits: bool
    change: str
    sentence: str
    tried: tuple[Attempt, ...]


class Plan(msgspec.Struct, frozen=True, kw_only=True):
    """A run on devices that need not be here.

    Args:
        pipeline: What would run, as a command.
        topology: Where.
        chip: What each device is.
        devices: How many.
        memory: Bytes that a program may take on each.
        source: Where the chip's numbers are from.
        mesh: Axis names and sizes.
        precision: Of matrix products.
        effort: Of a TPU's compiler.
        knobs: The settings of `rows`: with the change that made them fit.
        parameters: How many the model has.
        examples: How many the data have.
        lanes: Number of runs side by side the steps have; a solve and a product are those of one.
        rows: A program each.
        verdict: Whether they fit.
        versions: Of what compiled them.
        seconds: How long all took.
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
    knobs: Knobs
    parameters: int
    examples: int
    lanes: int
    rows: tuple[Row, ...]
    verdict: Verdict
    versions: dict[str, str]
    seconds: float
