"""The fields of an objective that its curvature operators read."""

from typing import Literal

import equinox as eqx
from jaxtyping import PyTree

from aeoskit.sharding import Placement

from ._function import ModelLoss, StableFunction

Reuse = Literal["auto", "linearize", "recompute"]
Product = Literal["forward", "reverse", "difference"]


class AbstractObjective(eqx.Module):
    """A mean loss over a data set, without the methods that make operators of it."""

    loss: eqx.AbstractVar[StableFunction | ModelLoss]
    data: eqx.AbstractVar[PyTree]
    microbatch: eqx.AbstractVar[int | None]
    reuse: eqx.AbstractVar[Reuse]
    residual_budget: eqx.AbstractVar[int]
    tail: eqx.AbstractVar[PyTree | None]
    placement: eqx.AbstractVar[Placement | None]
    product: eqx.AbstractVar[Product]
    symmetric: eqx.AbstractVar[bool]
