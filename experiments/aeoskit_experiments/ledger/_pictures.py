"""Figures of a ledger: one for all cases of a suite, and one of all ratios."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from aeoskit.record import Run
from aeoskit_experiments.ledger._claim import REFERENCE
from aeoskit_experiments.ledger._ledger import Row
from aeoskit_experiments.ledger._plan import Task

if TYPE_CHECKING:
    from aeoskit.figures import Level

FIGURES = "figures"
RATIOS = f"{FIGURES}/ratios"


def draw_suites(
    folder: Path, tasks: Sequence[Task], runs: Mapping[str, Run]
) -> dict[str, tuple[str, ...]]:
    """Draw the cases of each suite that has ended, with the spread over seeds.

    Only the reference setting is drawn.

    Args:
        folder: The ledger's folder.
        tasks: All tasks.
        runs: The runs that have ended, by key.

    Returns:
        A mapping from a figure's file, below the folder, to the names of the runs that it shows.
    """
    from aeoskit.figures import cases_figure, save, spread_figure
    from aeoskit_experiments.execution import case_name

    suites: dict[str, dict[str, list[Task]]] = {}
    for task in tasks:
        if task.spec.setting == REFERENCE and task.key in runs and task.spec.case != "main":
            suites.setdefault(task.spec.recipe, {}).setdefault(task.spec.case, []).append(task)
    drawn: dict[str, tuple[str, ...]] = {}
    for recipe, cases in suites.items():
        if len(cases) < 2:
            continue
        metrics = {
            case_name(case): [runs[task.key].metrics for task in found]
            for case, found in cases.items()
        }
        if any(len(found) > 1 for found in metrics.values()):
            figure = spread_figure(metrics)
        else:
            figure = cases_figure({name: found[0] for name, found in metrics.items()})
        (folder / FIGURES).mkdir(exist_ok=True)
        save(figure, folder / FIGURES / recipe)
        names = tuple(found[0].spec.key for found in cases.values())
        drawn[f"{FIGURES}/{recipe}.png"] = names
    return drawn


def draw_ratios(folder: Path, rows: Sequence[Row]) -> str | None:
    """Draw all numbers that are ratios to a threshold, one line each.

    Args:
        folder: The ledger's folder.
        rows: All rows.

    Returns:
        The figure's file, below the folder; None if there are fewer than two such numbers.
    """
    from aeoskit.figures import levels_figure, save

    levels = levels_of(rows)
    if len(levels) < 2:
        return None
    (folder / FIGURES).mkdir(exist_ok=True)
    save(levels_figure(levels), folder / RATIOS)
    return f"{RATIOS}.png"


def levels_of(rows: Sequence[Row]) -> "list[Level]":
    """The rows to draw: ratios of which at least one seed has run."""
    from aeoskit.figures import Level

    return [
        Level(
            row.experiment,
            row.claim,
            row.setting,
            row.value,
            tuple(value for value in row.values if value is not None),
            *row.bounds,
            verdict="open"
            if row.verdict == "unreachable" or row.judged < len(row.seeds)
            else row.verdict,
        )
        for row in rows
        if row.ratio and row.judged
    ]
