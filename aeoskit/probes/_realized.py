"""The realized edge: how much of the decrease that its gradient promised a step did not get."""

from typing import Any

import equinox as eqx
import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, ArrayLike, Float, PyTree

from aeoskit._paths import check_like
from aeoskit.linalg import tree_dot, tree_where
from aeoskit.objective import Objective, loss_anatomy

from ._base import AbstractReading, Measurement, ProbeContext, check_every

MAX_ERROR = 0.05
"""The largest rounding bar at which a realized edge counts as known."""


class RealizedEdgeOfStep(eqx.Module):
    """The realized edge of one step.

    Attributes:
        value: `ζ = 1 - ΔL / ⟨g, Δw⟩`; NaN where `error` is above 0.05, or a loss is not finite.
        error: its rounding bar, `ε max(L + 4√L, 1) / |⟨g, Δw⟩|`, with the larger loss in magnitude
            and ε of its dtype; without the 1 for a sum of squares. The root is the rounding of
            outputs of order one in a squared error, which is most of it near a fit. The 1 is the
            rounding inside a logarithm, as in a cross-entropy. It is too small for outputs much
            larger than one, and for a mean times a large factor or a sum of many terms.
        predicted_change: `⟨g, Δw⟩`, the change of the loss to first order. Where it is not
            negative the step goes uphill, as momentum does at times, and ζ says nothing.

    Example:
        >>> import jax.numpy as jnp
        >>> import aeoskit as ak
        >>> edge = ak.realized_edge(jnp.asarray(1.0), jnp.asarray(0.5), 2.0, update=-0.5)
        >>> float(edge.value), float(edge.predicted_change)
        (0.5, -1.0)
    """

    value: Float[Array, ""]
    error: Float[Array, ""]
    predicted_change: Float[Array, ""]


def realized_edge(
    loss: Float[ArrayLike, ""],
    new_loss: Float[ArrayLike, ""],
    grads: PyTree,
    *,
    update: PyTree | None = None,
    params: PyTree | None = None,
    new_params: PyTree | None = None,
    epsilon: float | None = None,
    squares: bool = False,
) -> RealizedEdgeOfStep:
    """The realized edge `ζ = 1 - ΔL / ⟨g, Δw⟩` of a step, of any optimizer.

    0: the loss fell by what the gradient promised. 1: the step gained nothing and lost nothing, as
    at the edge of stability, where on a quadratic it is `(1/2) ΔwᵀHΔw / -⟨g, Δw⟩`. It needs neither
    the learning rate nor a preconditioner. See arXiv 2608.18415.

    Args:
        loss: the loss at the parameters before the step.
        new_loss: the loss after it, on the same data.
        grads: the gradient before the step, on these data.
        update: the step Δw that was taken, weight decay included, such as optax's updates.
        params: the parameters before the step, in place of `update`.
        new_params: the parameters after it.
        epsilon: the relative rounding of the losses, if a part of the model has less precision than
            their dtype: 0.0078 for bfloat16.
        squares: whether the loss is a sum of squares, as a squared error is: near a fit its
            rounding is smaller than that of other losses, and so is `error`.

    Returns:
        A `RealizedEdgeOfStep`: `value`, `error` and `predicted_change`.

    Raises:
        ValueError: neither `update` nor both of `params` and `new_params`, or all of them; trees of
            other shapes than those of `grads`; losses that are no scalars.

    Costs one inner product.

    Example:
        >>> import jax.numpy as jnp
        >>> import aeoskit as ak
        >>> def loss(w):
        ...     return 0.5 * jnp.sum(jnp.array([1.0, 4.0]) * w**2)
        >>> w = jnp.array([0.0, 1.0])
        >>> g = jax.grad(loss)(w)
        >>> edge = ak.realized_edge(loss(w), loss(w - 0.5 * g), g, update=-0.5 * g)
        >>> float(edge.value)  # at the edge: the learning rate is 2 over the curvature, 4
        1.0
    """
    if (update is None) == (params is None) or (params is None) != (new_params is None):
        raise ValueError(
            "realized_edge needs the step that was taken: pass either update, or both params and "
            "new_params, those before and after the step."
        )
    given = {"update": update} if params is None else {"params": params, "new_params": new_params}
    check_shapes(grads, "grads", given)
    losses = [jnp.asarray(x) for x in (loss, new_loss)]
    if any(x.ndim for x in losses):
        raise ValueError(
            f"the losses have the shapes {losses[0].shape} and {losses[1].shape}: pass scalars, "
            "the mean losses of which grads is a gradient."
        )
    if update is None:
        update = jax.tree.map(jnp.subtract, new_params, params)
    predicted_change = tree_dot(*jax.tree.map(jnp.asarray, (grads, update)))
    losses = [x if jnp.issubdtype(x.dtype, jnp.floating) else x.astype(float) for x in losses]
    value, error = edge_of_losses(*losses, predicted_change, jnp, (epsilon, squares))
    return RealizedEdgeOfStep(value, error, predicted_change)


def check_shapes(like: PyTree, called: str, given: dict[str, PyTree]) -> None:
    """Raises a `ValueError` unless some trees have the leaves and shapes of another.

    Args:
        like: the other.
        called: its name.
        given: the trees, by name.
    """
    fix = "pass both with the structure of the parameters"
    for name, tree in given.items():
        check_like(name, tree, like, (called, "has", "have"), fix)


def edge_of_losses(
    loss: Any,
    new_loss: Any,
    predicted_change: Any,
    xp: Any = np,
    rounding: tuple[float | None, bool] = (None, False),
) -> tuple[Any, Any]:
    """The realized edge and its rounding bar, elementwise.

    Args:
        loss: before the step.
        new_loss: after it.
        predicted_change: `⟨g, Δw⟩`.
        xp: `numpy` or `jax.numpy`.
        rounding: of the losses, as `loss_rounding` has it; None stands for their dtype's epsilon.

    Returns:
        `ζ`, NaN where it is not known, and the bar.

    Example:
        >>> change = np.float32([-0.5, -1e-9])
        >>> value, error = edge_of_losses(np.float32(1), np.float32(0.75), change)
        >>> value.tolist(), error.round(1).tolist()
        ([0.5, nan], [0.0, 596.0])
    """
    epsilon, squares = rounding
    epsilon = float(jnp.finfo(loss.dtype).eps) if epsilon is None else epsilon
    with np.errstate(all="ignore"):
        size = xp.maximum(abs(loss), abs(new_loss))
        size = size + 4 * xp.sqrt(size)
        size = size if squares else xp.maximum(size, 1)
        error = epsilon * size / abs(predicted_change)
        value = 1 - (new_loss - loss) / predicted_change
    # Comparisons with NaN are false, and the bar of an infinite loss is infinite.
    return xp.where(error <= MAX_ERROR, value, xp.nan), error


def loss_rounding(objective: Objective, params: PyTree, dtype: Any) -> tuple[float, bool]:
    """The rounding of a loss. Nothing is evaluated.

    Args:
        objective: the mean loss.
        params: the parameters, or their shapes and dtypes.
        dtype: that of the loss.

    Returns:
        The machine epsilon of the narrowest format in it, or of its own dtype; and whether it is
        seen to be a sum of squares.

    Example:
        >>> from aeoskit.objective import Objective
        >>> objective = Objective(lambda w, x: (x * w.astype(jnp.bfloat16)) ** 2, jnp.ones(2))
        >>> loss_rounding(objective, jnp.asarray(1.0), jnp.float32)
        (0.0078125, True)
    """
    anatomy = loss_anatomy(objective, params)
    return max(float(jnp.finfo(dtype).eps), anatomy.narrow), anatomy.squares


def edge_factors(
    change: Any,
    predicted_change: Any,
    sharpness: Any,
    threshold: Any,
    step_norm: Any,
) -> tuple[Any, Any]:
    """Participation ς and calibration τ, the factors of `ζ = χ ς / τ`, elementwise.

    χ is the ratio `λ₁(P⁻¹H) / k` of the sharpness to its threshold. ς is the curvature along the
    step over `λ₁`: the part of the step that lies along the top, at most 1 on a quadratic. τ is
    `-2 ⟨g, Δw⟩ / (k ΔwᵀPΔw)`, 1 for gradient descent. λ₁, k and `ΔwᵀPΔw` cancel in the product: the
    identity holds whatever they are.

    Args:
        change: `ΔL`, the change of the loss over the step.
        predicted_change: `⟨g, Δw⟩`.
        sharpness: `λ₁(P⁻¹H)`.
        threshold: the optimizer's stability threshold k of it.
        step_norm: `ΔwᵀPΔw`.

    Returns:
        ς and τ; NaN where one is not positive.

    Example:
        >>> participation, calibration = edge_factors(0.0, -2.0, 4.0, 4.0, 1.0)
        >>> float(participation), float(calibration)  # at the edge, all of it along the top
        (1.0, 1.0)
    """
    change, predicted_change, sharpness, threshold, step_norm = (
        np.asarray(x, float) for x in (change, predicted_change, sharpness, threshold, step_norm)
    )
    with np.errstate(all="ignore"):
        participation = 2 * (change - predicted_change) / (sharpness * step_norm)
        calibration = -2 * predicted_change / (threshold * step_norm)
    positive = [np.where(x > 0, x, np.nan) for x in (participation, calibration)]
    return positive[0], positive[1]


class RealizedEdge(AbstractReading):
    """Tracks the realized edge ζ of each step, of any optimizer (see `realized_edge`).

    Along a trajectory on all of the data it costs one inner product: ζ of a step follows from the
    loss before the next one. Its row is that of the step; that of a stream's last step is not known
    until it goes on (`Chunk.previous`). On minibatches it costs one more forward pass of the step's
    own batch, at the steps where it is due.

    Args:
        every: period in steps.
        metric_every: period of `step_norm`, `ΔwᵀPΔw` with the P of the step, from which
            `edge_factors` are; None: it is not measured. Costs a product with P.
        curvature: whether `step_curvature` is measured where `step_norm` is: `ΔwᵀHΔw / ΔwᵀPΔw` over
            the optimizer's threshold. Costs one Hessian-vector product.

    Raises:
        ValueError: `curvature` without `metric_every`.

    Measures `realized_edge` (NaN where its error is above 0.05, and where no step was taken),
    `realized_edge_error` (its rounding bar) and `predicted_change`, `⟨g, Δw⟩`.

    Example:
        >>> import jax, jax.numpy as jnp
        >>> import aeoskit as ak
        >>> objective = ak.Objective(lambda w, x: 0.5 * (x @ w - 1.0) ** 2, jnp.eye(2))
        >>> trajectory = ak.Trajectory(
        ...     objective, ak.gradient_descent(1.0), {"edge": ak.RealizedEdge()})
        >>> carry = trajectory.init(jnp.zeros(2), jax.random.key(0))
        >>> next(ak.stream(trajectory, carry, 3)).measurements["realized_edge"][:, 0].tolist()
        [0.25, 0.25, nan]
    """

    every: int = eqx.field(static=True, default=1, converter=check_every)
    metric_every: int | None = eqx.field(static=True, default=None)
    curvature: bool = eqx.field(static=True, default=False)

    def __check_init__(self):
        if self.metric_every is not None:
            check_every(self.metric_every)
        elif self.curvature:
            raise ValueError(
                "curvature is True, but metric_every is None, so that it would never be measured: "
                "pass its period as metric_every."
            )

    @property
    def measures(self) -> tuple[str, ...]:
        return ("realized_edge", "realized_edge_error", *self.measures_of_step)

    @property
    def measures_of_step(self) -> tuple[str, ...]:
        """The names of what is known of a step without the loss after it."""
        return ("predicted_change", *self.measures_in_metric)

    @property
    def measures_in_metric(self) -> tuple[str, ...]:
        """The names of what is measured every `metric_every` steps."""
        if self.metric_every is None:
            return ()
        return ("step_norm", "step_curvature") if self.curvature else ("step_norm",)

    def measure_step(self, context: ProbeContext, new_params: PyTree) -> Measurement:
        """Measures what is known of a step without the loss after it.

        Args:
            context: the point before the step.
            new_params: the parameters after it.

        Returns:
            The measurements of `measures_of_step`.
        """
        # The difference of what is stored: the loss after the step is that of rounded parameters.
        update = jax.tree.map(jnp.subtract, new_params, context.params)
        measured = {"predicted_change": tree_dot(context.grads, update)}
        if self.metric_every is None:
            return measured
        unknown = dict.fromkeys(self.measures_in_metric, jnp.full_like(context.value, jnp.nan))
        return measured | jax.lax.cond(
            context.step % self.metric_every == 0,
            lambda: self._in_metric(context, update),
            lambda: unknown,
        )

    def _in_metric(self, context: ProbeContext, update: PyTree) -> Measurement:
        optimizer, state, dtype = context.optimizer, context.optimizer_state, context.value.dtype
        metric = optimizer.preconditioner(state, context.grads, context.params)
        norm = tree_dot(update, metric.mv(update))
        measured = {"step_norm": norm.astype(dtype)}
        if self.curvature:
            curved = tree_dot(update, context.training.hessian(context.params).mv(update))
            threshold = optimizer.threshold(state, context.params)
            measured["step_curvature"] = (curved / norm / threshold).astype(dtype)
        return measured

    def measure(self, context: ProbeContext, state: None) -> tuple[Measurement, None]:
        """Takes the step and one forward pass; a trajectory on all of the data needs neither."""
        loss, optimizer = context.training.value, context.optimizer
        stepped, _ = optimizer.step(loss, context.params, context.optimizer_state, context.grads)
        # A lane that has diverged takes none.
        new_params = tree_where(context.active, stepped, context.params)
        measured = self.measure_step(context, new_params)
        rounding = loss_rounding(context.training, context.params, context.value.dtype)
        value, error = edge_of_losses(
            context.value, loss(new_params), measured["predicted_change"], jnp, rounding
        )
        return measured | {"realized_edge": value, "realized_edge_error": error}, state
