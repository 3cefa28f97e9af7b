"""The solution of an eigen-solve, and the ways in which it ends."""

import warnings
from typing import Any

import equinox as eqx
import optimistix as optx
from jaxtyping import Array, Bool, Float, Inexact, PyTree

# Two members override those of the enumeration that they extend; equinox warns of that.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)

    class RESULTS(optx.RESULTS):  # pyright: ignore
        """An enumeration of the ways in which an eigen-solve ends; each member is a sentence.

        `RESULTS[result]` is that sentence.

        Example:
            >>> print(RESULTS[RESULTS.nonfinite])
            A matrix-vector product, or the loss or gradient behind it, is NaN or infinite. ...
            >>> bool(RESULTS.nonfinite == RESULTS.successful)
            False
        """

        successful = "Every wanted pair met its tolerance."
        max_matvecs_reached = (
            "The budget of matrix-vector products was spent before every wanted pair met its "
            "tolerance. Raise `max_matvecs`, use a larger basis, or accept a larger `rtol`."
        )
        nonfinite = (
            "A matrix-vector product, or the loss or gradient behind it, is NaN or infinite. Check "
            "the parameters, the data (a label out of range?) and the loss at which the operator "
            "was built."
        )
        stagnation = (
            "The residual is at the floor of the floating-point format and above the tolerance: "
            "more products cannot help. Raise `rtol` or `atol` (a zero eigenvalue needs "
            "`atol` > 0), or use float64."
        )
        asymmetric = (
            "The operator is tagged symmetric, but its products are not: <u, Av> differs from "
            "<Au, v> by more than rounding. Check the operator, or use a solver for operators that "
            "are not symmetric."
        )
        estimate_met = (
            "The estimated error of each value met `value_rtol`; a residual is above its "
            "tolerance. Set `value_rtol=0` to go on until the residuals are small."
        )


class EVIDENCE(eqx.Enumeration):
    """Reasons why a pair that converged should be the one asked for; each member is a sentence.

    A small residual means that a pair is an eigenpair, never that it is the top one.

    Example:
        >>> print(EVIDENCE[EVIDENCE.whole_space])
        The space was exhausted: there is no other eigenvector.
    """

    none = (
        "None: every direction came from the start vectors that were given, or stands in for one "
        "that was of no use, and an eigenvector that they lack stays unseen."
    )
    random_start = (
        "The space grew out of a random vector, which has a component along every eigenvector "
        "(`random_start_excess` bounds how much larger an unseen eigenvalue may be)."
    )
    block = (
        "The space grew out of a block with random vectors beside the wanted ones, which lack no "
        "eigenvector and see repeated eigenvalues."
    )
    fresh_direction = (
        "Next to the vectors given, the solve searched from a fresh random direction, orthogonal "
        "to the wanted pairs."
    )
    followed_direction = (
        "Next to the vectors given, a direction that began at random is followed from solve to "
        "solve, orthogonal to the wanted pairs; this solve may have spent no product on it."
    )
    whole_space = "The space was exhausted: there is no other eigenvector."


class EigenSolution(eqx.Module):
    """Eigenpairs with their error bars, and how the solve ended.

    Attributes:
        values: `(k,)`, in the order asked for, best first ("largest": descending; "smallest":
            ascending; "largest_magnitude": by falling modulus; "both": the larger half
            descending, then the smaller half ascending). NaN if the operator returned NaN.
        vectors: A block, leaves `(k, *leaf)`, of unit norm, and mutually orthogonal where the
            operator is symmetric.
        residuals: `(k,)`, upper estimates of `||A v - θ v||` (absolute, in the operator's own
            coordinates), an allowance for rounding included.
        bounds: `(k,)`, half-widths of an interval around each value that holds some eigenvalue:
            for a symmetric operator the residual.
        estimates: `(k,)`, estimated errors of the values: those of `Tracking` are on its page, all
            others are `min(residual, residual² / gap)` with the gap to the nearest other value
            that the solver has seen: an *estimate* of each value's error, and no bound, since an
            unseen eigenvalue may be nearer (`temple_bound` takes a gap that you
            know).
        converged: `(k,)`, whether each pair meets its tolerance. It means that a pair is an
            eigenpair, not that it is the top one.
        is_top: `(k,)`, whether something was done to find a better pair, and none was found:
            see `evidence`.
        evidence: A member of `EVIDENCE`.
        result: A member of `RESULTS`.
        stats: `{"matvecs", "restarts"}`, int32 scalars; some solvers add their own
            (`failed_solves`, `condition`).
        state: The warm start of the next solve: pass it as `start`. Fixed shapes, always finite.

    Example:
        >>> import jax.numpy as jnp
        >>> import lineax as lx
        >>> from aeoskit.linalg import Dense, eigensolve
        >>> operator = lx.DiagonalLinearOperator(jnp.array([1.0, 4.0]))
        >>> solution = eigensolve(operator, Dense())
        >>> solution.values.tolist(), solution.converged.tolist()
        ([4.0], [True])
    """

    values: Inexact[Array, " k"]
    vectors: PyTree[Array]
    residuals: Float[Array, " k"]
    bounds: Float[Array, " k"]
    estimates: Float[Array, " k"]
    converged: Bool[Array, " k"]
    is_top: Bool[Array, " k"]
    evidence: EVIDENCE
    result: RESULTS
    stats: dict[str, Array]
    state: Any
