"""Data sets that are shipped: nothing is downloaded."""

from ._dataset import AnyDataset as AnyDataset
from ._dataset import Dataset as Dataset
from ._dataset import PairDataset as PairDataset
from ._dataset import TokenDataset as TokenDataset
from ._digits import digits as digits
from ._quadratic import quadratic as quadratic
from ._tokens import markov as markov
from ._tokens import tokens as tokens
