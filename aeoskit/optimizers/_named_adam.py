"""Named optimizers: the kin of Adam."""

from __future__ import annotations

from typing import Any

from ._adabelief import AdaBelief
from ._amsgrad import AMSGrad
from ._momentum import EMA
from ._nadam import NAdamMomentum
from ._named import nadam
from ._optimizer import Optimizer
from ._powers import as_power
from ._preconditioning import RMS
from ._rms_kin import GradientStart


def amsgrad(
    lr: Any,
    beta1: Any = 0.9,
    beta2: Any = 0.999,
    eps: Any = 1e-8,
    *,
    eps_root: Any = 0.0,
    power: float | int = 0.5,
    correction: str = "adam",
    maximum: str = "running",
    weight_decay: Any = None,
) -> Optimizer:
    """Adam over the largest second moments so far: threshold 38/lr at 0.9 on its P.

    The default is optax's `amsgrad`; the published one has `correction="none"`; the code of arXiv
    2207.14484 has `correction="none", maximum="previous"`.

    Source: Reddi, Kale, Kumar, *On the convergence of Adam and beyond* (2018).

    Args:
        lr: Learning rate of the step `x -= lr P⁻¹ m`. A number above 0, or a schedule.
        beta1: Momentum, in [0, 1).
        beta2: Decay of the second moments, in [0, 1).
        eps: Added to the root of the second moments, at least 0.
        eps_root: Added to the second moments inside the root, at least 0.
        power: Power that makes P out of the second moments: 0.5 is the square root.
        correction: Bias corrections in P: "adam" has both, "first_moment" and "second_moment" one,
            "none" neither. That of the second moments comes before the maximum.
        maximum: "running" for the largest so far, "previous" for the larger of the last two.
        weight_decay: Decoupled weight decay, at least 0. None for none.

    Returns:
        An `Optimizer`, with optax's `init` and `update`, its P and its threshold.

    Raises:
        TypeError: if a hyperparameter is no real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = amsgrad(1.0)
        >>> float(optimizer.threshold(optimizer.init(jnp.zeros(1))))
        38.00
    """
    rule = AMSGrad(beta2, eps, eps_root, power, correction, maximum)
    return Optimizer(lr, EMA(beta1), rule, weight_decay)


def padam(
    lr: Any,
    beta1: Any = 0.9,
    beta2: Any = 0.999,
    eps: Any = 1e-8,
    *,
    eps_root: Any = 0.0,
    power: float | int = 0.125,
    correction: str = "none",
    maximum: str = "running",
    weight_decay: Any = None,
) -> Optimizer:
    """Partially adaptive momentum, `P = max(ν)^power + eps`: threshold 38/lr at 0.9 on its P.

    The published form has no correction; power 1/2 is AMSGrad's, and towards 0 it is EMA momentum.

    Source: Chen et al., *Closing the generalization gap of adaptive gradient methods* (arXiv
    1806.06763).

    Args:
        lr: Learning rate of the step `x -= lr P⁻¹ m`. A number above 0, or a schedule.
        beta1: Momentum, in [0, 1).
        beta2: Decay of the second moments, in [0, 1).
        eps: Added to the power of the second moments, at least 0.
        eps_root: Added to the second moments inside the root, at least 0.
        power: Power that makes P out of the second moments, in (0, 0.5].
        correction: Bias corrections in P: "adam" has both, "first_moment" and "second_moment" one,
            "none" neither.
        maximum: "running" for the largest second moments so far, as published, "previous" for the
            larger of the last two, "none" for the moments themselves.
        weight_decay: Decoupled weight decay, at least 0. None for none.

    Returns:
        An `Optimizer`, with optax's `init` and `update`, its P and its threshold.

    Raises:
        TypeError: if a hyperparameter is no real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = padam(1.0, beta2=0.0)
        >>> state = optimizer.init(jnp.zeros(1))
        >>> optimizer.preconditioner(state, grads=jnp.array([16.0])).diagonal.tolist()  # 256^(1/8)
        [2.000]
    """
    if as_power(power) > 0.5:
        raise ValueError(
            f"power of padam must be at most 0.5, got {power!r}: take 0.125 as published, or "
            f"adam(power=...) for larger ones."
        )
    if maximum == "none":
        rule = RMS(beta2, eps, eps_root, power, correction)
    else:
        rule = AMSGrad(beta2, eps, eps_root, power, correction, maximum)
    return Optimizer(lr, EMA(beta1), rule, weight_decay)


def adabelief(
    lr: Any,
    beta1: Any = 0.9,
    beta2: Any = 0.999,
    eps: Any = 1e-16,
    *,
    eps_root: Any = 1e-16,
    correction: str = "adam",
    nesterov: bool = False,
    weight_decay: Any = None,
) -> Optimizer:
    """Adam over the gradients' distances from their average: threshold 38/lr at 0.9 on its P.

    The default is optax's `adabelief`.

    Source: Zhuang et al., *AdaBelief optimizer* (arXiv 2010.07468).

    Args:
        lr: Learning rate of the step `x -= lr P⁻¹ m`. A number above 0, or a schedule.
        beta1: Momentum, and decay of the average in P, in [0, 1).
        beta2: Decay of the second moments, in [0, 1).
        eps: Added to the root of the second moments, at least 0.
        eps_root: Added to the second moments at every step, at least 0.
        correction: Bias corrections in P: "adam" has both, "first_moment" and "second_moment" one,
            "none" neither.
        nesterov: Whether the momentum is NAdam's (threshold 13.571/lr). It corrects m and g itself,
            which goes with "adam" (meaning both) and "second_moment".
        weight_decay: Decoupled weight decay, at least 0. None for none.

    Returns:
        An `Optimizer`, with optax's `init` and `update`, its P and its threshold.

    Raises:
        TypeError: if a hyperparameter is no real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = adabelief(1.0)
        >>> float(optimizer.threshold(optimizer.init(jnp.zeros(1))))
        38.00
    """
    if not nesterov:
        rule = AdaBelief(beta1, beta2, eps, eps_root, correction)
        return Optimizer(lr, EMA(beta1), rule, weight_decay)
    if correction not in ("adam", "second_moment"):
        raise ValueError(
            f"correction with nesterov=True must be adam or second_moment, got {correction!r}: "
            f"NAdam's momentum is always corrected."
        )
    rule = AdaBelief(beta1, beta2, eps, eps_root, "second_moment")
    return Optimizer(lr, NAdamMomentum(beta1), rule, weight_decay)


def gi_adam(
    lr: Any,
    beta1: Any = 0.9,
    beta2: Any = 0.999,
    eps: Any = 1e-8,
    *,
    eps_root: Any = 0.0,
    power: float | int = 0.5,
    correction: str = "adam",
    weight_decay: Any = None,
) -> Optimizer:
    """Adam whose second moments start at the first squared gradient: threshold 38/lr at 0.9.

    Source: Kalra, Barkeshli, *Why warmup the learning rate?* (arXiv 2406.09405).

    Args:
        lr: Learning rate of the step `x -= lr P⁻¹ m`. A number above 0, or a schedule.
        beta1: Momentum, in [0, 1).
        beta2: Decay of the second moments, in [0, 1).
        eps: Added to the root of the second moments, at least 0.
        eps_root: Added to the second moments inside the root, at least 0.
        power: Power that makes P out of the second moments: 0.5 is the square root.
        correction: Bias corrections in P. "adam" has both, so that the first steps are shorter than
            Adam's by the root of 1 - beta2^t. "first_moment" has momentum's only. See `RMS`.
        weight_decay: Decoupled weight decay, at least 0. None for none.

    Returns:
        An `Optimizer`, with optax's `init` and `update`, its P and its threshold.

    Raises:
        TypeError: if a hyperparameter is no real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = gi_adam(1.0, beta2=0.99)
        >>> state = optimizer.init(jnp.zeros(1))
        >>> optimizer.update(jnp.array([3.0]), state)[0].tolist()  # √(1 - 0.99)
        [-0.10]
    """
    rule = GradientStart(RMS(beta2, eps, eps_root, power, correction))
    return Optimizer(lr, EMA(beta1), rule, weight_decay)


def nadamw(
    lr: Any,
    beta1: Any = 0.9,
    beta2: Any = 0.999,
    eps: Any = 1e-8,
    weight_decay: Any = 1e-4,
    *,
    eps_root: Any = 0.0,
    power: float | int = 0.5,
    correction: str = "nadam",
) -> Optimizer:
    """NAdam with decoupled weight decay: threshold `13.571/lr - 6.786 weight_decay` at 0.9.

    Source: Dozat (2016), Loshchilov, Hutter (2019), as optax writes it; the threshold is derived
    from the recurrence, by us.

    Args:
        lr: Learning rate of the step `x -= lr P⁻¹ m`. A number above 0, or a schedule.
        beta1: Momentum, in [0, 1).
        beta2: Decay of the second moments, in [0, 1).
        eps: Added to the root of the second moments, at least 0.
        weight_decay: Decoupled weight decay, at least 0.
        eps_root: Added to the second moments inside the root, at least 0.
        power: Power that makes P out of the second moments: 0.5 is the square root.
        correction: As in `nadam`.

    Returns:
        An `Optimizer`, with optax's `init` and `update`, its P and its threshold.

    Raises:
        TypeError: if a hyperparameter is no real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = nadamw(1.0, weight_decay=1.0)
        >>> float(optimizer.threshold(optimizer.init(jnp.zeros(1))))
        6.786
    """
    return nadam(
        lr,
        beta1,
        beta2,
        eps,
        eps_root=eps_root,
        power=power,
        correction=correction,
        weight_decay=weight_decay,
    )
