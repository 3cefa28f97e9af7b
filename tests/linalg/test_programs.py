"""Programs that a solve from Python compiles: few, and none twice."""

from __future__ import annotations

import jax
import jax.monitoring
import jax.numpy as jnp
import lineax as lx
import numpy as np
import pytest

from aeoskit.linalg import AbstractEigenSolver, Arnoldi, Lanczos, Tracking, eigensolve

_COMPILED = "/jax/core/compile/backend_compile_duration"
LEAVES = 6


def _scaled(vector: dict[str, jax.Array]) -> dict[str, jax.Array]:
    return {name: (1.0 + i) * x for i, (name, x) in enumerate(vector.items())}


def operator() -> lx.AbstractLinearOperator:
    structure = {f"w{i}": jax.ShapeDtypeStruct((2, 2), jnp.float32) for i in range(LEAVES)}
    return lx.FunctionLinearOperator(_scaled, structure, lx.symmetric_tag)


@pytest.mark.parametrize(
    "solver", [Tracking(), Lanczos(), Arnoldi()], ids=lambda s: type(s).__name__
)
def test_a_first_solve_compiles_few_programs_and_later_ones_next_to_none(
    solver: AbstractEigenSolver,
):
    """The vectors of leaves of one shape are cut by one program."""
    programs: list[float] = []

    def heard(event: str, duration_secs: float, **kwargs: object) -> None:
        if event == _COMPILED:
            programs.append(duration_secs)

    which = "largest" if "largest" in solver.ends else "largest_real"
    jax.clear_caches()
    jax.monitoring.register_event_duration_secs_listener(heard)
    try:
        solutions, counts, start = [], [], None
        for _ in range(3):
            solutions.append(eigensolve(operator(), solver, which=which, start=start))
            counts.append(len(programs))
            start = solutions[-1].state
    finally:
        jax.monitoring.unregister_event_duration_listener(heard)
    # A later solve may be the first to restart, or to look beside the wanted pair.
    assert counts[0] <= 9
    assert counts[1] <= counts[0] + 2
    assert counts[2] == counts[1]
    for solution in solutions:
        assert np.real(solution.values[0]) == pytest.approx(LEAVES, rel=1e-3)
        assert list(solution.vectors) == [f"w{i}" for i in range(LEAVES)]
        norms = [float(jnp.linalg.norm(x)) for x in solution.vectors.values()]
        assert norms[-1] == pytest.approx(1, abs=1e-2)
        assert max(norms[:-1]) < 0.1
