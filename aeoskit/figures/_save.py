"""Figures on disk, whole or not at all."""

import os
import tempfile
from pathlib import Path

import matplotlib
from matplotlib.figure import Figure

_FORMATS = {".png": {"dpi": 200}, ".pdf": {"metadata": {"CreationDate": None}}}


def save(figure: Figure, path: str | os.PathLike[str]) -> list[Path]:
    """Saves a figure as PNG (200 dots an inch) and PDF (text stays text).

    Args:
        figure: any matplotlib figure.
        path: where it belongs, without a suffix.

    Returns:
        the paths of the files, each of which appears whole or not at all.

    Example:
        >>> save(Figure(), Path(tempfile.mkdtemp()) / "empty")[0].name
        'empty.png'
    """
    path = Path(path)
    saved = []
    for suffix, options in _FORMATS.items():
        handle, name = tempfile.mkstemp(prefix=f".{path.name}-", suffix=suffix, dir=path.parent)
        os.close(handle)
        temporary = Path(name)
        try:
            with matplotlib.rc_context({"pdf.fonttype": 42}):
                figure.savefig(temporary, **options)
            # mkstemp makes private files; take the rights that an ordinary file would have.
            mask = os.umask(0o022)
            os.umask(mask)
            temporary.chmod(0o666 & ~mask)
            target = path.with_name(path.name + suffix)
            os.replace(temporary, target)
        except BaseException:
            temporary.unlink(missing_ok=True)
            raise
        saved.append(target)
    return saved
