"""The compilation of one program: its memory, work and communication."""

import re
import time
from typing import Any

import jax

from aeoskit.sharding import collectives

from ._abstract import bytes_on_device
from ._cycles import loop_factor
from ._flops import matmul_flops
from ._programs import Program
from ._request import PASSES, Precision
from ._results import UNKNOWN, Row, Transfer
from ._topology import Chip

_UNITS = {"": 1, "B": 1, "K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}
# The TPU compiler's message for a program that does not fit, in its two forms.
_USED = re.compile(r"(?:required for HLO temporaries \(|Used )(\d+(?:\.\d+)?)([KMGT]?)")


def compile_row(program: Program, chip: Chip, devices: int, precision: Precision) -> Row:
    """Trace, lower and compile a program, and read the compiler's numbers.

    Args:
        program: The program, on shapes with shardings.
        chip: The properties of each device.
        devices: Number of devices.
        precision: Precision of matrix products, for the roofline.

    Returns:
        The row; for a program that the compiler refuses, with its reason.
    """
    begun = time.perf_counter()
    traced = program.trace()
    flops = matmul_flops(traced.jaxpr, devices)
    arguments = bytes_on_device(program.arguments)
    lowered = traced.lower()
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        refusal = " ".join(str(error).split())
        # Not for lack of memory: its needs are unknown.
        temporaries = needed_bytes(refusal) if "RESOURCE_EXHAUSTED" in refusal else UNKNOWN
        return Row(
            program=program.name,
            per=program.per,
            argument_bytes=arguments,
            temporary_bytes=max(temporaries, 0),
            total_bytes=UNKNOWN if temporaries == UNKNOWN else arguments + temporaries,
            fits=False,
            flops=flops,
            compile_seconds=time.perf_counter() - begun,
            refused=refusal[:400],
        )
    seconds = time.perf_counter() - begun
    memory, cost, text = compiled.memory_analysis(), _costs(compiled), compiled.as_text()
    outputs = memory.output_size_in_bytes - memory.alias_size_in_bytes
    total = (
        memory.argument_size_in_bytes
        + outputs
        + memory.temp_size_in_bytes
        + memory.generated_code_size_in_bytes
    )
    accessed = cost.get("bytes accessed")
    return Row(
        program=program.name,
        per=program.per,
        argument_bytes=memory.argument_size_in_bytes,
        output_bytes=outputs,
        temporary_bytes=memory.temp_size_in_bytes,
        code_bytes=memory.generated_code_size_in_bytes,
        total_bytes=total,
        fits=not chip.memory or total <= chip.memory,
        flops=flops,
        bytes_accessed=accessed,
        transfers=tuple(
            Transfer(item.kind, item.count, item.bytes, "iteration" if item.in_loop else "call")
            for item in collectives(text)
        ),
        compiler_seconds=compiler_seconds(cost.get("optimal_seconds"), loop_factor(text)),
        roofline_seconds=roofline_seconds(flops, accessed, chip, precision),
        compile_seconds=seconds,
    )


def needed_bytes(refusal: str) -> int:
    """The bytes that a refused program needs besides its arguments, by the compiler's message.

    Args:
        refusal: The message; 0 is returned if it has no number.

    >>> needed_bytes("the total memory required for HLO temporaries (1.50G) exceeds available HBM")
    1610612736
    """
    found = _USED.search(refusal)
    return int(float(found[1]) * _UNITS[found[2]]) if found else 0


def compiler_seconds(single_pass: float | None, factor: float | None) -> float | None:
    """The compiler's estimate of a time, with loops of known length run in full.

    Args:
        single_pass: Its seconds, with each loop's body once; an unknown operation counts as -1.
        factor: The factor by which known loops lengthen the program.

    >>> compiler_seconds(2.0, 3.0), compiler_seconds(-1.0, 3.0)
    (6.0, None)
    """
    return (
        single_pass * factor
        if single_pass is not None and single_pass > 0 and factor is not None
        else None
    )


def roofline_seconds(
    flops: float, accessed: float | None, chip: Chip, precision: Precision
) -> float | None:
    """The roofline time of a chip; None if its peaks are not known.

    Args:
        flops: FLOP of matrix products.
        accessed: Bytes to and from memory.
        chip: The chip, with its peaks.
        precision: Precision of matrix products.
    """
    if not chip.flops or not chip.bandwidth:
        return None
    products = PASSES[precision] * flops / chip.flops
    return max(products, (accessed or 0.0) / chip.bandwidth)


def _costs(compiled: Any) -> dict[str, float]:
    """The compiler's own cost analysis; some backends give a list, some nothing."""
    found = compiled.cost_analysis()
    if isinstance(found, list | tuple):
        found = found[0] if found else None
    return dict(found or {})
