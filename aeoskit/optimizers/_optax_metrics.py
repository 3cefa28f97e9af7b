"""The metric of each elementary update of optax.

A metric is told as the diagonal of P after the coming step's gradients; the conventions (where ε
is, which corrections there are, in which order) are those of optax 0.2, part by part.
"""

from __future__ import annotations

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from aeoskit.linalg import DiagonalPreconditioner, IdentityPreconditioner

from ._hyperparameters import cast_to, is_concrete, one_minus_power
from ._optax_clips import CLIPS
from ._optax_contrib import CONTRIB
from ._optax_parts import OURS, Part
from ._optax_reading import (
    corrected,
    incoming_of,
    params_of,
    spread,
    stepped,
    tree_map,
    with_first_correction,
)
from ._optax_rules import DECAY, FACTORS, MOMENTA, OPTIMISTIC, PLAIN


def diagonal_of(part: Part) -> PyTree[Array] | None:
    """The diagonal of the part's metric, over the leaves that it works on; None for the identity.

    Raises:
        ValueError: It takes gradients or parameters that were not given.
    """
    metric = METRICS.get(part.name)
    count = getattr(part.after, "count", getattr(part.after, "t", None))
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


def _adam(part: Part) -> PyTree:
    o, nu = part.options, corrected(part.after.nu, part.options["b2"], part.after.count)
    inside = 0.0 if part.name == "scale_by_belief" else o["eps_root"]
    roots = tree_map(lambda v: jnp.sqrt(v + inside) + o["eps"], nu)
    return with_first_correction(part, roots)


def _amsgrad(part: Part) -> PyTree:
    o = part.options
    roots = tree_map(lambda v: jnp.sqrt(v + o["eps_root"]) + o["eps"], part.after.nu_max)
    return with_first_correction(part, roots) if o.get("bias_correction_mu", True) else roots


def _adamax(part: Part) -> PyTree:
    return with_first_correction(part, part.after.nu)


def _rms(part: Part) -> PyTree:
    o, nu, mu = part.options, part.after.nu, getattr(part.after, "mu", None)
    if o.get("bias_correction", False):
        nu = corrected(nu, o["decay"], part.after.count)
        mu = None if mu is None else corrected(mu, o["decay"], part.after.count)
    if mu is not None:
        nu = tree_map(lambda v, m: v - jnp.square(m), nu, mu)
    if o.get("eps_in_sqrt", True):
        return tree_map(lambda v: jnp.sqrt(v + o["eps"]), nu)
    return tree_map(lambda v: jnp.sqrt(v) + o["eps"], nu)


def _rss(part: Part) -> PyTree:
    return tree_map(lambda t: jnp.sqrt(t + part.options["eps"]), part.after.sum_of_squares)


def _radam(part: Part) -> PyTree:
    """Adam's, divided by the rectification; the identity as long as that is not defined."""
    o, count = part.options, part.after.count
    last = o["ro_inf"]
    power = jnp.asarray(o["b2"], dtype=float) ** count
    length = last - 2 * count * power / (1 - power)
    factor = jnp.sqrt((length - 4) * (length - 2) * last / ((last - 4) * (last - 2) * length))

    def root(v: Array) -> Array:
        adam = (jnp.sqrt(v + o["eps_root"]) + o["eps"]) / cast_to(factor, v)
        return jnp.where(length >= o["threshold"], adam, 1)

    nu = corrected(part.after.nu, o["b2"], count)
    return with_first_correction(part, tree_map(root, nu))


def _adadelta(part: Part) -> PyTree:
    """The root of the average square of gradients over that of steps, those before this one."""
    incoming_of(part)  # the state after a step has its own square in the second average
    eps = part.options["eps"]
    return tree_map(
        lambda g, x: jnp.sqrt(g + eps) / jnp.sqrt(x + eps), part.after.e_g, part.before.e_x
    )


def _adan(part: Part) -> PyTree:
    o, nu = part.options, corrected(part.after.n, part.options["b3"], part.after.t)
    return tree_map(lambda v: jnp.sqrt(v + o["eps_root"]) + o["eps"], nu)


def _novograd(part: Part) -> PyTree:
    """One number a leaf: the root of the average squared norm of its gradients."""
    o, after = part.options, stepped(part)
    return tree_map(
        lambda v, m: jnp.full_like(m, jnp.sqrt(v + o["eps_root"]) + o["eps"]), after.nu, after.mu
    )


def _sm3(part: Part) -> PyTree:
    """An entry's bound is the least of its rows' and columns', and what was added since."""
    o, incoming = part.options, incoming_of(part)
    b2 = o["b2"]
    share = 1.0 if is_concrete(b2) and float(b2) == 1 else 1 - b2

    def root(grad: Array, bounds: list[Array]) -> Array:
        least = bounds[0]
        for axis, bound in enumerate(bounds):
            others = tuple(i for i in range(grad.ndim) if i != axis)
            along = jnp.broadcast_to(jnp.expand_dims(bound, others), grad.shape)
            least = along if axis == 0 else jnp.minimum(least, along)
        return jnp.sqrt(share * jnp.square(grad) + b2 * least + o["eps"])

    return tree_map(root, incoming, part.before.mu)


def _debias(part: Part) -> PyTree | None:
    """The correction of an average, which is a scalar metric."""
    if not part.options.get("debias", False):
        return None
    share = one_minus_power(jnp.asarray(part.options["decay"], dtype=float), part.after.count)
    return spread(share, part.after.ema)


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

    return tree_map(root, params_of(part), after.v_row, after.v_col, after.v)


METRICS: dict[str, Callable[[Part], PyTree | None]] = {
    **CLIPS,
    **CONTRIB,
    "ema": _debias,
    "scale_by_adadelta": _adadelta,
    "scale_by_adam": _adam,
    "scale_by_adamax": _adamax,
    "scale_by_adan": _adan,
    "scale_by_amsgrad": _amsgrad,
    "scale_by_belief": _adam,
    "scale_by_factored_rms": _factored,
    "scale_by_novograd": _novograd,
    "scale_by_radam": _radam,
    "scale_by_rms": _rms,
    "scale_by_rss": _rss,
    "scale_by_sm3": _sm3,
    "scale_by_stddev": _rms,
    "scale_by_yogi": _adam,
    OURS: _ours,
}
KNOWN = PLAIN | FACTORS | MOMENTA | {DECAY, OPTIMISTIC, "schedule_free"} | frozenset(METRICS)
