"""Why some transformations of optax have no metric or no threshold here."""

from __future__ import annotations

_VALUE = "its step size depends on the value of the loss, which the bridge is not given"
_SEARCH = "its step size is that of a line search"
# By the name of the part; each reason is the rest of a sentence about it.
REASONS: dict[str, str] = {
    "apply_every": "it moves in some steps and not in others",
    "centralize": "it projects, so that P⁻¹ is singular",
    "differentially_private_aggregate": "it clips the gradient of each example by itself",
    "flatten": "it joins all leaves into one vector",
    "keep_params_nonnegative": "it holds some parameters at zero",
    "mechanize": "it scales all that was moved so far by a number that it learns",
    "momo": _VALUE,
    "momo_adam": _VALUE,
    "sam": "it takes gradients at another point than the parameters",
    "scale_by_backtracking_linesearch": _SEARCH,
    "scale_by_cocob": "it bets: its step is no average of gradients over a metric",
    "scale_by_galore": "it projects gradients, so that P⁻¹ is singular",
    "scale_by_lbfgs": "its metric is made anew in each step out of the last steps",
    "scale_by_polyak": _VALUE,
    "scale_by_sophia": "it clips entry by entry, and clipped entries step by their signs",
    "scale_by_zoom_linesearch": _SEARCH,
}
