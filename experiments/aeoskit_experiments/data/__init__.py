"""Data sets that are shipped: nothing is downloaded."""

from ._dataset import AnyDataset as AnyDataset
from ._dataset import Dataset as Dataset
from ._dataset import PairDataset as PairDataset
from ._dataset import TokenDataset as TokenDataset
from ._digits import digits as digits
from ._dyck import dyck as dyck
from ._modular import modular as modular
from ._parallel import parallel as parallel
from ._quadratic import quadratic as quadratic
from ._sorting import sorting as sorting
from ._text import text as text
from ._tokens import markov as markov
from ._tokens import tokens as tokens
from ._wikitext import wikitext as wikitext
