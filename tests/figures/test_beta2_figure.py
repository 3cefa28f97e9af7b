from typing import Any

import numpy as np
import pytest

from aeoskit.figures import beta2_figure

ROWS: list[dict[str, Any]] = [
    {"optimizer": "RMSProp", "beta2": 0.1, "ratio": 3.8, "zeta": 0.98},
    {"optimizer": "RMSProp", "beta2": 0.99, "ratio": 1.08, "zeta": 0.99},
    {"optimizer": "Adam", "beta2": 0.1, "ratio": None, "zeta": 0.92},
    {"optimizer": "Adam", "beta2": 0.99, "ratio": 1.0, "zeta": 0.97},
    {"optimizer": "GD", "beta2": None, "ratio": 1.05, "zeta": 0.99},
    {"optimizer": "momentum", "beta2": None, "ratio": 0.98, "zeta": None},
]


def drawn(rows: list[dict[str, Any]]) -> Any:
    figure = beta2_figure(rows, "e16-realized")
    figure.savefig("/dev/null", format="png")
    return figure


def line(axes: Any, name: str) -> Any:
    (found,) = [line for line in axes.lines if line.get_label() == name]
    return found


def test_a_line_an_optimizer_in_both_panels():
    figure = drawn(ROWS)
    ratio, zeta = figure.axes
    assert (ratio.get_yscale(), zeta.get_yscale()) == ("log", "linear")
    np.testing.assert_array_equal(line(ratio, "RMSProp").get_ydata(), [3.8, 1.08])
    np.testing.assert_allclose(line(ratio, "RMSProp").get_xdata(), [0.9, 0.01])
    np.testing.assert_array_equal(line(ratio, "Adam").get_ydata(), [np.nan, 1.0])
    np.testing.assert_array_equal(line(zeta, "Adam").get_ydata(), [0.92, 0.97])
    for axes in figure.axes:
        assert line(axes, "_edge").get_ydata()[0] == 1
        # β₂ grows to the right, and beyond it are those without one, apart from each other.
        (left, right), places = axes.get_xlim(), [x.get_text() for x in axes.get_xticklabels()]
        assert left > right
        assert places == ["0.1", "0.99", "none"]
        gd, momentum = (line(axes, name).get_xdata()[0] for name in ("GD", "momentum"))
        assert 0.01 > gd > momentum > right
    (shade,) = zeta.patches
    assert shade.get_y() == 0.8
    names = [text.get_text() for text in figure.legends[0].get_texts()]
    assert names == ["RMSProp", "Adam", "GD", "momentum", "at the edge"]


def test_many_optimizers_look_different():
    rows = [{**ROWS[4], "optimizer": f"optimizer {number}"} for number in range(14)]
    looks = {
        (x.get_color(), x.get_marker(), x.get_markerfacecolor())
        for x in drawn(rows).axes[0].lines
        if not str(x.get_label()).startswith("_")
    }
    assert len(looks) == 14
    ends = drawn([{**ROWS[0], "zeta": 1.4}, {**ROWS[1], "zeta": 0.1}]).axes[1].get_ylim()
    assert ends[0] < 0.1
    assert ends[1] > 1.4


def test_what_it_refuses():
    with pytest.raises(ValueError, match="there are no rows"):
        beta2_figure([])
    with pytest.raises(ValueError, match=r"beta2 is 1\.0: give a decay in"):
        beta2_figure([{**ROWS[0], "beta2": 1.0}])
    with pytest.raises(ValueError, match="a row has no beta2: this figure is one of ratios"):
        beta2_figure([{"optimizer": "Adam", "multiplier": -1.0}])
