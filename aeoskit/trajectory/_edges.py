"""Realized edges on the host: that of a step follows from the loss before the next one."""

import jax
import numpy as np
from jaxtyping import Array, Float, PyTree

from aeoskit.probes import edge_of_losses, loss_rounding

from ._carry import Trajectory, edge_probe, is_free, take_lane
from ._rows import Rows
from ._step import LOSS_OF_STEP

EDGE = ("realized_edge", "realized_edge_error")


def complete_edges(
    trajectory: Trajectory,
    steps: np.ndarray,
    rows: Rows,
    masks: Rows,
    pending: Float[Array | np.ndarray, "2 lanes"] | None,
    params: PyTree,
) -> tuple[Rows, Float[np.ndarray, "2 lanes"] | None]:
    """Adds the realized edges to the rows of a chunk, that of its last step excepted.

    Args:
        trajectory: the run.
        steps: the steps of the chunk.
        rows: its rows, in which the losses are replaced by the edges.
        masks: for each quantity, when it was measured; completed too.
        pending: loss and predicted change of the step before the chunk, if they are known.
        params: the parameters, with a lane axis in a sweep (their shapes and dtypes are read).

    Returns:
        The measurements of the step before, if it was due, and the pending ones of the last.
    """
    probe = edge_probe(trajectory)
    if probe is None:
        return {}, None
    for name in probe.measures_in_metric:
        masks[name] = masks[name] & (steps % (probe.metric_every or 1) == 0)
    if not is_free(trajectory, probe):
        return {}, None
    losses, dtype = rows.pop(LOSS_OF_STEP), rows["predicted_change"].dtype
    if trajectory.lanes is not None:
        params = jax.eval_shape(lambda tree: take_lane(tree, 0), params)
    rounding = loss_rounding(trajectory.objective, params, losses.dtype)
    # In double precision, in which what is pending is the same number as its row.
    losses, changes = losses.astype(float), rows["predicted_change"].astype(float)
    before = (
        np.full((2, losses.shape[1]), np.nan) if pending is None else np.asarray(pending, float)
    )
    all_losses = np.concatenate([before[:1], losses])
    edges = edge_of_losses(
        all_losses[:-1],
        all_losses[1:],
        np.concatenate([before[1:], changes[:-1]]),
        np,
        rounding,
    )
    previous: Rows = {}
    due = pending is not None and steps[0] > 0 and (steps[0] - 1) % probe.every == 0
    for name, values in zip(EDGE, edges, strict=True):
        values = values.astype(dtype)
        rows[name] = np.concatenate([values[1:], np.full_like(values[:1], np.nan)])
        masks[name] = masks[name] & (steps < steps[-1])
        if due:
            previous[name] = values[0]
    return previous, np.stack([losses[-1], changes[-1]]).astype(np.result_type(dtype, np.float32))
