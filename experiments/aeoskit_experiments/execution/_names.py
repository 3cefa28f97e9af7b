"""The display name and the learning rate of an optimizer."""

from aeoskit_experiments.options import Value
from aeoskit_experiments.pipelines import Choice

_NAMES = {
    "sgd": "GD",
    "nesterov": "Nesterov",
    "adam": "Adam",
    "adamw": "AdamW",
    "nadam": "NAdam",
    "nadamw": "NAdamW",
    "rmsprop": "RMSProp",
    "scalar_rmsprop": "scalar RMSProp",
    "amsgrad": "AMSGrad",
    "shampoo": "Shampoo",
    "soap": "SOAP",
    "muon": "Muon",
    "padam": "Padam",
    "adabelief": "AdaBelief",
    "gi_adam": "GI-Adam",
    "adagrad": "Adagrad",
    "adafactor": "Adafactor",
    "schedule_free_sgd": "Schedule-Free SGD",
    "schedule_free_adamw": "Schedule-Free AdamW",
    "lion": "Lion",
    "sign_descent": "sign descent",
}


def optimizer_name(variant: str) -> str:
    """The name of a variant, or of optax's transformation, in a figure.

    >>> optimizer_name("adam"), optimizer_name("gradient_descent")
    ('Adam', 'gradient descent')
    """
    return _NAMES.get(variant, variant.replace("_", " "))


def rate_of(choice: Choice) -> Value:
    """The learning rate, including the default of an optimizer of optax."""
    transform, lr = choice.settings.get("transform"), choice.settings.get("lr")
    if lr is None and isinstance(transform, str):
        from aeoskit_experiments.optimizers import RATES

        return RATES.get(transform)
    return lr
