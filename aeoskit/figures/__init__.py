"""Figures of records, for papers: labeled arrays or numbers in, matplotlib figures out."""

from .._extra import extra_needed as _extra_needed

with _extra_needed(__name__, "matplotlib", "xarray"):
    from ._advance import advance_figure as advance_figure
    from ._beta2 import beta2_figure as beta2_figure
    from ._cases import cases_figure as cases_figure
    from ._cases import spread_figure as spread_figure
    from ._curves import running_median as running_median
    from ._edge import edge_figure as edge_figure
    from ._edge import summary_figure as summary_figure
    from ._epsilon import epsilon_figure as epsilon_figure
    from ._grid import grid_figure as grid_figure
    from ._levels import Level as Level
    from ._levels import levels_figure as levels_figure
    from ._multiplier import multiplier_figure as multiplier_figure
    from ._names import name_value as name_value
    from ._save import save as save
    from ._spikes import Spike as Spike
    from ._spikes import find_spikes as find_spikes
    from ._spikes import spikes_figure as spikes_figure
    from ._thresholds import threshold_figure as threshold_figure
    from ._warmup import warmup_figure as warmup_figure
