"""Optimizers whose metric has one matrix per axis."""

from __future__ import annotations

from typing import Any

from .._optimizer import Optimizer, Order
from ..rules._diagonal import RMS, Correction
from ..rules._matrix import SOAP, Matrices, Muon, Scale, Shampoo
from ..rules._momentum import EMA, NAdamMomentum
from ._plain import momentum_rule, optional_momentum


def shampoo(
    lr: Any,
    beta2: Any = None,
    eps: Any = 1e-4,
    *,
    beta1: Any = None,
    exponent: float | int | None = None,
    max_dimension: int = 1024,
    correction: bool = False,
    order: Order | str = "precondition_last",
    weight_decay: Any = None,
) -> Optimizer:
    """Shampoo: threshold `2 / lr` on its P, 38/lr with EMA momentum 0.9.

    Not in optax. Source: Gupta, Koren, Singer, arXiv 1802.09568.

    Args:
        lr: Learning rate. A number above 0, or a schedule.
        beta2: Decay rate of the statistics, in [0, 1). None for sums, as published.
        eps: Added to the eigenvalues of every factor, above 0.
        beta1: EMA momentum, in [0, 1). None for none.
        exponent: Exponent of each factor of P. None for `1 / (2k)` on a leaf with k axes.
        max_dimension: A longer axis has a diagonal factor.
        correction: With `beta2`, divides the averages by `1 - beta2^t`.
        order: `"precondition_last"` applies momentum to gradients, `"precondition_first"` to
            preconditioned ones.
        weight_decay: Decoupled weight decay, at least 0. None for none.

    Returns:
        An `Optimizer`, with optax's `init` and `update`, its P and its threshold.

    Raises:
        TypeError: if a hyperparameter is not a real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = shampoo(0.1)
        >>> float(optimizer.threshold(optimizer.init(jnp.zeros((2, 3)))))
        20.0
    """
    rule = Shampoo(beta2, eps, exponent, max_dimension, correction)
    return Optimizer(lr, optional_momentum(beta1), rule, weight_decay, order)


def soap(
    lr: Any,
    beta1: Any = 0.95,
    beta2: Any = 0.95,
    eps: Any = 1e-8,
    *,
    frequency: int = 10,
    shampoo_beta: Any = None,
    max_dimension: int = 10000,
    rotate_vectors: bool = False,
    correction: Correction | str = "adam",
    weight_decay: Any = None,
) -> Optimizer:
    """SOAP: Adam in the eigenbasis of Shampoo; threshold 78/lr on its P at `beta1=0.95`.

    Not in optax. Source: Vyas et al., arXiv 2409.11321.

    Args:
        lr: Learning rate. A number above 0, or a schedule.
        beta1: Decay rate of the momentum, in [0, 1).
        beta2: Decay rate of the second moments, in [0, 1).
        eps: Added to the root of the second moments, above 0.
        frequency: Steps between two changes of the basis.
        shampoo_beta: Decay rate of the statistics, in [0, 1). None for `beta2`.
        max_dimension: A longer axis is not rotated.
        rotate_vectors: Whether vectors and scalars have a basis too; if not, they have Adam's P.
        correction: "adam", "first_moment", "second_moment" or "none": see `RMS`.
        weight_decay: Decoupled weight decay, at least 0. None for none.

    Returns:
        An `Optimizer`, with optax's `init` and `update`, its P and its threshold.

    Raises:
        TypeError: if a hyperparameter is not a real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = soap(0.1)
        >>> float(optimizer.threshold(optimizer.init(jnp.zeros((2, 3)))))
        780.0
    """
    rule = SOAP(beta2, eps, frequency, shampoo_beta, max_dimension, rotate_vectors, correction)
    return Optimizer(lr, EMA(beta1), rule, weight_decay)


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
    leaves a different momentum: there are then two thresholds.

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
        beta2: Decay rate of the second moments of the leaves that are not matrices, in [0, 1).
        where: Paths of the matrices with Muon's P. None for all.
        weight_decay: Decoupled weight decay, at least 0. None for none.

    Returns:
        An `Optimizer`, with optax's `init` and `update`, its P and its threshold.

    Raises:
        TypeError: if a hyperparameter is not a real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = muon(1.0, newton_schulz=None)
        >>> float(optimizer.threshold(optimizer.init(jnp.zeros((2, 3)))))
        26.89...
    """
    corrects = nesterov and corrected
    momentum = NAdamMomentum(beta1) if corrects else momentum_rule(beta1, "ema", nesterov)
    rule = Muon(newton_schulz, eps, scale, RMS(beta2, eps), where)
    return Optimizer(lr, momentum, rule, weight_decay)
