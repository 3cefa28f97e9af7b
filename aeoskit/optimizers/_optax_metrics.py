"""What each elementary update of optax is: a metric, a momentum rule, a factor, a decay.

A metric is told as the diagonal of P after the coming step's gradients; the conventions (where ε
is, which corrections there are, in which order) are those of optax 0.2, part by part.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from aeoskit.linalg import DiagonalPreconditioner, IdentityPreconditioner

from ._hyperparameters import cast_to, is_concrete, one_minus_power
from ._momentum import EMA, AbstractMomentum, Nesterov, NoMomentum, Polyak
from ._nadam import NAdamMomentum
from ._optax_parts import OURS, Part

# Updates that hand on the gradient of a quadratic as it is.
PLAIN = frozenset({"identity", "add_noise", "zero_nans"})
FACTORS = frozenset({"scale", "scale_by_schedule", OURS})
DECAY = "add_decayed_weights"
# Piecewise constant: no P is in them, and their derivative is zero.
SIGNS = frozenset({"scale_by_sign", "scale_by_lion", "scale_by_rprop"})


def factor_of(part: Part) -> Any:
    """The number by which the part scales, in the coming step."""
    if part.name == OURS:
        return -part.options["optimizer"].learning_rate(part.before)
    if part.name == "scale":
        return part.options["step_size"]
    return part.options["step_size_fn"](part.before.count)


def rule_of(part: Part) -> AbstractMomentum | None:
    """The part's momentum rule, if it has one."""
    options = part.options
    if part.name == OURS:
        rule = options["optimizer"].momentum_rule
        return None if isinstance(rule, NoMomentum) else rule
    if part.name == "trace":
        return (Nesterov if options["nesterov"] else Polyak)(options["decay"])
    if part.name == "ema":
        return EMA(options["decay"])
    if part.name in _MOMENTS:
        nesterov = options.get("nesterov", False)
        return (NAdamMomentum if nesterov else EMA)(options["b1"])
    return None


def diagonal_of(part: Part) -> PyTree[Array] | None:
    """The diagonal of the part's metric, over the leaves that it works on; None for the identity.

    Raises:
        ValueError: It takes gradients or parameters that were not given.
    """
    metric = METRICS.get(part.name)
    count = getattr(part.after, "count", None)
    last = metric is not None and part.incoming is None
    if last and isinstance(count, Array) and is_concrete(count) and not bool(jnp.all(count > 0)):
        raise ValueError(
            "no step was taken yet, so that there is no P of a last step: pass the gradients for "
            "the P of the coming one."
        )
    return None if metric is None else metric(part)


def _ours(part: Part) -> PyTree | None:
    given = () if part.incoming is None else (part.incoming, part.params)
    metric = part.options["optimizer"].preconditioner(part.before, *given)
    if isinstance(metric, IdentityPreconditioner):
        return None
    if isinstance(metric, DiagonalPreconditioner):
        return metric.diagonal
    raise ValueError(
        f"the metric of an aeoskit optimizer inside of an optax chain is a "
        f"{type(metric).__name__}, and the bridge composes diagonal ones only: ask the optimizer "
        "itself."
    )


def _map(function: Callable[..., Array], *trees: PyTree) -> PyTree:
    return jax.tree.map(function, *trees)


def _corrected(tree: PyTree, beta: Any, count: Array) -> PyTree:
    share = one_minus_power(jnp.asarray(beta, dtype=float), count)
    return _map(lambda x: x / cast_to(share, x), tree)


def _with_first_correction(part: Part, roots: PyTree) -> PyTree:
    """Adam's convention: the average is not corrected, P is."""
    if part.options.get("nesterov", False):
        return roots  # the rule has the corrections of both of its terms
    share = one_minus_power(jnp.asarray(part.options["b1"], dtype=float), part.after.count)
    return _map(lambda x: x * cast_to(share, x), roots)


def _adam(part: Part) -> PyTree:
    o, nu = part.options, _corrected(part.after.nu, part.options["b2"], part.after.count)
    inside = 0.0 if part.name == "scale_by_belief" else o["eps_root"]
    roots = _map(lambda v: jnp.sqrt(v + inside) + o["eps"], nu)
    return _with_first_correction(part, roots)


def _amsgrad(part: Part) -> PyTree:
    o = part.options
    roots = _map(lambda v: jnp.sqrt(v + o["eps_root"]) + o["eps"], part.after.nu_max)
    return _with_first_correction(part, roots) if o.get("bias_correction_mu", True) else roots


def _adamax(part: Part) -> PyTree:
    return _with_first_correction(part, part.after.nu)


def _rms(part: Part) -> PyTree:
    o, nu, mu = part.options, part.after.nu, getattr(part.after, "mu", None)
    if o.get("bias_correction", False):
        nu = _corrected(nu, o["decay"], part.after.count)
        mu = None if mu is None else _corrected(mu, o["decay"], part.after.count)
    if mu is not None:
        nu = _map(lambda v, m: v - jnp.square(m), nu, mu)
    if o.get("eps_in_sqrt", True):
        return _map(lambda v: jnp.sqrt(v + o["eps"]), nu)
    return _map(lambda v: jnp.sqrt(v) + o["eps"], nu)


def _rss(part: Part) -> PyTree:
    return _map(lambda t: jnp.sqrt(t + part.options["eps"]), part.after.sum_of_squares)


def _debias(part: Part) -> PyTree | None:
    """The correction of an average, which is a scalar metric."""
    if not part.options.get("debias", False):
        return None
    share = one_minus_power(jnp.asarray(part.options["decay"], dtype=float), part.after.count)
    return _map(lambda x: jnp.broadcast_to(cast_to(share, x), x.shape), part.after.ema)


def _incoming(part: Part) -> PyTree:
    if part.incoming is None:
        raise ValueError(
            f"the metric of optax's {part.name} depends on the updates that come in: pass the "
            "gradients."
        )
    return part.incoming


def _params(part: Part) -> PyTree:
    if part.params is None:
        raise ValueError(
            f"the metric of optax's {part.name} depends on the parameters: pass `params=`."
        )
    return part.params


def _global_norm(part: Part) -> PyTree:
    """What clipping divides by, held fixed: 1 where it is not active."""
    incoming = _incoming(part)
    squares = [jnp.sum(jnp.square(x)) for x in jax.tree.leaves(incoming)]
    norm = jnp.sqrt(sum(squares, jnp.zeros(())))
    over = jnp.maximum(norm / part.options["max_norm"], 1)
    return _map(lambda x: jnp.broadcast_to(over.astype(x.dtype), x.shape), incoming)


def _block_rms(part: Part) -> PyTree:
    limit = part.options["threshold"]
    return _map(
        lambda u: jnp.full_like(u, jnp.maximum(1, jnp.sqrt(jnp.mean(jnp.square(u))) / limit)),
        _incoming(part),
    )


def _param_rms(part: Part) -> PyTree:
    least = part.options["min_scale"]
    return _map(
        lambda p: jnp.full_like(
            p, 1 / jnp.sqrt(jnp.maximum(jnp.mean(jnp.square(p)), jnp.square(least)))
        ),
        _params(part),
    )


def _trust_ratio(part: Part) -> PyTree:
    o = part.options

    def inverse(update: Array, param: Array) -> Array:
        def length(x: Array) -> Array:
            return jnp.maximum(jnp.sqrt(jnp.sum(jnp.square(x))), o["min_norm"])

        ratio = o["trust_coefficient"] * length(param) / (length(update) + o["eps"])
        still = (length(param) == 0) | (length(update) == 0)
        return jnp.full_like(param, 1 / jnp.where(still, 1, ratio))

    return _map(inverse, _incoming(part), _params(part))


def _factored(part: Part) -> PyTree:
    """Adafactor's: rows times columns over the mean, the two longest axes being those."""
    o, after = part.options, part.after

    def root(param: Array, row: Array, column: Array, full: Array) -> Array:
        order = np.argsort(param.shape)
        least = o["min_dim_size_to_factor"]
        if not o["factored"] or param.ndim < 2 or param.shape[order[-2]] < least:
            return jnp.sqrt(full)
        first, longest = int(order[-2]), int(order[-1])
        reduced = first - 1 if first > longest else first
        row = row / jnp.mean(row, axis=reduced, keepdims=True)
        return jnp.sqrt(jnp.expand_dims(row, longest) * jnp.expand_dims(column, first))

    return _map(root, _params(part), after.v_row, after.v_col, after.v)


_MOMENTS = frozenset(
    {"scale_by_adam", "scale_by_belief", "scale_by_yogi", "scale_by_amsgrad", "scale_by_adamax"}
)
METRICS: dict[str, Callable[[Part], PyTree | None]] = {
    "scale_by_adam": _adam,
    "scale_by_belief": _adam,
    "scale_by_yogi": _adam,
    "scale_by_amsgrad": _amsgrad,
    "scale_by_adamax": _adamax,
    "scale_by_rms": _rms,
    "scale_by_stddev": _rms,
    "scale_by_rss": _rss,
    "scale_by_factored_rms": _factored,
    "scale_by_param_block_rms": _param_rms,
    "scale_by_trust_ratio": _trust_ratio,
    "clip_by_global_norm": _global_norm,
    "clip_by_block_rms": _block_rms,
    "ema": _debias,
    OURS: _ours,
}
MOMENTA = _MOMENTS | {"trace", "ema"}
KNOWN = PLAIN | FACTORS | {DECAY, "schedule_free"} | frozenset(METRICS) | MOMENTA
