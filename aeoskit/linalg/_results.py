"""The ways in which an eigen-solve ends."""

import warnings

import equinox as eqx
import optimistix as optx

# Two members say more here than in the enumeration that they extend; equinox warns of that.
with warnings.catch_warnings():
    warnings.simplefilter("ignore", UserWarning)

    class RESULTS(optx.RESULTS):  # pyright: ignore
        """An enumeration of the ways in which an eigen-solve ends; each member is a sentence.

        `RESULTS[result]` is that sentence; empty for `successful`.

        Example:
            >>> print(RESULTS[RESULTS.nonfinite])
            A matrix-vector product, or the loss or gradient behind it, is NaN or infinite. ...
            >>> bool(RESULTS.nonfinite == RESULTS.successful)
            False
        """

        successful = ""
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

    A small residual says that a pair is an eigenpair, never that it is the top one.

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
        "(`random_start_excess` says how much larger an unseen eigenvalue may be)."
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
