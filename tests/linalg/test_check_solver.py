"""Every solver passes the contract test, and the test refuses a solver with a false claim."""

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


class FalseClaims(linalg.Dense):
    """Right about everything but one thing; which one is data, so that all are one program."""

    claim: Array = dataclasses.field(default_factory=lambda: jnp.asarray(0))

    def finish(self, *arguments):
        true = super().finish(*arguments)
        asymmetric = true.result == linalg.RESULTS.asymmetric
        false_claims = [
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
        solution = true
        for number, changes in enumerate(false_claims):
            changed = dataclasses.replace(true, **changes)
            pick = partial(jnp.where, self.claim == number)
            solution = jax.tree.map(pick, changed, solution)
        return solution


@pytest.mark.parametrize(
    ("claim", "says"),
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
def test_a_false_claim_is_refused(claim, says):
    with pytest.raises(ValueError, match=says):
        check_solver(FalseClaims(claim=jnp.asarray(claim)), overshoot=24)


def test_an_end_that_the_solver_does_not_know():
    with pytest.raises(ValueError, match="name one of these"):
        check_solver(linalg.Dense(), which="nearest")
