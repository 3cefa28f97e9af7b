"""The display names of optimizers, cases and branches, and the learning rate of an optimizer."""

import re

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
    "mlp": "MLP",
    "cnn": "CNN",
    "vgg": "VGG",
    "resnet": "ResNet",
    "wide_resnet": "wide ResNet",
    "vit": "ViT",
    "lstm": "LSTM",
    "encoder_decoder": "encoder-decoder",
}


def optimizer_name(variant: str) -> str:
    """The name of a variant, or of optax's transformation, in a figure.

    >>> optimizer_name("adam"), optimizer_name("gradient_descent")
    ('Adam', 'gradient descent')
    """
    return _NAMES.get(variant, variant.replace("_", " "))


def case_name(case: str) -> str:
    """The name of a suite's case in a figure: an optimizer, a network, or a value.

    >>> case_name("amsgrad-previous"), case_name("resnet-batch"), case_name("eps-1e-07")
    ('AMSGrad, previous', 'ResNet, batch', 'ε = 1e-7')
    """
    from aeoskit.figures import name_value  # here, since it imports matplotlib

    head, _, tail = case.partition("-")
    try:
        return name_value(head, float(tail))
    except ValueError:
        return f"{optimizer_name(head)}, {tail}" if tail else optimizer_name(case)


def branch_name(branch: str, main: str) -> str:
    """The name of a branch in a figure.

    Args:
        branch: as in the record.
        main: what the main run is called.

    >>> [branch_name(name, "Adam") for name in ("main", "frozen", "frozen-60", "momentum")]
    ['Adam', 'P frozen', 'P frozen from step 60', 'momentum']
    """
    if branch == "main":
        return main
    words = re.sub(r"-(\d+)$", r" from step \1", branch)
    return re.sub(r"^frozen\b", "P frozen", words)


def rate_of(choice: Choice) -> Value:
    """The learning rate, including the default of an optimizer of optax."""
    transform, lr = choice.settings.get("transform"), choice.settings.get("lr")
    if lr is None and isinstance(transform, str):
        from aeoskit_experiments.optimizers import RATES

        return RATES.get(transform)
    return lr
