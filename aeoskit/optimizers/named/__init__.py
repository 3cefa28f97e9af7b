"""The named optimizers, each a composition of rules."""

from collections.abc import Callable, Mapping
from types import MappingProxyType

from .._optimizer import Optimizer
from ._adaptive import (
    adabelief,
    adafactor,
    adagrad,
    adam,
    adamw,
    amsgrad,
    gi_adam,
    nadam,
    nadamw,
    padam,
    rmsprop,
    scalar_rmsprop,
    schedule_free_adamw,
)
from ._matrix import (
    muon,
    shampoo,
    soap,
)
from ._plain import (
    gradient_descent,
    lion,
    momentum,
    nesterov,
    schedule_free_sgd,
    sign_descent,
)

NAMED: Mapping[str, Callable[..., Optimizer]] = MappingProxyType(
    {
        make.__name__: make
        for make in (
            gradient_descent,
            momentum,
            nesterov,
            schedule_free_sgd,
            sign_descent,
            lion,
            adam,
            adamw,
            nadam,
            nadamw,
            amsgrad,
            padam,
            adabelief,
            gi_adam,
            schedule_free_adamw,
            rmsprop,
            scalar_rmsprop,
            adagrad,
            adafactor,
            shampoo,
            soap,
            muon,
        )
    }
)
"""Every named optimizer: a mapping from its name to its factory, a function of the learning rate.

Tests, recipes and tables iterate over this mapping, so that an optimizer is added in one place.
"""
