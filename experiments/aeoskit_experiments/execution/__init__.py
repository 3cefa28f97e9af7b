"""Execution of pipelines: building, training, branching, recording and summaries.

Modules are imported when one of their names is used: waiting for runs needs no xarray.
"""

import importlib
from typing import TYPE_CHECKING, Any

from aeoskit_experiments._renamed import renamed

if TYPE_CHECKING:
    from ._attempt import attempt as attempt
    from ._attempt import attempt_in_worker as attempt_in_worker
    from ._build import build as build
    from ._execute import Outcome as Outcome
    from ._execute import execute as execute
    from ._interrupt import Interrupt as Interrupt
    from ._listener import Listener as Listener
    from ._listener import SilentListener as SilentListener
    from ._listener import shown_text as shown_text
    from ._names import case_name as case_name
    from ._names import optimizer_name as optimizer_name
    from ._processes import Membership as Membership
    from ._processes import join as join
    from ._suite import SuiteOutcome as SuiteOutcome
    from ._suite import execute_suite as execute_suite
    from ._summary import FITTED as FITTED
    from ._summary import fitted_step as fitted_step
    from ._summary import measured as measured
    from ._summary import states_of as states_of
    from ._summary import summarize_advance as summarize_advance
    from ._summary import summarize_run as summarize_run
    from ._windows import edge_step as edge_step
    from ._windows import last_fifth as last_fifth

_HOMES = {
    "attempt": "_attempt",
    "attempt_in_worker": "_attempt",
    "build": "_build",
    "Outcome": "_execute",
    "execute": "_execute",
    "Interrupt": "_interrupt",
    "Listener": "_listener",
    "SilentListener": "_listener",
    "shown_text": "_listener",
    "case_name": "_names",
    "optimizer_name": "_names",
    "Membership": "_processes",
    "join": "_processes",
    "SuiteOutcome": "_suite",
    "execute_suite": "_suite",
    "FITTED": "_summary",
    "fitted_step": "_summary",
    "states_of": "_summary",
    "measured": "_summary",
    "summarize_advance": "_summary",
    "summarize_run": "_summary",
    "edge_step": "_windows",
    "last_fifth": "_windows",
}


_old = renamed(__name__, {"Silent": "SilentListener"}, stacklevel=3)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        return _old(name)
    return getattr(importlib.import_module(f"{__name__}.{_HOMES[name]}"), name)
