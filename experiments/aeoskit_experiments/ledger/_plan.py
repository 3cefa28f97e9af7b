"""Which runs a ledger needs: each made and checked before the first one starts."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.ledger._claim import REFERENCE, Claim, Work
from aeoskit_experiments.pipelines import Pipeline

_OF_THE_PAST = ("lr", "dataset", "architecture", "examples", "seed")
"""Options that only the pipeline without a past takes: with one they are the past's."""

Make = Callable[[str, Mapping[str, Any]], Mapping[str, Pipeline]]
"""From a recipe's name and options (`size` and `seed` among them) to its suite."""


@dataclasses.dataclass(frozen=True)
class Task:
    """A work with a seed.

    Args:
        work: What.
        seed: Of data, parameters and batches.
        pipeline: What to run; None if it cannot be made here. Of a work that rewinds another one's
            record it is what the recipe makes without one: to be checked, not to be run.
        refusal: Why it cannot be made.
        remake: Of a work that rewinds: the pipeline, given that record. None where the record is a
            sweep, which cannot be rewound: then the work trains a run of its own.
    """

    work: Work
    seed: int
    pipeline: Pipeline | None
    refusal: str = ""
    remake: Callable[[str], Pipeline] | None = dataclasses.field(default=None, compare=False)

    @property
    def key(self) -> str:
        """Its name among all tasks, and its folder's."""
        return task_key(self.work, self.seed)

    @property
    def rewinds(self) -> str | None:
        """The key of the task whose record it rewinds, if it does."""
        past = self.work.rewinds
        return None if past is None or self.remake is None else task_key(past, self.seed)

    def pipeline_on(self, records: Path) -> Pipeline:
        """What to run, given the folder that the records are in.

        Raises:
            UserError: If the record that it rewinds cannot be: it failed, or never got there.
        """
        if self.remake is not None and self.rewinds is not None:
            made = self.remake(str(records / self.rewinds))
            made.experiment()
            return made
        assert self.pipeline is not None
        return self.pipeline

    @property
    def label(self) -> str:
        """As people read it."""
        case = "" if self.work.case == "main" else f" {self.work.case}"
        setting = "" if self.work.setting == REFERENCE else f", {self.work.setting}"
        return f"{self.work.recipe}{case}{setting}, seed {self.seed}"


def task_key(work: Work, seed: int) -> str:
    """The name of a work with a seed.

    >>> task_key(Work("advance"), 0)
    'advance.seed0'
    """
    return f"{work.key}.seed{seed}"


def make_tasks(
    claims: Iterable[Claim],
    *,
    size: str,
    seeds: Iterable[int],
    grid: bool,
    make: Make,
) -> list[Task]:
    """Every run that the claims need, once; nothing runs.

    Args:
        claims: Those that will be judged.
        size: "small" or "paper".
        seeds: Each work is run with each.
        grid: Whether further settings are judged too.
        make: Makes a suite.

    Returns:
        The tasks: the reference with the first seed before all else, then the other seeds, then
        the grid. One that cannot be made here (a data set is not there) says why.

    Raises:
        ValueError: If two works of one name differ.
    """
    works: dict[str, Work] = {}
    for claim in claims:
        for setting in claim.settings if grid else (REFERENCE,):
            for work in itertools.chain.from_iterable(map(_with_past, claim.works(setting))):
                if works.setdefault(work.key, work) != work:
                    raise ValueError(
                        f"claim {claim.key}: another work is called {work.key} and differs; "
                        f"give it another setting."
                    )
    suites: dict[str, Mapping[str, Pipeline] | str] = {}
    ordered = sorted(works.values(), key=lambda work: work.setting != REFERENCE)
    pairs = [(work, seed) for seed in seeds for work in ordered]
    pairs.sort(key=lambda pair: pair[0].setting != REFERENCE)
    return [_task(work, seed, size, make, suites) for work, seed in pairs]


def _with_past(work: Work) -> list[Work]:
    """A work behind those that it needs."""
    return [*([] if work.rewinds is None else _with_past(work.rewinds)), work]


def _task(
    work: Work, seed: int, size: str, make: Make, suites: dict[str, Mapping[str, Pipeline] | str]
) -> Task:
    past = work.rewinds
    # Without a record it is to train what the past does.
    inherited = {} if past is None else past.options
    options = {**inherited, **work.options, "size": size, "seed": seed}
    name = f"{work.recipe} {sorted(options.items())}"
    try:
        if name not in suites:
            suites[name] = make(work.recipe, options)
        suite = suites[name]
        if isinstance(suite, str):
            return Task(work, seed, None, suite)
        if work.case not in suite:
            raise UserError(f"recipe {work.recipe} has no case {work.case!r} at size {size}")
        suite[work.case].experiment()
        alone = past is None or _sweeps(past, size, seed, make)
    except UserError as error:
        suites.setdefault(name, str(error))
        return Task(work, seed, None, str(error))
    if alone:
        return Task(work, seed, suite[work.case])

    def remake(record: str) -> Pipeline:
        # What the rewound run has decided is not said again.
        own = {name: value for name, value in work.options.items() if name not in _OF_THE_PAST}
        return make(work.recipe, {**own, "size": size, "run": record})[work.case]

    return Task(work, seed, suite[work.case], remake=remake)


def _sweeps(past: Work, size: str, seed: int, make: Make) -> bool:
    """Whether a work has several runs side by side, of which none can be rewound."""
    suite = make(past.recipe, {**past.options, "size": size, "seed": seed})
    return past.case in suite and bool(suite[past.case].sweep())


def make_suite(recipe: str, options: Mapping[str, Any]) -> Mapping[str, Pipeline]:
    """A registered recipe's suite; a recipe that is one pipeline is a suite of one, "main".

    Args:
        recipe: Its name.
        options: Its options, `size` and `seed` among them.

    Returns:
        Case to pipeline.

    Raises:
        UserError: If it cannot be made, or not at this size.
    """
    from aeoskit_experiments import recipes

    given = dict(options)
    names = {option.name for option in recipes.recipe_options(recipe)}
    if "size" not in names and given.pop("size") != "small":
        raise UserError(f"recipe {recipe} has one size, small")
    found = getattr(recipes, "make_suite", _suite_of_one)(recipe, **given)
    return {"main": found} if isinstance(found, Pipeline) else found


def _suite_of_one(recipe: str, **options: Any) -> Mapping[str, Pipeline]:
    from aeoskit_experiments.recipes import make_recipe

    return {"main": make_recipe(recipe, **options)}
