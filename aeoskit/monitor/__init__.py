"""The same probes in a loop that is not ours."""

from ._monitor import Monitor as Monitor
