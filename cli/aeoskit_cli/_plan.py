"""`aeoskit plan`: a run compiled for devices that need not be present."""

import sys
from typing import Any

import typer

from aeoskit_cli._generate import parameter_of
from aeoskit_cli._options import OUTPUT
from aeoskit_cli._print import print_json, print_rows, print_table
from aeoskit_cli._subject import Given, subject_app
from aeoskit_experiments import UserError
from aeoskit_experiments.options import coerce_all, options_of
from aeoskit_experiments.pipelines import Pipeline
from aeoskit_experiments.recipes import make_recipe

_GIB = 2**30
_SHOWN_TRANSFERS = 6


def make_plan_app() -> typer.Typer:
    """A new instance of the command; it imports jax."""
    from aeoskit_experiments.planning import plan

    options = options_of(plan, positional=True, skip=("pipeline", "progress"), lists="annotated")

    def act(pipeline: Pipeline, given: Given) -> int:
        json = given.pop("json", False)
        values: dict[str, Any] = dict(coerce_all(options, given, where="plan"))
        found = plan(pipeline, **values, progress=_progress)
        if json:
            import msgspec

            print_json(msgspec.to_builtins(found))
        else:
            _print_plan(found)
        return 0 if found.verdict.fits else 1

    def alone(given: Given) -> None:
        if given:
            raise UserError(
                "plan got no run: name a recipe or a pipeline, as in `aeoskit plan adam-edge "
                "--topology v5e:2x4`"
            )

    return subject_app(
        act,
        make_recipe,
        {option.name: parameter_of(option) for option in options} | {"json": OUTPUT["json"]},
        command="plan",
        summary="Compile a run for devices that need not be present: memory, work and "
        "communication of each chip, and whether it fits. Nothing runs.",
        example="data tokens model transformer --size gpt2-small loss cross_entropy optimizer "
        "adam --lr 1e-4 train --steps 100 --topology v5e:16x16 --params sharded",
        alone=alone,
    )


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
            # Other compilers have no effort setting.
            "products": found.precision
            + (f", compiled with {found.effort} effort" if found.topology.startswith("v") else ""),
        },
    )
    print()
    memory, per_memory = _unit(max(row.total_bytes for row in found.rows), 2**10, "KiB MiB GiB")
    flops, per_flops = _unit(max(row.flops for row in found.rows), 1e3, "KFLOP MFLOP GFLOP TFLOP")
    read, per_read = _unit(max(row.bytes_accessed or 0 for row in found.rows), 1e3, "KB MB GB")
    seconds = max(row.compiler_seconds or row.roofline_seconds or 0 for row in found.rows)
    time, per_time = ("ms", 1e-3) if seconds > 0.01 else ("µs", 1e-6)
    print_rows(
        [
            {
                "program": row.program if row.fits else f"{row.program} !",
                f"{memory}_in": _short(row.argument_bytes, per_memory),
                f"{memory}_out": _short(row.output_bytes, per_memory),
                f"{memory}_temp": _short(row.temporary_bytes, per_memory),
                f"{memory}_total": _short(row.total_bytes, per_memory),
                flops: _short(row.flops, per_flops),
                f"{read}_read": _short(row.bytes_accessed, per_read),
                f"{time}_XLA": _short(row.compiler_seconds, per_time),
                f"{time}_peaks": _short(row.roofline_seconds, per_time),
            }
            for row in found.rows
        ],
        "per chip, and per step or product (! does not fit)",
    )
    if any(row.compiler_seconds is not None for row in found.rows):
        print("times: XLA's own estimate of its program; roofline of the chip's peaks\n")
    sizes = [item.bytes for row in found.rows for item in row.transfers]
    sent, per_sent = _unit(max(sizes, default=0), 2**10, "KiB MiB GiB")
    transfers = [
        {
            "program": row.program,
            "collective": item.kind,
            "count": item.count,
            sent: _short(item.bytes, per_sent),
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
                f"{memory}_total": _short(item.bytes, per_memory),
                "fits": item.fits,
            }
            for item in found.verdict.tried
        ]
        print_rows(tried, "tried")
    print(found.verdict.sentence)


def _unit(largest: int | float, step: int | float, names: str) -> tuple[str, int | float]:
    """The unit in which the largest number has few digits, and its size."""
    units = [(name, step**power) for power, name in enumerate(names.split(), start=1)]
    fitting = [unit for unit in units if largest < 10 * step * unit[1]]
    return (fitting or units[-1:])[0]


def _short(value: int | float | None, unit: int | float) -> float | None:
    """A number in a unit, with one decimal; None if it is unknown."""
    return None if value is None or value < 0 else round(value / unit, 1)
