"""The running median of a measured curve."""

from typing import Any

import numpy as np


def running_median(
    steps: Any, values: Any, width: float | int = 50, *, centered: bool = False
) -> np.ndarray:
    """The median over `width` steps at each measured step, what is not finite left out.

    Args:
        steps: increasing, `(n,)`.
        values: `(n,)`.
        width: window in steps, ending at each step: it looks back only, so that the moment at which
            a median reaches a level is never before the values did.
        centered: whether it looks back and ahead alike, as in pictures, where a median that looks
            back only lags behind its curve.

    Returns:
        `(n,)`, NaN where nothing was measured within the window.

    Example:
        >>> running_median([0, 10, 20, 30], [1.0, 9.0, 2.0, 3.0], width=30).tolist()
        [1.0, 5.0, 2.0, 3.0]
        >>> running_median([0, 10, 20, 30], [1.0, 9.0, 2.0, 3.0], width=30, centered=True).tolist()
        [5.0, 2.0, 3.0, 2.5]
    """
    steps, values = np.asarray(steps), np.asarray(values, float)
    ahead = width / 2 if centered else 0
    # A centered window has both of its ends.
    side = "left" if centered else "right"
    begins = np.searchsorted(steps, steps - (width - ahead), side=side)
    ends = np.searchsorted(steps, steps + ahead, side="right")
    longest = int((ends - begins).max(initial=1))
    # A row for each window, all at once: a curve may have a value for each step of a run.
    within = begins[:, None] + np.arange(longest)
    inside = within < ends[:, None]
    windows = np.where(inside, values[np.minimum(within, max(steps.size - 1, 0))], np.nan)
    windows = np.sort(np.where(np.isfinite(windows), windows, np.nan), axis=1)  # NaN comes last
    counts = np.isfinite(windows).sum(axis=1)
    middle = np.stack([np.maximum(counts - 1, 0) // 2, counts // 2], axis=1)
    pair = np.take_along_axis(windows, np.minimum(middle, longest - 1), axis=1)
    return np.where(counts > 0, pair.mean(axis=1), np.nan)
