from typing import Any

import numpy as np
import pytest

from aeoskit.figures import threshold_figure

ROWS = [
    {"optimizer": "gradient descent", "below": 1e-3, "above": 1e4, "live_ratio": 1.0},
    {"optimizer": "Adam", "below": 1e-30, "above": 1e25, "live_ratio": 0.97},
    {"optimizer": "Muon", "below": 0.0, "above": None, "live_ratio": None},
]


def draw(figure: Any) -> Any:
    """A whole drawing, in which missing glyphs and failing layouts would warn."""
    figure.savefig("/dev/null", format="png")
    return figure


def dots(axes: Any) -> list[Any]:
    return [line for line in axes.lines if line.get_marker() in ("o", "D", "s")]


def test_a_line_an_optimizer_from_above():
    figure = draw(threshold_figure(ROWS, "threshold-table"))
    losses, live = figure.axes
    assert [text.get_text() for text in losses.get_yticklabels()] == [
        "gradient descent",
        "Adam",
        "Muon",
    ]
    assert losses.get_yticks().tolist() == [2, 1, 0]
    assert losses.get_xscale() == "log"
    assert losses.get_xlabel() == "last loss over first, P frozen"
    assert live.get_xlabel() == "λ₁(P⁻¹H) / threshold, P live"
    below, above = dots(losses)
    # What fell below the axis stands at its end.
    assert below.get_xdata().tolist() == [1e-3, 1e-12, 1e-12]
    np.testing.assert_array_equal(above.get_xdata(), [1e4, 1e25, np.nan])
    np.testing.assert_array_equal(dots(live)[0].get_xdata(), [1.0, 0.97, np.nan])
    assert below.get_color() != above.get_color()
    legend = figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == [
        "below the threshold",
        "above the threshold",
        "P live",
    ]
    assert legend.get_title().get_text() == "threshold-table"


def test_both_panels_have_a_line_at_the_edge():
    for axes in draw(threshold_figure(ROWS)).axes:
        (edge,) = [line for line in axes.lines if line.get_linestyle() == "--"]
        assert edge.get_xdata() == [1.0, 1.0]
    assert axes.get_xlim()[0] == 0


def test_rows_without_any_number():
    row = {"optimizer": "Adam", "below": None, "above": None, "live_ratio": None}
    for axes in draw(threshold_figure([row])).axes:
        assert all(np.isnan(line.get_xdata()).all() for line in dots(axes))
    # Keys that are not there are numbers that are not there.
    draw(threshold_figure([{"optimizer": "Adam"}]))


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="there are no rows"):
        threshold_figure([])
