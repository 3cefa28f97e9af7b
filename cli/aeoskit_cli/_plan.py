"""`aeoskit plan`: a run compiled for devices that need not be here."""

import sys
from typing import Any

from aeoskit_cli._print import print_json, print_rows, print_table
from aeoskit_cli._subject import asks_for_help, split
from aeoskit_experiments._errors import UserError
from aeoskit_experiments.pipelines import options_of

_GIB, _MIB = 2**30, 2**20
_SHOWN_TRANSFERS = 6


def run_plan(words: list[str]) -> int:
    """Plan the recipe or pipeline that the words name.

    Args:
        words: What stood after `aeoskit plan`.

    Returns:
        0 if the run fits, as asked or with the change that is named; 1 if nothing makes it fit.

    Raises:
        UserError: For words that make no plan.
    """
    # The room's modules import no jax before one of them compiles.
    from aeoskit_experiments.planning import plan

    taken = options_of(plan, positional=True, skip=_NOT_OURS, lists="annotated")
    options = {option.flag: option for option in taken}
    if asks_for_help(words):
        _print_help(options)
        return 0
    values, pipeline, json = split("plan", words, options, "--topology")
    if pipeline is None:
        raise UserError(
            "plan got no run: name a recipe or a pipeline, as in `aeoskit plan adam-edge "
            "--topology v5e:2x4`"
        )
    found = plan(pipeline, **values, progress=_progress)
    if json:
        import msgspec

        print_json(msgspec.to_builtins(found))
    else:
        _print_plan(found)
    return 0 if found.verdict.fits else 1


_NOT_OURS = ("pipeline", "progress")


def _progress(what: str) -> None:
    print(what, file=sys.stderr, flush=True)


def _print_plan(found: Any) -> None:
    mesh = ", ".join(f"{axis}={size}" for axis, size in found.mesh.items())
    print_table(
        "",
        {
            "devices": f"{found.devices} × {found.chip} ({found.topology}), mesh {mesh}",
            "memory": f"{found.memory / _GIB:.2f} GiB each ({found.source})",
            "model": f"{found.parameters:,} parameters, {found.knobs.params}",
            "data": f"{found.examples:,} examples"
            + (f"; {found.lanes} runs side by side in the steps" if found.lanes > 1 else ""),
            "products": f"{found.precision}, compiled with {found.effort} effort",
        },
    )
    print()
    print_rows(
        [
            {
                "program": row.program if row.fits else f"{row.program} !",
                "MiB_in": row.argument_bytes / _MIB,
                "MiB_out": row.output_bytes / _MIB,
                "MiB_temp": row.temporary_bytes / _MIB,
                "MiB_total": None if row.total_bytes < 0 else row.total_bytes / _MIB,
                "GFLOP": row.flops / 1e9,
                "GB_read": None if row.bytes_accessed is None else row.bytes_accessed / 1e9,
                "ms_XLA": _ms(row.compiler_seconds),
                "ms_least": _ms(row.roofline_seconds),
            }
            for row in found.rows
        ],
        "per chip, and per step or product (! does not fit)",
    )
    if any(row.compiler_seconds is not None for row in found.rows):
        print("ms XLA: the compiler's estimate of its program; ms least: by the chip's peaks\n")
    transfers = [
        {
            "program": row.program,
            "collective": item.kind,
            "count": item.count,
            "bytes": item.bytes,
            "per": "call" if item.per == "call" else "pass of a loop",
        }
        for row in found.rows
        for item in row.transfers[:_SHOWN_TRANSFERS]
    ]
    if transfers:
        print_rows(transfers, "between chips, the largest of each program")
    if len(found.verdict.tried) > 1:
        tried = [
            {
                "tried": item.change or "as asked",
                "MiB_total": None if item.bytes < 0 else item.bytes / _MIB,
                "fits": item.fits,
            }
            for item in found.verdict.tried
        ]
        print_rows(tried, "tried")
    print(found.verdict.sentence)


def _ms(seconds: float | None) -> float | None:
    return None if seconds is None else 1e3 * seconds


def _print_help(options: Any) -> None:
    print(
        """Usage: aeoskit plan [OPTIONS] RECIPE [ITS OPTIONS] [--topology … OPTIONS]
       aeoskit plan [OPTIONS] pipe STAGE … [--topology … OPTIONS]

Compile a run for devices that need not be here: memory, work and messages of
each chip, and whether it fits. Nothing runs. Options of the plan stand in front
of the run, or behind it from --topology on.

  aeoskit plan adam-edge --topology v5e:2x4
  aeoskit plan pipe data tokens model transformer --size gpt2-small \\
    loss cross_entropy optimizer adam --lr 1e-4 train --steps 100 \\
    --topology v5e:16x16 --params sharded --precision bfloat16
"""
    )
    print_table("options", {flag: option.help for flag, option in options.items()})
    print_table("", {"--json": "Print one JSON object on stdout, no tables"})
