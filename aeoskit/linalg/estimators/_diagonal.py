"""The diagonal and the Frobenius norm from products alone."""

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, PRNGKeyArray

from ..vectors._tree import tree_dtype, tree_size, vector_structure
from ._estimate import Estimate, check_question, make_estimate, rademacher_like
from ._trace import unit_diagonal


@eqx.filter_jit
def _diagonal(operator: lx.AbstractLinearOperator, key: Array, budget: int) -> Estimate:
    operator = lx.linearise(operator)
    structure = vector_structure(operator)
    dtype = tree_dtype(structure)
    zeros = jax.tree.map(lambda s: jnp.zeros(s.shape, dtype), structure)
    n = tree_size(structure)
    if budget >= n:
        flat, begin, parts = unit_diagonal(operator), 0, []
        leaves, treedef = jax.tree.flatten(zeros)
        for leaf in leaves:
            parts.append(flat[begin : begin + leaf.size].reshape(leaf.shape))
            begin += leaf.size
        return make_estimate(jax.tree.unflatten(treedef, parts), zeros, n)

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
    check_question("diagonal", operator, symmetric=False, max_matvecs=(max_matvecs, 1))
    return _diagonal(operator, key, max_matvecs)
