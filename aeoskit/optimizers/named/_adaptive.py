"""Optimizers whose metric is a diagonal of second moments: Adam and its variants."""

from __future__ import annotations

from typing import Any

from .._optimizer import Optimizer
from ..rules._diagonal import (
    RMS,
    AdaBelief,
    Adafactor,
    Adagrad,
    AMSGrad,
    GradientStart,
    ScalarRMS,
    as_power,
)
from ..rules._momentum import EMA, EMANesterov, NAdamMomentum
from ..rules._schedule_free import ScheduleFree
from ._plain import Form, optional_momentum


def adam(
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
    """Adam, as momentum in the metric P: threshold `(2 + 2 beta1) / ((1 - beta1) lr)` on P.

    `x -= lr P⁻¹ m` with `P = (1 - beta1^t) (√(ν / (1 - beta2^t)) + eps)`: both of its bias
    corrections are in P.

    Source: Kingma, Ba (2015); as a preconditioned method: Cohen et al., arXiv 2207.14484.

    Args:
        lr: Learning rate of the step `x -= lr P⁻¹ m`. A number above 0, or a schedule.
        beta1: Momentum, in [0, 1).
        beta2: Decay of the second moments, in [0, 1).
        eps: Added to the root of the second moments, at least 0.
        eps_root: Added to the second moments inside the root, at least 0.
        power: Exponent of the second moments in P: 0.5 is the square root.
        correction: Bias corrections in P: "adam" has both, "second_moment" that of ν only (as in
            the code of arXiv 2207.14484), "none" neither. See `RMS`.
        weight_decay: Decoupled weight decay, at least 0. None for none.

    Returns:
        An `Optimizer`, with optax's `init` and `update`, its P and its threshold.

    Raises:
        TypeError: if a hyperparameter is not a real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = adam(1e-3)
        >>> state = optimizer.init(jnp.zeros(2))
        >>> round(float(optimizer.threshold(state)) / 100)
        380
        >>> optimizer.preconditioner(state, grads=jnp.array([1.0, -2.0])).diagonal.tolist()
        [0.10, 0.20]
    """
    return Optimizer(lr, EMA(beta1), RMS(beta2, eps, eps_root, power, correction), weight_decay)


def adamw(
    lr: Any,
    beta1: Any = 0.9,
    beta2: Any = 0.999,
    eps: Any = 1e-8,
    weight_decay: Any = 1e-4,
    *,
    eps_root: Any = 0.0,
    power: float | int = 0.5,
    correction: str = "adam",
) -> Optimizer:
    """Adam with decoupled weight decay: threshold `38/lr - 19 weight_decay` at 0.9.

    Source: Loshchilov, Hutter, *Decoupled weight decay regularization* (2019); the threshold is
    derived here from the recurrence.

    Args:
        lr: Learning rate of the step `x -= lr P⁻¹ m`. A number above 0, or a schedule.
        beta1: Momentum, in [0, 1).
        beta2: Decay of the second moments, in [0, 1).
        eps: Added to the root of the second moments, at least 0.
        weight_decay: Decoupled weight decay, at least 0.
        eps_root: Added to the second moments inside the root, at least 0.
        power: Exponent of the second moments in P: 0.5 is the square root.
        correction: Bias corrections in P: "adam" has both, "second_moment" that of ν only (as in
            the code of arXiv 2207.14484), "none" neither. See `RMS`.

    Returns:
        An `Optimizer`, with optax's `init` and `update`, its P and its threshold.

    Raises:
        TypeError: if a hyperparameter is not a real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = adamw(1.0, weight_decay=1.0)
        >>> float(optimizer.threshold(optimizer.init(jnp.zeros(1))))
        19.00
    """
    return Optimizer(lr, EMA(beta1), RMS(beta2, eps, eps_root, power, correction), weight_decay)


def nadam(
    lr: Any,
    beta1: Any = 0.9,
    beta2: Any = 0.999,
    eps: Any = 1e-8,
    *,
    eps_root: Any = 0.0,
    power: float | int = 0.5,
    correction: str = "nadam",
    weight_decay: Any = None,
) -> Optimizer:
    """Adam with Nesterov's momentum: threshold 13.571/lr at 0.9 on its P.

    Source: Dozat, *Incorporating Nesterov momentum into Adam* (2016), as optax writes it; the
    threshold is derived here from the recurrence.

    Args:
        lr: Learning rate of the step `x -= lr P⁻¹ m`. A number above 0, or a schedule.
        beta1: Momentum, in [0, 1).
        beta2: Decay of the second moments, in [0, 1).
        eps: Added to the root of the second moments, at least 0.
        eps_root: Added to the second moments inside the root, at least 0.
        power: Exponent of the second moments in P: 0.5 is the square root.
        correction: "nadam" corrects m, g and ν as optax does. m and g are then corrected in the
            momentum rule (`NAdamMomentum`) and ν in P; the other ones are those of `RMS`, over
            plain `EMANesterov`.
        weight_decay: Decoupled weight decay, at least 0. None for none.

    Returns:
        An `Optimizer`, with optax's `init` and `update`, its P and its threshold.

    Raises:
        TypeError: if a hyperparameter is not a real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = nadam(1.0)
        >>> float(optimizer.threshold(optimizer.init(jnp.zeros(1))))
        13.571
    """
    rule = EMANesterov
    if correction == "nadam":
        rule, correction = NAdamMomentum, "second_moment"
    return Optimizer(lr, rule(beta1), RMS(beta2, eps, eps_root, power, correction), weight_decay)


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
    here from the recurrence.

    Args:
        lr: Learning rate of the step `x -= lr P⁻¹ m`. A number above 0, or a schedule.
        beta1: Momentum, in [0, 1).
        beta2: Decay of the second moments, in [0, 1).
        eps: Added to the root of the second moments, at least 0.
        weight_decay: Decoupled weight decay, at least 0.
        eps_root: Added to the second moments inside the root, at least 0.
        power: Exponent of the second moments in P: 0.5 is the square root.
        correction: As in `nadam`.

    Returns:
        An `Optimizer`, with optax's `init` and `update`, its P and its threshold.

    Raises:
        TypeError: if a hyperparameter is not a real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = nadamw(1.0, weight_decay=1.0)
        >>> float(optimizer.threshold(optimizer.init(jnp.zeros(1))))
        6.786
    """
    options: dict[str, Any] = {"eps_root": eps_root, "power": power, "correction": correction}
    return nadam(lr, beta1, beta2, eps, weight_decay=weight_decay, **options)


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
        power: Exponent of the second moments in P: 0.5 is the square root.
        correction: Bias corrections in P: "adam" has both, "first_moment" and "second_moment" one,
            "none" neither. That of the second moments comes before the maximum.
        maximum: "running" for the largest so far, "previous" for the larger of the last two.
        weight_decay: Decoupled weight decay, at least 0. None for none.

    Returns:
        An `Optimizer`, with optax's `init` and `update`, its P and its threshold.

    Raises:
        TypeError: if a hyperparameter is not a real number.
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
        power: Exponent of the second moments in P, in (0, 0.5].
        correction: Bias corrections in P: "adam" has both, "first_moment" and "second_moment" one,
            "none" neither.
        maximum: "running" for the largest second moments so far, as published, "previous" for the
            larger of the last two, "none" for the moments themselves.
        weight_decay: Decoupled weight decay, at least 0. None for none.

    Returns:
        An `Optimizer`, with optax's `init` and `update`, its P and its threshold.

    Raises:
        TypeError: if a hyperparameter is not a real number.
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
        TypeError: if a hyperparameter is not a real number.
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
        power: Exponent of the second moments in P: 0.5 is the square root.
        correction: Bias corrections in P. "adam" has both, so that the first steps are shorter than
            Adam's by the root of 1 - beta2^t. "first_moment" has momentum's only. See `RMS`.
        weight_decay: Decoupled weight decay, at least 0. None for none.

    Returns:
        An `Optimizer`, with optax's `init` and `update`, its P and its threshold.

    Raises:
        TypeError: if a hyperparameter is not a real number.
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


def schedule_free_adamw(
    lr: Any,
    beta1: Any = 0.9,
    beta2: Any = 0.999,
    eps: Any = 1e-8,
    *,
    eps_root: Any = 0.0,
    power: float | int = 0.5,
    correction: str = "second_moment",
    weight_lr_power: Any = 2.0,
    weight_decay: Any = None,
) -> Optimizer:
    """Schedule-Free AdamW: threshold `20/lr - weight_decay` at 0.9 on its P, at the gradient point.

    The parameters are the gradient point y; `schedule_free_eval_params` gives the average x. It is
    `optax.contrib.schedule_free_adamw`; a warmup is a schedule, such as `LinearWarmup(lr, steps)`.

    Source: Defazio et al., *The road less scheduled* (arXiv 2405.15682).

    Args:
        lr: Learning rate of the iterate z. A number above 0, or a schedule.
        beta1: Share of the average in the gradient point, in [0, 1).
        beta2: Decay of the second moments, in [0, 1).
        eps: Added to the root of the second moments, at least 0.
        eps_root: Added to the second moments inside the root, at least 0.
        power: Exponent of the second moments in P: 0.5 is the square root.
        correction: Bias correction in P: "second_moment" or "none". There is no first moment.
        weight_lr_power: Power of the largest learning rate so far that weighs an iterate in the
            average, at least 0.
        weight_decay: Decay at the gradient point, through the buffer, scaled by the learning rate,
            at least 0. None for none. It lowers the threshold by itself.

    Returns:
        An `Optimizer`, with optax's `init` and `update`, its P and its threshold.

    Raises:
        TypeError: if a hyperparameter is not a real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = schedule_free_adamw(0.5, weight_decay=1.0)
        >>> float(optimizer.threshold(optimizer.init(jnp.zeros(1))))
        39.0
    """
    rule = RMS(beta2, eps, eps_root, power, correction)
    return Optimizer(
        lr, ScheduleFree(beta1, weight_lr_power), rule, weight_decay, "precondition_first"
    )


def rmsprop(
    lr: Any,
    beta2: Any = 0.99,
    eps: Any = 1e-8,
    *,
    beta1: Any = None,
    form: Form | str = "polyak",
    nesterov: bool = False,
    power: float | int = 0.5,
    eps_in_root: bool = False,
    correction: str = "none",
    weight_decay: Any = None,
    order: str = "precondition_first",
) -> Optimizer:
    """RMSProp: threshold `2 / lr` on its own P without momentum.

    `optax.rmsprop(lr, decay=beta2, momentum=beta1)` is
    `rmsprop(lr, beta2, beta1=beta1, eps_in_root=True)`.

    Source: Tieleman, Hinton (2012); its edge: Cohen et al., arXiv 2410.24206.

    Args:
        lr: Learning rate. A number above 0, or a schedule.
        beta2: Decay of the second moments, in [0, 1).
        eps: Added to the root of the second moments (inside it with eps_in_root), at least 0.
        beta1: Momentum, in [0, 1). None for no momentum.
        form: Form of the momentum, "polyak" or "ema", see `momentum`.
        nesterov: Whether the momentum is Nesterov's.
        power: Exponent of the second moments in P: 0.5 is the square root.
        eps_in_root: Whether `P = √(ν + eps)`, as optax has it by default, and not `√ν + eps`.
        correction: Bias correction in P: "none", or "second_moment" for that of ν. "adam" has
            momentum's too, under `order="precondition_last"` only.
        weight_decay: Decoupled weight decay, at least 0. None for none.
        order: Whether P acts before the momentum buffer, "precondition_first" as in optax, or after
            it, "precondition_last". See `Optimizer`.

    Returns:
        An `Optimizer`, with optax's `init` and `update`, its P and its threshold.

    Raises:
        TypeError: if a hyperparameter is not a real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = rmsprop(1.0, beta1=0.9)
        >>> float(optimizer.threshold(optimizer.init(jnp.zeros(1))))
        3.80
    """
    rule = optional_momentum(beta1, form, nesterov)
    inside, outside = (eps, 0.0) if eps_in_root else (0.0, eps)
    metric = RMS(beta2, outside, inside, power, correction)
    return Optimizer(lr, rule, metric, weight_decay, order)


def scalar_rmsprop(
    lr: Any,
    beta2: Any = 0.99,
    eps: Any = 1e-8,
    *,
    beta1: Any = None,
    form: Form | str = "ema",
    nesterov: bool = False,
    correction: str = "none",
    weight_decay: Any = None,
    order: str = "precondition_last",
) -> Optimizer:
    """RMSProp with one second moment for all parameters: threshold `2 / lr` on its own P.

    `x -= lr g / (√ν + eps)` with `ν = beta2 ν + (1 - beta2) ‖g‖²`.

    Source: Cohen, Damian, Talwalkar, Kolter, Lee, arXiv 2410.24206.

    Args:
        lr: Learning rate. A number above 0, or a schedule.
        beta2: Decay of the second moment, in [0, 1).
        eps: Added to the root of the second moment, at least 0.
        beta1: Momentum, in [0, 1). None for no momentum.
        form: Form of the momentum, "polyak" or "ema", see `momentum`.
        nesterov: Whether the momentum is Nesterov's.
        correction: Bias correction in P: "none", or "second_moment" for that of ν. "adam" has
            momentum's too, under `order="precondition_last"` only.
        weight_decay: Decoupled weight decay, at least 0. None for none.
        order: Whether P acts before the momentum buffer, "precondition_first", or after it,
            "precondition_last". See `Optimizer`.

    Returns:
        An `Optimizer`, with optax's `init` and `update`, its P and its threshold.

    Raises:
        TypeError: if a hyperparameter is not a real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = scalar_rmsprop(1.0, beta2=0.0)
        >>> optimizer.update(jnp.array([3.0, 4.0]), optimizer.init(jnp.zeros(2)))[0].tolist()
        [-0.60, -0.80]
    """
    rule = optional_momentum(beta1, form, nesterov)
    metric = ScalarRMS(beta2, eps, correction=correction)
    return Optimizer(lr, rule, metric, weight_decay, order)


def adagrad(
    lr: Any,
    eps: Any = 1e-7,
    *,
    initial_accumulator: Any = 0.1,
    eps_in_root: bool = True,
    beta1: Any = None,
    form: Form | str = "ema",
    nesterov: bool = False,
    power: float | int = 0.5,
    weight_decay: Any = None,
    order: str = "precondition_last",
) -> Optimizer:
    """Adagrad: threshold `2 / lr` on its own P without momentum.

    The default is optax's `adagrad`. P never falls, so training drifts below the threshold.

    Source: Duchi, Hazan, Singer, *Adaptive subgradient methods* (2011).

    Args:
        lr: Learning rate. A number above 0, or a schedule.
        eps: Added to the sum of squared gradients inside the root (outside it without
            eps_in_root), at least 0.
        initial_accumulator: Initial value of that sum, at least 0.
        eps_in_root: Whether `P = √(Σg² + eps)`, as optax has it, and not `√(Σg²) + eps`.
        beta1: Momentum, in [0, 1). None for no momentum.
        form: Form of the momentum, "polyak" or "ema", see `momentum`.
        nesterov: Whether the momentum is Nesterov's.
        power: Exponent of the sum in P: 0.5 is the square root.
        weight_decay: Decoupled weight decay, at least 0. None for none.
        order: Whether P acts before the momentum buffer, "precondition_first", or after it,
            "precondition_last". See `Optimizer`.

    Returns:
        An `Optimizer`, with optax's `init` and `update`, its P and its threshold.

    Raises:
        TypeError: if a hyperparameter is not a real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = adagrad(0.5, initial_accumulator=0.0)
        >>> updates, state = optimizer.update(jnp.array([4.0]), optimizer.init(jnp.zeros(1)))
        >>> updates.tolist(), float(optimizer.threshold(state))
        ([-0.50], 4.0)
    """
    rule = optional_momentum(beta1, form, nesterov)
    inside, outside = (eps, 0.0) if eps_in_root else (0.0, eps)
    metric = Adagrad(outside, inside, initial_accumulator, power)
    return Optimizer(lr, rule, metric, weight_decay, order)


def adafactor(
    lr: Any,
    decay_rate: Any = 0.8,
    eps: Any = 1e-30,
    *,
    beta1: Any = None,
    clipping_threshold: Any = 1.0,
    parameter_scale: bool = True,
    min_dim_size_to_factor: int = 128,
    factored: bool = True,
    weight_decay: Any = None,
    decay_scaled: bool = False,
) -> Optimizer:
    """Adafactor: threshold `2 / lr` on its P without momentum, 38/lr with EMA momentum 0.9.

    It is optax's `adafactor(lr, momentum=beta1, weight_decay_rate=weight_decay)`: P acts before
    the momentum buffer, which is an average, and decay is not scaled by the learning rate. P
    includes the clipping and rms(p), see `Adafactor`: `update` and `preconditioner` need `params`.

    Source: Shazeer, Stern, *Adafactor* (arXiv 1804.04235), as optax writes it.

    Args:
        lr: Learning rate, relative to rms(p) with parameter_scale. A number above 0, or a schedule.
        decay_rate: The decay of the second moments at step t is 1 - t^-decay_rate; above 0.
        eps: Added to the squared gradients, above 0.
        beta1: Momentum, in [0, 1). None for no momentum.
        clipping_threshold: The largest root mean square of a leaf's update before lr. None for no
            limit.
        parameter_scale: Whether steps are relative to the root mean square of each leaf.
        min_dim_size_to_factor: The shortest axis whose second moments are factored.
        factored: Whether any second moments are factored.
        weight_decay: Decoupled weight decay, at least 0. None for none.
        decay_scaled: Whether weight decay is scaled by the learning rate. Optax does not have this
            option.

    Returns:
        An `Optimizer`, with optax's `init` and `update`, its P and its threshold.

    Raises:
        TypeError: if a hyperparameter is not a real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer, params = adafactor(0.01), jnp.array([2.0, -2.0])
        >>> state = optimizer.init(params)
        >>> optimizer.update(jnp.array([5.0, 0.5]), state, params)[0].tolist()  # lr rms(p) sign(g)
        [-0.020, -0.020]
    """
    metric = Adafactor(
        decay_rate,
        eps,
        clipping_threshold,
        parameter_scale,
        min_dim_size_to_factor=min_dim_size_to_factor,
        factored=factored,
    )
    rule = optional_momentum(beta1)
    return Optimizer(lr, rule, metric, weight_decay, "precondition_first", decay_scaled)
