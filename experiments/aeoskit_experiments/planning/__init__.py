"""Plans of runs for devices that are not present: shapes, compilers, verdicts."""

from aeoskit_experiments._renamed import renamed as _renamed

from ._layout import Layout as Layout
from ._layout import Share as Share
from ._layout import layout as layout
from ._plan import compile_rows as compile_rows
from ._plan import plan as plan
from ._request import PRODUCT as PRODUCT
from ._request import SOLVE as SOLVE
from ._request import PlanSettings as PlanSettings
from ._results import Attempt as Attempt
from ._results import Plan as Plan
from ._results import Row as Row
from ._results import Transfer as Transfer
from ._results import Verdict as Verdict
from ._topology import CHIPS as CHIPS
from ._topology import Chip as Chip
from ._topology import Topology as Topology
from ._topology import parse_topology as parse_topology
from ._transformers import transformer_pipeline as transformer_pipeline

__getattr__ = _renamed(__name__, {"Knobs": "PlanSettings"})
