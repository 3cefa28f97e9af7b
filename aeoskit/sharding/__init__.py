"""Meshes of devices, where arrays lie on them, and what a compiled program sends between them."""

from ._collectives import Collective as Collective
from ._collectives import collectives as collectives
from ._mesh import check_mesh as check_mesh
from ._mesh import make_mesh as make_mesh
from ._placement import Placement as Placement
from ._placement import as_placement as as_placement
from ._placement import lie_like as lie_like
from ._placement import put as put
from ._spread import axes_of as axes_of
from ._spread import only as only
from ._spread import spread as spread
