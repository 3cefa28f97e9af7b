"""Writes constraints.txt: the versions in this environment of what aeoskit and its extras need.

Run it in an environment where the tests pass: `python requirements/freeze.py`.
"""

from importlib import metadata
from pathlib import Path

from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

HEADER = """\
# The versions that the tests ran with: used by `make` and .ci/run, not by users' installs.
# Written by requirements/freeze.py; the same file serves Python 3.11, 3.12 and 3.13.
"""


def needed(root: str) -> dict[str, str]:
    """Name and version of everything installed here that `root` (with extras) leads to."""
    versions: dict[str, str] = {}
    seen: set[tuple[str, str]] = set()
    todo = [Requirement(root)]
    while todo:
        requirement = todo.pop()
        name = canonicalize_name(requirement.name)
        try:
            distribution = metadata.distribution(name)
        except metadata.PackageNotFoundError:
            continue  # another Python's or platform's
        versions[name] = distribution.version
        for extra in {"", *requirement.extras}:
            if (name, extra) in seen:
                continue
            seen.add((name, extra))
            inner = map(Requirement, distribution.requires or ())
            todo += [
                one for one in inner if not one.marker or one.marker.evaluate({"extra": extra})
            ]
    del versions[canonicalize_name(Requirement(root).name)]
    return versions


# The TPU compiler has an environment of its own (.ci/plan-check): 0.7 GB that nothing else needs.
ELSEWHERE = {"libtpu": "0.0.42.1"}


if __name__ == "__main__":
    versions = ELSEWHERE | needed("aeoskit[dev]")
    lines = [f"{name}=={version}\n" for name, version in sorted(versions.items())]
    Path(__file__).with_name("constraints.txt").write_text(HEADER + "".join(lines))
