"""`aeoskit bench accuracy`: the error of a probe's eigenvalue against its products."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
import numpy as np

from aeoskit.linalg import Lanczos, Tracking, eigensolve
from aeoskit.optimizers import adam
from aeoskit_experiments._errors import UserError, unknown
from aeoskit_experiments.data import digits, markov
from aeoskit_experiments.losses import cross_entropy, mse
from aeoskit_experiments.models import cnn, mlp, transformer

from ._eigen_problems import TrainingProblem, prepared

# The relative error of a reference value in float32, which an estimate need not cover.
_TRUTH = 2e-6
# The number of a sequence's reference values that are compared with float64.
_CHECKED = 2
PLACES = ("before", "edge")
SETTINGS = {
    "rtol 1e-3": Tracking(rtol=1e-3, value_rtol=0.0),
    "value 1e-2": Tracking(value_rtol=1e-2),
    "value 1e-3": Tracking(value_rtol=1e-3),
}


@dataclass(frozen=True)
class Case:
    """A training run, and the steps after which it is measured.

    Args:
        make: The problem, untrained.
        before: Steps after which the ratio still rises.
        edge: Steps after which it is at the threshold.
    """

    make: Callable[[], TrainingProblem]
    before: int
    edge: int


def _raw() -> TrainingProblem:
    data = digits(examples=500, standardize="none")
    return prepared("raw", data, mlp(width=256), mse, adam(3e-3), True, seed=1)


def _standard() -> TrainingProblem:
    data = digits(examples=500)
    return prepared("standard", data, mlp(width=200), mse, adam(3e-3), True, seed=1)


def _noisy() -> TrainingProblem:
    data, optimizer = digits(examples=500, label_noise=0.4), adam(3e-3, beta2=0.99)
    return prepared("noisy", data, mlp(width=200), mse, optimizer, True, seed=1)


def _cnn() -> TrainingProblem:
    data = digits(examples=200)
    return prepared("cnn", data, cnn(channels=8), mse, adam(3e-3), True, seed=1)


def _gpt() -> TrainingProblem:
    data = markov(examples=16, length=16)
    model = transformer(layers=2, width=32)
    return prepared("gpt", data, model, cross_entropy, adam(3e-3), True, seed=1)


CASES = {
    "raw": Case(_raw, 50, 1000),
    "standard": Case(_standard, 50, 1000),
    "noisy": Case(_noisy, 50, 1000),
    "cnn": Case(_cnn, 200, 1000),
    "gpt": Case(_gpt, 50, 1000),
}


def run_accuracy_benchmark(
    *,
    problems: str | None = None,
    places: str | None = None,
    measurements: int = 40,
    every: int = 10,
    progress: Callable[[str], None] = lambda what: None,
) -> dict[str, Any]:
    """Measure the products of a probe along training against the error of its eigenvalue.

    The largest eigenvalue of P⁻¹H, each solve from the state of the last one; the truth is a cold
    solve to a residual of 1e-5, from a random start at each measurement. The first solve, which is
    cold, is not counted.

    Args:
        problems: Any of raw, standard, noisy, cnn, gpt; none for all.
        places: Phases of training, before or edge; none for both.
        measurements: Number of measurements.
        every: Steps between two measurements.
        progress: Called with the name of each part as it begins.

    Returns:
        `rows`, one per problem, place and setting of `Tracking`: `ratio` (median) to the threshold,
        `products` per measurement, the relative error's `median_error`, `p99_error` and
        `max_error`, the fraction of solves whose `estimates` cover the error (`covered`), and that
        which `converged`; `truth`, one per problem and place: `parameters`, `products` per
        reference value, and `float64_error`, the largest relative distance of those that were
        solved again in float64.

    Raises:
        UserError: For an unknown problem or place, or fewer than two measurements.
    """
    names = _names("problem", problems, tuple(CASES))
    where = _names("place", places, PLACES)
    if measurements < 2:
        raise UserError(f"bench accuracy: measurements is {measurements}: give 2 or more")
    rows: list[dict[str, Any]] = []
    truth: list[dict[str, Any]] = []
    # Full float32 products, also on accelerators.
    with jax.default_matmul_precision("float32"):
        for name in names:
            case = CASES[name]
            for place in where:
                progress(f"{name}, {place}: training and reference values")
                problem = case.make().advanced(case.before if place == "before" else case.edge)
                found = Sequence.of(problem, measurements, every)
                truth.append({"problem": name, "place": place} | found.truth_row())
                for setting, solver in SETTINGS.items():
                    progress(f"{name}, {place}: {setting}")
                    row = {"problem": name, "place": place, "ratio": found.ratio}
                    row |= {"setting": setting} | found.row(solver)
                    rows.append(row)
    return {"rows": rows, "truth": truth}


def _names(what: str, given: str | None, known: tuple[str, ...]) -> tuple[str, ...]:
    names = known if given is None else tuple(x.strip() for x in given.split(",") if x.strip())
    for name in names:
        if name not in known:
            raise unknown(what, name, known, where="bench accuracy")
    return names


@dataclass(frozen=True)
class Sequence:
    """Operators along training, with their largest eigenvalues.

    Args:
        problem: The problem at the start of the sequence.
        operators: One per measurement.
        values: The reference values, to a relative error of about 1e-6.
        ratio: The median of values over the threshold.
        products: The mean number of products per reference value.
    """

    problem: TrainingProblem
    operators: list[lx.AbstractLinearOperator]
    values: np.ndarray
    ratio: float
    products: float

    @staticmethod
    def of(
        problem: TrainingProblem, measurements: int, every: int, rtol: float = 1e-5
    ) -> "Sequence":
        """Continue training, and solve for the reference values to a residual of `rtol`."""
        operators, ratios, values, products = [], [], [], []
        now = problem
        for i in range(measurements):
            operators.append(now.operator())
            value, count = _true_value(operators[-1], i, rtol)
            values.append(value)
            products.append(count)
            ratios.append(value / float(now.optimizer.threshold(now.state, now.params)))
            now = now.advanced(every)
        found = np.array(values), float(np.median(ratios)), float(np.mean(products))
        return Sequence(problem, operators, *found)

    def row(self, solver: Tracking) -> dict[str, Any]:
        """The results of a solver over the sequence, each solve warm-started from the last."""
        state, errors, covered, converged, products = None, [], [], [], []
        for operator, truth in zip(self.operators, self.values, strict=True):
            solution = eigensolve(operator, solver, start=state)
            state = solution.state
            error = abs(float(solution.values[0]) - truth)
            errors.append(error / abs(truth) if np.isfinite(error) else np.inf)
            covered.append(error <= float(solution.estimates[0]) + _TRUTH * abs(truth))
            converged.append(bool(solution.converged[0]))
            products.append(int(solution.stats["matvecs"]))
        return {
            "products": float(np.mean(products[1:])),
            "median_error": float(np.median(errors[1:])),
            "p99_error": float(np.quantile(errors[1:], 0.99)),
            "max_error": float(np.max(errors[1:])),
            "covered": float(np.mean(covered[1:])),
            "converged": float(np.mean(converged[1:])),
        }

    def truth_row(self) -> dict[str, Any]:
        """The problem's size, and the error of the reference values against float64."""
        worst = 0.0
        places = np.linspace(0, len(self.values) - 1, _CHECKED).astype(int)
        with jax.enable_x64(True):
            for i in places:
                value, _ = _true_value(_double(self.operators[i]), 1000 + int(i))
                worst = max(worst, abs(self.values[i] / value - 1))
        return {
            "parameters": sum(x.size for x in jax.tree.leaves(self.problem.params)),
            "products": self.products,
            "float64_error": worst,
        }


def _true_value(
    operator: lx.AbstractLinearOperator, seed: int, rtol: float = 1e-5
) -> tuple[float, int]:
    solver = Lanczos(basis=60, rtol=rtol)
    found = eigensolve(operator, solver, start=jax.random.key(seed), throw=True)
    return float(found.values[0]), int(found.stats["matvecs"])


def _double(operator: lx.AbstractLinearOperator) -> lx.AbstractLinearOperator:
    def wider(x: Any) -> Any:
        narrow = eqx.is_array(x) and jnp.issubdtype(x.dtype, jnp.floating)
        return x.astype(jnp.float64) if narrow else x

    return jax.tree.map(wider, operator)
