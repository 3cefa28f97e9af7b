from typing import Any

import pytest
from matplotlib.patches import Rectangle

from aeoskit.figures import Level, levels_figure


def level(group: str, label: str, value: float, **others: Any) -> Level:
    given = {"setting": "reference", "values": (value,), "low": 0.9, "high": 1.1, **others}
    return Level(group, label, value=value, **given)


def draw(figure: Any) -> Any:
    figure.savefig("/dev/null", format="png")
    return figure


def markers(axes: Any) -> list[tuple[str, float, float]]:
    """Each number: its sign and where it stands."""
    return [
        (line.get_marker(), line.get_xdata()[0], line.get_ydata()[0])
        for line in axes.lines
        if line.get_marker() != "None"
    ]


def test_settings_share_a_line_and_groups_are_apart():
    figure = draw(
        levels_figure(
            [
                level("E1", "a", 1.01, values=(0.95, 1.01, 1.08)),
                level("E1", "a", 0.98, setting="mnist", low=0.85),
                level("E2", "b", 1.0),
            ]
        )
    )
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["E1  a", "E2  b"]
    assert markers(axes) == [("o", 1.01, -0.25), ("o", 0.98, 0.25), ("o", 1.0, 1.0)]
    ranges = [list(line.get_xdata()) for line in axes.lines if len(line.get_xdata()) == 2]
    assert [0.95, 1.08] in ranges
    # The widest bounds of a line.
    boxes = [patch.get_bbox() for patch in axes.patches if isinstance(patch, Rectangle)]
    assert [(box.x0, pytest.approx(box.x1)) for box in boxes] == [(0.85, 1.1), (0.9, 1.1)]
    said = [text.get_text() for text in figure.legends[0].get_texts()]
    assert said == ["reference", "mnist", "bounds"]


def test_a_number_outside_is_a_cross_and_one_far_outside_says_itself():
    figure = draw(levels_figure([level("E1", "a", 0.7), level("E1", "b", 33.4, values=(30.0,))]))
    (axes,) = figure.axes
    assert markers(axes) == [("X", 0.7, 0.0), ("X", 1.5, 1.0)]
    assert [text.get_text() for text in axes.texts] == ["33.4"]
    assert "outside" in [text.get_text() for text in figure.legends[0].get_texts()]


@pytest.mark.parametrize(
    "others", [{"value": float("nan")}, {"value": 1.0, "values": (float("inf"),)}]
)
def test_what_cannot_be_drawn_is_said(others: dict[str, Any]):
    with pytest.raises(ValueError, match=r"E1 a is (nan|inf): give finite"):
        levels_figure([level("E1", "a", **others)])
    with pytest.raises(ValueError, match="no levels"):
        levels_figure([])
