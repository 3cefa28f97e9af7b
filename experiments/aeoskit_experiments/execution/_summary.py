"""The summary of a run: the numbers that the command line prints and `--json` gives."""

from typing import Any

import numpy as np
import xarray as xr

from aeoskit.probes import edge_factors
from aeoskit.trajectory import EdgeStates, edge_of_window, edge_states

from ._windows import edge_step, last_fifth

FITTED = 0.1
"""The loss at which cross-entropy counts as fitted: below it, curvature collapses."""

REACHED = 0.85
"""The median ratio over the last fifth of a run from which it counts as being at the edge."""

OSCILLATION = ("oscillation_modulus", "oscillation_angle")
"""The largest multiplier that is not real and positive: its modulus, its angle in radians."""

STEPS_OF_A_GROWTH = 10
"""Steps in the median of a branch's loss at either end."""

_ADVANCE = (
    "growth",
    "ratio",
    "arrived",
    "edge_step",
    "sharpness_at_edge",
    "sharpness_peak",
    "frozen_growth",
    "frozen_to_peak",
    "momentum_peak",
)


def measured(dataset: xr.Dataset, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The steps and values at which one quantity of one run was measured, leading index first.

    Args:
        dataset: one branch and one lane (only `step` and perhaps `index` left).
        name: a variable; if it is missing, two empty arrays are returned.
    """
    if name not in dataset:
        return np.zeros(0, int), np.zeros(0)
    array = dataset[name]
    if "index" in array.dims:
        array = array.isel(index=0)
    values = np.asarray(array.values, float)
    there = ~np.isnan(values)
    return np.asarray(array["step"].values)[there], values[there]


def ratio_curve(dataset: xr.Dataset, raw: bool) -> tuple[np.ndarray, np.ndarray]:
    """The top eigenvalue over the threshold, step by step.

    Args:
        dataset: one branch and one lane.
        raw: the optimizer has no preconditioner, so that the raw sharpness counts as well.
    """
    if "ratio" in dataset or not raw:
        return measured(dataset, "ratio")
    steps, sharpness = measured(dataset, "sharpness")
    at, thresholds = measured(dataset, "threshold")
    if not steps.size or not at.size:
        return np.zeros(0, int), np.zeros(0)
    return steps, sharpness / np.interp(steps, at, thresholds)


def edge_curves(dataset: xr.Dataset) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """The steps at which a step was measured, its realized edge and its predicted change.

    Args:
        dataset: one branch and one lane.

    Returns:
        Three arrays, empty in a record without realized edges; NaN where one is not known.
    """
    if "realized_edge" not in dataset:
        return np.zeros(0, int), np.zeros(0), np.zeros(0)
    promised = np.asarray(dataset["predicted_change"].values, float)
    there = np.isfinite(promised)
    zeta = np.asarray(dataset["realized_edge"].values, float)
    return np.asarray(dataset["step"].values)[there], zeta[there], promised[there]


def downhill_curve(dataset: xr.Dataset) -> tuple[np.ndarray, np.ndarray]:
    """The realized edge, NaN at steps that go uphill: what decides on the states."""
    steps, zeta, promised = edge_curves(dataset)
    return steps, np.where(promised < 0, zeta, np.nan)


def states_of(dataset: xr.Dataset, raw: bool) -> EdgeStates:
    """The states of one run, none where its record has no realized edges.

    Args:
        dataset: one branch and one lane.
        raw: the optimizer has no preconditioner.
    """
    steps, zeta = downhill_curve(dataset)
    ratio_steps, ratio = ratio_curve(dataset, raw)
    return edge_states(steps, zeta, ratio_steps=ratio_steps, ratio=ratio)


def fitted_step(dataset: xr.Dataset) -> int | None:
    """The step at which the loss's running median first falls below 0.1, or None."""
    from aeoskit.figures import running_median  # here, since it imports matplotlib

    steps, loss = measured(dataset, "loss")
    below = np.flatnonzero(running_median(steps, loss) < FITTED)
    return int(steps[below[0]]) if below.size else None


def summarize_edge(dataset: xr.Dataset, raw: bool) -> dict[str, Any]:
    """The place of one run with respect to the edge, and its numbers there.

    Args:
        dataset: one branch and one lane.
        raw: the optimizer has no preconditioner.

    Returns:
        `ratio`: its median over a window, whose first and last step are `window`; None if the run
        diverged. `ratio_of` says which window. "edge": from `arrived` to `left`, the bounds of the
        longest stay at the edge; if the median loss fell below 0.1 during it, to that step,
        `fitted`, unless the run stayed to its end. "threshold", of a run that was never at the edge
        by ζ, but whose ratio rose to 0.9: from there (`edge_step`) to `fitted`, or to its end.
        "end", of other runs: the last fifth. `state`, `parked` and `never_below`, as in
        `EdgeStates`; `zeta`, the median realized edge of the window's steps, `zeta_before`, that of
        the steps before `arrived` (of all, if there is none), `zeta_of_sums` and `uphill`, as in
        `EdgeOfWindow`; `participation` and `calibration`, medians of the factors of ζ, if measured.
        `edge_step`: when the running median of the ratio first rose to 0.9.
    """
    states, fitted = states_of(dataset, raw), fitted_step(dataset)
    steps, ratio = ratio_curve(dataset, raw)
    arrived = states.arrived
    numbers: dict[str, Any] = {
        "state": states.state,
        "arrived": arrived,
        "left": states.left,
        "fitted": fitted,
        "parked": states.parked,
        "never_below": states.never_below,
        "edge_step": edge_step(steps, ratio),
    }
    numbers["ratio_of"], window = _window(numbers, steps)
    if window is None:
        late = last_fifth(steps)
        window = (int(steps[late][0]), int(steps[-1])) if steps.size else None
    numbers["window"] = None if window is None else [*window]
    diverged = "diverged_at" in dataset and int(dataset["diverged_at"]) >= 0
    numbers["ratio"] = None if diverged else _median(steps, ratio, window)
    at, zeta, promised = edge_curves(dataset)
    if not at.size:
        return numbers | dict.fromkeys(("zeta", "zeta_before", "zeta_of_sums", "uphill"))
    if window is None:
        late = last_fifth(at)
        window = int(at[late][0]), int(at[-1])
    within = (at >= window[0]) & (at <= window[1])
    edge = edge_of_window(zeta[within], promised[within])
    before = at < (np.inf if arrived is None else arrived)
    return numbers | {
        "zeta": _known(edge.median),
        "zeta_before": _known(edge_of_window(zeta[before], promised[before]).median),
        "zeta_of_sums": _known(edge.of_sums),
        "uphill": _known(edge.uphill),
        **_factors(dataset, window),
    }


def _window(numbers: dict[str, Any], steps: np.ndarray) -> tuple[str, tuple[int, int] | None]:
    """The name of the window that a run's ratio is of, and its first and last step.

    Args:
        numbers: `state`, `arrived`, `left`, `fitted` and `edge_step`.
        steps: those of a measurement, which may have none in the window: then it is None, as it is
            for the last fifth.
    """
    first, fitted, left = numbers["arrived"], numbers["fitted"], numbers["left"]
    of = "threshold" if first is None else "edge"
    if first is None and numbers["state"] is not None:  # records without ζ keep their last fifth
        first = numbers["edge_step"]
    if first is None:
        return "end", None
    end = np.inf if left is None else left
    if of == "threshold" and fitted is not None and fitted <= first:
        return "end", None
    # A run that left after its data were fitted has lost its curvature from then on.
    if fitted and fitted > first and (of == "threshold" or left is not None):
        end = min(end, fitted)
    within = steps[(steps >= first) & (steps < end)]
    return (of, (int(within[0]), int(within[-1]))) if within.size else ("end", None)


def _median(steps: np.ndarray, values: np.ndarray, window: tuple[int, int] | None) -> float | None:
    if window is None:
        return None
    within = values[(steps >= window[0]) & (steps <= window[1])]
    within = within[np.isfinite(within)]
    return float(np.median(within)) if within.size else None


def _known(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _factors(dataset: xr.Dataset, window: tuple[int, int]) -> dict[str, Any]:
    """The medians of participation and calibration, where they were measured."""
    needed = ("step_norm", "preconditioned_sharpness", "threshold")
    if not all(name in dataset for name in needed):
        return {}
    top = dataset["preconditioned_sharpness"]
    top = top.isel(index=0) if "index" in top.dims else top
    zeta, promised, norm, threshold = (
        np.asarray(dataset[name].values, float)
        for name in ("realized_edge", "predicted_change", "step_norm", "threshold")
    )
    change = (1 - zeta) * promised
    factors = edge_factors(change, promised, np.asarray(top.values, float), threshold, norm)
    steps = np.asarray(dataset["step"].values)
    names = ("participation", "calibration")
    return {
        name: _median(steps, factor, window) for name, factor in zip(names, factors, strict=True)
    }


def summarize_run(dataset: xr.Dataset, raw: bool) -> dict[str, Any]:
    """One run (a branch and a lane) in numbers.

    Args:
        dataset: one branch and one lane.
        raw: the optimizer has no preconditioner.

    Returns:
        `threshold` (at the last step), the numbers of `summarize_edge`, `final_loss`, `sharpness`,
        `preconditioned_sharpness` (medians over the last fifth), `matvecs` (products spent),
        `unconverged` (measurements whose residual missed the tolerance), `steps`, `diverged_at`;
        where it was tracked, `multiplier` and `equivalent_ratio` (medians over the window at the
        edge, or the last fifth), `reached` (whether that ratio is at least 0.85), and so
        `oscillation_modulus` and `oscillation_angle` (None if none was found); `test_error`,
        `test_loss` and `train_error` (medians over the last fifth; None if it diverged).
    """
    loss_steps, loss = measured(dataset, "loss")
    _, thresholds = measured(dataset, "threshold")
    diverged_at = int(dataset["diverged_at"]) if "diverged_at" in dataset else -1
    summary: dict[str, Any] = {
        "threshold": float(thresholds[-1]) if thresholds.size else None,
        **summarize_edge(dataset, raw),
        "final_loss": float(loss[-1]) if loss.size else None,
    }
    matvecs, unconverged = 0, 0
    for name in ("preconditioned_sharpness", "sharpness"):
        at, values = measured(dataset, name)
        if values.size:
            summary[name] = float(np.median(values[last_fifth(at)]))
            matvecs += int(measured(dataset, f"{name}_matvecs")[1].sum())
            unconverged += int((measured(dataset, f"{name}_converged")[1] == 0).sum())
    for name in ("test_error", "test_loss", "train_error"):
        if name in dataset:
            summary[name] = _hovering(*measured(dataset, name), diverged_at)
    at, values = measured(dataset, "multiplier")
    if values.size:
        # The two ratios are compared, and so are of the same steps, if it was measured in them.
        _, edge = _window(summary, at) if diverged_at < 0 else ("end", None)
        names = ("multiplier", "equivalent_ratio")
        if "oscillation_modulus" in dataset:
            names += OSCILLATION
            matvecs += int(measured(dataset, "oscillation_matvecs")[1].sum())
            # Where none was found nothing converges, and nothing has missed its tolerance.
            found = dataset["oscillation_modulus"].notnull()
            missed = found & (dataset["oscillation_converged"] == 0)
            unconverged += int(missed.sum())
        for name in names:
            curve = measured(dataset, name)
            summary[name] = (
                _hovering(*curve, diverged_at) if edge is None else _median(*curve, edge)
            )
        ratio = summary["equivalent_ratio"]
        summary["reached"] = ratio is not None and ratio >= REACHED
        matvecs += int(measured(dataset, "multiplier_matvecs")[1].sum())
        unconverged += int((measured(dataset, "multiplier_converged")[1] == 0).sum())
    return summary | {
        "matvecs": matvecs,
        "unconverged": unconverged,
        "steps": int(loss_steps[-1]) + 1 if loss_steps.size else 0,
        "diverged_at": diverged_at if diverged_at >= 0 else None,
    }


def _hovering(steps: np.ndarray, values: np.ndarray, diverged_at: int) -> float | None:
    """The median over the last fifth of a run that did not diverge."""
    if diverged_at >= 0 or not values.size:
        return None
    return float(np.median(values[last_fifth(steps)]))


def multiplier_rows(runs: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """For each run with a tracked flip multiplier, its comparison with `λ₁(P⁻¹H)`.

    Args:
        runs: values of `summarize_run`, with `optimizer` and perhaps the swept values.

    Returns:
        Rows with `optimizer`, `multiplier`, `equivalent_ratio`, `ratio` and `reached`; where they
        were measured also `oscillation_modulus` and `oscillation_angle`.
    """
    keys = ("optimizer", "multiplier", "equivalent_ratio", "ratio", "reached")
    return [
        {key: run.get(key) for key in (*keys, *(name for name in OSCILLATION if name in run))}
        for run in runs
        if "multiplier" in run
    ]


def threshold_row(
    main: xr.Dataset, below: xr.Dataset, above: xr.Dataset, raw: bool
) -> dict[str, Any]:
    """The test of a threshold: P frozen just below and just above it, and P live.

    Args:
        main: the run with P live.
        below: the branch with P frozen and a ratio below 1.
        above: the branch with a ratio above 1.
        raw: the optimizer has no preconditioner.

    Returns:
        `threshold` (of the main run, at its end), `below` and `above` (the branch's last loss over
        its first), `converges` and `diverges` (whether that is below and above 1), `live_ratio`
        (the median over the last fifth of the main run). None where a number is missing.
    """
    run = summarize_run(main, raw)
    row: dict[str, Any] = {"threshold": run["threshold"]}
    for name, branch in (("below", below), ("above", above)):
        _, loss = measured(branch, "loss")
        # Medians, since at the edge losses alternate from step to step.
        few = STEPS_OF_A_GROWTH if loss.size > 2 * STEPS_OF_A_GROWTH else 1
        start = float(np.median(loss[:few])) if loss.size else 0.0
        row[name] = float(np.median(loss[-few:])) / start if start > 0 else None
    return row | {
        "converges": row["below"] is not None and row["below"] < 1,
        "diverges": row["above"] is not None and row["above"] > 1,
        "live_ratio": run["ratio"],
    }


def summarize_advance(main: xr.Dataset, frozen: xr.Dataset, momentum: xr.Dataset) -> dict[str, Any]:
    """The comparison of AEoS with EoS (E7 to E9): medians over 50 steps, up to loss 0.1.

    Args:
        main: the adaptive run.
        frozen: the branch that holds P.
        momentum: the branch without a preconditioner.

    Returns:
        `edge_step`: when the ratio first rose to 0.9. `arrived`: when the run arrived at the edge,
        by its realized edge, if it did. `growth`: peak of the adaptive run's raw sharpness
        (`sharpness_peak`) over its value at `edge_step` (`sharpness_at_edge`). `ratio`: median
        ratio in between. `frozen_growth`: the frozen branch's peak over its value at the
        freeze. `frozen_to_peak`: that peak over the adaptive run's. `momentum_peak`: momentum's
        peak over its own threshold. A number is None if its run did not get that far.
    """
    steps, ratio = measured(main, "ratio")
    # Small steps are held at the threshold by oscillations that ζ hardly shows.
    risen = edge_step(steps, ratio)
    summary: dict[str, Any] = dict.fromkeys(_ADVANCE)
    summary |= {"arrived": states_of(main, raw=False).arrived, "edge_step": risen}
    peak = None
    if risen is not None:
        at, curve = _until_fitted(main, "sharpness")
        curve = curve[at >= risen]
        within = ratio[(steps >= risen) & (steps <= (at[-1] if at.size else risen))]
        if curve.size:
            peak = float(curve.max())
            summary |= {
                "growth": peak / float(curve[0]),
                "ratio": float(np.median(within)),
                "sharpness_at_edge": float(curve[0]),
                "sharpness_peak": peak,
            }
    _, held = _until_fitted(frozen, "sharpness")
    if held.size:
        summary["frozen_growth"] = float(held.max() / held[0])
        summary["frozen_to_peak"] = None if peak is None else float(held.max() / peak)
    _, blocked = _until_fitted(momentum, "sharpness")
    thresholds = measured(momentum, "threshold")[1]
    if blocked.size and thresholds.size:
        summary["momentum_peak"] = float(blocked.max() / thresholds[-1])
    return summary


def _until_fitted(dataset: xr.Dataset, name: str) -> tuple[np.ndarray, np.ndarray]:
    """The running median of a curve up to the step at which the loss's falls below 0.1."""
    from aeoskit.figures import running_median  # here, since it imports matplotlib

    steps, values = measured(dataset, name)
    fitted = fitted_step(dataset)
    end = np.inf if fitted is None else fitted
    return steps[steps <= end], running_median(steps, values)[steps <= end]
