"""The optimizers that have names."""

from __future__ import annotations

from typing import Any, Literal

from ._momentum import EMA, AbstractMomentum, EMANesterov, Nesterov, NoMomentum, Polyak
from ._nadam import NAdamMomentum
from ._optimizer import Optimizer
from ._preconditioning import RMS

Form = Literal["ema", "polyak"]


def _momentum_rule(beta1: Any, form: str, nesterov: bool) -> AbstractMomentum:
    rules = {
        ("ema", False): EMA,
        ("ema", True): EMANesterov,
        ("polyak", False): Polyak,
        ("polyak", True): Nesterov,
    }
    if (form, nesterov) not in rules:
        raise ValueError(
            f'form must be "ema" or "polyak", got {form!r}: the learning rates of '
            f"the two differ by the factor 1 - beta1."
        )
    return rules[form, nesterov](beta1)


def gradient_descent(lr: Any, *, weight_decay: Any = None) -> Optimizer:
    """Gradient descent, `x -= lr g`: threshold `2 / lr` on the sharpness.

    Source: Cohen et al., arXiv 2103.00065.

    Args:
        lr: Learning rate. A number above 0, or a schedule.
        weight_decay: Decoupled weight decay, at least 0. None for none.

    Returns:
        An `Optimizer`, with optax's `init` and `update`, its P and its threshold.

    Raises:
        TypeError: if a hyperparameter is no real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = gradient_descent(0.5)
        >>> float(optimizer.threshold(optimizer.init(jnp.zeros(1))))
        4.0
    """
    return Optimizer(lr, weight_decay=weight_decay)


def momentum(
    lr: Any, beta1: Any = 0.9, form: Form | str = "ema", *, weight_decay: Any = None
) -> Optimizer:
    """Heavy ball: threshold 38/lr at 0.9 in the averaged form, 3.8/lr in Polyak's.

    Source: Cohen et al., arXiv 2103.00065 (Polyak's form), arXiv 2207.14484 (the averaged one).

    Args:
        lr: Learning rate, in the units of the form. A number above 0, or a schedule.
        beta1: Momentum, in [0, 1).
        form: "ema" is `m = beta1 m + (1 - beta1) g`, "polyak" is `m = beta1 m + g` as in optax's
            `sgd`. The step is `x -= lr m`, so that `lr_polyak = (1 - beta1) lr_ema`.
        weight_decay: Decoupled weight decay, at least 0. None for none.

    Returns:
        An `Optimizer`, with optax's `init` and `update`, its P and its threshold.

    Raises:
        TypeError: if a hyperparameter is no real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = momentum(1.0, 0.9, form="polyak")
        >>> float(optimizer.threshold(optimizer.init(jnp.zeros(1))))
        3.80
    """
    return Optimizer(lr, _momentum_rule(beta1, form, False), weight_decay=weight_decay)


def nesterov(
    lr: Any, beta1: Any = 0.9, form: Form | str = "polyak", *, weight_decay: Any = None
) -> Optimizer:
    """Nesterov's momentum: threshold 1.357/lr at 0.9 in Polyak's form, 13.571/lr averaged.

    Source: the thresholds are derived from the recurrence, by us (`aeoskit.stability`).

    Args:
        lr: Learning rate, in the units of the form. A number above 0, or a schedule.
        beta1: Momentum, in [0, 1).
        form: "polyak" is `x -= lr (g + beta1 v)` with `v = beta1 v + g` as in optax's `sgd`, "ema"
            has `1 - beta1` in front of both g.
        weight_decay: Decoupled weight decay, at least 0. None for none.

    Returns:
        An `Optimizer`, with optax's `init` and `update`, its P and its threshold.

    Raises:
        TypeError: if a hyperparameter is no real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = nesterov(1.0, 0.9)
        >>> float(optimizer.threshold(optimizer.init(jnp.zeros(1))))
        1.357
    """
    return Optimizer(lr, _momentum_rule(beta1, form, True), weight_decay=weight_decay)


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
        power: Power that makes P out of the second moments: 0.5 is the square root.
        eps_in_root: Whether `P = √(ν + eps)`, as optax has it by default, and not `√ν + eps`.
        correction: Bias correction in P: "none", or "second_moment" for that of ν. "adam" has
            momentum's too, under `order="precondition_last"` only.
        weight_decay: Decoupled weight decay, at least 0. None for none.
        order: Whether P acts before the momentum buffer, "precondition_first" as in optax, or after
            it, "precondition_last". See `Optimizer`.

    Returns:
        An `Optimizer`, with optax's `init` and `update`, its P and its threshold.

    Raises:
        TypeError: if a hyperparameter is no real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = rmsprop(1.0, beta1=0.9)
        >>> float(optimizer.threshold(optimizer.init(jnp.zeros(1))))
        3.80
    """
    rule = NoMomentum() if beta1 is None else _momentum_rule(beta1, form, nesterov)
    inside, outside = (eps, 0.0) if eps_in_root else (0.0, eps)
    metric = RMS(beta2, outside, inside, power, correction)
    return Optimizer(lr, rule, metric, weight_decay, order)


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
        power: Power that makes P out of the second moments: 0.5 is the square root.
        correction: Bias corrections in P: "adam" has both, "second_moment" that of ν only (as in
            the code of arXiv 2207.14484), "none" neither. See `RMS`.
        weight_decay: Decoupled weight decay, at least 0. None for none.

    Returns:
        An `Optimizer`, with optax's `init` and `update`, its P and its threshold.

    Raises:
        TypeError: if a hyperparameter is no real number.
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
    derived from the recurrence, by us.

    Args:
        lr: Learning rate of the step `x -= lr P⁻¹ m`. A number above 0, or a schedule.
        beta1: Momentum, in [0, 1).
        beta2: Decay of the second moments, in [0, 1).
        eps: Added to the root of the second moments, at least 0.
        weight_decay: Decoupled weight decay, at least 0.
        eps_root: Added to the second moments inside the root, at least 0.
        power: Power that makes P out of the second moments: 0.5 is the square root.
        correction: Bias corrections in P: "adam" has both, "second_moment" that of ν only (as in
            the code of arXiv 2207.14484), "none" neither. See `RMS`.

    Returns:
        An `Optimizer`, with optax's `init` and `update`, its P and its threshold.

    Raises:
        TypeError: if a hyperparameter is no real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = adamw(1.0, weight_decay=1.0)
        >>> float(optimizer.threshold(optimizer.init(jnp.zeros(1))))
        19.00
    """
    return adam(
        lr,
        beta1,
        beta2,
        eps,
        eps_root=eps_root,
        power=power,
        correction=correction,
        weight_decay=weight_decay,
    )


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
    threshold is derived from the recurrence, by us.

    Args:
        lr: Learning rate of the step `x -= lr P⁻¹ m`. A number above 0, or a schedule.
        beta1: Momentum, in [0, 1).
        beta2: Decay of the second moments, in [0, 1).
        eps: Added to the root of the second moments, at least 0.
        eps_root: Added to the second moments inside the root, at least 0.
        power: Power that makes P out of the second moments: 0.5 is the square root.
        correction: "nadam" corrects m, g and ν as optax does. m and g are then corrected in the
            momentum rule (`NAdamMomentum`) and ν in P; the other ones are those of `RMS`, over
            plain `EMANesterov`.
        weight_decay: Decoupled weight decay, at least 0. None for none.

    Returns:
        An `Optimizer`, with optax's `init` and `update`, its P and its threshold.

    Raises:
        TypeError: if a hyperparameter is no real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = nadam(1.0)
        >>> float(optimizer.threshold(optimizer.init(jnp.zeros(1))))
        13.571
    """
    if correction == "nadam":
        return Optimizer(
            lr,
            NAdamMomentum(beta1),
            RMS(beta2, eps, eps_root, power, "second_moment"),
            weight_decay,
        )
    return Optimizer(
        lr, EMANesterov(beta1), RMS(beta2, eps, eps_root, power, correction), weight_decay
    )
