"""Runs the Python of the docs and the README, each page as one script in an empty folder."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").rglob("*.md"))]
BLOCK = re.compile(
    r"(?P<marker><!-- not run: (?P<reason>[^>]*) -->\s*)?"
    r"^```(?:python|py)\b[^\n]*\n(?P<code>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)


def _script(page: Path) -> str:
    """The page's blocks at their own line numbers, so that a failure points into the page."""
    text = page.read_text()
    script = ""
    for block in BLOCK.finditer(text):
        if block["marker"]:
            assert block["reason"].strip(), (
                f"{page.name}: a block is not run, and no reason is given"
            )
            continue
        line = text.count("\n", 0, block.start("code"))
        script += "\n" * (line - script.count("\n")) + block["code"]
    return script


@pytest.mark.parametrize(
    "page",
    [page for page in PAGES if _script(page).strip()],
    ids=lambda page: str(page.relative_to(ROOT)),
)
def test_page_runs(page: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.chdir(tmp_path)
    exec(compile(_script(page), page, "exec"), {"__name__": "__main__"})


def test_readme_shows_the_library():
    """The ten lines of the README are run by `test_page_runs`: they must not get lost."""
    script = _script(ROOT / "README.md")
    assert "preconditioned_sharpness(" in script
    assert "aeoskit_experiments" not in script


def test_links_lead_somewhere():
    """Relative links of the README; mkdocs checks those of the site."""
    links = re.findall(r"\]\((?!https?:|#)([^)#]+)", (ROOT / "README.md").read_text())
    links += re.findall(r'src="(?!https?:)([^"]+)"', (ROOT / "README.md").read_text())
    assert links
    assert not [link for link in links if not (ROOT / link).exists()]
