"""The record of a run on disk: its writer and its readers."""

from .._extra import extra_needed as _extra_needed

with _extra_needed(__name__, "msgspec", "orbax", "pyarrow", "xarray"):
    from ._checkpoints import load_checkpoint as load_checkpoint
    from ._checkpoints import save_checkpoint as save_checkpoint
    from ._environment import environment as environment
    from ._files import to_json_safe as to_json_safe
    from ._files import write_atomically as write_atomically
    from ._lanes import lane_selection as lane_selection
    from ._reader import Run as Run
    from ._reader import list_runs as list_runs
    from ._reader import read_run as read_run
    from ._writer import RunWriter as RunWriter
    from ._writer import Status as Status
    from ._writer import create_run as create_run
