"""Rows of measurements on the host, blank where nothing was measured."""

from collections.abc import Mapping

import jax
import numpy as np

from aeoskit.probes import AbstractProbe, ProbeBudget, is_due

Rows = dict[str, np.ndarray]


def blank(like: np.ndarray | jax.ShapeDtypeStruct, *shape: int) -> np.ndarray:
    """NaN where the type has one, otherwise zero."""
    return np.full(shape, np.nan if np.issubdtype(like.dtype, np.inexact) else 0, like.dtype)


def concatenate_rows(parts: list[tuple[int, Rows]]) -> Rows:
    """Concatenates parts, each of a number of rows; names that a part lacks are blank there."""
    examples: Rows = {}
    for _, rows in parts:
        examples = rows | examples
    return {
        name: np.concatenate(
            [
                rows[name] if name in rows else blank(value, count, *value.shape[1:])
                for count, rows in parts
            ]
        )
        for name, value in examples.items()
    }


def due_masks(
    probes: Mapping[str, AbstractProbe], budgets: Mapping[str, ProbeBudget], steps: np.ndarray
) -> Rows:
    """For each quantity, at which of the steps its probe is due."""
    masks: Rows = {}
    for key, probe in probes.items():
        mask = np.broadcast_to(is_due(probe, budgets.get(key), steps), steps.shape)
        masks |= dict.fromkeys(probe.measures, mask)
    return masks
