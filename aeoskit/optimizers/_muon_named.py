"""Muon by its name: the rule, and the momentum that goes with it."""

from __future__ import annotations

from typing import Any

from ._momentum import EMA, AbstractMomentum, EMANesterov
from ._muon import Matrices, Muon, Scale
from ._nadam import NAdamMomentum
from ._optimizer import Optimizer
from ._preconditioning import RMS


def muon(
    lr: Any,
    beta1: Any = 0.95,
    *,
    nesterov: bool = True,
    corrected: bool = False,
    newton_schulz: int | None = 5,
    eps: Any = 1e-8,
    scale: Scale | str = "width",
    beta2: Any = 0.999,
    where: Matrices = None,
    weight_decay: Any = None,
) -> Optimizer:
    """Muon: threshold 26.897/lr on its P at 0.95 with Nesterov, 78/lr without.

    Matrices have Muon's P, other leaves Adam's, and all have the same momentum. With
    `corrected=True` it is `optax.contrib.muon` with `adam_b1=beta1`, whose default gives the other
    leaves another momentum than the matrices: the two then have two thresholds.

    Source: Jordan et al., *Muon: an optimizer for hidden layers in neural networks* (2024).

    Args:
        lr: Learning rate. A number above 0, or a schedule.
        beta1: Momentum, in [0, 1), in the averaged form. The step on a matrix does not depend on
            the form, but the threshold and P both do.
        nesterov: Whether momentum is Nesterov's, as published.
        corrected: Whether the average and the gradient are bias-corrected before Nesterov's
            combination, as in optax; the published code does not.
        newton_schulz: Iterations of the approximate orthogonalization. None for the exact one.
        eps: Added to the norm of a matrix (exact: to its singular values), and in Adam's P.
        scale: "width", "rms" or "none": see `Muon`.
        beta2: Decay rate of the second moments of the leaves that are no matrices, in [0, 1).
        where: Which matrices have Muon's P, by path. None for all.
        weight_decay: Decoupled weight decay, at least 0. None for none.

    Returns:
        An `Optimizer`, with optax's `init` and `update`, its P and its threshold.

    Raises:
        TypeError: if a hyperparameter is no real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = muon(1.0, newton_schulz=None)
        >>> float(optimizer.threshold(optimizer.init(jnp.zeros((2, 3)))))
        26.89...
    """
    momentum: AbstractMomentum = EMA(beta1)
    if nesterov:
        momentum = NAdamMomentum(beta1) if corrected else EMANesterov(beta1)
    rule = Muon(newton_schulz, eps, scale, RMS(beta2, eps), where)
    return Optimizer(lr, momentum, rule, weight_decay)
