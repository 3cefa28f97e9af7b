"""The training loop: steps, probes, branches.

A *lane* is one of several runs that train together, as one entry of a sweep.
"""

from .._renamed import renamed as _renamed
from ._branch import AbstractBranch as AbstractBranch
from ._branch import Continue as Continue
from ._branch import FreezePreconditioner as FreezePreconditioner
from ._branch import SwitchOptimizer as SwitchOptimizer
from ._branch import branch as branch
from ._carry import AnyOptimizer as AnyOptimizer
from ._carry import Carry as Carry
from ._carry import Lane as Lane
from ._carry import Trajectory as Trajectory
from ._carry import copy_tree as copy_tree
from ._carry import stack_lanes as stack_lanes
from ._states import STATES as STATES
from ._states import WINDOW as WINDOW
from ._states import EdgeOfWindow as EdgeOfWindow
from ._states import EdgeStates as EdgeStates
from ._states import NextStates as NextStates
from ._states import RecentSteps as RecentSteps
from ._states import edge_of_window as edge_of_window
from ._states import edge_states as edge_states
from ._states import next_states as next_states
from ._stream import Chunk as Chunk
from ._stream import choose_mode as choose_mode
from ._stream import chunk_length as chunk_length
from ._stream import scan_chunk as scan_chunk
from ._stream import stream as stream

__getattr__ = _renamed(
    __name__,
    {
        "AbstractWay": "AbstractBranch",
    },
)
