"""Data sets that are shipped: nothing is downloaded."""

from ._dataset import Dataset as Dataset
from ._digits import digits as digits
from ._quadratic import quadratic as quadratic
