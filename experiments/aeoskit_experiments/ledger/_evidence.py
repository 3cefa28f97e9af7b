"""The evidence of a claim: a stored run, with the numbers that most claims use."""

import dataclasses
import math
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from aeoskit_experiments.ledger._claim import OutOfReach, Refuted, RunSpec

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

    from aeoskit.record import Run

FIRST_STEPS = 50
"""The width of the running medians, in steps."""

NOT_AT_THE_EDGE = (
    "the run did not reach the edge within its {steps} steps (ζ is {zeta} at their end)"
)


@dataclasses.dataclass(frozen=True)
class Evidence:
    """A finished run as claims read it. Medians, never maxima of raw values.

    A method without a number raises `Refuted` if the run diverged, otherwise `OutOfReach` with the
    reason. In all methods `branch` is the run's branch and `values` select the run of a sweep
    (`lr=1e-3`, `optimizer="adam"`).

    Args:
        run: The value of `read_run`.
        spec: Its specification, with its options.
    """

    run: "Run"
    spec: RunSpec | None = None

    @property
    def summary(self) -> Mapping[str, Any]:
        """The run's summary."""
        return self.run.summary or {}

    def rows(self, branch: str = "main", **values: Any) -> list[dict[str, Any]]:
        """The summaries of the branch's runs with these values, in the sweep's order."""
        return [
            row
            for row in self.summary.get("runs", ())
            if row.get("branch") == branch
            and all(_same(row.get(name), value) for name, value in values.items())
        ]

    def row(self, branch: str = "main", **values: Any) -> dict[str, Any]:
        """The summary of one run: the branch, or the sweep's lane with these values."""
        found = self.rows(branch, **values)
        selection = "".join(f", {name} {value}" for name, value in values.items())
        if not found:
            if branch != "main" and self.rows():
                steps = self.rows()[0].get("steps")
                raise OutOfReach(
                    f"branch {branch} did not start: the main run ended at step {steps} before"
                )
            raise OutOfReach(f"the run has no {branch}{selection}")
        if len(found) > 1:
            raise ValueError(
                f"{len(found)} runs are {branch}{selection}: select one by its values."
            )
        return found[0]

    def trained(self, branch: str = "main", **values: Any) -> dict[str, Any]:
        """The summary of one run that did not diverge."""
        row = self.row(branch, **values)
        if row.get("diverged_at") is not None:
            raise Refuted(f"{branch} diverged at step {row['diverged_at']}")
        return row

    def at_edge(self, branch: str = "main", **values: Any) -> dict[str, Any]:
        """The summary of one run that was at the edge, by its realized edge.

        A run that is parked beside it, with a ratio near 1 and nothing that oscillates, was not.
        """
        row = self.row(branch, **values)
        if row.get("arrived") is None:
            at = row.get("diverged_at")
            if at is not None:
                raise Refuted(f"{branch} diverged at step {at}, before the edge")
            zeta = row.get("zeta")
            words = "not known" if zeta is None else f"{zeta:.2g}"
            raise OutOfReach(NOT_AT_THE_EDGE.format(steps=row.get("steps"), zeta=words))
        return row

    def ratio(self, branch: str = "main", **values: Any) -> float:
        """`λ₁(P⁻¹H)` over the threshold: its median at the edge, as the run's summary has it."""
        self.trained(branch, **values)
        row = self.at_edge(branch, **values)
        return finite(row.get("ratio"), "no ratio was measured at the edge")

    def arrived(self, branch: str = "main", **values: Any) -> int:
        """The step at which the run arrived at the edge."""
        return int(self.at_edge(branch, **values)["arrived"])

    def risen(self, branch: str = "main", **values: Any) -> int:
        """The step at which the running median of the ratio first rose to 0.9.

        Where steps are small the ratio is held at the threshold by oscillations that cost next to
        nothing of a step's gain: then it is at the threshold, and not at the edge by ζ.
        """
        row = self.row(branch, **values)
        if row.get("edge_step") is None:
            at = row.get("diverged_at")
            if at is not None:
                raise Refuted(f"{branch} diverged at step {at}, below the threshold")
            raise OutOfReach(f"the ratio did not rise to 0.9 within {row.get('steps')} steps")
        return int(row["edge_step"])

    def end(self, name: str, branch: str = "main", **values: Any) -> float:
        """The median of a quantity over the last fifth of the run."""
        row = self.trained(branch, **values)
        return self.median(name, branch, first=0.8 * (row["steps"] - 1), **values)

    def curve(
        self, name: str, branch: str = "main", **values: Any
    ) -> tuple["np.ndarray", "np.ndarray"]:
        """The steps at which a quantity was measured, and its running median over 50 steps.

        `ratio` of an optimizer without a preconditioner is that of the raw sharpness.
        """
        from aeoskit.figures import running_median
        from aeoskit_experiments.execution import measured

        dataset = self.metrics(branch, **values)
        raw = name == "ratio" and name not in dataset
        steps, found = measured(dataset, "sharpness" if raw else name)
        if not steps.size:
            raise OutOfReach(f"{name.replace('_', ' ')} was not measured on branch {branch}")
        scale = self.row(branch, **values)["threshold"] if raw else 1.0
        return steps, running_median(steps, found / scale)

    def value_at(self, name: str, step: float | int, branch: str = "main", **values: Any) -> float:
        """The running median of a quantity at the first measurement from a step on."""
        steps, found = self.curve(name, branch, **values)
        later = found[steps >= step]
        if not later.size:
            raise OutOfReach(
                f"{name.replace('_', ' ')} was not measured on branch {branch} from step {step:g} "
                f"on"
            )
        return float(later[0])

    def origin(self, branch: str = "main", **values: Any) -> float | None:
        """The ratio from which a run came: that over its first fifty steps, a running median.

        The alternative of a plateau is to stay where one was. None for a run that was at its edge
        by then, or never below its threshold.
        """
        row = self.row(branch, **values)
        arrived = row.get("arrived") or row.get("edge_step")
        steps, ratio = self.curve("ratio", branch, **values)
        early = (steps >= steps[0] + FIRST_STEPS) & (steps < (arrived or 0))
        return float(ratio[early][0]) if early.any() else None

    def metrics(self, branch: str = "main", **values: Any) -> "xr.Dataset":
        """The measurements of one run (`step` and perhaps `index` left)."""
        from aeoskit.record import lane_selection

        # The summary has the lanes of each branch in the record's order.
        lane = self.rows(branch).index(self.row(branch, **values))
        dataset = self.run.metrics.sel(branch=branch)
        return dataset.sel(lane_selection(dataset, self.run.lanes[lane]))

    def median(
        self,
        name: str,
        branch: str = "main",
        *,
        first: float | int = -math.inf,
        last: float | int = math.inf,
        **values: Any,
    ) -> float:
        """The median of a quantity over a window of steps, both ends included."""
        import numpy as np

        from aeoskit_experiments.execution import measured

        self._refuse_divergence(branch, last, **values)
        steps, found = measured(self.metrics(branch, **values), name)
        inside = found[(steps >= first) & (steps <= last)]
        if not inside.size:
            raise OutOfReach(f"{name} was not measured in the claim's window")
        return float(np.median(inside))

    def fitted_step(self, branch: str = "main", **values: Any) -> float:
        """The step at which the loss's running median first falls below 0.1; infinity if never."""
        from aeoskit_experiments.execution import fitted_step

        step = fitted_step(self.metrics(branch, **values))
        return math.inf if step is None else float(step)

    def peak(
        self, name: str, branch: str = "main", *, first: float | int = 0, **values: Any
    ) -> float:
        """The largest running median (over 50 steps) of a quantity, up to a loss of 0.1.

        Args:
            name: The quantity, such as `sharpness`.
            branch: The branch.
            first: The first step that counts.
            values: Select the run of a sweep.
        """
        last = self.fitted_step(branch, **values)
        # A run that diverged was not held, whatever was measured before.
        self._refuse_divergence(branch, last, **values)
        steps, found = self.curve(name, branch, **values)
        within = found[(steps >= first) & (steps <= last)]
        within = within[within == within]
        if not within.size:
            raise OutOfReach(f"{name} was not measured in the claim's window")
        return float(within.max())

    def _refuse_divergence(self, branch: str, last: float | int, **values: Any) -> None:
        at = self.row(branch, **values).get("diverged_at")
        if at is not None and at <= last:
            raise Refuted(f"{branch} diverged at step {at}")


def finite(value: Any, otherwise: str) -> float:
    """A number, or `OutOfReach` with the reason.

    >>> finite(0.5, "no ratio was measured")
    0.5
    """
    if value is None or math.isnan(value):
        raise OutOfReach(otherwise)
    return float(value)


def share(truths: list[bool], otherwise: str) -> float:
    """The fraction that is true, or `OutOfReach` with the reason if there are none.

    >>> share([True, False], "no optimizer ran")
    0.5
    """
    if not truths:
        raise OutOfReach(otherwise)
    return sum(truths) / len(truths)


def _same(one: Any, other: Any) -> bool:
    if isinstance(one, int | float) and isinstance(other, int | float):
        return math.isclose(one, other, rel_tol=1e-6)
    return one == other
