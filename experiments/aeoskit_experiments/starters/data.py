"""A data set: arrays, one row per example."""

from typing import Literal

import numpy as np


def my_data(
    *, examples: int = 200, kind: Literal["sine", "step"] = "sine", seed: int = 0
) -> tuple[np.ndarray, np.ndarray]:
    """Noisy points of a curve.

    Args:
        examples: Number of points.
        kind: The curve.
        seed: Seed of the points.
    """
    random = np.random.default_rng(seed)
    inputs = random.uniform(-1, 1, (examples, 1))
    curve = np.sin(4 * inputs) if kind == "sine" else np.sign(inputs)
    # Targets are numbers, (n,) or (n, outputs), or classes, whole numbers (n,). Test rows may
    # follow: (inputs, targets, test_inputs, test_targets).
    return inputs, curve + 0.1 * random.normal(size=curve.shape)
