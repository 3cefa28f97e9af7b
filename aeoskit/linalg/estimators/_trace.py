"""The trace and the diagonal from products alone: Hutchinson, Hutch++ and XTrace.

Ours, and not matfree or traceax: traceax multiplies a matrix whose columns are the probes, so that
it takes flat arrays only; matfree's Hutchinson takes pytrees, but its XTrace and its functions of
matrices ravel them or take flat vectors, and none of its estimators returns an error. (matfree
0.6 and traceax 1.0.)
"""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, Float, PRNGKeyArray, PyTree

from aeoskit.sharding import place_like

from .._results import RESULTS
from ..vectors._directions import orthogonalize
from ..vectors._tree import (
    block_combine,
    block_dots,
    block_row,
    block_rows,
    block_set_row,
    from_flat,
    tree_dot,
    tree_dtype,
    tree_norm,
    tree_random_like,
    tree_scale,
    tree_size,
    vector_structure,
)


class Estimate(eqx.Module):
    """A number (or a pytree of them) that random vectors estimate, with its standard error.

    Attributes:
        value: The estimate; NaN where `result` is not successful.
        std_error: One standard deviation of the estimate, of the same structure, itself estimated
            from the spread of the probes; infinite for a single probe, zero where the value was
            computed without chance.
        result: A member of `RESULTS`.
        stats: `{"matvecs"}`, the products that were spent, an int32 scalar.

    Example:
        >>> from aeoskit.linalg import trace
        >>> operator = lx.DiagonalLinearOperator(jnp.array([1.0, 4.0]))
        >>> estimate = trace(operator, key=jax.random.key(0))
        >>> float(estimate.value), float(estimate.std_error)
        (5.0, 0.0)
    """

    value: PyTree[Array]
    std_error: PyTree[Array]
    result: RESULTS
    stats: dict[str, Array]


def make_estimate(value: PyTree, std_error: PyTree, matvecs: int) -> Estimate:
    """The answer, or NaN and the reason."""
    finite = jnp.asarray(True)
    for leaf in jax.tree.leaves(value):
        finite &= jnp.all(jnp.isfinite(leaf))
    return Estimate(
        value=jax.tree.map(lambda x: jnp.where(finite, x, jnp.nan), value),
        std_error=jax.tree.map(lambda x: jnp.where(finite, x, jnp.inf), std_error),
        result=RESULTS.where(finite, RESULTS.successful, RESULTS.nonfinite),
        stats={"matvecs": jnp.asarray(matvecs, jnp.int32)},
    )


def mean_and_error(samples: Float[Array, "m *rest"]) -> tuple[Array, Array]:
    """The mean over the first axis, and its standard error: infinite for one sample."""
    m = samples.shape[0]
    mean = jnp.mean(samples, axis=0)
    if m == 1:
        return mean, jnp.full_like(mean, jnp.inf)
    return mean, jnp.std(samples, axis=0, ddof=1) / m**0.5


def rademacher_like(key: Array, structure: PyTree) -> PyTree:
    """A vector of independent signs: of all independent entries, the least variance."""
    leaves, treedef = jax.tree.flatten(structure)
    keys = jax.random.split(key, max(len(leaves), 1))
    signs = [
        jax.random.rademacher(k, leaf.shape, leaf.dtype)
        for k, leaf in zip(keys, leaves, strict=False)
    ]
    return place_like(jax.tree.unflatten(treedef, signs), structure)


def leaf_eps(structure: PyTree) -> float:
    """Machine epsilon of the least precise leaf."""
    return max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(structure))


def orthonormal_rows(block: PyTree) -> tuple[PyTree, Float[Array, "m m"]]:
    """Q and upper triangular R with `block = R^T Q` (rows), by repeated Gram-Schmidt.

    A row that depends on those before it to rounding becomes zero in Q, as does its diagonal entry
    of R: normalized, it would be noise.
    """
    rows, eps = block_rows(block), leaf_eps(block)

    def body(i: Array, carry: tuple[PyTree, Array]) -> tuple[PyTree, Array]:
        block, r = carry
        row = block_row(block, i)
        rest, column, norm = orthogonalize(block, row, i, jnp.full_like(i, -1))
        keep = norm > 10 * eps * tree_norm(row)
        q = tree_scale(jnp.where(keep, 1 / jnp.where(keep, norm, 1), 0), rest)
        column = column.at[i].set(jnp.where(keep, norm, 0))
        return block_set_row(block, i, q), r.at[:, i].set(column)

    r = jnp.zeros((rows, rows), tree_dtype(block))
    return jax.lax.fori_loop(0, rows, body, (block, r))


def check_arguments(name: str, operator: Any, *, symmetric: bool, **counts: Any) -> None:
    """Refuses malformed arguments before any work."""
    if not isinstance(operator, lx.AbstractLinearOperator):
        raise TypeError(
            f"{name}: the operator is a {type(operator).__name__}, not a "
            "lineax.AbstractLinearOperator; wrap a matrix as "
            "lineax.MatrixLinearOperator(matrix, lineax.symmetric_tag)."
        )
    leaves = jax.tree.leaves(operator.in_structure())
    if not leaves or not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
        dtypes = sorted({str(leaf.dtype) for leaf in leaves})
        raise ValueError(
            f"{name}: the operator acts on {', '.join(dtypes) or 'nothing'}; it works on real "
            "floating-point vectors only."
        )
    if symmetric and not lx.is_symmetric(operator):
        raise ValueError(
            f"{name}: the operator is not tagged symmetric, and the method is for symmetric ones; "
            "if it is symmetric, tag it: lineax.TaggedLinearOperator(operator, "
            "lineax.symmetric_tag)."
        )
    for option, (count, least) in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < least:
            raise ValueError(f"{name}({option}={count!r}): a whole number, {least} or more.")


_LEAST = {"hutchinson": 1, "hutch++": 3, "xtrace": 2}
_PRECISION = jax.lax.Precision.HIGHEST


def _unit_diagonal(operator: lx.AbstractLinearOperator) -> Float[Array, " n"]:
    """The diagonal by unit vectors, in the order of the leaves: n products."""
    structure = operator.in_structure()
    index = jnp.arange(tree_size(structure))

    def entry(i: Array) -> Array:
        unit = from_flat((index == i).astype(tree_dtype(structure)), structure)
        return tree_dot(unit, operator.mv(unit))

    return jax.lax.map(entry, index)


def _hutchinson(operator: lx.AbstractLinearOperator, key: Array, budget: int) -> Estimate:
    structure = vector_structure(operator)

    def form(k: Array) -> Array:
        v = rademacher_like(k, structure)
        return tree_dot(v, operator.mv(v))

    forms = jax.lax.map(form, jax.random.split(key, budget))
    return make_estimate(*mean_and_error(forms), budget)


def _project_out(q: PyTree, vector: PyTree) -> PyTree:
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
        v = _project_out(q, rademacher_like(k, structure))
        return tree_dot(v, operator.mv(v))

    remainder, error = mean_and_error(jax.lax.map(form, jax.random.split(second, rest)))
    return make_estimate(inside + remainder, error, budget)


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
        exact = jnp.sum(_unit_diagonal(operator))
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
    check_arguments("trace", operator, symmetric=False, max_matvecs=(max_matvecs, least))
    if method == "xtrace" and not lx.is_symmetric(operator):
        raise ValueError(
            'trace(method="xtrace") takes symmetric operators, and this is not tagged symmetric: '
            "pass lineax.TaggedLinearOperator(operator, lineax.symmetric_tag) if it is, or use "
            'method="hutch++" or "hutchinson".'
        )
    return _trace(operator, key, method, max_matvecs)


@eqx.filter_jit
def _diagonal(operator: lx.AbstractLinearOperator, key: Array, budget: int) -> Estimate:
    operator = lx.linearise(operator)
    structure = vector_structure(operator)
    dtype = tree_dtype(structure)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, dtype), structure)
    n = tree_size(structure)
    if budget >= n:
        return make_estimate(from_flat(_unit_diagonal(operator), zeros), zeros, n)

    def body(carry, inputs):
        mean, squares = carry
        count, k = inputs
        v = rademacher_like(k, structure)
        sample = jax.tree.map(lambda x, y: x.astype(dtype) * y.astype(dtype), v, operator.mv(v))
        # Welford's recurrence: the sum of squares about the running mean.
        step = jax.tree.map(lambda x, m: x - m, sample, mean)
        mean = jax.tree.map(lambda m, d: m + d / count, mean, step)
        squares = jax.tree.map(lambda q, d, x, m: q + d * (x - m), squares, step, sample, mean)
        return (mean, squares), None

    counts = jnp.arange(1, budget + 1).astype(dtype)
    keys = jax.random.split(key, budget)
    (mean, squares), _ = jax.lax.scan(body, (zeros, zeros), (counts, keys))
    if budget == 1:
        error = jax.tree.map(lambda x: jnp.full_like(x, jnp.inf), zeros)
    else:
        error = jax.tree.map(lambda q: jnp.sqrt(q / (budget * (budget - 1))), squares)
    return make_estimate(mean, error, budget)


def diagonal(
    operator: lx.AbstractLinearOperator, *, key: PRNGKeyArray, max_matvecs: int = 30
) -> Estimate:
    """The diagonal of an operator, as a vector, with a standard error for each entry.

    The mean of `v * (A v)` over vectors of random signs: the variance of an entry is the sum of
    the squares of the other entries of its row, over the number of products. Costs `max_matvecs`
    products and holds five vectors; from the dimension on it is exact, by unit vectors.

    Args:
        operator: Square, on any pytree of real floating-point leaves.
        key: For the probes.
        max_matvecs: The budget of products.

    Returns:
        An `Estimate` whose value and error are vectors, of at least float32.

    Raises:
        ValueError: A budget under 1.
        TypeError: Not a lineax operator.

    Source: Bekas, Kokiopoulou and Saad, Applied Numerical Mathematics 57 (2007).

    Example:
        >>> operator = lx.DiagonalLinearOperator({"w": jnp.arange(50.0)})
        >>> estimate = diagonal(operator, key=jax.random.key(0), max_matvecs=2)
        >>> estimate.value["w"][:3].tolist()
        [0.0, 1.0, 2.0]
    """
    check_arguments("diagonal", operator, symmetric=False, max_matvecs=(max_matvecs, 1))
    return _diagonal(operator, key, max_matvecs)
