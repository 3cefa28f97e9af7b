"""A monitor of somebody else's training loop: called at every step, it measures at some."""

import contextlib
import inspect
import time
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jax.core import Tracer
from jaxtyping import PyTree

from aeoskit._extra import extra_needed
from aeoskit._paths import check_like
from aeoskit.linalg import AbstractEigenSolver, tree_norm
from aeoskit.objective import Linearization, Objective
from aeoskit.probes import (
    loss_rounding,
    preconditioned_sharpness,
    probe_solver,
    realized_edge,
    sharpness,
)
from aeoskit.trajectory import STATES, RecentSteps, next_states

if TYPE_CHECKING:
    import pandas as pd
    from matplotlib.figure import Figure

Row = dict[str, Any]
"""Plain numbers, words and None, by name."""

EVERY = 10
"""Steps between two measurements, if neither a period nor a budget is given."""

DIVERGED = "diverged"
"""The state of a run whose loss is not finite."""

_COMPILING = 2
"""Rows that compile, a cold solve and a warm one: no budget counts them."""

_WINDOW, _FEWEST = 50, 5
"""The steps whose realized edges decide the state, and the measurements at least."""


class _Loss(eqx.Module):
    """A user's loss as one of the trained arrays and a batch; the other leaves are its own."""

    loss: Callable[..., Any]
    rest: PyTree
    spread: bool = eqx.field(static=True)
    has_aux: bool = eqx.field(static=True)

    def returned(self, params: PyTree, batch: PyTree) -> Any:
        """The value of the user's function."""
        model = eqx.combine(params, self.rest)
        return self.loss(model, *batch) if self.spread else self.loss(model, batch)

    def __call__(self, params: PyTree, batch: PyTree) -> Any:
        found = self.returned(params, batch)
        if isinstance(found, tuple) != self.has_aux:
            # A pair of scalars would be taken for a sum and its weight, an array for a pair.
            raise TypeError(
                f"the loss returned {'a tuple' if isinstance(found, tuple) else 'one array'}, and "
                f"has_aux is {self.has_aux}: pass "
                f"has_aux={not self.has_aux}, or return the loss alone where it is False."
            )
        return found[0] if self.has_aux else found


class _Pending(NamedTuple):
    """The part of a measurement that waits for the parameters after its step."""

    row: Row
    objective: Objective
    params: PyTree
    value: Any
    grads: PyTree
    # Whether the step is that of the probe batch's own gradient.
    own: bool


class Monitor:
    """Measures in a training loop of your own how close it is to the edge of stability.

    Call it at every step, before the update. At some steps it measures: the loss and its gradient
    on the probe batch, `λ₁(P⁻¹H)` and its threshold, with a warm start. The realized edge ζ of a
    step needs the parameters after it, so a row is returned by the *next* call. Calls between cost
    nothing.

    Args:
        loss: a function of the parameters (or the model) and the batch, as `(params, batch)` or, if
            it takes more, `(params, *batch)`. It returns the mean, or one number per example.
        optimizer: an optax transformation or one of aeoskit's; None for one that neither knows:
            then there is no `λ₁(P⁻¹H)`, and `sharpness` is measured.
        batch: the probe batch: a pytree of arrays with the examples first, always the same ones. A
            list of batches, or a finite iterator, is joined to one; a batch's parts are a tuple.
        every: steps between two measurements; 10 if `overhead` is not given either.
        overhead: in place of `every`, the time for measurements over that of the loop: 0.2 for a
            fifth. The first two measurements, which compile, do not count.
        sharpness: whether `λ₁(H)` is measured too.
        has_aux: whether the loss returns a pair, whose second part is not used.
        microbatch: examples of the probe batch that are looked at at a time, to save memory.
        solver: the eigen-solver, `probe_solver()` if None.

    Raises:
        TypeError: a loss that cannot be called, with two arguments or with the parts of the batch.
        ValueError: `every` and `overhead` together, or out of range.

    The first measurement also checks the loss, as `Objective.check` does. Each costs a gradient on
    the probe batch and the products that its row counts; the next call costs one loss. Between them
    the monitor keeps a copy of the parameters and a gradient. One monitor is for one run; the row
    of the last measured step needs one more call.

    Example:
        >>> import jax.numpy as jnp
        >>> import aeoskit as ak
        >>> data = jnp.eye(2), jnp.ones(2)
        >>> def loss(w, x, y):
        ...     return 0.5 * jnp.mean((x @ w - y) ** 2)
        >>> optimizer, w = ak.gradient_descent(4.0), jnp.zeros(2)
        >>> monitor, state = ak.Monitor(loss, optimizer, data, every=1), optimizer.init(w)
        >>> for _ in range(3):
        ...     row = monitor(w, state)
        ...     updates, state = optimizer.update(jax.grad(loss)(w, *data), state, w)
        ...     w = ak.apply_updates(w, updates)
        >>> print(row["step"], row["ratio"], row["zeta"])
        1 1.0 1.0
    """

    def __init__(
        self,
        loss: Callable[..., Any],
        optimizer: Any,
        batch: PyTree,
        *,
        every: int | None = None,
        overhead: float | int | None = None,
        sharpness: bool = False,
        has_aux: bool = False,
        microbatch: int | None = None,
        solver: AbstractEigenSolver | None = None,
    ):
        if not callable(loss):
            raise TypeError(
                f"loss is a {type(loss).__name__}, which cannot be called: the order is "
                "Monitor(loss, optimizer, batch)."
            )
        if every is not None and overhead is not None:
            raise ValueError(
                f"every is {every} and overhead is {overhead}: give a period or a budget, not both."
            )
        if every is not None and (not isinstance(every, int) or every < 1):
            raise ValueError(f"every is {every}: give a whole number of steps, at least 1.")
        if overhead is not None and not 0 < overhead <= 1:
            raise ValueError(
                f"overhead is {overhead}: give a share of the loop's time, such as 0.2 for a fifth."
            )
        if optimizer is not None and not hasattr(optimizer, "init"):
            raise TypeError(
                f"optimizer is a {type(optimizer).__name__}: pass an optax transformation, one of "
                "aeoskit's, or None; the order is Monitor(loss, optimizer, batch)."
            )
        self._every = EVERY if every is None and overhead is None else every
        self._overhead = overhead
        self._loss, self._has_aux, self._microbatch = loss, has_aux, microbatch
        self._optimizer = optimizer
        self._batch = _joined(batch)
        self._spread = _takes_parts(loss, self._batch)
        self._raw = sharpness or optimizer is None
        self._solver = probe_solver() if solver is None else solver
        self._starts: dict[str, Any] = {}
        self._objective: Objective | None = None
        self._checked = False
        # The structure of the trained parameters, once it is known.
        self._like: PyTree | None = None
        self._rows: list[Row] = []
        self._recent = RecentSteps()
        self._pending: _Pending | None = None
        self._calls = 0
        # Seconds: of the loop, of measurements, of the last one, and the clock after the last call.
        self._loop = self._spent = self._cost = 0.0
        self._left: float | None = None

    def __call__(
        self, params: PyTree, optimizer_state: PyTree = None, grads: PyTree | None = None
    ) -> Row | None:
        """Called at every step, before its update.

        Args:
            params: the parameters, or the model: its floating arrays are trained.
            optimizer_state: the optimizer's state before the step.
            grads: the gradient of the step, if it is not that of the probe batch, as with
                minibatches: P of the step contains it.

        Returns:
            The row of the step before, if that was measured, else None: `step`, `loss`,
            `gradient_norm`, `preconditioned_sharpness` with its error bar `bound`, `threshold`,
            `ratio`, `sharpness`, `converged`, `zeta` with `zeta_error` (NaN where it is not known
            or the step goes uphill), `state` (None before five measurements, and with `grads`),
            `products`, `seconds`, and `copies`, the memory that the monitor holds over that of the
            parameters.

        Raises:
            TypeError: inside jit; an optimizer that is not known; no state for one that is.
            ValueError: a state that does not belong to the optimizer and the parameters; as
                `Objective` for the batch and what the loss returns.
        """
        if self._optimizer is not None and optimizer_state is None:
            raise TypeError(
                "the optimizer's state is missing: call monitor(params, optimizer_state), before "
                "the update."
            )
        step = self._calls
        due, counts = self._is_due(step), len(self._rows) >= _COMPILING
        if self._pending is None and not due:
            self._calls += 1
            return None
        if any(isinstance(leaf, Tracer) for leaf in jax.tree.leaves(params)):
            raise TypeError("the monitor was called inside jit: call it in the loop around it.")
        # What the loop has not finished is its own time, not the monitor's.
        jax.block_until_ready((params, optimizer_state))
        began = time.perf_counter()
        if self._left is not None:
            self._loop += began - self._left
        arrays, rest = eqx.partition(params, eqx.is_inexact_array)
        self._check(arrays, optimizer_state, grads)
        with _full_precision():
            row = self._complete(arrays)
            if due:
                self._measure(step, arrays, rest, optimizer_state, grads)
        self._calls += 1
        self._left = time.perf_counter()
        if counts:
            self._spent += self._left - began
            # A row costs its measurement and, at the next call, its completion.
            self._cost = (0.0 if due else self._cost) + self._left - began
        return row

    def _check(self, params: PyTree, state: PyTree, grads: PyTree | None) -> None:
        """Refuses what is unlike the first call's, and at that what the optimizer does not take."""
        if self._like is None:
            if not jax.tree.leaves(params):
                raise TypeError("the parameters hold no floating array: there is nothing to train.")
            if self._optimizer is not None:
                wanted = jax.eval_shape(self._optimizer.init, params)
                who = ("a new state for these parameters", "has", "have")
                check_like("state", state, wanted, who, "call monitor(params, optimizer_state)")
            self._like = jax.eval_shape(lambda tree: tree, params)
        fix = "make a new monitor for another model"
        check_like("params", params, self._like, ("the first call", "had", "have"), fix)
        if grads is not None:
            trained = eqx.filter(grads, eqx.is_inexact_array)
            fix = "pass the gradient of the step, for the parameters that are trained"
            check_like("grads", trained, self._like, ("the model", "has", "have"), fix)

    def _check_loss(self, params: PyTree, rest: PyTree) -> None:
        """Refuses a loss that fails on the probe batch, in one line."""
        loss = _Loss(self._loss, rest, self._spread, self._has_aux)
        try:
            jax.eval_shape(loss.returned, params, self._batch)
        except Exception as error:
            reason = " ".join(str(error).split("--------------------")[0].split())[:200]
            raise ValueError(
                f"the loss fails on these parameters and the probe batch ({reason}): pass a batch "
                "as it takes, and turn off what draws random numbers."
            ) from error

    def _is_due(self, step: int) -> bool:
        if self._overhead is None:
            assert self._every is not None
            return step % self._every == 0
        if self._left is None:
            return True
        if not self._rows:  # the first row, whose cost is that of compiling, is not complete
            return False
        loop = self._loop + time.perf_counter() - self._left
        return self._spent + self._cost <= self._overhead * loop

    def _measure(
        self, step: int, params: PyTree, rest: PyTree, state: PyTree, grads: PyTree | None
    ) -> None:
        began = time.perf_counter()
        objective = self._objective_with(rest)
        if not self._checked:
            self._check_loss(params, rest)
            objective.check(params)
            self._checked = True
        point = objective.linearize(params)
        row: Row = {
            "step": step,
            "loss": float(point.value),
            "gradient_norm": float(tree_norm(point.grads)),
        }
        converged, products = True, 0
        options: dict[str, Any] = {"solver": self._solver, "linearization": point}
        if self._optimizer is not None:
            edge = preconditioned_sharpness(
                objective,
                params,
                self._optimizer,
                state,
                grads=None if grads is None else eqx.filter(grads, eqx.is_inexact_array),
                start=self._start("preconditioned", point),
                **options,
            )
            self._starts["preconditioned"] = edge.solution.state
            row |= {
                "preconditioned_sharpness": float(jnp.real(edge.values[0])),
                "bound": float(edge.bounds[0]),
                "threshold": float(edge.threshold),
                "ratio": float(edge.ratio),
            }
            converged &= bool(edge.solution.converged[0])
            products += int(edge.solution.stats["matvecs"])
        if self._raw:
            top = sharpness(objective, params, start=self._start("raw", point), **options)
            self._starts["raw"] = top.state
            row["sharpness"] = float(jnp.real(top.values[0]))
            converged &= bool(top.converged[0])
            products += int(top.stats["matvecs"])
        # A copy: the loop may give the buffers of its parameters away.
        kept = jax.tree.map(jnp.copy, params)
        held = _bytes((kept, point.grads, self._starts)) / max(_bytes(params), 1)
        row |= {
            "converged": converged,
            "products": products,
            "seconds": time.perf_counter() - began,
            "copies": held,
        }
        self._pending = _Pending(row, objective, kept, point.value, point.grads, grads is None)

    def _start(self, name: str, point: Linearization) -> Any:
        """The state of the last solve; a blank one at first, so that all are one program."""
        if name not in self._starts:
            return self._solver.initial_state(point.hessian.in_structure())
        return self._starts[name]

    def _complete(self, params: PyTree) -> Row | None:
        """The row that waits for the parameters after its step."""
        if self._pending is None:
            return None
        row, objective, before, value, grads, own = self._pending
        self._pending = None  # should what follows fail, the next calls do not
        epsilon, squares = loss_rounding(objective, params, value.dtype)
        edge = realized_edge(
            value,
            objective.value(params),
            grads,
            params=before,
            new_params=params,
            epsilon=epsilon,
            squares=squares,
        )
        downhill = float(edge.predicted_change) < 0
        row |= {"zeta": float(edge.value) if downhill else np.nan, "zeta_error": float(edge.error)}
        # By measurements and not by steps, of which a budget leaves out as many as it must.
        period = self._every or EVERY
        _, codes, self._recent = next_states(
            self._recent,
            [len(self._rows) * period],
            [row["zeta"]],
            window=max(_WINDOW, _FEWEST * period),
        )
        # On another batch than that of the step, ζ is too noisy for a state to follow.
        row["state"] = STATES[int(codes[0])] if own and codes[0] == codes[0] else None
        if not np.isfinite(row["loss"]):
            row["state"] = DIVERGED
        self._rows.append(row)
        return dict(row)

    def _objective_with(self, rest: PyTree) -> Objective:
        """The objective on the probe batch; leaves that are not trained may have changed."""
        if self._objective is None or jax.tree.leaves(rest):
            # Copies: the loop may give these buffers away too.
            rest = jax.tree.map(lambda leaf: jnp.copy(leaf) if eqx.is_array(leaf) else leaf, rest)
            loss = _Loss(self._loss, rest, self._spread, self._has_aux)
            self._objective = Objective(loss, self._batch, microbatch=self._microbatch)
        return self._objective

    @property
    def rows(self) -> list[Row]:
        """All rows that are complete, the oldest first."""
        return [dict(row) for row in self._rows]

    def table(self) -> "pd.DataFrame":
        """All rows, by step.

        Returns:
            A table of pandas.

        Raises:
            ImportError: without `aeoskit[experiments]`.
        """
        with extra_needed("Monitor.table", "pandas"):
            import pandas as pd

        return pd.DataFrame(self._rows).set_index("step") if self._rows else pd.DataFrame()

    def figure(self, title: str | None = None) -> "Figure":
        """Draws the rows: the loss, the sharpness with its threshold, and the realized edge.

        Args:
            title: what stands above the figure; None for nothing.

        Returns:
            A figure of matplotlib.

        Raises:
            ImportError: without `aeoskit[experiments]`.
            ValueError: before the first row.
        """
        with extra_needed("Monitor.figure", "matplotlib", "xarray"):
            import xarray as xr

            from aeoskit.figures import edge_figure

        if not self._rows:
            raise ValueError("no row is complete: call the monitor at two steps or more first.")
        codes = {name: place for place, name in enumerate(STATES)}
        table = self.table()
        table["state"] = table["state"].map(codes.get).astype(float)
        names = {"zeta": "realized_edge", "state": "edge_state"}
        curves = {
            names.get(name, name): (("branch", "step"), table[name].to_numpy(float)[None])
            for name in table
        }
        steps = table.index.to_numpy()
        return edge_figure(xr.Dataset(curves, {"branch": ["probe batch"], "step": steps}), title)


def _full_precision() -> Any:
    """Full matmul precision, if the user has asked for none: less would show in λ₁ and in ζ."""
    if jax.config.jax_default_matmul_precision is None:  # pyright: ignore
        return jax.default_matmul_precision("highest")
    return contextlib.nullcontext()


def _bytes(tree: PyTree) -> int:
    return sum(leaf.nbytes for leaf in jax.tree.leaves(tree) if eqx.is_array(leaf))


def _joined(batch: PyTree) -> PyTree:
    """The batch; of a list or an iterator of batches, all of their examples."""
    if isinstance(batch, Iterator):
        parts = list(batch)
        return jax.tree.map(lambda *leaves: jnp.concatenate(leaves), *parts)
    is_many = (
        isinstance(batch, list)
        and batch
        and not any(jax.tree_util.all_leaves([part]) for part in batch)
        and all(np.ndim(leaf) for leaf in jax.tree.leaves(batch))
    )
    return jax.tree.map(lambda *parts: jnp.concatenate(parts), *batch) if is_many else batch


def _takes_parts(loss: Callable[..., Any], batch: PyTree) -> bool:
    """True if a loss takes the parts of a batch one by one, and not the batch.

    Raises:
        TypeError: it can be called with neither.
    """
    try:
        signature = inspect.signature(loss)
    except (TypeError, ValueError):  # a builtin: its first call tells
        return False
    parts = batch if isinstance(batch, tuple | list) else (batch,)
    for spread, arguments in ((False, (None, None)), (True, (None, *parts))):
        try:
            signature.bind(*arguments)
        except TypeError:
            continue
        return spread
    raise TypeError(
        f"the loss takes {signature}, and the probe batch has {len(parts)} parts: give it the "
        "arguments (params, batch), or (params, *batch)."
    )
