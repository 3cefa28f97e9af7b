"""The trace from products alone: Hutchinson, Hutch++ and XTrace."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from ..vectors._tree import (
    block_combine,
    block_dots,
    tree_dot,
    tree_dtype,
    tree_norm,
    tree_random_like,
    tree_scale,
    tree_size,
    vector_structure,
)
from ._estimate import (
    Estimate,
    check_question,
    make_estimate,
    mean_and_error,
    orthonormal_rows,
    rademacher_like,
)

_LEAST = {"hutchinson": 1, "hutch++": 3, "xtrace": 2}
_PRECISION = jax.lax.Precision.HIGHEST


def unit_diagonal(operator: lx.AbstractLinearOperator) -> Float[Array, " n"]:
    """The diagonal by unit vectors, in the order of the leaves: n products."""
    leaves, treedef = jax.tree.flatten(operator.in_structure())
    n = tree_size(leaves)

    def entry(index: Array) -> Array:
        parts, begin = [], 0
        for leaf in leaves:
            end = begin + tree_size(leaf)
            unit = (jnp.arange(begin, end) == index).astype(leaf.dtype)
            parts.append(unit.reshape(leaf.shape))
            begin = end
        unit = jax.tree.unflatten(treedef, parts)
        return tree_dot(unit, operator.mv(unit))

    return jax.lax.map(entry, jnp.arange(n))


def _hutchinson(operator: lx.AbstractLinearOperator, key: Array, budget: int) -> Estimate:
    structure = vector_structure(operator)

    def form(k: Array) -> Array:
        v = rademacher_like(k, structure)
        return tree_dot(v, operator.mv(v))

    forms = jax.lax.map(form, jax.random.split(key, budget))
    return make_estimate(*mean_and_error(forms), budget)


def _outside(q: PyTree, vector: PyTree) -> PyTree:
    inside = block_combine(q, block_dots(q, vector))
    return jax.tree.map(lambda v, x: (v - x).astype(v.dtype), vector, inside)


def _hutch_plus_plus(operator: lx.AbstractLinearOperator, key: Array, budget: int) -> Estimate:
    # A third for a sketch of the range, a third for the trace on it (exact), a third for the rest.
    structure = vector_structure(operator)
    sketch = budget // 3
    rest = budget - 2 * sketch
    first, second = jax.random.split(key)

    def image(k: Array) -> PyTree:
        return operator.mv(rademacher_like(k, structure))

    q, _ = orthonormal_rows(jax.lax.map(image, jax.random.split(first, sketch)))
    inside = jnp.sum(jax.lax.map(lambda row: tree_dot(row, operator.mv(row)), q))

    def form(k: Array) -> Array:
        v = _outside(q, rademacher_like(k, structure))
        return tree_dot(v, operator.mv(v))

    outside, error = mean_and_error(jax.lax.map(form, jax.random.split(second, rest)))
    return make_estimate(inside + outside, error, budget)


def _xtrace(operator: lx.AbstractLinearOperator, key: Array, budget: int) -> Estimate:
    """Every probe is the test vector of the sketch that the others make.

    With `Y = A Ω = Q R` and `H = Q^T A Q`, leaving probe i out of the sketch takes one direction
    `Q s_i` out of its range, so that all estimates come from small matrices. `s_i` is column i of
    `R^{-T}`, normalized: orthogonal to every column of R but the i-th.
    """
    structure = vector_structure(operator)
    n = tree_size(structure)
    m = budget // 2
    keys = jax.random.split(key, m)

    def probe(k: Array) -> PyTree:
        # Directions are uniform, not signs: the scaling below needs rotational invariance.
        v = tree_random_like(k, structure)
        return tree_scale(n**0.5 / tree_norm(v), v)

    def image(k: Array) -> tuple[PyTree, Array]:
        v = probe(k)
        y = operator.mv(v)
        return y, tree_dot(v, y)

    def column(row: PyTree) -> Array:
        return block_dots(q, operator.mv(row))

    images, forms = jax.lax.map(image, keys)
    q, r = orthonormal_rows(images)
    h = jax.lax.map(column, q).T
    # Drawn again: cheaper than to hold the probes.
    w = jax.lax.map(lambda k: block_dots(q, probe(k)), keys).T
    kept = jnp.diagonal(r) > 0
    dependent = ~jnp.all(kept)
    # Where the images depend on each other, each is in the range of the others, and leaving it out
    # takes nothing away.
    safe = r + jnp.diag(jnp.where(kept, 0, 1).astype(r.dtype))
    s = jax.scipy.linalg.solve_triangular(safe, jnp.eye(m, dtype=r.dtype), trans=1)
    s = s / jnp.linalg.norm(s, axis=0, keepdims=True)
    s = jnp.where(dependent, 0, s)
    rank = jnp.where(dependent, jnp.sum(kept), m - 1)
    # The part of each probe in the range of its own sketch.
    x = w - s * jnp.sum(s * w, axis=0, keepdims=True)
    hs, hx = (jnp.matmul(h, z, precision=_PRECISION) for z in (s, x))
    # A is symmetric: <A Q x, ω> is <Q x, y>.
    residual = forms - 2 * jnp.sum(r * x, axis=0) + jnp.sum(x * hx, axis=0)
    length = n - jnp.sum(x**2, axis=0)
    scale = (n - rank) / jnp.where(length > 0, length, 1)
    estimates = jnp.trace(h) - jnp.sum(s * hs, axis=0) + scale * residual
    return make_estimate(*mean_and_error(estimates), 2 * m)


@eqx.filter_jit
def _trace(operator: lx.AbstractLinearOperator, key: Array, method: str, budget: int) -> Estimate:
    operator = lx.linearise(operator)
    n = tree_size(operator.in_structure())
    if budget >= n:
        exact = jnp.sum(unit_diagonal(operator))
        return make_estimate(exact, jnp.zeros((), tree_dtype(operator.in_structure())), n)
    methods = {"hutchinson": _hutchinson, "hutch++": _hutch_plus_plus, "xtrace": _xtrace}
    return methods[method](operator, key, budget)


def trace(
    operator: lx.AbstractLinearOperator,
    *,
    key: PRNGKeyArray,
    method: str = "xtrace",
    max_matvecs: int = 30,
) -> Estimate:
    """The trace of an operator, with its standard error.

    Costs `max_matvecs` products at most, of which a multiple of two is used by XTrace; from the
    dimension on, the trace is exact, by unit vectors.

    Args:
        operator: Square, on any pytree of real floating-point leaves; symmetric for "xtrace".
        key: For the probes.
        method: "hutchinson" (the mean of `v^T A v`, holds one vector: best for flat spectra),
            "hutch++" (a sketch takes the large eigenvalues out; holds a third of `max_matvecs`
            vectors), "xtrace" (every probe sketches and tests; holds half of `max_matvecs`
            vectors). On decaying spectra the error of the latter two falls much faster; both are
            exact to rounding for an operator whose rank is under that of the sketch.
        max_matvecs: The budget of products.

    Returns:
        An `Estimate`.

    Raises:
        ValueError: An unknown method, a budget too small for it, or an operator that is not tagged
            symmetric ("xtrace").
        TypeError: Not a lineax operator.

    Source: Hutchinson 1990; Meyer, Musco, Musco and Woodruff 2021 (Hutch++); Epperly, Tropp and
        Webber, SIAM J. Matrix Anal. Appl. 45 (2024) (XTrace, with its normalization and error).

    Example:
        >>> operator = lx.DiagonalLinearOperator(0.5 ** jnp.arange(100.0))
        >>> estimate = trace(operator, key=jax.random.key(0), max_matvecs=40)
        >>> bool(abs(estimate.value - 2.0) < 1e-3)
        True
    """
    if method not in _LEAST:
        raise ValueError(f"trace(method={method!r}): choose {', '.join(_LEAST)}.")
    least = _LEAST[method]
    symmetric = method == "xtrace"
    check_question("trace", operator, symmetric=symmetric, max_matvecs=(max_matvecs, least))
    return _trace(operator, key, method, max_matvecs)
