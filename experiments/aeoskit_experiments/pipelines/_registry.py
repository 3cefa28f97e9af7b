"""Which stages there are, their variants, and where the functions behind them live.

Functions are named by reference and imported when their options are asked for, so that
`aeoskit list` need not import jax.
"""

import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from aeoskit_experiments._errors import UserError, unknown
from aeoskit_experiments.pipelines._options import Option, options_of, summary_of

_SETTINGS = "aeoskit_experiments.pipelines._settings"
FOREIGN = "aeoskit_experiments.optimizers"
"""Where the optimizers of others are: those have no array leaves, which a sweep could stack."""


class StageKind(msgspec.Struct, frozen=True):
    """A stage that a pipeline may have.

    Args:
        name: Its name in Python and on the command line.
        summary: One line for lists and help.
        variants: Name to reference ("module:function"); empty for a stage without variants.
        reference: Where the options are when there are no variants.
        skip: Parameters of the functions that are not options.
        positional: Whether the functions' positional parameters are options too.
        floats: Parameters that are numbers whatever their annotation says, with their help.
        common: Options that every variant has besides its function's own.
        ours: Options that aeoskit's own variants have besides those.
        required: Whether a pipeline cannot do without it.
        repeats: Whether a pipeline may have several.
        sweeps: Whether a list of variants is a sweep.
        texts: Whether an option with few choices may be swept.
        numbers: Whether an option that is a number may be swept.
    """

    name: str
    summary: str
    variants: Mapping[str, str] = {}
    reference: str = ""
    skip: tuple[str, ...] = ()
    positional: bool = False
    common: tuple[Option, ...] = ()
    ours: tuple[Option, ...] = ()
    floats: Mapping[str, str] = {}
    required: bool = False
    repeats: bool = False
    sweeps: bool = False
    texts: bool = False
    numbers: bool = True


def _in(module: str, *names: str) -> dict[str, str]:
    return {name: f"{module}:{name}" for name in names}


_SEED = Option("seed", "int", default=0, help="Seed of the initial parameters")

_WARMUP = Option(
    "warmup",
    "int",
    default=0,
    help="Steps over which the learning rate rises linearly to lr; 0 for none",
)

# The library takes a number, an array or a schedule for each of these, and annotates none.
_HYPERPARAMETERS = {
    "lr": "Learning rate",
    "beta1": "Momentum",
    "beta2": "Decay of the second moments",
    "eps": "Added to the preconditioner",
    "eps_root": "Added to the second moments, inside the root",
    "weight_decay": "Decoupled weight decay",
    "initial_accumulator": "Where the sum of squared gradients starts",
    "decay_rate": "The second moments at step t forget t^-decay_rate",
    "weight_lr_power": "An iterate's weight in the average is the largest lr so far to this power",
    "clipping_threshold": "The largest root mean square of a leaf's update before lr",
}

STAGES: dict[str, StageKind] = {
    kind.name: kind
    for kind in (
        StageKind(
            "data",
            "what to fit",
            variants=_in(
                "aeoskit_experiments.data",
                "digits",
                "mnist5k",
                "mnist",
                "fashion_mnist",
                "idx",
                "cifar10",
                "cifar100",
                "mixture",
                "chebyshev",
                "quadratic",
                "text",
                "wikitext",
                "parallel",
                "sorting",
                "modular",
                "dyck",
                "markov",
                "tokens",
            ),
            required=True,
            texts=True,
        ),
        StageKind(
            "model",
            "the network",
            variants=_in(
                "aeoskit_experiments.models",
                "mlp",
                "cnn",
                "linear",
                "lstm",
                "transformer",
                "encoder_decoder",
                "vgg",
                "resnet",
                "wide_resnet",
                "vit",
            ),
            common=(_SEED,),
            required=True,
            texts=True,
        ),
        StageKind(
            "loss",
            "what to minimize",
            variants=_in("aeoskit_experiments.losses", "mse", "cross_entropy"),
            required=True,
        ),
        StageKind(
            "optimizer",
            "how to step",
            variants=_in(
                "aeoskit.optimizers",
                "gradient_descent",
                "momentum",
                "nesterov",
                "rmsprop",
                "adam",
                "adamw",
                "nadam",
                "nadamw",
                "amsgrad",
                "shampoo",
                "soap",
                "muon",
                "padam",
                "adabelief",
                "gi_adam",
                "adagrad",
                "scalar_rmsprop",
                "adafactor",
                "schedule_free_sgd",
                "schedule_free_adamw",
                "lion",
                "sign_descent",
            )
            | _in(FOREIGN, "optax", "bfgs", "lbfgs", "nonlinear_cg"),
            positional=True,
            floats=_HYPERPARAMETERS,
            ours=(_WARMUP,),
            required=True,
            sweeps=True,
            texts=True,
        ),
        StageKind(
            "track",
            "what to measure on the way (loss and gradient norm always are)",
            variants=dict.fromkeys(("preconditioned_sharpness", "sharpness"), f"{_SETTINGS}:Track")
            | {"flip_multiplier": f"{_SETTINGS}:TrackMultiplier"}
            | dict.fromkeys(("test_error", "train_error"), f"{_SETTINGS}:TrackError"),
            positional=True,
            skip=("variant",),
            repeats=True,
        ),
        StageKind(
            "train",
            "how long",
            reference=f"{_SETTINGS}:Train",
            positional=True,
            required=True,
        ),
        StageKind(
            "rewind",
            "from a state of another run on",
            reference=f"{_SETTINGS}:Rewind",
            positional=True,
        ),
        StageKind(
            "branch",
            "another way to go on from the same state",
            variants={"freeze": f"{_SETTINGS}:Freeze", "switch": f"{_SETTINGS}:Switch"},
            positional=True,
            repeats=True,
        ),
        StageKind("place", "over which devices", reference=f"{_SETTINGS}:Place", positional=True),
        StageKind(
            "store",
            "where the record goes",
            reference=f"{_SETTINGS}:Store",
            positional=True,
            numbers=False,
        ),
        StageKind("plot", "which figure", reference=f"{_SETTINGS}:Plot", positional=True),
    )
}


def stage_kind(stage: str) -> StageKind:
    """Look a stage up, or raise a `UserError` with the nearest name."""
    if stage not in STAGES:
        raise unknown("stage", stage, STAGES)
    return STAGES[stage]


def check_variant(stage: str, variant: str | None) -> None:
    """Raise a `UserError` unless the stage has this variant (None: has none at all)."""
    kind = stage_kind(stage)
    if kind.variants and variant is None:
        raise UserError(
            f"stage {stage!r} lacks its variant: write `{stage} {next(iter(kind.variants))}` "
            f"or another of {', '.join(kind.variants)}"
        )
    if variant is not None and not kind.variants:
        raise UserError(f"stage {stage!r} has no variants: leave {variant!r} out")
    if variant is not None and variant not in kind.variants:
        raise unknown("variant", variant, kind.variants, where=f"stage {stage!r}")


@functools.cache
def function_of(stage: str, variant: str | None) -> Callable[..., Any]:
    """Import the function (or settings class) behind a variant."""
    check_variant(stage, variant)
    kind = STAGES[stage]
    module, _, name = (kind.variants[variant] if variant else kind.reference).partition(":")
    return getattr(importlib.import_module(module), name)


@functools.cache
def options_for(stage: str, variant: str | None) -> tuple[Option, ...]:
    """The options of a variant, generated from its function's signature and docstring.

    >>> [option.name for option in options_for("plot", None)]
    ['kind']
    """
    kind = stage_kind(stage)
    own = options_of(
        function_of(stage, variant),
        positional=kind.positional,
        skip=kind.skip,
        floats=kind.floats,
        texts=kind.texts,
        lists="welcome" if kind.numbers else "annotated",
    )
    taken = {option.name for option in own}
    more = kind.common
    if kind.ours and variant is not None and is_ours(variant):
        more += kind.ours
    return own + tuple(option for option in more if option.name not in taken)


def is_ours(optimizer: str) -> bool:
    """Whether a variant of the stage optimizer is aeoskit's own.

    >>> is_ours("adam"), is_ours("optax")
    (True, False)
    """
    return not STAGES["optimizer"].variants[optimizer].startswith(f"{FOREIGN}:")


@functools.cache
def is_of_tokens(data: str) -> bool:
    """Whether a variant of the stage data has tokens to tell: what its function returns says so.

    >>> is_of_tokens("digits"), is_of_tokens("sorting")
    (False, True)
    """
    from aeoskit_experiments.data import Dataset

    returned = inspect.signature(function_of("data", data), eval_str=True).return_annotation
    return returned is not Dataset


def describe(stage: str, variant: str | None) -> str:
    """One sentence about a variant, from its function's docstring."""
    return summary_of(function_of(stage, variant))
