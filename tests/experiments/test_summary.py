"""Summaries of hand-made records, whose numbers are known beforehand."""

from typing import Any

import numpy as np
import pytest
import xarray as xr

from aeoskit_experiments.execution import summarize_advance, summarize_run
from aeoskit_experiments.execution._summary import multiplier_rows, threshold_row

STEPS = np.arange(500)


def record(*, every: int = 5, begin: int = 0, diverged_at: int = -1, **values: Any) -> xr.Dataset:
    """One branch and lane: each value a number or a function of the step, measured when due."""
    due = (STEPS % every == 0) & (begin <= STEPS)
    cheap = ("loss", "threshold")
    variables: dict[str, Any] = {"diverged_at": ((), diverged_at)}
    for name, value in values.items():
        curve = np.array([value(step) if callable(value) else value for step in STEPS], float)
        curve[~((begin <= STEPS) if name in cheap else due)] = np.nan
        indexed = name.endswith("sharpness") or name.endswith("converged")
        # The second eigenvalue must count nowhere.
        variables[name] = (
            (("step", "index"), np.stack([curve, 0 * curve], axis=1))
            if indexed
            else ("step", curve)
        )
    return xr.Dataset(variables, {"step": STEPS})


EMPTY = record(loss=1.0).isel(step=slice(0, 0))
ADVANCE = (
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


def main_run(loss_end: float = 0.01) -> xr.Dataset:
    """At the edge from step 100 on, fitted from step 400 on, when the sharpness explodes."""
    return record(
        ratio=lambda step: 0.5 if step < 100 else 1.1,
        sharpness=lambda step: 10.0 if step < 200 else 40.0 if step <= 425 else 1000.0,
        loss=lambda step: 1.0 if step < 400 else loss_end,
        threshold=38.0,
    )


FROZEN = record(
    begin=125, sharpness=lambda step: 12.0 if step < 200 else 18.0, loss=1.0, threshold=38.0
)
MOMENTUM = record(sharpness=lambda step: min(2 + step / 10, 8.0), loss=1.0, threshold=10.0)


class TestRun:
    def test_known_numbers(self) -> None:
        found = summarize_run(
            record(
                preconditioned_sharpness=lambda step: 30.0 if step < 400 else 39.0,
                preconditioned_sharpness_matvecs=7,
                preconditioned_sharpness_converged=lambda step: step not in (5, 10),
                ratio=lambda step: 0.5 if step < 100 else 1.1,
                loss=lambda step: 1 / (1 + step),
                threshold=38.0,
            ),
            raw=False,
        )
        assert found == {
            "threshold": 38.0,
            "ratio": 1.1,
            # The record has no realized edges: the ratio is that of the end.
            "ratio_of": "end",
            "window": [400, 495],
            **dict.fromkeys(("state", "arrived", "left"), None),
            **dict.fromkeys(("zeta", "zeta_before", "zeta_of_sums", "uphill"), None),
            "fitted": 19,
            "parked": False,
            "never_below": False,
            # 6 of the 10 measurements of a window lie above then.
            "edge_step": 125,
            "final_loss": 1 / 500,
            "preconditioned_sharpness": 39.0,
            "matvecs": 700,
            "unconverged": 2,
            "steps": 500,
            "diverged_at": None,
        }

    def test_the_raw_sharpness_counts_where_there_is_no_preconditioner(self) -> None:
        # Its threshold follows the warm-up: the ratio is taken step by step.
        rising = record(sharpness=lambda step: 2.0 + step, threshold=lambda step: 4.0 + 2 * step)
        found = summarize_run(rising, raw=True)
        assert found["ratio"] == pytest.approx(0.5)
        assert found["edge_step"] is None
        adaptive = summarize_run(rising, raw=False)
        assert adaptive["ratio"] is None
        assert adaptive["sharpness"] == found["sharpness"] == 2 + 447.5

    def test_a_lane_that_diverged_is_summed_up_to_there(self) -> None:
        whole = record(loss=1.0, threshold=38.0, ratio=2.0, diverged_at=20)
        cut = whole.isel(step=slice(0, 21)).reindex(step=whole["step"])
        found = summarize_run(cut, raw=False)
        assert found["diverged_at"] == 20
        assert found["steps"] == 21
        # Where it ended, but no ratio at which it would hover.
        assert (found["final_loss"], found["ratio"]) == (1.0, None)

    def test_nothing_measured(self) -> None:
        found = summarize_run(EMPTY, raw=True)
        assert (found["steps"], found["matvecs"], found["unconverged"]) == (0, 0, 0)
        assert {found[name] for name in ("threshold", "ratio", "edge_step", "final_loss")} == {None}


def edged(zeta: Any, **values: Any) -> xr.Dataset:
    """A run with the realized edge of every step."""
    curve = np.array([zeta(step) for step in STEPS], float)
    return record(loss=1.0, threshold=38.0, **values).assign(
        realized_edge=("step", curve), predicted_change=("step", np.full(STEPS.size, -1.0))
    )


class TestEdge:
    def test_the_ratio_is_that_of_the_stay_at_the_edge(self) -> None:
        found = summarize_run(
            edged(
                lambda step: 0.1 if step < 100 else 0.97 if step < 300 else 0.05,
                ratio=lambda step: 0.5 if step < 100 else 0.98 if step < 320 else 0.27,
            ),
            raw=False,
        )
        assert (found["arrived"], found["left"], found["state"]) == (125, 325, "left")
        assert (found["ratio"], found["ratio_of"], found["window"]) == (0.98, "edge", [125, 320])
        assert (found["zeta"], found["zeta_before"]) == (0.97, 0.1)
        assert found["zeta_of_sums"] == pytest.approx(0.97 - 0.92 * 21 / 196)
        assert found["uphill"] == 0.0
        assert (found["parked"], found["never_below"]) == (False, False)

    @pytest.mark.parametrize(("end", "last", "ratio"), [(350, 220, 1.0), (500, 495, 0.3)])
    def test_a_run_that_left_counts_until_it_was_fitted(
        self, end: int, last: int, ratio: float
    ) -> None:
        fitted = edged(
            lambda step: 1.0 if step < end else 0.1, ratio=lambda step: 1.0 if step < 225 else 0.3
        )
        loss = np.where(STEPS < 200, 1.0, 0.01)
        found = summarize_run(fitted.assign(loss=("step", loss)), raw=False)
        assert (found["fitted"], found["window"], found["ratio"]) == (225, [50, last], ratio)

    def test_a_parked_run_is_not_at_the_edge(self) -> None:
        found = summarize_run(edged(lambda step: 0.001, ratio=0.97), raw=False)
        assert (found["state"], found["parked"]) == ("below", True)
        assert (found["ratio"], found["ratio_of"], found["arrived"]) == (0.97, "end", None)

    def test_a_rise_after_the_fit_is_no_stay_at_the_threshold(self) -> None:
        late = edged(lambda step: 0.001, ratio=lambda step: 0.5 if step < 300 else 0.98)
        loss = np.where(STEPS < 100, 1.0, 0.01)
        found = summarize_run(late.assign(loss=("step", loss)), raw=False)
        assert found["fitted"] < found["edge_step"]
        assert (found["ratio_of"], found["window"]) == ("end", [400, 495])

    @pytest.mark.parametrize(("fits", "window"), [(300, [125, 320]), (600, [125, 495])])
    def test_of_one_that_was_held_at_its_threshold_with_small_steps_until_it_was_fitted(
        self, fits: int, window: list[int]
    ) -> None:
        held = edged(
            lambda step: 0.001,
            ratio=lambda step: 0.5 if step < 100 else 0.98 if step < 330 or fits > 500 else 0.2,
        )
        loss = np.where(fits > STEPS, 1.0, 0.01)
        found = summarize_run(held.assign(loss=("step", loss)), raw=False)
        assert (found["arrived"], found["ratio_of"], found["window"]) == (None, "threshold", window)
        assert (found["ratio"], found["zeta"]) == (0.98, 0.001)

    def test_one_that_was_never_below_is(self) -> None:
        found = summarize_run(edged(lambda step: 0.98, ratio=2.0), raw=False)
        assert (found["state"], found["never_below"], found["edge_step"]) == (
            "at the edge", True, None,
        )  # fmt: skip
        assert found["ratio"] == 2.0

    def test_the_factors_of_the_realized_edge(self) -> None:
        at_edge = edged(
            lambda step: 0.9, ratio=1.0, preconditioned_sharpness=38.0, step_norm=2 / 38
        )
        found = summarize_run(at_edge, raw=False)
        assert found["participation"] == pytest.approx(0.9)
        assert found["calibration"] == pytest.approx(1.0)

    def test_both_ratios_of_a_multiplier_are_of_the_same_steps(self) -> None:
        found = summarize_run(
            edged(
                lambda step: 0.1 if step < 100 else 1.0 if step < 300 else 0.1,
                ratio=lambda step: 1.0 if step < 320 else 0.2,
                multiplier=lambda step: -1.1 if step < 320 else 0.9,
                equivalent_ratio=lambda step: 1.01 if step < 320 else 0.2,
            ),
            raw=False,
        )
        assert (found["ratio"], found["equivalent_ratio"]) == (1.0, 1.01)
        assert found["reached"] is True


class TestAdvance:
    def test_known_numbers(self) -> None:
        found = summarize_advance(main_run(), FROZEN, MOMENTUM)
        assert found == {
            "arrived": None,
            "edge_step": 125,
            "growth": 4.0,
            "ratio": 1.1,
            "sharpness_at_edge": 10.0,
            "sharpness_peak": 40.0,
            "frozen_growth": 1.5,
            "frozen_to_peak": 18 / 40,
            "momentum_peak": 0.8,
        }

    def test_only_up_to_the_loss_that_counts_as_fitted(self) -> None:
        # The median loss of 50 steps falls below 0.1 at step 425; at 0.11 it never does.
        assert summarize_advance(main_run(0.11), FROZEN, MOMENTUM)["growth"] == 100.0

    def test_branches_that_did_not_start_are_none(self) -> None:
        found = summarize_advance(main_run(), EMPTY, EMPTY)
        assert set(found) == set(ADVANCE)
        assert found["growth"] == 4.0
        assert [found[name] for name in ADVANCE[6:]] == [None] * 3

    def test_a_main_run_that_never_came_to_the_edge(self) -> None:
        below = record(ratio=0.5, sharpness=10.0, loss=1.0, threshold=38.0)
        found = summarize_advance(below, FROZEN, MOMENTUM)
        assert set(found) == set(ADVANCE)
        assert [found[name] for name in ADVANCE[:6]] == [None] * 6
        assert found["frozen_growth"] == 1.5
        assert found["frozen_to_peak"] is None

    def test_a_main_run_that_came_there_after_it_was_fitted(self) -> None:
        late = record(
            ratio=lambda step: 0.5 if step < 300 else 1.0, sharpness=10.0, loss=0.01, threshold=38.0
        )
        found = summarize_advance(late, EMPTY, EMPTY)
        assert found["edge_step"] == 325
        assert found["growth"] is None
        assert found["ratio"] is None

    def test_the_raw_sharpness_was_not_tracked(self) -> None:
        without = main_run().drop_vars("sharpness")
        found = summarize_advance(without, without, without)
        assert found["edge_step"] == 125
        assert [found[name] for name in ADVANCE if name not in ("arrived", "edge_step")] == [
            None
        ] * 7


def flipped(**values: Any) -> xr.Dataset:
    """At the edge from step 400 on, as the flip multiplier sees it."""
    return record(
        **{
            "multiplier": lambda step: 0.5 if step < 400 else -1.1,
            "multiplier_matvecs": 30,
            "equivalent_ratio": lambda step: 0.2 if step < 400 else 1.01,
            "ratio": 0.9,
            "loss": 1.0,
            "threshold": 38.0,
            **values,
        }
    )


class TestMultipliers:
    def test_known_numbers(self) -> None:
        found = summarize_run(flipped(), raw=False)
        assert (found["multiplier"], found["equivalent_ratio"]) == (-1.1, 1.01)
        assert found["reached"] is True
        assert found["matvecs"] == 100 * 30
        row = {"optimizer": "adam", "branch": "main", **found}
        without = {"optimizer": "sgd", **summarize_run(record(loss=1.0), raw=True)}
        assert multiplier_rows([row, without]) == [
            {
                "optimizer": "adam",
                "multiplier": -1.1,
                "equivalent_ratio": 1.01,
                "ratio": 0.9,
                "reached": True,
            }
        ]
        assert multiplier_rows([without]) == []

    def test_a_run_that_does_not_get_there(self) -> None:
        found = summarize_run(flipped(equivalent_ratio=0.84), raw=False)
        assert (found["equivalent_ratio"], found["reached"]) == (0.84, False)

    def test_no_recurrence_no_ratio(self) -> None:
        found = summarize_run(flipped(equivalent_ratio=np.nan), raw=False)
        assert (found["equivalent_ratio"], found["reached"]) == (None, False)
        assert found["multiplier"] == -1.1

    def test_a_run_that_diverged_hovers_nowhere(self) -> None:
        found = summarize_run(flipped(diverged_at=480), raw=False)
        assert (found["multiplier"], found["equivalent_ratio"]) == (None, None)
        assert found["reached"] is False
        # The row stays, and says that there is nothing.
        (row,) = multiplier_rows([{"optimizer": "adam", **found}])
        assert row["multiplier"] is None

    def test_the_largest_oscillation_is_of_the_same_steps(self) -> None:
        found = summarize_run(
            flipped(
                oscillation_modulus=lambda step: 0.9 if step < 400 else 1.004,
                oscillation_angle=lambda step: 3.0 if step < 400 else 0.12,
                oscillation_matvecs=20,
                oscillation_resolved_angle=0.01,
            ).assign(oscillation_converged=("step", np.where(STEPS % 100 == 0, 0.0, 1.0))),
            raw=False,
        )
        assert (found["oscillation_modulus"], found["oscillation_angle"]) == (1.004, 0.12)
        assert (found["matvecs"], found["unconverged"]) == (100 * 50, 5)
        (row,) = multiplier_rows([{"optimizer": "two buffers", **found}])
        assert (row["oscillation_modulus"], row["oscillation_angle"]) == (1.004, 0.12)
        none = flipped(
            oscillation_modulus=np.nan, oscillation_angle=np.nan, oscillation_matvecs=20
        ).assign(oscillation_converged=("step", np.zeros(STEPS.size)))
        found = summarize_run(none, raw=False)
        assert (found["oscillation_modulus"], found["unconverged"]) == (None, 0)

    def test_solves_that_did_not_converge_are_counted(self) -> None:
        missed = record(multiplier=-1.0, equivalent_ratio=1.0, loss=1.0).assign(
            multiplier_converged=("step", np.where(STEPS == 10, 0.0, 1.0))
        )
        assert summarize_run(missed, raw=False)["unconverged"] == 1


class TestThresholds:
    MAIN = record(ratio=lambda step: 0.5 if step < 400 else 0.98, loss=1.0, threshold=76.0)
    BELOW = record(begin=100, loss=lambda step: 4.0 * 0.9 ** (step - 100), threshold=76.0)
    ABOVE = record(begin=100, loss=lambda step: 2.0 * 1.01 ** (step - 100), threshold=74.0)

    def test_known_numbers(self) -> None:
        row = threshold_row(self.MAIN, self.BELOW, self.ABOVE, raw=False)
        assert set(row) == {
            "threshold",
            "below",
            "above",
            "converges",
            "diverges",
            "live_ratio",
        }
        assert (row["threshold"], row["live_ratio"]) == (76.0, 0.98)
        # From the median of the first ten steps to that of the last ten: 390 steps.
        assert row["below"] == pytest.approx(0.9**390, rel=1e-9)
        assert row["above"] == pytest.approx(1.01**390, rel=1e-9)
        assert (row["converges"], row["diverges"]) == (True, True)

    def test_a_threshold_that_does_not_hold(self) -> None:
        row = threshold_row(self.MAIN, self.ABOVE, self.BELOW, raw=False)
        assert (row["converges"], row["diverges"]) == (False, False)

    def test_branches_that_did_not_start(self) -> None:
        row = threshold_row(self.MAIN, EMPTY, EMPTY, raw=False)
        assert (row["below"], row["above"]) == (None, None)
        assert (row["converges"], row["diverges"]) == (False, False)
        assert row["live_ratio"] == 0.98

    def test_short_branches_and_a_loss_of_zero(self) -> None:
        short = record(loss=lambda step: float(3 - step)).isel(step=slice(0, 3))
        row = threshold_row(self.MAIN, short, record(loss=0.0), raw=False)
        assert row["below"] == pytest.approx(1 / 3)
        assert row["above"] is None
