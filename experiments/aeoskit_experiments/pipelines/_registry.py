"""The stages, their variants, and the functions behind them.

Functions are named by reference and imported when their options are needed, so that `aeoskit list`
does not import jax. A variant may also be a user's own part, `module:name` or `./file.py:name`, or
a name that an installed package registers.
"""

import functools
import importlib
from collections.abc import Callable, Mapping
from typing import Annotated, Any

import msgspec
from msgspec import Meta

from aeoskit_experiments._errors import UserError, unknown
from aeoskit_experiments.options import (
    Decay,
    Natural,
    NonNegative,
    Option,
    Positive,
    Seed,
    loss_arguments,
    options_of,
    signature_of,
    summary_of,
)
from aeoskit_experiments.parts import (
    Code,
    find_part,
    is_reference,
    load_part,
    registered,
)

_SETTINGS = "aeoskit_experiments.pipelines._settings"
FOREIGN = "aeoskit_experiments.optimizers"
"""The module of other packages' optimizers, which have no array leaves for a sweep to stack."""


class StageKind(msgspec.Struct, frozen=True):
    """A stage that a pipeline may have.

    Args:
        name: Its name in Python and on the command line.
        summary: One line for lists and help.
        variants: A mapping from name to reference ("module:function"); empty without variants.
        reference: The reference to the options if there are no variants.
        skip: Parameters of the functions that are not options.
        positional: Whether the functions' positional parameters are options too.
        types: Annotations, by name, for parameters whose own is not specific.
        common: Options of every variant besides its function's own.
        ours: Further options of aeoskit's own variants.
        group: The entry points of other packages' variants; empty if only aeoskit's are allowed.
        required: Whether every pipeline needs it.
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
    types: Mapping[str, Any] = {}
    group: str = ""
    required: bool = False
    repeats: bool = False
    sweeps: bool = False
    texts: bool = False
    numbers: bool = True


def _in(module: str, *names: str) -> dict[str, str]:
    return {name: f"{module}:{name}" for name in names}


_SEED = Option("seed", "int", default=0, help="Seed of the initial parameters", type=Seed)

_WARMUP = Option(
    "warmup",
    "int",
    default=0,
    help="Steps over which the learning rate rises linearly to lr; 0 for none",
    type=Natural,
)

# The library accepts a number, an array or a schedule for each of these, without annotations.
HYPERPARAMETERS = {
    "lr": Annotated[Positive, Meta(description="Learning rate")],
    "beta1": Annotated[Decay, Meta(description="Momentum")],
    "beta2": Annotated[Decay, Meta(description="Decay of the second moments")],
    "eps": Annotated[NonNegative, Meta(description="Added to the preconditioner")],
    "eps_root": Annotated[float, Meta(description="Added to the second moments, inside the root")],
    "weight_decay": Annotated[NonNegative, Meta(description="Decoupled weight decay")],
    "initial_accumulator": Annotated[float, Meta(description="Initial sum of squared gradients")],
    "decay_rate": Annotated[
        float, Meta(description="The decay of the second moments at step t is 1 - t^-decay_rate")
    ],
    "weight_lr_power": Annotated[
        NonNegative,
        Meta(
            description="An iterate's weight in the average is the largest lr so far to this power"
        ),
    ],
    "clipping_threshold": Annotated[
        float, Meta(description="The largest root mean square of a leaf's update before lr")
    ],
}

_FILLED = ("key", "dataset")
"""Parameters of a model that aeoskit provides: they are not options."""

STAGES: dict[str, StageKind] = {
    kind.name: kind
    for kind in (
        StageKind(
            "data",
            "data set",
            group="aeoskit.data",
            variants=_in(
                "aeoskit_experiments.data",
                "digits",
                "mnist5k",
                "mnist",
                "fashion_mnist",
                "idx",
                "cifar10",
                "cifar100",
                "patches",
                "mixture",
                "chebyshev",
                "quadratic",
                "text",
                "topics",
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
            "network",
            group="aeoskit.models",
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
            "loss function",
            group="aeoskit.losses",
            variants=_in("aeoskit_experiments.losses", "mse", "cross_entropy"),
            required=True,
        ),
        StageKind(
            "optimizer",
            "optimizer",
            group="aeoskit.optimizers",
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
            types=HYPERPARAMETERS,
            ours=(_WARMUP,),
            required=True,
            sweeps=True,
            texts=True,
        ),
        StageKind(
            "track",
            "quantity to measure along the way (loss and gradient norm always are)",
            group="aeoskit.probes",
            variants=dict.fromkeys(("preconditioned_sharpness", "sharpness"), f"{_SETTINGS}:Track")
            | {"flip_multiplier": f"{_SETTINGS}:TrackMultiplier"}
            | dict.fromkeys(("test_error", "train_error"), f"{_SETTINGS}:TrackError"),
            positional=True,
            skip=("variant",),
            repeats=True,
        ),
        StageKind(
            "train",
            "length of training",
            reference=f"{_SETTINGS}:Train",
            positional=True,
            required=True,
        ),
        StageKind(
            "rewind",
            "continue from a state of another run",
            reference=f"{_SETTINGS}:Rewind",
            positional=True,
        ),
        StageKind(
            "branch",
            "a continuation from a copy of the state",
            variants={"freeze": f"{_SETTINGS}:Freeze", "switch": f"{_SETTINGS}:Switch"},
            positional=True,
            repeats=True,
        ),
        StageKind("place", "devices of the run", reference=f"{_SETTINGS}:Place", positional=True),
        StageKind(
            "store",
            "place of the record",
            reference=f"{_SETTINGS}:Store",
            positional=True,
            numbers=False,
        ),
        StageKind("plot", "figure of the record", reference=f"{_SETTINGS}:Plot", positional=True),
    )
}


def stage_kind(stage: str) -> StageKind:
    """Look a stage up, or raise a `UserError` with the nearest name."""
    if stage not in STAGES:
        raise unknown("stage", stage, STAGES)
    return STAGES[stage]


def variants_of(stage: str) -> tuple[str, ...]:
    """The names of a stage's variants: aeoskit's, then those of installed packages."""
    kind = stage_kind(stage)
    return (*kind.variants, *(name for name in _entries(kind) if name not in kind.variants))


def check_variant(stage: str, variant: str | None) -> None:
    """Raise a `UserError` unless the stage has this variant (None: has none at all)."""
    kind = stage_kind(stage)
    if kind.variants and variant is None:
        raise UserError(
            f"stage {stage!r} lacks its variant: write `{stage} {next(iter(kind.variants))}` "
            f"or another of {', '.join(kind.variants)}"
        )
    if variant is None:
        return
    if not kind.variants:
        raise UserError(f"stage {stage!r} has no variants: leave {variant!r} out")
    if is_reference(variant):
        if not kind.group:
            raise UserError(
                f"stage {stage!r} takes no part of your own: give one of {', '.join(kind.variants)}"
            )
    elif variant.endswith(".py") and kind.group:
        raise UserError(f"stage {stage!r}: name the part in {variant}: write {variant}:NAME")
    elif variant not in kind.variants and variant not in _entries(kind):
        raise unknown("variant", variant, variants_of(stage), where=f"stage {stage!r}")


def is_own(stage: str, variant: str) -> bool:
    """True if a variant is not aeoskit's: a user's part, or another package's."""
    return variant not in STAGES[stage].variants


def function_of(stage: str, variant: str | None, code: Code | None = None) -> Callable[..., Any]:
    """The function (or settings class) behind a variant.

    Args:
        stage: The stage.
        variant: Its variant.
        code: The source of a user's own part; None for a name that the user has just typed.

    Returns:
        The function; importing it may import jax.

    Raises:
        UserError: If there is no such variant, or its source may not run (see `load_part`).
    """
    check_variant(stage, variant)
    kind = STAGES[stage]
    if variant is not None and is_reference(variant):
        return find_part(variant).function if code is None else load_part(variant, code)
    return _registered(kind.name, variant)


@functools.cache
def _registered(stage: str, variant: str | None) -> Callable[..., Any]:
    kind = STAGES[stage]
    reference = kind.reference
    if variant is not None:
        reference = kind.variants.get(variant) or _entries(kind)[variant]
    module, _, name = reference.partition(":")
    found: Any = importlib.import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def _entries(kind: StageKind) -> Mapping[str, str]:
    return registered(kind.group) if kind.group else {}


def options_for(stage: str, variant: str | None, code: Code | None = None) -> tuple[Option, ...]:
    """The options of a variant, generated from its function's signature and docstring.

    Args:
        stage: The stage.
        variant: Its variant.
        code: The source of a user's own part, as for `function_of`.

    Returns:
        The options, in the order of the signature.

    >>> [option.name for option in options_for("plot", None)]
    ['kind']
    """
    if variant is not None and is_reference(variant) and code is None:
        check_variant(stage, variant)
        code = find_part(variant).code
    return _options(stage, variant, code)


@functools.cache
def _options(stage: str, variant: str | None, code: Code | None) -> tuple[Option, ...]:
    kind = stage_kind(stage)
    function = function_of(stage, variant, code)
    own_part = variant is not None and is_own(stage, variant)
    own = options_of(
        function,
        positional=kind.positional or own_part,
        skip=_filled(stage, function) if own_part else kind.skip,
        types=kind.types,
        texts=kind.texts,
        lists="welcome" if kind.numbers else "annotated",
    )
    taken = {option.name for option in own}
    more = kind.common
    if kind.ours and variant is not None and is_ours(variant):
        more += kind.ours
    return own + tuple(option for option in more if option.name not in taken)


def _filled(stage: str, function: Callable[..., Any]) -> tuple[str, ...]:
    """Parameters of a user's own part that are not options, since aeoskit provides them."""
    if stage == "model":
        return _FILLED
    return loss_arguments(function) if stage == "loss" else ()


def is_ours(optimizer: str) -> bool:
    """True if a variant of the stage optimizer is aeoskit's own.

    >>> is_ours("adam"), is_ours("optax")
    (True, False)
    """
    reference = STAGES["optimizer"].variants.get(optimizer)
    return reference is not None and not reference.startswith(f"{FOREIGN}:")


@functools.cache
def is_of_tokens(data: str) -> bool | None:
    """True if a variant of the stage data has tokens as targets; None if that is unknown.

    >>> is_of_tokens("digits"), is_of_tokens("sorting")
    (False, True)
    """
    from aeoskit_experiments.data import Dataset

    if is_own("data", data):
        return None
    return signature_of(function_of("data", data)).return_annotation is not Dataset


def describe(stage: str, variant: str | None, code: Code | None = None) -> str:
    """A summary of a variant, from its function's docstring."""
    return summary_of(function_of(stage, variant, code))
