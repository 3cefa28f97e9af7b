"""Windows and moments of a measured curve, by medians, never by maxima of raw values."""

import numpy as np
from jaxtyping import Bool, Float, Int

EDGE = 0.9
"""The ratio to the threshold whose crossing is `edge_step`."""

MEDIAN_STEPS = 50
"""Width of the running median in steps."""


def edge_step(steps: Int[np.ndarray, " n"], ratio: Float[np.ndarray, " n"]) -> int | None:
    """The step at which the ratio's running median first *rises* to the edge.

    Where the realized edge is known, `arrived` says whether a run is at the edge; this is kept for
    records without it.

    At the very start of training P is tiny and the ratio may be far above 1 for some steps; the
    returned step comes after the ratio has been below.

    Args:
        steps: the steps at which the ratio was measured.
        ratio: `λ₁(P⁻¹H)` over the threshold.

    Returns:
        The step, or None if it was not reached.

    Example:
        >>> edge_step(np.arange(0, 90, 10), np.array([7, 0.2, 0.3, 0.5, 0.93, 1, 1, 1, 1]))
        60
    """
    from aeoskit.figures import running_median  # here, since it imports matplotlib

    if not (ratio < EDGE).any():
        return None
    below = int(np.argmax(ratio < EDGE))
    # Only whole windows count: two early values do not show an arrival.
    whole = steps[below:] >= steps[below] + MEDIAN_STEPS
    arrived = np.flatnonzero(
        whole & (running_median(steps[below:], ratio[below:], MEDIAN_STEPS) >= EDGE)
    )
    return int(steps[below + arrived[0]]) if arrived.size else None


def last_fifth(steps: Int[np.ndarray, " n"]) -> Bool[np.ndarray, " n"]:
    """The mask of the measurements in the last fifth of the steps.

    Example:
        >>> last_fifth(np.array([0, 5, 10])).tolist()
        [False, False, True]
    """
    if not steps.size:
        return np.zeros(0, bool)
    return steps >= steps[0] + 0.8 * (steps[-1] - steps[0])
