"""Named optimizers: Adagrad, scalar RMSProp, Adafactor, Lion, sign descent."""

from __future__ import annotations

from typing import Any

from ._adafactor import Adafactor
from ._adagrad import Adagrad
from ._momentum import EMA, NoMomentum
from ._named import Form, _momentum_rule
from ._optimizer import Optimizer
from ._rms_kin import ScalarRMS
from ._sign import LionMomentum, Sign


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
        initial_accumulator: Where that sum starts, at least 0.
        eps_in_root: Whether `P = √(Σg² + eps)`, as optax has it, and not `√(Σg²) + eps`.
        beta1: Momentum, in [0, 1). None for no momentum.
        form: Form of the momentum, "polyak" or "ema", see `momentum`.
        nesterov: Whether the momentum is Nesterov's.
        power: Power that makes P out of the sum: 0.5 is the square root.
        weight_decay: Decoupled weight decay, at least 0. None for none.
        order: Whether P acts before the momentum buffer, "precondition_first", or after it,
            "precondition_last". See `Optimizer`.

    Returns:
        An `Optimizer`, with optax's `init` and `update`, its P and its threshold.

    Raises:
        TypeError: if a hyperparameter is no real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = adagrad(0.5, initial_accumulator=0.0)
        >>> updates, state = optimizer.update(jnp.array([4.0]), optimizer.init(jnp.zeros(1)))
        >>> updates.tolist(), float(optimizer.threshold(state))
        ([-0.50], 4.0)
    """
    rule = NoMomentum() if beta1 is None else _momentum_rule(beta1, form, nesterov)
    inside, outside = (eps, 0.0) if eps_in_root else (0.0, eps)
    metric = Adagrad(outside, inside, initial_accumulator, power)
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
        TypeError: if a hyperparameter is no real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = scalar_rmsprop(1.0, beta2=0.0)
        >>> optimizer.update(jnp.array([3.0, 4.0]), optimizer.init(jnp.zeros(2)))[0].tolist()
        [-0.60, -0.80]
    """
    rule = NoMomentum() if beta1 is None else _momentum_rule(beta1, form, nesterov)
    metric = ScalarRMS(beta2, eps, correction=correction)
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
    the momentum buffer, which is an average, and decay is not scaled by the learning rate. P holds
    the clipping and rms(p), see `Adafactor`: `update` and `preconditioner` want `params`.

    Source: Shazeer, Stern, *Adafactor* (arXiv 1804.04235), as optax writes it.

    Args:
        lr: Learning rate, relative to rms(p) with parameter_scale. A number above 0, or a schedule.
        decay_rate: The second moments at step t forget t^-decay_rate, above 0.
        eps: Added to the squared gradients, above 0.
        beta1: Momentum, in [0, 1). None for no momentum.
        clipping_threshold: The largest root mean square of a leaf's update before lr. None for no
            limit.
        parameter_scale: Whether steps are relative to the root mean square of each leaf.
        min_dim_size_to_factor: The shortest axis whose second moments are factored.
        factored: Whether any are.
        weight_decay: Decoupled weight decay, at least 0. None for none.
        decay_scaled: Whether weight decay is scaled by the learning rate. It is not in optax.

    Returns:
        An `Optimizer`, with optax's `init` and `update`, its P and its threshold.

    Raises:
        TypeError: if a hyperparameter is no real number.
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
    rule = NoMomentum() if beta1 is None else EMA(beta1)
    return Optimizer(lr, rule, metric, weight_decay, "precondition_first", decay_scaled)


def lion(lr: Any, beta1: Any = 0.9, beta2: Any = 0.99, weight_decay: Any = 1e-3) -> Optimizer:
    """Lion, the sign of a momentum: it has neither a preconditioner nor a threshold.

    `preconditioner` raises, and `threshold` is NaN, see `Sign`.

    Source: Chen et al., *Symbolic discovery of optimization algorithms* (arXiv 2302.06675), with
    optax's defaults.

    Args:
        lr: Learning rate: the length of each coordinate's step. A number above 0, or a schedule.
        beta1: Share of the average in the step, in [0, 1).
        beta2: Decay of the average, in [0, 1).
        weight_decay: Decoupled weight decay, at least 0. None for none.

    Returns:
        An `Optimizer`, with optax's `init` and `update`, its P and its threshold.

    Raises:
        TypeError: if a hyperparameter is no real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = lion(0.5, weight_decay=None)
        >>> updates, state = optimizer.update(jnp.array([3.0, -1.0]), optimizer.init(jnp.zeros(2)))
        >>> updates.tolist(), float(optimizer.threshold(state))
        ([-0.5, 0.5], nan)
    """
    return Optimizer(lr, LionMomentum(beta1, beta2), Sign(), weight_decay)


def sign_descent(
    lr: Any,
    beta1: Any = None,
    form: Form | str = "ema",
    *,
    nesterov: bool = False,
    weight_decay: Any = None,
    order: str = "precondition_last",
) -> Optimizer:
    """Sign descent, `x -= lr sign(g)`: it has neither a preconditioner nor a threshold.

    `preconditioner` raises, and `threshold` is NaN, see `Sign`. With momentum it is Signum.

    Source: Bernstein et al., *signSGD* (arXiv 1802.04434).

    Args:
        lr: Learning rate: the length of each coordinate's step. A number above 0, or a schedule.
        beta1: Momentum, in [0, 1). None for no momentum.
        form: Form of the momentum, "polyak" or "ema", see `momentum`.
        nesterov: Whether the momentum is Nesterov's.
        weight_decay: Decoupled weight decay, at least 0. None for none.
        order: Whether the sign is that of the momentum, "precondition_last", or the momentum that
            of the signs, "precondition_first".

    Returns:
        An `Optimizer`, with optax's `init` and `update`, its P and its threshold.

    Raises:
        TypeError: if a hyperparameter is no real number.
        ValueError: if one is outside its range.

    Example:
        >>> import jax.numpy as jnp
        >>> optimizer = sign_descent(0.5)
        >>> optimizer.update(jnp.array([3.0, 0.0]), optimizer.init(jnp.zeros(2)))[0].tolist()
        [-0.5, 0.0]
    """
    rule = NoMomentum() if beta1 is None else _momentum_rule(beta1, form, nesterov)
    return Optimizer(lr, rule, Sign(), weight_decay, order)
