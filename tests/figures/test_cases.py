from typing import Any

import numpy as np
import pytest
import xarray as xr
from matplotlib.colors import to_hex

from aeoskit.figures import cases_figure, spread_figure


def run(end: float = 1.0, steps: int = 200, every: int = 10) -> xr.Dataset:
    """A ratio that rises to an end in a hundred steps."""
    at = np.arange(0, steps, every)
    return xr.Dataset(
        {"ratio": (("branch", "step"), end * np.minimum(at / 100, 1)[None])},
        {"branch": ["main"], "step": at},
    )


def draw(figure: Any) -> Any:
    figure.savefig("/dev/null", format="png")
    return figure


def lines(axes: Any, label: str) -> list[Any]:
    return [line for line in axes.lines if line.get_label() == label]


def titles(figure: Any) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes]


def test_each_case_has_a_panel_on_one_scale():
    names = ["Adam", "NAdam", "RMSProp", "AMSGrad", "Padam", "Adagrad", "GD"]
    figure = draw(
        cases_figure({name: run(steps=200 + 50 * at) for at, name in enumerate(names)}, "e05")
    )
    assert titles(figure) == names
    for at, axes in enumerate(figure.axes):
        assert axes.get_ylim() == (0, 1.6)
        assert axes.get_xlim()[1] == pytest.approx(190 + 50 * at, rel=0.03)
        (edge,) = lines(axes, "_threshold")
        assert (set(edge.get_ydata()), edge.get_linestyle()) == ({1}, "--")
        measured, bold = axes.lines[1:]
        assert bold.get_linewidth() > 2 * measured.get_linewidth()
        # The median is centered, and does not lag behind a curve that rises.
        assert (measured.get_ydata()[5], bold.get_ydata()[5]) == pytest.approx((0.5, 0.5))
    # Seven in rows of at most five: four and three.
    tops = [axes.get_position().y1 for axes in figure.axes]
    assert len({round(top, 3) for top in tops[:4]}) == 1
    assert tops[4] < tops[3]
    assert (figure.get_supxlabel(), figure.get_supylabel()) == ("step", "λ₁(P⁻¹H) / threshold")
    legend = figure.legends[0]
    assert legend.get_title().get_text() == "e05"
    assert not any(legend.get_window_extent().overlaps(axes.bbox) for axes in figure.axes)


def test_the_ratio_of_a_raw_optimizer_and_a_case_without_any():
    data = run()
    raw = xr.Dataset({"sharpness": 19 * data["ratio"], "threshold": 0 * data["ratio"] + 19.0})
    nothing = data[[]].assign(loss=0 * data["ratio"])
    figure = draw(cases_figure({"GD": raw, "none": nothing}))
    np.testing.assert_allclose(
        lines(figure.axes[0], "_measured")[0].get_ydata(), data["ratio"].values[0]
    )
    assert [text.get_text() for text in figure.axes[1].texts] == ["not measured"]


def test_sweeps_branches_and_divergence():
    swept = xr.concat([run(1.0), run(0.4)], "lr").assign_coords(lr=[1e-3, 3e-3])
    swept["diverged_at"] = (("branch", "lr"), [[-1, 120]])
    alone = run()
    alone["diverged_at"] = (("branch",), [120])
    branched = xr.concat([run(0.5), run(1.5)], "branch").assign_coords(branch=["frozen", "main"])
    figure = draw(cases_figure({"Padam": swept, "Adam": alone, "both": branched}))
    assert titles(figure) == ["Padam, 1 of 2 diverged", "Adam, diverged at 120", "both"]
    within = figure.axes[0].get_legend()
    assert [text.get_text() for text in within.get_texts()] == ["η = 1e-3", "η = 3e-3"]
    drawn = [lines(figure.axes[0], label)[0] for label in ("η = 1e-3", "η = 3e-3")]
    assert len({to_hex(line.get_color()) for line in drawn}) == 2
    assert max(drawn[1].get_xdata()) == 120
    assert len(lines(figure.axes[2], "_measured")) == 1
    assert lines(figure.axes[2], "_measured")[0].get_ydata()[-1] == 1.5


def test_the_spread_over_seeds():
    seeds = [run(1.0), run(0.9), run(1.2)]
    figure = draw(spread_figure({"Adam": seeds, "GD": [run(0.8)]}, "seeds"))
    adam, gd = figure.axes
    assert titles(figure) == ["Adam", "GD"]
    (middle,) = lines(adam, "median")
    assert middle.get_ydata()[-1] == pytest.approx(1.0)
    corners = adam.collections[0].get_paths()[0].vertices
    late = corners[corners[:, 0] == 190][:, 1]
    assert (late.min(), late.max()) == pytest.approx((0.9, 1.2))
    assert lines(gd, "median")[0].get_ydata()[-1] == pytest.approx(0.8)


def test_seeds_measured_at_other_steps_or_ended_early():
    seeds = [run(1.0), run(0.8, every=15), run(1.2, steps=150)]
    seeds[2]["diverged_at"] = (("branch",), [120])
    axes = draw(spread_figure({"Adam": seeds})).axes[0]
    assert axes.get_title(loc="left") == "Adam, 1 of 3 diverged"
    (middle,) = lines(axes, "median")
    ended = dict(zip(middle.get_xdata(), middle.get_ydata(), strict=True))
    assert np.isfinite(middle.get_ydata()).all()
    assert ended[120] == pytest.approx(1.0)
    # Beyond its end a run counts no more: of two the median is between them.
    assert ended[180] == pytest.approx(0.9)


def test_no_cases():
    for figure in (cases_figure, spread_figure):
        with pytest.raises(ValueError, match="no cases"):
            figure({})
