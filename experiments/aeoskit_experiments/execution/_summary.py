"""The summary of a run: the numbers that the command line prints and `--json` gives."""

from typing import Any

import numpy as np
import xarray as xr

from ._windows import edge_step, last_fifth

FITTED = 0.1
"""The loss at which cross-entropy counts as fitted: below it, curvature collapses."""

REACHED = 0.85
"""The median ratio over the last fifth of a run from which it counts as being at the edge."""

STEPS_OF_A_GROWTH = 10
"""Steps in the median of a branch's loss at either end."""

_ADVANCE = (
    "growth",
    "ratio",
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


def summarize_run(dataset: xr.Dataset, raw: bool) -> dict[str, Any]:
    """One run (a branch and a lane) in numbers.

    Args:
        dataset: one branch and one lane.
        raw: the optimizer has no preconditioner.

    Returns:
        `threshold` (at the last step), `ratio` (median over the last fifth of the run; None if it
        diverged), `edge_step` (when the ratio's running median first rose to 0.9, or None),
        `final_loss`, `sharpness` and
        `preconditioned_sharpness` (medians over the last fifth), `matvecs` (products spent),
        `unconverged` (measurements whose residual missed the tolerance), `steps`, `diverged_at`;
        where it was tracked, `multiplier` and `equivalent_ratio` (medians over the last fifth) and
        `reached` (whether that ratio is at least 0.85: the run ends at the edge), `test_error`,
        `test_loss` and `train_error` (medians over the last fifth; None if it diverged).
    """
    loss_steps, loss = measured(dataset, "loss")
    _, thresholds = measured(dataset, "threshold")
    steps, ratio = ratio_curve(dataset, raw)
    diverged_at = int(dataset["diverged_at"]) if "diverged_at" in dataset else -1
    hovering = ratio[last_fifth(steps)] if diverged_at < 0 else ratio[:0]
    summary: dict[str, Any] = {
        "threshold": float(thresholds[-1]) if thresholds.size else None,
        "ratio": float(np.median(hovering)) if hovering.size else None,
        "edge_step": edge_step(steps, ratio),
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
        summary["multiplier"] = _hovering(at, values, diverged_at)
        ratio = _hovering(*measured(dataset, "equivalent_ratio"), diverged_at)
        summary["equivalent_ratio"] = ratio
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
        Rows with `optimizer`, `multiplier`, `equivalent_ratio`, `ratio` and `reached`.
    """
    keys = ("optimizer", "multiplier", "equivalent_ratio", "ratio", "reached")
    return [{key: run.get(key) for key in keys} for run in runs if "multiplier" in run]


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
        `edge_step`: when the ratio first reached 0.9. `growth`: peak of the adaptive run's raw
        sharpness (`sharpness_peak`) over its value then (`sharpness_at_edge`). `ratio`: median
        ratio in between. `frozen_growth`: the frozen branch's peak over its value at the freeze.
        `frozen_to_peak`: that peak over the adaptive run's. `momentum_peak`: momentum's peak over
        its own threshold. A number is None if its run did not get that far.
    """
    steps, ratio = measured(main, "ratio")
    arrived = edge_step(steps, ratio)
    summary: dict[str, Any] = dict.fromkeys(_ADVANCE) | {"edge_step": arrived}
    peak = None
    if arrived is not None:
        at, curve = _until_fitted(main, "sharpness")
        curve = curve[at >= arrived]
        within = ratio[(steps >= arrived) & (steps <= (at[-1] if at.size else arrived))]
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
    loss_steps, loss = measured(dataset, "loss")
    fitted = np.flatnonzero(running_median(loss_steps, loss) < FITTED)
    end = loss_steps[fitted[0]] if fitted.size else np.inf
    return steps[steps <= end], running_median(steps, values)[steps <= end]
