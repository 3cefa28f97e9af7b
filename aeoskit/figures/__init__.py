"""Pictures of records, for papers: labelled arrays in, matplotlib figures out."""

from ._advance import advance_figure as advance_figure
from ._curves import running_median as running_median
from ._edge import edge_figure as edge_figure
from ._edge import summary_figure as summary_figure
from ._multiplier import multiplier_figure as multiplier_figure
from ._save import save as save
from ._thresholds import threshold_figure as threshold_figure
