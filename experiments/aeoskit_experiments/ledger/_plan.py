"""The runs that a ledger needs: each is built and checked before the first one starts."""

import dataclasses
import itertools
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.ledger._claim import REFERENCE, Claim, RunSpec
from aeoskit_experiments.pipelines import Pipeline

_REWOUND_OPTIONS = ("lr", "dataset", "architecture", "examples", "seed")
"""Options that a rewound pipeline does not take, since they are those of the rewound run."""

MakeSuite = Callable[[str, Mapping[str, Any]], Mapping[str, Pipeline]]
"""From a recipe's name and options (`size` and `seed` among them) to its suite."""


@dataclasses.dataclass(frozen=True)
class Task:
    """A run with a seed.

    Args:
        spec: Its specification.
        seed: Seed of data, parameters and batches.
        pipeline: Its pipeline; None if it cannot be built here. For a run that rewinds another
            one's record, the recipe's pipeline without a record: to be checked, not to be run.
        refusal: The reason why it cannot be built.
        remake: For a run that rewinds: a function from that record to the pipeline. None if the
            record is a sweep, which cannot be rewound: then it trains from the start.
    """

    spec: RunSpec
    seed: int
    pipeline: Pipeline | None
    refusal: str = ""
    remake: Callable[[str], Pipeline] | None = dataclasses.field(default=None, compare=False)

    @property
    def key(self) -> str:
        """Its unique name, which is that of its folder."""
        return task_key(self.spec, self.seed)

    @property
    def rewinds(self) -> str | None:
        """The key of the task whose record it rewinds, if any."""
        source = self.spec.rewinds
        return None if source is None or self.remake is None else task_key(source, self.seed)

    def pipeline_on(self, records: Path) -> Pipeline:
        """The pipeline, given the folder of the records.

        Raises:
            UserError: If the record cannot be rewound: its run failed, or ended before that step.
        """
        if self.remake is not None and self.rewinds is not None:
            made = self.remake(str(records / self.rewinds))
            made.experiment()
            return made
        assert self.pipeline is not None
        return self.pipeline

    @property
    def label(self) -> str:
        """Its display name."""
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
    make: MakeSuite,
) -> list[Task]:
    """Plan every run that the claims need, once each; nothing runs.

    Args:
        claims: The claims to judge.
        size: "small" or "paper".
        seeds: The seeds of each run.
        grid: Whether further settings are judged too.
        make: Builds a suite.

    Returns:
        The tasks: first the reference with the first seed, then the other seeds, then the grid. A
        task that cannot be built here (a data set is missing) has the reason.

    Raises:
        ValueError: If two runs of one name differ.
    """
    specs: dict[str, RunSpec] = {}
    for claim in claims:
        for setting in claim.settings if grid else (REFERENCE,):
            for spec in itertools.chain.from_iterable(map(_with_source, claim.specs(setting))):
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


def _with_source(spec: RunSpec) -> list[RunSpec]:
    """Add a run after those that it needs."""
    return [*([] if spec.rewinds is None else _with_source(spec.rewinds)), spec]


def _task(
    spec: RunSpec,
    seed: int,
    size: str,
    make: MakeSuite,
    suites: dict[str, Mapping[str, Pipeline] | str],
) -> Task:
    source = spec.rewinds
    # Without a record it has to train as the rewound run does.
    inherited = {} if source is None else source.options
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
        alone = source is None or _sweeps(source, size, seed, make)
    except UserError as error:
        suites.setdefault(name, str(error))
        return Task(spec, seed, None, str(error))
    if alone:
        return Task(spec, seed, suite[spec.case])

    def remake(record: str) -> Pipeline:
        # Options that the rewound run has decided are not repeated.
        own = {name: value for name, value in spec.options.items() if name not in _REWOUND_OPTIONS}
        return make(spec.recipe, {**own, "size": size, "run": record})[spec.case]

    return Task(spec, seed, suite[spec.case], remake=remake)


def _sweeps(source: RunSpec, size: str, seed: int, make: MakeSuite) -> bool:
    """True if a run has several lanes side by side, which cannot be rewound."""
    suite = make(source.recipe, {**source.options, "size": size, "seed": seed})
    return source.case in suite and bool(suite[source.case].sweep())


def make_suite(recipe: str, options: Mapping[str, Any]) -> Mapping[str, Pipeline]:
    """The suite of a registered recipe; a single pipeline is a suite with the case "main".

    Args:
        recipe: Its name.
        options: Its options, `size` and `seed` among them.

    Returns:
        A mapping from case to pipeline.

    Raises:
        UserError: If it cannot be built, or not at this size.
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
