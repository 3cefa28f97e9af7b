import itertools
from typing import Any

import pytest
from matplotlib.patches import Rectangle

from aeoskit.figures import Level, levels_figure


def level(group: str, label: str, value: float | None, **others: Any) -> Level:
    given = {
        "setting": "reference",
        "values": () if value is None else (value,),
        "low": 0.9,
        "high": 1.1,
        "verdict": "pass",
        **others,
    }
    return Level(group, label, value=value, **given)


def draw(figure: Any) -> Any:
    figure.savefig("/dev/null", format="png")
    return figure


def lines(axes: Any, label: str) -> list[Any]:
    return [line for line in axes.lines if line.get_label() == label]


def medians(axes: Any) -> list[tuple[str, float]]:
    """Each number: its sign and where it stands."""
    return [(line.get_marker(), line.get_xdata()[0]) for line in lines(axes, "_median")]


def words(figure: Any) -> list[str]:
    return [text.get_text() for text in figure.legends[0].get_texts()]


def test_settings_share_a_line_and_groups_are_apart():
    figure = draw(
        levels_figure(
            [
                level("E1", "a", 1.01, values=(0.95, 1.01, 1.08)),
                level("E1", "a", 0.98, setting="mnist", low=0.85),
                level("E1", "b", 1.0),
                level("E2", "b", 1.0),
            ]
        )
    )
    (axes,) = figure.axes
    assert [text.get_text() for text in axes.get_yticklabels()] == ["E1  a", "E1  b", "E2  b"]
    assert medians(axes) == [("o", 1.01), ("o", 0.98), ("o", 1.0), ("o", 1.0)]
    assert list(lines(axes, "_range")[0].get_xdata()) == [0.95, 1.08]
    # Each has its own bounds, in its own place.
    boxes = [patch.get_bbox() for patch in axes.patches if isinstance(patch, Rectangle)]
    assert [box.x0 for box in boxes] == [0.9, 0.85, 0.9, 0.9]
    assert all(box.x1 == pytest.approx(1.1) for box in boxes)
    places = [line.get_ydata()[0] for line in lines(axes, "_median")]
    for place, box in zip(places, boxes, strict=True):
        assert (box.y0 + box.y1) / 2 == pytest.approx(place)
    for before, after in itertools.pairwise(boxes):
        assert before.y1 < after.y0
    # One between E1 and E2, and none within them.
    (divider,) = lines(axes, "_divider")
    assert places[2] < divider.get_ydata()[0] < places[3]
    hues = [line.get_color() for line in lines(axes, "_median")]
    assert hues[0] == hues[2] == hues[3] != hues[1]
    assert words(figure) == ["reference", "mnist", "bounds"]


def test_a_sign_says_the_verdict_whatever_the_number():
    """The third seed may be within its bounds where two of three diverged."""
    figure = draw(
        levels_figure(
            [
                level("E1", "a", 1.0, verdict="fail"),
                level("E1", "b", 1.0, verdict="open"),
                level("E1", "c", None, verdict="fail"),
                level("E1", "d", 0.5, low=None),
            ]
        )
    )
    (axes,) = figure.axes
    assert medians(axes) == [("X", 1.0), ("o", 1.0), ("o", 0.5)]
    assert [line.get_markerfacecolor() == "white" for line in lines(axes, "_median")] == [
        False,
        True,
        False,
    ]
    assert [text.get_text() for text in axes.texts] == ["no number"]
    assert words(figure) == ["reference", "bounds", "failed", "not judged"]
    # No lower bound: shaded to the end of the panel.
    assert axes.patches[-1].get_bbox().x0 < axes.get_xlim()[0]


def test_values_outside_are_marked():
    figure = draw(
        levels_figure(
            [
                level("E1", "a", -0.5),
                level("E1", "b", 33.4),
                level("E1", "c", 1.0, values=(1.0, 40.0)),
            ]
        )
    )
    (axes,) = figure.axes
    assert medians(axes) == [("o", 0.0), ("o", 1.5), ("o", 1.0)]
    assert [text.get_text() for text in axes.texts] == ["-0.5", "33.4"]
    ends = [(line.get_marker(), line.get_xdata()[0]) for line in lines(axes, "_beyond")]
    assert ends == [("<", 0.0), (">", 1.5), (">", 1.5)]


@pytest.mark.parametrize("others", [{"value": float("nan")}, {"value": 1.0, "high": float("inf")}])
def test_what_cannot_be_drawn_is_refused(others: dict[str, Any]):
    with pytest.raises(ValueError, match=r"E1 a is (nan|inf): give finite"):
        levels_figure([level("E1", "a", **others)])
    with pytest.raises(ValueError, match="no levels"):
        levels_figure([])
