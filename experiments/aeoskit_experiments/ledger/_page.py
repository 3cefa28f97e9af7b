"""The ledger as one self-contained HTML file, with style and figures."""

import base64
import mimetypes
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import jinja2
from PIL import Image

from aeoskit_experiments.ledger import _words
from aeoskit_experiments.ledger._claim import EXPERIMENTS, REFERENCE
from aeoskit_experiments.ledger._ledger import Ledger

_TEMPLATES = jinja2.Environment(
    loader=jinja2.FileSystemLoader(Path(__file__).parent),
    autoescape=True,
    undefined=jinja2.StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)


def html_page(ledger: Ledger, folder: Path) -> str:
    """The ledger as one HTML page that includes its figures.

    Args:
        ledger: The ledger.
        folder: Its folder, which has the figures.

    Returns:
        The page.
    """
    homes: dict[str, str] = {}
    for name in ledger.experiments:
        rows = [row for row in ledger.rows if row.experiment == name]
        for _, figure in _words.figures_of(ledger, rows):
            homes.setdefault(figure, name)
    return _TEMPLATES.get_template("_page.html").render(
        vars(_words),
        ledger=ledger,
        experiments=EXPERIMENTS,
        reference=REFERENCE,
        homes=homes,
        embedded=_embedded(folder),
    )


class _Picture(NamedTuple):
    url: str
    size: tuple[int, int] | None


def _embedded(folder: Path) -> Callable[[str], _Picture | None]:
    """The data URI of a figure below the folder; None if there is none."""

    def embed(figure: str) -> _Picture | None:
        path = folder / figure
        kind = mimetypes.guess_type(path)[0] or ""
        if not kind.startswith("image/") or not path.is_file():
            return None
        size = None
        if kind == "image/png":
            with Image.open(path) as image:
                # Figures have 200 dots per inch: half the pixels are the intended size.
                size = (image.width // 2, image.height // 2)
        return _Picture(f"data:{kind};base64,{base64.b64encode(path.read_bytes()).decode()}", size)

    return embed
