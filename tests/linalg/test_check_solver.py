"""Every solver passes the contract test, and it refuses one that lies."""

import dataclasses
from functools import partial

import equinox as eqx
import jax
import jax.numpy as jnp
import pytest
from jaxtyping import Array

from aeoskit import linalg
from aeoskit.linalg import check_solver

# The products of one step beyond the budget: all of a direct solver, a linear solve of another.
SOLVERS = {
    "Dense": (linalg.Dense(), {"overshoot": 24}),
    "Lanczos": (linalg.Lanczos(), {}),
    "LOBPCG": (linalg.LOBPCG(), {}),
    "Tracking": (linalg.Tracking(), {}),
    "Arnoldi": (linalg.Arnoldi(), {}),
    "JacobiDavidson": (linalg.JacobiDavidson(shift=0.3), {"overshoot": 21}),
}


@pytest.mark.parametrize("name", SOLVERS)
def test_ours_keep_the_contract(name):
    solver, arguments = SOLVERS[name]
    check_solver(solver, **arguments)


class Lying(linalg.Dense):
    """Right about everything but one thing; which one is data, so that all are one program."""

    lie: Array = dataclasses.field(default_factory=lambda: jnp.asarray(0))

    def finish(self, *arguments):
        true = super().finish(*arguments)
        asymmetric = true.result == linalg.RESULTS.asymmetric
        lies = [
            {"residuals": 0.01 * true.residuals},
            {"values": true.values[::-1], "vectors": jax.tree.map(lambda x: x[::-1], true.vectors)},
            {"bounds": 0 * true.bounds},
            {"converged": jnp.zeros_like(true.converged)},
            {"vectors": jax.tree.map(lambda x: 2 * x, true.vectors)},
            {"values": jnp.nan_to_num(true.values)},
            {"stats": true.stats | {"matvecs": true.stats["matvecs"] + 100}},
            {"result": linalg.RESULTS.asymmetric},
            {"result": linalg.RESULTS.where(asymmetric, linalg.RESULTS.successful, true.result)},
            {"state": jax.tree.map(lambda x: x / 0 if eqx.is_inexact_array(x) else x, true.state)},
        ]
        told = true
        for number, changes in enumerate(lies):
            lying = dataclasses.replace(true, **changes)
            pick = partial(jnp.where, self.lie == number)
            told = jax.tree.map(pick, lying, told)
        return told


@pytest.mark.parametrize(
    ("lie", "says"),
    list(
        enumerate(
            [
                "a residual of measurement 1 of the operator 'apart' is",
                "are claimed",
                "a bound of",
                "have not converged",
                "not orthonormal",
                "report nonfinite",
                "of a budget of 3",
                "called asymmetric",
                "tagged symmetric and is not",
                "is not finite",
            ]
        )
    ),
)
def test_a_lie_is_refused(lie, says):
    with pytest.raises(ValueError, match=says):
        check_solver(Lying(lie=jnp.asarray(lie)), overshoot=24)


def test_an_end_that_the_solver_does_not_know():
    with pytest.raises(ValueError, match="name one of these"):
        check_solver(linalg.Dense(), which="nearest")
