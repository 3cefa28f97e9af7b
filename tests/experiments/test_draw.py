"""Which figure shows a record, without a run: datasets as runs leave them."""

from pathlib import Path
from typing import Any, get_args, get_type_hints

import numpy as np
import pytest
import xarray as xr

from aeoskit_experiments.execution import SilentListener
from aeoskit_experiments.execution._draw import draw, kind_of
from aeoskit_experiments.pipelines import Plot


def record(*swept: str, branches: tuple[str, ...] = ("main",)) -> xr.Dataset:
    dims = ("branch", *swept, "step")
    shape = (len(branches), *(2 for _ in swept), 5)
    names = ("loss", "ratio", "sharpness", "threshold", "learning_rate")
    data: dict[str, Any] = {name: (dims, np.ones(shape)) for name in names}
    data["equivalent_ratio"] = data["ratio"]
    coords: dict[str, Any] = {name: [0.1, 0.2] for name in swept}
    return xr.Dataset(data, {"branch": list(branches), "step": np.arange(5), **coords})


@pytest.mark.parametrize(
    ("dataset", "kind"),
    [
        (record("eps"), "epsilon"),
        (record("warmup"), "warmup"),
        (record("lr"), "edge"),
        (record("eps", "lr"), "edge"),
        (record("eps").drop_vars("sharpness"), "edge"),
        (record("eps", branches=("main", "frozen")), "edge"),
        (record(branches=("main", "frozen")), "advance"),
        (record(branches=("main", "frozen", "other")), "edge"),
        (record("eps").assign(multiplier=0.0), "multiplier"),
    ],
)
def test_what_fits(dataset: xr.Dataset, kind: str) -> None:
    assert kind_of(dataset, adaptive=True, sides=False) == kind
    assert kind_of(dataset, adaptive=True, sides=True) == "thresholds"


def test_a_raw_optimizer_has_no_ratio_to_draw() -> None:
    assert kind_of(record("eps"), adaptive=False, sides=False) == "edge"


class Heard(SilentListener):
    def __init__(self) -> None:
        self.notes: list[str] = []

    def noted(self, text: str) -> None:
        self.notes.append(text)


KINDS = [kind for kind in get_args(get_type_hints(Plot)["kind"]) if kind != "auto"]


@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_is_drawn(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A kind without a branch of its own would fall back on the edge."""
    from aeoskit import figures

    called = []
    for name in figures.__dict__:
        if name.endswith("_figure"):
            monkeypatch.setattr(figures, name, lambda *_, name=name, **__: called.append(name))
    monkeypatch.setattr(figures, "save", lambda _, path: [path])
    heard = Heard()
    runs = [{"optimizer": "adam"}] * 2
    assert draw(record("eps"), kind, runs, [], tmp_path, heard) == [tmp_path]
    assert called == [f"{kind.removesuffix('s') if kind == 'thresholds' else kind}_figure"]
    assert not heard.notes


def test_what_cannot_be_drawn_is_refused(tmp_path: Path) -> None:
    heard = Heard()
    assert draw(record(), "grid", [], [], tmp_path / "x", heard) == []
    assert heard.notes[0].startswith("no figure was drawn: ValueError: the dataset sweeps []")
