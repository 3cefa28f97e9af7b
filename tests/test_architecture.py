"""The shape of the house: who imports whom, what the library never does, what is documented."""

from __future__ import annotations

import ast
import importlib
import inspect
import pkgutil
import re
import subprocess
import sys
import tomllib
import types
from collections.abc import Iterable, Iterator
from enum import EnumMeta
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[1]
PACKAGES = {
    "aeoskit": ROOT / "aeoskit",
    "aeoskit_experiments": ROOT / "experiments" / "aeoskit_experiments",
    "aeoskit_cli": ROOT / "cli" / "aeoskit_cli",
}
MODULES = sorted(path for folder in PACKAGES.values() for path in folder.rglob("*.py"))
# Leaf by leaf, and no call from a compiled program back to the host (DESIGN.md, STYLE.md).
NEVER_IN_THE_LIBRARY = ("ravel_pytree", "pure_callback", "io_callback", "debug.callback")

# The rooms of the library; `aeoskit` itself re-exports from them.
LIBRARY = [
    "aeoskit",
    "aeoskit.sharding",
    "aeoskit.linalg",
    "aeoskit.linalg.extend",
    "aeoskit.objective",
    "aeoskit.optimizers",
    "aeoskit.stability",
    "aeoskit.probes",
    "aeoskit.trajectory",
    "aeoskit.record",
    "aeoskit.figures",
]


def _packages(name: str) -> Iterator[types.ModuleType]:
    """The package and those inside it: public names come from a package's `__init__`."""
    package = importlib.import_module(name)
    yield package
    for module in pkgutil.iter_modules(package.__path__, prefix=f"{name}."):
        if module.ispkg and not module.name.rpartition(".")[2].startswith("_"):
            yield from _packages(module.name)


def _public(package: types.ModuleType) -> Iterator[tuple[str, object]]:
    """What a package offers: `__all__`, or what it re-exports without an underscore."""
    names = getattr(package, "__all__", None)
    for name in dir(package):  # not vars: `aeoskit` loads its names when it is asked
        value = getattr(package, name)
        if names is not None and name not in names:
            continue
        if name.startswith("_") or inspect.ismodule(value):
            continue
        home = getattr(value, "__module__", None)
        if home is None or home.partition(".")[0] in PACKAGES:
            yield name, value


def _names() -> list[str]:
    return [
        f"{package.__name__}.{name}"
        for root in PACKAGES
        for package in _packages(root)
        for name, value in _public(package)
        if inspect.isclass(value) or callable(value)
    ]


def _documented(dotted: str) -> bool:
    package, _, name = dotted.rpartition(".")
    value = getattr(importlib.import_module(package), name)
    # Not inspect.getdoc: it would hand a class the words of its base.
    doc = value.__dict__.get("__doc__") if inspect.isclass(value) else value.__doc__
    # Python writes a signature where a dataclass says nothing.
    return bool(doc) and not doc.startswith(f"{name}(")


def _relative(path: Path) -> str:
    return str(path.relative_to(ROOT))


def test_imports_run_downward():
    """Holds the contracts of pyproject.toml, one for each arrow of DESIGN.md."""
    command = [sys.executable, "-c", "from importlinter.cli import lint_imports_command as c; c()"]
    done = subprocess.run(
        [*command, "--no-cache"], cwd=ROOT, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stdout + done.stderr


def _module(path: Path) -> str:
    """The dotted name of a file, that of the checkout for one that no package has."""
    for name, folder in PACKAGES.items():
        if folder in path.parents:
            parts = path.relative_to(folder).with_suffix("").parts
            return ".".join([name, *(part for part in parts if part != "__init__")])
    return _relative(path).removesuffix(".py").replace("/", ".")


def _imported(path: Path, module: str) -> Iterator[str]:
    """The dotted names that a file imports, those inside functions included."""
    package = module.split(".") if path.name == "__init__.py" else module.split(".")[:-1]
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package[: len(package) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from (f"{base}.{alias.name}" for alias in node.names)


def _tested(module: str) -> tuple[str, ...]:
    """The packages whose privates a test may read: those that its folder mirrors."""
    if not module.startswith("tests."):
        return ()
    folder = module.split(".")[1]
    # A command means what a pipeline means: the tests of pipelines are of both.
    applications = {
        "experiments": ("aeoskit_experiments.", "aeoskit_cli."),
        "cli": ("aeoskit_cli.",),
    }
    return applications.get(folder, (f"aeoskit.{folder}.",))


def _privates_of_others(module: str, imported: Iterable[str]) -> list[str]:
    """The imports of a module that are private to another package, or to another room of one.

    The folders of a room share its privates.
    """
    found = []
    for name in imported:
        owner = re.match(rf"({'|'.join(PACKAGES)})(\.[a-z]\w*)?(?=(\.[a-z]\w*)*\._[a-z])", name)
        if owner is None or f"{module}.".startswith(f"{owner[0]}."):
            continue
        if not f"{owner[0]}.".startswith(_tested(module)):
            found.append(f"{module}: {name}")
    return found


def test_privates_stay_in_their_rooms():
    folders = (ROOT / name for name in (".ci", "docs", "examples", "tests"))
    files = [*MODULES, *(path for folder in folders for path in folder.rglob("*.py"))]
    found = []
    for path in files:
        module = _module(path)
        found += _privates_of_others(module, _imported(path, module))
    assert not found


@pytest.mark.parametrize(
    ("module", "imported", "refused"),
    [
        ("aeoskit.probes._top", "aeoskit.linalg.solvers._lanczos.Lanczos", True),
        ("aeoskit.linalg._checks", "aeoskit.linalg.solvers._lanczos.Lanczos", False),
        ("aeoskit_cli._main", "aeoskit_experiments._errors.UserError", True),
        ("aeoskit_experiments.cache", "aeoskit_experiments._errors.UserError", False),
        ("aeoskit_experiments.cache", "aeoskit_experiments.catalog._where.find", True),
        ("examples.minimal", "aeoskit._public", True),
        ("examples.minimal", "aeoskit.linalg.extend.Start", False),
        ("tests.linalg.test_lanczos", "aeoskit.linalg.solvers._lanczos.Lanczos", False),
        ("tests.linalg.test_lanczos", "aeoskit.probes._top.solve_top", True),
    ],
)
def test_what_is_private_to_a_room(module: str, imported: str, refused: bool):
    assert bool(_privates_of_others(module, [imported])) == refused


@pytest.mark.parametrize("word", NEVER_IN_THE_LIBRARY)
def test_the_library_never_uses(word: str):
    users = [_relative(p) for p in MODULES if PACKAGES["aeoskit"] in p.parents]
    users = [name for name in users if word in (ROOT / name).read_text()]
    assert not users


def test_public_names_are_documented():
    undocumented = [dotted for dotted in _names() if not _documented(dotted)]
    assert not undocumented


def _section(doc: str, *titles: str) -> str | None:
    """The indented lines under a title of Google's form; None where there is no such title."""
    found = re.search(rf"^(?:{'|'.join(titles)}):\n((?:[ \t]+.*\n?|\n)+)", doc, re.MULTILINE)
    return found and found[1]


def _signature(value: Any) -> inspect.Signature | None:
    try:
        return inspect.signature(value)
    except (TypeError, ValueError):
        return None  # an enumeration's metaclass may have none


def _lacking(name: str, value: Any) -> list[str]:
    """What a docstring of a public function or final class lacks, in words."""
    doc = inspect.cleandoc(value.__doc__ or "") + "\n"
    lacks = ["Google's form"] if re.search(r"\*\*\w+:\*\*", doc) else []
    if inspect.isabstract(value):  # the contract is in the methods
        return [f"{name}: {lack}" for lack in lacks]
    signature = _signature(value)
    arguments = _section(doc, "Args", "Attributes") or ""
    # An enumeration's arguments are those of its machinery.
    parameters = {} if signature is None else signature.parameters
    if not isinstance(value, EnumMeta):
        for parameter in parameters:
            if not re.search(rf"^\s+\*{{0,2}}{parameter}\b.*:", arguments, re.MULTILINE):
                lacks.append(f"Args: {parameter}")
    if inspect.isfunction(value):
        returned = None if signature is None else signature.return_annotation
        if returned not in (None, "None") and not _section(doc, "Returns", "Yields"):
            lacks.append("Returns")
    if ">>>" not in (_section(doc, "Example", "Examples") or ""):
        lacks.append("Example")
    return [f"{name}: {lack}" for lack in lacks]


@pytest.mark.parametrize("package", LIBRARY)
def test_docstrings_are_whole(package: str):
    """Every argument, what is returned, and an example, where the site looks for them."""
    lacking = []
    for name, value in _public(importlib.import_module(package)):
        if callable(value):
            lacking += _lacking(name, value)
    assert not lacking


def _docstrings(path: Path) -> Iterator[tuple[str, str]]:
    """All docstrings of a module, private ones included, each with its name."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            doc = ast.get_docstring(node)
            if doc:
                yield getattr(node, "name", path.stem), doc


def test_docstrings_begin_with_what_a_thing_is_or_does():
    """The first word is a noun phrase or a verb, never a question."""
    questions = [
        f"{_relative(path)}: {name}: {doc.splitlines()[0]}"
        for path in MODULES
        for name, doc in _docstrings(path)
        if re.match(r"(What|How|Who|Whom|Whose|When|Whether|Where|Which|Why)\b", doc)
    ]
    assert not questions


def test_every_package_says_what_it_is():
    assert not [p.__name__ for root in PACKAGES for p in _packages(root) if not p.__doc__]


def test_the_version_stands_once():
    """The first release of the changelog is the version of the wheel, the citation, the README."""
    version = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["version"]
    changelog = (ROOT / "CHANGELOG.md").read_text()
    headings = re.findall(r"^## (.*)$", changelog, re.MULTILINE)
    assert headings[0] == "[Unreleased]"
    released = re.fullmatch(r"\[(.+)\] - (\d{4}-\d\d-\d\d)", headings[1])
    assert released
    assert released[1] == version
    citation = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {version}\ndate-released: {released[2]}\n" in citation
    short = ".".join(version.split(".")[:2])
    assert f"\nVersion {short}. " in (ROOT / "README.md").read_text()
    assert f"to {short}\n" in (ROOT / "docs" / "upgrading.md").read_text()


def test_a_part_of_a_grid_has_every_value(pytestconfig: pytest.Config):
    """Of the costly tests that are marked `part(n)`, at every change."""
    plugin: Any = pytestconfig.pluginmanager.get_plugin(str(ROOT / "tests" / "conftest.py"))
    for count, rows, columns in ((7, 7, 3), (12, 6, 6), (4, 3, 4), (3, 3, 3), (5, 5, 1)):
        grid = [{"row": i, "column": j} for i in range(rows) for j in range(columns)]
        kept = [grid[index] for index in plugin.part_of(count, grid)]
        assert len(kept) == count
        assert {case["row"] for case in kept} == {*range(rows)}
        assert {case["column"] for case in kept} == {*range(columns)}
    assert plugin.part_of(2, [{"name": name} for name in "abcd"]) == {0, 2}


def test_wheel_has_every_package():
    """A package that is not listed works in an editable install and is missing from the wheel."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    listed = project["tool"]["hatch"]["build"]["targets"]["wheel"]["packages"]
    assert sorted(listed) == sorted(_relative(folder) for folder in PACKAGES.values())
