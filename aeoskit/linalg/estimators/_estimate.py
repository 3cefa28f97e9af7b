"""The common part of stochastic estimators: their answer, their probes, their questions.

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
from jaxtyping import Array, Float, PyTree

from aeoskit.sharding import lie_like

from .._results import RESULTS
from ..vectors._random import project_out
from ..vectors._tree import block_row, block_set_row, tree_dtype, tree_norm, tree_scale


class Estimate(eqx.Module):
    """A number (or a pytree of them) that random vectors estimate, with its standard error.

    Attributes:
        value: The estimate; NaN where `result` says that there is none.
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
    return lie_like(jax.tree.unflatten(treedef, signs), structure)


def leaf_eps(structure: PyTree) -> float:
    """Machine epsilon of the least precise leaf."""
    return max(float(jnp.finfo(leaf.dtype).eps) for leaf in jax.tree.leaves(structure))


def project_out_again(
    basis: PyTree, w: PyTree, size: Array, passes: int
) -> tuple[PyTree, Float[Array, " m"]]:
    """`project_out`, several times: what rounding leaves after the first is large where w is small.

    A loop, so that the passes are compiled once.
    """

    def body(_: Array, carry: tuple[PyTree, Array]) -> tuple[PyTree, Array]:
        w, h = project_out(basis, carry[0], size)
        return w, carry[1] + h

    rows = jax.tree.leaves(basis)[0].shape[0]
    return jax.lax.fori_loop(0, passes, body, (w, jnp.zeros(rows, tree_dtype(basis))))


def orthonormal_rows(block: PyTree) -> tuple[PyTree, Float[Array, "m m"]]:
    """Q and upper triangular R with `block = R^T Q` (rows), by repeated Gram-Schmidt.

    A row that depends on those before it to rounding becomes zero in Q, as does its diagonal entry
    of R: normalized, it would be noise.
    """
    rows = jax.tree.leaves(block)[0].shape[0]
    eps = leaf_eps(block)

    def body(i: Array, carry: tuple[PyTree, Array]) -> tuple[PyTree, Array]:
        block, r = carry
        row = block_row(block, i)
        rest, column = project_out_again(block, row, i, 3)
        norm = tree_norm(rest)
        keep = norm > 10 * eps * tree_norm(row)
        q = tree_scale(jnp.where(keep, 1 / jnp.where(keep, norm, 1), 0), rest)
        column = column.at[i].set(jnp.where(keep, norm, 0))
        return block_set_row(block, i, q), r.at[:, i].set(column)

    r = jnp.zeros((rows, rows), tree_dtype(block))
    return jax.lax.fori_loop(0, rows, body, (block, r))


def check_question(name: str, operator: Any, *, symmetric: bool, **counts: Any) -> None:
    """Refuses a malformed question before any work."""
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
            "if it is symmetric, say so: lineax.TaggedLinearOperator(operator, "
            "lineax.symmetric_tag)."
        )
    for option, (count, least) in counts.items():
        if isinstance(count, bool) or not isinstance(count, int) or count < least:
            raise ValueError(f"{name}({option}={count!r}): a whole number, {least} or more.")
