"""The time budget of a probe, and the period and tolerance that follow from it."""

import dataclasses
import math
import numbers
from typing import Any

import equinox as eqx
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Float, Int

from ._base import AbstractProbe

MAX_VALUE_RTOL = 0.03
"""The loosest tolerance of a value: below what a ratio at the edge moves by from step to step."""
MAX_PERIOD = 100
"""The longest period in steps; ten of the probe's own where that is longer."""
LINEARIZATION_PRODUCTS = 1.5
"""The cost of a measurement beside its products, in products: it is linearized at a gradient."""
# Up to this many times the overhead asked for counts as reached, since timings vary.
_REACHED = 1.25
# Between these multiples of it nothing changes.
_ABOVE, _BELOW = 1.1, 0.8
# Half of the tolerance costs a quarter more at most (`aeoskit bench accuracy`).
_TIGHTER = 1.25
# The largest factor by which a period grows at once.
_STRIDE = 4
PRICES, MEASUREMENTS = 5, 8
# The counts needed before anything changes; two measurements, where it is twice too expensive.
_LEAST_PRICES, _LEAST_MEASUREMENTS = 3, 4


class ProbeBudget(eqx.Module):
    """The state of a probe with `overhead`: a part of the `Carry`, one for all lanes.

    All fields are arrays, so that a change of period or tolerance does not recompile.

    Attributes:
        period: steps between two measurements at present.
        due: the step of the next measurement.
        value_rtol: the solver's `value_rtol` at present; NaN for a solver that has none.
        overhead: the probe's seconds over those of the training steps, as last estimated; NaN
            before that.
        prices: seconds of a product over those of a training step, the last few times that both
            were timed, (5,); NaN where there were fewer.
        costs: what the last few measurements cost, in products, (8,); NaN as above. Emptied when
            period or tolerance change.

    Example:
        >>> import aeoskit as ak
        >>> budget = start_budget(ak.Sharpness(every=10, overhead=0.2))
        >>> int(budget.period), round(float(budget.value_rtol), 4)
        (10, 0.01)
    """

    period: Int[Any, ""]
    due: Int[Any, ""]
    value_rtol: Float[Any, ""]
    overhead: Float[Any, ""]
    prices: Float[Any, " prices"]
    costs: Float[Any, " costs"]

    def with_entry(self, name: str, value: float) -> "ProbeBudget":
        """The state with one more price or cost, and without the oldest; of NumPy arrays."""
        window = getattr(self, name)
        return dataclasses.replace(
            self, **{name: np.append(window[1:], value).astype(window.dtype)}
        )


def check_overhead(overhead: Any) -> float | None:
    """Refuses a share of the training's time that makes no sense."""
    if overhead is None:
        return None
    number = isinstance(overhead, numbers.Real) and not isinstance(overhead, bool)
    if not number or not 0 < float(overhead) <= 10:
        raise ValueError(
            f"overhead is {overhead!r}, but it is the time of a probe over that of the training "
            "steps: pass a number above 0 and at most 10, such as 0.2, or None for no limit."
        )
    return float(overhead)


def _has_budget(probe: Any) -> bool:
    return getattr(probe, "overhead", None) is not None


def _limits(probe: Any) -> tuple[int, float, float]:
    """The longest period, the tightest and the loosest tolerance; NaN for a solver without one."""
    tightest = float(getattr(getattr(probe, "solver", None), "value_rtol", math.nan))
    # At 0 residuals were asked for: that is kept.
    loosest = max(MAX_VALUE_RTOL, tightest) if tightest > 0 else tightest
    return max(MAX_PERIOD, 10 * probe.every), tightest, loosest


def start_budget(probe: Any, previous: ProbeBudget | None = None) -> ProbeBudget:
    """The first state: the shortest period and the tightest tolerance, or a previous state.

    A previous state is clipped to the limits of the probe, which may have changed. Where that
    changes its period or tolerance, the recorded costs are dropped. Costs no product.

    Args:
        probe: a probe with `overhead`.
        previous: the state of the probe of this name, from a carry or a checkpoint.

    Returns:
        The state, of jax arrays.

    Example:
        >>> import aeoskit as ak
        >>> budget = start_budget(ak.Sharpness(every=5, overhead=0.2))
        >>> later = start_budget(ak.Sharpness(every=50, overhead=0.2), previous=budget)
        >>> int(budget.period), int(later.period)
        (5, 50)
    """
    longest, tightest, loosest = _limits(probe)
    if previous is None:
        return ProbeBudget(
            period=jnp.asarray(probe.every, int),
            due=jnp.asarray(0, int),
            value_rtol=jnp.asarray(tightest, float),
            overhead=jnp.asarray(jnp.nan, float),
            prices=jnp.full(PRICES, jnp.nan, float),
            costs=jnp.full(MEASUREMENTS, jnp.nan, float),
        )
    was = int(previous.period), np.asarray(previous.value_rtol)
    period = min(max(was[0], probe.every), longest)
    tolerance = np.clip(np.nan_to_num(was[1], nan=tightest), tightest, loosest)
    if period == was[0] and np.array_equal(tolerance, was[1], equal_nan=True):
        return previous
    return dataclasses.replace(
        previous,
        period=jnp.asarray(period, previous.period.dtype),
        due=previous.due + (period - was[0]),
        value_rtol=jnp.asarray(tolerance, previous.value_rtol.dtype),
        overhead=jnp.full_like(previous.overhead, jnp.nan),
        costs=jnp.full_like(previous.costs, jnp.nan),
    )


def is_due(
    probe: AbstractProbe, budget: ProbeBudget | None, step: int | Int[Any, "*steps"]
) -> bool | Bool[Any, "*steps"]:
    """True where a probe measures before a step, or before each of some.

    Args:
        probe: the probe.
        budget: its state, or None for a fixed period.
        step: a number, or an array of them.

    Returns:
        True or False, of the shape of `step`.

    Example:
        >>> import aeoskit as ak
        >>> is_due(ak.LossAndGradient(every=10), None, np.array([0, 5, 10])).tolist()
        [True, False, True]
    """
    if budget is None:
        return step % probe.every == 0
    return (step >= budget.due) & ((step - budget.due) % budget.period == 0)


def with_budget(probe: Any, budget: ProbeBudget | None) -> Any:
    """The probe with the tolerance of its budget.

    Args:
        probe: a probe.
        budget: its state, or None for the probe unchanged.

    Returns:
        The probe.

    Example:
        >>> import aeoskit as ak
        >>> probe = ak.Sharpness(overhead=0.2)
        >>> round(float(with_budget(probe, start_budget(probe)).solver.value_rtol), 2)
        0.01
    """
    if budget is None or not hasattr(getattr(probe, "solver", None), "value_rtol"):
        return probe
    solver = dataclasses.replace(probe.solver, value_rtol=budget.value_rtol)
    return dataclasses.replace(probe, solver=solver)


def adapt_budget(probe: Any, budget: ProbeBudget) -> ProbeBudget:
    """Moves period and tolerance one step towards the overhead that was asked for.

    The overhead is the median price of a product times the mean cost of a measurement over the
    period. Where it is too high, the tolerance is doubled up to 0.03, and only then is the period
    lengthened, to four times at once at most and to a hundred steps (ten periods) in all: in a
    plot of a ratio, an error of three percent is less than its movement at the edge, while
    missing points may hide when it rose. Where even single products would be too expensive, both
    change at once. Where there is room, both are reversed, by half at once. Nothing changes between
    0.8 and 1.1 times the overhead asked for, nor before three prices and four measurements are
    known (two, where it is twice as much).

    Args:
        probe: a probe with `overhead`.
        budget: its state, of NumPy arrays.

    Returns:
        The state with `overhead` as it is at present, and what follows from it.

    Example:
        >>> import jax, aeoskit as ak
        >>> probe = ak.Sharpness(every=10, overhead=0.2)
        >>> budget = dataclasses.replace(
        ...     jax.device_get(start_budget(probe)), prices=np.ones(5), costs=np.full(8, 3.0))
        >>> budget = adapt_budget(probe, budget)  # three steps in ten
        >>> round(float(budget.overhead), 2), round(float(budget.value_rtol), 2)
        (0.3, 0.02)
    """
    prices, costs = (x[np.isfinite(x)] for x in (budget.prices, budget.costs))
    if prices.size < _LEAST_PRICES or costs.size < 2:
        return budget
    longest, tightest, loosest = _limits(probe)
    before = period, tolerance = int(budget.period), float(budget.value_rtol)
    target, price = probe.overhead, float(np.median(prices))
    steps = price * float(np.mean(costs))  # that a measurement costs
    least = price * (1 + LINEARIZATION_PRODUCTS)
    overhead, wanted = steps / period, math.ceil(steps / target)
    if overhead < 2 * target and costs.size < _LEAST_MEASUREMENTS:
        return dataclasses.replace(budget, overhead=np.asarray(overhead, budget.overhead.dtype))
    # A tolerance is float32, and its bounds are not.
    if overhead > _ABOVE * target:
        if 0 < tolerance < 0.999 * loosest:
            tolerance = min(2 * tolerance, loosest)
            if least > _ABOVE * target * period:
                tolerance = loosest
                period = min(math.ceil(least / target), _STRIDE * period, longest)
        else:
            period = min(wanted, _STRIDE * period, longest)
    elif overhead < _BELOW * target:
        if period > probe.every:
            period = min(period, max(wanted, -(-period // 2), probe.every))
        elif overhead < _BELOW * target / _TIGHTER and tolerance > 1.001 * tightest:
            tolerance = max(tolerance / 2, tightest)
    changed = (period, tolerance) != before
    return dataclasses.replace(
        budget,
        period=np.asarray(period, budget.period.dtype),
        value_rtol=np.asarray(tolerance, budget.value_rtol.dtype),
        overhead=np.asarray(overhead, budget.overhead.dtype),
        costs=np.full_like(budget.costs, np.nan) if changed else budget.costs,
    )


def budget_columns(probe: Any) -> tuple[str, ...]:
    """The columns that a trajectory adds for a probe's budget, fields of `ProbeBudget` by name.

    Args:
        probe: any probe.

    Returns:
        The names; none without a budget.

    Raises:
        ValueError: the probe has an `overhead`, but does not measure what a budget is kept with.

    Example:
        >>> import aeoskit as ak
        >>> budget_columns(ak.Sharpness(overhead=0.2))
        ('sharpness_period', 'sharpness_value_rtol', 'sharpness_overhead')
        >>> budget_columns(ak.Sharpness(overhead=0.2, solver=ak.Lanczos()))
        ('sharpness_period', 'sharpness_overhead')
    """
    if not _has_budget(probe):
        return ()
    check_overhead(probe.overhead)
    first = (*probe.measures, "name")[0]
    if not probe.solves or f"{first}_matvecs" not in probe.measures:
        raise ValueError(
            f"a probe {type(probe).__name__} has overhead={probe.overhead!r}, but a budget counts "
            f"products: let `solves` be True and measure them as {first + '_matvecs'!r}, or set "
            "overhead=None."
        )
    has_tolerance = hasattr(getattr(probe, "solver", None), "value_rtol")
    fields = ("period", *(("value_rtol",) if has_tolerance else ()), "overhead")
    return tuple(f"{first}_{field}" for field in fields)


def missed_budget(probe: Any, budget: ProbeBudget) -> str | None:
    """A sentence on the overhead that a probe's budget did not reach; None if it did.

    Within a quarter of what was asked for counts as reached, since timings differ.

    Args:
        probe: a probe with `overhead`.
        budget: its state at the end.

    Returns:
        The sentence.

    Example:
        >>> import aeoskit as ak
        >>> probe = ak.Sharpness(every=10, overhead=0.2)
        >>> print(missed_budget(probe, start_budget(probe)))
        the overhead of sharpness was not measured, as the run was too short ...
    """
    name, overhead, period = probe.measures[0], float(budget.overhead), int(budget.period)
    if math.isnan(overhead):
        return (
            f"the overhead of {name} was not measured, as the run was too short or its steps are: "
            f"every {period} steps were kept to."
        )
    if overhead <= _REACHED * probe.overhead:
        return None
    took = f"{name} took {overhead:.2g} of the time of the training steps, not {probe.overhead:.2g}"
    longest, _, loosest = _limits(probe)
    if period < longest or not np.isfinite(budget.costs).any():
        return f"{took}: it was still adapting when the run ended, at a period of {period} steps."
    # A solver that keeps its residuals has no tolerance to loosen.
    tolerance = f", and its loosest tolerance, {loosest:.2g}" if loosest > 0 else ""
    return (
        f"{took}: it came to its longest period, {longest} steps{tolerance}; raise `overhead`, or "
        "`every`, ten of which it may come to."
    )
