"""Meshes of devices, placements of arrays on them, and the collectives of compiled programs.

An array is *sharded* if each device holds a part of it, and *replicated* if each holds a copy.
"""

from .._renamed import renamed as _renamed
from ._collectives import Collective as Collective
from ._collectives import collectives as collectives
from ._mesh import check_mesh as check_mesh
from ._mesh import make_mesh as make_mesh
from ._placement import Placement as Placement
from ._placement import as_placement as as_placement
from ._placement import place_like as place_like
from ._placement import put as put
from ._spread import axes_of as axes_of
from ._spread import keep_axes as keep_axes
from ._spread import spread_spec as spread_spec

__getattr__ = _renamed(
    __name__,
    {
        "lie_like": "place_like",
        "only": "keep_axes",
        "spread": "spread_spec",
    },
)
