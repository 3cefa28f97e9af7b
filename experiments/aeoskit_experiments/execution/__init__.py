"""Carrying a pipeline out: building, training, branching, recording, summing up."""

from ._execute import Outcome as Outcome
from ._execute import execute as execute
from ._listener import Listener as Listener
from ._listener import Silent as Silent
from ._processes import Membership as Membership
from ._processes import join as join
from ._suite import SuiteOutcome as SuiteOutcome
from ._suite import execute_suite as execute_suite
from ._summary import summarize_advance as summarize_advance
from ._summary import summarize_run as summarize_run
from ._windows import edge_step as edge_step
from ._windows import last_fifth as last_fifth
from ._windows import running_median as running_median
