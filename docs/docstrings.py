"""Teaches the site's generator two habits of ours: re-exports are public, examples are doctests."""

import re

import griffe

# A doctest goes on to the next empty line.
DOCTEST = re.compile(r"^(?P<indent> *)>>> .*(?:\n(?! *$).*)*", re.MULTILINE)


class PublicNames(griffe.Extension):
    """Marks what a package re-exports from its own rooms (`from ._x import Y as Y`) as public."""

    def on_package(self, *, pkg: griffe.Module, loader: griffe.GriffeLoader, **kwargs) -> None:
        """Runs once a top-level package is loaded, its subpackages included."""
        self._mark(pkg)

    def _mark(self, package: griffe.Module) -> None:
        for name, member in package.members.items():
            if member.is_alias:
                # By the path, since the target may not be loaded yet.
                home, _, _ = member.target_path.rpartition(".")
                if home.startswith(f"{package.path}.") and not name.startswith("_"):
                    member.public = True
            elif member.is_module and member.is_init_module:
                self._mark(member)


class FencedDoctests(griffe.Extension):
    """Fences doctests, which Markdown would read as quotations and links."""

    def on_instance(self, *, obj: griffe.Object, **kwargs) -> None:
        """Runs for every object as it is read."""
        if obj.docstring:
            text = re.sub(r"^Examples:$", "Example:", obj.docstring.value, flags=re.MULTILINE)
            obj.docstring.value = DOCTEST.sub(r"\g<indent>```pycon\n\g<0>\n\g<indent>```", text)
