"""The paper's distinctive picture: adaptive methods keep advancing, the others are blocked."""

import xarray as xr
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ._curves import Lane, curve, lanes_of
from ._edge import step_range
from ._factors import darker, sweep_dims
from ._legend import run_handles
from ._panels import draw_threshold, log_panel, ratio_of, ratio_panel
from ._style import FAINT, colors, legend_of_groups, new_figure, step_axis, styled

_LABELS = {"main": "Adam", "frozen": "P frozen", "momentum": "momentum GD"}
_MEASURED = ("loss", "sharpness", "ratio", "preconditioned_sharpness")


def advance_figure(
    dataset: xr.Dataset, title: str | None = None, *, labels: dict[str, str] | None = None
) -> Figure:
    """Draws Adam, its branch with P frozen, and momentum GD: ratio, raw sharpness and loss.

    Args:
        dataset: the metrics of a run, with `ratio` (or `preconditioned_sharpness` and `threshold`),
            `sharpness` and `loss`. Its branches are all drawn: `main` is the adaptive run, `frozen`
            its branch with P held, `momentum` has no preconditioner. Without branches it may be a
            sweep, each of whose runs has a color.
        title: what stands above the figure; None for nothing.
        labels: what the legend calls a branch, where not "Adam", "P frozen" and "momentum GD"; any
            further branch goes by its own name.

    Returns:
        a figure with three panels: `λ₁(P⁻¹H)` over its threshold with the line at 1; `λ₁(H)` on a
        logarithmic axis with momentum's threshold dashed; the loss. The faint line is what was
        measured, the bold one `running_median` over 50 steps, centered. Dotted lines are where
        branches begin.

    Raises:
        ValueError: if the dataset has a sweep and branches.

    Source:
        After Figure 8 of Cohen et al., arXiv 2207.14484; the frozen branch beside it is ours.

    Example:
        >>> metrics = xr.Dataset(
        ...     {"ratio": (("branch", "step"), [[0.5, 1.0]])}, {"branch": ["main"], "step": [0, 10]}
        ... )
        >>> len(advance_figure(metrics).axes)
        3
    """
    swept = [dim for dim in sweep_dims(dataset) if dataset.sizes[dim] > 1]
    branches = [str(branch) for branch in dataset["branch"].values]
    if swept and len(branches) > 1:
        raise ValueError(
            f"the dataset sweeps {swept} and has the branches {branches}, but an advance figure "
            f"draws a sweep or branches: choose one run with `dataset.isel({swept[0]}=0)`, or "
            f'one branch with `dataset.sel(branch=["main"])`.'
        )
    names = labels or {}
    if swept:
        lanes, begins = lanes_of(dataset), {}
        groups = run_handles(dataset, lanes)
    else:
        dataset = dataset.squeeze(sweep_dims(dataset))
        begins = {branch: _first_step(dataset, branch) for branch in branches}
        lanes = _branch_lanes(dataset, begins, names)
        groups = [[Line2D([], [], color=x.color, lw=2, label=x.label) for x in lanes]]
    with styled():
        figure, (left, middle, right) = new_figure(3, width=3.4, height=2.8)
        # Only momentum's threshold is one for the raw sharpness.
        raws = [lane.selection["branch"] == "momentum" for lane in lanes]
        ratio_panel(
            left,
            [(x, *ratio_of(dataset, x, raw=raw)) for x, raw in zip(lanes, raws, strict=True)],
        )
        groups[-1] += _sharpness_panel(middle, dataset, lanes, names.get("momentum"))
        log_panel(right, [(x, *curve(dataset, x, "loss")) for x in lanes], "training loss")
        for axes in (left, middle, right):
            step_axis(axes, *step_range(dataset))
            _mark_begins(axes, begins)
        legend_of_groups(figure, groups, title)
    return figure


def _branch_lanes(
    dataset: xr.Dataset, begins: dict[str, float | None], names: dict[str, str]
) -> list[Lane]:
    # The three known branches have the same colors in every figure, whichever are there.
    order = [*_LABELS, *(branch for branch in begins if branch not in _LABELS)]
    first, _ = step_range(dataset)
    lanes = []
    for branch, color in zip(order, colors(len(order)), strict=True):
        if branch not in begins:
            continue
        label = names.get(branch, _LABELS.get(branch, branch))
        begin = begins[branch]
        if begin is not None and branch == "frozen":
            label += f" at step {begin:g}"
        elif begin is not None and branch != "main" and begin > first:
            label += f" from step {begin:g}"
        point = dataset.sel(branch=branch)
        diverged = int(point["diverged_at"]) if "diverged_at" in dataset else -1
        if diverged >= 0:
            label += f", diverged at step {diverged}"
        lanes.append(Lane({"branch": branch}, label, color, diverged))
    return lanes


def _first_step(dataset: xr.Dataset, branch: str) -> float | None:
    measured = [curve(dataset, Lane({"branch": branch}, "", "", -1), x)[0] for x in _MEASURED]
    return min((float(steps[0]) for steps in measured if steps.size), default=None)


def _sharpness_panel(
    axes: Axes, dataset: xr.Dataset, lanes: list[Lane], momentum: str | None
) -> list[Line2D]:
    handles, heights = [], []
    for lane in lanes:
        steps, values = curve(dataset, lane, "threshold")
        if lane.selection["branch"] == "momentum" and values.size:
            height = float(values[-1])
            ends = float(steps[0]), step_range(dataset)[1]
            draw_threshold(axes, ends, [height, height], lane.color)
            label = f"{momentum or 'momentum'}'s threshold"
            handles.append(Line2D([], [], color=darker(lane.color), ls="--", lw=1.1, label=label))
            heights.append(height)
    curves = [(lane, *curve(dataset, lane, "sharpness")) for lane in lanes]
    log_panel(axes, curves, "sharpness  λ₁(H)", heights)
    return handles


def _mark_begins(axes: Axes, begins: dict[str, float | None]) -> None:
    """A dotted line where branches begin after what is drawn of the main run does."""
    start = begins.get("main")
    later: dict[float, list[str]] = {}
    for branch, begin in begins.items():
        if branch != "main" and begin is not None and begin > (start if start is not None else 0):
            later.setdefault(begin, []).append(branch)
    for step, branches in later.items():
        axes.axvline(step, color=FAINT, ls=":", lw=1.1, zorder=1.2, label="_freeze")
        axes.annotate(
            "P frozen" if all(x.startswith("frozen") for x in branches) else "branches",
            (step, 1),
            xycoords=("data", "axes fraction"),
            xytext=(0, 2),
            textcoords="offset points",
            ha="center",
            va="bottom",
            fontsize=7,
            color=FAINT,
        )
