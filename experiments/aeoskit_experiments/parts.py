"""Users' own parts: `module:name` or `./file.py:name`, run because the user typed the name.

A pipeline holds the source and its SHA-256 beside the name, so that a process that gets the
pipeline as data (a child process, a rerun) runs exactly that source. Source that comes as data runs
only if it is trusted: the user typed its name before, the parent process passed it on, or the user
allows it.
"""

import functools
import hashlib
import importlib
import importlib.util
import inspect
import linecache
import os
import sys
import time
import traceback
import types
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import Any

import msgspec

from aeoskit_experiments._errors import UserError, nearest, unknown
from aeoskit_experiments.catalog import cache_home

IN_PYTHON = "python"
"""The prefix of a reference to a function without a file, or without a name in it."""


class Code(msgspec.Struct, frozen=True):
    """The source of a part.

    Args:
        file: Its file; empty for code typed into Python.
        sha256: SHA-256 of the source.
        source: Text of the file.
    """

    file: str
    sha256: str
    source: str


class Part(msgspec.Struct, frozen=True):
    """A part that was found: the function or class, the reference to it, and its source."""

    reference: str
    function: Callable[..., Any]
    code: Code


_objects: dict[tuple[str, Code], Any] = {}
_trusted: set[tuple[str, Code]] = set()
_STARTED = time.time()


def is_reference(name: str) -> bool:
    """True if a variant's name is a reference to a user's own part.

    >>> is_reference("./net.py:Net"), is_reference("mlp")
    (True, False)
    """
    return ":" in name


def short_name(reference: str) -> str:
    """The part's own name.

    >>> short_name("./net.py:Net")
    'Net'
    """
    return reference.rpartition(":")[2]


def find_part(reference: str) -> Part:
    """Find and import a part whose name the user typed; its source is trusted from then on.

    Args:
        reference: `./file.py:name`, or `module:name`, searched among the installed modules and then
            in the current folder.

    Returns:
        The part.

    Raises:
        UserError: If there is no such file, module or name (with the nearest one), or its source
            raises while it is imported.
    """
    _check_printable(reference)
    place, _, name = reference.rpartition(":")
    if place == IN_PYTHON:
        raise UserError(f"{reference} was typed into Python: pass the function itself")
    if place.endswith(".py") or "/" in place:
        code = _read(_file(place, reference))
    else:
        code = _read(_module(place, reference))
    if not name:
        raise UserError(f"{reference} lacks the part's name: write {place}:NAME")
    trust(reference, code)
    function = load_part(reference, code)
    _remember(reference, code)
    return Part(reference, function, code)


def part_of(function: Callable[..., Any]) -> Part:
    """A function or class of the running program, as a part that a pipeline can hold as data.

    Args:
        function: Any callable. Children and reruns can find a name at the top of a file again; any
            other function runs only in this process.

    Returns:
        The part.
    """
    for (reference, code), known in _objects.items():
        if known is function:
            return Part(reference, function, code)
    name = getattr(function, "__qualname__", None) or type(function).__name__
    try:
        file = inspect.getsourcefile(function)
        path = Path(file or "")
        # A file that has changed since this process started may not be what it imported.
        unchanged = path.is_file() and path.stat().st_mtime < _STARTED
        source = path.read_text(encoding="utf-8-sig") if unchanged else None
    except (TypeError, OSError, UnicodeDecodeError):
        file = source = None
    module = sys.modules.get(getattr(function, "__module__", None) or "")
    if source is not None and getattr(module, name, None) is function:
        place = file if module is None or module.__name__ == "__main__" else module.__name__
        code = _code(str(Path(file or "").resolve()), source)
    else:
        place, name = IN_PYTHON, name.rpartition(".")[2]
        code = _code("", _own_source(function))
    reference = f"{place}:{name}"
    if _objects.get((reference, code), function) is not function:
        # Another function has this name and source: a closure, or one that was defined again.
        place, code = IN_PYTHON, _code("", _own_source(function))
        number = sum(known.startswith(f"{IN_PYTHON}:{name}") for known, _ in _objects)
        reference = f"{IN_PYTHON}:{name}-{number + 1}"
    trust(reference, code)
    if code.file:
        _remember(reference, code)
    _objects[reference, code] = function
    return Part(reference, function, code)


def load_part(reference: str, code: Code) -> Callable[..., Any]:
    """Import exactly this source, once, and return the part in it.

    Args:
        reference: The part's reference.
        code: Its source.

    Returns:
        The function or class.

    Raises:
        UserError: If the source is not trusted, does not match its hash, raises, or does not have
            the name.
    """
    key = (reference, code)
    if key not in _trusted:
        raise _unknown_code(reference, code)
    if key not in _objects:
        check_shareable({reference: code})
        _objects[key] = _attribute(_imported(reference, code), reference)
    return _objects[key]


def is_in_file(reference: str) -> bool:
    """True if another process can find a part: it has a name in a file.

    >>> is_in_file("./net.py:Net"), is_in_file("python:<lambda>")
    (True, False)
    """
    return not reference.startswith(f"{IN_PYTHON}:")


def check_shareable(code: Mapping[str, Code]) -> None:
    """Raise a `UserError` for a part without a file, which no other process can find."""
    for reference in code:
        if not is_in_file(reference):
            raise UserError(
                f"{reference} was typed into Python, where other processes cannot find it: put it "
                f"at the top of a file, and name it ./file.py:{short_name(reference)}"
            )


def trust(reference: str, code: Code) -> None:
    """Let a source run in this process, on the word of the user or the parent process.

    Args:
        reference: The part's reference.
        code: Its source.

    Raises:
        UserError: If the source does not match its hash.
    """
    _check_source(reference, code)
    _trusted.add((reference, code))


def _check_source(reference: str, code: Code) -> None:
    _check_printable(reference + code.file)
    if hashlib.sha256(code.source.encode()).hexdigest() != code.sha256:
        raise UserError(f"{reference}: its source does not match its SHA-256: get it again")


def _check_printable(name: str) -> None:
    if not name.isprintable():
        raise UserError(f"{name!r} has characters that cannot be printed: rename it")


def source_of(reference: str | None, code: Mapping[str, Code]) -> Code | None:
    """The stored source of a variant: None for one that is not a user's own part.

    Args:
        reference: The variant.
        code: A mapping from reference to source.

    Returns:
        The source.

    Raises:
        UserError: For a reference without a source, which only the user may look up, by typing it.
    """
    if reference is None or not is_reference(reference):
        return None
    if reference not in code:
        raise UserError(
            f"{reference} comes without its source: type its name, or get the run as it was written"
        )
    return code[reference]


def check_trusted(code: Mapping[str, Code]) -> None:
    """Raise a `UserError` unless every source may run in this process."""
    for reference, item in code.items():
        if not is_trusted(reference, item):
            raise _unknown_code(reference, item)


def is_trusted(reference: str, code: Code) -> bool:
    """True if a source may run in this process."""
    return (reference, code) in _trusted


def trust_stored(code: Mapping[str, Code], *, allow: bool | Callable[[str, Code], bool]) -> None:
    """Trust sources that came as data: those that the user ran before, and others if allowed.

    Args:
        code: A mapping from reference to source.
        allow: Whether the others may run too, or a function that decides for each.

    Raises:
        UserError: For a source that may not run.
    """
    for reference, item in code.items():
        _check_source(reference, item)
        if (reference, item) not in _objects:
            check_shareable({reference: item})
        if not is_trusted(reference, item) and _line(reference, item) not in _remembered():
            if not (allow(reference, item) if callable(allow) else allow):
                raise _unknown_code(reference, item)
            _remember(reference, item)
        trust(reference, item)


def _unknown_code(reference: str, code: Code) -> UserError:
    return UserError(
        f"{reference} is code that you have not run here before (sha256 {code.sha256[:12]}): read "
        f"it, then allow it with `aeoskit rerun RUN --allow-code`"
    )


def changed_since(code: Mapping[str, Code]) -> list[str]:
    """The references whose files have changed since, or no longer exist."""
    return [name for name, item in code.items() if item.file and not _is_same(item)]


def fault_in(error: BaseException, code: Mapping[str, Code]) -> UserError | None:
    """The error of a user's own part in one sentence: where in its source, and what.

    Args:
        error: An exception.
        code: A mapping from reference to source.

    Returns:
        The error; None for an exception that did not pass through any of these files.
    """
    files = {item.file for item in code.values() if item.file}
    frames = [x for x in traceback.extract_tb(error.__traceback__) if x.filename in files]
    if not frames:
        return None
    last = frames[-1]
    message = next((line.strip() for line in str(error).splitlines() if line.strip()), "")
    return UserError(
        f"{Path(last.filename).name}, line {last.lineno}, in {last.name}: "
        f"{type(error).__name__}: {message}"
    )


def keep_sources(folder: Path, code: Mapping[str, Code]) -> None:
    """Write the sources into `code/` of a run's folder, for reading only.

    Args:
        folder: The run's folder.
        code: A mapping from reference to source; a rerun uses the copy in the run's
            `pipeline.json`.
    """
    for reference, item in code.items():
        place = folder / source_name(reference, item)
        place.parent.mkdir(exist_ok=True)
        place.write_text(item.source, encoding="utf-8")


def source_name(reference: str, code: Code) -> str:
    """The file of a part's source, relative to the run's folder.

    >>> source_name("./net.py:Net", Code("/home/me/net.py", "0123456789", ""))
    'code/01234567-net.py'
    """
    name = Path(code.file).name if code.file else f"{short_name(reference)}.py"
    return f"code/{code.sha256[:8]}-{name}"


def registered(group: str) -> dict[str, str]:
    """The parts that installed packages register under a group of entry points.

    Args:
        group: `aeoskit.models`, for example.

    Returns:
        A mapping from name to reference.

    >>> registered("aeoskit.nothing")
    {}
    """
    return {name: item.value for name, item in _entries(group).items()}


@functools.cache
def _entries(group: str) -> dict[str, EntryPoint]:
    return {item.name: item for item in entry_points(group=group)}


def _is_same(code: Code) -> bool:
    try:
        return _read(Path(code.file)).sha256 == code.sha256
    except UserError:
        return False


def _code(file: str, source: str) -> Code:
    return Code(file, hashlib.sha256(source.encode()).hexdigest(), source)


def _read(path: Path) -> Code:
    try:
        return _code(str(path), path.read_text(encoding="utf-8-sig"))
    except (OSError, UnicodeDecodeError) as error:
        raise UserError(f"{path} cannot be read: {error}") from None


def _file(place: str, reference: str) -> Path:
    path = Path(place).expanduser().resolve()
    if path.is_file():
        return path
    near = nearest(path.name, (item.name for item in path.parent.glob("*.py")))
    guess = "" if near is None else f": did you mean {near!r}?"
    raise UserError(f"{reference}: there is no file {place!r}{guess}")


def _module(name: str, reference: str) -> Path:
    """The file of a module: an installed one, otherwise one in the current folder."""
    here = Path.cwd()
    with _without(here):
        found = _spec_file(name, reference)
    if found is not None:
        return found
    relative = name.replace(".", "/")
    for path in (here / f"{relative}.py", here / relative / "__init__.py"):
        if path.is_file():
            return path
    near = nearest(f"{name}.py", (item.name for item in here.glob("*.py")))
    guess = "" if near is None else f": did you mean {near.removesuffix('.py')!r}?"
    raise UserError(
        f"{reference}: no module {name!r} is installed, nor is there a {relative}.py in the "
        f"current folder{guess}"
    )


def _spec_file(name: str, reference: str) -> Path | None:
    try:
        spec = importlib.util.find_spec(name)
    except (ImportError, ValueError, AttributeError):
        return None
    if spec is None:
        return None
    if spec.origin is None or not spec.origin.endswith(".py"):
        raise UserError(f"{reference}: the module {name!r} has no Python source to store")
    return Path(spec.origin).resolve()


@contextmanager
def _without(folder: Path) -> Iterator[None]:
    """A context in which imports ignore this folder, so that installed modules come first."""
    before = sys.path
    named = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    # Python itself puts the folder first, as text or as nothing; who named it wants it.
    own = {"", *(text for text in (str(folder),) if text not in named)}
    sys.path = [item for item in before[:1] if item not in own] + [x for x in before[1:] if x]
    try:
        yield
    finally:
        sys.path = before


def _imported(reference: str, code: Code) -> types.ModuleType:
    """The module: the installed one if it has this source, otherwise one made from the source."""
    place = reference.rpartition(":")[0]
    try:
        if not place.endswith(".py") and "/" not in place:
            with _without(Path.cwd()):
                found = _spec_file(place, reference)
                if found is not None and _read(found).sha256 == code.sha256:
                    return importlib.import_module(place)
        return _execute(code)
    except UserError:
        raise
    except (Exception, SystemExit) as error:
        message = " ".join(str(error).split())
        fix = ""
        if isinstance(error, ImportError):
            fix = " (a part is one file: install what it imports, as with `pip install -e .`)"
        raise UserError(f"{reference}: {type(error).__name__}: {message}{fix}") from error


def module_name(code: Code) -> str:
    """The name of the module made from a source, which is not that of an installed one."""
    place = hashlib.sha256(f"{code.file}\0{code.sha256}".encode()).hexdigest()
    return f"{Path(code.file).stem}_{place[:16]}"


def _execute(code: Code) -> types.ModuleType:
    name = module_name(code)
    if name in sys.modules:
        return sys.modules[name]
    module = types.ModuleType(name)
    module.__file__ = code.file
    # Tracebacks and `inspect` show this source, even if the file has changed.
    linecache.cache[code.file] = (len(code.source), None, code.source.splitlines(True), code.file)
    sys.modules[name] = module
    try:
        exec(compile(code.source, code.file, "exec"), module.__dict__)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _attribute(module: types.ModuleType, reference: str) -> Any:
    found: Any = module
    for name in short_name(reference).split("."):
        if not hasattr(found, name):
            own = [
                key
                for key, value in vars(found).items()
                if callable(value)
                and not key.startswith("_")
                and getattr(value, "__module__", module.__name__) == module.__name__
            ]
            raise unknown("name", name, own, where=reference.rpartition(":")[0])
        found = getattr(found, name)
    if not callable(found):
        raise UserError(f"{reference} is a {type(found).__name__}: name a function or a class")
    return found


def _own_source(function: Callable[..., Any]) -> str:
    try:
        return inspect.getsource(function)
    except (TypeError, OSError):
        return repr(type(function))


def _list() -> Path:
    return cache_home() / "aeoskit" / "trusted-code"


def _line(reference: str, code: Code) -> str:
    # The file is `__file__` to the source, which may read what is beside it.
    return f"{code.sha256} {code.file} {short_name(reference)}"


def _remembered() -> set[str]:
    try:
        return set(_list().read_text().splitlines())
    except OSError:
        return set()


def _remember(reference: str, code: Code) -> None:
    """Add a line to the user's list of trusted sources; without it, a rerun asks."""
    if _line(reference, code) in _remembered():
        return
    try:
        _list().parent.mkdir(parents=True, exist_ok=True)
        with _list().open("a") as file:
            file.write(_line(reference, code) + "\n")
    except OSError:
        return
