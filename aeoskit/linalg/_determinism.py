"""Does an operator keep its promises? Three products tell."""

import math
from typing import Any, NoReturn

import jax
import jax.numpy as jnp
import lineax as lx
from jax.core import Tracer
from jaxtyping import Array, PyTree

from .vectors._tree import tree_axpy, tree_dot, tree_norm, tree_random_like, tree_size

# For low precision, where the square root of epsilon would let everything pass.
_LOOSEST = 0.3


def _describe(structure: PyTree) -> str:
    keys, _ = jax.tree_util.tree_flatten_with_path(structure)
    return ", ".join(
        f"{jax.tree_util.keystr(path) or 'vector'}: {leaf.dtype}{list(leaf.shape)}"
        for path, leaf in keys
    )


def _refuse(what: str) -> NoReturn:
    raise ValueError(f"check_operator: {what}")


def check_operator(
    operator: lx.AbstractLinearOperator,
    *,
    key: Array | None = None,
    symmetric: bool | None = None,
    rtol: float | None = None,
) -> None:
    """Refuses an operator whose products are random, not finite, misshapen or not symmetric.

    Two products of one random vector have to agree: dropout, augmentation and batch statistics
    make an operator whose eigenvalues mean nothing. For a symmetric operator `<u, A v>` has to
    equal `<A u, v>`. It works on the host, outside of transformations, and costs 3 products (2 for
    an operator that is not symmetric). What it finds by random vectors is a difference that is
    spread out; a single wrong entry of a large matrix can pass.

    Args:
        operator: A, square.
        key: For the two vectors; a fixed one if None.
        symmetric: Whether A should be symmetric; None asks `lineax.is_symmetric`.
        rtol: What counts as rounding, relative to the size of the product (for symmetry, to the
            size that the difference would have if A had no symmetry at all); 10 times the square
            root of machine epsilon if None, and 0.3 at most.

    Raises:
        ValueError: A promise is broken; the numbers and the mend are named.
        TypeError: Not a lineax operator.

    Example:
        >>> check_operator(lx.DiagonalLinearOperator(jnp.array([1.0, 2.0])))
        >>> matrix = jnp.array([[1.0, 2.0], [0.0, 1.0]])
        >>> check_operator(lx.MatrixLinearOperator(matrix, lx.symmetric_tag))
        Traceback (most recent call last):
        ...
        ValueError: check_operator: the operator should be symmetric, but ...
    """
    if not isinstance(operator, lx.AbstractLinearOperator):
        raise TypeError(
            f"check_operator: a {type(operator).__name__} is not a lineax.AbstractLinearOperator."
        )
    structure, image = operator.in_structure(), operator.out_structure()
    leaves = jax.tree.leaves(structure)
    if not all(jnp.issubdtype(leaf.dtype, jnp.floating) for leaf in leaves):
        _refuse(f"the operator acts on {_describe(structure)}; leaves have to be real floats.")
    if not leaves:
        _refuse("the operator has no leaves to act on.")
    eps = max(float(jnp.finfo(leaf.dtype).eps) for leaf in leaves)
    tolerance = min(10 * math.sqrt(eps), _LOOSEST) if rtol is None else rtol
    symmetric = lx.is_symmetric(operator) if symmetric is None else symmetric
    first, second = jax.random.split(jax.random.key(0) if key is None else key)
    u, v = tree_random_like(first, structure), tree_random_like(second, structure)
    if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves((operator, u))):
        _refuse("it reads numbers on the host; call it outside of jit, vmap and scan.")
    # Not compiled here: a compiled product would draw its random numbers once.
    a, again = operator.mv(u), operator.mv(u)
    for said, found in ((image, a), (structure, a)) if symmetric else ((image, a),):
        same = jax.tree.structure(said) == jax.tree.structure(found) and all(
            s.shape == x.shape and s.dtype == x.dtype
            for s, x in zip(jax.tree.leaves(said), jax.tree.leaves(found), strict=True)
        )
        if not same:
            _refuse(
                f"a product has the structure {_describe(found)}, where {_describe(said)} was "
                "promised; return what the operator's out_structure() says."
            )
    size = _finite(a, "A u")
    _finite(again, "A u")
    change = float(tree_norm(tree_axpy(jnp.asarray(-1.0), a, again)))
    if change > tolerance * size:
        _refuse(
            f"two products of the same vector differ by {change:.2e}, {change / size:.1e} of the "
            "product. Fix the random keys, switch dropout and augmentation off, and put batch "
            "statistics into evaluation mode."
        )
    if not symmetric:
        return
    b = operator.mv(v)
    other = _finite(b, "A v")
    left, right = float(tree_dot(v, a)), float(tree_dot(b, u))
    # Independent random vectors: without any symmetry the two would differ by about this.
    natural = max(float(tree_norm(v)) * size, float(tree_norm(u)) * other)
    natural /= tree_size(structure) ** 0.5
    if abs(left - right) > tolerance * natural:
        _refuse(
            f"the operator should be symmetric, but <v, A u> = {left:.6e} and <A v, u> = "
            f"{right:.6e}, {abs(left - right) / natural:.1e} of what no symmetry at all would give "
            f"(rounding: {tolerance:.1e}). Drop the symmetric tag, or mend the product."
        )


def _finite(vector: Any, name: str) -> float:
    size = float(tree_norm(vector))
    if not jnp.isfinite(size):
        _refuse(
            f"the norm of the product {name} with a random vector is {size}. Look at the "
            "parameters, the data and the loss at which the operator was built."
        )
    return size
