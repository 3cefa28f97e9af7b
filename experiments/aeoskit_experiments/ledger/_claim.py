"""Claims of the literature, the runs that they need, and their registry."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from typing import Any, Literal

REFERENCE = "reference"
"""The setting that decides an experiment's verdict; all others belong to the grid."""

SIZES = ("small", "paper")

TRIAL_SEEDS = (0, 1, 2, 3)
"""The seeds on which the settings of experiments are looked for; claims are judged on others."""

Verdict = Literal["pass", "fail", "unreachable"]

EXPERIMENTS: Mapping[str, str] = {
    "E1": "Adam, full batch: every learning rate comes to its own threshold",
    "E2": "Adam's momentum sets the plateau",
    "E3": "Adam with P held: its preconditioned sharpness rises and stays",
    "E4": "Architectures: the same plateau",
    "E5": "Optimizers: each at its own threshold",
    "E6": "Minibatches: from below, the nearer the larger the batch",
    "E7": "Adam keeps advancing into sharp regions",
    "E8": "Momentum without a preconditioner is blocked",
    "E9": "With P held, Adam stops advancing",
    "E10": "Learning rate by β₂: two ways to be at the edge",
    "E11": "Warmup: less curvature, and below the edge at first",
    "E12": "Generalization beside sharpness",
    "E13": "With a large ε, Adam is momentum",
    "E14": "Loss spikes at a large β₂",
    "E16": "At the edge by what the steps do, whatever β₂",
}
"""The experiments of the literature in the ledger, in a few words each."""


class OutOfReach(Exception):
    """Raised by a measure: this run cannot decide the claim; the message is the reason."""


class Refuted(Exception):
    """Raised by a measure: there is no number, and the claim fails; the message is the reason.

    For example, a run diverged where the claim says that it hovers.
    """


@dataclasses.dataclass(frozen=True)
class RunSpec:
    """The specification of a run: one case of one recipe, run once for each seed.

    It runs once, for any number of claims.

    Args:
        recipe: The recipe's name.
        case: The case of its suite; "main" for a recipe with a single pipeline.
        setting: "reference", or its label in the grid ("mnist5k", "lr 1e-4").
        options: The recipe's options besides size and seed.
        rewinds: The run whose record becomes the recipe's option `run`: it runs first, with each
            seed.

    >>> RunSpec("advance", setting="lr 1e-4", options={"lr": 1e-4}).key
    'advance.lr-1e-4'
    """

    recipe: str
    case: str = "main"
    setting: str = REFERENCE
    options: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    rewinds: "RunSpec | None" = None

    @property
    def key(self) -> str:
        """Its unique name, which can name a folder."""
        parts = [self.recipe]
        parts += [self.case] if self.case != "main" else []
        parts += [self.setting] if self.setting != REFERENCE else []
        return ".".join(re.sub(r"[^A-Za-z0-9_+=-]+", "-", part).strip("-") for part in parts)


@dataclasses.dataclass(frozen=True)
class Measured:
    """A number with its alternative: what it would be if the claim were false.

    Args:
        value: The number to compare with the bounds.
        alternative: The same quantity where the claim does not hold, measured too; None if these
            runs do not have it.
        note: What a reader of the number should know, in one sentence without a period.
    """

    value: float
    alternative: float | None = None
    note: str = ""


Measure = Callable[..., float | Measured | None]


@dataclasses.dataclass(frozen=True)
class Claim:
    """A claim of the literature, and its measure.

    Args:
        experiment: "E7".
        name: Its name within the experiment: letters, digits, '-' and '_'.
        says: The claim, in one sentence.
        measure: Takes the `Evidence` of each run of a setting, in the order of `needs`, and
            returns the number to compare with the bounds, or `Measured`. It raises `OutOfReach` or
            `Refuted`, with a sentence, if there is no number.
        needs: The runs that it reads, for all settings.
        unit: Printed after the number ("×").
        sizes: The sizes at which it is judged: an effect may exist at only one of them.
        ratio: Whether the number is a ratio to a threshold, for the figure of all ratios.
        alternative: What `Measured.alternative` is, in words. The claim passes only if the bounds
            exclude that number; empty for a claim without.
    """

    experiment: str
    name: str
    says: str
    measure: Measure
    needs: tuple[RunSpec, ...]
    unit: str = ""
    sizes: tuple[str, ...] = SIZES
    ratio: bool = False
    alternative: str = ""

    @property
    def key(self) -> str:
        """Its unique name, which is that of its table in the file of bounds."""
        return f"{self.experiment}.{self.name}"

    @property
    def settings(self) -> tuple[str, ...]:
        """The settings in which it is judged separately, the reference first."""
        found = dict.fromkeys(spec.setting for spec in self.needs)
        return tuple(sorted(found, key=lambda setting: setting != REFERENCE))

    def specs(self, setting: str) -> tuple[RunSpec, ...]:
        """The runs that it needs in one setting."""
        return tuple(spec for spec in self.needs if spec.setting == setting)


CLAIMS: dict[str, Claim] = {}
"""All claims by key, in the order of their definition."""


def claim(
    experiment: str,
    name: str,
    *,
    says: str,
    needs: RunSpec | tuple[RunSpec, ...],
    alternative: str,
    unit: str = "",
    sizes: tuple[str, ...] = SIZES,
    ratio: bool = False,
) -> Callable[[Measure], Measure]:
    """Register a function as the measure of a claim.

    Args:
        experiment: "E7".
        name: The claim's name.
        says: The claim, in one sentence.
        needs: The runs that it reads, for all settings; the measure gets those of one setting.
        alternative: What the number is compared with, besides its bounds, in words.
        unit: Printed after the number.
        sizes: The sizes at which it is judged.
        ratio: Whether the number is a ratio to a threshold.

    Returns:
        A decorator that returns the function unchanged: it may measure several claims.

    Raises:
        ValueError: If the experiment is unknown, or the name is taken or invalid.
    """
    specs = (needs,) if isinstance(needs, RunSpec) else tuple(needs)

    def register(measure: Measure) -> Measure:
        made = Claim(experiment, name, says, measure, specs, unit, sizes, ratio, alternative)
        if experiment not in EXPERIMENTS:
            raise ValueError(f"claim {made.key}: the experiments are {', '.join(EXPERIMENTS)}.")
        if not re.fullmatch(r"[A-Za-z0-9._-]+", name):
            raise ValueError(
                f"claim {made.key}: use letters, digits, '.', '-' and '_' for its name."
            )
        if made.key in CLAIMS:
            raise ValueError(f"claim {made.key} is there already: give it another name.")
        CLAIMS[made.key] = made
        return measure

    return register


def experiment_order(experiment: str) -> int:
    """The sort key of an experiment: E2 before E10.

    >>> sorted(["E10", "E2"], key=experiment_order)
    ['E2', 'E10']
    """
    known = list(EXPERIMENTS)
    # Ledgers of earlier versions have some that are gone.
    return known.index(experiment) if experiment in known else len(known)
