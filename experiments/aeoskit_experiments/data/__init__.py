"""Data sets that are shipped, drawn, or read from files of yours: nothing is downloaded."""

from ._chebyshev import chebyshev as chebyshev
from ._cifar import cifar10 as cifar10
from ._cifar import cifar100 as cifar100
from ._dataset import AnyDataset as AnyDataset
from ._dataset import Dataset as Dataset
from ._dataset import PairDataset as PairDataset
from ._dataset import TokenDataset as TokenDataset
from ._digits import digits as digits
from ._dyck import dyck as dyck
from ._idx import fashion_mnist as fashion_mnist
from ._idx import idx as idx
from ._idx import mnist as mnist
from ._mixture import mixture as mixture
from ._mnist5k import mnist5k as mnist5k
from ._modular import modular as modular
from ._parallel import parallel as parallel
from ._patches import patches as patches
from ._quadratic import quadratic as quadratic
from ._sorting import sorting as sorting
from ._text import text as text
from ._tokens import markov as markov
from ._tokens import tokens as tokens
from ._topics import topics as topics
from ._wikitext import wikitext as wikitext
