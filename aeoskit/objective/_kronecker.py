"""Kronecker factors of the Fisher matrix, as in K-FAC, estimated from single gradients."""

from typing import Any, Literal, get_args

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from einops import einsum, rearrange, reduce
from jax.core import Tracer
from jaxtyping import Array, PyTree

from aeoskit.linalg import AxisFactor, KroneckerPreconditioner, multiply_along, symmetric_factor

from ._checks import check_params
from ._example_gradients import (
    has_known_root,
    loss_gradients,
    output_gradients,
    outputs_per_example,
)
from ._function import ModelLoss
from ._kinds import accumulator
from ._objective import Objective
from ._shards import sum_numbered

FisherKind = Literal["empirical", "gauss_newton"]

# For each leaf the matrix of each axis, or its diagonal, of Frobenius norm one; and the norm of
# what was computed last, which scales their product.
Directions = list[tuple[Array, ...]]
Scales = list[Array]


def kronecker_fisher(
    objective: Objective,
    params: PyTree,
    *,
    damping: Any,
    iterations: int = 3,
    kind: FisherKind | str = "empirical",
    key: Array | None = None,
    samples: int = 1,
    max_dimension: int = 1024,
    microbatch: int | None = None,
) -> KroneckerPreconditioner:
    """The Fisher matrix as one Kronecker product a leaf: K-FAC's P, of any model.

    A leaf's block of the Fisher matrix is `F = E[vec(G) vec(G)ᵀ]`, with `G` the gradient of one
    example. Here it is the Kronecker product that is nearest to it in the Frobenius norm, found
    without `F` by alternating least squares from the identity, each factor divided by its norm:

    - on a matrix `L ← E[G R Gᵀ]`, then `R ← E[Gᵀ L G]`, and so on. This is power iteration on the
      rearranged `F`; factors stay positive semidefinite, and the limit is the nearest product. For
      a dense layer whose inputs `a` and output gradients `g` are independent one iteration gives
      `E[aaᵀ] ⊗ E[ggᵀ]`, K-FAC's factors, exactly; otherwise the limit is nearer to `F` than these;
    - a leaf of more axes has one factor an axis, where the limit can be a local optimum. (K-FAC for
      convolutions joins axes into a matrix instead.)
    - a leaf of one axis has its whole block, since it is small: nothing is approximated.

    What links different leaves is left out, a layer's bias with its weights too.

    Damping is K-FAC's factored Tikhonov damping: `(L + π √λ I) ⊗ (R + √λ/π I)` with
    `π² = (tr L / dim L) / (tr R / dim R)`. With k axes the factors are scaled to one mean
    eigenvalue, and `λ^{1/k}` is added to each; with one axis this is `F + λ I`. Hence `P ≥ λ I`,
    and P is positive definite by construction; a leaf without gradients has `P = λ I`.

    An iteration multiplies the error by `(σ₂/σ₁)²`, the squared ratio of the two largest singular
    values of the rearranged `F`, and passes over the data as often as the longest shape has axes
    (2 for a network of matrices and vectors). Each time it costs, per example, one gradient and
    `m n (m + n)` multiplications for a leaf of shape `(m, n)`; with `kind="gauss_newton"` one
    forward pass, and a backward pass with these multiplications for each output or sample. At the
    end each factor is decomposed, `O(n³)`.

    Args:
        objective: its loss returns one number an example, or a pair `(sum, weight)`, and does not
            couple examples. The sums of pairs give `G`, which is then divided by the square root of
            the mean weight: `F` is per unit of weight, and sees an example's own weight squared.
        params: where the gradients are taken; real floating arrays.
        damping: `λ`, at least 0. At 0 no factor may be singular. It may be traced, and swept. There
            is no default: its unit is that of `F`, and it decides where `F` is small.
        iterations: how often each factor is renewed, at least 1.
        kind: `"empirical"` takes the gradients of the losses. `"gauss_newton"` takes the true
            Fisher matrix, that of targets drawn from the model's outputs, which is
            `objective.gauss_newton`. It needs `Objective.from_model` with `SquaredError` or
            `SoftmaxCrossEntropy`, whose weights enter once, not squared.
        key: for `"gauss_newton"`. None sums over all outputs of an example, exactly, with a
            backward pass for each. For many outputs pass a key: targets are drawn, the same in
            every iteration and whatever the microbatch, and `F` holds on average. Where the model
            is sure of its labels that takes many samples, since the rare ones make most of `F`.
        samples: draws for each example, where there is a key.
        max_dimension: an axis that is longer has a diagonal factor; the product is then the nearest
            of that kind.
        microbatch: examples whose gradients are held at a time. None for the objective's, or fewer,
            so that they fit into its `residual_budget`.

    Returns:
        P, for `Frozen(P)` and everything else that takes a preconditioner. Factors are in single
        precision at least.

    Raises:
        TypeError: an argument of the wrong type, a leaf that is not real and floating, or
            `"gauss_newton"` without a model and output loss that it knows.
        ValueError: an argument out of range, a loss that gives only a mean, an empty leaf,
            gradients that are not finite, too many outputs to sum over, or singular factors
            without damping.

    Source: Martens, Grosse, arXiv 1503.05671, section 6.3 for the damping; Van Loan, Pitsianis,
    *Approximation with Kronecker products* (1993), for the nearest product.

    Example:
        >>> import jax.numpy as jnp
        >>> from aeoskit.objective import Objective, kronecker_fisher
        >>> def loss(w, batch):  # G = a gᵀ; each a with each g: they are independent
        ...     a, g = batch
        ...     return jnp.einsum("ni,ij,nj->n", a, w, g)
        >>> a = jnp.array([[1.0, 0.0], [0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
        >>> g = jnp.array([[2.0], [2.0], [4.0], [4.0]])
        >>> P = kronecker_fisher(Objective(loss, (a, g)), jnp.zeros((2, 1)), damping=0.0)
        >>> P.mv(jnp.ones((2, 1))).tolist()  # E[aaᵀ] = I/2, E[ggᵀ] = 10
        [[5.00...], [5.00...]]
    """
    params = check_params(params)
    _check_shapes(params)
    _check_damping(damping)
    for name, value in (
        ("iterations", iterations),
        ("samples", samples),
        ("max_dimension", max_dimension),
        ("microbatch", 1 if microbatch is None else microbatch),
    ):
        if isinstance(value, bool) or not isinstance(value, int):
            raise TypeError(f"{name} must be a whole number, got {value!r}")
        if value < 1:
            raise ValueError(f"{name} is {value}: it must be at least 1")
    _check_kind(objective, params, kind, key, samples)
    if microbatch is None:
        microbatch = _fitting_microbatch(objective, params, kind, key, samples)
    microbatch = min(microbatch, objective.n)

    leaves = jax.tree.leaves(params)
    shapes = [leaf.shape or (1,) for leaf in leaves]
    directions = [
        tuple(_start(n, n <= max_dimension, leaf.dtype) for n in shape)
        for leaf, shape in zip(leaves, shapes, strict=True)
    ]
    scales: Scales = []
    for step in range(iterations * max(map(len, shapes))):
        axes = tuple(step % len(shape) for shape in shapes)
        directions, scales = _update_factors(
            objective, params, directions, axes, kind, key, samples, microbatch
        )
    _check_scales(params, scales)
    preconditioner = _damped(params, directions, scales, damping)
    _check_singular(params, preconditioner.factors, damping)
    return preconditioner


def _start(size: int, full: bool, dtype: Any) -> Array:
    # The identity has a positive product with every positive semidefinite matrix, hence with the
    # leading singular vector of the rearranged block: power iteration cannot miss it.
    identity = np.eye(size) if full else np.ones(size)
    return jnp.asarray(identity / np.sqrt(size), accumulator(dtype))


@eqx.filter_jit
def _update_factors(
    objective: Objective,
    params: PyTree,
    directions: Directions,
    axes: tuple[int, ...],
    kind: str,
    key: Array | None,
    samples: int,
    microbatch: int,
) -> tuple[Directions, Scales]:
    """One pass over the data, which renews one factor of each leaf."""

    def part(batch: PyTree, arrays: PyTree, operands: PyTree) -> tuple[None, PyTree]:
        params, directions, key = operands
        loss = eqx.combine(arrays, static)
        if kind == "empirical":
            gradients = loss_gradients(loss, params)
        else:
            assert isinstance(loss, ModelLoss)
            gradients = output_gradients(loss, params, key, samples)
        grads, weights = jax.vmap(gradients)(*batch)
        moments = [
            _moment(rearrange(leaf, "n m ... -> (n m) ..."), factors, axis)
            for leaf, factors, axis in zip(jax.tree.leaves(grads), directions, axes, strict=True)
        ]
        return None, (moments, jnp.sum(weights))

    arrays, static = eqx.partition(objective.loss, eqx.is_array)
    _, (moments, weight) = sum_numbered(
        objective, part, arrays, (params, directions, key), microbatch
    )
    updated: Directions = []
    scales: Scales = []
    for factors, axis, moment in zip(directions, axes, moments, strict=True):
        moment = moment / weight.astype(moment.dtype)
        norm = jnp.sqrt(jnp.sum(jnp.square(moment)))
        # A leaf without gradients keeps its directions, and is scaled to zero.
        direction = jnp.where(norm > 0, moment / jnp.where(norm > 0, norm, 1), factors[axis])
        updated.append((*factors[:axis], direction, *factors[axis + 1 :]))
        scales.append(norm)
    return updated, scales


def _moment(gradients: Array, factors: tuple[Array, ...], axis: int) -> Array:
    """The sum over gradients `(n, *leaf)` of `G R Gᵀ`, R the factors of all axes but one.

    G is flattened into a matrix with that axis as rows. The result is a matrix, or its diagonal.
    """
    wide = gradients.astype(accumulator(gradients.dtype))
    # A scalar is a vector of one entry.
    wide = wide[:, None] if wide.ndim == 1 else wide
    image = wide
    for other, factor in enumerate(factors):
        if other != axis:
            image = _times(factor, image, other + 1)
    names = [f"x{i}" for i in range(len(factors))]
    source, row = " ".join(names), names[axis]
    if factors[axis].ndim == 1:
        return reduce(image * wide, f"n {source} -> {row}", "sum")
    other = " ".join([*names[:axis], "y", *names[axis + 1 :]])
    with jax.default_matmul_precision("highest"):
        return einsum(image, wide, f"n {source}, n {other} -> {row} y")


def _times(factor: Array, array: Array, axis: int) -> Array:
    if factor.ndim == 2:
        return multiply_along(factor, array, axis)
    ones = ["1"] * array.ndim
    ones[axis] = "n"
    return rearrange(factor, f"n -> {' '.join(ones)}") * array


@eqx.filter_jit
def _damped(
    params: PyTree, directions: Directions, scales: Scales, damping: Any
) -> KroneckerPreconditioner:
    """The factors of each leaf at one mean eigenvalue, decomposed, and damped."""
    damped = []
    for factors, scale in zip(directions, scales, strict=True):
        means = [jnp.mean(f if f.ndim == 1 else jnp.diagonal(f)) for f in factors]
        mean = scale
        for factor_mean in means:
            mean = mean * factor_mean
        mean = _root(mean, len(factors))
        shift = _root(jnp.asarray(damping, scale.dtype), len(factors))
        axes = []
        for factor, factor_mean in zip(factors, means, strict=True):
            factor = factor * (mean / factor_mean)
            whole = AxisFactor(factor) if factor.ndim == 1 else symmetric_factor(factor)
            axes.append(AxisFactor(whole.values + shift, whole.vectors))
        damped.append(tuple(axes))
    factors = jax.tree.unflatten(jax.tree.structure(params), damped)
    return KroneckerPreconditioner(factors, params, eps=0.0, check=False)


def _root(value: Array, degree: int) -> Array:
    if degree == 1:
        return value
    return jnp.sqrt(value) if degree == 2 else value ** jnp.asarray(1 / degree, value.dtype)


def _fitting_microbatch(
    objective: Objective, params: PyTree, kind: str, key: Array | None, samples: int
) -> int:
    """As many examples as have their gradients fit into the objective's budget, at least one."""
    one = sum(
        leaf.size * jnp.dtype(accumulator(leaf.dtype)).itemsize for leaf in jax.tree.leaves(params)
    )
    count, budget = samples, objective.residual_budget
    if kind == "gauss_newton" and key is None:
        assert isinstance(objective.loss, ModelLoss)
        count = outputs_per_example(objective.loss, params, objective.data)
        if count > 1 and count * one > budget:
            raise ValueError(
                f"an example has {count} outputs, whose gradients take {count * one / 2**30:.3g} "
                f"GiB, but residual_budget is {budget / 2**30:.3g} GiB: pass "
                "key=jax.random.key(0) to draw targets, or microbatch=1 to take them all the same"
            )
    return max(1, min(objective.microbatch or objective.n, budget // (count * one)))


def _paths(params: PyTree) -> list[str]:
    leaves = jax.tree_util.tree_leaves_with_path(params)
    return [f"params{jax.tree_util.keystr(path)}" for path, _ in leaves]


def _check_shapes(params: PyTree) -> None:
    for path, leaf in zip(_paths(params), jax.tree.leaves(params), strict=True):
        if leaf.size == 0:
            raise ValueError(
                f"{path} has shape {leaf.shape}, which is empty: there is nothing to estimate a "
                "factor from; leave it out of the parameters"
            )


def _check_damping(damping: Any) -> None:
    if isinstance(damping, Tracer):
        return
    try:
        array = np.asarray(damping)
    except (TypeError, ValueError):
        array = np.asarray(None)
    if array.shape != () or array.dtype.kind not in "iuf":
        raise TypeError(f"damping must be a real number, got {damping!r}: pass one such as 1e-3")
    if not 0 <= array < np.inf:
        raise ValueError(f"damping is {damping}: it must be finite and at least 0, such as 1e-3")


def _check_kind(
    objective: Objective, params: PyTree, kind: str, key: Array | None, samples: int
) -> None:
    if kind not in get_args(FisherKind):
        raise ValueError(f"kind is {kind!r}: it must be one of {', '.join(get_args(FisherKind))}")
    if kind == "empirical":
        if key is not None or samples != 1:
            raise ValueError(
                "key and samples are for draws, and kind='empirical' draws nothing: leave them "
                "out, or pass kind='gauss_newton'"
            )
        if objective.kind(params) == "mean":
            raise ValueError(
                "the loss gives only the mean over a batch, but Kronecker factors need the "
                "gradient of each example: return per-example losses (n,), or (sum, weight)"
            )
        return
    if not isinstance(objective.loss, ModelLoss):
        raise TypeError(
            "kind='gauss_newton' needs the model apart from its loss: build the objective with "
            "Objective.from_model(model, output_loss, data)"
        )
    output_loss = objective.loss.output_loss.function
    if not has_known_root(output_loss):
        name = getattr(output_loss, "__name__", type(output_loss).__name__)
        raise TypeError(
            f"kind='gauss_newton' knows SquaredError and SoftmaxCrossEntropy, not "
            f"{name}: make the objective with one of these, or pass kind='empirical'"
        )
    if key is None and samples != 1:
        raise ValueError(
            f"samples is {samples}, but without a key nothing is drawn: pass "
            "key=jax.random.key(0), or leave samples out"
        )


def _check_scales(params: PyTree, scales: Scales) -> None:
    for path, scale in zip(_paths(params), scales, strict=True):
        if not isinstance(scale, Tracer) and not np.isfinite(scale):
            raise ValueError(
                f"the gradients of {path} are not finite for some example, or their squares "
                "overflow: run objective.check(params), and look at the loss"
            )


def _check_singular(
    params: PyTree, factors: tuple[tuple[AxisFactor | None, ...], ...], damping: Any
) -> None:
    if isinstance(damping, Tracer) or damping > 0:
        return
    for path, axes in zip(_paths(params), factors, strict=True):
        for axis, factor in enumerate(axes):
            assert factor is not None
            if isinstance(factor.values, Tracer):
                raise ValueError(
                    "damping is 0, and traced factors cannot be tested for singularity: pass a "
                    "positive damping under jit"
                )
            values = factor.values
            rounding = 10 * len(values) * float(jnp.finfo(values.dtype).eps)
            if jnp.min(values) <= rounding * jnp.max(values):
                raise ValueError(
                    f"the factor of axis {axis} of {path} is singular, so that P would not be "
                    "positive definite without damping: pass a damping above 0, such as 1e-3"
                )
