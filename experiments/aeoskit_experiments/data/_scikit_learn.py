"""What scikit-learn ships, read without its import, which takes longer than a small training."""

import importlib.util
from pathlib import Path


def shipped(folder: str) -> Path:
    """A folder of its data sets.

    Args:
        folder: which: data, descr.

    Raises:
        ModuleNotFoundError: If it is not installed.

    >>> (shipped("data") / "digits.csv.gz").is_file()
    True
    """
    spec = importlib.util.find_spec("sklearn")
    if spec is None or spec.origin is None:
        raise ModuleNotFoundError("No module named 'sklearn'", name="sklearn")
    return Path(spec.origin).parent / "datasets" / folder
