"""The metric of each elementary update of optax, by the name of its factory function.

A metric is given as the diagonal of P after the coming step's gradients; the conventions (the place
of ε, the corrections and their order) are those of optax 0.2, part by part. Clipping and
normalization are factors of the incoming updates, held fixed.
"""

from __future__ import annotations

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, PyTree

from aeoskit.linalg import DiagonalPreconditioner, IdentityPreconditioner

from ...rules._hyperparameters import cast_to, is_concrete, one_minus_power
from ._parts import (
    Part,
    corrected,
    incoming_of,
    params_of,
    refused_where,
    spread,
    stepped,
    tree_map,
    with_first_correction,
)


def ours(part: Part) -> PyTree | None:
    given = () if part.incoming is None else (part.incoming, part.params)
    metric = part.options["optimizer"].preconditioner(part.before, *given)
    if isinstance(metric, IdentityPreconditioner):
        return None
    if isinstance(metric, DiagonalPreconditioner):
        return metric.diagonal
    raise ValueError(
        f"the metric of an aeoskit optimizer inside of an optax chain is a "
        f"{type(metric).__name__}, and the bridge composes only diagonal ones: query the optimizer "
        "itself."
    )


def adam(part: Part) -> PyTree:
    o, nu = part.options, corrected(part.after.nu, part.options["b2"], part.after.count)
    inside = 0.0 if part.name == "scale_by_belief" else o["eps_root"]
    roots = tree_map(lambda v: jnp.sqrt(v + inside) + o["eps"], nu)
    return with_first_correction(part, roots)


def amsgrad(part: Part) -> PyTree:
    o = part.options
    roots = tree_map(lambda v: jnp.sqrt(v + o["eps_root"]) + o["eps"], part.after.nu_max)
    return with_first_correction(part, roots) if o.get("bias_correction_mu", True) else roots


def adamax(part: Part) -> PyTree:
    return with_first_correction(part, part.after.nu)


def rms(part: Part) -> PyTree:
    o, nu, mu = part.options, part.after.nu, getattr(part.after, "mu", None)
    if o.get("bias_correction", False):
        nu = corrected(nu, o["decay"], part.after.count)
        mu = None if mu is None else corrected(mu, o["decay"], part.after.count)
    if mu is not None:
        nu = tree_map(lambda v, m: v - jnp.square(m), nu, mu)
    if o.get("eps_in_sqrt", True):
        return tree_map(lambda v: jnp.sqrt(v + o["eps"]), nu)
    return tree_map(lambda v: jnp.sqrt(v) + o["eps"], nu)


def rss(part: Part) -> PyTree:
    return tree_map(lambda t: jnp.sqrt(t + part.options["eps"]), part.after.sum_of_squares)


def radam(part: Part) -> PyTree:
    """Adam's metric, divided by the rectification; the identity as long as that is undefined."""
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


def adadelta(part: Part) -> PyTree:
    """The root of the average square of gradients over that of the earlier steps."""
    incoming_of(part)  # the state after a step includes it in the second average
    eps = part.options["eps"]
    return tree_map(
        lambda g, x: jnp.sqrt(g + eps) / jnp.sqrt(x + eps), part.after.e_g, part.before.e_x
    )


def adan(part: Part) -> PyTree:
    return roots(part, part.after.n, part.after.t, "b3")


def novograd(part: Part) -> PyTree:
    """One number per leaf: the root of the average squared norm of its gradients."""
    o, after = part.options, stepped(part)
    return tree_map(
        lambda v, m: jnp.full_like(m, jnp.sqrt(v + o["eps_root"]) + o["eps"]), after.nu, after.mu
    )


def sm3(part: Part) -> PyTree:
    """The bound of each entry: the least of its rows' and columns', plus the present square."""
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


def debias(part: Part) -> PyTree | None:
    """The bias correction of an average, as a scalar metric."""
    if not part.options.get("debias", False):
        return None
    share = one_minus_power(jnp.asarray(part.options["decay"], dtype=float), part.after.count)
    return spread(share, part.after.ema)


def factored(part: Part) -> PyTree:
    """Adafactor's metric: rows times columns over the mean, for the two longest axes."""
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


def roots(part: Part, nu: PyTree, count: Array, decay: str = "b2") -> PyTree:
    """The root of a corrected average; momentum's corrections are in its rule."""
    o = part.options
    nu = corrected(nu, o[decay], count)
    return tree_map(lambda v: jnp.sqrt(v + o["eps_root"]) + o["eps"], nu)


def ademamix(part: Part) -> PyTree:
    return roots(part, part.after.nu, part.after.count)


def simplified(part: Part) -> PyTree:
    return roots(part, part.after.n, part.after.t)


def acprop(part: Part) -> PyTree:
    """The P of the step before: of the first step `1 + eps`, whatever the gradients are.

    Its first moments center the second ones; the step is along the gradient itself.
    """
    incoming_of(part)  # the state after a step no longer has its P
    first, eps = part.before.count == 0, part.options["eps"]
    nu = corrected(part.before.nu, part.options["b2"], jnp.maximum(part.before.count, 1))
    return tree_map(lambda v: jnp.sqrt(jnp.where(first, 1, v)) + eps, nu)


def adopt(part: Part) -> PyTree:
    """The P of the step before, and no first step."""
    o, incoming, count = part.options, incoming_of(part), part.before.count
    metric = tree_map(lambda v: jnp.maximum(jnp.sqrt(v), o["eps"]), part.before.nu)
    metric = refused_where(
        count == 0, metric, "the first step of adopt does not move: make it, and measure then"
    )
    if not o["use_clipping"]:
        return metric
    most = o["clip_value_fn"](count)
    over = jax.tree.map(lambda g, p: jnp.sum(jnp.abs(g / p) > most), incoming, metric)
    return refused_where(
        jax.tree.reduce(jnp.add, over, jnp.zeros((), int)) > 0,
        metric,
        "the clipping of adopt, which works entry by entry, is active on these gradients: clipped "
        "entries step by their signs, so that there is no metric; take `use_clipping=False`",
    )


def madgrad(part: Part) -> PyTree:
    """Dual averaging as a heavy ball, P constant: `Δx' = c Δx - (1 - c) λ g / P`."""
    return tree_map(lambda total: jnp.cbrt(total) + part.options["eps"], stepped(part).grad_sum_sq)


def dog(part: Part) -> PyTree:
    """The distance from the start over the root of the sum of squares: a scalar step size."""
    o, incoming, after = part.options, incoming_of(part), stepped(part)
    rate = after.max_dist / jnp.sqrt(after.sum_sq_norm_grads + o["eps"])
    if o["init_step_type"] == "learning_rate":
        rate = jnp.where(part.before.is_init_step, o["init_step_value"], rate)
    return spread(1 / rate, incoming)


def dowg(part: Part) -> PyTree:
    incoming, after = incoming_of(part), stepped(part)
    root = jnp.sqrt(after.weighted_sq_norm_grads) + part.options["eps"]
    return spread(root / after.estim_sq_dist, incoming)


def layer_dog(part: Part) -> PyTree:
    after, eps = stepped(part), part.options["eps"]

    def inverse(like: Array, distance: Array, total: Array) -> Array:
        return jnp.full_like(like, jnp.sqrt(jnp.sum(total) + eps) / distance)

    return jax.tree.map(inverse, incoming_of(part), after.max_dist, after.grad_sum_of_squares)


def dadapt(part: Part) -> PyTree:
    return tree_map(lambda v: jnp.sqrt(v) + part.options["eps"], stepped(part).exp_avg_sq)


def prodigy(part: Part) -> PyTree:
    """The metric: buffers hold gradients times the previous estimate; eps is times the next one."""
    incoming_of(part)
    before, after = part.before.estim_lr, stepped(part).estim_lr
    eps = after * part.options["eps"]
    return tree_map(
        lambda v: (jnp.sqrt(v) + cast_to(eps, v)) / cast_to(before, v), part.after.exp_avg_sq
    )


def norm(tree: PyTree) -> Array:
    squares = [jnp.sum(jnp.square(x)) for x in jax.tree.leaves(tree)]
    return jnp.sqrt(sum(squares, jnp.zeros(())))


def global_norm(part: Part) -> PyTree:
    """The divisor of clipping, held fixed: 1 where it is not active."""
    incoming = incoming_of(part)
    return spread(jnp.maximum(norm(incoming) / part.options["max_norm"], 1), incoming)


def block_rms(part: Part) -> PyTree:
    limit = part.options["threshold"]
    return tree_map(
        lambda u: jnp.full_like(u, jnp.maximum(1, jnp.sqrt(jnp.mean(jnp.square(u))) / limit)),
        incoming_of(part),
    )


def unit_norm(leaf: Array, axis: int | tuple[int, ...] | None) -> Array:
    """The norm of each unit: over all axes but the last; of three the first; of vectors all."""
    if axis is None and jnp.squeeze(leaf).ndim > 1:
        axis = 0 if leaf.ndim == 3 else tuple(range(leaf.ndim - 1))
    return jnp.sqrt(jnp.sum(jnp.square(leaf), axis=axis, keepdims=True))


def adaptive(part: Part) -> PyTree:
    """The norm of each unit of a layer, in units of its parameters'."""
    o, incoming = part.options, incoming_of(part)

    def over(update: Array, param: Array) -> Array:
        norm = unit_norm(update, o["axis"])
        most = o["clipping"] * jnp.maximum(unit_norm(param, o["axis"]), o["eps"])
        # Optax's guard against a norm of zero, in addition to its eps.
        over = jnp.maximum(norm, 1e-6) / most
        return jnp.broadcast_to(jnp.where(norm < most, 1, over), update.shape)

    return tree_map(over, incoming, params_of(part))


def entries(part: Part) -> PyTree:
    """The identity, as long as nothing is clipped: a clipped entry steps by its sign."""
    incoming, most = incoming_of(part), part.options["max_delta"]
    over = [jnp.sum(jnp.abs(u) > most) for u in jax.tree.leaves(incoming)]
    return refused_where(
        sum(over, jnp.zeros((), int)) > 0,
        tree_map(jnp.ones_like, incoming),
        "optax's clip, which works entry by entry, is active on these updates: clipped entries "
        "step by their signs, so that there is no metric; clip_by_global_norm has one",
    )


def update_norm(part: Part) -> PyTree:
    incoming = incoming_of(part)
    return spread(norm(incoming) + part.options["eps"], incoming)


def own_norm(part: Part) -> PyTree:
    incoming = incoming_of(part)
    return spread(norm(incoming), incoming)


def param_rms(part: Part) -> PyTree:
    least = part.options["min_scale"]
    return tree_map(
        lambda p: jnp.full_like(
            p, 1 / jnp.sqrt(jnp.maximum(jnp.mean(jnp.square(p)), jnp.square(least)))
        ),
        params_of(part),
    )


def param_norm(part: Part) -> PyTree:
    least = part.options["min_scale"]
    return tree_map(
        lambda p: jnp.full_like(p, 1 / jnp.maximum(jnp.sqrt(jnp.sum(jnp.square(p))), least)),
        params_of(part),
    )


def trust_ratio(part: Part) -> PyTree:
    o = part.options

    def inverse(update: Array, param: Array) -> Array:
        def length(x: Array) -> Array:
            return jnp.maximum(jnp.sqrt(jnp.sum(jnp.square(x))), o["min_norm"])

        ratio = o["trust_coefficient"] * length(param) / (length(update) + o["eps"])
        still = (length(param) == 0) | (length(update) == 0)
        return jnp.full_like(param, 1 / jnp.where(still, 1, ratio))

    return tree_map(inverse, incoming_of(part), params_of(part))
