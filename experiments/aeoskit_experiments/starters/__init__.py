"""Commented starting files for users' own parts, which `aeoskit new` writes."""

from pathlib import Path

from aeoskit_experiments._errors import UserError, unknown

STARTERS = {
    "model": ("model", "MyNet"),
    "data": ("data", "my_data"),
    "loss": ("loss", "my_loss"),
    "optimizer": ("optimizer", "my_optimizer"),
    "probe": ("track", "MyProbe"),
    "recipe": ("run", "my_recipe"),
}
"""Kind to the word before its reference on the command line, and the name in the file."""


def write_starter(kind: str, path: Path) -> str:
    """Write a starting file, and return the reference to the part in it.

    Args:
        kind: One of `STARTERS`.
        path: The file, which must not exist yet.

    Returns:
        The reference, as on the command line.

    Raises:
        UserError: For an unknown kind, or a file that exists already or cannot be written.

    >>> import tempfile
    >>> write_starter("model", Path(tempfile.mkdtemp()) / "net.py").rpartition("/")[2]
    'net.py:MyNet'
    """
    if kind not in STARTERS:
        raise unknown("kind", kind, STARTERS)
    if path.suffix != ".py":
        raise UserError(f"{path} does not end with .py: name a Python file")
    source = Path(__file__).with_name(f"{kind}.py").read_text(encoding="utf-8")
    try:
        with path.open("x", encoding="utf-8") as file:
            file.write(source)
    except FileExistsError:
        raise UserError(f"{path} exists already: name another file with --file") from None
    except OSError as error:
        raise UserError(f"{path} cannot be written: {error}") from None
    place = str(path) if path.is_absolute() else f"./{path}"
    return f"{place}:{STARTERS[kind][1]}"
