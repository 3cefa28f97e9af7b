"""The solution of an eigen-solve."""

from typing import Any

import equinox as eqx
from jaxtyping import Array, Bool, Float, Inexact, PyTree

from .._results import EVIDENCE, RESULTS


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
        estimates: `(k,)`, `min(residual, residual² / gap)` with the gap to the nearest other value
            that the solver has seen: an *estimate* of each value's error, and no bound, since an
            eigenvalue that no one has seen may be nearer (`temple_bound` takes a gap that you
            know).
        converged: `(k,)`, whether each pair meets its tolerance. It says that a pair is an
            eigenpair, not that it is the top one.
        is_top: `(k,)`, whether something was done to find a better pair, and none was found:
            `evidence` says what.
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
