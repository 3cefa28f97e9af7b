"""The end of a solve, its result and its error bars, for every method."""

import math
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int, PyTree

from .._results import EVIDENCE, RESULTS, EigenSolution
from ..vectors._tree import pytree_dataclass
from ._relation import Pairs, Relation, measure, namespace, original_order, splits_pair

# In units of (machine epsilon * norm seen): what rounding alone adds to a residual, and what each
# rotation of the basis does.
FLOOR = 8.0
ROTATION = 2.0
# In units of (square root of epsilon * norm seen): asymmetry that is no rounding.
_ASYMMETRY = 10.0
# A pair beyond those wanted is no match for them if its residual is under the distance over this
# times the root of the dimension. The random direction that it grew from has a share of about one
# over that root in an eigenvector overlooked, the share cannot shrink, and it would show there.
_OVERLOOKED = 20.0
# Values count as different from this many tolerances on.
_ANOTHER = 5.0
# A search asks for no less than this share of the tolerance.
_LEAST_SHARE = 0.125
# Where the operator is not symmetric Ritz values do not come from inside, one by one: an overlooked
# one may be behind others. The rule above holds for this many pairs, the bare distance for all.
_NEXT = 3
# Inside the spectrum Ritz values do not come one by one either. (With three, one solve in some
# thousands missed a copy.)
_INSIDE = 4


@pytree_dataclass
class Numerics:
    """The state of the numbers: scale, rounding, symmetry.

    Attributes:
        unit: The power of two that they are divided by; 0 before the first product.
        scale: The largest norm of a product of a unit vector.
        lost: What the relation has lost to rotations, and to leaving out what is nothing new.
        asymmetry: The largest difference of `<u, Av>` and `<Au, v>`.
        finite: Whether all products were.
        error: The relative error of a product, beyond rounding, that the operator admits.
    """

    unit: Float[Any, ""]
    scale: Float[Any, ""]
    lost: Float[Any, ""]
    asymmetry: Float[Any, ""]
    finite: Bool[Any, ""]
    error: Float[Any, ""]


@pytree_dataclass
class SearchState:
    """The state of the search for pairs that were overlooked, from a random row.

    A Krylov space has one copy of each eigenvalue at most, and a start that was given may lack what
    is wanted. So the pairs found are held, and a random direction orthogonal to them is followed
    until its best pair is known not to belong to the wanted ones; if it does, once more.

    Attributes:
        asked: Whether a search has to be made.
        running: Whether one is being made.
        passed: Whether the last one found nothing.
        claimed: The wanted values when it began (what they are ordered by).
        worst: The largest of their residuals then.
        begun: How many products had been spent then.
        limit: The number of products after which it ends in any case.
    """

    asked: Bool[Any, ""]
    running: Bool[Any, ""]
    passed: Bool[Any, ""]
    claimed: Float[Any, " k"]
    worst: Float[Any, ""]
    begun: Int[Any, ""]
    limit: Int[Any, ""]


@pytree_dataclass
class Decision:
    """The next move: the end, or a random row, before which all but the wanted pairs may go."""

    done: Bool[Any, ""]
    enough: Bool[Any, ""]
    add_random_row: Bool[Any, ""]
    shrink: Bool[Any, ""]


def floor(numerics: Numerics) -> Any:
    """The error that a residual may have, in units."""
    eps = np.finfo(numerics.scale.dtype).eps
    return (FLOOR * eps + numerics.error) * numerics.scale + numerics.lost


def tolerance(rtol: Any, atol: Any, values: Any, numerics: Numerics) -> Any:
    """The largest residual that is allowed, in units."""
    xp = namespace(values)
    return rtol * xp.abs(values) + atol / xp.where(numerics.unit > 0, numerics.unit, 1)


def pair_status(rtol: Any, atol: Any, pairs: Pairs, numerics: Numerics) -> tuple[Any, Any]:
    """By rank: whether a pair meets its tolerance; and whether it does, or is at the floor.

    Args:
        rtol: Relative to the values.
        atol: Absolute, in the operator's units.
        pairs: Ritz pairs.
        numerics: What is known of the numbers.

    Returns:
        Two arrays of booleans.

    Example:
        >>> pairs = Pairs(np.ones(2), np.eye(2), np.zeros((2, 2)), np.array([1e-5, 0.1]))
        >>> one, zero = np.float64(1), np.float64(0)
        >>> numerics = Numerics(one, one, zero, zero, np.True_, zero)
        >>> [x.tolist() for x in pair_status(1e-3, 0.0, pairs, numerics)]
        [[True, False], [True, False]]
    """
    least = floor(numerics)
    converged = pairs.residuals + least <= tolerance(rtol, atol, pairs.values, numerics)
    return converged, converged | (pairs.residuals <= least)


def _by_ends(problem: Any, pairs: Pairs) -> bool:
    """True where Ritz values come from inside, one by one, and there may be a better one."""
    real = not np.issubdtype(pairs.values.dtype, np.complexfloating)
    return real and problem.which != "nearest" and problem.k > 1


def _exact(
    problem: Any, rtol: Any, atol: Any, pairs: Pairs, numerics: Numerics, ranks: np.ndarray
) -> Any:
    """The residuals from which on pairs hide no share in another wanted value than theirs.

    As for `_OVERLOOKED`, but no smaller than a share of the tolerance.
    """
    xp, k = namespace(pairs.values), problem.k
    order, wanted = pairs.order(problem.which), pairs.values[:k]
    away = xp.abs(order[ranks][:, None] - order[:k][None, :])
    allowed = tolerance(rtol, atol, wanted, numerics)
    gaps = xp.min(xp.where(away > _ANOTHER * allowed[None, :], away, xp.inf), axis=1)
    gaps = gaps / (_OVERLOOKED * problem.dimension**0.5)
    return xp.maximum(gaps, xp.maximum(_LEAST_SHARE * xp.min(allowed), 2 * floor(numerics)))


def _is_inexact(
    problem: Any, rtol: Any, atol: Any, pairs: Pairs, numerics: Numerics, search: SearchState
) -> Any:
    """True where a wanted pair is one that the search has found, and as yet so inexact that it may
    hide a share in a better one.
    """
    xp, k = namespace(pairs.values), problem.k
    exact = _exact(problem, rtol, atol, pairs, numerics, np.arange(k))
    return search.running & (pairs.residuals[:k] > xp.maximum(exact, search.worst))


def _matches(problem: Any, rtol: Any, atol: Any, pairs: Pairs, numerics: Numerics) -> Any:
    """True where the best pair beyond the wanted ones, at each end, may be one of them.

    Of operators that are not symmetric: each pair beyond, the best first.
    """
    xp = namespace(pairs.values)
    k, ends = problem.k, 2 if problem.which == "both" else 1
    factor = _OVERLOOKED * problem.dimension**0.5
    beyond = np.arange(k, k + ends)
    last = beyond - ends
    if problem.which == "nearest":
        last = np.asarray([k - 1])
        beyond = np.arange(k, k + interior_candidates(k, pairs.values.shape[0] // 2))
    if np.issubdtype(pairs.values.dtype, np.complexfloating):
        last = k - 1 + splits_pair(pairs.values, k) + np.zeros(1, np.int32)
        beyond = last + np.arange(1, pairs.values.shape[0] - k)
        factor = np.where(np.arange(beyond.shape[0]) < _NEXT, factor, 1).astype(
            numerics.scale.dtype
        )
    held, residuals = pairs.values[last], pairs.residuals[beyond]
    least = floor(numerics)
    converged = residuals + least <= xp.maximum(tolerance(rtol, atol, held, numerics), 2 * least)
    order = pairs.order(problem.which)
    gap = xp.abs(order[last] - order[beyond])
    if _by_ends(problem, pairs):
        # A copy of the last one, found from a direction with too small a share in a better one.
        exact = _exact(problem, rtol, atol, pairs, numerics, beyond)
        converged = converged & (residuals <= exact)
    reach = pairs.reach(pairs.residuals)[beyond]
    known = converged | (factor * reach <= gap)
    needed = (beyond == last[0] + 1) | (problem.which == "nearest")
    return ~known & (xp.isfinite(residuals) | needed)


def interior_candidates(k: int, basis: int) -> int:
    """The pairs beyond the wanted ones that a search inside the spectrum has to know.

    Args:
        k: How many are wanted.
        basis: How many directions there may be: two have to be free.

    Returns:
        A count.

    Example:
        >>> interior_candidates(1, 20), interior_candidates(1, 4)
        (4, 1)
    """
    return max(1, min(_INSIDE, basis - k - 2))


def can_search(problem: Any, c: int) -> bool:
    """True if a basis of c rows has pairs beyond the wanted ones to look at."""
    return (
        c < problem.dimension and problem.k + 3 < c and (problem.which != "both" or problem.k > 1)
    )


def next_candidate(
    problem: Any, rtol: Any, atol: Any, pairs: Pairs, numerics: Numerics, search: SearchState
) -> Any:
    """The rank of the pair that a search goes after: the first that is doubtful among the wanted
    ones, or the first beyond them that may be one of them.
    """
    xp = namespace(pairs.values)
    if not can_search(problem, pairs.values.shape[0]):
        return xp.argmax(xp.where(xp.isfinite(pairs.residuals), pairs.residuals, -1))
    first = xp.argmax(_matches(problem, rtol, atol, pairs, numerics))
    rank = problem.k + splits_pair(pairs.values, problem.k) + first
    if _by_ends(problem, pairs):
        loose = _is_inexact(problem, rtol, atol, pairs, numerics, search)
        rank = xp.where(xp.any(loose), xp.argmax(loose), rank)
    return rank


def decide(
    pairs: Pairs,
    relation: Relation,
    numerics: Numerics,
    search: SearchState,
    *,
    problem: Any,
    rtol: Any,
    atol: Any,
    settled: Any,
    matvecs: Any,
    searches: bool,
) -> tuple[SearchState, Decision]:
    """The search and the decision after a product; `settled`: the wanted pairs are good enough."""
    xp = namespace(pairs.values)
    complete = relation.count >= problem.dimension
    begin = repeat = search.asked & False
    if searches and can_search(problem, relation.multiplied.shape[0]):
        known = ~xp.any(_matches(problem, rtol, atol, pairs, numerics))
        if _by_ends(problem, pairs):
            known = known & ~xp.any(_is_inexact(problem, rtol, atol, pairs, numerics, search))
        over = (search.running & settled & (matvecs > search.begun)) & (
            known | (matvecs - search.begun >= search.limit)
        )
        values = pairs.values[: problem.k]
        wanted = measure(values, problem.which)
        allowed = tolerance(rtol, atol, values, numerics) + pairs.residuals[: problem.k]
        changed = xp.any(xp.abs(wanted - search.claimed) > allowed)
        begin = search.asked & ~search.running & settled & ~search.passed
        repeat = over & changed
        search = SearchState(
            asked=search.asked,
            running=(search.running & ~over) | begin | repeat,
            passed=search.passed | (over & ~changed),
            claimed=xp.where(begin | repeat, wanted, search.claimed),
            worst=xp.where(begin | repeat, xp.max(pairs.residuals[: problem.k]), search.worst),
            begun=xp.where(begin | repeat, matvecs, search.begun).astype(np.int32),
            limit=search.limit,
        )
    eps = np.finfo(numerics.scale.dtype).eps
    enough = (settled & (~search.asked | search.passed)) | complete
    spent = matvecs >= problem.max_matvecs
    asymmetric = is_asymmetric(numerics, eps)
    exhausted = (relation.present.sum() == relation.count) & ~complete
    return search, Decision(
        done=(matvecs > 0) & (enough | spent | ~numerics.finite | asymmetric),
        enough=enough,
        add_random_row=begin | repeat | exhausted,
        shrink=begin | repeat,
    )


def is_asymmetric(numerics: Numerics, eps: Any) -> Any:
    """True if products differ from symmetric ones by more than rounding."""
    rounding = _ASYMMETRY * (eps**0.5 + numerics.error) * numerics.scale
    # What the relation has lost is missing on one side only.
    return numerics.asymmetry > rounding + 4 * numerics.lost


def select(predicate: Any, a: Any, b: Any) -> Any:
    """`a` where the predicate holds, else `b`: members of an enumeration, or arrays."""
    if isinstance(predicate, bool | np.bool_ | np.ndarray):
        return a if predicate else b
    if isinstance(a, RESULTS):
        return RESULTS.where(predicate, a, b)
    if isinstance(a, EVIDENCE):
        return EVIDENCE.where(predicate, a, b)
    return jnp.where(predicate, a, b)


def make_solution(
    *,
    problem: Any,
    rtol: Any,
    atol: Any,
    relation: Relation,
    pairs: Pairs,
    numerics: Numerics,
    search: SearchState,
    decision: Decision,
    evidence: EVIDENCE,
    trusted: Any,
    vectors: PyTree,
    estimates: Any | None,
    value_met: Any | None,
    stats: dict[str, Any],
    state: Any,
) -> EigenSolution:
    """The solution: values, bars and verdicts of the k best pairs, in the operator's own units."""
    xp, k = namespace(pairs.values), problem.k
    eps = np.finfo(numerics.scale.dtype).eps
    unit = xp.where(numerics.unit > 0, numerics.unit, 1)
    found = (xp.arange(k) < relation.count) & numerics.finite
    values = pairs.values[:k]
    residuals = pairs.residuals[:k] + floor(numerics)
    asymmetric = is_asymmetric(numerics, eps)
    converged = found & ~asymmetric & (residuals <= tolerance(rtol, atol, values, numerics))
    seen = xp.arange(pairs.values.shape[0]) < relation.count
    if estimates is None:
        estimates = temple_bound(residuals, ritz_gaps(values, pairs.values, seen))
    bounds = pairs.reach(residuals)
    estimates = xp.minimum(estimates, bounds)
    residual_met = converged
    if value_met is not None:
        converged = converged | (found & ~asymmetric & value_met)
    result = select(xp.all(residual_met), RESULTS.successful, RESULTS.estimate_met)
    result = select(xp.all(converged), result, RESULTS.stagnation)
    result = select(decision.enough, result, RESULTS.max_matvecs_reached)
    result = select(asymmetric, RESULTS.asymmetric, result)
    result = select(numerics.finite, result, RESULTS.nonfinite)
    complete = relation.count >= problem.dimension
    # What was to be looked for a second time, and was not, has no evidence.
    trusted = trusted & (~search.asked | search.passed)
    evidence = select(trusted, evidence, EVIDENCE.none)
    evidence = select(complete, EVIDENCE.whole_space, evidence)
    back = original_order(k, problem.which)
    nan, infinite = xp.asarray(xp.nan, values.dtype), xp.asarray(xp.inf, residuals.dtype)
    arrays = {
        "values": xp.where(found, unit * values, nan)[back],
        "residuals": xp.where(found, unit * residuals, infinite)[back],
        "bounds": xp.where(found, unit * bounds, infinite)[back],
        "estimates": xp.where(found, unit * estimates, infinite)[back],
        "converged": converged[back],
        "is_top": (converged & (trusted | complete))[back],
        "stats": {name: xp.asarray(value) for name, value in stats.items()},
    }
    if xp is np:
        arrays = jax.device_put(arrays)
    return EigenSolution(vectors=vectors, evidence=evidence, result=result, state=state, **arrays)


def temple_bound(residuals: Float[Any, " k"], gap: Float[Any, " k"] | float) -> Float[Any, " k"]:
    """The quadratic error bound of a symmetric operator's Ritz values, from a gap that is known.

    `min(residual, residual² / gap)`. It is a bound only if `gap` is a lower bound of the distance
    from the Ritz value to every eigenvalue but the one that it approximates. With a gap between
    Ritz values it is an estimate, and is called so in `EigenSolution.estimates`.

    Args:
        residuals: `(k,)`, `||A v - θ v||` for unit v.
        gap: `(k,)` or a number, positive.

    Returns:
        `(k,)`, half-widths.

    Source: Kato 1949; Parlett, *The Symmetric Eigenvalue Problem*, theorem 11.7.1.

    Example:
        >>> temple_bound(jnp.array([0.5]), 2.0).tolist()
        [0.125]
    """
    xp = np if isinstance(residuals, np.ndarray) else jnp
    gap = xp.broadcast_to(xp.asarray(gap, residuals.dtype), residuals.shape)
    safe = xp.where(gap > 0, gap, 1)
    return xp.where(gap > 0, xp.minimum(residuals, residuals**2 / safe), residuals)


def ritz_gaps(
    wanted: Float[Any, " k"], seen: Float[Any, " m"], valid: Bool[Any, " m"]
) -> Float[Any, " k"]:
    """The distance from each wanted Ritz value to the nearest other one that was seen.

    Args:
        wanted: `(k,)`, each of them also among `seen`.
        seen: `(m,)`, all Ritz values.
        valid: `(m,)`, which of these count.

    Returns:
        `(k,)`, infinite where there is no other.

    Example:
        >>> values = jnp.array([5.0, 4.5, 1.0])
        >>> ritz_gaps(values[:2], values, jnp.array([True, True, True])).tolist()
        [0.5, 0.5]
    """
    xp = np if isinstance(wanted, np.ndarray) else jnp
    distance = xp.abs(wanted[:, None] - seen[None, :])
    distance = xp.where(valid[None, :], distance, xp.inf)
    # The nearest one is the value itself.
    own_value = xp.arange(seen.shape[0])[None, :] == xp.argmin(distance, axis=1)[:, None]
    return xp.min(xp.where(own_value, xp.inf, distance), axis=1)


def random_start_excess(products: int, dimension: int, probability: float = 0.99) -> float:
    """The excess of the top eigenvalue over its Ritz value that a random start leaves possible.

    For Lanczos from a uniformly random direction, with full reorthogonalization and no restart:
    with the given probability, `λ₁ - θ₁ <= excess (λ₁ - λ_min)`, whatever the spectrum.

    Args:
        products: How many products the solve made.
        dimension: The operator's.
        probability: Over the draw of the start.

    Returns:
        The excess; 1 where the products prove nothing.

    Raises:
        ValueError: Fewer than one product, a dimension under 2, or a probability outside (0, 1).

    Source: Kuczyński and Woźniakowski, SIAM J. Matrix Anal. Appl. 13 (1992), theorem 4.2.

    Example:
        >>> round(random_start_excess(40, 17_000), 3)
        0.016
    """
    if products < 1 or dimension < 2:
        raise ValueError(
            f"random_start_excess(products={products}, dimension={dimension}): it takes one "
            "product at least, and a dimension of 2 or more."
        )
    if not 0 < probability < 1:
        raise ValueError(
            f"random_start_excess(probability={probability}): a number between 0 and 1."
        )
    # P(excess > e) <= 1.648 sqrt(n) exp(-sqrt(e) (2 products - 1)), solved for e.
    root = math.log(1.648 * math.sqrt(dimension) / (1 - probability)) / (2 * products - 1)
    return min(1.0, max(0.0, root) ** 2)
