"""Hyperparameters and their values as people write them."""

import math
from typing import Any

SYMBOLS = {
    "lr": "η",
    "beta1": "β₁",
    "beta2": "β₂",
    "eps": "ε",
}


def number(value: float) -> str:
    """Writes a hyperparameter as in a paper.

    >>> [number(x) for x in (3e-3, 3.2e-4, 0.01, 0.814, 0.99999, 2.0, 0.0, 25000.0)]
    ['3e-3', '3.2e-4', '1e-2', '0.814', '0.99999', '2', '0', '2.5e4']
    """
    if not math.isfinite(value):
        return "none" if math.isnan(value) else str(value)
    if 0.9 < abs(value) < 1:
        return f"{value:.6g}"  # A decay of 0.99999 is not 1.
    if value == 0 or 0.05 <= abs(value) < 1e4:
        return f"{value:.4g}"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"


def symbol(name: str) -> str:
    """A hyperparameter's name on an axis.

    >>> symbol("beta2"), symbol("swept_weight_decay")
    ('β₂', 'weight decay')
    """
    name = name.removeprefix("swept_")
    return SYMBOLS.get(name, name.replace("_", " "))


def value_text(value: Any) -> str:
    """A swept value without its name.

    >>> value_text(3e-3), value_text("16"), value_text("none"), value_text("adam")
    ('3e-3', '16', 'none', 'adam')
    """
    found = _as_number(value)
    return str(value) if found is None else number(found)


def name_value(name: str, value: Any) -> str:
    """A swept value with its name, as a legend has it.

    Args:
        name: that of a hyperparameter.
        value: a number, a number as text, or a word, which speaks for itself.

    Returns:
        the words.

    Example:
        >>> [name_value(*pair) for pair in (("lr", 3e-3), ("batch", "none"), ("optimizer", "adam"))]
        ['η = 3e-3', 'batch = none', 'adam']
    """
    # A name such as an optimizer's speaks for itself; "none" and numbers do not.
    is_self_explanatory = _as_number(value) is None and value != "none"
    return str(value) if is_self_explanatory else f"{symbol(name)} = {value_text(value)}"


def _as_number(value: Any) -> float | None:
    try:
        return float(value)
    except (TypeError, ValueError):
        return None
