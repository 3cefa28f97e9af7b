"""The error for bad input, and the nearest name to a misspelled one."""

import difflib
from collections.abc import Iterable


class UserError(ValueError):
    """Bad input: one sentence with the value, the reason and the fix.

    The command line prints it as one line and exits with code 2.

    >>> str(UserError("--lr is 0: it must be positive"))
    '--lr is 0: it must be positive'
    """


SYNONYMS = {
    "sgd": "gradient_descent",
    "gd": "gradient_descent",
    "heavy_ball": "momentum",
    "polyak": "momentum",
    "ce": "cross_entropy",
    "softmax": "cross_entropy",
    "l2": "mse",
    "squared_error": "mse",
    "hessian": "sharpness",
    "lambda": "sharpness",
    "accuracy": "test_error",
    "gpt": "transformer",
    "bs": "batch",
    "batch_size": "batch",
    "epoch": "epochs",
    "learning_rate": "lr",
    "momentum": "beta1",
    "wd": "weight_decay",
}
"""Common names of things, and aeoskit's names for them."""


def nearest(name: str, known: Iterable[str]) -> str | None:
    """The known name closest to a misspelled one, ignoring case.

    >>> nearest("Adm", ["sgd", "adam"])
    'adam'
    >>> nearest("sgd", ["gradient_descent", "adam"])
    'gradient_descent'
    >>> nearest("foo", ["sgd", "adam"]) is None
    True
    """
    names = {item.lower(): item for item in known}
    plain = name.lower().lstrip("-").replace("-", "_")
    if (known_as := SYNONYMS.get(plain, "")) in names:
        return known_as
    if (flag := f"--{known_as.replace('_', '-')}") in names:
        return flag
    near = difflib.get_close_matches(name.lower(), names, n=1, cutoff=0.5)
    return names[near[0]] if near else None


def unknown(what: str, name: str, known: Iterable[str], *, where: str = "") -> UserError:
    """The error for a name that is not registered, with the nearest one that is.

    Args:
        what: The kind of name ("recipe", "stage", "option").
        name: The given name.
        known: The names that exist.
        where: The owner of the names, as it reads after "of".

    Returns:
        The error, to be raised by the caller.

    >>> str(unknown("stage", "modle", ["data", "model"]))
    "unknown stage 'modle': did you mean 'model'? (known: data, model)"
    """
    names = list(known)
    near = nearest(name, names)
    guess = "" if near is None else f": did you mean {near!r}?"
    listed = f"(known: {', '.join(names)})" if names else "(there are none)"
    owner = f" of {where}" if where else ""
    return UserError(f"unknown {what} {name!r}{owner}{guess} {listed}")
