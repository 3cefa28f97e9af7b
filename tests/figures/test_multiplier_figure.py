from typing import Any

import numpy as np
import pytest
import xarray as xr

from aeoskit.figures import multiplier_figure

STEPS = np.arange(0, 100)
NAMES = ("GD", "Adam", "NAdam", "RMSProp", "Shampoo")


def record(runs: int = 5, every: int = 25, diverged: int | None = None) -> xr.Dataset:
    """Ratios that rise to the edge; the multiplier's is measured less often."""
    dims = ("branch", "transform", "step")
    ratio = np.stack([np.minimum(STEPS / 50, 1 + 0.01 * run) for run in range(runs)])
    equivalent = ratio + 0.02
    equivalent[:, STEPS % every != 0] = np.nan
    at = np.full((1, runs), -1)
    if diverged is not None:
        at[0, diverged] = 40
    return xr.Dataset(
        {
            "ratio": (dims, ratio[None]),
            "equivalent_ratio": (dims, equivalent[None]),
            "diverged_at": (dims[:2], at),
        },
        {"branch": ["main"], "transform": [f"t{run}" for run in range(runs)], "step": STEPS},
    )


def draw(figure: Any) -> Any:
    """A whole drawing, in which missing glyphs and failing layouts would warn."""
    figure.savefig("/dev/null", format="png")
    return figure


def titles(figure: Any) -> list[str]:
    return [axes.get_title(loc="left") for axes in figure.axes if axes.lines]


def test_each_run_has_a_panel_with_both_ratios_and_the_edge():
    figure = draw(multiplier_figure(record(), NAMES, "multiplier-edge"))
    assert titles(figure) == list(NAMES)
    for run, axes in enumerate(figure.axes[:5]):
        edge, by_eigenvalue, by_multiplier = axes.lines
        assert edge.get_ydata()[0] == 1.0
        assert edge.get_linestyle() == "--"
        assert len(by_eigenvalue.get_xdata()) == STEPS.size
        assert by_multiplier.get_xdata().tolist() == [0, 25, 50, 75]
        assert by_multiplier.get_linestyle() == "None"
        assert by_multiplier.get_ydata()[-1] == pytest.approx(1.02 + 0.01 * run)
        assert axes.get_ylim() == (0.0, 1.6)
    legend = figure.legends[0]
    assert [text.get_text() for text in legend.get_texts()] == [
        "λ₁(P⁻¹H) / threshold",
        "by the flip multiplier of the whole step",
        "the edge",
    ]
    assert legend.get_title().get_text() == "multiplier-edge"
    assert not any(legend.get_window_extent().overlaps(axes.bbox) for axes in figure.axes)
    assert figure.get_supylabel() == "ratio to the edge"


def test_the_largest_oscillating_modulus_is_a_line_of_its_own():
    metrics = record(2)
    modulus = xr.where(metrics["equivalent_ratio"].isnull(), np.nan, 1.004)
    figure = draw(multiplier_figure(metrics.assign(oscillation_modulus=modulus)))
    for axes in figure.axes[:2]:
        line = axes.lines[3]
        assert line.get_xdata().tolist() == [0, 25, 50, 75]
        assert set(line.get_ydata()) == {1.004}
        assert line.get_linestyle() == "-"
    labels = [text.get_text() for text in figure.legends[0].get_texts()]
    assert labels[2] == "largest oscillating multiplier, modulus"
    assert figure.get_supylabel() == "ratio to the edge, modulus"


def test_the_lowest_panel_of_each_column_has_the_steps():
    """Five runs in four columns: the last row has one panel."""
    panels = draw(multiplier_figure(record())).axes
    assert [axes.get_xlabel() for axes in panels[:5]] == ["", "step", "step", "step", "step"]
    assert not any(axes.axison for axes in panels[5:])


def test_runs_name_themselves():
    assert titles(draw(multiplier_figure(record(2)))) == ["t0", "t1"]


def test_a_run_that_diverged_says_so_and_ends_there():
    figure = draw(multiplier_figure(record(2, diverged=1), ["a", "b"]))
    assert titles(figure) == ["a", "b, diverged at 40"]
    ends = [max(line.get_xdata()) for line in figure.axes[1].lines[1:]]
    assert ends == [40, 25]


def test_without_an_eigenvalue_or_without_any_ratio():
    """A multiplier needs no P: where no eigenvalue was tracked, its dots stand alone."""
    alone = record(1).drop_vars("ratio")
    _, nothing, dots = draw(multiplier_figure(alone)).axes[0].lines
    assert (len(nothing.get_xdata()), len(dots.get_xdata())) == (0, 4)
    unknown = record(1)
    unknown["equivalent_ratio"] = unknown["equivalent_ratio"] * np.nan
    assert len(draw(multiplier_figure(unknown)).axes[0].lines[2].get_xdata()) == 0


def test_refusals():
    with pytest.raises(ValueError, match=r"needs 'equivalent_ratio': track flip_multiplier"):
        multiplier_figure(record().drop_vars("equivalent_ratio"))
    with pytest.raises(ValueError, match="labels has 2 names for 5 runs"):
        multiplier_figure(record(), ["a", "b"])
