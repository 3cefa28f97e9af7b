"""Stability: the linear recurrences of momentum rules, and multipliers of update maps.

A *product* is one with the Jacobian of an update map, a derivative of a training step.
"""

from .._renamed import renamed as _renamed
from ._equivalent import equivalent_ratio as equivalent_ratio
from ._multiplier import MULTIPLIER_RESULTS as MULTIPLIER_RESULTS
from ._multiplier import Multipliers as Multipliers
from ._multiplier import flip_multiplier as flip_multiplier
from ._multiplier import leading_multipliers as leading_multipliers
from ._multiplier import oscillating_multiplier as oscillating_multiplier
from ._period_two import PeriodTwoOrbit as PeriodTwoOrbit
from ._period_two import period_two_orbit as period_two_orbit
from ._recurrence import companion_matrix as companion_matrix
from ._recurrence import spectral_radius as spectral_radius

__getattr__ = _renamed(
    __name__,
    {
        "ThresholdCheck": "aeoskit.optimizers.check_optimizer",
        "threshold_from_recurrence": "aeoskit.optimizers.threshold_of",
        "verify_threshold": "aeoskit.optimizers.check_optimizer",
    },
)
