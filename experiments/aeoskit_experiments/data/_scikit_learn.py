"""Data that scikit-learn ships, read without importing it, which takes longer than a small run."""

import importlib.util
from pathlib import Path


def shipped(folder: str) -> Path:
    """A folder of scikit-learn's data sets.

    Args:
        folder: data or descr.

    Raises:
        ModuleNotFoundError: If it is not installed.

    >>> (shipped("data") / "digits.csv.gz").is_file()
    True
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")
    return Path(spec.origin).parent / "datasets" / folder
