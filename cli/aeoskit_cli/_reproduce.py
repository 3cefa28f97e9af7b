"""`aeoskit reproduce`: the ledger of claims, run, judged and written."""

import time
from collections.abc import Mapping
from typing import Annotated, Any

import typer

from aeoskit_cli._options import Json, NoCache, Quiet, Resumable, Root
from aeoskit_cli._print import print_json, print_ledger
from aeoskit_cli._progress import Progress

Size = Annotated[str | None, typer.Option(help="small (default) or paper", metavar="SIZE")]
Only = Annotated[str | None, typer.Option(help="Some experiments (default all)", metavar="E1,E7,…")]
Seeds = Annotated[
    int | None, typer.Option(help="Number of seeds of each run (default 1)", metavar="INT")
]
Grid = Annotated[
    bool, typer.Option("--grid", help="Further data sets, architectures and learning rates too")
]


def reproduce(
    size: Size = None,
    only: Only = None,
    seeds: Seeds = None,
    grid: Grid = False,
    root: Root = "runs",
    folder: Resumable = None,
    json: Json = False,
    quiet: Quiet = False,
    no_cache: NoCache = False,
) -> int:
    """Reproduce the literature: run, judge by bounds fixed before, write a ledger."""
    # Here, since it takes seconds.
    import jax

    from aeoskit_experiments.ledger import reproduce as run

    # The runs are in a child: this process must not reserve the accelerator's memory.
    jax.config.update("jax_platforms", "cpu")
    progress = LedgerProgress(quiet=quiet)
    with progress:
        outcome = run(
            size=size,
            only=None if only is None else only.split(","),
            seeds=seeds,
            grid=True if grid else None,
            root=root or "runs",
            folder=folder,
            listener=progress,
        )
    if json:
        print_json(outcome.summary)
    else:
        print_ledger(outcome.ledger, outcome.folder)
    return outcome.exit_code


class LedgerProgress(Progress):
    """Progress of a ledger: a line for each run and each verdict, and a bar for the present run.

    Args:
        quiet: Whether only notes (about a divergence, for example) are printed.
    """

    def __init__(self, *, quiet: bool = False):
        super().__init__(quiet=quiet)
        self._begun = time.monotonic()

    def began(self, label: str, index: int, total: int) -> None:
        """A run begins."""
        from aeoskit_experiments.ledger import seconds_words

        elapsed = seconds_words(time.monotonic() - self._begun)
        self.clear()
        self.print_line(f"{index}/{total} {label} (after {elapsed})")

    def ended(self, state: Any) -> None:
        """A run has ended."""
        if state.error:
            self.print_line(f"  {state.status}: {state.error}", style="red")

    def judged(self, row: Any) -> None:
        """A claim has a verdict."""
        from aeoskit_experiments.ledger import bounds_words, value_words

        setting = "" if row.setting == "reference" else f" ({row.setting})"
        found = f"{value_words(row)}, {bounds_words(row.bounds, row.unit)}"
        text = found if row.value is not None else row.reason
        self.print_line(
            f"  {row.verdict} {row.experiment} {row.claim}{setting}: {text}",
            style=STYLES[row.verdict],
        )


STYLES: Mapping[str, str] = {"pass": "green", "fail": "bold red", "unreachable": "dim"}
