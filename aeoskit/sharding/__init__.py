"""Meshes of devices, where arrays lie on them, and what a compiled program sends between them."""

from ._collectives import Collective as Collective
from ._collectives import collectives as collectives
from ._mesh import check_mesh as check_mesh
from ._mesh import make_mesh as make_mesh
