"""The data sets: facts about them, where their files are, and whether they are complete.

Nothing here imports jax, and nothing is ever downloaded.
"""

from aeoskit_experiments._renamed import renamed as _renamed

from ._entries import CATALOG as CATALOG
from ._entries import Entry as Entry
from ._entries import entry as entry
from ._survey import provenance as provenance
from ._survey import survey as survey
from ._survey import verify as verify
from ._where import cache_home as cache_home
from ._where import data_folder as data_folder
from ._where import expanded as expanded
from ._where import files_in as files_in
from ._where import find as find
from ._where import missing as missing
from ._where import search_paths as search_paths

__getattr__ = _renamed(__name__, {"looked_for": "search_paths"})
