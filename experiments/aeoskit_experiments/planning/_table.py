"""The table of docs/planning.md: `python -m aeoskit_experiments.planning._table FOLDER`.

It plans `adam-edge` and two transformers for four topologies in both precisions, one after the
other, keeps each plan in the folder (where there is one already, it is not made again) and prints
the table. It takes the TPU compiler about half an hour of a core.
"""

import itertools
import sys
from pathlib import Path

import msgspec

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.pipelines import Pipeline, data, loss, model, optimizer, pipe, track, train
from aeoskit_experiments.recipes import make_recipe

from ._plan import plan
from ._request import Precision
from ._results import Plan, Row

TOPOLOGIES = ("v5e:2x4", "v5e:16x16", "v6e:8x8", "v5p:4x4x4")
PRECISIONS: tuple[Precision, ...] = ("bfloat16", "float32")


def transformer_pipeline(size: str) -> Pipeline:
    """Adam on random tokens, 1,024 sequences of 1,024, with a probe of three eigenvalues.

    Args:
        size: `gpt2-small` or `1b`.
    """
    return pipe(
        data("tokens", examples=1024, length=1024, vocabulary=50257),
        model("transformer", size=size, remat=True),
        loss("cross_entropy"),
        optimizer("adam", lr=1e-4),
        track("preconditioned_sharpness", every=10, k=3),
        train(1000, microbatch=1),
        name=size,
    )


def make_plan(name: str, topology: str, precision: Precision, folder: Path) -> Plan:
    """A plan, from the folder if it is there.

    Args:
        name: `adam-edge`, or a size of transformer; that of a billion is sharded.
        topology: Where.
        precision: Of matrix products.
        folder: Where plans are kept.
    """
    kept = folder / f"{name}-{topology.replace(':', '-')}-{precision}.json"
    if kept.exists():
        return msgspec.json.decode(kept.read_bytes(), type=Plan)
    pipeline = make_recipe(name) if name == "adam-edge" else transformer_pipeline(name)
    params = "sharded" if name == "1b" else "replicated"
    found = plan(pipeline, topology, params=params, precision=precision, progress=_tell(kept.stem))
    kept.write_bytes(msgspec.json.encode(found))
    return found


def _tell(name: str):
    return lambda what: print(f"{name}: {what}", file=sys.stderr, flush=True)


def markdown(plans: dict[tuple[str, str, str], Plan]) -> str:
    """The table: a line for each plan.

    Args:
        plans: By name, topology and precision.
    """
    lines = [
        "| run | chips | products | MiB a chip: steps | product | solve | steps + probe | of a "
        "chip | product: TFLOP | reduced | gathered | time: peaks | XLA | verdict |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | ---: | "
        "--- |",
    ]
    for (name, topology, precision), found in plans.items():
        rows = {row.program: row for row in found.rows}
        sizes = [f"{rows[key].total_bytes / 2**20:,.0f}" for key in _ROWS]
        share = max(row.total_bytes for row in found.rows) / found.memory
        product = rows["product"]
        cells = [
            name,
            topology,
            precision,
            *sizes,
            f"{share:.0%}",
            f"{product.flops / 1e12:.3g}",
            _moved(product, "all-reduce", "reduce-scatter"),
            _moved(product, "all-gather"),
            _time(product.roofline_seconds),
            _time(product.compiler_seconds),
            _verdict(found),
        ]
        lines.append("| " + " | ".join(cells) + " |")
    return "\n".join(lines)


_ROWS = ("steps", "product", "solve", "steps + probe")


def _moved(row: Row, *kinds: str) -> str:
    return f"{sum(t.count * t.bytes for t in row.transfers if t.kind in kinds) / 2**20:,.3g} MiB"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"


def _verdict(found: Plan) -> str:
    if found.verdict.fits:
        change = found.verdict.change
        return f"fits with `{change}`" if change else "fits"
    return "does not fit"


def main(folder: Path) -> None:
    """Plan all of it and print the table."""
    folder.mkdir(parents=True, exist_ok=True)
    plans = {}
    for precision, name in itertools.product(PRECISIONS, ("adam-edge", "gpt2-small", "1b")):
        for topology in TOPOLOGIES:
            try:
                key = (name, topology, precision)
                plans[key] = make_plan(name, topology, precision, folder)
            except UserError as error:
                print(f"{name} {topology} {precision}: {error}", file=sys.stderr)
    print(markdown(dict(sorted(plans.items()))))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
