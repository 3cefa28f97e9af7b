"""The runs that a ledger needs: each made and checked before the first one starts."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.ledger._claim import REFERENCE, Claim, RunSpec
from aeoskit_experiments.pipelines import Pipeline

_OF_THE_PAST = ("lr", "dataset", "architecture", "examples", "seed")
"""Options that only the pipeline without a past takes: with one they are the past's."""

Make = Callable[[str, Mapping[str, Any]], Mapping[str, Pipeline]]
"""From a recipe's name and options (`size` and `seed` among them) to its suite."""


@dataclasses.dataclass(frozen=True)
class Task:
    """A run with its seed.

    Args:
        spec: Its specification.
        seed: Of data, parameters and batches.
        pipeline: Its pipeline; None if it cannot be made here. Of a run that rewinds another one's
            record it is what the recipe makes without one: to be checked, not to be run.
        refusal: Why it cannot be made.
        remake: Of a run that rewinds: the pipeline, given that record. None where the record is a
            sweep, which cannot be rewound: then it trains from the start.
    """

    spec: RunSpec
    seed: int
    pipeline: Pipeline | None
    refusal: str = ""
    remake: Callable[[str], Pipeline] | None = dataclasses.field(default=None, compare=False)

    @property
    def key(self) -> str:
        """Its name among all tasks, and its folder's."""
        return task_key(self.spec, self.seed)

    @property
    def rewinds(self) -> str | None:
        """The key of the task whose record it rewinds, if it does."""
        past = self.spec.rewinds
        return None if past is None or self.remake is None else task_key(past, self.seed)

    def pipeline_on(self, records: Path) -> Pipeline:
        """The pipeline, given the folder that the records are in.

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
        case = "" if self.spec.case == "main" else f" {self.spec.case}"
        setting = "" if self.spec.setting == REFERENCE else f", {self.spec.setting}"
        return f"{self.spec.recipe}{case}{setting}, seed {self.seed}"


def task_key(spec: RunSpec, seed: int) -> str:
    """The name of a run with a seed.

    >>> task_key(RunSpec("advance"), 0)
    'advance.seed0'
    """
    return f"{spec.key}.seed{seed}"


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
        seeds: Each run is made with each.
        grid: Whether further settings are judged too.
        make: Makes a suite.

    Returns:
        The tasks: the reference with the first seed before all else, then the other seeds, then
        the grid. One that cannot be made here (a data set is not there) says why.

    Raises:
        ValueError: If two runs of one name differ.
    """
    specs: dict[str, RunSpec] = {}
    for claim in claims:
        for setting in claim.settings if grid else (REFERENCE,):
            for spec in itertools.chain.from_iterable(map(_with_past, claim.specs(setting))):
                if specs.setdefault(spec.key, spec) != spec:
                    raise ValueError(
                        f"claim {claim.key}: another run is called {spec.key} and differs; "
                        f"give it another setting."
                    )
    suites: dict[str, Mapping[str, Pipeline] | str] = {}
    ordered = sorted(specs.values(), key=lambda spec: spec.setting != REFERENCE)
    pairs = [(spec, seed) for seed in seeds for spec in ordered]
    pairs.sort(key=lambda pair: pair[0].setting != REFERENCE)
    return [_task(spec, seed, size, make, suites) for spec, seed in pairs]


def _with_past(spec: RunSpec) -> list[RunSpec]:
    """A run behind those that it needs."""
    return [*([] if spec.rewinds is None else _with_past(spec.rewinds)), spec]


def _task(
    spec: RunSpec, seed: int, size: str, make: Make, suites: dict[str, Mapping[str, Pipeline] | str]
) -> Task:
    past = spec.rewinds
    # Without a record it is to train what the past does.
    inherited = {} if past is None else past.options
    options = {**inherited, **spec.options, "size": size, "seed": seed}
    name = f"{spec.recipe} {sorted(options.items())}"
    try:
        if name not in suites:
            suites[name] = make(spec.recipe, options)
        suite = suites[name]
        if isinstance(suite, str):
            return Task(spec, seed, None, suite)
        if spec.case not in suite:
            raise UserError(f"recipe {spec.recipe} has no case {spec.case!r} at size {size}")
        suite[spec.case].experiment()
        alone = past is None or _sweeps(past, size, seed, make)
    except UserError as error:
        suites.setdefault(name, str(error))
        return Task(spec, seed, None, str(error))
    if alone:
        return Task(spec, seed, suite[spec.case])

    def remake(record: str) -> Pipeline:
        # What the rewound run has decided is not repeated.
        own = {name: value for name, value in spec.options.items() if name not in _OF_THE_PAST}
        return make(spec.recipe, {**own, "size": size, "run": record})[spec.case]

    return Task(spec, seed, suite[spec.case], remake=remake)


def _sweeps(past: RunSpec, size: str, seed: int, make: Make) -> bool:
    """Returns whether a run has several lanes side by side, of which none can be rewound."""
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
