"""The table of a page: `python -m aeoskit_experiments.planning._table FOLDER docs/planning.md`.

It plans `adam-edge` and two transformers for four topologies in both precisions, one after the
other, stores each plan in the folder (existing ones are not repeated) and writes the table between
the page's two marks; a leading `--kept` leaves out plans that are not in the folder. The TPU
compiler takes about half an hour of one core.
"""

import datetime
import itertools
import sys
from collections.abc import Callable
from pathlib import Path

import msgspec

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.recipes import make_recipe

from ._plan import plan
from ._request import Precision
from ._results import Plan, Row
from ._transformers import transformer_pipeline

TOPOLOGIES = ("v5e:2x4", "v5e:16x16", "v6e:8x8", "v5p:4x4x4")
NAMES = ("adam-edge", "gpt2-small", "1b")
MARKS = ("<!-- table -->", "<!-- end of table -->")
PRECISIONS: tuple[Precision, ...] = ("bfloat16", "float32")


def make_plan(name: str, topology: str, precision: Precision, folder: Path) -> Plan:
    """A plan, read from the folder if it is stored there.

    Args:
        name: `adam-edge`, or a size of transformer; that of a billion is sharded.
        topology: The devices.
        precision: Precision of matrix products.
        folder: The folder of stored plans.
    """
    kept = kept_at(folder, name, topology, precision)
    if kept.exists():
        return msgspec.json.decode(kept.read_bytes(), type=Plan)
    pipeline = make_recipe(name) if name == "adam-edge" else transformer_pipeline(name)
    params = "sharded" if name == "1b" else "replicated"
    found = plan(pipeline, topology, params=params, precision=precision, progress=_tell(kept.stem))
    kept.write_bytes(msgspec.json.encode(found))
    return found


def kept_at(folder: Path, name: str, topology: str, precision: str) -> Path:
    """The file of a plan."""
    return folder / f"{name}-{topology.replace(':', '-')}-{precision}.json"


def _tell(name: str) -> Callable[[str], None]:
    return lambda what: print(f"{name}: {what}", file=sys.stderr, flush=True)


def markdown(plans: dict[tuple[str, str, str], Plan]) -> str:
    """Two tables, a line for each plan: memory and verdict; a product's work and communication.

    Args:
        plans: By name, topology and precision.
    """
    memory = [
        _line("run", "chips", "products", *_ROWS, "of a chip", "verdict"),
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: | --- |",
    ]
    work = [
        "| run | chips | products | GFLOP | reduced | gathered | time: peaks | XLA |",
        "| --- | --- | --- | ---: | ---: | ---: | ---: | ---: |",
    ]
    for key, found in plans.items():
        rows = {row.program: row for row in found.rows}
        sizes = [f"{rows[name].total_bytes / 2**20:,.0f}" for name in _ROWS]
        share = max(row.total_bytes for row in found.rows) / found.memory
        memory.append(_line(*key, *sizes, f"{share:.1%}", _verdict(found)))
        product = rows["product"]
        flops = product.flops / 1e9
        work.append(
            _line(
                *key,
                f"{flops:,.0f}" if flops >= 10 else f"{flops:.2g}",
                _moved(product, "all-reduce", "reduce-scatter"),
                _moved(product, "all-gather"),
                _time(product.roofline_seconds),
                _time(product.compiler_seconds),
            )
        )
    parts = ("MiB on a chip:", *memory), ("One product, on a chip:", *work)
    return "\n\n".join(f"{title}\n\n" + "\n".join(lines) for title, *lines in parts)


def _line(*cells: str) -> str:
    return "| " + " | ".join(cells) + " |"


_ROWS = ("steps", "product", "solve", "steps + probe")


def _moved(row: Row, *kinds: str) -> str:
    if row.refused:
        return "–"  # there is no program
    size = sum(t.count * t.bytes for t in row.transfers if t.kind in kinds) / 2**20
    return f"{size:,.0f} MiB" if size >= 10 else f"{size:.3g} MiB"


def _time(seconds: float | None) -> str:
    if seconds is None:
        return "–"
    if seconds >= 1:
        return f"{seconds:.3g} s"
    return f"{seconds * 1e3:.3g} ms" if seconds >= 1e-3 else f"{seconds * 1e6:.3g} µs"


def _verdict(found: Plan) -> str:
    if found.verdict.fits:
        change = found.verdict.change
        return f"fits with `{change}`" if change else "fits"
    return "does not fit"


def all_plans(folder: Path, *, kept_only: bool) -> dict[tuple[str, str, str], Plan]:
    """The plans of the table, made if they are not in the folder.

    Args:
        folder: The folder of stored plans.
        kept_only: Whether to leave out plans that are not stored.
    """
    folder.mkdir(parents=True, exist_ok=True)
    plans = {}
    for precision, name in itertools.product(PRECISIONS, NAMES):
        for topology in TOPOLOGIES:
            if kept_only and not kept_at(folder, name, topology, precision).exists():
                continue
            try:
                plans[name, topology, precision] = make_plan(name, topology, precision, folder)
            except UserError as error:
                print(f"{name} {topology} {precision}: {error}", file=sys.stderr)
    return dict(sorted(plans.items(), key=lambda item: (NAMES.index(item[0][0]), item[0])))


def write_page(page: Path, plans: dict[tuple[str, str, str], Plan]) -> None:
    """Put the table, with its date and versions, between the page's two marks.

    Args:
        page: A page that has both marks.
        plans: By name, topology and precision.
    """
    before, _, rest = page.read_text().partition(MARKS[0])
    _, _, after = rest.partition(MARKS[1])
    versions = next(iter(plans.values())).versions
    installed = ", ".join(f"{name} {version}" for name, version in versions.items())
    today = datetime.date.today().isoformat()
    table = f"{today}; {installed}; compiled with quick effort.\n\n{markdown(plans)}"
    page.write_text(f"{before}{MARKS[0]}\n\n{table}\n\n{MARKS[1]}{after}")


def main(words: list[str]) -> None:
    """Make the plans and write the page."""
    kept_only = words[0] == "--kept"
    folder, page = words[kept_only:]
    write_page(Path(page), all_plans(Path(folder), kept_only=kept_only))


if __name__ == "__main__":
    main(sys.argv[1:])
