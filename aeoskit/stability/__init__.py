"""Stability: thresholds checked against the linear recurrences that they come from."""

from ._recurrence import ThresholdCheck as ThresholdCheck
from ._recurrence import companion_matrix as companion_matrix
from ._recurrence import spectral_radius as spectral_radius
from ._recurrence import threshold_from_recurrence as threshold_from_recurrence
from ._recurrence import verify_threshold as verify_threshold
