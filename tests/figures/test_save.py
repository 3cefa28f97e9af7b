import pytest
from matplotlib.figure import Figure
from matplotlib.image import imread

from aeoskit.figures import save


def test_both_files_appear_whole_and_alike(tmp_path):
    figure = Figure(figsize=(2, 1))
    figure.subplots().plot([0, 1])
    png, pdf = save(figure, tmp_path / "edge.v1")
    assert (png.name, pdf.name) == ("edge.v1.png", "edge.v1.pdf")
    assert imread(png).shape[:2] == (200, 400)
    assert pdf.read_bytes().startswith(b"%PDF")
    assert pdf.read_bytes().rstrip().endswith(b"%%EOF")
    assert {path.name for path in tmp_path.iterdir()} == {"edge.v1.png", "edge.v1.pdf"}
    before = pdf.read_bytes()
    save(figure, tmp_path / "edge.v1")
    assert pdf.read_bytes() == before


def test_a_failed_save_leaves_the_old_files(tmp_path):
    save(Figure(figsize=(2, 1)), tmp_path / "edge")
    before = {path: path.read_bytes() for path in tmp_path.iterdir()}

    class Torn(Figure):
        def savefig(self, fname, **_):
            fname.write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        save(Torn(), tmp_path / "edge")
    assert {path: path.read_bytes() for path in tmp_path.iterdir()} == before
