"""One picture for a suite's cases in place of one for each, and one of all plateaus."""

from collections.abc import Mapping, Sequence
from pathlib import Path

from aeoskit.record import Run
from aeoskit_experiments.ledger._claim import REFERENCE
from aeoskit_experiments.ledger._ledger import Row
from aeoskit_experiments.ledger._plan import Task

FIGURES = "figures"
PLATEAUS = f"{FIGURES}/plateaus"


def draw_suites(
    folder: Path, tasks: Sequence[Task], runs: Mapping[str, Run]
) -> dict[str, tuple[str, ...]]:
    """Draw the cases of each suite that has ended, in the reference setting: with their spread
    where there are several seeds.

    Args:
        folder: The ledger's.
        tasks: All of them.
        runs: Those that ended, by key.

    Returns:
        The picture's file, below the folder, to the names of the works that it shows.
    """
    from aeoskit.figures import cases_figure, save, spread_figure
    from aeoskit_experiments.execution._names import optimizer_name

    suites: dict[str, dict[str, list[Task]]] = {}
    for task in tasks:
        if task.work.setting == REFERENCE and task.key in runs and task.work.case != "main":
            suites.setdefault(task.work.recipe, {}).setdefault(task.work.case, []).append(task)
    drawn: dict[str, tuple[str, ...]] = {}
    for recipe, cases in suites.items():
        if len(cases) < 2:
            continue
        metrics = {
            optimizer_name(case): [runs[task.key].metrics for task in found]
            for case, found in cases.items()
        }
        if any(len(found) > 1 for found in metrics.values()):
            figure = spread_figure(metrics)
        else:
            figure = cases_figure({name: found[0] for name, found in metrics.items()})
        (folder / FIGURES).mkdir(exist_ok=True)
        save(figure, folder / FIGURES / recipe)
        names = tuple(found[0].work.key for found in cases.values())
        drawn[f"{FIGURES}/{recipe}.png"] = names
    return drawn


def draw_plateaus(folder: Path, rows: Sequence[Row]) -> str | None:
    """Draw all numbers that should be 1, a line each: the plateaus over their own thresholds.

    Args:
        folder: The ledger's.
        rows: All of them; those without a number, with another unit, or with bounds that are not
            to both sides of 1 are left out.

    Returns:
        The picture's file, below the folder; None if there are fewer than two such numbers.
    """
    from aeoskit.figures import Level, levels_figure, save

    levels = [
        Level(row.experiment, row.claim, row.setting, row.value, _known(row), low, high)
        for row in rows
        if not row.unit and row.value is not None
        for low, high in [row.bounds]
        if low is not None and high is not None and low < 1 < high
    ]
    if len(levels) < 2:
        return None
    (folder / FIGURES).mkdir(exist_ok=True)
    save(levels_figure(levels), folder / PLATEAUS)
    return f"{PLATEAUS}.png"


def _known(row: Row) -> tuple[float, ...]:
    return tuple(value for value in row.values if value is not None)
