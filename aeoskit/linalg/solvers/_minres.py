"""MINRES, as a lineax solver: the one that lineax lacks for symmetric systems of either sign."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import lineax as lx
from jaxtyping import Array, PyTree

from ..vectors._tree import tree_axpy, tree_dot, tree_dtype, tree_norm, tree_scale


class MINRES(lx.AbstractLinearSolver):
    """Minimal residuals by short recurrences, for symmetric operators, definite or not.

    One product a step, tested after each; five vectors, however many steps. (`lineax.GMRES` keeps
    `restart` vectors, and tests once in `restart` products; `lineax.CG` needs a definite operator.)
    Of a singular system that has no solution it returns what it had when it broke down, or the
    step limit was met, with that result.

    Source: Paige and Saunders, *Solution of sparse indefinite systems of linear equations*, SIAM
    J. Numer. Anal. 12 (1975).

    Args:
        rtol: Ends at `||b - A x|| <= rtol ||b|| + atol` (Euclidean norms).
        atol: See `rtol`.
        max_steps: The most products that a solve spends.

    Raises:
        ValueError: A negative tolerance, or no step; at a solve, an operator that is not symmetric.

    Example:
        >>> matrix = jnp.array([[2.0, 1.0], [1.0, -1.0]])
        >>> operator = lx.MatrixLinearOperator(matrix, lx.symmetric_tag)
        >>> solution = lx.linear_solve(operator, jnp.array([3.0, 0.0]), MINRES(rtol=1e-5))
        >>> [round(float(x), 3) for x in solution.value], int(solution.stats["num_steps"])
        ([1.0, 1.0], 2)
    """

    rtol: float = eqx.field(static=True)
    atol: float = eqx.field(default=0.0, static=True)
    max_steps: int = eqx.field(default=1000, static=True)

    def __check_init__(self):
        if not (self.rtol >= 0 and self.atol >= 0):
            raise ValueError(
                f"MINRES(rtol={self.rtol}, atol={self.atol}): a tolerance is not negative."
            )
        if self.max_steps < 1:
            raise ValueError(f"MINRES(max_steps={self.max_steps}): allow one step at least.")

    def init(self, operator: lx.AbstractLinearOperator, options: dict[str, Any]) -> Any:
        """The operator, linearized."""
        if not lx.is_symmetric(operator):
            raise ValueError(
                "MINRES is for symmetric operators: tag it lineax.symmetric_tag if it is one, or "
                "use lineax.GMRES or lineax.LSMR."
            )
        return lx.linearise(operator)

    def compute(
        self, state: Any, vector: PyTree[Array], options: dict[str, Any]
    ) -> tuple[PyTree[Array], lx.RESULTS, dict[str, Any]]:
        """The solution, how it ended, and `{"num_steps", "max_steps"}`."""
        dtype = tree_dtype(vector)
        tiny = jnp.finfo(dtype).eps
        size = tree_norm(vector)
        target = self.rtol * size + self.atol
        one, none = jnp.ones((), dtype), jnp.zeros((), dtype)
        zeros = jax.tree.map(jnp.zeros_like, vector)
        first = tree_scale(1 / jnp.where(size > 0, size, 1), vector)
        carry = dict(
            x=zeros, v=(zeros, first), w=(zeros, zeros), beta=none, eta=size, scale=none,
            c=(one, one), s=(none, none), steps=jnp.zeros((), jnp.int32), broken=jnp.asarray(False),
        )  # fmt: skip

        def not_done(c: Any) -> Array:
            return (jnp.abs(c["eta"]) > target) & ~c["broken"] & (c["steps"] < self.max_steps)

        def step(c: Any) -> Any:
            # One column of the tridiagonal matrix, by Lanczos ...
            v_old, v = c["v"]
            image = tree_axpy(-c["beta"], v_old, state.mv(v))
            alpha = tree_dot(v, image)
            image = tree_axpy(-alpha, v, image)
            beta = tree_norm(image)
            scale = jnp.maximum(c["scale"], jnp.abs(alpha) + beta + c["beta"])
            # ... taken through the last two rotations, and a third that ends it.
            (c_old, c_last), (s_old, s_last) = c["c"], c["s"]
            epsilon, tail = s_old * c["beta"], c_old * c["beta"]
            delta, gamma_bar = c_last * tail + s_last * alpha, c_last * alpha - s_last * tail
            gamma = jnp.sqrt(gamma_bar**2 + beta**2)
            singular = ~(gamma > tiny * scale)
            safe = jnp.where(singular, 1, gamma)
            cosine, sine = gamma_bar / safe, beta / safe
            w_old, w = c["w"]
            new = tree_axpy(-delta, w, tree_axpy(-epsilon, w_old, v))
            new = tree_scale(1 / safe, new)
            x = tree_axpy(jnp.where(singular, 0, cosine * c["eta"]), new, c["x"])
            exhausted = beta <= tiny * scale
            following = tree_scale(1 / jnp.where(exhausted, 1, beta), image)
            return dict(
                x=x, v=(v, following), w=(w, new), beta=beta, scale=scale,
                eta=jnp.where(singular, c["eta"], -sine * c["eta"]),
                c=(c_last, cosine), s=(s_last, sine), steps=c["steps"] + 1,
                broken=singular | exhausted,
            )  # fmt: skip

        end = jax.lax.while_loop(not_done, step, carry)
        # NaN is never under a target.
        good = jnp.abs(end["eta"]) <= jnp.maximum(target, 4 * tiny * size)
        result = lx.RESULTS.where(end["broken"], lx.RESULTS.singular, lx.RESULTS.max_steps_reached)
        result = lx.RESULTS.where(good, lx.RESULTS.successful, result)
        return end["x"], result, {"num_steps": end["steps"], "max_steps": self.max_steps}

    def transpose(self, state: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Itself: the operator is symmetric."""
        return state, options

    def conj(self, state: Any, options: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Itself: the operator is real."""
        return state, options

    def assume_full_rank(self) -> bool:
        """It returns one solution, not the shortest."""
        return True


def count_products(solver: lx.AbstractLinearSolver, stats: dict[str, Any], size: int) -> Any:
    """Counts the products of the operator in a lineax solve, from its number of steps.

    Exact for MINRES, CG and BiCGStab (to one product), an upper estimate for GMRES (each cycle
    counts in full) and LSMR (a product of the transpose counts as one), and for solvers that are
    not known here three a step. Solvers without steps take the matrix: `size` products.
    """
    steps = stats.get("num_steps")
    if steps is None:
        return size
    if isinstance(solver, MINRES):
        return steps
    if isinstance(solver, lx.CG):
        every = solver.stabilise_every
        return 1 + steps + (0 if every is None else steps // every)
    if isinstance(solver, lx.GMRES):
        # Its first step only sets up the residual.
        return 1 + jnp.maximum(steps - 1, 0) * (min(solver.restart, size) + 1)
    if isinstance(solver, lx.BiCGStab | lx.LSMR):
        return 2 + 2 * steps
    return 2 + 3 * steps
